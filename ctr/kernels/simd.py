"""Sixteen float32 as one Numba value, and what can be done with it on this processor.

LLVM does not vectorise the loops of a factorization machine by itself (aliasing, sums, square roots); with a vector as
a first-class value we say what we mean. Nothing is contracted or reordered: a kernel gives the same bits wherever it is
inlined. `ISA` is chosen at start: ``avx512``, ``avx2`` (two halves), or ``portable`` (no x86 intrinsic at all).
"""

# ruff: noqa: ARG001  Numba's code generators have fixed signatures
from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, register_model

LANES = 16
_features = llvm.get_host_cpu_features()
_aarch64 = llvm.get_process_triple().startswith("aarch64")
FMA = bool(_features.get("fma")) or _aarch64
ISA = BEST_ISA = "avx512" if _features.get("avx512f") else "avx2" if _features.get("avx2") and FMA else "portable"
ISAS = ("portable", "avx2", "avx512")
"""In ascending order: a processor that has one has all before it."""


def use(isa: str) -> None:
    """Generate code for `isa` from here on; see `build.use`."""
    global FMA, ISA  # the code generators below read them when a kernel is compiled
    ISA, FMA = isa, isa != "portable" or _aarch64

f32, i8, i16, i32, i64 = ir.FloatType(), ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)


def _intrinsic(typer: Callable[..., Any]) -> Callable[..., Any]:
    """Numba's decorator, for mypy: what it returns is called with the arguments after `typing`."""
    made: Callable[..., Any] = intrinsic(typer)
    return made


def _vec(element: Any, n: int) -> Any:
    return ir.VectorType(element, n)


V16, V8, I16 = _vec(f32, 16), _vec(f32, 8), _vec(i32, 16)


class Float16Type(types.Type):
    """Numba's type of ``<16 x float>``."""

    def __init__(self) -> None:
        super().__init__(name="float32x16")


float16x = Float16Type()


@register_model(Float16Type)
class _Float16Model(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, V16)  # type: ignore[no-untyped-call]  # numba


def _address(context: Any, b: Any, array_type: Any, array: Any, offset_type: Any, offset: Any) -> Any:
    data = context.make_array(array_type)(context, b, array).data
    return b.gep(data, [context.cast(b, offset, offset_type, types.int64)])


def _call(b: Any, name: str, result: Any, args: list[Any]) -> Any:
    signature = ir.FunctionType(result, [arg.type for arg in args])
    return b.call(_declared(b, signature, name), args)


def _declared(b: Any, signature: Any, name: str) -> Any:
    return cgutils.get_or_insert_function(b.module, signature, name)  # type: ignore[no-untyped-call]  # numba


def _fma(b: Any, x: Any, y: Any, z: Any) -> Any:
    if FMA:
        return _call(b, "llvm.fma.v16f32", V16, [x, y, z])
    return b.fadd(b.fmul(x, y), z)  # without the instruction llvm.fma would call libm sixteen times


@_intrinsic
def load16(typing: Any, array: Any, offset: Any) -> Any:
    """Floats ``offset:offset + 16`` of a float32 array."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        p = _address(context, b, signature.args[0], args[0], signature.args[1], args[1])
        return b.load(b.bitcast(p, V16.as_pointer()), align=4)

    return float16x(array, offset), generate


@_intrinsic
def store16(typing: Any, array: Any, offset: Any, value: Any) -> Any:
    """Write `value` to floats ``offset:offset + 16``."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        p = _address(context, b, signature.args[0], args[0], signature.args[1], args[1])
        b.store(args[2], b.bitcast(p, V16.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, offset, float16x), generate


@_intrinsic
def set16(typing: Any, x: Any) -> Any:
    """Sixteen times x."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        x = context.cast(b, args[0], signature.args[0], types.float32)
        one = b.insert_element(ir.Constant(V16, ir.Undefined), x, ir.Constant(i32, 0))
        return b.shuffle_vector(one, ir.Constant(V16, ir.Undefined), ir.Constant(I16, [0] * LANES))

    return float16x(x), generate


def _binary(operation: str, doc: str) -> Callable[..., Any]:
    def typer(typing: Any, x: Any, y: Any) -> Any:
        def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
            return getattr(b, operation)(*args)

        return float16x(float16x, float16x), generate

    typer.__doc__ = doc
    return _intrinsic(typer)


add, sub, mul = _binary("fadd", "x + y"), _binary("fsub", "x - y"), _binary("fmul", "x y")


def _choice(comparison: str, doc: str) -> Callable[..., Any]:
    def typer(typing: Any, x: Any, y: Any) -> Any:
        def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
            return b.select(b.fcmp_ordered(comparison, args[0], args[1]), args[0], args[1])

        return float16x(float16x, float16x), generate

    typer.__doc__ = doc
    return _intrinsic(typer)


maximum = _choice(">", "Lane by lane, y where x is NaN.")
minimum = _choice("<", "Lane by lane, y where x is NaN.")


@_intrinsic
def below(typing: Any, x: Any, y: Any) -> Any:
    """Lane by lane, 1 where x < y, else 0."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        one, zero = (ir.Constant(V16, [value] * LANES) for value in (1.0, 0.0))
        return b.select(b.fcmp_ordered("<", *args), one, zero)

    return float16x(float16x, float16x), generate


@_intrinsic
def fma(typing: Any, x: Any, y: Any, z: Any) -> Any:
    """Return x y + z."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return _fma(b, *args)

    return float16x(float16x, float16x, float16x), generate


@_intrinsic
def fnma(typing: Any, x: Any, y: Any, z: Any) -> Any:
    """Return z - x y."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return _fma(b, b.fneg(args[0]), args[1], args[2])

    return float16x(float16x, float16x, float16x), generate


def _estimate(b: Any, name: str, x: Any) -> Any:
    """What the processor guesses: ``rsqrt`` or ``rcp`` of sixteen lanes (avx512) or of twice eight (avx2)."""
    if ISA == "avx512":
        return _call(b, f"llvm.x86.avx512.{name}14.ps.512", V16, [x, ir.Constant(V16, None), ir.Constant(i16, -1)])
    undefined = ir.Constant(V16, ir.Undefined)
    halves = [
        _call(b, f"llvm.x86.avx.{name}.ps.256", V8,
              [b.shuffle_vector(x, undefined, ir.Constant(_vec(i32, 8), list(range(at, at + 8))))])
        for at in (0, 8)
    ]  # fmt: skip
    return b.shuffle_vector(*halves, ir.Constant(I16, list(range(16))))


@_intrinsic
def rcp(typing: Any, x: Any) -> Any:
    """1 / x for normal x within a relative 2^-14 (avx512), 1.5 2^-12 (avx2), 2^-24 (portable)."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        if ISA in ("avx512", "avx2"):
            return _estimate(b, "rcp", args[0])
        return b.fdiv(ir.Constant(V16, [1.0] * LANES), args[0])

    return float16x(x), generate


@_intrinsic
def rsqrt(typing: Any, x: Any) -> Any:
    """1 / sqrt(x) for normal x > 0 within a relative 2^-14 (avx512), 1.5 2^-12 (avx2), 2^-16 (portable).

    Square root and division instead halve the kernel's speed.
    """

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        (x,) = args
        if ISA in ("avx512", "avx2"):
            return _estimate(b, "rsqrt", x)
        # Bits of an approximation, then two Newton steps.
        magic, one = ir.Constant(I16, [0x5F3759DF] * LANES), ir.Constant(I16, [1] * LANES)
        y = b.bitcast(b.sub(magic, b.lshr(b.bitcast(x, I16), one)), V16)
        minus_half = b.fmul(x, ir.Constant(V16, [-0.5] * LANES))
        for _ in range(2):
            y = b.fmul(y, _fma(b, b.fmul(minus_half, y), y, ir.Constant(V16, [1.5] * LANES)))
        return y

    return float16x(x), generate


@_intrinsic
def hsum(typing: Any, x: Any) -> Any:
    """Sum of all lanes, halving: 16, 8, 4, 2."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        (v,), n = args, LANES
        while n > 1:
            n //= 2
            undefined = ir.Constant(v.type, ir.Undefined)
            low, high = (
                b.shuffle_vector(v, undefined, ir.Constant(_vec(i32, n), list(range(at, at + n)))) for at in (0, n)
            )
            v = b.fadd(low, high)
        return b.extract_element(v, ir.Constant(i32, 0))

    return types.float32(x), generate


def shuffle(lanes: Iterable[int]) -> Callable[..., Any]:
    """Make f(x, y) whose lane l is lane ``lanes[l]`` of x and y laid end to end."""

    def typer(typing: Any, x: Any, y: Any) -> Any:
        def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
            return b.shuffle_vector(*args, ir.Constant(I16, lanes))

        return float16x(float16x, float16x), generate

    lanes = list(lanes)
    return _intrinsic(typer)


def blend(width: int, *groups: int) -> Callable[..., Any]:
    """Make f(x, y) that is x, but y in these groups of `width` lanes."""
    return shuffle(lane + LANES * (lane // width in groups) for lane in range(LANES))


@_intrinsic
def prefetch(typing: Any, array: Any, offset: Any) -> Any:
    """Ask for the cache line of element `offset` in L2 (prefetcht1: L1 is too small for the next event's rows)."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        p = _address(context, b, signature.args[0], args[0], signature.args[1], args[1])
        p = b.bitcast(p, i8.as_pointer())
        ask = _declared(b, ir.FunctionType(ir.VoidType(), [p.type, i32, i32, i32]), "llvm.prefetch.p0")
        b.call(ask, [p, *(ir.Constant(i32, value) for value in (0, 2, 1))])  # read, locality 2, data
        return context.get_dummy_value()

    return types.void(array, offset), generate


@_intrinsic
def find5(typing: Any, array: Any, offset: Any, key: Any) -> Any:
    """Index of the first of the five uint64 at ``offset`` (of a line of eight) that equals `key`; 5 if none does."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        line = _vec(i64, 8)
        p = _address(context, b, signature.args[0], args[0], signature.args[1], args[1])
        keys = b.load(b.bitcast(p, line.as_pointer()), align=8)
        undefined = ir.Constant(line, ir.Undefined)
        key = context.cast(b, args[2], signature.args[2], types.uint64)
        one = b.insert_element(undefined, key, ir.Constant(i32, 0))
        same = b.icmp_unsigned("==", keys, b.shuffle_vector(one, undefined, ir.Constant(_vec(i32, 8), [0] * 8)))
        bits = b.zext(b.bitcast(same, i8), i64)
        # lanes 5..7 hold rows and the overflow count: whether they are equal or not, the sixth bit stands for "none"
        bits = b.or_(bits, ir.Constant(i64, -32))
        return b.cttz(bits, ir.Constant(ir.IntType(1), 1))

    return types.int64(array, offset, key), generate
