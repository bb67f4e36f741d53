"""Kernels that only a scorer calls. A change here compiles nothing else anew (see `ctr.kernels.build`)."""

from __future__ import annotations

from numba import njit

from ctr.kernels.jit import Function


def brief(function: Function) -> Function:
    """As `ctr.kernels.jit.kernel`, but the GIL is kept: for what an event loop calls and takes microseconds.

    Who gives the GIL away for so short a time gets it back when the thread that follows the store likes to: after up
    to a switch interval, half a millisecond.
    """
    compiled: Function = njit(cache=True, error_model="numpy")(function)
    return compiled
