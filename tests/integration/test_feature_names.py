"""The dictionary of feature names in a real Redis: bounded, read back, filled by a trainer."""

import pytest
from workbench import ctr

from ctr.events import feature_key
from ctr.store import connect, names
from workers.lifecycle import ExitCode


@pytest.fixture
def client(redis_url):
    with connect(redis_url) as opened:
        yield opened


def test_what_was_written_is_read_and_the_rest_has_no_name(client):
    assert names.read(client, "ads@1", [1, 2]) == {}
    assert names.write(client, "ads@1", {2**64 - 1: "user=é", 70_000: "ad=7"}, max_names=100) == 0
    assert names.read(client, "ads@1", [70_000, 5, 2**64 - 1]) == {70_000: "ad=7", 2**64 - 1: "user=é"}
    assert names.read(client, "ads@2", [70_000]) == {}
    assert names.write(client, "ads@1", {}, max_names=100) == 0


def test_the_bound_holds_and_others_make_room(client):
    everything = {70_000 + i: f"user={i}" for i in range(5000)}
    for begin in range(0, 5000, 500):
        part = dict(list(everything.items())[begin : begin + 500])
        gone = names.write(client, "ads@1", part, max_names=1280)
        held = client.hlen(names.names_key("ads@1"))
        assert held <= 1280
        assert held == 1280 - 1280 // 64 or gone == 0
    found = names.read(client, "ads@1", everything)
    assert found.items() <= everything.items()
    assert len(found) == held
    assert len({key // 500 for key in found}) > 5, "those that leave are drawn at random, not the oldest or the newest"


def test_a_long_name_is_cut_between_characters(client):
    names.write(client, "ads@1", {70_000: "é" * 1000, 70_001: "x" * 256}, max_names=10)
    found = names.read(client, "ads@1", [70_000, 70_001])
    assert found[70_001] == "x" * 256
    assert found[70_000] == "é" * 126 + " ..."
    assert len(found[70_000].encode()) <= names.NAME_BYTES


def test_a_trainer_fills_it(redis_url, client, tmp_path):
    spec, data = tmp_path / "ads.toml", tmp_path / "events.jsonl"
    spec.write_text('name = "ads"\nfields = [{ name = "user" }]\n')
    data.write_text("".join(f'{{"label": 1, "user": {i % 50}}}\n' for i in range(2000)))
    arguments = ("train", spec, "--from", data, "--redis", redis_url, "--create", "--names", 1)
    assert ctr(*arguments).returncode == ExitCode.OK
    found = names.read(client, "ads@1", [feature_key("user", i) for i in range(50)])
    assert found == {feature_key("user", i): f"user={i}" for i in range(50)}
    assert client.hlen(names.names_key("ads@1")) == 50
