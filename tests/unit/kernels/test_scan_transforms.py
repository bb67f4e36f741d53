"""The scanners' transforms give the same bits as `ctr.events.transforms`, which defines them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from ctr.events import transforms as exact
from ctr.events.hashing import cross_key
from ctr.kernels.scan import transforms as fast

finite = st.floats(allow_nan=False, allow_infinity=False)
near = st.integers(-40, 40).map(lambda n: n / 4)  # edges and numbers of one grid: a number often lies on an edge
edges = st.lists(near | st.floats(-1e6, 1e6).map(lambda x: round(x, 3)), min_size=1, max_size=12, unique=True).map(
    lambda found: np.array(sorted(found))
)
times = st.integers(-(10**12), 4 * 10**12).map(lambda ms: ms / 1000)
offsets = st.integers(-28, 28).map(lambda half: half / 2)


@njit
def call_log_bin(x, bins_per_e):
    return fast.log_bin(x, bins_per_e)


@njit
def call_edge_bin(x, found, first, last):
    return fast.edge_bin(x, found, first, last)


@njit
def call_spline_values(x, knots, first, last, degree, out):
    return fast.spline_values(x, knots, first, last, degree, out)


@njit
def call_clock(time_s, offset_h):
    return fast.hour(time_s, offset_h), fast.weekday(time_s, offset_h)


@njit
def call_cross_key(a, b, seed):
    return fast.cross_key(a, b, seed)


@given(finite, st.floats(0.1, 100))
def test_log_bins(x, bins_per_e):
    assert str(call_log_bin(x, bins_per_e)) == exact.log_bin(x, bins_per_e)


@given(edges, near | finite, st.integers(0, 3))
def test_edge_bins_of_a_part_of_an_array(found, x, before):
    padded = np.concatenate([np.full(before, -1e9), found, np.full(2, -1e9)])  # neighbours that must not count
    assert str(call_edge_bin(x, padded, before, before + len(found))) == exact.edge_bin(x, tuple(found))


@given(edges.filter(lambda found: len(found) > 1), near | finite, st.integers(1, fast.MAX_DEGREE), st.integers(0, 3))
def test_splines(knots, x, degree, before):
    padded = np.concatenate([np.full(before, -1e9), knots, np.full(2, 1e9)])
    out = np.full(degree + 1, np.nan)
    first = call_spline_values(x, padded, before, before + len(knots), degree, out)
    got = {f"b{first + i}": value for i, value in enumerate(out.tolist()) if value >= fast.NEGLIGIBLE}
    assert got == exact.spline_weights(x, tuple(knots.tolist()), degree)


@given(times, offsets)
def test_clocks(time_s, offset_h):
    hour, weekday = call_clock(time_s, offset_h)
    assert (str(hour), str(weekday)) == (exact.hour(time_s, offset_h), exact.weekday(time_s, offset_h))


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_keys_of_pairs(seed, a, b):
    assert int(call_cross_key(np.uint64(a), np.uint64(b), np.uint64(seed))) == cross_key(a, b, seed)
