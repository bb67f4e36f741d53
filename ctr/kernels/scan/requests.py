"""The bytes of a scoring request in, keys out: for specifications whose fields have at most one feature each.

Bodies lie in ``bound.body`` (see `bound.Bound`), with 64 bytes more behind them. What is read here is what nearly all
requests look like. Anything else is "cannot", and `ctr.events.encode_rows` or `ctr.serving.questions` read the decoded
body; all that is refused is refused there.
"""

# ruff: noqa: PLR1714  plain comparisons and branches are what Numba compiles best
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ctr.kernels.jit import bare, helper
from ctr.kernels.scan import jsonlines
from ctr.kernels.scan.features import dense, single
from ctr.kernels.scan.ids import places_of
from ctr.kernels.scan.jsonlines import NULL4, blanks_end
from ctr.kernels.scan.lines import is_blank
from ctr.kernels.scan.memory import byte, word4, word8
from ctr.kernels.scan.text import MISSING, clean, is_utf8
from ctr.kernels.serve import brief

QUOTE, COMMA, COLON, OPEN_ARRAY, BACKSLASH, CLOSE_ARRAY, OPEN, CLOSE = 34, 44, 58, 91, 92, 93, 123, 125
NO_TOP = -1
CONTEXT, CANDIDATES, TOP = 1, 2, 4


def _word(text: bytes) -> Any:
    return np.uint64(int.from_bytes(text, "little"))


INSTANC, ES, CONTEX, CANDIDA, TES, TOP4 = map(_word, (b'"instanc', b'es"', b'"context', b'"candida', b'tes"', b'"top'))
LOW3 = np.uint64(0xFFFFFF)


class Row(NamedTuple):
    """Keys of one row, where `features.dense` looks for them."""

    keys: Any


@helper
def space_end(at: Any, end: Any) -> Any:
    """Address of the first byte that is no blank, tab or line break."""
    while at < end and is_blank(byte(at)):
        at += 1
    return at


@helper
def space_begin(at: Any, end: Any) -> Any:
    """Address behind the last byte before `end` that is no blank, tab or line break."""
    while at < end and is_blank(byte(end - 1)):
        end -= 1
    return end


@helper
def instances_of(at: Any, end: Any) -> Any:
    """Begin and end of the array in ``{"instances": [...]}``; 0, 0 where it is not that."""
    nothing = np.int64(0), np.int64(0)
    at = space_end(at, end)
    if byte(at) != OPEN:
        return nothing
    at = space_end(at + 1, end)
    if word8(at) != INSTANC or word4(at + 8) & LOW3 != ES:
        return nothing
    at = space_end(at + 11, end)
    if byte(at) != COLON:
        return nothing
    at = space_end(at + 1, end)
    end = space_begin(at, end)
    if at >= end or byte(end - 1) != CLOSE:
        return nothing
    end = space_begin(at, end - 1)
    if at >= end or byte(at) != OPEN_ARRAY or byte(end - 1) != CLOSE_ARRAY:
        return nothing
    return at, end


@bare
def spans_of(at: Any, end: Any, plan: Any, spans: Any, elements: Any) -> Any:
    """Spans of the object at `at`; the address behind it, 0 for "cannot"."""
    behind, _ = jsonlines.scan(at, end, plan, spans, elements)
    return behind


@bare
def keys_of(plan: Any, spans: Any, time_s: Any, keys: Any, first: Any) -> Any:
    """All keys of a row into ``keys[first:]``; whether they could be made."""
    return dense(plan, plan.every, spans, time_s, Row(keys), first)


@bare
def _instances(at: Any, end: Any, time_s: Any, plan: Any, spans: Any, elements: Any, keys: Any) -> Any:
    n, F = 0, plan.fields.shape[0]
    at, end = instances_of(at, end)
    no_controls, ascii_only = clean(at, end)
    good = at > 0 and no_controls and (ascii_only or is_utf8(at, end))
    while good:
        at = spans_of(blanks_end(at + 1, end), end, plan, spans, elements)
        good = at > 0 and (n + 1) * F <= keys.shape[0] and keys_of(plan, spans, time_s, keys, np.int64(n * F))
        if not good:
            break
        n += 1
        at = blanks_end(at, end)
        if byte(at) == CLOSE_ARRAY:
            good = at + 1 == end
            break
        good = byte(at) == COMMA
    return n if good else -1


@brief
def instances(length: Any, time_s: Any, bound: Any) -> Any:
    """Keys of the rows of ``{"instances": [...]}``, the first `length` bytes of ``bound.body``, into ``bound.keys``.

    How many rows, -1 for "cannot", which is also what more rows than there is room for are.
    """
    at = np.int64(bound.body.ctypes.data)
    return _instances(at, at + length, time_s, bound.plan, bound.spans, bound.elements, bound.keys)


@bare
def candidates_of(
    at: Any, end: Any, time_s: Any, plan: Any, spans: Any, elements: Any, named: Any, fields: Any, keys: Any
) -> Any:  # fmt: skip
    """Keys of the objects of an array, all of which must name the columns that the first one names.

    Returns the address behind the array, 0 for "cannot"; how many objects; how many fields each of them has.
    """
    n, A = 0, 0
    at = blanks_end(at + 1, end)
    while True:
        at = spans_of(at, end, plan, spans, elements)
        if at == 0:
            break
        count = 0
        for j in range(named.shape[0]):
            f = named[j]
            if spans[plan.fields[f].column].kind != MISSING:
                if n == 0:
                    fields[A] = f
                    A += 1
                count += 1
        good = 0 < count == A and (n + 1) * A <= keys.shape[0]
        if good:
            for a in range(A):
                field = plan.fields[fields[a]]
                key, can = single(field, plan, spans, time_s)
                good = good and can and spans[field.column].kind != MISSING
                keys[n * A + a] = key
        n += 1
        at = blanks_end(at, end)
        c = byte(at)
        if not good or (c != COMMA and c != CLOSE_ARRAY):
            at = np.int64(0)
            break
        at += 1
        if c == CLOSE_ARRAY:
            break
        at = blanks_end(at, end)
    return at, n, A


@helper
def count_of(at: Any, end: Any) -> Any:
    """Return (number, address behind) of up to 9 digits, or null; address 0 for "cannot"."""
    if word4(at) == NULL4:
        return NO_TOP, at + 4
    value, begin = 0, at
    while at < end and 48 <= byte(at) <= 57:
        value = value * 10 + byte(at) - 48
        at += 1
    if at == begin or at > begin + 9 or (byte(begin) == 48 and at > begin + 1):
        return 0, np.int64(0)
    return value, at


@bare
def _ranking(
    at: Any, end: Any, time_s: Any, plan: Any, spans: Any, elements: Any, named: Any, table: Any, context: Any,
    fields: Any, keys: Any,
) -> Any:  # fmt: skip
    n, A, top, known, seen = 0, 0, NO_TOP, True, 0
    at, end = space_end(at, end), space_begin(at, end)
    no_controls, ascii_only = clean(at, end)
    good = at < end and no_controls and byte(at) == OPEN and (ascii_only or is_utf8(at, end))
    at = blanks_end(at + 1, end)
    while good:
        part = 0
        if word8(at) == CONTEX and byte(at + 8) == QUOTE:
            part, at = CONTEXT, at + 9
        elif word8(at) == CANDIDA and word4(at + 8) == TES:
            part, at = CANDIDATES, at + 12
        elif word4(at) == TOP4 and byte(at + 4) == QUOTE:
            part, at = TOP, at + 5
        at = blanks_end(at, end)
        good = part != 0 and seen & part == 0 and byte(at) == COLON
        if not good:
            break
        seen |= part
        at = blanks_end(at + 1, end)
        if part == CONTEXT:
            at = spans_of(at, end, plan, spans, elements)
            good = at > 0 and keys_of(plan, spans, time_s, context, np.int64(0))
        elif part == TOP:
            top, at = count_of(at, end)
            good = at > 0
        elif byte(at) != OPEN_ARRAY:
            good = False
        elif byte(blanks_end(at + 1, end)) == QUOTE:
            n, at, known = places_of(at, end, table, keys)
            good = at > 0
        else:
            at, n, A = candidates_of(at, end, time_s, plan, spans, elements, named, fields, keys)
            good = at > 0
        if good:
            at = blanks_end(at, end)
            c = byte(at)
            at += 1
            if c == CLOSE:
                good = at == end
                break
            good = c == COMMA
            at = blanks_end(at, end)
    # A request without a context has the keys of an empty row, of which clocks are a part: rare, so not here.
    good = good and seen & (CONTEXT | CANDIDATES) == CONTEXT | CANDIDATES
    return good, n, A, top, known


@brief
def ranking(length: Any, time_s: Any, bound: Any, table: Any, context: Any, fields: Any) -> Any:
    """Keys of ``{"context": {...}, "candidates": [...], "top": n}``, its parts in any order.

    In: the first `length` bytes of ``bound.body``, and the ``table`` of `ids`. Out: ``context`` (F,) keys; where
    candidates are objects, ``fields`` (A,) of theirs and ``bound.keys`` (n A,); where they are ids, their places in
    ``bound.keys`` (n,), and A is 0.

    Returns
    -------
    good, n, A, top, known
        Whether all could be read; `NO_TOP` where there is none; whether all ids are known.
    """
    at = np.int64(bound.body.ctypes.data)
    return _ranking(
        at, at + length, time_s, bound.plan, bound.spans, bound.elements, bound.named, table, context, fields,
        bound.keys,
    )  # fmt: skip
