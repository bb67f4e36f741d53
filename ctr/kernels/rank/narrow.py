"""One block of a row as a vector: its kp floats in the lower lanes of sixteen, zeros above."""

# ruff: noqa: ARG001  Numba's code generators have fixed signatures
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ctr.kernels.simd import I16, f32, float16x


def load_block(kp: int) -> Callable[..., Any]:
    """Make f(array, offset), floats ``offset:offset + kp`` of a float32 array: one load, the upper lanes come free."""

    def typer(typing: Any, array: Any, offset: Any) -> Any:
        def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
            data = context.make_array(signature.args[0])(context, b, args[0]).data
            p = b.gep(data, [context.cast(b, args[1], signature.args[1], types.int64)])
            block = b.load(b.bitcast(p, ir.VectorType(f32, kp).as_pointer()), align=4)
            zeros = ir.Constant(block.type, None)
            return b.shuffle_vector(block, zeros, ir.Constant(I16, [min(lane, kp) for lane in range(16)]))

        return float16x(array, offset), generate

    made: Callable[..., Any] = intrinsic(typer)
    return made


block4, block8 = load_block(4), load_block(8)
