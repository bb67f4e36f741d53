"""Whatever a body holds: a right answer or a 4xx with a reason, over real sockets, and memory that stays flat.

Cheap here; `slow` sends ten times as many.
"""

import asyncio
import gc
import json
import os
import random

import numpy as np
import pytest
from test_serve import MULTI, Publisher, content_hash, served, write_calls  # noqa: F401  a fixture

from ctr.serving.scorer import Scorer

pytestmark = pytest.mark.redis

PATHS = ("/v1/models/ads:predict", "/v1/models/ads:rank", "/v1/models/ads:explain", "/v2/models/ads/infer")
GOOD = (
    {"instances": [{"user": 1, "ad": "a1", "tags": [1, 2], "price": 3.5, "site": None}, {}]},
    {"context": {"user": 1, "site": "s"}, "candidates": [{"ad": "a1"}, {"ad": "a2", "price": 1e3}], "top": 1},
    {"instances": [{"user": "x", "tags": []}]},
    {"id": "7", "inputs": [{"name": "user", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]}]},
)
ODD = (
    None, True, False, 0, -1, 1e308, -1e-320, 2**53 + 1, 2**64, 10**400, "", "x" * 300, "\u0000", "\U0001f600", [], {},
    [[]], {"": {}}, [None], {"user": {"id": 1}},
)  # fmt: skip
LITERALS = (
    b"NaN", b"Infinity", b"1e999", b"-0", b"\xff", b"\\ud800", b"{", b"]", b'"', b"\x00", b"0x1", b"1" * 5000,
    b"[" * 90,
)  # fmt: skip
HEADERS = (
    {}, {"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}, {"content-type": "\xff"},
    {"content-encoding": "gzip"}, {"accept": ";;q=x"}, {"authorization": "Bearer \xfe"}, {"expect": "100-continue"},
    {"x-request-id": "a b\tc"}, {"accept-encoding": "br;q=9"}, {"te": "trailers"}, {"range": "bytes=0-1"},
)  # fmt: skip


def replaced(dice, value):
    """A value with one of its parts, at any depth, made odd."""
    if isinstance(value, dict) and value and dice.random() < 0.85:
        key = dice.choice(list(value))
        changed = dict(value)
        if dice.random() < 0.15:
            changed[dice.choice(["", "user", "a.b", "\u2028", key * 2])] = changed.pop(key)
        else:
            changed[key] = replaced(dice, value[key])
        return changed
    if isinstance(value, list) and value and dice.random() < 0.85:
        at = dice.randrange(len(value))
        return [*value[:at], replaced(dice, value[at]), *value[at + 1 :] * dice.choice([1, 1, 1, 3])]
    return dice.choice(ODD)


def body_of(dice, good):
    text = json.dumps(replaced(dice, good) if dice.random() < 0.7 else good).encode()
    for _ in range(dice.choice([0, 0, 1, 2])):
        at = dice.randrange(len(text) + 1)
        kind = dice.random()
        if kind < 0.4:
            text = text[:at] + dice.choice(LITERALS) + text[at + dice.choice([0, 1]) :]
        elif kind < 0.7:
            text = text[:at] + bytes([dice.randrange(256)]) + text[at + 1 :]
        else:
            text = text[:at]
    return text


def resident_bytes():
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def at_once(app, path, body, headers):
    """A request as a server would hand it over; status and body of the answer."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": body}

    async def send(message):
        sent.append(message)

    await app({"type": "http", "method": "POST", "path": path, "headers": headers}, receive, send)
    return sent[0]["status"], sent[1]["body"]


async def all_judged(ask, count, expected):
    """Send `count` bodies and judge each answer; returns the statuses seen, and the memory at each quarter."""
    dice, seen, memory = random.Random(1), set(), []
    for turn in range(count):
        at = dice.randrange(len(PATHS))
        body, headers = body_of(dice, GOOD[at]), dice.choice(HEADERS)
        headers = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        status, answer = await ask(PATHS[at], body, headers)
        seen.add(status)
        assert status in (200, 400, 413), (PATHS[at], body, headers, answer)
        if status != 200:
            assert json.loads(answer)["error"], body
        elif body == json.dumps(GOOD[at]).encode():
            assert json.loads(answer) == expected[at]
        if turn % (count // 4) == count // 4 - 1:
            gc.collect()
            memory.append(resident_bytes())
    return seen, memory


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_bodies(redis_url, served, count):  # noqa: F811
    publisher = Publisher(redis_url, MULTI)
    publisher.learn(publisher.rows(500))
    made = served(redis_url)
    made.eventually(lambda: made.scorer.current._scans, within_s=120)  # compiling takes memory, too
    expected = [made.http.post(path, json=good).json() for path, good in zip(PATHS, GOOD, strict=True)]

    async def directly(path, body, headers):
        return await at_once(made.app, path, body, headers)

    async def over_http(path, body, headers):
        answer = made.http.post(path, content=body, headers=headers)
        return answer.status_code, answer.content

    seen, memory = asyncio.run(all_judged(directly, count, expected))
    assert seen >= {200, 400}
    assert memory[-1] - memory[0] < 20 << 20
    asyncio.run(all_judged(over_http, count // 20, expected))
    for path, good, right in zip(PATHS, GOOD, expected, strict=True):
        assert made.http.post(path, json=good).json() == right


POST = b"POST /v1/models/ads:predict HTTP/1.1\r\n"
RAW = (
    b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00", POST + b"content-length: -5\r\n\r\n",
    POST + b"content-length: 99999999999999999999\r\n\r\n",
    POST + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    b"GET /%ff%00/../v1/models/%2e%2e HTTP/1.1\r\n\r\n", b"GET " + b"/a" * 20_000 + b" HTTP/1.1\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\n\r\n", b"\r\n\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
)  # fmt: skip


@pytest.mark.parametrize("raw", RAW, ids=range(len(RAW)))
def test_bytes_that_are_hardly_http(redis_url, served, raw):  # noqa: F811
    import socket

    Publisher(redis_url)
    made = served(redis_url)
    url = made.http.base_url
    with socket.create_connection((url.host, url.port), timeout=3) as link:
        link.sendall(raw)
        link.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while part := link.recv(65536):
                answer += part
        except (TimeoutError, ConnectionResetError):
            pass
    assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 2")), answer[:200]
    assert made.http.get("/livez").status_code == 200


def test_a_hundred_thousand_predictions_change_nothing(redis_url):
    """Neither the rows held nor anything in Redis: not a byte, not one call of a command that writes."""
    publisher = Publisher(redis_url, MULTI)
    publisher.learn(publisher.rows(2000))
    with Scorer(redis_url, "ads") as scorer:
        rows = [*publisher.rows(900), *({"user": f"new {i}"} for i in range(100))]
        first = scorer.predict(rows)
        held, absent = scorer.cache._model.state_hash(), len(scorer.cache._absences)
        calls, content = write_calls(publisher.client), content_hash(publisher.client)
        batch = scorer.current.encode(rows)
        for turn in range(100):
            got = scorer.predict(rows) if turn % 10 == 0 else scorer.current.score(batch)
            np.testing.assert_array_equal(got, first)
        scorer.rank({"user": 1}, rows[:200])
        scorer.explain(rows[0])
        assert scorer.cache._model.state_hash() == held
        assert len(scorer.cache._absences) == absent
        assert write_calls(publisher.client) == calls
        assert content_hash(publisher.client) == content


def test_the_fuzzer_finds_what_it_looks_for():
    """A server that answers 500 to any of it would fail the test above: its bodies are no mere noise."""
    dice = random.Random(1)
    bodies = [body_of(dice, GOOD[0]) for _ in range(500)]
    readable = 0
    for body in bodies:
        try:
            readable += isinstance(json.loads(body), dict)
        except (ValueError, RecursionError):
            continue
    assert 100 < readable < 450
    assert len(set(bodies)) > 200
