"""A line of libffm text, ``label field:feature:value ...``, in, the spans of its label and of the fields' features out.

Exact, or "cannot": what `ctr.events.libffm` refuses, a feature that a field names twice, and all that is not ASCII,
where text may hold blanks of many kinds, goes there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import helper
from ctr.kernels.scan.features import REAL_MAX
from ctr.kernels.scan.memory import below32, byte, equal32, signed_below32, trailing_zeros
from ctr.kernels.scan.text import FALSE, MISSING, OBJECT, TEXT, number

COLON, BLANK, TAB, RETURN, ZERO, ONE, PLUS, MINUS = b": \t\r01+-"
BLANKS = (BLANK, TAB, RETURN)
BIT = np.uint64(1)


@helper
def label(begin: Any, end: Any, classes: Any, span: Any) -> None:
    """Note the label; of classes, -1 is 0 and +1 is 1."""
    span.begin, span.end, span.kind = begin, end, TEXT
    if classes and end - begin == 2 and byte(begin + 1) == ONE:
        if byte(begin) == MINUS:
            span.kind = FALSE
        elif byte(begin) == PLUS:
            span.begin = begin + 1


@helper
def slot_of(begin: Any, end: Any, slots: Any) -> Any:
    """Where in the spans a field goes that is named by its number; -1 where nobody reads it."""
    if end - begin > 5 or (byte(begin) == ZERO and end - begin > 1):
        return np.int64(-1)
    value = 0
    for at in range(begin, end):
        digit = byte(at) - ZERO
        if digit < 0 or digit > 9:
            return np.int64(-1)
        value = value * 10 + digit
    return slots[value] if value < slots.shape[0] else np.int64(-1)


@helper
def entry(
    begin: Any, first: Any, second: Any, end: Any, slots: Any, multi: Any, spans: Any, elements: Any, n: Any
) -> Any:
    """Note one ``field:feature:value`` with its colons at `first` and `second`; elements so far, -1 for "cannot"."""
    slot = slot_of(begin, first, slots)
    if slot < 0:
        return n
    x, can = 1.0, True
    if end - second != 2 or byte(second + 1) != ONE:
        x, can = number(second + 1, end)
    if not can or abs(x) > REAL_MAX:
        return np.int64(-1)
    span = spans[slot]
    if not multi[slot]:
        if span.kind != MISSING or x != 1.0:
            return np.int64(-1)
        span.begin, span.end, span.kind = first + 1, second, TEXT
        return n
    if n == elements.shape[0]:
        return np.int64(-1)
    element = elements[n]
    element.begin, element.end, element.kind, element.next, element.value = first + 1, second, TEXT, -1, x
    if span.kind == MISSING:
        span.kind, span.first = OBJECT, n
    else:
        elements[span.last].next = n
    span.last = n
    return n + 1


@helper
def scan(at: Any, end: Any, label_slot: Any, classes: Any, slots: Any, multi: Any, spans: Any, elements: Any) -> Any:
    """Label and features of the line from address `at` to `end`, without its newline; elements used, -1 for "cannot".

    Parameters
    ----------
    label_slot : int
        The label's entry of `spans`.
    classes : bool
        Whether labels are classes: then -1 is read as 0.
    slots : (most + 1,) int64
        Where in `spans` the field of that number goes; -1 for those that nobody reads.
    multi : (n,) bool
        Whether an entry of `spans` is of a field that may hold several features.
    spans : (n,) `features.SPAN`
    elements : (m,) `features.ELEMENT`
    """
    for slot in range(spans.shape[0]):
        spans[slot].kind = MISSING
    n, colons, labelled = np.int64(0), 0, False
    begin = first = second = at
    while at <= end:
        # blanks, whatever else is below them, and colons; a blank is thought behind the end
        marks = below32(at, BLANK + 1) | equal32(at, COLON)
        high = signed_below32(at, 0)
        if end - at < 32:
            here = BIT << np.uint64(end - at)
            marks, high = (marks & (here - BIT)) | here, high & (here - BIT)
        if high:
            return np.int64(-1)
        while marks:
            stop = at + trailing_zeros(marks)
            marks &= marks - BIT
            if stop < end:
                c = byte(stop)
                if c == COLON:
                    first, second = (stop, second) if colons == 0 else (first, stop)
                    colons += 1
                    continue
                if c not in BLANKS:
                    return np.int64(-1)
            if stop > begin:
                if not labelled:
                    label(begin, stop, classes, spans[label_slot])
                    labelled = True
                elif colons != 2 or first == begin or second == first + 1:
                    return np.int64(-1)
                else:
                    n = entry(begin, first, second, stop, slots, multi, spans, elements, n)
                    if n < 0:
                        return n
            begin, colons = stop + 1, 0
        at += 32
    return n if labelled else np.int64(-1)
