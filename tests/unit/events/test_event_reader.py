import itertools

import numpy as np
import pytest

from ctr import spec as specification
from ctr.events import Messages, feature_key, open_reader


def make(event=None, fields=({"name": "a"},)):
    return specification.from_builtins({"name": "x", "event": event or {}, "fields": list(fields)})


def messages(*texts, first_offset=100, arrival_s=1e9, glue=b"|garbage|"):
    """Messages as slices of one buffer, with something between them that belongs to none; None is a null message."""
    data, begin, end = b"", [], []
    for text in texts:
        data += glue
        begin.append(len(data))
        data += text or b""
        end.append(-1 if text is None else len(data))
    n = len(texts)
    return Messages(
        data + glue, np.array(begin, np.int64), np.array(end, np.int64), np.arange(n, dtype=np.int32) % 2,
        np.arange(first_offset, first_offset + n), np.full(n, arrival_s),
    )  # fmt: skip


def event(value, label=1):
    return b'{"label":%d,"a":"%s"}' % (label, value.encode())


def test_each_event_carries_its_message_s_position():
    texts = [event("u", 0), event("v") + b"\n" + event("w", 0) + b"\n", b"\n\r\n  \n" + event("x")]
    batch, refusals = open_reader(make()).read(messages(*texts))
    assert refusals == []
    assert batch.keys.tolist() == [feature_key("a", text) for text in "uvwx"]
    assert batch.labels.tolist() == [0, 1, 0, 1]
    assert batch.offsets.tolist() == [100, 101, 101, 102]
    assert batch.partitions.tolist() == [0, 1, 1, 0]
    assert batch.times_s.tolist() == [1e9] * 4
    assert batch.weights.tolist() == [1.0] * 4
    assert batch.dense


@pytest.mark.parametrize("text", [None, b"", b"\n", b"  \r\n\t\n"])
def test_a_message_of_nothing_is_refused(text):
    sent = messages(event("u"), text, event("v"))
    batch, (refusal,) = open_reader(make()).read(sent)
    assert batch.offsets.tolist() == [100, 102]
    assert (refusal.reason, refusal.path, refusal.partition, refusal.offset) == ("empty", "$", 1, 101)
    assert refusal.begin == sent.begin[1]
    assert refusal.end == sent.begin[1] + len(text or b"")


def test_a_message_loses_only_its_bad_line():
    bad = b'{"label":1,"a":[]}'
    sent = messages(event("u") + b"\n" + bad + b"\n" + event("v"))
    batch, (refusal,) = open_reader(make()).read(sent)
    assert batch.keys.tolist() == [feature_key("a", "u"), feature_key("a", "v")]
    assert sent.data[refusal.begin : refusal.end] == bad
    assert (refusal.reason, refusal.path, refusal.offset) == ("type", "$.a", 100)
    assert "[]" in refusal.message


def test_bytes_like_buffers():
    sent = messages(event("u"), None, event("v"))
    want, _ = open_reader(make()).read(sent)
    for kind in (bytearray, memoryview):
        got, refusals = open_reader(make()).read(
            Messages(kind(sent.data), sent.begin, sent.end, sent.partitions, sent.offsets, sent.arrivals_s)
        )
        assert got.keys.tolist() == want.keys.tolist()
        assert len(refusals) == 1


def test_an_event_too_large_is_never_parsed():
    reader = open_reader(make({"max_bytes": 64}))
    fits = event("x" * (64 - len(event(""))))
    assert len(fits) == 64
    batch, refusals = reader.read(messages(fits, fits + b" ", fits + b"\n" + fits, b"\xff" * 65, b'{"a"' * 100))
    assert batch.offsets.tolist() == [100, 102, 102]
    assert [(r.reason, r.path, r.offset) for r in refusals] == [
        ("too_large", "$", 101), ("too_large", "$", 103), ("too_large", "$", 104),
    ]  # fmt: skip


def test_time_is_judged_by_the_message_s_arrival():
    reader = open_reader(make({"time": "at", "max_skew_s": 10.0}))
    line = b'{"label":1,"a":"u","at":1000}'
    for arrival_s, good in ((990.0, True), (989.0, False), (1e9, True)):
        batch, refusals = reader.read(messages(line, arrival_s=arrival_s))
        assert (len(batch), [r.reason for r in refusals]) == ((1, []) if good else (0, ["time"]))


BAD = {
    "empty": b" ",
    "too_large": b'{"label":1,"a":"%s"}' % (b"x" * 500),
    "encoding": b'{"label":1,"a":"\xff"}',
    "syntax": b'{"label":1,"a":"u"',
    "type": b'{"label":1,"a":{},"w":1,"at":1}',
    "label": b'{"label":7,"a":"u"}',
    "time": b'{"label":1,"a":"u","w":1,"at":4070908800}',
    "weight": b'{"label":1,"a":"u","w":-1,"at":1}',
    "value": b'{"label":1,"a":1e999,"w":1,"at":1}',
}


@pytest.mark.parametrize("multi", [False, True])
def test_bad_events_leave_nothing_behind(multi):
    fields = [{"name": "b"}, {"name": "a"}, {"name": "t", "multi": multi}]
    reader = open_reader(make({"time": "at", "weight": "w", "max_bytes": 200}, fields))
    good = [b'{"label":%d,"b":%d,"a":"u%d","w":0.5,"at":%d,"t":%d}' % (i % 2, i, i, i, i) for i in range(len(BAD) + 1)]
    mixed = list(itertools.chain.from_iterable(itertools.zip_longest(good, BAD.values(), fillvalue=good[-1])))
    batch, refusals = reader.read(messages(*mixed[:-1]))
    alone, none = reader.read(messages(*good))
    assert none == []
    assert [r.reason for r in refusals] == list(BAD)
    for name in ("keys", "values", "fields", "start", "labels", "weights", "times_s"):
        assert getattr(batch, name).tolist() == getattr(alone, name).tolist()


def delimited(**event):
    return make({"format": "delimited", "columns": ["label", "a"], **event})


def test_a_header_is_skipped_at_offset_0_only():
    header, line = b"label,a", b"1,u"
    reader = open_reader(delimited())
    batch, refusals = reader.read(messages(header, line, first_offset=0))
    assert (len(batch), refusals) == (1, [])
    batch, (refusal,) = reader.read(messages(header, line, first_offset=1))
    assert (len(batch), refusal.reason, refusal.path) == (1, "label", "label")
    batch, (refusal,) = reader.read(messages(header + b"\r\n" + line + b"\n" + header, first_offset=0))
    assert (len(batch), refusal.reason) == (1, "label")  # only the first line is one


def test_a_first_line_that_is_no_header_is_an_event():
    batch, refusals = open_reader(delimited()).read(messages(b"0,a", first_offset=0))
    assert (len(batch), refusals) == (1, [])


def test_delimited_refusals_name_the_column():
    spec = make({"format": "delimited", "columns": ["label", "a", "w", "at"], "weight": "w", "time": "at"},
                [{"name": "n", "source": "a", "transform": "log"}])  # fmt: skip
    lines = {
        "columns": b"1,2,3", "label": b"2,5,1,1", "weight": b"1,5,,1", "time": b"1,5,1,x", "type": b"1,x,1,1",
        "value": b"1,1e999,1,1", "syntax": b'1,"x,1,1', "encoding": b"1,\xff,1,1", "empty": b"\r",
    }  # fmt: skip
    batch, refusals = open_reader(spec).read(messages(*lines.values()))
    assert len(batch) == 0
    assert [r.reason for r in refusals] == list(lines)
    paths = {"label": "label", "weight": "w", "time": "at", "type": "a", "value": "a"}
    assert [r.path for r in refusals] == [paths.get(reason, "$") for reason in lines]


def test_no_messages():
    batch, refusals = open_reader(make()).read(messages())
    assert (len(batch), refusals, batch.start.tolist()) == (0, [], [0])
