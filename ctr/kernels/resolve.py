"""Keys of events -> row numbers: which features are known, and which of the others get a row.

What happens to rows depends on the events alone, never on how a stream is cut into batches: `resolve` stops before an
event that calls for a sweep, so that all before it are learned when rows are chosen to go.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ctr.kernels.call import LINE, array_at, call_at
from ctr.kernels.jit import bare, declared, inlined
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


@bare
def resolve_events(
    call: Any, keys: Any, values: Any, fields: Any, start: Any, labels: Any, weights: Any, times_s: Any,
    positions: Any, begin: int, end: int, dense: bool, learn: bool, swept: bool, dirty: Any,
) -> Any:  # fmt: skip
    """What `resolve` does, without counting references."""
    index, slots = array_at(call.index, (call.n_index,), np.uint64), array_at(call.slots, (call.n_slots,), np.uint32)
    W, row_field = array_at(call.W, (call.n_W,), np.float32), array_at(call.row_field, (call.n_row_field,), np.uint8)
    row_key = array_at(call.row_key, (call.n_row_key,), np.uint64)
    counters = array_at(call.counters, (call.n_counters,), np.int64)
    rows, r = array_at(call.rows, (call.n_rows,), np.uint32), array_at(call.r, (call.n_r,), np.float32)
    c, buckets = array_at(call.c, (call.n_c,), np.float32), array_at(call.buckets, (call.n_buckets,), np.uint64)
    unknown = array_at(call.unknown, (call.n_unknown,), np.int64)
    normalize, ttl_s, admission, seed = call.normalize, call.ttl_s, call.admission, call.seed
    stride, head_step, max_rows = call.stride, call.head_step, call.max_rows
    first, watermark = start[begin], W[BIAS_ROW * stride + SEEN]
    low, high = np.float32(call.label_min), np.float32(call.label_max)
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


@declared(
    "int64(int64, uint64[::1], float32[::1], uint8[::1], int64[::1], float32[::1], float32[::1], float64[::1],"
    " uint64[::1], float32[::1], int64, int64, boolean, boolean, boolean)"
)
def resolve(
    address: int, keys: Any, values: Any, fields: Any, start: Any, labels: Any, weights: Any, times_s: Any,
    positions: Any, out: Any, begin: int, end: int, dense: bool, learn: bool, swept: bool,
) -> Any:  # fmt: skip
    """Rows of the features of events ``begin:end``; if `learn`, new features of events with weight get one.

    Returns the event before which to sweep, `end` if there is none; `swept` says that this was done for `begin`. The
    watermark is the last-seen time of the bias: it is stored and loaded with it. ``positions`` may be empty if
    admission is 1; the head of a row of field f stands ``head_step * f`` floats behind its begin.

    Out: ``rows`` (entries from ``start[begin]``), 0 for missing and unknown; ``r`` the factor of the pair sum, NaN
    for an event with a value beyond bounds; ``c`` the weight with which to learn, 0 for not at all. The record at
    `address` (see `call`) has where they are, and gets where the batch's arrays are.
    """
    call = call_at(address)
    call.keys, call.values, call.fields = keys.ctypes.data, values.ctypes.data, fields.ctypes.data
    call.start, call.labels, call.times_s = start.ctypes.data, labels.ctypes.data, times_s.ctypes.data
    call.out = out.ctypes.data
    call.n_keys, call.n_values, call.n_fields = keys.shape[0], values.shape[0], fields.shape[0]
    call.n_start, call.n_labels, call.n_times_s = start.shape[0], labels.shape[0], times_s.shape[0]
    call.n_out = out.shape[0]
    dirty = array_at(call.dirty, (call.n_dirty,), np.uint64)
    dirty[0] |= ONE  # for now: row 0, which stands for no row, needs no branch
    stop = resolve_events(
        call, keys, values, fields, start, labels, weights, times_s, positions, begin, end, dense, learn, swept, dirty
    )
    dirty[0] &= ~ONE
    return stop
