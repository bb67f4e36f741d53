"""Keys -> row numbers: the index of a table, and which rows go. See `resolve` for how events use it.

The index is an array of buckets, one cache line each: 5 keys, 5 row numbers, and the number of keys that had to go on
to a later bucket because this one was full (a search goes on only past such a bucket, and removal needs no
tombstones). ``slots`` is the same memory as ``index``, seen as uint32. Row 0 in a slot marks a key that is known to
have no row.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import helper, inlined, kernel
from ctr.kernels.layout import (
    ABSENT,
    BUCKET_SLOTS,
    FREE_FIELD,
    FREE_ROW,
    NEXT_ROW,
    REFUSED_ROWS,
    RESERVED_KEYS,
    ROWS,
    ZERO_ROW,
)
from ctr.kernels.marks import clear_dirty
from ctr.kernels.simd import find5, prefetch

AHEAD = 16
"""Probes between asking for a bucket and reading it."""
ROW_AT, PASSED_AT = 10, 15


@inlined
def home(key: Any, index: Any) -> Any:
    """Bucket in which to look first: by all bits of the key, so that keys that are no hashes do not crowd a few."""
    spread = (key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
    return np.int64((spread * np.uint64(index.shape[0] >> 3)) >> np.uint64(32))


@helper
def find(index: Any, slots: Any, key: Any) -> Any:
    """Row number of a key, 0 if it is known to have none, -1 if it is unknown."""
    bucket = home(key, index)
    while True:
        s = find5(index, bucket * 8, key)
        if s < BUCKET_SLOTS:
            return np.int64(slots[bucket * 16 + ROW_AT + s])
        if slots[bucket * 16 + PASSED_AT] == 0:
            return -1
        bucket = bucket + 1 if bucket + 1 < index.shape[0] >> 3 else 0


@kernel
def place(index: Any, slots: Any, key: Any, row: int) -> None:
    """Put an unknown key into the first free slot."""
    bucket = home(key, index)
    while True:
        s = find5(index, bucket * 8, np.uint64(0))
        if s < BUCKET_SLOTS:
            index[bucket * 8 + s] = key
            slots[bucket * 16 + ROW_AT + s] = row
            return
        slots[bucket * 16 + PASSED_AT] += np.uint32(1)
        bucket = bucket + 1 if bucket + 1 < index.shape[0] >> 3 else 0


@helper
def take_out(index: Any, slots: Any, key: Any) -> None:
    """Remove a known key."""
    bucket = home(key, index)
    while True:
        s = find5(index, bucket * 8, key)
        if s < BUCKET_SLOTS:
            index[bucket * 8 + s] = np.uint64(0)
            slots[bucket * 16 + ROW_AT + s] = 0
            return
        slots[bucket * 16 + PASSED_AT] -= np.uint32(1)
        bucket = bucket + 1 if bucket + 1 < index.shape[0] >> 3 else 0


@helper
def new_row(row_key: Any, counters: Any, key: Any, max_rows: int) -> Any:
    """A free row number for `key`, or 0 if the table is full. Freed rows are chained through `row_key`."""
    if counters[ROWS] + counters[ABSENT] >= max_rows:
        counters[REFUSED_ROWS] += 1
        return np.int64(ZERO_ROW)
    row = counters[FREE_ROW]
    if row != 0:
        counters[FREE_ROW] = np.int64(row_key[row])
    else:
        row = counters[NEXT_ROW]
        counters[NEXT_ROW] += 1
    row_key[row] = key
    counters[ROWS] += 1
    return row


@kernel
def known(index: Any, slots: Any, keys: Any, out: Any) -> None:
    """For each key: 2 held, 1 known to have no row, 0 unknown."""
    for j in range(keys.shape[0]):
        if j + AHEAD < keys.shape[0]:
            prefetch(index, home(keys[j + AHEAD], index) * 8)
        row = find(index, slots, keys[j]) if keys[j] != 0 else np.int64(-1)
        out[j] = 2 if row > 0 else row + 1


@helper
def take_out_all(index: Any, slots: Any, leaving: Any) -> None:
    """Remove all keys whose row has its bit in ``leaving``, a bit a row: one pass, no search.

    Rows behind its end stay. Bit 0 is for keys that are known to have no row.
    """
    buckets = index.shape[0] >> 3
    for bucket in range(buckets):
        for s in range(BUCKET_SLOTS):
            key = index[bucket * 8 + s]
            row = np.int64(slots[bucket * 16 + ROW_AT + s])
            if key == 0 or row >> 6 >= leaving.shape[0]:
                continue
            if (leaving[row >> 6] >> np.uint64(row & 63)) & np.uint64(1) != 0:
                index[bucket * 8 + s] = np.uint64(0)
                slots[bucket * 16 + ROW_AT + s] = 0
                passed = home(key, index)
                while passed != bucket:
                    slots[passed * 16 + PASSED_AT] -= np.uint32(1)
                    passed = passed + 1 if passed + 1 < buckets else 0


@helper
def drop_absent(index: Any, slots: Any, counters: Any) -> None:
    """Forget all keys that are known to have no row."""
    take_out_all(index, slots, np.ones(1, np.uint64))
    counters[ABSENT] = 0


@kernel
def remember_absent(index: Any, slots: Any, counters: Any, keys: Any, max_rows: int) -> None:
    """Mark unknown keys as having no row. A full table forgets all such marks first, then refuses."""
    for key in keys:
        if key >= RESERVED_KEYS and find(index, slots, key) < 0:
            if counters[ROWS] + counters[ABSENT] >= max_rows and counters[ABSENT] > 0:
                drop_absent(index, slots, counters)
            if counters[ROWS] + counters[ABSENT] < max_rows:
                place(index, slots, key, ZERO_ROW)
                counters[ABSENT] += 1


@kernel
def forget(
    index: Any, slots: Any, row_key: Any, row_field: Any, dirty: Any, stored: Any, counters: Any, keys: Any
) -> None:
    """Make keys unknown; their rows are free again."""
    for key in keys:
        row = find(index, slots, key) if key >= RESERVED_KEYS else np.int64(-1)
        if row > 0:
            release(index, slots, row_key, row_field, dirty, stored, counters, key, row)
        elif row == 0:
            take_out(index, slots, key)
            counters[ABSENT] -= 1


@helper
def release(
    index: Any, slots: Any, row_key: Any, row_field: Any, dirty: Any, stored: Any, counters: Any, key: Any, row: int
) -> None:
    """Make a key unknown and its row free."""
    take_out(index, slots, key)
    clear_dirty(dirty, counters, row)
    stored[row >> 6] &= ~(np.uint64(1) << np.uint64(row & 63))
    row_field[row] = FREE_FIELD
    row_key[row] = np.uint64(counters[FREE_ROW])
    counters[FREE_ROW] = row
    counters[ROWS] -= 1


@kernel
def admit(
    index: Any, slots: Any, row_key: Any, dirty: Any, stored: Any, counters: Any, keys: Any, max_rows: int, rows: Any
) -> None:
    """A row for each key that is loaded (0 where the table is full), clean and stored."""
    for j in range(keys.shape[0]):
        key = keys[j]
        row = find(index, slots, key) if key != 0 else np.int64(0)
        if row <= 0 and key >= RESERVED_KEYS:
            if row == 0:  # it was absent; its place in the bound goes to the row
                take_out(index, slots, key)
                counters[ABSENT] -= 1
            if counters[ROWS] + counters[ABSENT] >= max_rows and counters[ABSENT] > 0:
                drop_absent(index, slots, counters)
            row = new_row(row_key, counters, key, max_rows)
            if row != 0:
                place(index, slots, key, row)
        if row > 0:
            clear_dirty(dirty, counters, row)
            stored[row >> 6] |= np.uint64(1) << np.uint64(row & 63)
        rows[j] = max(row, np.int64(0))


@kernel
def held_rows(index: Any, slots: Any, keys: Any, rows: Any) -> Any:
    """All keys that have a row, in the order of the index; returns how many."""
    n = 0
    for bucket in range(index.shape[0] >> 3):
        for s in range(BUCKET_SLOTS):
            row = slots[bucket * 16 + ROW_AT + s]
            if row != 0:
                keys[n] = index[bucket * 8 + s]
                rows[n] = row
                n += 1
    return n
