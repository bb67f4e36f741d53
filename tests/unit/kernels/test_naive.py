"""The twin itself: FM's two forms agree, FFM contains FM, gradients agree with finite differences."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive import adagrad, ffm_gradient, ffm_logit, fm_logit, fm_logit_fast, logloss, mix64


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 8))
def test_fm_in_linear_time_equals_the_pair_sum(seed, n, k):
    rng = np.random.default_rng(seed)
    x, b, w, v = rng.normal(size=n), rng.normal(), rng.normal(size=n), rng.normal(size=(n, k))
    assert fm_logit_fast(x, b, w, v) == pytest.approx(fm_logit(x, b, w, v), rel=1e-9, abs=1e-9)


def test_ffm_with_the_same_vector_for_all_partners_is_fm():
    rng = np.random.default_rng(0)
    n, k = 6, 3
    x, w, v = rng.normal(size=n), rng.normal(size=n), rng.normal(size=(n, k))
    aware = np.repeat(v[:, None, :], n, axis=1)
    assert ffm_logit(x, range(n), 0.5, w, aware) == pytest.approx(fm_logit(x, 0.5, w, v))


def test_ffm_by_hand():
    """Three features, the last two of one field: only the pairs (0, 1) and (0, 2) count."""
    x, f, w = np.array([1.0, 2.0, 3.0]), [0, 1, 1], np.array([0.1, 0.2, 0.3])
    v = np.zeros((3, 2, 1))
    v[0, 1], v[1, 0], v[2, 0], v[1, 1], v[2, 1] = 2.0, 5.0, 7.0, 100.0, 100.0
    assert ffm_logit(x, f, 0.5, w, v, r=0.1) == pytest.approx(0.5 + 1.4 + 0.1 * (2 * 10 + 3 * 14))


@given(st.integers(0, 2**32))
def test_gradient_agrees_with_finite_differences(seed):
    rng = np.random.default_rng(seed)
    n, F, k, r, c = 5, 3, 2, 0.3, 1.7
    x, f, y = rng.normal(size=n), sorted(rng.integers(0, F, n)), int(rng.integers(2))
    b, w, v = rng.normal(), rng.normal(size=n), rng.normal(size=(n, F, k)) / 2
    p = 1 / (1 + math.exp(-ffm_logit(x, f, b, w, v, r)))
    gb, gw, gv = ffm_gradient(x, f, c * (p - y), v, r)
    h = 1e-5

    def numeric(change):
        up, down = (c * logloss(ffm_logit(x, f, *change(s * h), r), y) for s in (1, -1))
        return (up - down) / (2 * h)

    def bumped(array, at, by):
        array = array.copy()
        array[at] += by
        return array

    assert gb == pytest.approx(numeric(lambda s: (b + s, w, v)), abs=1e-7)
    for i in range(n):
        assert gw[i] == pytest.approx(numeric(lambda s, i=i: (b, bumped(w, i, s), v)), abs=1e-7)
    for at in np.ndindex(*v.shape):
        assert gv[at] == pytest.approx(numeric(lambda s, at=at: (b, w, bumped(v, at, s))), abs=1e-7)


def test_adagrad_by_hand():
    w, n = adagrad(1.0, 0.75, 0.5, step=0.1)
    assert n == 1.0
    assert w == 0.95


def test_start_values_are_splitmix64():
    """The first outputs of SplitMix64 seeded with 1234567, as published with its reference implementation."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    outputs = [mix64((1234567 + (c + 1) * 0x9E3779B97F4A7C15) % 2**64) for c in range(3)]
    assert outputs == published
