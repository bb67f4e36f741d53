"""Keys of events -> row numbers: which features are known, and which of the others get a row.

What happens to rows depends on the events alone, never on how a stream is cut into batches: `resolve` stops before an
event that calls for a sweep, so that all before it are learned when rows are chosen to go.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ctr.kernels.jit import bare, inlined, kernel
from ctr.kernels.layout import (
    ABSENT,
    BIAS_ROW,
    BUCKET_SLOTS,
    COUNT,
    CREATED,
    REFUSED_EVENTS,
    ROWS,
    SEEN,
    SWEEPS_A_TTL,
    ZERO_ROW,
)
from ctr.kernels.lookup import ROW_AT, find, home, new_row, place
from ctr.kernels.marks import dirty_word, mark_dirty
from ctr.kernels.simd import find5, prefetch
from ctr.kernels.step import C_MAX, X_MAX, ZERO, minute_of, mix64

BLOCK = 32
"""Events whose keys are looked up at a time: what follows a stop is looked up again."""

LINE = 64
"""Keys between asking for a bucket and reading it."""

NEAR = 1 << 14
"""Words of an index that stays in L2: nobody needs to ask for its lines ahead."""
ONE = np.uint64(1)


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


@inlined
def ask(keys: Any, e: int, index: Any, buckets: Any, o: Any) -> None:
    """Buckets in which to look first for the keys from entry `e` on, to ``buckets[o:]``; and their lines on the way."""
    first, n = np.uint64(e), np.uint64(max(min(keys.shape[0] - e, LINE), 0))
    for j in range(n):
        buckets[o + j] = home(keys[first + j], index)
    if index.shape[0] > NEAR:
        for j in range(n):
            prefetch(index, buckets[o + j] * 8)


@inlined
def ask_rows(W: Any, stride: int, rows: Any, n: int) -> None:
    """Lines of the first event's rows, for which nobody else asks ahead: a batch of 64 begins 5 % earlier for it."""
    for e in range(np.uint64(n)):
        at = np.uint64(rows[e]) * np.uint64(stride)
        for line in range(np.uint64(stride >> 4)):
            prefetch(W, at + line * np.uint64(16))


@inlined
def look(index: Any, slots: Any, bucket: Any, key: Any) -> Any:
    """Row number of a key and False, or anything and True if it does not stand in this bucket."""
    s = find5(index, bucket * 8, key)
    return slots[np.uint64(bucket * 16 + ROW_AT + s)], s == BUCKET_SLOTS


@bare
def find_rows(
    keys: Any, begin: int, end: int, index: Any, slots: Any, rows: Any, at: int, buckets: Any, unknown: Any
) -> Any:
    """Rows of entries ``begin:end`` to ``rows[at:]``, 0 for keys that have none.

    Returns the number of those that are unknown, and their entries in ``unknown``. Nearly all keys stand in the bucket
    in which one looks first, and nearly all others in the next one: no branch for those. Numbers are unsigned, so that
    Numba does not ask whether they count from the end.
    """
    here, there, away = np.uint64(0), np.uint64(LINE), np.uint64(0)
    ask(keys, begin, index, buckets, here)
    for e in range(begin, end, LINE):
        ask(keys, e + LINE, index, buckets, there)
        first, out = np.uint64(e), np.uint64(at + e - begin)
        for j in range(np.uint64(min(LINE, end - e))):
            rows[out + j], missed = look(index, slots, buckets[here + j], keys[first + j])
            unknown[away] = first + j
            away += np.uint64(missed)
        here, there = there, here
    first, out, further = np.uint64(begin), np.uint64(at), np.uint64(0)
    last = np.uint64(index.shape[0] >> 3) - ONE
    for j in range(away):
        entry = np.uint64(unknown[j])
        bucket = np.uint64(home(keys[entry], index))
        bucket = (bucket + ONE) * np.uint64(bucket != last)
        rows[out + entry - first], missed = look(index, slots, bucket, keys[entry])
        unknown[further] = entry
        further += np.uint64(missed)
    m = np.uint64(0)
    for j in range(further):
        entry = np.uint64(unknown[j])
        row = find(index, slots, keys[entry])
        rows[out + entry - first] = max(row, np.int64(ZERO_ROW))
        unknown[m] = entry
        m += np.uint64(row < 0 and keys[entry] != 0)
    return np.int64(m)


@inlined
def sum_of_squares(keys: Any, values: Any, a: Any, b: Any, rows: Any, at: Any) -> Any:
    """Of the features with entries ``a:b``; NaN if a value is beyond bounds. One of value 0 is as good as missing."""
    total, good = np.float32(0), True
    for e in range(a, b):
        x = values[e]
        good &= abs(x) <= X_MAX  # False for NaN
        if x == 0:
            rows[at + e - a] = ZERO_ROW
        elif keys[e] != 0:
            total += x * x
    return total if good else np.float32(np.nan)


@inlined
def count(keys: Any, a: Any, b: Any) -> Any:
    """The same for a one-hot event: how many of its features there are."""
    n = 0
    for e in range(a, b):
        n += keys[e] != 0
    return np.float32(n)


@kernel
def resolve(
    keys: Any, values: Any, fields: Any, start: Any, labels: Any, weights: Any, times_s: Any, positions: Any,
    rows: Any, r: Any, c: Any, begin: int, end: int, dense: bool, learn: bool, swept: bool, normalize: bool,
    ttl_s: float, admission: float, seed: Any, label_min: float, label_max: float, index: Any, slots: Any, W: Any,
    stride: int, head_step: int, row_key: Any, row_field: Any, dirty: Any, counters: Any, max_rows: int,
) -> Any:  # fmt: skip
    """Rows of the features of events ``begin:end``; if `learn`, new features of events with weight get one.

    Returns the event before which to sweep, `end` if there is none; `swept` says that this was done for `begin`. The
    watermark is the last-seen time of the bias: it is stored and loaded with it. ``positions`` may be empty if
    `admission` is 1; the head of a row of field f stands ``head_step * f`` floats behind its begin.

    Out: ``rows`` (entries from ``start[begin]``), 0 for missing and unknown; ``r`` the factor of the pair sum, NaN
    for an event with a value beyond bounds; ``c`` the weight with which to learn, 0 for not at all.
    """
    most = 0  # entries of a block
    for i in range(begin, end, BLOCK):
        most = max(most, start[min(i + BLOCK, end)] - start[i])
    buckets, unknown = np.empty(2 * LINE, np.uint64), np.empty(most + 1, np.int64)
    dirty[0] |= ONE  # for now: row 0, which stands for no row, needs no branch
    stop = resolve_events(
        keys, values, fields, start, labels, weights, times_s, positions, rows, r, c, begin, end, dense, learn, swept,
        normalize, ttl_s, admission, seed, label_min, label_max, index, slots, W, stride, head_step, row_key,
        row_field, dirty, counters, max_rows, buckets, unknown,
    )  # fmt: skip
    dirty[0] &= ~ONE
    return stop


@bare
def resolve_events(
    keys: Any, values: Any, fields: Any, start: Any, labels: Any, weights: Any, times_s: Any, positions: Any,
    rows: Any, r: Any, c: Any, begin: int, end: int, dense: bool, learn: bool, swept: bool, normalize: bool,
    ttl_s: float, admission: float, seed: Any, label_min: float, label_max: float, index: Any, slots: Any, W: Any,
    stride: int, head_step: int, row_key: Any, row_field: Any, dirty: Any, counters: Any, max_rows: int,
    buckets: Any, unknown: Any,
) -> Any:  # fmt: skip
    """What `resolve` does, with its scratch."""
    first, watermark = start[begin], W[BIAS_ROW * stride + SEEN]
    low, high = np.float32(label_min), np.float32(label_max)
    n_unknown, u = 0, 0
    for i in range(begin, end):
        # rows that there are
        a, b = start[i], start[i + 1]
        if (i - begin) % BLOCK == 0:
            block_end = start[min(i + BLOCK, end)]
            n_unknown = find_rows(keys, a, block_end, index, slots, rows, a - first, buckets, unknown)
            u = 0
            if learn and i == begin and index.shape[0] > NEAR:
                ask_rows(W, stride, rows, b - a)
        if dense:
            norm = count(keys, np.uint64(a), np.uint64(b))
        else:
            norm = sum_of_squares(keys, values, np.uint64(a), np.uint64(b), rows, np.uint64(a - first))
        r[i - begin] = np.float32(1) / norm if normalize and norm > 0 else np.float32(1) + ZERO * norm
        c[i - begin] = ZERO
        if not learn:
            continue

        # whether to learn the event, and whether to make room first
        u0, m = u, u
        while u < n_unknown and unknown[u] < b:  # an event of this block may have named it since
            e = unknown[u]
            row = find(index, slots, keys[e])
            rows[e - first] = max(row, np.int64(ZERO_ROW))
            unknown[m] = e
            m += row < 0 and values[e] != 0
            u += 1
        weight = weights[i]
        if not (norm >= 0 and 0 <= weight <= C_MAX and low <= labels[i] <= high):
            counters[REFUSED_EVENTS] += 1
            continue
        if weight == 0:
            continue
        minute, position = minute_of(times_s[i]), np.uint64(0)
        if admission < 1.0:
            position = positions[i]
        if not (swept and i == begin):
            due = ttl_s > 0 and minute > watermark
            if due and sweep_number(minute, ttl_s) > sweep_number(watermark, ttl_s):
                return i
            room = max_rows - counters[ROWS] - counters[ABSENT]
            if room < m - u0:
                for e in unknown[u0:m]:
                    room -= is_let_in(keys[e], position, seed, admission)
                if room < 0:
                    return i
        watermark = max(watermark, minute)
        c[i - begin] = weight

        # rows that there are not yet; all of them are about to change
        for e in unknown[u0:m]:
            row = find(index, slots, keys[e])  # known by now, if this event names it twice
            if row < 0:
                row = np.int64(ZERO_ROW)
                if is_let_in(keys[e], position, seed, admission):
                    row = new_row(row_key, counters, keys[e], max_rows)
                if row != ZERO_ROW:
                    place(index, slots, keys[e], row)
                    row_field[row] = fields[e]
                    head = row * stride + fields[e] * head_step
                    W[head + COUNT] = ZERO  # not yet born
                    W[head + SEEN] = minute
                    counters[CREATED] += 1
            rows[e - first] = row
        mark_dirty(dirty, counters, BIAS_ROW)
        marked = ONE
        for e in range(np.uint64(a - first), np.uint64(b - first)):
            marked &= dirty_word(dirty, rows[e])
        if marked == 0:
            for e in range(np.uint64(a - first), np.uint64(b - first)):
                mark_dirty(dirty, counters, rows[e])
    return end
