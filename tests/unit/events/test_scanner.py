"""The scanner against the exact reader: the same arrays bit for bit, the same refusals, on events good, odd and broken.

Most events must take the fast way, or this would compare the exact reader with itself.
"""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scanning import FEW, MANY, assert_same, compare, messages, slow_lines

from ctr import spec as specification
from ctr.events import Messages, jsonlines, open_reader
from ctr.events.plan import compile_plan
from ctr.events.reader import Reader
from ctr.events.scanner import FastReader, as_bytes

VECTORS = json.loads((Path(__file__).parents[2] / "vectors.json").read_text(encoding="utf-8"))

SINGLES = [
    {"name": "plain"}, {"name": "or_absent", "source": "a", "missing": "feature"}, {"name": "deep", "source": "o.b"},
    {"name": "bin", "source": "n", "transform": "log"},
    {"name": "edge", "source": "n", "transform": "bins", "edges": [-1.0, 0.0, 2.5, 100.0]},
    {"name": "x", "cross": ["plain", "bin"]},
]  # fmt: skip
SPARSE = [
    {"name": "tags", "multi": True, "scale": "sqrt"},
    {"name": "bins", "multi": True, "transform": "log", "scale": "mean"}, {"name": "r", "real": True},
    {"name": "sp", "source": "n", "transform": "bspline", "edges": [0.0, 1.0, 5.0, 10.0], "missing": "feature"},
    {"name": "y", "cross": ["tags", "sp"]},
]  # fmt: skip
HOURS = {"name": "h", "transform": "hour", "utc_offset_h": 5.5}
SPECS = {
    "dense": {"event": {"time": "at", "weight": "w"}, "fields": SINGLES},
    "sparse": {"event": {"time": "at", "time_format": "rfc3339"}, "fields": SINGLES + SPARSE},
    "strptime": {"event": {"time": "at", "time_format": "%y%m%d%H"}, "fields": [*SINGLES, HOURS]},
    "squared": {"model": {"loss": "squared"}, "event": {"max_bytes": 300}, "fields": SINGLES},
}
USUAL_TIME = {"dense": 1.5e9, "sparse": "2024-05-01T12:00:00Z", "strptime": "14102100", "squared": 0}
ODD_TIMES = {
    "dense": [1, "1714564800", -1, 3e9, 1e300, None, 1500000000.25],
    "sparse": [
        "2024-02-29T23:59:59.123456+05:30", "2023-02-29T00:00:00Z", "2024-05-01T12:00:00.1234567Z", 7,
        "1969-12-31T23:00:00Z", "2024-05-01 12:00:00Z", "1970-01-01T00:30:00+01:00", "2024-13-01T00:00:00Z",
    ],
    "strptime": [14102105, "bad", 24050112, "2405011", "14102123", None],
    "squared": [0],
}  # fmt: skip
NUMBERS = [
    0, 1, 7, -1, -2, -3, 65535, 65536, 12345678901234567890, 2**63 - 1, 2**63, -(2**63), 2**64, 10**19, 0.5, -0.0, 1.5,
    1e21, 1e-7, 1e-6, 123456.789, 3.14e5, -17.25, 0.1 + 0.2, 5e-324, 1.7e308, -1.0, 9007199254740993, 2**64 * 10,
    2**128,
]  # fmt: skip
TEXTS = [
    "", "7", "é", "日本語", "🙂", 'a"b', "back\\slash", "1.5", "-0", "+3", "1e3", ".5", "5.", " ", "null",
    "0x1", "1_0", "\u0661", " 5", "5 ", "1e", "-",
]  # fmt: skip
PIECES = [
    b'"', b"\\", b"{", b"}", b"]", b"[", b",", b":", b"\n", b"\r\n", b"\n\n", b"\t", b"1e999", b"\xff", b"0", b"-",
    b".", b" ", b"null", b'"a":1,', b"\xed\xa0\x80", b"\xc3\xa9", b"\xc3", b"\\u00e9", b"\\ud800", b"", b"\x00", b"tru",
]  # fmt: skip


def make(settings):
    return specification.from_builtins({"name": "x", **settings})


def readers(spec):
    exact = Reader(spec, jsonlines.parse, prefix="$.")
    return FastReader(spec, compile_plan(spec), exact), exact


# ------------------------------------------------------------------------------------------------------------- events


class Events:
    """Random events of a specification of `SPECS`: most as they come in practice, some with all that is odd."""

    def __init__(self, kind, seed):
        self.kind, self.rng = kind, random.Random(seed)

    def number(self):
        r = self.rng
        if r.random() < 0.8:
            return r.choice([r.randint(-100, 10**6), r.randint(-9, 9), r.randint(-999, 999) / 8])
        return r.choice([r.choice(NUMBERS), r.random() * 10 ** r.randint(-9, 12)])

    def scalar(self):
        r = self.rng
        if r.random() < 0.85:
            return r.choice(["x" * r.randint(1, 70), f"{r.getrandbits(32):08x}", r.randint(0, 10**6)])
        return r.choice([None, True, False, r.choice(TEXTS), self.number(), str(self.number())])

    def record(self):
        r = self.rng
        odd = r.random() < 0.2  # what decides whether the event is good
        record = {
            "label": r.choice([0, 1]) if not odd else r.choice([0, 1, True, "1", 1.0, "x", 2, -1.5, None, ""]),
            "at": USUAL_TIME[self.kind] if not odd else r.choice(ODD_TIMES[self.kind]),
            "w": r.choice([1, 0.5, "2"]) if not odd else r.choice([-1, 0, 1e9, None, [1]]),
        }
        for key in ("plain", "a", "unused"):
            if r.random() < 0.9:
                record[key] = self.scalar()
        if r.random() < 0.8:
            record["n"] = r.choice([self.number(), self.number(), str(self.number()), None, ""])
        if r.random() < 0.7:
            record["o"] = r.choice([None, {"b": self.scalar(), "c": [1, {"x": [self.scalar()]}]}, {}, {"z": 1}])
        if r.random() < 0.05:
            record["o.b"] = self.scalar()
        if r.random() < 0.7:
            weighted = {r.choice("abcd"): r.choice([self.number(), 0, 1.5]) for _ in range(3)}
            record["tags"] = r.choice([self.scalar(), [self.scalar() for _ in range(r.randint(0, 6))], weighted])
        if r.random() < 0.5:
            record["bins"] = r.choice([self.number(), [self.number() for _ in range(4)], [3, 3, "", None]])
        if r.random() < 0.6:
            record["r"] = r.choice([0, 1.5, "2.25", None, -7, 1e9, 1e10 if odd else 12])
        if r.random() < 0.3:
            keys = list(record)
            r.shuffle(keys)
            record = {key: record[key] for key in keys}
        return record

    def line(self):
        separators = self.rng.choice([(",", ":"), (", ", ": "), (" , ", " : ")])
        return json.dumps(self.record(), ensure_ascii=self.rng.random() < 0.3, separators=separators).encode()

    def mutated(self, line):
        r, line = self.rng, bytearray(line)
        for _ in range(r.randint(1, 3)):
            at = r.randint(0, len(line))
            line[at : at + r.randint(0, 3)] = r.choice(PIECES)
        return bytes(line)

    def message(self):
        r = self.rng
        what = r.random()
        if what < 0.70:
            return self.line()
        if what < 0.90:
            return self.mutated(self.line())
        if what < 0.97:
            between = r.choice([b"\n", b"\r\n", b"\n \n", b"\n\n"])
            return between.join(self.line() for _ in range(r.randint(1, 5))) + r.choice([b"", between])
        return r.choice([None, b"", b" \r\n", b"\n", b"x" * 70_000, b"{}", b"[]", b"null", b' {"label":1} '])


@pytest.mark.parametrize("kind", SPECS)
def test_fast_and_exact_way_agree(kind):
    slow, rows = compare(*readers(make(SPECS[kind])), Events(kind, 1), FEW)
    assert rows > 0.5 * (slow + rows), f"{slow} lines went the exact way, {rows} did not"


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPECS)
def test_fast_and_exact_way_agree_on_many_events(kind):
    slow, rows = compare(*readers(make(SPECS[kind])), Events(kind, 2), MANY)
    assert rows > 0.5 * (slow + rows)


def shaped(events, drop):
    """An event as one producer writes it: the same keys in the same order, some left out."""
    r = events.rng
    record = {
        "unused": events.scalar(), "label": r.choice([0, 1, "1", True]), "at": USUAL_TIME[events.kind],
        "w": r.choice([1, 0.5, "2", 1e9]), "plain": events.scalar(), "more": {"x": events.number()},
        "o": {"z": events.scalar(), "b": events.scalar()}, "a": events.scalar(), "n": events.number(), "last": 1,
    }  # fmt: skip
    kept = {key: value for key, value in record.items() if r.random() >= drop}
    return json.dumps(kept, ensure_ascii=False, separators=events.separators).encode()


@pytest.mark.parametrize("kind", ["dense", "strptime", "squared"])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,", "  : ")])
def test_events_of_one_shape(kind, separators):
    """The template's way: values of all kinds where the template had others, keys left out, bytes changed."""
    fast, exact = readers(make(SPECS[kind]))
    events = Events(kind, seed=5)
    events.separators = separators
    r, followed, read = events.rng, 0, 0
    for drop in (0.0, 0.1, 0.0, 0.3):
        for _ in range(6):
            sent = messages([
                shaped(events, drop) if r.random() < 0.9 else events.mutated(shaped(events, drop)) for _ in range(100)
            ])  # fmt: skip
            assert_same(fast.read(sent), exact.read(sent))
            if drop == 0.0:
                followed, read = followed + count_followed(fast, sent), read + slow_lines(fast, sent)[1]
    assert followed > 0.5 * read, f"{followed} of {read}"


def count_followed(fast, sent):
    """How many events are read by the reader's template: those that it takes although no other way is left."""
    template = fast._templates.current()
    alone = template._replace(missed=np.array([0, -(10**9), 0, 0, 0]))
    plan = fast._plan
    try:
        fast._plan = plan._replace(table=np.full_like(plan.table, -1), after=plan.after)
        fast._after = np.full_like(plan.after, -1)
        fast._templates.current = lambda: alone
        return fast._scan(as_bytes(sent.data), sent)[1]
    finally:
        fast._plan = plan
        del fast._templates.current


def test_a_planted_difference_in_the_template_is_caught():
    fast, exact = readers(make(SPECS["dense"]))
    events = Events("dense", 6)
    events.separators = (",", ":")
    sent = messages([shaped(events, 0.0) for _ in range(100)])
    assert_same(fast.read(sent), exact.read(sent))
    fast._templates._template.steps["seed"] ^= 1
    with pytest.raises(AssertionError, match="keys"):
        assert_same(fast.read(sent), exact.read(sent))


@pytest.mark.parametrize("line", [
    b'{"label":1,"a":"x","n":3,"plain":"p"}x', b'{"label":1,"a":"x","n":3,"plain":"p"}}',
    b'{"label":1,"a":"x","n":3,"plain":"p"', b'{"label":1,"a":"x","n":3,"plain":"p', b'{"label":1,"a":"x","n":3,',
    b'{"label":1,"a":"x","n":3', b'{"label":1,"a":x,"n":3,"plain":"p"}', b'{"label":1,"a":"x","n":03,"plain":"p"}',
    b'{"label":1,"a":"x","n":-,"plain":"p"}', b'{"label":1,"a":"x","n":3.,"plain":"p"}',
    b'{"label":1,"a":"x","n":1e5,"plain":"p"}', b'{"label":1,"a":"x","n":-0,"plain":"p"}',
    b'{"label":1,"a":"x","n":12345678,"plain":"p"}', b'{"label":1,"a":"x","n":65536,"plain":"p"}',
    b'{"label":1,"a":"x","n":nul,"plain":"p"}', b'{"label":1,"a":"x","n":,"plain":"p"}',
    b'{"label":1,"a":0,"n":3,"plain":01}', b'{"label":1,"a":-0,"n":3,"plain":1.50}',
    b'{"label":1,"a":true,"n":"3","plain":false}', b'{"label":1,"a":[1],"n":3,"plain":{}}',
    b'{"label":1,"a":"x\\","n":3,"plain":"p"}', b'{"label":1,"a":"\xc3\xa9","n":3,"plain":"\xff"}',
    b'{"label":1,"a":"\xc3\xa9","n":3,"plain":""}', b'{"label":1,"n":3}', b'{"a":"x"}', b'{"label":1,"plain":"p"}',
    b'{"label":1}', b"{}", b'{"label":1,"a":"x","n":3,"plain":"p","label":1}', b'{"label":1,"n":3,"a":"x"}',
    b'{"label":1,"a":"x","a":"x"}', b'{"label":1,,"a":1}',
    b'{"label":1,"a":"%s","n":3,"plain":"%s"}' % (b"y" * 32, b"z" * 100),
    b'{"label":1,"a":"1234567","n":3,"plain":"123456789"}',
])  # fmt: skip
def test_lines_nearly_as_the_template(line):
    fast, exact = readers(make({"fields": [{"name": "a"}, {"name": "n", "transform": "log"}, {"name": "plain"}]}))
    usual = [b'{"label":0,"a":"x%d","n":%d,"plain":"p"}' % (i, i) for i in range(50)]
    first = messages(usual)
    assert_same(fast.read(first), exact.read(first))
    assert count_followed(fast, first) == 50
    sent = messages([*usual[:2], line, *usual[2:4], line], glue=b"|")
    assert_same(fast.read(sent), exact.read(sent))


def test_a_text_without_an_end():
    """What looks like a text of the usual length, whose end is guessed, but has none."""
    fast, exact = readers(make({"fields": [{"name": "a"}]}))
    usual = [b'{"label":0,"a":"x%d"}' % i for i in (10, 11, 1, 12)]
    for line in (b'{"label":0,"a":"x10?}', b'{"label":0,"a":"x1}', b'{"label":0,"a":"x10', b'{"label":0,"a":"'):
        for before in (usual, usual[:2]):
            sent = messages([*before, line, *usual, line], glue=b" " * 70)
            assert_same(fast.read(sent), exact.read(sent))


@pytest.mark.parametrize("kind", SPECS)
def test_usual_events_take_the_fast_way(kind):
    fast, exact = readers(make(SPECS[kind]))
    record = {
        "label": 1, "at": USUAL_TIME[kind], "w": 0.5, "plain": "é" * 20, "a": 17, "n": -3, "o": {"z": [1], "b": "u"},
        "unused": {"deep": [{"er": "\\u00e9\n"}]}, "r": 2.5,
    }  # fmt: skip
    if kind == "sparse":
        record |= {"tags": ["a", "b", "a"], "bins": [1, 2.5]}
    lines = [json.dumps({**record, "n": n}, ensure_ascii=False).encode() for n in [*range(-50, 50), None, 0.25, "7"]]
    sent = messages(lines)
    got = fast.read(sent)
    assert_same(got, exact.read(sent))
    assert len(got[0]) == len(lines)
    assert slow_lines(fast, sent) == (0, len(lines))


@pytest.mark.parametrize("name", ["features", "log", "bins", "bspline", "refused"])
def test_vectors_through_the_scanner(name):
    taken = 0
    for v in VECTORS[name]:
        field = {"name": v.get("field", "x"), "source": "x", "missing": "feature"}
        if "bins_per_e" in v:
            field |= {"transform": "log", "bins_per_e": v["bins_per_e"]}
        elif "degree" in v:
            field |= {"transform": "bspline", "edges": v["edges"], "degree": v["degree"]}
        elif "edges" in v:
            field |= {"transform": "bins", "edges": v["edges"]}
        fast, exact = readers(make({"fields": [field]}))
        sent = messages([b'{"label":1,"x":' + v["json"].encode() + b"}"])
        got = fast.read(sent)
        assert_same(got, exact.read(sent))
        if name == "refused":
            assert [r.reason for r in got[1]] == [v["reason"]]
        elif name == "bspline":
            assert got[0].keys.tolist()[: len(v["features"])] == [int(f["key"]) for f in v["features"]]
        else:
            assert got[0].keys.tolist() == [int(v["key"])]
        taken += slow_lines(fast, sent)[1]
    assert name == "refused" or taken > 0.5 * len(VECTORS[name])


# --------------------------------------------------------------------------------------------------- what surrounds it


def test_a_planted_difference_is_caught():
    spec = make(SPECS["dense"])
    fast, exact = readers(spec)
    fields = fast._plan.fields.copy()
    fields["seed"][0] ^= 1
    fast._plan = fast._plan._replace(fields=fields)
    events = Events("dense", 3)
    sent = messages([events.line() for _ in range(100)])
    with pytest.raises(AssertionError, match="keys"):
        assert_same(fast.read(sent), exact.read(sent))


def test_threads_share_a_reader():
    for kind in ("dense", "strptime"):
        fast, exact = readers(make(SPECS[kind]))
        events = Events(kind, 4)
        sent = [messages([events.message() for _ in range(300)]) for _ in range(8)]
        want = [exact.read(some) for some in sent]
        with ThreadPoolExecutor(4) as pool:
            for got, expected in zip(pool.map(fast.read, sent * 4), want * 4, strict=True):
                assert_same(got, expected)


@pytest.mark.parametrize("length", range(60, 140, 7))
def test_nothing_behind_the_buffer_is_read(length):
    """The scanner reads words: an event at the very end of its buffer is read from a copy."""
    fast, exact = readers(make({"fields": [{"name": "a"}]}))
    line = b'{"label":1,"a":"%s"}' % (b"x" * (length - 18))
    assert len(line) == length
    for cut in range(4):
        sent = messages([line, line[: len(line) - cut]])
        beyond = replace(sent, data=sent.data + b'"}' + line)  # what follows would make the cut event whole
        want = exact.read(sent)
        assert_same(fast.read(sent), want)
        assert_same(fast.read(beyond), want)
        assert len(want[0]) == (2 if cut == 0 else 1)


def test_overlapping_messages_and_views():
    fast, exact = readers(make({"fields": [{"name": "a"}]}))
    line = b'{"label":1,"a":"x"}'
    data, n = line + b"\n" + line, len(line)
    at = np.array([0, n + 1, 0, 0]), np.array([2 * n + 1, 2 * n + 1, n, -1])
    for kind in (bytes, bytearray, memoryview):
        sent = Messages(kind(data), *at, np.zeros(4, np.int32), np.arange(4), np.full(4, 1e9))
        got = fast.read(sent)
        assert_same(got, exact.read(sent))
        assert got[0].offsets.tolist() == [0, 0, 1, 2]


def test_more_lines_and_entries_than_expected_of_a_message():
    for kind in ("dense", "sparse"):
        fast, exact = readers(make(SPECS[kind]))
        tags = json.dumps([str(i) for i in range(500)])
        line = b'{"label":1,"at":%s,"w":1,"tags":%s}' % (
            json.dumps(USUAL_TIME[kind]).encode(), tags.encode() if kind == "sparse" else b"0",
        )  # fmt: skip
        sent = messages([b"\n".join([line] * 200), b"\n".join([line, b"{"] * 100)])
        assert_same(fast.read(sent), exact.read(sent))
        assert slow_lines(fast, sent) == (100, 300)


def test_no_messages():
    fast, exact = readers(make(SPECS["sparse"]))
    assert_same(fast.read(messages([])), exact.read(messages([])))


def test_what_the_kernels_do_not_know_is_read_line_by_line():
    # objects that hold columns are counted in a word
    spec = make({"fields": [{"name": f"f{i}", "source": f"o{i}.x"} for i in range(61)]})
    assert compile_plan(spec) is None
    assert isinstance(open_reader(spec), Reader)
    assert isinstance(open_reader(make(SPECS["sparse"])), FastReader)
    batch, refusals = open_reader(spec).read(messages([b'{"label":1,"o60":{"x":1}}']))
    assert refusals == []
    assert np.flatnonzero(batch.keys).tolist() == [60]
