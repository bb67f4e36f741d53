"""Marks, a bit a row: ``dirty`` since it was last taken, ``stored`` since it was ever taken or loaded."""

from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import inlined, kernel
from ctr.kernels.layout import DIRTY


@inlined
def dirty_word(dirty: Any, row: Any) -> Any:
    """Bit 0 is a row's mark, whatever stands above it: the marks of an event are one branch, not one a row."""
    return dirty[np.uint64(row) >> np.uint64(6)] >> (np.uint64(row) & np.uint64(63))


@inlined
def mark_dirty(dirty: Any, counters: Any, row: Any) -> None:
    """A row that differs from what was last taken. Most do already, so this is a branch that is seldom taken."""
    at, bit = np.uint64(row) >> np.uint64(6), np.uint64(1) << (np.uint64(row) & np.uint64(63))
    if (dirty[at] & bit) == 0:
        dirty[at] |= bit
        counters[DIRTY] += 1


@inlined
def clear_dirty(dirty: Any, counters: Any, row: int) -> None:
    """A row that no longer does."""
    bit = np.uint64(1) << np.uint64(row & 63)
    if (dirty[row >> 6] & bit) != 0:
        dirty[row >> 6] ^= bit
        counters[DIRTY] -= 1


@kernel
def mark_range_dirty(dirty: Any, counters: Any, begin: int, end: int) -> None:
    """Rows ``begin:end`` differ from what was last taken."""
    for row in range(begin, end):
        mark_dirty(dirty, counters, row)


@kernel
def find_dirty(dirty: Any, row_key: Any, chosen: Any, rows: Any) -> int:
    """Numbers of the dirty rows of the chosen shards, ascending, to ``rows``; how many. ``chosen`` (shards,) bool."""
    n, shards = 0, np.uint64(chosen.shape[0])
    for word in range(dirty.shape[0]):
        if dirty[word] != 0:
            for bit in range(64):
                if ((dirty[word] >> np.uint64(bit)) & np.uint64(1)) != 0:
                    row = word * 64 + bit
                    if shards == 1 or chosen[np.int64(row_key[row] % shards)]:
                        rows[n] = row
                        n += 1
    return n


@kernel
def settle(dirty: Any, stored: Any, counters: Any, rows: Any) -> None:
    """These rows, dirty before, are clean and stored."""
    for row in rows:
        bit = np.uint64(1) << np.uint64(row & 63)
        dirty[row >> 6] ^= bit
        stored[row >> 6] |= bit
    counters[DIRTY] -= rows.shape[0]
