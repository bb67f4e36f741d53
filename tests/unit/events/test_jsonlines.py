import json
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr.errors import EventError
from ctr.events.jsonlines import MAX_DEPTH, decoder, parse


def refusal(line):
    with pytest.raises(EventError) as caught:
        parse(line)
    assert caught.value.path == "$"
    return caught.value.reason


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), JSON, max_size=5), st.booleans())
def test_values_and_literals_are_those_of_another_parser(record, ascii_only):
    # repr tells 1 from 1.0 and -0.0 from 0.0
    try:
        line = json.dumps(record, ensure_ascii=ascii_only).encode()
    except UnicodeEncodeError:
        return
    assert repr(parse(line)) == repr(json.loads(line))


@given(st.from_regex(rb"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,24})?([eE][+-]?[0-9]{1,3})?", fullmatch=True))
def test_number_literals_are_rounded_as_another_parser_does(literal):
    assert repr(parse(b'{"x":' + literal + b"}")["x"]) == repr(json.loads(literal))


def test_a_number_beyond_float64_is_infinite_in_events_and_requests_alike():
    assert parse(b'{"a":1e400,"b":[-1e400,1.5,1]}') == {"a": math.inf, "b": [-math.inf, 1.5, 1]}
    rows = decoder(list[dict[str, object]])
    assert rows(b'[{"a":1e400}]') == [{"a": math.inf}]
    with pytest.raises(msgspec.ValidationError, match="Expected `object`"):
        rows(b'[{"a":1e400}, 7]')


def test_of_equal_keys_the_last_counts():
    assert parse(b'{"a":1,"b":2,"a":3}') == {"a": 3, "b": 2}


def test_white_space_of_json_is_passed_over():
    assert parse(b' \t{ "a" :\r1 }\r') == {"a": 1}


@pytest.mark.parametrize("line", [b"1", b'"x"', b"null", b"true", b"[]", b'[{"label":1}]', b"[" * 60 + b"]" * 60])
def test_what_is_no_object(line):
    assert refusal(line) == "type"


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"}", b'{"a":1}}', b'{"a":1,}', b"{a:1}", b'{"a":1}x', b'{"a":1}\x00', b"\xef\xbb\xbf{}", b'{"a":NaN}',
     b'{"a":"\x01"}', b"{'a':1}", b'{"a":1} {"a":2}', b'{"a":1e400,"b":}', b'{"a":"\\ud800"}', b'{"\\ud800":1}'],
)  # fmt: skip
def test_what_is_no_json(line):
    assert refusal(line) == "syntax"


@pytest.mark.parametrize(
    "line",
    [b"\xff", b'{"a":"\xff"}', b'{"\xc0\xaf":1}', b'{"a":"\xed\xa0\x80"}', b'{"a":"\xe2\x82', b'{"a":1e400,"b":"\xf5"}',
     b'{"a":"x"}\xff', "{}".encode("utf-16")],
)  # fmt: skip
def test_what_is_no_utf8(line):
    assert refusal(line) == "encoding"


def nested(depth):
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_nesting_is_bounded_whatever_the_stack_holds():
    assert parse(nested(MAX_DEPTH))
    assert parse(b'{"a":[' + b"[]," * 1000 + b"[1]]}")
    for line in (nested(MAX_DEPTH + 1), nested(5000), b"[" * 100_000, b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * 65):
        assert refusal(line) == "syntax"


def test_a_number_beyond_float64_is_infinite_and_left_to_the_field_that_wants_it():
    assert parse(b'{"a":1,"b":{"c":[1e400,-1e400]}}') == {"a": 1, "b": {"c": [float("inf"), float("-inf")]}}
    assert parse(b'{"a":1' + b"0" * 4000 + b"}") == {"a": 10**4000}
    assert refusal(b'{"a":1' + b"0" * 5000 + b"}") == "value"


def test_the_message_about_a_text_is_cut_between_characters():
    for text in ("é" * 100, "x" + "é" * 100, "😀" * 100):
        with pytest.raises(EventError, match="expected an object"):
            parse(json.dumps(text, ensure_ascii=False).encode())
