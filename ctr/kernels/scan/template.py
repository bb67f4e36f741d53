"""An event in JSON that looks like an earlier one in, its keys and the spans of the other columns out.

Events of one producer differ in their values only. A template is the bytes between the values of one of them: what
stands before the first value, between each value and the next, and behind the last one. An event with the same bytes
there, and a string without escapes, a number, a boolean or null between them, is whole JSON with the same keys in the
same places, so neither its syntax nor its keys have to be looked at once more. Most values become keys on the spot: the
next value is found meanwhile.

Keys that are left out are passed over. Whatever else is different goes to `jsonlines.scan`. `ctr.events.template` makes
templates.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import helper, inlined
from ctr.kernels.scan.features import bin_key, key_of_value
from ctr.kernels.scan.jsonlines import NULL4, scalar
from ctr.kernels.scan.memory import byte, differ32, equal32, forced, trailing_zeros, word4, word8
from ctr.kernels.scan.text import MISSING, NULL, TEXT, key_of, key_of_8

QUOTE, SMALL_N = 34, 110
SKIP, SPAN, KEY, LOG_KEY, PLAIN_KEY = range(5)
"""What becomes of a value: nothing; a span for the envelope and the fields in `Template.rest`; or a field's key: by any
transform, by a logarithm, of its own text."""

NEVER = np.uint64(1 << 63)
"""No bit of 32 bytes, and not 0 either, which a text of more than 32 bytes has."""
STEP = np.dtype([
    ("gap", "i8"), ("length", "i8"), ("free", "i8"), ("action", "i8"), ("target", "u8"), ("seed", "u8"),
    ("usual", "u8"), ("usual_length", "i8"),
])  # fmt: skip
"""Value of a template: the `length` bytes ``gaps[gap:]`` before it; whether it may be left out; column or field.

`usual` is the bit of the quote at which a text ended in the template; the kernel writes `NEVER` where that turns out to
say nothing. Where texts are of one length, the processor goes on to the next value before it has seen the end of this
one: 265 ns an event of 39 fields instead of 300.

The last one stands for what follows the last value, and has none itself.
"""

ZEROS, NOT_HIGH = np.uint64(0x3030303030303030), np.uint64(0x7F7F7F7F7F7F7F7F)
FROM_TEN, HIGH = np.uint64(0x7676767676767676), np.uint64(0x8080808080808080)


@forced
def is_same(at: Any, gap: Any, length: Any) -> Any:
    """Whether `length` bytes at two addresses are equal."""
    while length > 32:
        if differ32(at, gap):
            return False
        at, gap, length = at + 32, gap + 32, length - 32
    return differ32(at, gap) & ((np.uint64(1) << np.uint64(length)) - np.uint64(1)) == 0


@forced
def short_whole(at: Any) -> Any:
    """Return (number, digits) of up to 7 digits without a sign; 0 digits where there are none, or 8 and more."""
    # As in `jsonlines.digits_end`; then neighbours are joined to numbers of 2, 4 and 8 digits.
    x = word8(at) ^ ZEROS
    others = (((x & NOT_HIGH) + FROM_TEN) | x) & HIGH
    digits = trailing_zeros(others) >> 3
    x <<= np.uint64(64 - 8 * digits) & np.uint64(63)
    x = (x * np.uint64(2561)) >> np.uint64(8)
    x = ((x & np.uint64(0x00FF00FF00FF00FF)) * np.uint64(6553601)) >> np.uint64(16)
    x = ((x & np.uint64(0x0000FFFF0000FFFF)) * np.uint64(42949672960001)) >> np.uint64(32)
    return np.int64(x), (digits if digits < 8 else np.int64(0))


@forced
def string_end(at: Any, end: Any) -> Any:
    """Address of the first quote from `at` on; beyond `end` where there is none."""
    bits = equal32(at, QUOTE)
    while bits == 0 and at < end:
        at += 32
        bits = equal32(at, QUOTE)
    return at + trailing_zeros(bits)


@helper
def any_scalar(at: Any, end: Any) -> Any:
    """`jsonlines.scalar`, not inlined: for values that take longer."""
    return scalar(at, end)


@inlined
def follow(at: Any, end: Any, plan: Any, spans: Any, out: Any, entry: Any) -> Any:
    """Keys from ``out.keys[entry:]`` on and spans of the line between two addresses; whether it is as the template.

    The line has no backslash and no control character, and is UTF-8.
    """
    template = plan.template
    gaps = template.gaps.ctypes.data
    for f in range(template.absent.shape[0]):
        out.keys[entry + f] = template.absent[f]
    for c in template.spanned:
        spans[c].kind = MISSING
    last = np.uint64(template.steps.shape[0] - 1)
    s, first = np.uint64(0), np.uint64(entry)
    good = template.steps.shape[0] > 0
    while good:
        step = template.steps[s]
        length = step.length
        if at + length > end or not is_same(at, gaps + step.gap, length):
            good = step.free != 0
            s += np.uint64(1)
            continue
        at += length
        if s == last:
            good = at == end
            break
        s += np.uint64(1)
        c = byte(at)
        if c == QUOTE:
            at += 1
            begin = at
            bits = equal32(at, QUOTE)
            if bits & (np.uint64(0) - bits) == step.usual:
                at += step.usual_length
            else:
                step.usual = NEVER
                at = string_end(at, end)
            if step.action == PLAIN_KEY:
                if at - begin == 8:
                    out.keys[first + step.target] = key_of_8(begin, step.seed)
                elif at > begin:
                    out.keys[first + step.target] = key_of(begin, at, step.seed)
            elif step.action == SPAN:
                span = spans[step.target]
                span.begin, span.end, span.kind = begin, at, TEXT
            elif step.action != SKIP and at > begin:
                out.keys[first + step.target], good = key_of_value(begin, at, TEXT, step.target, plan)
            at += 1
        elif c == SMALL_N:
            good = word4(at) == NULL4
            if step.action == SPAN:
                spans[step.target].kind = NULL
            at += 4
        else:
            whole, digits = short_whole(at)
            behind = byte(at + digits)
            plain = digits > 0 and behind != 46 and behind | 32 != 101 and (c != 48 or digits == 1)
            if plain and step.action == LOG_KEY and whole < plan.small_bins.shape[1]:
                field = plan.fields[step.target]
                bin_ = np.int64(plan.small_bins[np.uint64(field.small), np.uint64(whole)])
                out.keys[first + step.target] = bin_key(bin_, field, plan)
                at += digits
            elif plain and step.action == PLAIN_KEY:
                out.keys[first + step.target] = key_of(at, at + digits, step.seed)
                at += digits
            else:
                begin, stop, kind, at = any_scalar(at, end)
                good = at > 0
                if good and step.action == SPAN:
                    span = spans[step.target]
                    span.begin, span.end, span.kind = begin, stop, kind
                elif good and step.action != SKIP:
                    out.keys[first + step.target], good = key_of_value(begin, stop, kind, step.target, plan)
    return good
