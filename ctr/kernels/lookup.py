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
    BIAS_ROW,
    BUCKET_SLOTS,
    DIRTY,
    EVICTED,
    EXPIRED,
    FIRST_ROW,
    FREE_FIELD,
    FREE_ROW,
    NEXT_ROW,
    REFUSED_ROWS,
    RESERVED_KEYS,
    ROWS,
    SEEN,
    ZERO_ROW,
)
from ctr.kernels.simd import find5, prefetch
from ctr.kernels.step import minute_of

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
def change(index: Any, slots: Any, key: Any, row: int) -> None:
    """Give a known key another row number."""
    bucket = home(key, index)
    while True:
        s = find5(index, bucket * 8, key)
        if s < BUCKET_SLOTS:
            slots[bucket * 16 + ROW_AT + s] = row
            return
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


@inlined
def mark_dirty(dirty: Any, counters: Any, row: Any) -> None:
    """A row that differs from what was last taken. Most do already, so this is a branch that is seldom taken."""
    at, bit = np.uint64(row) >> np.uint64(6), np.uint64(1) << (np.uint64(row) & np.uint64(63))
    if (dirty[at] & bit) == 0:
        dirty[at] |= bit
        counters[DIRTY] += 1


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
    rows: Any, expired: int, gone: Any,
) -> Any:  # fmt: skip
    """Free ``rows``, of which so many have `expired`. ``gone`` gets the keys that the store has; returns how many."""
    if counters[ABSENT] > 0:
        drop_absent(index, slots, counters)
    n = 0
    for j in range(rows.shape[0]):
        if j + AHEAD < rows.shape[0]:
            prefetch(index, home(row_key[rows[j + AHEAD]], index) * 8)
        row = np.int64(rows[j])
        if (stored[row >> 6] >> np.uint64(row & 63)) & np.uint64(1) != 0:
            gone[n] = row_key[row]
            n += 1
        release(index, slots, row_key, row_field, dirty, stored, counters, row_key[row], row)
    counters[EXPIRED] += expired
    counters[EVICTED] += rows.shape[0] - expired
    return n


@kernel
def known(index: Any, slots: Any, keys: Any, out: Any) -> None:
    """For each key: 2 held, 1 known to have no row, 0 unknown."""
    for j in range(keys.shape[0]):
        if j + AHEAD < keys.shape[0]:
            prefetch(index, home(keys[j + AHEAD], index) * 8)
        row = find(index, slots, keys[j]) if keys[j] != 0 else np.int64(-1)
        out[j] = 2 if row > 0 else row + 1


@helper
def drop_absent(index: Any, slots: Any, counters: Any) -> None:
    """Forget all keys that are known to have no row."""
    for bucket in range(index.shape[0] >> 3):
        for s in range(BUCKET_SLOTS):
            key = index[bucket * 8 + s]
            if key != 0 and slots[bucket * 16 + ROW_AT + s] == 0:
                take_out(index, slots, key)
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
def mark_range_dirty(dirty: Any, counters: Any, begin: int, end: int) -> None:
    """Rows ``begin:end`` differ from what was last taken."""
    for row in range(begin, end):
        mark_dirty(dirty, counters, row)


@inlined
def clear_dirty(dirty: Any, counters: Any, row: int) -> None:
    """A row that no longer does."""
    bit = np.uint64(1) << np.uint64(row & 63)
    if (dirty[row >> 6] & bit) != 0:
        dirty[row >> 6] ^= bit
        counters[DIRTY] -= 1


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


@kernel
def take_dirty(dirty: Any, stored: Any, counters: Any, rows: Any) -> None:
    """Numbers of all dirty rows, ascending; they are clean and stored afterwards."""
    n = 0
    for word in range(dirty.shape[0]):
        if dirty[word] != 0:
            for bit in range(64):
                if ((dirty[word] >> np.uint64(bit)) & np.uint64(1)) != 0:
                    rows[n] = word * 64 + bit
                    n += 1
            stored[word] |= dirty[word]
            dirty[word] = np.uint64(0)
    counters[DIRTY] = 0
