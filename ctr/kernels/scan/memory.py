"""Bytes at an address as Numba values: words, comparisons of 32 bytes at once, and the bit counts that go with them.

An address is an int64. Nobody checks it: callers keep the memory alive and see to it that 64 bytes behind a line's end
may be read (`ctr.events.scanner` copies the lines at the end of a buffer to where that holds). Addresses instead of
arrays, because a line may lie in the one or the other, read-only or not, and an array as an argument is seven words.
"""

# ruff: noqa: ARG001  Numba's code generators have fixed signatures
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic

i1, i8, i32, i64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))
BYTES32 = ir.VectorType(i8, 32)


def _intrinsic(typer: Callable[..., Any]) -> Callable[..., Any]:
    """Numba's decorator, for mypy: what it returns is called with the arguments after `typing`."""
    made: Callable[..., Any] = intrinsic(typer)
    return made


def forced(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `ctr.kernels.jit.helper`, but LLVM must inline it, which it mostly does not do of its own accord.

    The calls cost more than what is called: an event of 39 fields took 40 % longer to scan with `helper` alone.
    """
    compiled: Callable[..., Any] = njit(error_model="numpy", forceinline=True)(function)
    return compiled


def _load(kind: Any, doc: str) -> Any:
    def typer(typing: Any, address: Any) -> Any:
        def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
            return b.zext(b.load(b.inttoptr(args[0], kind.as_pointer()), align=1), i64)

        return types.uint64(types.int64), generate

    typer.__doc__ = doc
    return _intrinsic(typer)


word4 = _load(i32, "Four bytes, the first one lowest, as a uint64.")


@_intrinsic
def word8(typing: Any, address: Any) -> Any:
    """Eight bytes, the first one lowest, as a uint64."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.load(b.inttoptr(args[0], i64.as_pointer()), align=1)

    return types.uint64(types.int64), generate


@_intrinsic
def put8(typing: Any, address: Any, word: Any) -> Any:
    """Write the eight bytes of a uint64, the lowest first."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        b.store(args[1], b.inttoptr(args[0], i64.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint64), generate


@_intrinsic
def byte(typing: Any, address: Any) -> Any:
    """One byte as an int64."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.zext(b.load(b.inttoptr(args[0], i8.as_pointer()), align=1), i64)

    return types.int64(types.int64), generate


def _compare(count: int, comparison: str, signed: bool, doc: str) -> Any:
    vector = ir.VectorType(i8, count)

    def typer(typing: Any, address: Any, value: Any) -> Any:
        def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
            some = b.load(b.inttoptr(args[0], vector.as_pointer()), align=1)
            undefined = ir.Constant(vector, ir.Undefined)
            one = b.insert_element(undefined, b.trunc(args[1], i8), ir.Constant(i32, 0))
            all_equal = b.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(i32, count), [0] * count))
            compare = b.icmp_signed if signed else b.icmp_unsigned
            bits = b.bitcast(compare(comparison, some, all_equal), ir.IntType(count))
            return b.zext(bits, i64) if count < 64 else bits

        return types.uint64(types.int64, types.int64), generate

    typer.__doc__ = doc
    return _intrinsic(typer)


equal32 = _compare(32, "==", False, "Which of the 32 bytes at an address equal a value: bit i for byte i.")
below32 = _compare(32, "<", False, "Which of the 32 bytes at an address are less than a value, unsigned.")
signed_below32 = _compare(32, "<", True, "Which of the 32 bytes at an address are less than a value, as int8.")
equal64 = _compare(64, "==", False, "As `equal32`, of 64 bytes.")
signed_below64 = _compare(64, "<", True, "As `signed_below32`, of 64 bytes.")


@_intrinsic
def differ32(typing: Any, a: Any, b: Any) -> Any:
    """Which of the 32 bytes at two addresses differ."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        one, other = (b.load(b.inttoptr(arg, BYTES32.as_pointer()), align=1) for arg in args)
        return b.zext(b.bitcast(b.icmp_unsigned("!=", one, other), i32), i64)

    return types.uint64(types.int64, types.int64), generate


@_intrinsic
def trailing_zeros(typing: Any, word: Any) -> Any:
    """Index of the lowest set bit of a uint64; 64 where none is."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        count = cgutils.get_or_insert_function(b.module, ir.FunctionType(i64, [i64, i1]), "llvm.cttz.i64")  # type: ignore[no-untyped-call]  # numba
        return b.call(count, [args[0], ir.Constant(i1, 0)])

    return types.int64(types.uint64), generate


@_intrinsic
def ones_in(typing: Any, word: Any) -> Any:
    """How many bits of a uint64 are set."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        count = cgutils.get_or_insert_function(b.module, ir.FunctionType(i64, [i64]), "llvm.ctpop.i64")  # type: ignore[no-untyped-call]  # numba
        return b.call(count, [args[0]])

    return types.int64(types.uint64), generate
