"""A line of delimited text in, the spans of its columns out: Criteo's and Avazu's logs, and any CSV or TSV.

Exact, or "cannot": what `ctr.events.delimited` refuses, and quoting beyond a whole cell in quotes, goes there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import helper
from ctr.kernels.scan.memory import byte, equal32, forced, signed_below32, trailing_zeros
from ctr.kernels.scan.text import TEXT, find, is_utf8

QUOTE, RETURN = 34, 13
ONE = np.uint64(1)


@forced
def equal64(at: Any, value: Any) -> Any:
    """Which of the 64 bytes at an address equal a value: bit i for byte i."""
    return equal32(at, value) | (equal32(at + 32, value) << np.uint64(32))


@helper
def plain_cells(at: Any, end: Any, delimiter: Any, quotes: Any, slots: Any, spans: Any) -> Any:
    """Spans of the cells between delimiters.

    Returns
    -------
    whether there are as many as `slots`; high, odd
        Nonzero where a byte is beyond ASCII; where one is a quote or a carriage return and `quotes` are more than
        characters. Both are of all bytes only where the cells are as many as `slots`.
    """
    column, last, begin = 0, slots.shape[0] - 1, at
    high, odd = np.uint64(0), np.uint64(0)
    while at < end:
        inside = (ONE << np.uint64(end - at)) - ONE if end - at < 64 else ~np.uint64(0)
        high |= (signed_below32(at, 0) | (signed_below32(at + 32, 0) << np.uint64(32))) & inside
        if quotes:
            odd |= (equal64(at, QUOTE) | equal64(at, RETURN)) & inside
        marks = equal64(at, delimiter) & inside
        while marks:
            stop = at + trailing_zeros(marks)
            marks &= marks - ONE
            if column == last:
                return False, high, odd
            span = spans[slots[column]]
            span.begin, span.end, span.kind = begin, stop, TEXT
            begin = stop + 1
            column += 1
        at += 64
    span = spans[slots[column]]
    span.begin, span.end, span.kind = begin, end, TEXT
    return column == last, high, odd


@helper
def quoted_cells(at: Any, end: Any, delimiter: Any, slots: Any, spans: Any) -> Any:
    """As `plain_cells`, where a cell may stand in quotes; it cannot do doubled quotes and what is behind a quoted cell.

    A quote inside a cell that does not begin with one is a character like others, as in Python's csv module.
    """
    column, last = 0, slots.shape[0] - 1
    while column <= last:
        begin = at
        quoted = at < end and byte(at) == QUOTE
        if quoted:
            begin += 1
            stop = find(begin, end, QUOTE)
            at = stop + 1
            if stop == end or (at < end and byte(at) != delimiter):
                return False
        else:
            stop = at = find(at, end, delimiter)
        span = spans[slots[column]]
        span.begin, span.end, span.kind = begin, stop, TEXT
        if at == end:
            return column == last
        at += 1
        column += 1
    return False


@helper
def scan(at: Any, end: Any, delimiter: Any, quotes: Any, slots: Any, spans: Any) -> Any:
    """Cells of the line from address `at` to `end`, without its newline; whether all could be told apart.

    Parameters
    ----------
    delimiter : int
        One byte.
    quotes : bool
        Whether a quote is more than a character.
    slots : (columns,) int64
        Where in `spans` a column goes; those that nobody reads share one entry.
    spans : (n,) `features.SPAN`
    """
    if at < end and byte(end - 1) == RETURN:
        end -= 1
    good, high, odd = plain_cells(at, end, delimiter, quotes, slots, spans)
    if good and not odd:
        return not high or is_utf8(at, end)
    if not quotes or find(at, end, RETURN) < end or not is_utf8(at, end):
        return False
    return quoted_cells(at, end, delimiter, slots, spans)
