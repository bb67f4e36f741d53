import enum
import math
import struct
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr.errors import EventError
from ctr.events.hashing import canonical, feature_key, number_text, partition_salts

# RFC 8785, appendix B
RFC_8785 = [
    ("0000000000000000", "0"),
    ("8000000000000000", "0"),
    ("0000000000000001", "5e-324"),
    ("8000000000000001", "-5e-324"),
    ("7fefffffffffffff", "1.7976931348623157e+308"),
    ("ffefffffffffffff", "-1.7976931348623157e+308"),
    ("4340000000000000", "9007199254740992"),
    ("c340000000000000", "-9007199254740992"),
    ("4430000000000000", "295147905179352830000"),
    ("44b52d02c7e14af5", "9.999999999999997e+22"),
    ("44b52d02c7e14af6", "1e+23"),
    ("44b52d02c7e14af7", "1.0000000000000001e+23"),
    ("444b1ae4d6e2ef4e", "999999999999999700000"),
    ("444b1ae4d6e2ef4f", "999999999999999900000"),
    ("444b1ae4d6e2ef50", "1e+21"),
    ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
    ("3eb0c6f7a0b5ed8d", "0.000001"),
    ("41b3de4355555553", "333333333.3333332"),
    ("41b3de4355555554", "333333333.33333325"),
    ("41b3de4355555555", "333333333.3333333"),
    ("41b3de4355555556", "333333333.3333334"),
    ("41b3de4355555557", "333333333.33333343"),
    ("becbf647612f3696", "-0.0000033333333333333333"),
    ("43143ff3c1cb0959", "1424953923781206.2"),
]


@pytest.mark.parametrize(("bits", "text"), RFC_8785)
def test_numbers_are_written_as_rfc_8785_lists_them(bits, text):
    assert number_text(struct.unpack(">d", bytes.fromhex(bits))[0]) == text


def ecma_number_to_string(x):
    """ECMA-262, Number::toString, step by step; the digits by exact decimal arithmetic on what repr finds shortest."""
    if x == 0:
        return "0"
    if x < 0:
        return "-" + ecma_number_to_string(-x)
    s = Decimal(repr(x)).normalize().as_tuple()
    digits, k = "".join(map(str, s.digits)), len(s.digits)
    n = s.exponent + k
    if k <= n <= 21:
        return digits + "0" * (n - k)
    if 0 < n <= 21:
        return digits[:n] + "." + digits[n:]
    if -6 < n <= 0:
        return "0." + "0" * -n + digits
    e = ("+" if n > 0 else "-") + str(abs(n - 1))
    return digits + "e" + e if k == 1 else digits[0] + "." + digits[1:] + "e" + e


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_written_as_ecmascript_says(x):
    assert number_text(x) == ecma_number_to_string(x)
    assert float(number_text(x)) == x


@given(st.integers(-(10**22), 10**22).map(float) | st.floats(1e-8, 1e-4))
def test_numbers_near_the_change_of_notation(x):
    assert number_text(x) == ecma_number_to_string(x)


class Colour(enum.StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.int64(-5), "-5"), (np.uint64(2**64 - 1), "18446744073709551615"), (np.float64(2.0), "2"),
        (np.float32(0.1), "0.10000000149011612"), (np.bool_(True), "true"), (np.str_("x"), "x"), (Colour.RED, "red"),
        (2**64, "18446744073709552000"), (-(2**63) - 1, "-9223372036854776000"), (None, ""), ("", ""),
    ],
)  # fmt: skip
def test_python_and_numpy_values(value, text):
    assert canonical(value) == text


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (math.nan, "value"), (math.inf, "value"), (-math.inf, "value"), (10**400, "value"),
        ([], "type"), ({}, "type"), (b"x", "type"), (1j, "type"), (np.datetime64("2024-01-01"), "type"),
        (np.longdouble(1), "type"), (object(), "type"), ("\ud800", "encoding"),
    ],
)  # fmt: skip
def test_what_is_no_feature_is_refused_with_the_field(value, reason):
    with pytest.raises(EventError, match=r"^user: ") as caught:
        feature_key("user", value)
    assert caught.value.reason == reason


def test_fields_do_not_share_keys():
    assert len({feature_key(f"f{i}", "x") for i in range(1000)}) == 1000


def test_a_partitions_salt_is_a_matter_of_its_name_alone():
    one, other = partition_salts(["t:0", "t:1"]), partition_salts(["t:1", "u:0", "t:0"])
    assert (one[0], one[1]) == (other[2], other[0])
    assert len(set(other.tolist())) == 3
    assert partition_salts(["t:0"]).tolist() == [0xaed5815a89a8eb3]
    assert partition_salts([]).dtype == np.uint64
