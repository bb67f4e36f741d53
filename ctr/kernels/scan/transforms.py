"""Numbers, times and pairs of keys in, bins, spline weights and keys out: `ctr.events.transforms` for scan kernels.

The same float64 operations in the same order, so that both give the same bits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ctr.kernels.jit import helper
from ctr.kernels.scan.memory import forced
from ctr.kernels.scan.text import P1, P2, P4, P5, RESERVED_KEYS, SHIFT, _finished, rotl

NEGLIGIBLE = 2.0**-24
MAX_DEGREE = 5


@forced
def log_bin(x: Any, bins_per_e: Any) -> Any:
    """``sign(x) floor(bins_per_e ln(1 + |x|))``, with the same log1p, that of libm."""
    magnitude = np.int64(math.floor(bins_per_e * math.log1p(abs(x))))
    return -magnitude if x < 0 else magnitude


@helper
def edge_bin(x: Any, edges: Any, first: Any, last: Any) -> Any:
    """How many of ``edges[first:last]``, which increase, are at most x."""
    low, high = first, last
    while low < high:
        middle = (low + high) // 2
        if edges[middle] <= x:
            low = middle + 1
        else:
            high = middle
    return low - first


@helper
def spline_values(x: Any, knots: Any, first: Any, last: Any, degree: Any, out: Any) -> Any:
    """B-splines at x over ``knots[first:last]``: index of the first one; values of it and the next into ``out[at]``.

    ``out`` holds ``degree + 1`` float64; a value below `NEGLIGIBLE` is to be left out.
    """
    end = last - 1
    x = min(max(x, knots[first]), knots[end])
    interval = min(first + edge_bin(x, knots, first, last) - 1, end - 1)
    out[0] = 1.0
    for d in range(1, degree + 1):
        carried = 0.0
        for r in range(d):
            above = knots[min(interval + r + 1, end)] - x
            below = x - knots[max(interval + 1 - d + r, first)]
            share = out[r] / (above + below)
            out[r] = carried + above * share
            carried = below * share
        out[d] = carried
    return interval - first


@helper
def hour(time_s: Any, utc_offset_h: Any) -> Any:
    """Hour of the day, 0 to 23."""
    return np.int64(math.floor((time_s + 3600.0 * utc_offset_h) / 3600.0)) % 24


@helper
def weekday(time_s: Any, utc_offset_h: Any) -> Any:
    """Day of the week from 0, a Monday, to 6."""
    return (np.int64(math.floor((time_s + 3600.0 * utc_offset_h) / 86400.0)) + 3) % 7


@helper
def cross_key(a: Any, b: Any, seed: Any) -> Any:
    """Key of a pair of features: XXH64 of the 16 bytes of their keys (`ctr.events.hashing.cross_key`)."""
    h = seed + P5 + np.uint64(16)
    h = rotl(h ^ (rotl(a * P2, 31) * P1), 27) * P1 + P4
    h = rotl(h ^ (rotl(b * P2, 31) * P1), 27) * P1 + P4
    h = _finished(h)
    return h if h >= RESERVED_KEYS else h + SHIFT
