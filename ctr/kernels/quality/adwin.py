"""Values -> whether their mean has changed: ADWIN's window as an exponential histogram in two small arrays.

Row i of the histogram holds up to `MAX_BUCKETS` buckets of 2^i values each, the oldest first. See `ctr.quality.drift`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ctr.kernels.jit import helper, kernel

MAX_BUCKETS, ROWS = 5, 48
TOTAL, DEVIATIONS = range(2)
"""Of a bucket: the sum of its values, and of their squared deviations from its mean."""
LEAST = 5
"""Values that each part of a window must have."""
ROUNDING = 1e-9
"""Share of the mean below which a difference is none."""


@helper
def merged(n_a: Any, a: Any, dev_a: Any, n_b: Any, b: Any, dev_b: Any) -> Any:
    """Squared deviations of two sets of values together, from their sizes, sums and own deviations."""
    apart = a / n_a - b / n_b
    return dev_a + dev_b + apart * apart * n_a * n_b / (n_a + n_b)


@kernel
def insert(value: Any, buckets: Any, held: Any) -> None:
    """Add a value. In and out: ``buckets`` (ROWS, MAX_BUCKETS + 1, 2), ``held`` (ROWS,) int64, buckets of each row."""
    total, deviations = value, 0.0
    for i in range(ROWS - 1):
        row = buckets[i]
        row[held[i], TOTAL], row[held[i], DEVIATIONS] = total, deviations
        held[i] += 1
        if held[i] <= MAX_BUCKETS:
            return
        size = 2.0**i
        total = row[0, TOTAL] + row[1, TOTAL]
        deviations = merged(size, row[0, TOTAL], row[0, DEVIATIONS], size, row[1, TOTAL], row[1, DEVIATIONS])
        held[i] -= 2
        row[: held[i]] = row[2 : held[i] + 2].copy()


@kernel
def difference(buckets: Any, held: Any, delta: Any, spread: Any, bound: Any) -> Any:
    """By how much the newer part of the window is higher, at the split that shows it best; 0.0 where none does.

    In: ``spread``, R in standard deviations, used where the ``bound`` R is 0.
    """
    n, total, deviations = 0.0, 0.0, 0.0
    for i in range(ROWS - 1, -1, -1):
        for j in range(held[i]):
            size, bucket = 2.0**i, buckets[i, j]
            if n == 0:
                deviations = bucket[DEVIATIONS]
            else:
                deviations = merged(n, total, deviations, size, bucket[TOTAL], bucket[DEVIATIONS])
            n, total = n + size, total + bucket[TOTAL]
    if n < 2 * LEAST:
        return 0.0
    variance, doubt = deviations / n, math.log(2 * math.log(n) / delta)
    reach = bound if bound > 0 else spread * math.sqrt(variance)
    n0, total0, most, found = 0.0, 0.0, 0.0, 0.0
    for i in range(ROWS - 1, -1, -1):
        for j in range(held[i]):
            n0, total0 = n0 + 2.0**i, total0 + buckets[i, j, TOTAL]
            n1 = n - n0
            if n0 < LEAST or n1 < LEAST:
                continue
            r = 1 / n0 + 1 / n1
            epsilon = math.sqrt(2 * r * variance * doubt) + 2 / 3 * reach * r * doubt + ROUNDING * abs(total / n)
            change = (total - total0) / n1 - total0 / n0
            if abs(change) - epsilon > most:
                most, found = abs(change) - epsilon, change
    return found


@kernel
def drop(buckets: Any, held: Any) -> Any:
    """Drop the oldest bucket; returns how many values it had, and their sum."""
    for i in range(ROWS - 1, -1, -1):
        if held[i] > 0:
            total = buckets[i, 0, TOTAL]
            held[i] -= 1
            buckets[i, : held[i]] = buckets[i, 1 : held[i] + 1].copy()
            return np.int64(1) << i, total
    return np.int64(0), 0.0


@kernel
def block(losses: Any, size: Any, carry: Any, means: Any) -> Any:
    """Means of blocks of ``size`` losses; NaN is passed over. Returns how many blocks are full.

    In and out: ``carry`` (2,) sum and number of the losses of the open block. Out: ``means``, with room for all.
    """
    full = 0
    for i in range(losses.shape[0]):
        if math.isnan(losses[i]):
            continue
        carry[0] += losses[i]
        carry[1] += 1
        if carry[1] == size:
            means[full] = carry[0] / size
            full += 1
            carry[:] = 0.0
    return full
