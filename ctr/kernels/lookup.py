"""Keys -> row numbers: the index of a table, which features get a row and which rows go.

The index is an array of buckets, one cache line each: 5 keys, 5 row numbers, and the number of keys that had to go on
to a later bucket because this one was full (a search goes on only past such a bucket, and removal needs no
tombstones). ``slots`` is the same memory as ``index``, seen as uint32. Row 0 in a slot marks a key that is known to
have no row.

What happens to rows depends on the events alone, never on how a stream is cut into batches: `resolve` stops before an
event that calls for a sweep, so that all before it are learned when rows are chosen to go.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ctr.kernels.jit import helper, inlined, kernel
from ctr.kernels.layout import (
    ABSENT,
    BIAS_ROW,
    BUCKET_SLOTS,
    COUNT,
    CREATED,
    FREE_FIELD,
    FREE_ROW,
    NEXT_ROW,
    REFUSED_EVENTS,
    REFUSED_ROWS,
    RESERVED_KEYS,
    ROWS,
    SEEN,
    SWEEPS_A_TTL,
    ZERO_ROW,
)
from ctr.kernels.marks import clear_dirty, mark_dirty
from ctr.kernels.simd import find5, prefetch
from ctr.kernels.step import C_MAX, X_MAX, minute_of, mix64

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


@inlined
def is_let_in(key: Any, position: Any, seed: Any, admission: float) -> Any:
    """Poisson inclusion (McMahan et al. 2013): an unknown feature gets a row with probability `admission` an event.

    Decided by a hash of (seed, key, position of the event), so that a replay of the event decides alike.
    """
    if admission >= 1.0:
        return True
    u = mix64(key ^ mix64(position ^ mix64(seed ^ np.uint64(0xD1B54A32D192ED03))))
    return np.float64(np.int64(u >> np.uint64(11))) * 2.0**-53 < admission


@inlined
def sweep_number(minute: Any, ttl_s: float) -> Any:
    """Periodic sweeps due until `minute`: one at each multiple of ttl / 10."""
    return math.floor(np.float64(minute) * (60.0 * SWEEPS_A_TTL) / ttl_s)


@helper
def lacks_room(
    keys: Any, values: Any, a: int, b: int, index: Any, slots: Any, counters: Any, max_rows: int,
    position: Any, seed: Any, admission: float,
) -> Any:  # fmt: skip
    """Whether the new features of the event with entries ``a:b`` exceed the bound."""
    room = max_rows - counters[ROWS] - counters[ABSENT]
    if room >= b - a:
        return False
    for e in range(a, b):
        if keys[e] != 0 and values[e] != 0 and find(index, slots, keys[e]) < 0:
            room -= is_let_in(keys[e], position, seed, admission)
    return room < 0


@inlined
def at_home(keys: Any, a: int, b: int, o: int, last: int, index: Any, slots: Any, rows: Any) -> Any:
    """Rows of the one-hot event with entries ``a:b``, of keys that stand in the bucket they are looked for first.

    Nearly all do. Returns a bit for each of the others. No branch for a feature: 93 ns for 39 where a search takes 166.
    """
    ahead = np.uint64(AHEAD if b + AHEAD <= last else 0)
    first, n = np.uint64(a), np.uint64(b - a)  # unsigned, or Numba sees to negative indices
    out = np.uint64(a - o)
    elsewhere = np.uint64(0)
    for j in range(n):
        prefetch(index, home(keys[first + j + ahead], index) * 8)
        key = keys[first + j]
        bucket = home(key, index)
        s = find5(index, bucket * 8, key)
        row = slots[np.uint64(bucket * 16 + ROW_AT + s)]
        rows[out + j] = row if s < BUCKET_SLOTS else np.uint32(0)
        elsewhere |= np.uint64(0) if s < BUCKET_SLOTS or key == 0 else np.uint64(1) << np.uint64(j)
    return elsewhere


@kernel
def resolve(
    keys: Any, values: Any, fields: Any, start: Any, labels: Any, weights: Any, times_s: Any, positions: Any,
    begin: int, end: int, normalize: bool, dense: bool, learn: bool, swept: bool, ttl_s: float, admission: float,
    seed: Any, label_min: float, label_max: float, index: Any, slots: Any, W: Any, stride: int, head_step: int,
    row_key: Any, row_field: Any, dirty: Any, counters: Any, max_rows: int, rows: Any, r: Any, c: Any,
) -> Any:  # fmt: skip
    """Rows of the features of events ``begin:end``; if `learn`, new features of events with weight get one.

    Returns the event before which to sweep, `end` if there is none; `swept` says that this was done for `begin`. The
    watermark is the last-seen time of the bias: it is stored and loaded with it. ``positions`` may be empty if
    `admission` is 1; the head of a row of field f stands ``head_step * f`` floats behind its begin.

    Out: ``rows`` (entries from ``start[begin]``), 0 for missing and unknown; ``r`` the factor of the pair sum, NaN
    for an event with a value beyond bounds; ``c`` the weight with which to learn, 0 for not at all.
    """
    first, last = start[begin], start[end]
    watermark = W[BIAS_ROW * stride + SEEN]
    low, high = np.float32(label_min), np.float32(label_max)
    minute, position = watermark, np.uint64(0)
    for i in range(begin, end):
        weight = np.float32(0)
        good = True
        elsewhere = ~np.uint64(0)
        if dense:
            elsewhere = at_home(keys, start[i], start[i + 1], first, last, index, slots, rows)
        if not dense:
            for e in range(start[i], start[i + 1]):
                if not abs(values[e]) <= X_MAX:  # also NaN
                    good = False
        if learn:
            weight = weights[i]
            refused = not (good and 0 <= weight <= C_MAX and low <= labels[i] <= high)
            if refused:
                weight = np.float32(0)
            if weight > 0:
                minute = minute_of(times_s[i])
                if admission < 1.0:
                    position = positions[i]
                if not (swept and i == begin):
                    due = ttl_s > 0 and minute > watermark
                    if due and sweep_number(minute, ttl_s) > sweep_number(watermark, ttl_s):
                        return i
                    if elsewhere != 0 and lacks_room(
                        keys, values, start[i], start[i + 1], index, slots, counters, max_rows, position, seed,
                        admission,
                    ):  # fmt: skip
                        return i
                watermark = max(watermark, minute)
                mark_dirty(dirty, counters, BIAS_ROW)
            if refused:
                counters[REFUSED_EVENTS] += 1
        norm = np.float32(0)
        for e in range(start[i], start[i + 1]):
            if dense and (elsewhere >> np.uint64(e - start[i])) & np.uint64(1) == 0:
                norm += np.float32(keys[e] != 0)
                if weight > 0 and rows[e - first] != 0:
                    mark_dirty(dirty, counters, np.int64(rows[e - first]))
                continue
            if not dense and e + AHEAD < last:
                prefetch(index, home(keys[e + AHEAD], index) * 8)
            key, x = keys[e], values[e]
            row = np.int64(0)
            if key != 0 and x != 0:
                norm += x * x
                row = find(index, slots, key)
                if row < 0:
                    row = np.int64(0)
                    if weight > 0 and is_let_in(key, position, seed, admission):
                        row = new_row(row_key, counters, key, max_rows)
                        if row != 0:
                            place(index, slots, key, row)
                            row_field[row] = fields[e]
                            head = row * stride + fields[e] * head_step
                            W[head + COUNT] = np.float32(0)  # not yet born
                            W[head + SEEN] = minute
                            counters[CREATED] += 1
                if weight > 0 and row != 0:
                    mark_dirty(dirty, counters, row)
            rows[e - first] = row
        r[i - begin] = np.float32(1) / norm if normalize and norm > 0 else np.float32(1)
        if not good:
            r[i - begin] = np.float32(np.nan)
        c[i - begin] = weight
    return end


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
