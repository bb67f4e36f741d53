"""Properties that hold for any event: training and serving agree, and nothing a message holds raises."""

import csv
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr import spec as specification
from ctr.errors import EventError
from ctr.events import REASONS, Messages, encode_rows, open_reader
from ctr.spec import AVAZU_COLUMNS, CRITEO_COLUMNS

FIELDS = [
    {"name": "plain"}, {"name": "or_absent", "source": "a", "missing": "feature"}, {"name": "deep", "source": "o.b"},
    {"name": "bin", "source": "n", "transform": "log"},
]  # fmt: skip
MULTI = [{"name": "tags", "multi": True, "scale": "sqrt"}, {"name": "bins", "multi": True, "transform": "log"}]


def make(fields, **event):
    return specification.from_builtins({"name": "x", "event": event, "fields": fields})


def messages(lines, first_offset=1):
    begin, end, data = [], [], b""
    for line in lines:
        begin.append(len(data))
        data += line
        end.append(len(data))
    n = len(lines)
    return Messages(
        data, np.array(begin, np.int64), np.array(end, np.int64), np.zeros(n, np.int32),
        np.arange(first_offset, first_offset + n), np.full(n, 2e9),
    )  # fmt: skip


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
scalar = (
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats(allow_nan=False, allow_infinity=False) | text
)
finite = st.floats(allow_nan=False, allow_infinity=False)
number = st.integers() | finite | finite.map(repr)
good_record = st.fixed_dictionaries(
    {},
    optional={
        "plain": scalar, "a": scalar, "o": st.none() | st.fixed_dictionaries({}, optional={"b": scalar}), "o.b": scalar,
        "n": number | st.none(), "tags": scalar | st.lists(scalar), "bins": number | st.lists(number | st.just("")),
        "unused": scalar,
    },
)  # fmt: skip
any_value = st.recursive(scalar, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3))
any_record = st.dictionaries(st.sampled_from(["plain", "a", "o", "o.b", "n", "tags", "bins", "x"]), any_value)


def assert_same_features(batch, other):
    for name in ("keys", "values", "fields", "start"):
        assert getattr(batch, name).tolist() == getattr(other, name).tolist()
    assert batch.dense == other.dense


@given(st.lists(good_record, max_size=4), st.sampled_from([FIELDS, FIELDS + MULTI]), st.booleans())
def test_a_record_has_the_same_features_as_event_and_as_row(records, fields, ascii_only):
    spec = make(fields)
    lines = [json.dumps({**r, "label": 1}, ensure_ascii=ascii_only).encode() for r in records]
    batch, refusals = open_reader(spec).read(messages(lines))
    assert refusals == []
    assert_same_features(batch, encode_rows(spec, records, 0.0))


@given(any_record, st.sampled_from([FIELDS, FIELDS + MULTI]))
def test_what_is_refused_as_event_is_refused_as_row(record, fields):
    spec = make(fields)
    batch, refusals = open_reader(spec).read(messages([json.dumps({**record, "label": 0}).encode()]))
    if not refusals:
        assert_same_features(batch, encode_rows(spec, [record], 0.0))
        return
    with pytest.raises(EventError) as caught:
        encode_rows(spec, [record], 0.0, path="$")
    assert (refusals[0].reason, refusals[0].message) == (caught.value.reason, caught.value.message)
    assert refusals[0].path == caught.value.path.replace("$[0]", "$", 1)


cell = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=20)


@given(
    st.lists(st.tuples(cell, cell, cell, st.just("") | number.map(str)), max_size=4),
    st.sampled_from(",\t;"),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_a_cell_has_the_same_features_as_the_text_in_a_row(rows, delimiter, quoting):
    columns = ["plain", "a", "o.b", "n"]
    spec = make(FIELDS, format="delimited", columns=["label", *columns], delimiter=delimiter)
    lines = []
    for row in rows:
        out = io.StringIO()
        csv.writer(out, delimiter=delimiter, quoting=quoting).writerow(["1", *row])
        lines.append(out.getvalue().encode())
    batch, refusals = open_reader(spec).read(messages(lines))
    records = [dict(zip(columns, row, strict=True)) for row in rows]
    try:
        want = encode_rows(make(FIELDS), records, 0.0)
    except EventError:  # a whole number beyond float64
        assert {r.reason for r in refusals} == {"value"}
        return
    assert refusals == []
    assert_same_features(batch, want)


READERS = {
    "json": open_reader(make(FIELDS, time="at", weight="w")),
    "multi": open_reader(make(FIELDS + MULTI, time="at", time_format="rfc3339")),
    "delimited": open_reader(make([{"name": "a"}], format="delimited", columns=["label", "a"])),
    "criteo": open_reader(make([{"name": "I1", "transform": "log"}, {"name": "C1"}], format="criteo")),
    "avazu": open_reader(
        make([{"name": "site_id"}], format="avazu", label="click", time="hour", time_format="%y%m%d%H")
    ),
}
GOOD = {
    "json": b'{"label":1,"plain":"x","n":3,"tags":["a"],"at":1,"w":1}',
    "multi": b'{"label":1,"plain":"x","n":3,"tags":["a"],"at":"2001-01-01T00:00:00Z"}',
    "delimited": b'1,"x, y"',
    "criteo": b"\t".join([b"1"] * len(CRITEO_COLUMNS)),
    "avazu": b",".join([b"1", b"1", b"14102100"] + [b"x"] * (len(AVAZU_COLUMNS) - 3)),
}


@st.composite
def mutated(draw, line):
    """A good line with some bytes replaced, dropped, doubled or put in."""
    line = bytearray(line)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(line)))
        pieces = st.sampled_from([b'"', b"\\", b"{", b"]", b",", b"\n", b"\t", b"1e999", b"\xff"])
        piece = draw(st.binary(max_size=3) | pieces)
        line[at : at + draw(st.integers(0, 3))] = piece
    return bytes(line)


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
def test_no_bytes_raise_and_good_events_beside_bad_ones_are_unaffected(name, data):
    good = GOOD[name]
    bad = data.draw(st.lists(st.binary(max_size=60) | mutated(good), min_size=1, max_size=4))
    reader = READERS[name]
    alone, none = reader.read(messages([good], first_offset=7))
    assert (len(alone), none) == (1, [])
    sent = messages([good, *bad, good])
    batch, refusals = reader.read(sent)
    assert_same_features(batch.slice(0, 1), alone)
    assert_same_features(batch.slice(len(batch) - 1, len(batch)), alone)
    assert (batch.offsets[0], batch.offsets[-1]) == (1, len(bad) + 2)
    assert {r.reason for r in refusals} <= set(REASONS)
    for refusal in refusals:
        at = refusal.offset - 1
        assert sent.begin[at] <= refusal.begin <= refusal.end <= sent.end[at]
    # every message is either read or refused, in whole or in part
    assert {*batch.offsets.tolist(), *(r.offset for r in refusals)} == set(range(1, len(bad) + 3))


# ------------------------------------------------------------------------------------------------ the real click logs


def file_messages(path):
    data = path.read_bytes()
    end = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
    begin = np.concatenate([[0], end[:-1] + 1])
    n = len(end)
    return Messages(data, begin, end, np.zeros(n, np.int32), begin, np.full(n, 2e9))


@pytest.mark.data
def test_criteo_s_log_is_read_whole(shared_data):
    names = CRITEO_COLUMNS[1:]
    fields = [{"name": n, "transform": "log"} if n.startswith("I") else {"name": n} for n in names]
    path = shared_data / "criteo" / "criteo_dac_train_first10k.txt"
    batch, refusals = open_reader(make(fields, format="criteo")).read(file_messages(path))
    assert refusals == []
    assert batch.dense
    assert len(batch) == 10_000
    assert round(100 * float(batch.labels.mean()), 1) == 21.8
    cells = [line.split(b"\t")[1:] for line in path.read_bytes().splitlines()]
    empty = np.array([[cell == b"" for cell in row] for row in cells])
    assert round(100 * empty.sum() / (40 * 10_000), 1) == 14.2  # of all cells, labels included
    keys = batch.keys.reshape(-1, 39)
    np.testing.assert_array_equal(keys == 0, empty)
    for column in (13, 14, 20, 38):  # as many keys as there are words
        assert len(set(keys[~empty[:, column], column].tolist())) == len({row[column] for row in cells} - {b""})


@pytest.mark.data
def test_avazu_s_log_is_read_whole(shared_data):
    fields = [{"name": name} for name in AVAZU_COLUMNS if name not in ("id", "click", "hour")]
    spec = make(fields, format="avazu", label="click", time="hour", time_format="%y%m%d%H")
    batch, refusals = open_reader(spec).read(file_messages(shared_data / "avazu" / "small3.train.csv"))
    assert refusals == []
    assert len(batch) == 9_999
    assert round(100 * float(batch.labels.mean()), 1) == 17.1
    assert set(batch.times_s.tolist()) == {1413849600.0}  # 2014-10-21T00:00:00Z
    assert (batch.keys != 0).all()
