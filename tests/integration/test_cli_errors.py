"""What a new user gets wrong: one clear line and the documented exit code each, never a traceback."""

import socket

import pytest
from workbench import ctr

from ctr import spec as specification
from ctr.errors import ModelMismatchError
from ctr.store import connect, create_model, open_model
from workers.lifecycle import ExitCode

TOML = 'name = "ads"\nfields = [{ name = "user" }]\n'


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "ads.toml"
    path.write_text(TOML)
    return path


@pytest.fixture
def events(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"user": "u", "label": 1}\n')
    return path


def refused(done, code, *said):
    """One line, with everything that must be said, and the exit code."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("ctr: ")
    for words in said:
        assert words in lines[0]


NOBODY = "127.0.0.1:1"


def test_nobody_answers_at_the_redis_url(spec, events):
    for arguments in (("train", spec, "--from", events), ("serve", "ads", "--listen", "127.0.0.1:0")):
        refused(ctr(*arguments, "--redis", f"redis://{NOBODY}/0"), ExitCode.UNAVAILABLE, NOBODY, "does not answer")


def test_the_redis_url_cannot_be_read(spec, events):
    refused(ctr("train", spec, "--from", events, "--redis", "localhost"), ExitCode.SETTING, "localhost", "redis://")


@pytest.mark.parametrize("url", [
    "redis://[::1", "redis://u:tiger@[::1", f"redis://{NOBODY}/0?password=tiger", f"redis://u:ti%2Fger@{NOBODY}/0",
    f"redis+sentinel://{NOBODY}/ads?sentinel_password=tiger", f"redis+cluster://:tiger@{NOBODY}",
])  # fmt: skip
def test_a_bad_redis_url_is_one_line_without_its_password(spec, events, url):
    code = ExitCode.SETTING if "[" in url else ExitCode.UNAVAILABLE
    done = ctr("train", spec, "--from", events, "--redis", url)
    refused(done, code, "redis")
    assert "tiger" not in done.stderr + done.stdout
    assert "ger@" not in done.stderr + done.stdout


@pytest.mark.parametrize("garbage", [
    b"", b"\xff\xfe", b"[]", b"{}", b'{"format": "x"}', b'{"format": 1, "shards": 0, "spec": {}}',
    b'{"format": 1, "shards": 1, "spec": 7}', b'{"format": 1, "shards": 1, "spec": {"name": "ads"}}',
])  # fmt: skip
def test_a_stored_specification_that_is_garbage(redis_url, spec, events, garbage):
    with connect(redis_url) as client:
        client.set("ctr:{ads@1}:spec", garbage)
        client.set("ctr:{ads}:live", "1")
        with pytest.raises(ModelMismatchError, match=r"ctr:\{ads@1\}:spec.*"):
            open_model(client, specification.read(spec), create=True)
    if garbage in (b"[]", b"\xff\xfe"):
        done = ctr("train", spec, "--from", events, "--redis", redis_url)
        refused(done, ExitCode.MODEL, "ctr:{ads@1}:spec", "restore")


def test_no_broker_answers(redis_url, spec, events):
    refused(
        ctr("train", spec, "--kafka", NOBODY, "--topic", "t", "--redis", redis_url, "--create"),
        ExitCode.UNAVAILABLE, NOBODY, "no Kafka broker",
    )  # fmt: skip
    for arguments in (("replay", events, "--topic", "t"), ("simulate", "--topic", "t")):
        refused(ctr(*arguments, "--kafka", NOBODY), ExitCode.UNAVAILABLE, NOBODY, "no Kafka broker")


def test_the_topic_does_not_exist(kafka, redis_url, spec):
    refused(
        ctr("train", spec, "--kafka", kafka.bootstrap, "--topic", "nowhere", "--redis", redis_url, "--create"),
        ExitCode.SETTING, "--topic", "nowhere",
    )  # fmt: skip


def test_the_port_is_occupied(redis_url, spec, events):
    with connect(redis_url) as client:
        create_model(client, specification.parse(TOML))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        for arguments in (("train", spec, "--from", events), ("serve", "ads")):
            refused(ctr(*arguments, "--redis", redis_url, "--listen", listen), ExitCode.PORT, listen, "in use")


def test_the_model_is_not_there(redis_url, spec, events):
    refused(ctr("serve", "ads", "--redis", redis_url, "--listen", "127.0.0.1:0"), ExitCode.MODEL, "no model 'ads'")
    refused(ctr("train", spec, "--from", events, "--redis", redis_url), ExitCode.MODEL, "ads@1", "--create")


def test_another_specification(redis_url, spec, events):
    assert ctr("train", spec, "--from", events, "--redis", redis_url, "--create").returncode == ExitCode.OK
    spec.write_text(TOML + "[model]\nk = 8\n")
    refused(ctr("train", spec, "--from", events, "--redis", redis_url), ExitCode.MODEL, "model.k: 4 -> 8")


def test_a_wrong_specification(tmp_path, events):
    path = tmp_path / "wrong.toml"
    path.write_text(TOML + "[model]\nk = 99\n")
    for arguments in (("train", path, "--from", events), ("check", path, events)):
        refused(ctr(*arguments), ExitCode.SETTING, "model.k = 99", "<= 32")
    path.write_text(TOML + "[model]\ntype = 'gbdt'\n")
    refused(ctr("train", path, "--from", events), ExitCode.SETTING, "model.type = 'gbdt'", "ffm")
    path.write_text("name = = 1")
    refused(ctr("train", path, "--from", events), ExitCode.SETTING, str(path), "line 1")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--from"),
        (("--from", "nowhere"), "--from = "),
        (("--kafka", NOBODY), "--topic"),
        (("--from", "SELF", "--start", "latest"), "--start = 'latest'"),
        (("--kafka", NOBODY, "--topic", "t", "--start", "soon"), "--start = 'soon'"),
        (("--from", "SELF", "--listen", "nonsense"), "--listen = 'nonsense'"),
        (("--from", "SELF", "--dead-letters", "/nowhere/x"), "--dead-letters = "),
        (("--kafka", NOBODY, "--topic", "t", "--follow"), "--follow = "),
        (("--kafka", NOBODY, "--topic", "t", "--from", "SELF"), "--from = "),
        (("--kafka", NOBODY, "--topic", "t", "--dead-letters", "SELF"), "--dead-letters = "),
    ],
)
def test_settings_that_cannot_be_used(redis_url, spec, events, arguments, said):
    given = [events if argument == "SELF" else argument for argument in arguments]
    refused(ctr("train", spec, *given, "--redis", redis_url, "--create"), ExitCode.SETTING, said)


def test_the_wrong_topic_is_not_poured_into_dead_letters(redis_url, spec, tmp_path):
    path = tmp_path / "other.jsonl"
    path.write_text('{"price": 3}\n' * 5000)
    refused(
        ctr("train", spec, "--from", path, "--redis", redis_url, "--create"),
        ExitCode.REFUSED, "not a good one among them", "label", "ctr check",
    )  # fmt: skip
    assert path.with_name("other.jsonl.dlq").read_text() == ""
    with connect(redis_url) as client:
        assert client.hget("ctr:{ads@1:0}:meta", f"offset:{path}") is None


@pytest.mark.parametrize(
    "arguments", [("train",), ("train", "nowhere.toml"), ("serve", "ads", "--frm"), ("serve",), ("trian",)]
)
def test_wrong_usage_is_clicks_business(arguments):
    done = ctr(*arguments)
    assert done.returncode == ExitCode.USAGE
    assert "Usage:" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_ends_with_examples():
    for command in ("train", "serve", "explain", "check", "simulate", "replay"):
        done = ctr(command, "--help")
        assert done.returncode == ExitCode.OK
        assert f"ctr {command} " in done.stdout.split("Examples:")[1]
