"""The scanners of delimited and of libffm text against the exact reader, as test_scanner.py does it for JSON."""

import csv
import io
import random
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scanning import FEW, KINDS, MANY, assert_same, compare, messages, slow_lines
from test_scanner import NUMBERS, ODD_TIMES, TEXTS
from test_scanner import SPECS as JSON_SPECS

from ctr import spec as specification
from ctr.events import Messages, exact_reader, feature_key, open_reader
from ctr.events.reader import Reader
from ctr.events.scanner import FastReader
from ctr.spec import AVAZU_COLUMNS

COUNTS = [{"name": f"I{i}", "transform": "log"} for i in range(1, 14)]
CATEGORIES = [{"name": f"C{i}", "missing": "feature"} for i in range(1, 27)]
COLUMNS = ["id", "label", "w", "at", "plain", "o.b", "n", "unread", "last"]
CSV_FIELDS = [
    {"name": "plain"}, {"name": "or_absent", "source": "last", "missing": "feature"},
    {"name": "dotted", "source": "o.b"},
    {"name": "edge", "source": "n", "transform": "bins", "edges": [-1.0, 0.0, 2.5, 100.0]},
    {"name": "x", "cross": ["plain", "edge"]},
]  # fmt: skip
CSV_SPARSE = [
    {"name": "r", "source": "n", "real": True}, {"name": "day", "transform": "weekday"},
    {"name": "sp", "source": "n", "transform": "bspline", "edges": [0.0, 1.0, 5.0, 10.0], "missing": "feature"},
    {"name": "y", "cross": ["plain", "sp"]},
]  # fmt: skip
MANY_VALUED = [{"name": f"f{i}", "source": str(i), "multi": True} for i in (0, 3, 17)]
SPECS = {
    "criteo": {"event": {"format": "criteo"}, "fields": COUNTS + CATEGORIES},
    "avazu": {
        "event": {"format": "avazu", "label": "click", "time": "hour", "time_format": "%y%m%d%H"},
        "fields": [
            *({"name": name} for name in AVAZU_COLUMNS[3:]), {"name": "h", "transform": "hour"},
            {"name": "x", "cross": ["C1", "site_id"]},
        ],
    },
    "csv": {
        "event": {"format": "delimited", "columns": COLUMNS, "time": "at", "time_format": "rfc3339", "weight": "w"},
        "fields": CSV_FIELDS + CSV_SPARSE,
    },
    "semicolons": {
        "event": {"format": "delimited", "columns": COLUMNS, "delimiter": ";", "time": "at", "max_bytes": 200},
        "model": {"loss": "squared"}, "fields": CSV_FIELDS,
    },
    "libffm": {
        "event": {"format": "libffm"},
        "fields": [
            *MANY_VALUED, {"name": "mean", "source": "18", "multi": True, "scale": "mean"},
            {"name": "one", "source": "2"},
            {"name": "5", "cross": ["f3", "one"]},  # a cross is no field of the line, whatever its name is
        ],
    },
    "libffm model": {
        "event": {"format": "libffm"}, "model": {"libffm": True, "type": "ffm"}, "fields": MANY_VALUED,
    },
    "one-hot": {
        "event": {"format": "libffm"}, "fields": [{"name": f"f{i}", "source": str(i)} for i in range(20)],
    },
    "libffm squared": {
        "event": {"format": "libffm", "max_bytes": 120}, "model": {"loss": "squared"}, "fields": MANY_VALUED,
    },
}  # fmt: skip
PIECES = [
    b'"', b'""', b'"x"', b",", b"\t", b";", b"\n", b"\r\n", b"\r", b"\n\n", b" ", b":", b"::", b"0:1:1", b" 3:a:1",
    b"1", b"-", b"+1", b".5", b"1e3", b"1e999", b"e", b"\xff", b"\xed\xa0\x80", b"\xc3\xa9", b"\xc3", b"\x00", b"\x0b",
    b"\x1c", b"\xc2\xa0", b"\xc2\x85", b"\xef\xbb\xbf", b"", b"x" * 70,
]  # fmt: skip
assert len(SPECS) + len(JSON_SPECS) == KINDS


def make(kind):
    return specification.from_builtins({"name": "x", **SPECS[kind]})


def readers(spec):
    fast = open_reader(spec)
    assert isinstance(fast, FastReader)
    return fast, exact_reader(spec)


@cache
def readers_of(kind):
    return readers(make(kind))


def quoted(cells, delimiter, quoting=csv.QUOTE_MINIMAL):
    """A line as Python's csv module writes it."""
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator="").writerow(cells)
    return out.getvalue().encode()


# ------------------------------------------------------------------------------------------------------------- events


class Lines:
    """Random lines of a specification of `SPECS`: most as they come in practice, some with all that is odd."""

    def __init__(self, kind, seed):
        self.kind, self.rng, self.spec = kind, random.Random(seed), make(kind)

    def number(self):
        r = self.rng
        if r.random() < 0.98:
            return r.choice([r.randint(0, 100), r.randint(0, 10**6), r.randint(-9, 9), r.randint(-999, 999) / 8])
        return r.choice([*NUMBERS, *TEXTS, r.random() * 10 ** r.randint(-9, 12)])

    def text(self):
        r = self.rng
        if r.random() < 0.99:
            return r.choice(["", f"{r.getrandbits(32):08x}", f"{r.getrandbits(32):08x}", str(r.randint(0, 10**6))])
        return r.choice(["x" * r.randint(1, 70), r.choice(TEXTS), "a,b", "a;b", 'say "hi"', '"x"', " ", "a\tb", "a\rb"])

    def label(self):
        return self.rng.choice([0, 1] if self.rng.random() < 0.95 else ["", "x", 2, -1, "+1", "1.0", "true", -1.5])

    def cell(self, column):
        r, event, odd = self.rng, self.spec.event, self.rng.random() < 0.02
        if column == event.label:
            return self.label()
        if column == event.weight:
            return r.choice([1, 0.5, 2]) if not odd else r.choice([-1, "", "x", 1e9, 0])
        if column == event.time:
            kind, usual = {
                "rfc3339": ("sparse", "2024-05-01T12:00:%02dZ"), "%y%m%d%H": ("strptime", "141021%02d"),
                "s": ("dense", "15000000%02d"),
            }[event.time_format]  # fmt: skip
            return usual % r.randint(0, 23) if not odd else r.choice(ODD_TIMES[kind])
        if column == "n" or column[0] == "I":
            return self.number() if r.random() < 0.9 else ""
        return self.text()

    def line(self):
        r, spec = self.rng, self.spec
        if spec.event.format == "libffm":
            return self.entries().encode()
        cells = [str(self.cell(column)) for column in spec.columns]
        if spec.event.format == "criteo":
            return "\t".join(cells).encode()
        quoting = csv.QUOTE_ALL if r.random() < 0.1 else csv.QUOTE_MINIMAL
        return quoted(cells, spec.delimiter, quoting) + r.choice([b"", b"\r"])

    def entries(self):
        r = self.rng
        one_hot = self.kind == "one-hot"
        parts = [str(self.label()) if r.random() < 0.7 else r.choice(["-1", "+1"])]
        fields = r.sample(range(20), r.randint(1, 8)) if one_hot else r.choices([0, 3, 5, 17, 18], k=6)
        if r.random() < 0.5 and not one_hot:
            fields.append(2)
        for field in fields:
            if r.random() < 0.02:
                field = r.choice(["007", "17 ", "x", "", "99999999", "-1", "3"])
            feature = r.choice([r.randint(0, 10**6), f"{r.getrandbits(32):08x}", "a"])
            if r.random() < 0.02:
                feature = r.choice(TEXTS)
            value = 1 if one_hot or field == 2 or r.random() < 0.5 else self.number()
            parts.append(f"{field}:{feature}:{value if r.random() < 0.98 else r.choice(['', 'nan', '1:1', '1.0', 2])}")
        return r.choice([" ", " ", " ", "\t", "  "]).join(parts) + r.choice(["", "", " ", "\r"])

    def mutated(self, line):
        r, line = self.rng, bytearray(line)
        for _ in range(r.randint(1, 3)):
            at = r.randint(0, len(line))
            line[at : at + r.randint(0, 3)] = r.choice(PIECES)
        return bytes(line)

    def header(self):
        names = quoted(self.spec.columns, self.spec.delimiter)
        return self.rng.choice([b"", b"", b"\xef\xbb\xbf"]) + names + self.rng.choice([b"", b"\r"])

    def message(self):
        r = self.rng
        what = r.random()
        if what < 0.75:
            return self.line()
        if what < 0.90:
            return self.mutated(self.line())
        if what < 0.92:
            return self.header()
        if what < 0.97:
            between = r.choice([b"\n", b"\r\n", b"\n \n", b"\n\n"])
            lines = [self.header() if r.random() < 0.2 else self.line() for _ in range(r.randint(1, 5))]
            return between.join(lines) + r.choice([b"", between])
        return r.choice([None, b"", b"\r", b" \r\n", b"\n", b"x" * 70_000, b"0", b" ", b"\t" * 39, b"\r\r", b"\x0b"])


@pytest.mark.parametrize("kind", SPECS)
def test_both_ways_agree(kind):
    spec = make(kind)
    slow, rows = compare(*readers(spec), Lines(kind, 1), FEW)
    assert rows > 0.5 * (slow + rows), f"{slow} lines went the exact way, {rows} did not"


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPECS)
def test_both_ways_agree_on_many_lines(kind):
    slow, rows = compare(*readers(make(kind)), Lines(kind, 2), MANY)
    assert rows > 0.5 * (slow + rows)


CRITEO_LINE = "0\t1\t\t5\t0\t1382\t4\t15\t2\t181\t1\t2\t\t2" + "\t68fd1e64\t80e26c9b" * 13
AVAZU_LINE = "1000009418151094273,0,14102100,1005,0" + ",1fbe01fe" * 9 + ",1,2,15706,320,50,1722,0,35,-1,79"
USUAL = {
    "criteo": [CRITEO_LINE, CRITEO_LINE.replace("\t5", "\t-2") + "\r"],
    "avazu": [AVAZU_LINE, AVAZU_LINE + "\r", AVAZU_LINE.replace("1005", '"1005"')],
    "csv": [
        '7,0,1.5,2024-05-01T12:00:00Z,é,b,2.25,"a,b",x', '7,1,1,"2024-05-01T12:00:00.5+02:00",a"b,b,,"",\r',
        ',"1",1,2024-05-01T12:00:00Z,,,"7","\t",""',
    ],
    "semicolons": ["7;-.5;;1500000000;a,b; ;17;;", '7;"1";x;1500000000.5;"a;b";"";-2;;é'],
    "libffm": ["1 0:1163:0.3651 3:8672:.3651 17:5:0.50000 17:6:.5 2:a:1 5:x:y", "-1\t18:a:1 18:b:-2e-3 \r"],
    "libffm model": ["+1 0:7:1 3:7:1 17:7:.25"],
    "one-hot": ["1 0:7:1 19:7:1", "0 1:a:1.0"],
    "libffm squared": ["-1 0:7:1", "+0.5 0:7:1"],
}


@pytest.mark.parametrize("kind", SPECS)
def test_usual_lines_take_the_fast_way(kind):
    fast, exact = readers(make(kind))
    lines = [line.encode() for line in USUAL[kind]] * 40
    sent = messages(lines)
    got = fast.read(sent)
    assert_same(got, exact.read(sent))
    assert len(got[0]) == len(lines)
    assert slow_lines(fast, sent) == (0, len(lines))
    together = messages([b"\n".join(lines)])
    assert_same(fast.read(together), exact.read(together))
    assert slow_lines(fast, together) == (0, len(lines))


def cut(data, size):
    """A file's lines as messages, as a source hands them over: offsets are where they begin."""
    end = np.array([at for at in range(len(data)) if data[at : at + 1] == b"\n"], np.int64)[:size]
    begin = np.concatenate([[0], end[:-1] + 1])
    return Messages(data, begin, end, np.zeros(len(end), np.int32), begin, np.full(len(end), 2e9))


@pytest.mark.data
@pytest.mark.parametrize(
    ("kind", "path"),
    [("criteo", "criteo/criteo_dac_train_first10k.txt"), ("avazu", "avazu/small3.train.csv"),
     ("libffm model", "libffm_demo/libffm_bigdata.tr.txt"), ("libffm model", "libffm_demo/xlearn_small_train.txt")],
)  # fmt: skip
def test_real_lines_and_mutated_ones(shared_data, kind, path):
    fast, exact = readers(make(kind))
    with (shared_data / path).open("rb") as file:
        sent = cut(file.read(500_000), 2000)
    assert_same(fast.read(sent), exact.read(sent))
    assert slow_lines(fast, sent)[0] <= (1 if fast.spec.event.format != "libffm" else 0)  # what may be a header
    lines = Lines(kind, 5)
    mutated = [
        lines.mutated(sent.data[a:b]) for a, b in zip(sent.begin.tolist(), sent.end.tolist(), strict=True)
    ]  # fmt: skip
    assert_same(fast.read(messages(mutated)), exact.read(messages(mutated)))


# --------------------------------------------------------------------------------------------------------- hypothesis

CELLS = st.one_of(
    st.sampled_from(["", "0", "1", "1.5", "2024-05-01T12:00:00Z", '"', '""', "a,b"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
)


@cache
def delimited_by(delimiter):
    event = {"format": "delimited", "columns": COLUMNS, "delimiter": delimiter}
    return readers(specification.from_builtins({"name": "x", "event": event, "fields": CSV_FIELDS}))


@given(st.lists(st.lists(CELLS, min_size=8, max_size=10), max_size=4), st.sampled_from(",;\t |\x00x"), st.booleans())
@settings(max_examples=300)
def test_cells_of_any_text(rows, delimiter, minimal):
    fast, exact = delimited_by(delimiter)
    quoting = csv.QUOTE_MINIMAL if minimal else csv.QUOTE_ALL
    sent = messages([quoted(["7", "1", *cells[2:]], delimiter, quoting) for cells in rows])
    assert_same(fast.read(sent), exact.read(sent))


@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=14), max_size=4), st.integers(0, 1))
@settings(max_examples=300)
def test_any_bytes(lines, first_offset):
    for kind in ("csv", "one-hot", "libffm squared"):
        fast, exact = readers_of(kind)
        sent = messages([b"".join(pieces) for pieces in lines], first_offset)
        assert_same(fast.read(sent), exact.read(sent))


# --------------------------------------------------------------------------------------------------- what surrounds it


def test_a_header_is_one_at_the_very_beginning_only():
    fast, exact = readers(make("avazu"))
    header, line = ",".join(AVAZU_COLUMNS).encode(), AVAZU_LINE.encode()
    sent = messages([b"\n".join([header, line, header, b"", line]), header, b"\n" + header], first_offset=0)
    batch, refusals = got = fast.read(sent)
    assert_same(got, exact.read(sent))
    assert batch.offsets.tolist() == [0, 0]
    assert [(r.offset, r.partition, r.reason, r.path) for r in refusals] == [
        (0, 0, "label", "click"), (1, 1, "label", "click"), (2, 2, "label", "click")
    ]  # fmt: skip
    for refusal in refusals:
        assert sent.data[refusal.begin : refusal.end] == header
    later = replace(sent, offsets=sent.offsets + 5)
    assert_same(fast.read(later), exact.read(later))
    assert [r.offset for r in fast.read(later)[1]] == [5, 5, 6, 7]


def test_a_header_that_could_be_an_event_is_none():
    event = {"format": "delimited", "columns": ["1", "a"], "label": "1"}
    fast, exact = readers(specification.from_builtins({"name": "x", "event": event, "fields": [{"name": "a"}]}))
    sent = messages([b"1,a\n1,a\n1,b", b"1,a"], first_offset=0)
    got = fast.read(sent)
    assert_same(got, exact.read(sent))
    assert got[0].keys.tolist() == [feature_key("a", value) for value in "aba"]


def test_keys_of_cells():
    fast, _ = readers(make("semicolons"))
    batch, refusals = fast.read(messages(['7;.5;;1500000000;"a;b";é;2.5;x;""'.encode()]))
    assert refusals == []
    assert batch.labels.tolist() == [0.5]
    assert batch.times_s.tolist() == [1.5e9]
    assert batch.keys[:4].tolist() == [
        feature_key("plain", "a;b"), feature_key("or_absent", ""), feature_key("dotted", "é"), feature_key("edge", "3")
    ]  # fmt: skip


def test_digits_and_what_is_beside_them():
    fast, exact = readers(make("criteo"))
    for digits in ("1", "90", "907", "1234", "99999", "100000", "7654321", "99999999", "123456789"):
        cells = [digits, "-" + digits, "0" + digits]
        for at in range(len(digits)):
            cells += [digits[:at] + c + digits[at + 1 :] for c in "/:.-+e \0\x7f¹٣"]
        lines = ["\t".join(["1", cell] + [""] * 38).encode() for cell in cells]
        assert_same(fast.read(messages(lines)), exact.read(messages(lines)))
        assert slow_lines(fast, messages(lines[:1])) == (0, 1)


@pytest.mark.parametrize(
    ("kind", "part", "key"),
    [("avazu", "fields", "seed"), ("criteo", "event", "quotes"), ("csv", "event", "quotes"), ("avazu", "slots", None),
     ("libffm squared", "event", "max_bytes"), ("libffm", "slots", None), ("libffm model", "event", "classes")],
)  # fmt: skip
def test_a_planted_difference_is_found(kind, part, key):
    fast, exact = readers(make(kind))
    array = getattr(fast._plan, part).copy()
    if key is None:
        array[[3, 17]] = array[[17, 3]]
    elif key == "max_bytes":
        array[key] += 1 << 20
    else:
        array[key] ^= array.dtype[key].type(1)
    fast._plan = fast._plan._replace(**{part: array})
    with pytest.raises(AssertionError):
        compare(fast, exact, Lines(kind, 3), FEW)


def test_a_planted_difference_in_what_becomes_of_cells_is_found():
    for kind, part in (("criteo", "texts"), ("criteo", "counts"), ("avazu", "texts"), ("csv", "spanned")):
        fast, exact = readers(make(kind))
        cells = fast._plan.cells
        changed = getattr(cells, part).copy()
        changed[[0, 1], 0] = changed[[1, 0], 0]
        fast._plan = fast._plan._replace(cells=cells._replace(**{part: changed}))
        with pytest.raises(AssertionError):
            compare(fast, exact, Lines(kind, 4), FEW)


def test_cells_of_all_lengths():
    """Few and many in 64 bytes, which are looked at together; texts that are hashed in one way or another."""
    fast, exact = readers(make("criteo"))
    lines = []
    for length in [*range(20), 31, 32, 33, 63, 64, 65, 200]:
        for at in (1, 14, 39):
            cells = ["1"] + [""] * 39
            cells[at] = ("9" if at == 1 else "c") * length
            lines.append("\t".join(cells).encode())
        lines.append("\t".join(["0"] + ["7"] * 13 + ["c" * length] * 26).encode())
    # fewer columns than there are, more, and more than there is room for
    lines += ["\t".join(["1"] * columns).encode() for columns in range(34, 46)]
    lines += [b"\t" * 300, b"1" + b"\t" * 39 + b"\r", "\t".join(["1"] * 14 + ["é" * 4] * 26).encode()]
    sent = messages(lines)
    assert_same(fast.read(sent), exact.read(sent))


@pytest.mark.parametrize("kind", ["criteo", "csv", "libffm"])
def test_nothing_behind_the_line_is_read(kind):
    """A line that is cut short, with the rest of it behind, and lines at the very end of the buffer."""
    fast, exact = readers(make(kind))
    line = USUAL[kind][0].encode()
    for length in range(len(line) + 1):
        sent = messages([line, line[:length]])
        beyond = replace(sent, data=sent.data + line[length:] + b"\n" + line)
        want = exact.read(sent)
        assert_same(fast.read(sent), want)
        assert_same(fast.read(beyond), want)


def test_more_entries_than_expected():
    fast, exact = readers(make("libffm"))
    line = b"1" + b"".join(b" 17:%d:.5" % i for i in range(1000))
    sent = messages([b"\n".join([line] * 20), line + b" 0:a:1" * 30])  # the last has more than the scanner takes
    assert_same(fast.read(sent), exact.read(sent))
    assert slow_lines(fast, sent) == (1, 20)


@pytest.mark.parametrize(
    ("event", "fields"),
    [({"format": "delimited", "columns": ["label", "a"], "delimiter": "é"}, [{"name": "a"}]),
     ({"format": "libffm"}, [{"name": "a", "source": "10000"}]),
     ({"format": "libffm"}, [{"name": "a", "source": "1", "multi": True}, {"name": "b", "source": "1"}]),
     ({"format": "libffm", "label": "1"}, [{"name": "a", "source": "1"}])],
)  # fmt: skip
def test_what_the_scanners_do_not_know_has_the_exact_reader(event, fields):
    assert isinstance(open_reader(specification.from_builtins({"name": "x", "event": event, "fields": fields})), Reader)
