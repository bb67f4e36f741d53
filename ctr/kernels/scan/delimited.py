"""A line of delimited text in, its cells out, most of them as keys: Criteo's and Avazu's logs, and any CSV or TSV.

Exact, or "cannot": what `ctr.events.delimited` refuses, and quoting beyond a whole cell in quotes, goes there.

Where the cells of a line without quotes begin is all that has to be found in it. Then cells that become keys alike are
hashed one behind the other, with no branch that depends on how long a cell is or whether it is empty: the processor
works on several at once. With a span for each cell, then a key for each span, Criteo's log took 1.4 to 1.6 times as
long (tests/benchmarks/scan_text.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import helper, inlined
from ctr.kernels.scan.features import bin_key, key_of_value
from ctr.kernels.scan.memory import byte, equal64, forced, ones_in, signed_below64, trailing_zeros, word8
from ctr.kernels.scan.text import TEXT, find, is_utf8, key_of, key_of_8, key_of_word, whole_of

QUOTE, RETURN = 34, 13
ONE = np.uint64(1)
AT_ONCE = 16
"""Cells noted together: mostly all that end in 64 bytes, so that their number is no branch."""


@forced
def plain_cells(at: Any, end: Any, delimiter: Any, quotes: Any, most: Any, bounds: Any) -> Any:
    """Where the cells between delimiters begin, to ``bounds``; behind the last one, where another would.

    Returns
    -------
    number of cells; high, odd
        More than `most` is all that is said of more; there is room for ``most + AT_ONCE``. High and odd are nonzero
        where a byte is beyond ASCII; where one is a quote or a carriage return and `quotes` are more than characters.
    """
    n, high, odd = np.int64(1), np.uint64(0), np.uint64(0)
    bounds[0] = at
    while at < end and n <= most:
        inside = (ONE << np.uint64(end - at)) - ONE if end - at < 64 else ~np.uint64(0)
        high |= signed_below64(at, 0) & inside
        if quotes:
            odd |= (equal64(at, QUOTE) | equal64(at, RETURN)) & inside
        marks = equal64(at, delimiter) & inside
        behind = n + ones_in(marks)
        if behind <= most:
            for i in range(AT_ONCE):
                bounds[np.uint64(n + i)] = at + 1 + trailing_zeros(marks)
                marks &= marks - ONE
            n += AT_ONCE
            while marks:
                bounds[np.uint64(n)] = at + 1 + trailing_zeros(marks)
                marks &= marks - ONE
                n += 1
        n = behind
        at += 64
    if n <= most:
        bounds[n] = end + 1
    return n, high, odd


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


@forced
def scan(at: Any, end: Any, delimiter: Any, quotes: Any, slots: Any, bounds: Any, spans: Any) -> Any:
    """Cells of the line from address `at` to `end`, without its newline.

    Parameters
    ----------
    delimiter : int
        One byte.
    quotes : bool
        Whether a quote is more than a character.
    slots : (columns,) int64
        Where in `spans` a column goes; those that nobody reads share one entry.
    bounds : (columns + AT_ONCE,) int64
    spans : (n,) `features.SPAN`

    Returns
    -------
    whether all cells could be told apart; whether `bounds` says where they are (see `plain_cells`), or else `spans`
    """
    if at < end and byte(end - 1) == RETURN:
        end -= 1
    n, high, odd = plain_cells(at, end, delimiter, quotes, slots.shape[0], bounds)
    if n == slots.shape[0] and not odd:
        return not high or is_utf8(at, end), True
    if not quotes or find(at, end, RETURN) < end or not is_utf8(at, end):
        return False, False
    return quoted_cells(at, end, delimiter, slots, spans), False


@inlined
def note_spans(cells: Any, bounds: Any, spans: Any) -> None:
    """Spans of the cells that do not become a key at once."""
    for i in range(cells.spanned.shape[0]):
        cell = np.uint64(cells.spanned[i, 0])
        span = spans[np.uint64(cells.spanned[i, 1])]
        span.begin, span.end, span.kind = bounds[cell], bounds[cell + ONE] - 1, TEXT


@inlined
def keys(plan: Any, bounds: Any, out: Any, at: Any) -> Any:
    """Keys of all other cells that are read, to ``out.keys[at:]``; whether all could be made.

    An empty cell becomes a key like others; then another one is taken in its place.
    """
    texts, counts, can = plan.cells.texts, plan.cells.counts, True
    for i in range(texts.shape[0]):
        cell, f = np.uint64(texts[i, 0]), np.uint64(texts[i, 1])
        begin = bounds[cell]
        n = bounds[cell + ONE] - 1 - begin
        field = plan.fields[f]
        if n & ~8 == 0:
            key = key_of_8(begin, field.seed)
        elif n < 8:
            key = key_of_word(word8(begin), n, field.seed)
        else:
            key = key_of(begin, begin + n, field.seed)
        out.keys[np.uint64(at) + f] = field.absent if n == 0 else key
    for i in range(counts.shape[0]):
        cell, f = np.uint64(counts[i, 0]), np.uint64(counts[i, 1])
        begin = bounds[cell]
        n = bounds[cell + ONE] - 1 - begin
        field = plan.fields[f]
        whole, digits = whole_of(begin, min(n, 8))
        if digits and n <= 8 and whole < plan.small_bins.shape[1]:
            key = bin_key(np.int64(plan.small_bins[np.uint64(field.small), np.uint64(whole)]), field, plan)
        else:
            key, readable = key_of_value(begin, begin + n, TEXT, f, plan)
            can = can and readable
        out.keys[np.uint64(at) + f] = field.absent if n == 0 else key
    return can
