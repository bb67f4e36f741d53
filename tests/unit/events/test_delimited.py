import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr import spec as specification
from ctr.errors import EventError
from ctr.events.delimited import header_test, is_blank, parser
from ctr.spec import AVAZU_COLUMNS, CRITEO_COLUMNS


def make(fmt="delimited", columns=("label", "a", "b"), delimiter=",", label="label"):
    event = {"format": fmt, "label": label}
    if fmt == "delimited":
        event |= {"columns": list(columns), "delimiter": delimiter}
    source = {"delimited": "a", "criteo": "C1", "avazu": "site_id"}[fmt]
    return specification.from_builtins({"name": "x", "event": event, "fields": [{"name": source}]})


def refusal(spec, line):
    with pytest.raises(EventError) as caught:
        parser(spec)(line)
    assert caught.value.path == "$"
    return caught.value.reason


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n")), min_size=3, max_size=3),
    st.sampled_from(",;\t |é"),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.booleans(),
)
def test_what_csv_writes_is_read(cells, delimiter, quoting, carriage_return):
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, quoting=quoting).writerow(cells)
    line = out.getvalue().removesuffix("\n" if carriage_return else "\r\n").encode()
    assert list(parser(make(delimiter=delimiter))(line).values()) == cells


def test_quotes():
    parse = parser(make())
    assert parse(b'1,"a,b","say ""hi"""') == {"label": "1", "a": "a,b", "b": 'say "hi"'}
    assert parse(b'1, "x",y"z') == {"label": "1", "a": ' "x"', "b": 'y"z'}  # a quote inside a cell is a character
    assert parse(b'1,"' + b"x" * 200_000 + b'",')["a"] == "x" * 200_000
    for line in (b'1,"a', b'1,"a"b,c', b'1,"a" ,c', b"1,a\rb,c"):
        assert refusal(make(), line) == "syntax"


def test_criteo_knows_no_quotes():
    cells = ["0", *(str(i) for i in range(13)), *(f'"{i}' for i in range(26))]
    record = parser(make("criteo"))("\t".join(cells).encode() + b"\r")
    assert list(record) == list(CRITEO_COLUMNS)
    assert list(record.values()) == cells


def test_columns_are_counted():
    for line in (b"", b"1", b"1,2", b"1,2,3,", b"1\t2\t3", b'"1,2,3"'):
        assert refusal(make(), line) == "columns"
    assert refusal(make("criteo"), b"\t" * 38) == "columns"
    assert refusal(make("avazu", label="click"), b"," * 24) == "columns"


def test_encoding():
    assert refusal(make(), b"1,\xff,2") == "encoding"
    assert parser(make())("1,é,😀".encode())["b"] == "😀"


def test_header():
    spec = make("avazu", label="click")
    is_header = header_test(spec)
    header = ",".join(AVAZU_COLUMNS).encode()
    for line in (header, header + b"\r", b"\xef\xbb\xbf" + header, b'"id"' + header[2:]):
        assert is_header(line)
    for line in (b"", header[:-1], header + b",", header.upper(), b"\xff", b'"'):
        assert not is_header(line)


def test_blank_lines_are_those_without_a_cell():
    assert [is_blank(line) for line in (b"", b"\r", b" ", b"\t", b",")] == [True, True, False, False, False]
