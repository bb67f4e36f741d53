"""tests/vectors.json: what is the same feature, checked against an XXH64 of its own and obeyed by every way in."""

import csv
import io
import json
import struct
from datetime import UTC, datetime, timedelta
from decimal import ROUND_FLOOR, Decimal, localcontext
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from ctr import spec as specification
from ctr.errors import EventError
from ctr.events import Messages, encode_rows, feature_key, open_reader
from ctr.events.transforms import edge_bin, log_bin

VECTORS = json.loads((Path(__file__).parents[2] / "vectors.json").read_text(encoding="utf-8"))
FEATURES, LOGS, REFUSED = VECTORS["features"], VECTORS["log"], VECTORS["refused"]
BINS, SPLINES, CLOCKS, CROSSES = (VECTORS[name] for name in ("bins", "bspline", "clock", "cross"))

P1, P2, P3, P4, P5 = (
    0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5,
)  # fmt: skip
M = 2**64 - 1


def rotl(x, r):
    return (x << r | x >> (64 - r)) & M


def xxh64(data, seed):
    """XXH64 as its specification says it, section by section."""

    def step(acc, lane):
        return rotl((acc + lane * P2) & M, 31) * P1 & M

    def word(at, size):
        return int.from_bytes(data[at : at + size], "little")

    at = 0
    if len(data) >= 32:
        accs = [(seed + P1 + P2) & M, (seed + P2) & M, seed, (seed - P1) & M]
        while at + 32 <= len(data):
            accs = [step(acc, word(at + 8 * i, 8)) for i, acc in enumerate(accs)]
            at += 32
        h = sum(rotl(acc, r) for acc, r in zip(accs, (1, 7, 12, 18), strict=True)) & M
        for acc in accs:
            h = ((h ^ step(0, acc)) * P1 + P4) & M
    else:
        h = (seed + P5) & M
    h = (h + len(data)) & M
    while at + 8 <= len(data):
        h = (rotl(h ^ step(0, word(at, 8)), 27) * P1 + P4) & M
        at += 8
    if at + 4 <= len(data):
        h = (rotl(h ^ (word(at, 4) * P1 & M), 23) * P2 + P3) & M
        at += 4
    for byte in data[at:]:
        h = rotl(h ^ (byte * P5 & M), 11) * P1 & M
    h = (h ^ h >> 33) * P2 & M
    h = (h ^ h >> 29) * P3 & M
    return h ^ h >> 32


def naive_key(field, text):
    h = xxh64(text.encode(), xxh64(field.encode(), 0))
    return h if h > 65535 else h + 0x9E3779B97F4A7C15


def test_the_twin_is_xxh64():
    # from the specification's own test programs
    assert xxh64(b"", 0) == 0xEF46DB3751D8E999
    assert xxh64(b"a", 0) == 0xD24EC4F1A98C6E5B
    assert xxh64(b"abc", 0) == 0x44BC2CF5AD770999
    assert xxh64(b"Nobody inspects the spammish repetition", 0) == 0xFBCEA83C8A378BF1


def test_there_are_about_a_hundred_and_none_twice():
    assert len(FEATURES) + len(LOGS) + len(REFUSED) >= 100
    seen = [json.dumps(v, sort_keys=True) for v in FEATURES + LOGS + REFUSED]
    assert len(set(seen)) == len(seen)


def test_keys_are_those_of_the_canonical_texts():
    for v in FEATURES + LOGS + BINS + CLOCKS:
        assert int(v["key"]) == naive_key(v["field"], v["canonical"] or ""), v
    for v in SPLINES:
        assert [int(f["key"]) for f in v["features"]] == [naive_key(v["field"], f["canonical"]) for f in v["features"]]


def test_some_vectors_would_hit_each_kind_of_reserved_key():
    hashes = {xxh64(v["canonical"].encode(), xxh64(v["field"].encode(), 0)) for v in FEATURES if v["canonical"]}
    assert {0, 1, 15, 16, 65535, 65536} <= hashes
    assert all(int(v["key"]) >= 65536 for v in FEATURES + LOGS)


def test_log_bins_are_those_of_exact_arithmetic():
    with localcontext(prec=60):
        for v in LOGS:
            if v["canonical"] is None:
                continue
            x = Decimal(str(json.loads(v["json"])))
            bin_ = int((Decimal(v["bins_per_e"]) * (1 + abs(x)).ln()).to_integral_value(ROUND_FLOOR))
            assert v["canonical"] == str(-bin_ if x < 0 else bin_), v


def test_bins_are_those_of_exact_arithmetic():
    for v in BINS:
        if v["canonical"] is not None:
            x = Fraction(float(json.loads(v["json"])))
            assert v["canonical"] == str(sum(Fraction(edge) <= x for edge in v["edges"])), v


def spline(i, d, t, x):
    """Cox-de Boor as it is written in books, 0 / 0 being 0, in exact arithmetic."""
    if d == 0:
        return Fraction(int(t[i] <= x < t[i + 1] or (x == t[-1] == t[i + 1] > t[i])))
    left = (x - t[i]) / (t[i + d] - t[i]) if t[i + d] > t[i] else 0
    right = (t[i + d + 1] - x) / (t[i + d + 1] - t[i + 1]) if t[i + d + 1] > t[i + 1] else 0
    return left * spline(i, d - 1, t, x) + right * spline(i + 1, d - 1, t, x)


def test_splines_are_those_of_exact_arithmetic():
    for v in SPLINES:
        if json.loads(v["json"]) in (None, ""):
            assert v["features"] == []
            continue
        edges, d = [Fraction(edge) for edge in v["edges"]], v["degree"]
        t = [edges[0]] * d + edges + [edges[-1]] * d
        x = min(max(Fraction(float(json.loads(v["json"]))), t[0]), t[-1])
        exact = {f"b{i}": spline(i, d, t, x) for i in range(len(edges) - 1 + d)}
        assert sum(exact.values()) == 1
        want = {name: float(value) for name, value in exact.items() if value >= Fraction(1, 2**24)}
        assert {f["canonical"]: f["value"] for f in v["features"]} == want, v


def test_hours_and_weekdays_are_those_of_the_calendar():
    for v in CLOCKS:
        local = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=v["time_s"], hours=v["utc_offset_h"])
        assert v["canonical"] == str(local.hour if v["transform"] == "hour" else local.weekday()), v


def test_crosses_are_the_hash_of_two_keys():
    for v in CROSSES:
        keys = [naive_key(part["field"], part["canonical"]) for part in v["of"]]
        assert [int(part["key"]) for part in v["of"]] == keys
        assert int(v["key"]) == xxh64(struct.pack("<QQ", *keys), xxh64(v["field"].encode(), 0))


# ---------------------------------------------------------------------------------------------------- the ways in


def spec_of(v, fmt, missing="skip", delimiter=None):
    field = {"name": v["field"], "source": "x", "missing": missing}
    if "bins_per_e" in v:
        field |= {"transform": "log", "bins_per_e": v["bins_per_e"]}
    elif "degree" in v:
        field |= {"transform": "bspline", "edges": v["edges"], "degree": v["degree"]}
    elif "edges" in v:
        field |= {"transform": "bins", "edges": v["edges"]}
    event = {"format": fmt}
    if fmt == "delimited":
        event |= {"columns": ["label", "x", "y"], "delimiter": delimiter}
    return specification.from_builtins({"name": "v", "event": event, "fields": [field]})


def read(spec, line):
    at = np.zeros(1, np.int64)
    return open_reader(spec).read(Messages(line, at, at + len(line), at.astype(np.int32), at + 7, at + 1e9))


def json_line(v):
    return b'{"label":1,"x":' + v["json"].encode() + b"}"


def csv_line(v, delimiter):
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerow(["1", v["csv"], ""])
    return out.getvalue().removesuffix("\r\n").encode()


def one_key(result):
    batch, refusals = result
    assert refusals == []
    return [int(key) for key in batch.keys]


def ids(vectors):
    return [v["json"][:24] for v in vectors]


@pytest.mark.parametrize("v", FEATURES + LOGS + BINS, ids=ids(FEATURES + LOGS + BINS))
def test_every_way_in_gives_the_key(v):
    key = int(v["key"])
    missing = v["canonical"] is None
    for mode in ("skip", "feature"):
        want = [0 if missing and mode == "skip" else key]
        spec = spec_of(v, "json", mode)
        assert one_key(read(spec, json_line(v))) == want
        row = open_reader(spec).parse(json_line(v))
        assert [int(k) for k in encode_rows(spec, [row], 1.0).keys] == want
        if v["csv"] is not None:
            for delimiter in ",;\t ":
                spec = spec_of(v, "delimited", mode, delimiter)
                assert one_key(read(spec, csv_line(v, delimiter))) == want
    row = json.loads(v["json"], parse_constant=pytest.fail)
    text = log_bin(row, v["bins_per_e"]) if "bins_per_e" in v else edge_bin(row, v["edges"]) if "edges" in v else row
    assert feature_key(v["field"], text) == key


@pytest.mark.parametrize("v", SPLINES, ids=ids(SPLINES))
def test_every_way_in_gives_the_splines(v):
    keys, values = [int(f["key"]) for f in v["features"]], [f["value"] for f in v["features"]]
    spec, cells = spec_of(v, "json"), spec_of(v, "delimited", delimiter=",")
    row = encode_rows(spec, [open_reader(spec).parse(json_line(v))], 1.0)
    for batch, refusals in (read(spec, json_line(v)), read(cells, csv_line(v, ",")), (row, [])):
        assert refusals == []
        assert batch.keys.tolist() == keys
        assert batch.values.tolist() == pytest.approx(values, abs=1e-6)
    batch, _ = read(spec_of(v, "json", "feature"), json_line(v))
    assert batch.keys.tolist() == (keys or [naive_key(v["field"], "")])


@pytest.mark.parametrize("v", CLOCKS[::5], ids=lambda v: f"{v['transform']}{v['utc_offset_h']:+g} {v['time_s']}")
def test_every_way_in_gives_the_clocks_key(v):
    field = {"name": v["field"], "transform": v["transform"], "utc_offset_h": v["utc_offset_h"]}
    spec = specification.from_builtins({"name": "v", "event": {"time": "at", "max_skew_s": 1e9}, "fields": [field]})
    line = json.dumps({"label": 1, "at": v["time_s"]}).encode()
    assert one_key(read(spec, line)) == [int(v["key"])]
    # a request has no time of its own: what stands there is passed over
    assert encode_rows(spec, [{"at": 0}], v["time_s"]).keys.tolist() == [int(v["key"])]


@pytest.mark.parametrize("v", CROSSES, ids=[v["of"][0]["canonical"] for v in CROSSES])
def test_every_way_in_gives_the_crosss_key(v):
    one, two = v["of"]
    fields = [{"name": part["field"], "missing": "feature"} for part in v["of"]]
    fields.append({"name": v["field"], "cross": [one["field"], two["field"]]})
    spec = specification.from_builtins({"name": "v", "fields": fields})
    row = {part["field"]: part["canonical"] for part in v["of"]}
    keys = [int(one["key"]), int(two["key"]), int(v["key"])]
    assert one_key(read(spec, json.dumps({"label": 1} | row).encode())) == keys
    assert encode_rows(spec, [row], 1.0).keys.tolist() == keys


@pytest.mark.parametrize("v", REFUSED, ids=ids(REFUSED))
def test_every_way_in_refuses(v):
    batch, (refusal,) = read(spec_of(v, "json"), json_line(v))
    assert len(batch) == 0
    assert refusal.reason == v["reason"]
    assert refusal.path == ("$.x" if v["reason"] in ("type", "value") else "$")
    if v["reason"] not in ("syntax", "encoding"):
        row = json.loads(json_line(v))
        with pytest.raises(EventError, match=r"^\$\.instances\[1\]\.x: ") as caught:
            encode_rows(spec_of(v, "json"), [{}, row], 1.0)
        assert caught.value.reason == v["reason"]
    if v["csv"] is not None:
        for delimiter in ",\t":
            batch, (refusal,) = read(spec_of(v, "delimited", delimiter=delimiter), csv_line(v, delimiter))
            assert (len(batch), refusal.reason, refusal.path) == (0, v["reason"], "x")
