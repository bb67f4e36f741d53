"""Messages of lines in, a batch's arrays out, and which lines must go the exact way: the loop that all formats share.

A line goes the exact way for whatever is rare, and for all that is refused: what reasons and messages are is said in
one place, `ctr.events.reader`.
"""

# ruff: noqa: PLR1714, SIM109  plain comparisons and branches are what Numba compiles best
from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import bare, helper, inlined, kernel
from ctr.kernels.scan import delimited, jsonlines, libffm_text
from ctr.kernels.scan.features import MEMO, dense, envelope, sparse
from ctr.kernels.scan.jsonlines import blanks_end
from ctr.kernels.scan.memory import byte
from ctr.kernels.scan.template import follow
from ctr.kernels.scan.text import clean, find, is_utf8, ordinary

# constants
FORMAT = 0
DENSE = 1
# end of constants

JSON, DELIMITED, LIBFFM = range(3)
TAB, LINE_FEED, RETURN, BLANK, COMMA, OPEN_ARRAY, BACKSLASH, CLOSE_ARRAY = 9, 10, 13, 32, 44, 91, 92, 93
MOST_PASSED = 63
"""Lines that are not compared with the template after several that were not like it."""


@helper
def is_blank(c: Any) -> Any:
    """Whether a byte is a blank, a tab or part of a line break."""
    return c == BLANK or c == TAB or c == RETURN or c == LINE_FEED


@inlined
def features(
    plan: Any, followed: Any, spans: Any, bounds: Any, elements: Any, weights: Any, used: Any, time_s: Any, out: Any,
    at: Any,
) -> Any:  # fmt: skip
    """Entries of an event from `at` on: the one behind them; -1 for "cannot", -2 where there is no room.

    `followed`: what became a key by the template needs no span; of delimited text, `bounds` has what becomes one.
    """
    if at + plan.event[0].room + used * plan.event[0].room_each > out.keys.shape[0]:
        behind = np.int64(-2)
    elif DENSE:
        if FORMAT == DELIMITED:
            can = not followed or delimited.keys(plan, bounds, out, at)
            chosen = plan.cells.rest if followed else plan.every
        else:
            can = True
            chosen = plan.template.rest if followed else plan.every
        can = dense(plan, chosen, spans, time_s, out, at) and can
        behind = at + plan.fields.shape[0] if can else np.int64(-1)
    else:
        behind = sparse(plan, spans, elements, weights, time_s, out, at)
    return behind


@inlined
def trimmed(a: Any, b: Any) -> Any:
    """Where what a line holds begins and ends; nothing is in a blank one. In delimited text blanks may be cells."""
    if FORMAT == DELIMITED:
        if a + 1 == b and byte(a) == RETURN:
            b = a
    else:
        while a < b and is_blank(byte(a)):
            a += 1
        while a < b and is_blank(byte(b - 1)):
            b -= 1
    return a, b


@inlined
def like_others(at: Any, end: Any, plan: Any, spans: Any, out: Any, entry: Any) -> Any:
    """Whether a line was read by its template; where one after the other was not, most are not tried."""
    template = plan.template
    missed, followed = template.missed, False
    if missed[0] > 0:
        missed[0] -= 1
    elif template.steps.shape[0] > 0 and entry + plan.fields.shape[0] <= out.keys.shape[0]:
        followed = follow(at, end, plan, spans, out, entry)
        missed[1] = 0 if followed else min(2 * missed[1] + 1, 8 * MOST_PASSED)
        missed[0] = missed[1] // 8
    return followed


@helper
def note_missed(begin: Any, end: Any, missed: Any) -> Any:
    """Count a line that a template could have read; the longest one is to become the next template."""
    missed[2] += 1
    if end - begin > missed[4] - missed[3]:
        missed[3], missed[4] = begin, end


@bare
def _lines(
    data: Any, tail: Any, tail_from: Any, begin: Any, end: Any, offsets: Any, arrivals_s: Any, plan: Any, spans: Any,
    bounds: Any, elements: Any, weights: Any, out: Any,
) -> Any:  # fmt: skip
    row, slows, entry, full = 0, 0, np.int64(0), False
    event = plan.event[0]
    for i in range(begin.shape[0]):
        base = tail - tail_from if end[i] > tail_from else data
        at, stop = base + begin[i], base + end[i]
        nothing, header = True, FORMAT == DELIMITED and offsets[i] == 0  # perhaps one: the exact way knows
        single = ascii_only = simple = False
        if FORMAT == JSON:
            single = ascii_only = simple = ordinary(at, stop)
            if not simple:
                single, ascii_only = clean(at, stop)
        while at < stop and not full:
            last = stop if single else find(at, stop, LINE_FEED)
            a, b = trimmed(at, last)
            if a < b:
                nothing = timeless = False
                full = row == out.labels.shape[0] or slows == out.slow.shape[0]
                good = not full and not header and last - at <= event.max_bytes
                used, followed = np.int64(0), False
                if good:
                    if FORMAT == JSON:
                        if not single:
                            good, ascii_only = clean(a, b)
                        if good and not ascii_only:
                            good = is_utf8(a, b)
                        if good and DENSE:
                            followable = simple or find(a, b, BACKSLASH) == b
                            followed = followable and like_others(a, b, plan, spans, out, entry)
                        if good and not followed:
                            behind, used = jsonlines.scan(a, b, plan, spans, elements)
                            good = behind == b
                            if good and DENSE and followable:
                                note_missed(a - base, b - base, plan.template.missed)
                    elif FORMAT == DELIMITED:
                        good, followed = delimited.scan(a, b, event.delimiter, event.quotes, plan.slots, bounds, spans)
                        if followed:
                            delimited.note_spans(plan.cells, bounds, spans)
                    else:
                        used = libffm_text.scan(
                            a, b, event.label, event.classes, plan.slots, plan.many, spans, elements
                        )
                        good = used >= 0
                if good:
                    label, weight, time_s, good = envelope(plan, spans, arrivals_s[i])
                    timeless = not good and event.clock == MEMO
                if good:
                    behind = features(
                        plan, followed, spans, bounds, elements, weights, used, time_s, out, entry
                    )
                    full, good = behind == -2, behind >= 0
                if good:
                    out.labels[row], out.weights[row], out.times_s[row] = label, weight, time_s
                    out.message_of[row] = i
                    entry = behind
                    row += 1
                    if not DENSE:
                        out.start[row] = entry
                elif not full:
                    slow = out.slow[slows]
                    slow[0], slow[1], slow[2], slow[3], slow[4], slow[5] = i, at - base, last - base, row, 0, 0
                    if timeless:
                        span = spans[event.time]
                        slow[4], slow[5] = span.begin - base, span.end - base
                    slows += 1
            at, header = last + 1, False
        if nothing and not full:
            full = slows == out.slow.shape[0]
            if not full:
                slow = out.slow[slows]
                slow[0], slow[1], slow[2], slow[3], slow[4], slow[5] = i, begin[i], end[i], row, 0, 0
                slows += 1
        if full:
            break
    return row, entry, slows, full


@kernel
def lines(
    data: Any, tail: Any, tail_from: Any, begin: Any, end: Any, offsets: Any, arrivals_s: Any, plan: Any, spans: Any,
    elements: Any, weights: Any, out: Any,
) -> Any:  # fmt: skip
    """All events of messages.

    In: message i is bytes ``begin[i]`` to ``end[i]`` (-1: null) from the address `data` on; where it ends behind
    `tail_from`, of a copy that holds the bytes from there on at the address `tail`. Of
    delimited text the first line of a message with the offset 0 may be a header.
    Out: see `features.Out`.

    Returns
    -------
    rows, entries, slow lines, full
        `full`: there was no room for all; nothing that was written counts.
    """
    bounds = np.empty(plan.slots.shape[0] + delimited.AT_ONCE, np.int64)
    return _lines(
        data, tail, tail_from, begin, end, offsets, arrivals_s, plan, spans, bounds, elements, weights, out
    )


@bare
def _rows(at: Any, end: Any, time_s: Any, plan: Any, spans: Any, elements: Any, weights: Any, out: Any) -> Any:
    row, entry, full = 0, np.int64(0), False
    no_controls, ascii_only = clean(at, end)
    good = no_controls and byte(at) == OPEN_ARRAY and (ascii_only or is_utf8(at, end))
    at = blanks_end(at + 1, end)
    while good and not full:
        at, used = jsonlines.scan(at, end, plan, spans, elements)
        good = at > 0
        if good:
            full = row == out.labels.shape[0]
        if good and not full:
            entry = features(plan, False, spans, plan.slots, elements, weights, used, time_s, out, entry)
            full, good = entry == -2, entry != -1
        if good and not full:
            row += 1
            if not DENSE:
                out.start[row] = entry
            at = blanks_end(at, end)
            c = byte(at)
            at = blanks_end(at + 1, end)
            if c == CLOSE_ARRAY:
                good = at == end
                break
            good = c == COMMA
    return row if good else -1, entry, full


@kernel
def rows(at: Any, end: Any, time_s: Any, plan: Any, spans: Any, elements: Any, weights: Any, out: Any) -> Any:
    """All rows of an array of JSON objects between two addresses; labels, weights and times are left alone.

    Returns
    -------
    rows, entries, full
        rows -1: it must go the exact way. `full`: there was no room for all; nothing that was written counts.
    """
    return _rows(at, end, time_s, plan, spans, elements, weights, out)
