"""How functions are compiled: `kernel` for what Python calls, `helper` and `inlined` for what kernels call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

Function = Callable[..., Any]


def kernel(function: Function) -> Function:
    """Compiled at its first call, kept on disk (see `build`), runs without the GIL."""
    compiled: Function = njit(cache=True, nogil=True, error_model="numpy")(function)
    return compiled


def declared(signature: str) -> Callable[[Function], Function]:
    """As `kernel`, for these types only: it raises TypeError for others instead of being compiled for them too."""

    def compile_it(function: Function) -> Function:
        compiled: Function = njit(signature, cache=True, nogil=True, error_model="numpy")(function)
        return compiled

    return compile_it


def helper(function: Function) -> Function:
    """Compiled with its caller; LLVM decides whether to inline it."""
    compiled: Function = njit(error_model="numpy")(function)
    return compiled


def inlined(function: Function) -> Function:
    """Part of its caller before LLVM sees it: for vectors and for compile-time constants as arguments."""
    compiled: Function = njit(inline="always", error_model="numpy")(function)
    return compiled


def bare(function: Function) -> Function:
    """As `helper`, without counting references to arrays: for loops that call what is inlined and allocate nothing.

    What is inlined counts a reference to each of its arrays up and down, atomically: lr took 1,439 ns an event with
    that and 296 without (39 fields, 2^10 rows).
    """
    compiled: Function = njit(error_model="numpy", _nrt=False)(function)  # type: ignore[call-overload]  # _nrt is no public option
    return compiled
