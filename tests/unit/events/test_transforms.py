import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ctr.errors import EventError
from ctr.events.transforms import log_bin, number

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(finite, st.floats(0.1, 100))
def test_a_number_lies_within_its_bin(x, bins_per_e):
    bin_ = int(log_bin(x, bins_per_e))
    edge = bins_per_e * math.log1p(abs(x))
    assume(abs(edge - round(edge)) > 1e-9)  # at an edge the last digit of the logarithm decides
    assert abs(bin_) <= edge < abs(bin_) + 1
    assert bin_ == 0 or (bin_ < 0) == (x < 0)


@given(finite)
def test_a_number_and_its_text_have_one_bin(x):
    assert log_bin(x, 3.0) == log_bin(repr(x), 3.0)
    assert log_bin(np.float64(x), 3.0) == log_bin(x, 3.0)


def test_missing_is_no_bin():
    assert log_bin(None, 3.0) == log_bin("", 3.0) == ""


@pytest.mark.parametrize("text", ["1", "-1", "+1", "01", "1.", ".5", "1.5", "1e3", "1E+3", "1e-3", "-.5e0"])
def test_texts_that_are_numbers(text):
    assert number(text) == float(text)


@pytest.mark.parametrize(
    "text",
    [
        True, None, " 1", "1 ", "1\n", "1_0", "0x1", "inf", "nan", "1e", ".", "+", "", "1,5", "--1", "1e5.0", "\u0663",
        "\uff11",
    ],
)  # fmt: skip
def test_what_is_no_number(text):
    with pytest.raises(EventError) as caught:
        number(text)
    assert caught.value.reason == "type"


@pytest.mark.parametrize("text", ["1e999", "-1e999", math.inf, math.nan, 10**400])
def test_numbers_beyond_float64(text):
    with pytest.raises(EventError) as caught:
        number(text)
    assert caught.value.reason == "value"


def test_a_long_text_of_digits_that_is_no_number_is_told_in_linear_time():
    # a pattern that backtracks takes hours for this; a test of the algorithm, not of a machine's speed
    with pytest.raises(EventError):
        number("1" * 1_000_000 + "x")
