"""The spans of one event in, its label, weight, time and features out: the step that all formats share.

A format's scanner walks the bytes of an event and notes in `SPAN`s where the value of each column lies that the
specification reads. What is here turns them into the entries of a `ctr.events.batch.Batch`, by the rules of
`ctr.events.envelope` and `ctr.events.encoder`, which are the oracle: whatever is refused there, or takes more than a
few operations, is "cannot" here, and the caller sends the event there.

`ctr.events.plan` makes the plan of a specification.
"""

# ruff: noqa: PLR1714, SIM108, SIM109  plain comparisons and branches are what Numba compiles best
from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ctr.kernels.jit import helper, inlined
from ctr.kernels.scan.memory import byte, forced, word8
from ctr.kernels.scan.text import (
    ARRAY,
    DECIMAL,
    FALSE,
    INTEGER,
    MISSING,
    NULL,
    OBJECT,
    TEXT,
    TRUE,
    canonical,
    key_of,
    key_of_integer,
    number,
    rfc3339,
    xxh64,
)
from ctr.kernels.scan.transforms import NEGLIGIBLE, cross_key, edge_bin, hour, log_bin, spline_values, weekday

# ---- what a scanner fills -------------------------------------------------------------------------------------------

SPAN = np.dtype([("begin", "i8"), ("end", "i8"), ("kind", "i8"), ("first", "i8"), ("last", "i8")])
"""Value of a column: addresses and kind (`text.MISSING` ...). ARRAY and OBJECT: their first and last element."""
ELEMENT = np.dtype([("begin", "i8"), ("end", "i8"), ("kind", "i8"), ("next", "i8"), ("key", "u8"), ("value", "f8")])
"""Element of an array; or key, as TEXT, and number of an object. `next` is -1 at the last one."""
MAX_ELEMENTS = 1024
"""Of all arrays and objects of an event; one with more goes the exact way."""

# ---- what a specification says --------------------------------------------------------------------------------------

ARRIVAL, NUMBER, RFC3339, MEMO = range(4)  # clocks
EVENT = np.dtype([
    ("label", "i8"), ("classes", "i8"), ("low", "f8"), ("high", "f8"),  # column; 1: 0, 1, true, false, else low..high
    ("weight", "i8"), ("max_weight", "f8"),  # column, -1 for none
    ("time", "i8"), ("clock", "i8"), ("per_s", "f8"), ("max_skew_s", "f8"),
    ("max_bytes", "i8"), ("room", "i8"), ("room_each", "i8"),  # most entries of an event: room + elements * room_each
    ("delimiter", "i8"), ("quotes", "i8"),  # delimited: one byte; whether a quote is more than a character
])  # fmt: skip
SINGLE, MULTI, REAL, SPLINE, CROSS = range(5)
PLAIN, LOG, EDGES, HOUR, WEEKDAY = range(5)  # transforms
NONE, MEAN, SQRT = range(3)  # scales
FIELD = np.dtype([
    ("kind", "i8"), ("column", "i8"), ("other", "i8"),  # CROSS: column and other are the two fields
    ("seed", "u8"), ("absent", "u8"),  # key where there is no value, 0 for none; REAL: the key of the field itself
    ("scale", "i8"), ("transform", "i8"), ("degree", "i8"),
    ("first", "i8"), ("last", "i8"),  # the transform's parameters are params[first:last]
    ("table", "i8"), ("low", "i8"), ("high", "i8"),  # bin low <= i < high has the key bin_keys[table + i - low]
    ("small", "i8"),  # LOG: row of small_bins
])  # fmt: skip
KNOWN_TIME = np.dtype([("a", "u8"), ("b", "u8"), ("c", "u8"), ("d", "u8"), ("length", "i8"), ("seconds", "f8")])
"""A text of up to 32 bytes that a strptime pattern has read, zero-padded; length 0 where there is none."""


class Template(NamedTuple):
    """What events look like between their values, see `template`; empty where that is not known."""

    steps: Any  # (values + 1,) template.STEP
    gaps: Any  # (bytes,) uint8, with 32 bytes more
    absent: Any  # (F,) uint64: keys of an event without values
    spanned: Any  # (columns,) int64: those that do not become a key at once
    rest: Any  # (fields,) int64: those whose keys are made of the spans
    missed: Any  # (5,) int64 that the kernel writes: lines to pass by; the last time; missed; longest one's begin, end


class Cells(NamedTuple):
    """What becomes of the cells of a line of delimited text, by their places in it; see `delimited`.

    Of a sparse batch all that are read are spans: its keys have no place that is known before.
    """

    texts: Any  # (t, 2) int64: cell and field, of those that are hashed as they are
    counts: Any  # (c, 2) int64: cell and field, of numbers with bins of their logarithm
    spanned: Any  # (s, 2) int64: cell and column, of those that do not become a key at once
    rest: Any  # (fields,) int64: those whose keys are made of the spans


class Plan(NamedTuple):
    """What kernels read, for a specification and a format; the arrays that a format has no use for are empty."""

    event: Any  # (1,) EVENT
    fields: Any  # (F,) FIELD
    params: Any  # (p,) float64: parameters of the transforms
    small_bins: Any  # (t, SMALL) int16: bins of small whole numbers
    bin_keys: Any  # (b,) uint64
    many: Any  # (columns,) bool: an array or an object may stand there
    memo: Any  # (power of 2,) KNOWN_TIME, found by XXH64
    slots: Any  # delimited: (cells of a line,) int64, the cell's column
    cells: Any  # delimited: `Cells`
    keys: Any  # JSON and libffm: (k,) jsonlines.KEY
    patterns: Any  # JSON and libffm: (words, 2) uint64
    table: Any  # JSON and libffm: (power of 2,) int64
    after: Any  # JSON: (k + 2 + objects,) int64; a guess that the kernel writes too
    every: Any  # (F,) int64: all fields
    template: Any  # `Template`; only dense events in JSON have one


class Out(NamedTuple):
    """A batch's arrays, as kernels fill them, and what goes the exact way."""

    keys: Any  # (entries,) uint64
    values: Any  # (entries,) float64, to be rounded; sparse batches only, as `fields`, `start` and `begins`
    fields: Any  # (entries,) uint8
    start: Any  # (rows + 1,) int64
    begins: Any  # (F + 1,) int64: where the entries of the event's fields begin
    labels: Any  # (rows,) float32
    weights: Any  # (rows,) float32
    times_s: Any  # (rows,) float64
    message_of: Any  # (rows,) int64
    slow: Any  # (lines, 6) int64: message, begin, end, the row before which it stands; begin, end of an unknown time


REAL_MAX = 1e9


@helper
def known_time(at: Any, end: Any, memo: Any) -> Any:
    """Return (seconds, can) of a text that `memo` holds."""
    n = end - at
    if n < 1 or n > 32:
        return 0.0, False
    ones = np.uint64(0xFFFFFFFFFFFFFFFF)
    a = word8(at) & (ones if n >= 8 else ~(ones << np.uint64(8 * n)))
    b = word8(at + 8) & (np.uint64(0) if n <= 8 else ones if n >= 16 else ~(ones << np.uint64(8 * n - 64)))
    c = word8(at + 16) & (np.uint64(0) if n <= 16 else ones if n >= 24 else ~(ones << np.uint64(8 * n - 128)))
    d = word8(at + 24) & (np.uint64(0) if n <= 24 else ones if n >= 32 else ~(ones << np.uint64(8 * n - 192)))
    slots = memo.shape[0]
    i = np.int64(xxh64(at, end, np.uint64(0)) & np.uint64(slots - 1))
    for _ in range(slots):
        known = memo[i]
        if known.length == 0:
            return 0.0, False
        if known.length == n and known.a == a and known.b == b and known.c == c and known.d == d:
            return known.seconds, True
        i = (i + 1) & (slots - 1)
    return 0.0, False


@forced
def span_number(begin: Any, end: Any, kind: Any) -> Any:
    """Return (float64, can) of a number or a text that spells one."""
    if kind == INTEGER or kind == DECIMAL or kind == TEXT:
        return number(begin, end)
    return 0.0, False


@forced
def label_of(begin: Any, end: Any, kind: Any, classes: Any, low: Any, high: Any) -> Any:
    """Return (label, can)."""
    if not classes:
        x, can = span_number(begin, end, kind)
        return x, can and low <= x <= high
    if kind == TRUE or kind == FALSE:
        return (1.0 if kind == TRUE else 0.0), True
    if end - begin == 1 and (kind == INTEGER or kind == TEXT):
        x = np.float64(byte(begin) - 48)
        return x, x == 0 or x == 1
    if kind == INTEGER or kind == DECIMAL:
        x, can = number(begin, end)
        return x, can and (x == 0 or x == 1)
    return 0.0, False


@helper
def time_of(begin: Any, end: Any, kind: Any, clock: Any, per_s: Any, memo: Any) -> Any:
    """Return (seconds since 1970, can)."""
    if clock == NUMBER:
        x, can = span_number(begin, end, kind)
        return x / per_s, can
    if clock == RFC3339 and kind == TEXT:
        return rfc3339(begin, end)
    if clock == MEMO and (kind == TEXT or (kind == INTEGER and byte(begin) != 45)):
        return known_time(begin, end, memo)
    return 0.0, False


@inlined
def envelope(plan: Any, spans: Any, arrival_s: Any) -> Any:
    """Return (label, weight, time in s, can) of the event whose columns `spans` holds."""
    event = plan.event[0]
    span = spans[event.label]
    label, can = label_of(span.begin, span.end, span.kind, event.classes, event.low, event.high)
    weight, time_s = 1.0, arrival_s
    if event.weight >= 0:
        span = spans[event.weight]
        weight, readable = span_number(span.begin, span.end, span.kind)
        can = can and readable and 0 <= weight <= event.max_weight
    if event.time >= 0:
        span = spans[event.time]
        time_s, readable = time_of(span.begin, span.end, span.kind, event.clock, event.per_s, plan.memo)
        can = can and readable and 0 <= time_s <= arrival_s + event.max_skew_s
    return label, weight, time_s, can


@inlined
def bin_key(i: Any, field: Any, plan: Any) -> Any:
    """Key of a bin, or of a spline: of its number's text."""
    if field.low <= i < field.high:
        key = plan.bin_keys[field.table + i - field.low]
    else:
        key = key_of_integer(i, field.seed)
    return key


@inlined
def number_key(x: Any, field: Any, plan: Any) -> Any:
    """Key of a number's bin under the field's transform."""
    if field.transform == EDGES:
        i = edge_bin(x, plan.params, field.first, field.last)
    else:
        whole = np.int64(x) if 0 <= x < plan.small_bins.shape[1] else np.int64(0)
        if whole == x:
            i = np.int64(plan.small_bins[field.small, whole])
        else:
            i = log_bin(x, plan.params[field.first])
    return bin_key(i, field, plan)


@inlined
def clock_key(time_s: Any, field: Any, plan: Any) -> Any:
    """Key of the hour or weekday of a time."""
    if field.transform == HOUR:
        i = hour(time_s, plan.params[field.first])
    else:
        i = weekday(time_s, plan.params[field.first])
    return bin_key(i, field, plan)


@forced
def is_missing(begin: Any, end: Any, kind: Any) -> Any:
    """Whether a span holds no value."""
    return kind == MISSING or kind == NULL or (kind == TEXT and begin == end)


@inlined
def value_key(begin: Any, end: Any, kind: Any, field: Any, plan: Any) -> Any:
    """Return (key, can) of one value of a field; key 0 where it is missing."""
    key, can = np.uint64(0), True
    if is_missing(begin, end, kind):
        pass
    elif kind == ARRAY or kind == OBJECT:
        can = False
    elif field.transform == PLAIN:
        first, last, can = canonical(begin, end, kind)
        if can:
            key = key_of(first, last, field.seed)
    else:
        x, can = span_number(begin, end, kind)
        if can:
            key = number_key(x, field, plan)
    return key, can


@helper
def key_of_value(begin: Any, end: Any, kind: Any, f: Any, plan: Any) -> Any:
    """`value_key` of field `f`, not inlined: for values that take longer."""
    field = plan.fields[f]
    return value_key(begin, end, kind, field, plan)


@inlined
def single(field: Any, plan: Any, spans: Any, time_s: Any) -> Any:
    """Return (key, can) of a field with one feature of value 1; key 0 where it has none."""
    if field.transform >= HOUR:
        key, can = clock_key(time_s, field, plan), True
    else:
        span = spans[field.column]
        key, can = value_key(span.begin, span.end, span.kind, field, plan)
        if key == 0:
            key = field.absent
    return key, can


@inlined
def dense(plan: Any, chosen: Any, spans: Any, time_s: Any, out: Any, at: Any) -> Any:
    """Keys of the chosen fields, ascending, into ``out.keys[at:]``, one a field; whether all could be made."""
    can = True
    for f in chosen:
        field = plan.fields[f]
        if field.kind == SINGLE:
            key, readable = single(field, plan, spans, time_s)
            can = can and readable
        else:
            a, b = out.keys[at + field.column], out.keys[at + field.other]
            key = cross_key(a, b, field.seed) if a != 0 and b != 0 else np.uint64(0)
        out.keys[at + f] = key
    return can


@inlined
def append(f: Any, key: Any, value: Any, out: Any, at: Any) -> Any:
    """Write an entry; the place of the next one."""
    out.keys[at], out.values[at], out.fields[at] = key, value, f
    return at + 1


@inlined
def weighted(f: Any, field: Any, first: Any, elements: Any, out: Any, at: Any) -> Any:
    """Features of an object of numbers from entry `at` on; the entry behind them, -1 for "cannot"."""
    m, can, e = 0, True, first
    while e >= 0 and can:
        element = elements[e]
        element.key = key_of(element.begin, element.end, field.seed)
        other = first
        while other != e:  # a key twice: the last one counts, even if it is 0
            can = can and elements[other].key != element.key
            other = elements[other].next
        m += 1 if element.value != 0 and element.end > element.begin else 0
        e = element.next
    scale = 1.0 if field.scale == NONE else np.float64(m) if field.scale == MEAN else math.sqrt(m)
    e = first
    while e >= 0 and can:
        element = elements[e]
        if element.value != 0 and element.end > element.begin:
            at = append(f, element.key, element.value / scale, out, at)
        e = element.next
    return at if can else np.int64(-1)


@inlined
def counted(f: Any, field: Any, plan: Any, span: Any, elements: Any, out: Any, at: Any) -> Any:
    """Features of a multi-valued field from entry `at` on; the entry behind them, -1 for "cannot"."""
    begin, m, can = at, 0, True
    one = span.kind != ARRAY  # a value that is no array counts as an array of one
    e = np.int64(-1) if one else span.first
    while (e >= 0 or one) and can:
        if one:
            key, can = value_key(span.begin, span.end, span.kind, field, plan)
            one = False
        else:
            element = elements[e]
            key, can = value_key(element.begin, element.end, element.kind, field, plan)
            e = element.next
        if can and key != 0:
            m += 1
            same = begin
            while same < at and out.keys[same] != key:
                same += 1
            if same == at:
                at = append(f, key, 0.0, out, at)
            out.values[same] += 1.0
    scale = 1.0 if field.scale == NONE else np.float64(m) if field.scale == MEAN else math.sqrt(m)
    for i in range(begin, at):
        out.values[i] /= scale
    return at if can else np.int64(-1)


@inlined
def spline(f: Any, field: Any, plan: Any, span: Any, weights: Any, out: Any, at: Any) -> Any:
    """B-splines that are not 0 at a field's number, from entry `at` on; the entry behind them, -1 for "cannot"."""
    if is_missing(span.begin, span.end, span.kind):
        if field.absent != 0:
            at = append(f, field.absent, 1.0, out, at)
    else:
        x, can = span_number(span.begin, span.end, span.kind)
        if can:
            first = spline_values(x, plan.params, field.first, field.last, field.degree, weights)
            for i in range(field.degree + 1):
                if weights[i] >= NEGLIGIBLE:
                    at = append(f, bin_key(first + i, field, plan), weights[i], out, at)
        else:
            at = np.int64(-1)
    return at


@inlined
def crossed(f: Any, field: Any, out: Any, at: Any) -> Any:
    """Pairs of the features of two fields before, from entry `at` on; the entry behind them."""
    for i in range(out.begins[field.column], out.begins[field.column + 1]):
        for j in range(out.begins[field.other], out.begins[field.other + 1]):
            at = append(f, cross_key(out.keys[i], out.keys[j], field.seed), out.values[i] * out.values[j], out, at)
    return at


@inlined
def sparse(plan: Any, spans: Any, elements: Any, weights: Any, time_s: Any, out: Any, at: Any) -> Any:
    """All features from entry `at` on, by field; the entry behind them, -1 for "cannot".

    The caller has room for them (``EVENT.room``). `weights` are (MAX_DEGREE + 1,) float64 of scratch.
    """
    for f in range(plan.fields.shape[0]):
        field = plan.fields[f]
        out.begins[f] = at
        if field.kind == SINGLE:
            key, can = single(field, plan, spans, time_s)
            if not can:
                at = np.int64(-1)
            elif key != 0:
                at = append(f, key, 1.0, out, at)
        elif field.kind == CROSS:
            at = crossed(f, field, out, at)
        else:
            span = spans[field.column]
            if field.kind == SPLINE:
                at = spline(f, field, plan, span, weights, out, at)
            elif field.kind == REAL:
                if not is_missing(span.begin, span.end, span.kind):
                    x, can = span_number(span.begin, span.end, span.kind)
                    if not can or abs(x) > REAL_MAX:
                        at = np.int64(-1)
                    elif x != 0:
                        at = append(f, field.absent, x, out, at)
            elif span.kind == OBJECT:
                at = weighted(f, field, span.first, elements, out, at)
            else:
                at = counted(f, field, plan, span, elements, out, at)
        if at < 0:
            break
        out.begins[f + 1] = at
    return at
