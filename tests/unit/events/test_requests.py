"""Rows of requests through the kernels against the exact way: the same batch bit for bit, or "ask the other one"."""

import json
import random
from dataclasses import fields as fields_of
from typing import Annotated

import msgspec
import numpy as np
import pytest

from ctr import spec as specification
from ctr.errors import EventError
from ctr.events import encode_rows
from ctr.events.jsonlines import decoder
from ctr.events.requests import RequestScanner
from ctr.serving.places import PlaceIndex

DENSE = [
    {"name": "plain"}, {"name": "absent", "source": "a", "missing": "feature"}, {"name": "deep", "source": "o.b"},
    {"name": "bin", "source": "n", "transform": "log"}, {"name": "x", "cross": ["plain", "bin"]},
]  # fmt: skip
SPECS = {
    "dense": {"fields": DENSE},
    "sparse": {"fields": [*DENSE, {"name": "tags", "multi": True, "scale": "sqrt"}, {"name": "r", "real": True}]},
    "delimited": {"event": {"format": "delimited", "columns": ["label", "plain", "a", "o.b", "n"]}, "fields": DENSE},
}
PIECES = [
    b'"', b"\\", b"{", b"}", b"]", b"[", b",", b":", b"\n", b"\t", b"1e999", b"\xff", b"0", b"-", b".", b" ", b"null",
    b'"a":1,', b"\xc3\xa9", b"\\u00e9", b"", b"\x00", b"tru", b'"x":[],', b'"instances"',
]  # fmt: skip


class _Request(msgspec.Struct):
    instances: list[dict]


decode = decoder(_Request)


def exact(spec, body):
    try:
        return encode_rows(spec, decode(body).instances, 2e9)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, EventError):
        return None


def assert_same(got, want):
    for part in fields_of(want):
        a, b = getattr(got, part.name), getattr(want, part.name)
        if part.name == "dense":
            assert a == b
        else:
            assert (a.dtype, a.tobytes()) == (b.dtype, b.tobytes()), part.name


def value(r):
    return r.choice([
        "x" * r.randint(0, 70), f"{r.getrandbits(32):08x}", r.randint(0, 10**6), -r.randint(0, 99), r.random(), None,
        True, "é", "7", "", r.randint(0, 9), r.choice(['a"b', 1e300, 2**70, [1, "b"], {"c": 1.5}, -0.0]),
    ])  # fmt: skip


def row(r):
    made = {key: value(r) for key in ("plain", "a", "n", "unused", "label", "time") if r.random() < 0.8}
    if r.random() < 0.5:
        made["o"] = r.choice([{"b": value(r)}, {"z": [value(r)]}, {}, None, {"b": 1, "c": {"d": 2}}])
    if r.random() < 0.5:
        made["tags"] = r.choice([value(r), ["a", "b", 1, "a"], [], {"a": 1, "b": 0.5}])
    if r.random() < 0.5:
        made["r"] = r.choice([0, 1.5, "2.25", None, -7])
    return made


def body(r):
    n = r.choice([0, 1, 1, 1, 2, 5, 40])
    separators = r.choice([(",", ":"), (", ", ": ")])
    sent = json.dumps({"instances": [row(r) for _ in range(n)]}, ensure_ascii=r.random() < 0.3, separators=separators)
    whole = r.choice([b"", b" ", b"\n"]) + sent.encode() + r.choice([b"", b"\n", b" \r\n"])
    if r.random() < 0.3:
        changed = bytearray(whole)
        for _ in range(r.randint(1, 3)):
            at = r.randint(0, len(changed))
            changed[at : at + r.randint(0, 3)] = r.choice(PIECES)
        whole = bytes(changed)
    return whole


@pytest.mark.parametrize("kind", SPECS)
def test_both_ways_agree(kind):
    spec = specification.from_builtins({"name": "x", **SPECS[kind]})
    scanner, r, taken, good = RequestScanner(spec), random.Random(7), 0, 0
    for _ in range(3_000):
        sent = body(r)
        got, want = scanner.scan_rows(sent, 2e9, max_rows=1024), exact(spec, sent)
        good += want is not None
        if got is not None:
            taken += 1
            assert want is not None, sent
            assert_same(got, want)
    assert taken > 0.2 * good, f"{taken} of {good}"


@pytest.mark.parametrize("sent", [
    b"", b"{}", b"[]", b'{"instances":[]}', b'{"instances":[{}]', b'{"instances":[{}]}}', b'{"instances":[{}],"x":1}',
    b'{"x":1,"instances":[{}]}', b'{"instances":[{}],"instances":[{}]}', b'{"instances":[{},]}', b'{"instances":[1]}',
    b'{"instances":[{}{}]}', b'{"instances":{}}', b'{"instances":[{"plain":"\\n"}]}', b'{"instances":[{"plain":[1]}]}',
    b'{"instances":[{"plain":"\xff"}]}', b'{"instances":[{"plain":1}', b'{"instances":[{"plain":"]}',
    b'\x0c{"instances":[{}]}', b'{"instances":[{}]}\x0b', b'{"instances":[{"plain":"a"]}]}',
    b'{"instances":[[{"plain":"a"}]]}',
])  # fmt: skip
def test_unusual_bodies_are_left_to_the_exact_way(sent):
    scanner = RequestScanner(specification.from_builtins({"name": "x", **SPECS["dense"]}))
    assert scanner.scan_rows(sent, max_rows=1024) is None


def test_usual_bodies_are_taken():
    spec = specification.from_builtins({"name": "x", **SPECS["dense"]})
    scanner = RequestScanner(spec)
    for sent in (
        b'{"instances":[{"plain":"u","n":3,"o":{"b":"v"}},{}]}', b' {"instances" : [ {"a": "x"} , {"a": 2} ] }\n',
    ):  # fmt: skip
        got = scanner.scan_rows(sent, 2e9, max_rows=1024)
        assert len(got) == 2
        assert_same(got, exact(spec, sent))


def test_no_room_is_made_for_more_rows_than_allowed(monkeypatch):
    spec = specification.from_builtins({"name": "x", **SPECS["dense"]})
    scanner, two = RequestScanner(spec), b'{"instances":[{"plain":1},{"plain":2}]}'
    assert len(scanner.scan_rows(two, max_rows=2)) == 2
    made = []
    monkeypatch.setattr(scanner, "_make_room", lambda *room: made.append(room))
    assert scanner.scan_rows(two, max_rows=1) is None
    # four megabytes of braces would be four million rows, of 39 fields more than a gigabyte
    assert scanner.scan_rows(b'{"instances":[' + b"{" * 4_000_000 + b"]}", max_rows=1024) is None
    assert made == []


PARTS = specification.from_builtins({"name": "x", "event": {"time": "t"}, "fields": [
    {"name": "user"}, {"name": "site", "missing": "feature"}, {"name": "n", "transform": "log"},
    {"name": "ad"}, {"name": "brand", "missing": "feature"}, {"name": "again", "source": "ad"},
    {"name": "price", "transform": "log"}, {"name": "at", "transform": "hour"},
]})  # fmt: skip


class _RankRequest(msgspec.Struct):
    candidates: list[dict | str]
    context: dict = {}
    top: Annotated[int, msgspec.Meta(ge=0)] | None = None


decode_ranking = decoder(_RankRequest)
IDS = ["a1", "é", 'q"', "", "unknown"]
PLACES = PlaceIndex()
PLACES.put({identity: place for place, identity in enumerate(IDS[:-1])}, {})


def ranking_body(r):
    """A request to rank, now and then with something unusual in it."""
    names = [name for name in ("ad", "brand", "price", "other") if r.random() < 0.7] or ["ad"]
    candidates = [{name: value(r) for name in names} for _ in range(r.choice([1, 2, 3, 20]))]
    if r.random() < 0.1:
        r.choice(candidates).popitem()
    if r.random() < 0.3:
        candidates = [r.choice(["a1", "a2", "é", 'q"', ""]) for _ in candidates]
    context = {name: value(r) for name in ("user", "site", "n", "ad", "x") if r.random() < 0.7}
    parts = [("context", context), ("candidates", candidates)]
    if r.random() < 0.5:
        parts.append(("top", r.choice([0, 1, 7, 500, None, -1, 1.5, "3", 10**12])))
    if r.random() < 0.05:
        parts.append(r.choice([("extra", 1), ("top", 2), ("context", {})]))
    r.shuffle(parts)
    comma, colon = r.choice([(",", ":"), (", ", ": ")])
    made = comma.join(
        json.dumps(key) + colon + json.dumps(part, ensure_ascii=r.random() < 0.3, separators=(comma, colon))
        for key, part in parts
    )
    whole = f"{{{made}}}{r.choice(['', chr(10)])}".encode()
    if r.random() < 0.2:
        changed, at = bytearray(whole), r.randint(0, len(whole))
        changed[at : at + r.randint(0, 3)] = r.choice(PIECES)
        whole = bytes(changed)
    return whole


def full_rows(scanner, sent):
    """Keys of all rows {**context, **candidate} as the kernels have them; the ids; `top`. None where they cannot."""
    got = scanner.scan_ranking(sent, 2e9, max_rows=1024, ids=PLACES.table)
    if got is None:
        return None
    if got.places is not None:
        assert got.known == (-1 not in got.places)
        return got.context.tolist(), [IDS[place] for place in got.places], got.top
    rows = np.tile(got.context, (len(got.keys), 1))
    rows[:, got.fields] = got.keys
    return rows.tolist(), None, got.top


def exact_rows(sent):
    """The same by decoding and encoding; None where it is refused."""
    try:
        asked = decode_ranking(sent)
        if any(isinstance(one, str) for one in asked.candidates):
            row = encode_rows(PARTS, [asked.context], 2e9).keys.tolist()
            ids = [one if one in IDS else IDS[-1] for one in asked.candidates]
            return (row, ids, asked.top) if all(isinstance(x, str) for x in asked.candidates) else None
        rows = [{**asked.context, **one} for one in asked.candidates]
        return encode_rows(PARTS, rows, 2e9).keys.reshape(len(rows), -1).tolist(), None, asked.top
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, EventError):
        return None


def test_rankings_are_read_as_they_are_decoded():
    scanner, r, taken, good = RequestScanner(PARTS), random.Random(11), 0, 0
    for _ in range(3_000):
        sent = ranking_body(r)
        got, want = full_rows(scanner, sent), exact_rows(sent)
        good += want is not None
        if got is not None:
            taken += 1
            assert got == want, sent
    assert taken > 0.2 * good, f"{taken} of {good}"


@pytest.mark.parametrize("sent", [
    b"", b"{}", b'{"context":{}}', b'{"candidates":[{"ad":1}]}', b'{"context":{},"candidates":[]}',
    b'{"context":{},"candidates":[{}]}', b'{"context":{},"candidates":[{"other":1}]}',
    b'{"context":{},"candidates":[{"ad":1},{"brand":1}]}', b'{"context":{},"candidates":[{"ad":1},{"ad":1,"brand":1}]}',
    b'{"context":{},"candidates":[{"ad":1},"a1"]}', b'{"context":{},"candidates":["a1",{"ad":1}]}',
    b'{"context":{},"candidates":["a1",]}', b'{"context":{},"candidates":["\\u0041"]}',
    b'{"context":{},"candidates":[{"ad":1}],"top":-1}', b'{"context":{},"candidates":[{"ad":1}],"top":01}',
    b'{"context":{},"context":{},"candidates":[{"ad":1}]}', b'{"context":{},"candidates":[{"ad":1}]}}',
    b'{"context":{},"candidates":[{"ad":1}],}', b'{"context":[],"candidates":[{"ad":1}]}',
    b'{"context":{},"candidates":[{"ad":1}]', b'{"context":{},"candidates":[["ad"]]}',
])  # fmt: skip
def test_unusual_rankings_are_left_to_the_exact_way(sent):
    assert RequestScanner(PARTS).scan_ranking(sent, 2e9, max_rows=1024) is None


def test_usual_rankings_are_taken():
    scanner = RequestScanner(PARTS)
    for sent in (
        b'{"context":{"user":"u","x":[1,{}]},"candidates":[{"ad":"1","price":2},{"price":3,"ad":null}],"top":1}',
        b' { "top" : null , "candidates" : [ "a1" , "a2" ] , "context" : { } } ',
        b'{"candidates":[{"ad":"1"}],"context":{"ad":2}}',
    ):
        got = full_rows(scanner, sent)
        assert got is not None, sent
        assert got == exact_rows(sent)


def test_no_room_is_made_for_more_candidates_than_allowed():
    scanner, two = RequestScanner(PARTS), b'{"context":{},"candidates":[{"ad":1},{"ad":2}]}'
    assert scanner.scan_ranking(two, 2e9, max_rows=2) is not None
    assert scanner.scan_ranking(two, 2e9, max_rows=1) is None


def test_rankings_with_crosses_are_not_read():
    spec = specification.from_builtins({"name": "x", **SPECS["dense"]})
    assert not RequestScanner(spec).in_parts


def test_a_planted_difference_is_caught():
    spec = specification.from_builtins({"name": "x", **SPECS["dense"]})
    scanner = RequestScanner(spec)
    scanner._plan.fields["seed"][0] ^= 1
    sent = b'{"instances":[{"plain":"u"}]}'
    with pytest.raises(AssertionError, match="keys"):
        assert_same(scanner.scan_rows(sent, 2e9, max_rows=1024), exact(spec, sent))
