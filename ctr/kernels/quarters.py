"""Sixteen floats that stand in four places, four in each: the heads of four rows as one vector, or coordinates.

Four such vectors are four coordinates of sixteen rows; `columns` puts each one's sixteen side by side, `quarters`
is the reverse.
"""

# ruff: noqa: ARG001  Numba's code generators have fixed signatures
from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from ctr.kernels.jit import inlined
from ctr.kernels.simd import I16, V16, _address, _intrinsic, _vec, f32, float16x, i32, shuffle

V4 = _vec(f32, 4)


@_intrinsic
def load4x4(typing: Any, array: Any, o0: Any, o1: Any, o2: Any, o3: Any) -> Any:
    """Floats ``o:o + 4`` of a float32 array for four offsets o, one behind the other."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        quarters = []
        for type_, offset in zip(signature.args[1:], args[1:], strict=True):
            p = _address(context, b, signature.args[0], args[0], type_, offset)
            quarters.append(b.load(b.bitcast(p, V4.as_pointer()), align=4))
        eight = ir.Constant(_vec(i32, 8), list(range(8)))
        halves = [b.shuffle_vector(*quarters[at : at + 2], eight) for at in (0, 2)]
        return b.shuffle_vector(*halves, ir.Constant(I16, list(range(16))))

    return float16x(array, o0, o1, o2, o3), generate


@_intrinsic
def store4x4(typing: Any, array: Any, o0: Any, o1: Any, o2: Any, o3: Any, value: Any) -> Any:
    """Write what `load4x4` reads."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        undefined = ir.Constant(V16, ir.Undefined)
        for j, (type_, offset) in enumerate(zip(signature.args[1:5], args[1:5], strict=True)):
            p = _address(context, b, signature.args[0], args[0], type_, offset)
            part = b.shuffle_vector(args[5], undefined, ir.Constant(_vec(i32, 4), list(range(4 * j, 4 * j + 4))))
            b.store(part, b.bitcast(p, V4.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, o0, o1, o2, o3, float16x), generate


def _of_each(quarter: list[int]) -> list[int]:
    return [lane + 4 * j for lane in quarter for j in range(8)]


coordinates_01, coordinates_23 = shuffle(_of_each([0, 1])), shuffle(_of_each([2, 3]))
halves_02, halves_13 = shuffle([*range(8), *range(16, 24)]), shuffle([*range(8, 16), *range(24, 32)])
first_rows, later_rows = (
    shuffle([row + 8 * j for row in range(at, at + 4) for j in range(4)]) for at in (0, 4)
)  # fmt: skip


@inlined
def quarter(array: Any, base: Any, f: int, at: int) -> Any:
    """Floats ``at:at + 4`` of rows f to f + 3, which begin at ``base``."""
    return load4x4(array, base[f] + at, base[f + 1] + at, base[f + 2] + at, base[f + 3] + at)


@inlined
def columns(a: Any, b: Any, c: Any, d: Any) -> Any:
    """Rows 0 to 3, 4 to 7, .. of four coordinates each -> sixteen rows of coordinate 0, 1, 2, 3."""
    x, y, z, w = coordinates_01(a, b), coordinates_01(c, d), coordinates_23(a, b), coordinates_23(c, d)
    return halves_02(x, y), halves_13(x, y), halves_02(z, w), halves_13(z, w)


@inlined
def quarters(a: Any, b: Any, c: Any, d: Any) -> Any:
    """The reverse of `columns`."""
    x, y, z, w = halves_02(a, b), halves_13(a, b), halves_02(c, d), halves_13(c, d)
    return first_rows(x, z), later_rows(x, z), first_rows(y, w), later_rows(y, w)
