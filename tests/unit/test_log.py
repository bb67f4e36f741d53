"""One event a line, not too many of them, each with its worker, and no secret in any."""

import json
import subprocess
import sys

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from ctr import log

SECRETS = ("s3same", "abc.DEF-123", "tok_en/9=")


@pytest.mark.parametrize(
    "text",
    [
        "redis://:{}@10.0.0.1:6379/0 does not answer",
        "rediss+sentinel://me:{}@h1:1,h2:2/main/0",
        "https://{}:x@bucket/path",
        "GET /v1?token={}&n=1",
        "authorization: Bearer {}",
        "Authorization: Basic {} was refused",
        "password = '{}'",
        '{{"password": "{}", "user": "me"}}',
        "CTR_TOKEN={} ctr serve ads",
        "aws_secret: {}",
        "api-key={}, next",
    ],
)
@pytest.mark.parametrize("secret", SECRETS)
def test_secrets_in_a_text_are_blotted_out(text, secret):
    said = log.redacted(text.format(secret))
    assert secret not in said
    assert "***" in said


@given(st.text(st.characters(codec="ascii", exclude_characters=" \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\"'<>"), min_size=8))
def test_no_password_of_a_url_survives(password):
    """Not even one that should have been percent-encoded: with an @ or a / in it."""
    assert password not in log.redacted(f"cannot reach redis://me:{password}@redis.example:6379/0, next try in 5 s")


@pytest.mark.parametrize(
    "text",
    [
        "redis://10.0.0.1:6379/0 does not answer",
        "the lease token of another trainer",
        "ads:3: offset 17 is to be learned next, the log begins at 20",
        "mail to me@example.com",
        "partition ads:0, tokens: none were spent",
    ],
)
def test_what_is_no_secret_stays(text):
    assert log.redacted(text) == text


def test_a_burst_then_a_line_a_second_with_the_number_left_out():
    now = [0.0]
    limiter = log.Limiter(per_s=1.0, burst=10, clock=lambda: now[0])
    admitted = [limiter.admit("refused") for _ in range(100)]
    assert admitted == [0] * 10 + [None] * 90
    now[0] = 1.0
    assert [limiter.admit("refused"), limiter.admit("refused")] == [90, None]
    assert limiter.admit("another") == 0
    now[0] = 1000.0
    assert [limiter.admit("refused") for _ in range(12)] == [1] + [0] * 9 + [None, None]


def test_no_more_than_burst_and_rate_in_any_stretch_of_time():
    now, passed = [0.0], []
    limiter = log.Limiter(per_s=2.0, burst=3, clock=lambda: now[0])
    for step in range(5000):
        now[0] = step * 0.01
        if limiter.admit("e") is not None:
            passed.append(now[0])
    for begin in range(0, 45, 5):
        assert sum(begin <= at < begin + 5 for at in passed) <= 3 + 2.0 * 5
    assert len(passed) >= 2.0 * 49


def test_many_different_events_do_not_fill_the_memory():
    limiter = log.Limiter()
    for number in range(5000):
        assert limiter.admit(number) == 0
    assert len(limiter._buckets) <= 1000


def test_events_of_different_models_do_not_silence_each_other():
    limiter = log.Limiter(burst=1, clock=lambda: 0.0)
    assert limiter(None, "info", {"event": "e", "model": "a"})
    assert limiter(None, "info", {"event": "e", "model": "b"})
    with pytest.raises(structlog.DropEvent):
        limiter(None, "info", {"event": "e", "model": "a"})


WORKER = """
import logging
from pathlib import Path
from ctr import log
log.configure("info", worker="trainer", version="1.2")
log.bind(model="ads@1")
for at in range(50):
    log.get(component="x").warning("again", at=at)
log.get(worker="own").info("one", token="s3same", redis="redis://u:s3same@h",
    error=OSError("s3same".join(["password=", ""])),
    inner={"api_key": "s3same", "n": 1.5, "list": [None, True, "Bearer s3same"]},
    path=Path("/a"), text="two\\nlines")
for at in range(50):
    logging.getLogger("uvicorn.error").warning("peer %d said redis://u:s3same@h", at)
log.get().debug("nothing")
raise ValueError("redis://u:s3same@h")
"""


def test_a_process_writes_one_line_an_event():
    done = subprocess.run([sys.executable, "-c", WORKER], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert "s3same" not in done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {line["model"] for line in lines} == {"ads@1"}
    assert {line["version"] for line in lines} == {"1.2"}
    assert all({"timestamp", "level", "event", "worker"} <= set(line) for line in lines)
    again = [line for line in lines if line["event"] == "again"]
    assert [line["at"] for line in again] == list(range(10))
    assert len([line for line in lines if line["event"].startswith("peer")]) == 10
    (one,) = (line for line in lines if line["event"] == "one")
    assert (one["worker"], one["token"], one["redis"]) == ("own", "***", "redis://***@h")
    assert one["inner"] == {"api_key": "***", "n": 1.5, "list": [None, True, "Bearer ***"]}
    assert one["text"] == "two\nlines"
    crashed = lines[-1]
    assert (crashed["event"], crashed["level"]) == ("crashed", "critical")
    assert "Traceback" in crashed["exception"]
    assert "ValueError" in crashed["exception"]
