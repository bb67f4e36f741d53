"""tests/vectors.json: what is the same feature, checked against an XXH64 of its own and obeyed by every way in."""

import csv
import io
import json
from decimal import ROUND_FLOOR, Decimal, localcontext
from pathlib import Path

import numpy as np
import pytest

from ctr import spec as specification
from ctr.errors import EventError
from ctr.events import Messages, encode_rows, feature_key, open_reader
from ctr.events.transforms import log_bin

VECTORS = json.loads((Path(__file__).parents[2] / "vectors.json").read_text(encoding="utf-8"))
FEATURES, LOGS, REFUSED = VECTORS["features"], VECTORS["log"], VECTORS["refused"]

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
    for v in FEATURES + LOGS:
        assert int(v["key"]) == naive_key(v["field"], v["canonical"] or ""), v


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


# ---------------------------------------------------------------------------------------------------- the ways in


def spec_of(v, fmt, missing="skip", delimiter=None):
    field = {"name": v["field"], "source": "x", "missing": missing}
    if "bins_per_e" in v:
        field |= {"transform": "log", "bins_per_e": v["bins_per_e"]}
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


@pytest.mark.parametrize("v", FEATURES + LOGS, ids=ids(FEATURES + LOGS))
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
    assert feature_key(v["field"], log_bin(row, v["bins_per_e"]) if "bins_per_e" in v else row) == key


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
