"""`ctr skew` on real models: training and serving agree, and where they do not, it says so."""

import re

import numpy as np
import pytest
from workbench import SPEC, ctr, key_of, market_lines, post, scorer

from ctr import spec as specification
from ctr.events import Messages, open_reader
from ctr.store import connect, read_model
from workers.skew import Skew, compare_keys

pytestmark = pytest.mark.redis
EVENTS = 2000


@pytest.fixture
def trained(redis_url, tmp_path):
    """A model in Redis, its trainer gone, and the file of its events."""
    log, spec = tmp_path / "events.jsonl", tmp_path / "ads.toml"
    log.write_bytes(b"\n".join([*market_lines(EVENTS), b"no event", b""]))
    spec.write_text(SPEC)
    done = ctr("train", spec, "--create", "--from", log, "--redis", redis_url)
    assert done.returncode == 0, done.stderr
    return log


def test_the_same_events_give_the_same_keys_and_probabilities(redis_url, trained, tmp_path):
    worker = scorer(tmp_path, "ads", "--redis", redis_url, "--preload", 0)  # cold, with the deadline of 50 ms
    worker.start()
    for more in (("--scorer", worker.address), ()):
        done = ctr("skew", "ads", trained, "--redis", redis_url, *more)
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(rf"features, all fields +{EVENTS:,} +0\n", done.stdout)
        assert re.search(rf"probabilities, by more than 1e-06 +{EVENTS:,} +0\n", done.stdout)
        assert "1 events cannot be read" in done.stdout
    worker.stop()


def test_a_server_with_another_row_is_found(redis_url, trained, tmp_path):
    worker = scorer(tmp_path, "ads", "--redis", redis_url, "--deadline", 5)
    worker.start()
    post(f"{worker.address}/v1/models/ads:predict", {"instances": [{"device": "phone"}]})  # held from now on
    with connect(redis_url) as client:  # written past the protocol: no scorer is told
        name = key_of("device", "phone").to_bytes(8, "little")
        (keys,) = (keys for keys in read_model(client, "ads").keys if client.hexists(keys.rows, name))
        row = bytearray(client.hget(keys.rows, name))
        weight = 4 + 4 * 4 * row[0]  # the head's first lane, as `workbench.learned_counts` finds its second
        row[weight : weight + 4] = np.float32(1.5).tobytes()
        client.hset(keys.rows, name, bytes(row))
    done = ctr("skew", "ads", trained, "--redis", redis_url, "--scorer", worker.address)
    worker.stop()
    assert done.returncode == 5, done.stdout + done.stderr
    phones = sum(b'"device":"phone"' in line.replace(b" ", b"") for line in market_lines(EVENTS))
    assert re.search(rf"probabilities, by more than 1e-06 +{EVENTS:,} +{phones:,}\n", done.stdout), done.stdout
    assert "is it up to date?" in done.stdout


def test_a_field_read_in_another_way_is_found():
    line = b'{"label":1,"site":"s","age":31}'
    at = np.array([0])
    fields = 'name = "ads"\nfields = [{name = "site"}, {name = "age", transform = "bins", edges = [%s]}]'
    learned, served = (specification.parse(fields % edges) for edges in ("20, 40", "20, 30"))
    reader = open_reader(learned)
    batch, _ = reader.read(Messages(line, at, at + len(line), at.astype(np.int32), at, at + 2e9))
    for spec, expected in ((learned, {}), (served, {"age": 1})):
        found = Skew()
        compare_keys(spec, batch, [reader.parse(line)], found)
        assert dict(found.fields) == expected
        assert found.found == bool(expected)
    assert found.example.startswith("age: training has ")
    assert found.example.count(" x 1") == 2


def test_a_clock_in_the_specification_needs_a_scorer_of_this_process(redis_url, tmp_path):
    log, spec = tmp_path / "events.jsonl", tmp_path / "ads.toml"
    log.write_bytes(b"\n".join([*market_lines(50), b""]))
    spec.write_text(SPEC.replace('{ name = "user" }', '{ name = "user" }, { name = "h", transform = "hour" }'))
    assert ctr("train", spec, "--create", "--from", log, "--redis", redis_url).returncode == 0
    done = ctr("skew", "ads", log, "--redis", redis_url)
    assert done.returncode == 0, done.stdout + done.stderr
    done = ctr("skew", "ads", log, "--redis", redis_url, "--scorer", "http://127.0.0.1:1")
    assert done.returncode == 3
    assert "fields read the clock" in done.stderr
