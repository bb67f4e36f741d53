import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.interpolate import BSpline

from ctr.errors import EventError
from ctr.events.transforms import NEGLIGIBLE, edge_bin, hour, log_bin, number, spline_weights, weekday

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


EDGES = st.lists(st.floats(-1e6, 1e6).map(lambda x: round(x, 3)), min_size=2, max_size=12, unique=True).map(
    lambda edges: tuple(sorted(edges))
)


@given(EDGES, finite)
def test_a_bin_counts_the_edges_at_or_below(edges, x):
    assert edge_bin(x, edges) == edge_bin(repr(x), edges) == str(sum(edge <= x for edge in edges))


def test_bins_are_closed_below():
    assert [edge_bin(x, (1.0, 2.0)) for x in (0.9, 1, 1.9, 2, 2.1, "-0", None, "")] == [*"011220", "", ""]


def naive_basis(i, d, t, x):
    """Cox-de Boor, with 0 / 0 being 0 and the last interval closed."""
    if d == 0:
        return float(t[i] <= x < t[i + 1] or x == t[-1] == t[i + 1] > t[i])
    left = (x - t[i]) / (t[i + d] - t[i]) if t[i + d] > t[i] else 0
    right = (t[i + d + 1] - x) / (t[i + d + 1] - t[i + 1]) if t[i + d + 1] > t[i + 1] else 0
    return left * naive_basis(i, d - 1, t, x) + right * naive_basis(i + 1, d - 1, t, x)


@given(EDGES, st.integers(1, 5), st.floats(-0.2, 1.2))
def test_splines_are_those_of_the_recursion(edges, degree, share):
    x = edges[0] + share * (edges[-1] - edges[0])
    inside = min(max(x, edges[0]), edges[-1])
    t = [edges[0]] * degree + list(edges) + [edges[-1]] * degree
    n = len(edges) - 1 + degree
    got = spline_weights(x, edges, degree)
    assert set(got) <= {f"b{i}" for i in range(n)}
    for i in range(n):
        # each of its few sums and quotients is off by some 2^-53; knots are no closer than 1e-3, so none cancels much
        assert got.get(f"b{i}", 0.0) == pytest.approx(naive_basis(i, degree, t, inside), abs=NEGLIGIBLE)
    assert 1 <= len(got) <= degree + 1
    assert min(got.values()) >= NEGLIGIBLE
    assert sum(got.values()) == pytest.approx(1, abs=degree * NEGLIGIBLE)
    indices = [int(text[1:]) for text in got]
    assert indices == list(range(indices[0], indices[0] + len(got)))


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 5])
def test_splines_are_those_of_scipy(degree):
    edges = (-3.0, 0.0, 0.5, 2.0, 10.0, 1000.0)
    x = np.concatenate([np.linspace(-3, 10, 301), np.geomspace(10, 1000, 100), edges])
    t = np.concatenate([[edges[0]] * degree, edges, [edges[-1]] * degree])
    design = BSpline.design_matrix(x, t, degree).toarray()
    for row, value in zip(design, x.tolist(), strict=True):
        want = {f"b{i}": pytest.approx(b, abs=1e-12) for i, b in enumerate(row) if b >= NEGLIGIBLE}
        assert spline_weights(value, edges, degree) == want


def test_a_linear_weight_a_spline_is_a_polynomial_that_it_can_be():
    # Marsden's identity for degree 3: weights (mean of the inner knots) give x itself
    edges, d = (0.0, 1.0, 4.0, 6.0), 3
    t = [edges[0]] * d + list(edges) + [edges[-1]] * d
    for x in np.linspace(0, 6, 61).tolist():
        got = sum(b * sum(t[int(i[1:]) + 1 : int(i[1:]) + 1 + d]) / d for i, b in spline_weights(x, edges, d).items())
        assert got == pytest.approx(x, abs=1e-5)


def test_a_missing_value_has_no_splines():
    assert spline_weights(None, (0.0, 1.0), 3) == spline_weights("", (0.0, 1.0), 3) == {}
    with pytest.raises(EventError):
        spline_weights("x", (0.0, 1.0), 3)


@given(st.integers(0, 4 * 10**12), st.integers(-28, 28).map(lambda half: half / 2))
def test_hour_and_weekday_are_those_of_the_calendar(time_ms, offset_h):
    local = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=time_ms // 1000, hours=offset_h)
    assert hour(time_ms / 1000, offset_h) == str(local.hour)
    assert weekday(time_ms / 1000, offset_h) == str(local.weekday())
