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


def helper(function: Function) -> Function:
    """Compiled with its caller; LLVM decides whether to inline it."""
    compiled: Function = njit(error_model="numpy")(function)
    return compiled


def inlined(function: Function) -> Function:
    """Part of its caller before LLVM sees it: for vectors and for compile-time constants as arguments."""
    compiled: Function = njit(inline="always", error_model="numpy")(function)
    return compiled
