"""An event in JSON in, the spans of its columns out.

One pass over a line's bytes checks that it is JSON, whole, and notes where the values lie that the specification reads;
Keys mostly come in the same order: after each key the one that followed it last time
is compared first, name and closing quote at once; only if it is another one is it hashed.

A line goes the exact way for whatever is rare: an escape in what is read, a key twice, tabs, deep nesting, numbers
beyond what `text` can do, all that is refused.
"""

# ruff: noqa: PLR1714, SIM109  plain comparisons and branches are what Numba compiles best
from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import helper, inlined
from ctr.kernels.scan.features import MAX_ELEMENTS, REAL_MAX, span_number
from ctr.kernels.scan.memory import byte, equal32, forced, trailing_zeros, word4, word8
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
)

TAB, LINE_FEED, RETURN, BLANK, QUOTE, COMMA, COLON = 9, 10, 13, 32, 34, 44, 58
BACKSLASH, OPEN_ARRAY, CLOSE_ARRAY, OPEN, CLOSE = 92, 91, 93, 123, 125
NULL4, TRUE4, ALSE4 = (np.uint64(int.from_bytes(word, "little")) for word in (b"null", b"true", b"alse"))
MAX_DEPTH = 32
"""Of what nobody reads."""

KEY = np.dtype([
    ("within", "i8"), ("column", "i8"), ("outer", "i8"), ("length", "i8"), ("first", "i8"), ("last", "i8"),
])  # fmt: skip
"""A key that is read: in the event (-1) or in its object number `within`; it is a column, an object, or both (-1: not).

``patterns[first:last]`` are the words (bytes, mask) of its name and the closing quote.
"""


@forced
def string_end(at: Any, end: Any) -> Any:
    """Address of the first quote or backslash from `at` on; `end` or beyond where there is none."""
    while at < end:
        bits = equal32(at, QUOTE) | equal32(at, BACKSLASH)
        if bits:
            return at + trailing_zeros(bits)
        at += 32
    return end


@forced
def blanks_end(at: Any, end: Any) -> Any:
    """Address of the first byte that is no blank; tabs and line breaks are none here."""
    while at < end and byte(at) == BLANK:
        at += 1
    return at


@forced
def digits_end(at: Any) -> Any:
    """Address of the first byte that is no digit."""
    while True:
        # per byte: the high bit of (x ^ '0') + 0x76 is set from 10 on, of x ^ '0' itself beyond ASCII
        x = word8(at) ^ np.uint64(0x3030303030303030)
        low = x & np.uint64(0x7F7F7F7F7F7F7F7F)
        others = ((low + np.uint64(0x7676767676767676)) | x) & np.uint64(0x8080808080808080)
        if others:
            return at + (trailing_zeros(others) >> 3)
        at += 8


@forced
def number_end(at: Any, end: Any) -> Any:
    """Return (address behind a number literal, kind); address 0 where it is none of a sane length."""
    begin, kind = at, INTEGER
    if byte(at) == 45:
        at += 1
    first = at
    at = digits_end(at)
    if at == first or (byte(first) == 48 and at > first + 1):
        return np.int64(0), kind
    if byte(at) == 46:
        kind, first = DECIMAL, at + 1
        at = digits_end(first)
        if at == first:
            return np.int64(0), kind
    if byte(at) | 32 == 101:
        kind = DECIMAL
        at += 1
        if byte(at) == 43 or byte(at) == 45:
            at += 1
        first = at
        at = digits_end(first)
        if at == first or at > first + 3:
            return np.int64(0), kind
    return (at if at - begin < 400 and at < end else np.int64(0)), kind


@forced
def scalar(at: Any, end: Any) -> Any:
    """Return (begin, end, kind, address behind) of a value that is neither array nor object; address 0: cannot."""
    c = byte(at)
    if c == QUOTE:
        last = string_end(at + 1, end)
        return at + 1, last, TEXT, (last + 1 if last < end and byte(last) == QUOTE else np.int64(0))
    if c == 45 or 48 <= c <= 57:
        last, kind = number_end(at, end)
        return at, last, kind, last
    word = word4(at)
    if word == NULL4:
        return at, at + 4, NULL, at + 4
    if word == TRUE4:
        return at, at + 4, TRUE, at + 4
    if c == 102 and word4(at + 1) == ALSE4:
        return at, at + 5, FALSE, at + 5
    return at, at, MISSING, np.int64(0)


@helper
def unread_string_end(at: Any, end: Any) -> Any:
    """Address behind a string that begins at `at`; 0 where it is broken, or has half a surrogate pair."""
    at = string_end(at + 1, end)
    while at < end and byte(at) == BACKSLASH:
        c = byte(at + 1)
        at += 2
        if c == 117:  # \uXXXX
            code = 0
            for i in range(4):
                h = byte(at + i)
                digit = h - 48 if 48 <= h <= 57 else (h | 32) - 87 if 97 <= (h | 32) <= 102 else -1
                if digit < 0:
                    return np.int64(0)
                code = code * 16 + digit
            if 0xD800 <= code <= 0xDFFF:
                return np.int64(0)
            at += 4
        elif not (c == QUOTE or c == BACKSLASH or c == 47 or c == 98 or c == 102 or c == 110 or c == 114 or c == 116):
            return np.int64(0)
        at = string_end(at, end)
    return at + 1 if at < end else np.int64(0)


@helper
def unread_end(at: Any, end: Any) -> Any:
    """Address behind a value that nobody reads, checked as any other; 0 where it is broken or nests deep."""
    arrays, depth = np.uint64(0), 0  # bit d: level d is an array
    while True:
        c = byte(at)
        opened = False
        if c == OPEN_ARRAY or c == OPEN:
            depth += 1
            if depth > MAX_DEPTH:
                return np.int64(0)
            arrays = (arrays << np.uint64(1)) | np.uint64(1 if c == OPEN_ARRAY else 0)
            at = blanks_end(at + 1, end)
            opened = True
        elif c == QUOTE:
            at = unread_string_end(at, end)
        else:
            _, _, _, at = scalar(at, end)
        if at == 0 or at >= end:
            return np.int64(0)
        # behind a value, or inside what was just opened: close, go on, or begin
        while depth > 0:
            if not opened:
                at = blanks_end(at, end)
            c, array = byte(at), arrays & np.uint64(1)
            if c == (CLOSE_ARRAY if array else CLOSE):
                depth -= 1
                arrays >>= np.uint64(1)
                at += 1
                opened = False
                continue
            if not opened:
                if c != COMMA:
                    return np.int64(0)
                at = blanks_end(at + 1, end)
            if not array:
                if byte(at) != QUOTE:
                    return np.int64(0)
                at = unread_string_end(at, end)
                if at == 0:
                    return np.int64(0)
                at = blanks_end(at, end)
                if byte(at) != COLON:
                    return np.int64(0)
                at = blanks_end(at + 1, end)
            break
        if at >= end:
            return np.int64(0)
        if depth == 0:
            return at


@helper
def key_slot(word: Any, length: Any, within: Any) -> Any:
    """Hash of a key by its first eight bytes, its length and where it stands."""
    x = (word ^ np.uint64(length * 64 + within + 1)) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64(x >> np.uint64(40))


def key_slot_of(name: bytes, within: int) -> int:
    """`key_slot` of a name, for who makes the table."""
    word = int.from_bytes(name[:8], "little")
    return ((word ^ (len(name) * 64 + within + 1)) * 0x9E3779B97F4A7C15 & (1 << 64) - 1) >> 40


@helper
def first_word(at: Any, length: Any) -> Any:
    """Up to eight bytes of a key, zero-padded."""
    word = word8(at)
    return word if length >= 8 else word & ~(np.uint64(0xFFFFFFFFFFFFFFFF) << np.uint64(8 * length))


@inlined
def is_key(at: Any, end: Any, key: Any, patterns: Any) -> Any:
    """Whether the name of `key` and a quote stand at an address."""
    same = at + key.length < end
    w = key.first
    while same and w < key.last:
        same = (word8(at) ^ patterns[w, 0]) & patterns[w, 1] == 0
        at += 8
        w += 1
    return same


@inlined
def find_key(at: Any, length: Any, end: Any, within: Any, plan: Any) -> Any:
    """Index of the key at an address; -1 where nobody reads it."""
    slot = key_slot(first_word(at, length), length, within) & (plan.table.shape[0] - 1)
    found = plan.table[slot]
    while found >= 0:
        key = plan.keys[found]
        if key.within == within and key.length == length and is_key(at, end, key, plan.patterns):
            break
        slot = (slot + 1) & (plan.table.shape[0] - 1)
        found = plan.table[slot]
    return found


@inlined
def collect(at: Any, end: Any, span: Any, elements: Any, used: Any) -> Any:
    """Elements of the array or object at `at` into `elements[used:]`: (address behind, used); address 0: cannot."""
    array = byte(at) == OPEN_ARRAY
    close = CLOSE_ARRAY if array else CLOSE
    span.begin, span.kind, span.first = at, (ARRAY if array else OBJECT), used
    at = blanks_end(at + 1, end)
    empty = byte(at) == close
    if empty:
        span.first = -1
        at = at + 1 if array else np.int64(0)  # an empty object is refused
    while not empty and at > 0:
        if used >= MAX_ELEMENTS:
            at = np.int64(0)
            break
        element = elements[used]
        begin, last, kind, at = scalar(at, end)
        if not array and at > 0:
            element.begin, element.end, element.kind = begin, last, TEXT
            at = blanks_end(at, end)
            if kind != TEXT or byte(at) != COLON:
                at = np.int64(0)
                break
            begin, last, kind, at = scalar(blanks_end(at + 1, end), end)
            x, can = span_number(begin, last, kind) if at > 0 else (0.0, False)
            element.value = x
            if not can or abs(x) > REAL_MAX:
                at = np.int64(0)
        else:
            element.begin, element.end, element.kind, element.value = begin, last, kind, 1
        if at == 0:
            break
        used += 1
        element.next = used
        at = blanks_end(at, end)
        c = byte(at)
        at += 1
        if c == close:
            element.next = -1
            break
        if c != COMMA:
            at = np.int64(0)
            break
        at = blanks_end(at, end)
    span.end = at
    return at, used


@inlined
def scan(at: Any, end: Any, plan: Any, spans: Any, elements: Any) -> Any:
    """Values of the object at `at` into `spans`: (address behind it, elements used); address 0: cannot.

    ``plan.after`` says which key followed last time on each; on one that nobody reads (``len(keys)``); on the event's
    beginning (``len(keys) + 1``) and on those of the objects in it.
    """
    keys, after = plan.keys, plan.after
    for c in range(spans.shape[0]):
        spans[c].kind = MISSING
    unread, used = keys.shape[0], np.int64(0)
    within, outer_key, before = np.int64(-1), np.int64(-1), np.int64(unread + 1)
    seen = np.uint64(0)  # objects that hold columns
    begun = True
    if byte(at) != OPEN:
        at = np.int64(0)
    else:
        at = blanks_end(at + 1, end)
        if byte(at) == CLOSE:
            begun = False
            at += 1
    while begun and at > 0 and at < end:
        # the key
        if byte(at) != QUOTE:
            at = np.int64(0)
            break
        at += 1
        k = after[before]
        if k >= 0 and keys[k].within == within and is_key(at, end, keys[k], plan.patterns):
            at += keys[k].length + 1
        else:
            last = string_end(at, end)
            if last >= end or byte(last) != QUOTE:
                at = np.int64(0)
                break
            k = find_key(at, last - at, end, within, plan)
            after[before] = k
            at = last + 1
        before = k if k >= 0 else np.int64(unread)
        if byte(at) != COLON:
            at = blanks_end(at, end)
            if byte(at) != COLON:
                at = np.int64(0)
                break
        at += 1
        if byte(at) == BLANK:
            at = blanks_end(at, end)
        # the value
        c = byte(at)
        if k < 0:
            at = unread_end(at, end)
        else:
            column, outer = keys[k].column, keys[k].outer
            if outer >= 0:
                if seen >> np.uint64(outer) & np.uint64(1):
                    at = np.int64(0)
                    break
                seen |= np.uint64(1) << np.uint64(outer)
            if outer >= 0 and c == OPEN:
                if column >= 0:
                    at = np.int64(0)
                    break
                at = blanks_end(at + 1, end)
                if byte(at) != CLOSE:
                    within, outer_key = outer, k
                    before = np.int64(unread + 2 + outer)
                    continue
                at += 1
            elif column >= 0:
                span = spans[column]
                if span.kind != MISSING:
                    at = np.int64(0)
                elif c != OPEN_ARRAY and c != OPEN:
                    span.begin, span.end, span.kind, at = scalar(at, end)
                    if outer >= 0 and span.kind != NULL:
                        at = np.int64(0)
                elif plan.many[column] and outer < 0:
                    at, used = collect(at, end, span, elements, used)
                else:
                    at = np.int64(0)
            else:
                _, _, kind, at = scalar(at, end)
                if kind != NULL:
                    at = np.int64(0)
        # behind the value
        while at > 0:
            c = byte(at)
            if c == BLANK:
                at = blanks_end(at, end)
                c = byte(at)
            at += 1
            if c == COMMA:
                if byte(at) == BLANK:
                    at = blanks_end(at, end)
                break
            if c != CLOSE:
                at = np.int64(0)
            elif within >= 0:
                within, before = np.int64(-1), outer_key
            else:
                begun = False
                break
    return (at if at <= end and not begun else np.int64(0)), used
