"""Keys -> row numbers: the index of a table, and which features get a row.

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
    COUNT,
    CREATED,
    DIRTY,
    FREE_ROW,
    NEXT_ROW,
    REFUSED_EVENTS,
    REFUSED_ROWS,
    RESERVED_KEYS,
    ROWS,
    ZERO_ROW,
)
from ctr.kernels.simd import find5, prefetch
from ctr.kernels.step import C_MAX, X_MAX

AHEAD = 16
"""Probes between asking for a bucket and reading it."""
ROW_AT, PASSED_AT = 10, 15


@inlined
def home(key: Any, index: Any) -> Any:
    """Bucket in which to look first: by the key's high bits, since its low bits choose the shard."""
    return np.int64(((key >> np.uint64(32)) * np.uint64(index.shape[0] >> 3)) >> np.uint64(32))


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
def mark_dirty(dirty: Any, counters: Any, row: int) -> None:
    """A row that differs from what was last taken."""
    bit = np.uint64(1) << np.uint64(row & 63)
    word = dirty[row >> 6]
    if (word & bit) == 0:
        dirty[row >> 6] = word | bit
        counters[DIRTY] += 1


@kernel
def resolve(
    keys: Any, values: Any, fields: Any, start: Any, labels: Any, weights: Any, begin: int, end: int,
    normalize: bool, dense: bool, learn: bool,
    index: Any, slots: Any, W: Any, stride: int, kp: int, row_key: Any, row_field: Any, dirty: Any, counters: Any,
    max_rows: int, rows: Any, r: Any, c: Any,
) -> None:  # fmt: skip
    """Rows of the features of events ``begin:end``; if `learn`, new features of events with weight get one.

    Out: ``rows`` (entries from ``start[begin]``), 0 for missing and unknown; ``r`` the factor of the pair sum, NaN
    for an event with a value beyond bounds; ``c`` the weight with which to learn, 0 for not at all.
    """
    first, last = start[begin], start[end]
    for i in range(begin, end):
        weight = np.float32(0)
        good = True
        if not dense:
            for e in range(start[i], start[i + 1]):
                if not abs(values[e]) <= X_MAX:  # also NaN
                    good = False
        if learn:
            weight = weights[i]
            if not (good and weight >= 0 and weight <= C_MAX and labels[i] >= 0 and labels[i] <= 1):
                counters[REFUSED_EVENTS] += 1
                weight = np.float32(0)
            if weight > 0:
                mark_dirty(dirty, counters, BIAS_ROW)
        norm = np.float32(0)
        for e in range(start[i], start[i + 1]):
            if e + AHEAD < last:
                prefetch(index, home(keys[e + AHEAD], index) * 8)
            key, x = keys[e], values[e]
            row = np.int64(0)
            if key != 0 and x != 0:
                norm += x * x
                row = find(index, slots, key)
                if row < 0:
                    row = np.int64(0)
                    if weight > 0:
                        row = new_row(row_key, counters, key, max_rows)
                        if row != 0:
                            place(index, slots, key, row)
                            row_field[row] = fields[e]
                            W[row * stride + fields[e] * kp + COUNT] = np.float32(0)  # not yet born
                            counters[CREATED] += 1
                if weight > 0 and row != 0:
                    mark_dirty(dirty, counters, row)
            rows[e - first] = row
        r[i - begin] = np.float32(1) / norm if normalize and norm > 0 else np.float32(1)
        if not good:
            r[i - begin] = np.float32(np.nan)
        c[i - begin] = weight


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
def forget(index: Any, slots: Any, row_key: Any, dirty: Any, counters: Any, keys: Any) -> None:
    """Make keys unknown; their rows are free again."""
    for key in keys:
        row = find(index, slots, key) if key >= RESERVED_KEYS else np.int64(-1)
        if row < 0:
            continue
        take_out(index, slots, key)
        if row == 0:
            counters[ABSENT] -= 1
            continue
        clear_dirty(dirty, counters, row)
        row_key[row] = np.uint64(counters[FREE_ROW])
        counters[FREE_ROW] = row
        counters[ROWS] -= 1


@inlined
def clear_dirty(dirty: Any, counters: Any, row: int) -> None:
    """A row that no longer does."""
    bit = np.uint64(1) << np.uint64(row & 63)
    if (dirty[row >> 6] & bit) != 0:
        dirty[row >> 6] ^= bit
        counters[DIRTY] -= 1


@kernel
def admit(
    index: Any, slots: Any, row_key: Any, dirty: Any, counters: Any, keys: Any, max_rows: int, rows: Any
) -> None:
    """A row for each key that is loaded (0 where the table is full), clean."""
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
def take_dirty(dirty: Any, counters: Any, rows: Any) -> None:
    """Numbers of all dirty rows, ascending, and clean them."""
    n = 0
    for word in range(dirty.shape[0]):
        if dirty[word] != 0:
            for bit in range(64):
                if ((dirty[word] >> np.uint64(bit)) & np.uint64(1)) != 0:
                    rows[n] = word * 64 + bit
                    n += 1
            dirty[word] = np.uint64(0)
    counters[DIRTY] = 0
