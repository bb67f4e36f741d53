"""Which rows are old, and the removal of many at once: what a sweep takes, a pass over the rows and one over the index.

All of 2^20 rows of ffm, k = 4, 39 fields leave in 20 ms; 1/64 of them, the oldest, in 36 ms, most of it the choice of
which (`Table.sweep` on a full table; a search in the index for each key took 80 and 47).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import kernel
from ctr.kernels.layout import (
    ABSENT,
    BIAS_ROW,
    EVICTED,
    EXPIRED,
    FIRST_ROW,
    FREE_FIELD,
    FREE_ROW,
    NEXT_ROW,
    RESERVED_KEYS,
    ROWS,
    SEEN,
)
from ctr.kernels.lookup import take_out_all
from ctr.kernels.marks import clear_dirty
from ctr.kernels.simd import prefetch
from ctr.kernels.step import minute_of

AHEAD = 16
"""Rows between asking for a head and reading it."""


@kernel
def ages(
    W: Any, stride: int, head_step: int, row_key: Any, row_field: Any, counters: Any, time_s: float, ttl_s: float,
    rows: Any, seen: Any,
) -> Any:  # fmt: skip
    """Rows of features that live before the event of `time_s`, from the front of ``rows``; expired ones from its back.

    ``seen`` gets their last-seen minutes. Returns the number of those that live.
    """
    live, dead = 0, rows.shape[0]
    now = max(W[BIAS_ROW * stride + SEEN], minute_of(time_s))
    for row in range(FIRST_ROW, counters[NEXT_ROW]):
        ahead = row + AHEAD
        if ahead < counters[NEXT_ROW] and row_field[ahead] != FREE_FIELD:
            prefetch(W, ahead * stride + row_field[ahead] * head_step)
        if row_field[row] == FREE_FIELD or row_key[row] < RESERVED_KEYS:
            continue
        minute = W[row * stride + row_field[row] * head_step + SEEN]
        if ttl_s > 0 and (np.float64(now) - np.float64(minute)) * 60.0 > ttl_s:
            dead -= 1
            rows[dead] = row
        else:
            rows[live] = row
            seen[live] = minute
            live += 1
    return live


@kernel
def drop(
    index: Any, slots: Any, row_key: Any, row_field: Any, dirty: Any, stored: Any, counters: Any,
    rows: Any, expired: int, leaving: Any, gone: Any,
) -> Any:  # fmt: skip
    """Free ``rows``, of which so many have `expired`, and forget which keys have none.

    ``leaving`` comes as zeros, a bit a row. ``gone`` gets the keys that the store has; returns how many.
    """
    n = 0
    for j in range(rows.shape[0]):
        row = np.int64(rows[j])
        word, bit = row >> 6, np.uint64(1) << np.uint64(row & 63)
        leaving[word] |= bit
        if stored[word] & bit != 0:
            stored[word] ^= bit
            gone[n] = row_key[row]
            n += 1
        clear_dirty(dirty, counters, row)
        row_field[row] = FREE_FIELD
        row_key[row] = np.uint64(counters[FREE_ROW])
        counters[FREE_ROW] = row
    leaving[0] |= np.uint64(1)  # row 0: known to have none
    take_out_all(index, slots, leaving)
    counters[ABSENT] = 0
    counters[ROWS] -= rows.shape[0]
    counters[EXPIRED] += expired
    counters[EVICTED] += rows.shape[0] - expired
    return n
