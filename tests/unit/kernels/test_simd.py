"""One canary for each intrinsic: what Numba and LLVM make of it on this processor."""

import numpy as np
import pytest
from numba import njit

from ctr.kernels import simd

X = np.array([0.1 * i - 0.7 for i in range(16)], np.float32)
Y = np.array([1.5 - 0.3 * i for i in range(16)], np.float32)
Z = np.array([2.0**-i for i in range(16)], np.float32)


def run(operation, *arrays):
    """Sixteen lanes in, sixteen lanes out, with an offset of 3 on either side."""
    padded = [np.concatenate([np.zeros(3, np.float32), array]) for array in arrays]
    out = np.zeros(19, np.float32)
    load, store = simd.load16, simd.store16
    if len(arrays) == 1:
        njit(lambda a, out: store(out, 3, operation(load(a, 3))))(*padded, out)
    elif len(arrays) == 2:
        njit(lambda a, b, out: store(out, 3, operation(load(a, 3), load(b, 3))))(*padded, out)
    else:
        njit(lambda a, b, c, out: store(out, 3, operation(load(a, 3), load(b, 3), load(c, 3))))(*padded, out)
    assert not out[:3].any()
    return out[3:]


def test_load_and_store_move_sixteen_floats_and_no_more():
    out = np.full(40, 9, np.float32)
    njit(lambda a, out: simd.store16(out, 5, simd.load16(a, 2)))(np.arange(40, dtype=np.float32), out)
    np.testing.assert_array_equal(out[5:21], np.arange(2, 18))
    assert (out[:5] == 9).all()
    assert (out[21:] == 9).all()


def test_set():
    out = np.zeros(16, np.float32)
    njit(lambda x, out: simd.store16(out, 0, simd.set16(x)))(np.float32(2.5), out)
    assert (out == 2.5).all()


@pytest.mark.parametrize(("operation", "expected"), [(simd.add, X + Y), (simd.sub, X - Y), (simd.mul, X * Y),
                                                     (simd.maximum, np.maximum(X, Y)), (simd.minimum, np.minimum(X, Y)),
                                                     (simd.below, X < Y)])  # fmt: skip
def test_arithmetic_is_exact(operation, expected):
    np.testing.assert_array_equal(run(operation, X, Y), expected)


def test_fused_multiply_add():
    exact = X.astype(float) * Y + Z
    np.testing.assert_allclose(run(simd.fma, X, Y, Z), exact, rtol=0, atol=2**-23)
    np.testing.assert_allclose(run(simd.fnma, X, Y, Z), Z - X.astype(float) * Y, rtol=0, atol=2**-23)


def test_fused_multiply_add_rounds_once():
    if not simd.FMA:
        pytest.skip("no such instruction here: multiply and add")
    x = np.full(16, 1 + 2**-12, np.float32)  # its square needs 25 bits
    assert (run(simd.fma, x, x, -np.ones(16, np.float32)) == np.float32(2**-11 + 2**-24)).all()


def test_reciprocal_square_root():
    bound = {"avx512": 2**-14, "avx2": 1.5 * 2**-12, "portable": 2**-16}[simd.ISA]
    for scale in (1e-6, 0.1, 1.0, 3e4, 1e30):
        x = (np.linspace(1, 4, 16) * scale).astype(np.float32)
        np.testing.assert_allclose(run(simd.rsqrt, x), 1 / np.sqrt(x.astype(float)), rtol=bound)


def test_reciprocal():
    bound = {"avx512": 2**-14, "avx2": 1.5 * 2**-12, "portable": 2**-23}[simd.ISA]
    for scale in (1e-30, 0.1, 1.0, -3e4, 1e30):
        x = (np.linspace(1, 4, 16) * scale).astype(np.float32)
        np.testing.assert_allclose(run(simd.rcp, x), 1 / x.astype(float), rtol=bound)


def test_horizontal_sum():
    out = njit(lambda a: simd.hsum(simd.load16(a, 0)))(Z)
    assert out == Z.sum()  # exact: powers of two


def test_shuffle_takes_lanes_of_both():
    lanes = [*range(0, 32, 2)]
    operation = simd.shuffle(lanes)
    np.testing.assert_array_equal(run(operation, X, Y), np.concatenate([X, Y])[lanes])


def test_nothing_is_below_itself_or_not_a_number():
    assert not run(simd.below, X, X).any()
    assert not run(simd.below, np.full(16, -np.inf, np.float32), np.full(16, np.nan, np.float32)).any()


def test_blend_takes_groups_of_the_second():
    expected = np.where(np.arange(16) // 4 % 2 == 1, Y, X)
    np.testing.assert_array_equal(run(simd.blend(4, 1, 3), X, Y), expected)


def test_prefetch_never_faults():
    njit(lambda a: simd.prefetch(a, 1 << 40))(X)


@pytest.mark.parametrize("at", range(9))
def test_find_a_key_in_a_bucket(at):
    line = np.arange(100, 124, dtype=np.uint64)
    line[10] = line[8]  # the first of equal ones counts
    find = njit(lambda a, key: simd.find5(a, 8, key))
    expected = {0: 0, 1: 1, 2: 0, 3: 3, 4: 4}.get(at, 5)  # lanes 5..7 are not keys
    assert find(line, line[8 + at]) == expected
    assert find(line, np.uint64(2**63 + 108)) == 5
