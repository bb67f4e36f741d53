"""A span of bytes in, what it says out: its XXH64, its number, its canonical text, its time; exactly, or "cannot".

What these give is bit for bit what `ctr.events` gives (hashing, transforms, envelope). Where that would take more than
a few operations they say that they cannot, and the event goes the exact way.
"""

# ruff: noqa: PLR1714, SIM109, PLW3301  plain comparisons and branches are what Numba compiles best
from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import helper
from ctr.kernels.scan.memory import (
    below32,
    byte,
    equal32,
    equal64,
    forced,
    signed_below32,
    signed_below64,
    trailing_zeros,
    word4,
    word8,
)

# What a span holds.
MISSING, NULL, TEXT, INTEGER, DECIMAL, TRUE, FALSE, ARRAY, OBJECT = range(9)
"""INTEGER and DECIMAL are literals of JSON: without and with point or exponent. Spans of TEXT are without quotes."""

P1, P2, P3, P4, P5 = (
    np.uint64(prime)
    for prime in (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)
)
SHIFT = np.uint64(0x9E3779B97F4A7C15)
RESERVED_KEYS = np.uint64(65536)
POWERS = np.array([10.0**e for e in range(23)])
"""Exact in float64, and the largest that are."""


# ---- XXH64 ----------------------------------------------------------------------------------------------------------


@forced
def rotl(x: Any, r: Any) -> Any:
    """Rotate left."""
    return (x << np.uint64(r)) | (x >> np.uint64(64 - r))


@forced
def _finished(h: Any) -> Any:
    h = (h ^ (h >> np.uint64(33))) * P2
    h = (h ^ (h >> np.uint64(29))) * P3
    return h ^ (h >> np.uint64(32))


@forced
def xxh64(at: Any, end: Any, seed: Any) -> Any:
    """XXH64 of the bytes from address `at` to `end`; seed and hash uint64."""
    n = end - at
    if n >= 32:
        a, b, c, d = seed + P1 + P2, seed + P2, seed, seed - P1
        while at + 32 <= end:
            a = rotl(a + word8(at) * P2, 31) * P1
            b = rotl(b + word8(at + 8) * P2, 31) * P1
            c = rotl(c + word8(at + 16) * P2, 31) * P1
            d = rotl(d + word8(at + 24) * P2, 31) * P1
            at += 32
        h = rotl(a, 1) + rotl(b, 7) + rotl(c, 12) + rotl(d, 18)
        h = (h ^ (rotl(a * P2, 31) * P1)) * P1 + P4
        h = (h ^ (rotl(b * P2, 31) * P1)) * P1 + P4
        h = (h ^ (rotl(c * P2, 31) * P1)) * P1 + P4
        h = (h ^ (rotl(d * P2, 31) * P1)) * P1 + P4
    else:
        h = seed + P5
    h += np.uint64(n)
    while at + 8 <= end:
        h = rotl(h ^ (rotl(word8(at) * P2, 31) * P1), 27) * P1 + P4
        at += 8
    if at + 4 <= end:
        h = rotl(h ^ (word4(at) * P1), 23) * P2 + P3
        at += 4
    while at < end:
        h = rotl(h ^ (np.uint64(byte(at)) * P5), 11) * P1
        at += 1
    return _finished(h)


@forced
def key_of(at: Any, end: Any, seed: Any) -> Any:
    """Key of a canonical text (`ctr.events.hashing.hash_text`)."""
    h = xxh64(at, end, seed)
    return h if h >= RESERVED_KEYS else h + SHIFT


@forced
def key_of_8(at: Any, seed: Any) -> Any:
    """`key_of` a text of 8 bytes, without a loop."""
    h = seed + P5 + np.uint64(8)
    h = _finished(rotl(h ^ (rotl(word8(at) * P2, 31) * P1), 27) * P1 + P4)
    return h if h >= RESERVED_KEYS else h + SHIFT


@forced
def key_of_word(word: Any, n: Any, seed: Any) -> Any:
    """Key of a canonical text of `n` <= 8 bytes, the first one lowest in a uint64; what is above them is ignored.

    Below 8 bytes without a branch: no processor can foretell the lengths of short texts.
    """
    h = seed + P5 + np.uint64(n)
    if n == 8:
        h = rotl(h ^ (rotl(word * P2, 31) * P1), 27) * P1 + P4
    else:
        with_four = rotl(h ^ ((word & np.uint64(0xFFFFFFFF)) * P1), 23) * P2 + P3
        rest = word >> np.uint64(32)
        h = with_four if n & 4 else h
        rest = rest if n & 4 else word
        for i in range(3):
            with_one = rotl(h ^ ((rest & np.uint64(255)) * P5), 11) * P1
            rest >>= np.uint64(8)
            h = with_one if i < n & 3 else h
    h = _finished(h)
    return h if h >= RESERVED_KEYS else h + SHIFT


@helper
def key_of_integer(x: Any, seed: Any) -> Any:
    """Key of the decimal digits of an integer, |x| < 10^7: a bin, an hour."""
    word, n, rest = np.uint64(0), 0, abs(x)
    while rest > 0 or n == 0:
        word = (word << np.uint64(8)) | np.uint64(48 + rest % 10)
        rest //= 10
        n += 1
    if x < 0:
        word = (word << np.uint64(8)) | np.uint64(45)
        n += 1
    return key_of_word(word, n, seed)


# ---- numbers --------------------------------------------------------------------------------------------------------


@forced
def whole_of(at: Any, n: Any) -> Any:
    """Return (int64, can) of a text of `n` <= 8 bytes that is nothing but digits; 0 where it is empty.

    Without a branch: no processor can foretell the lengths of counts.
    """
    # the digits' values, the first one lowest, behind zeros; shifted by halves, as a shift by 64 bits is not defined
    half = np.uint64(32 - 4 * n)
    digits = (word8(at) ^ np.uint64(0x3030303030303030)) << half << half
    odd = ((digits + np.uint64(0x7676767676767676)) | digits) & np.uint64(0x8080808080808080)
    pairs = digits * np.uint64(10) + (digits >> np.uint64(8))
    low, high = pairs & np.uint64(0x000000FF000000FF), (pairs >> np.uint64(16)) & np.uint64(0x000000FF000000FF)
    fours = low * np.uint64(100 + (1000000 << 32)) + high * np.uint64(1 + (10000 << 32))
    return np.int64(fours >> np.uint64(32)), odd == 0


@forced
def few_digits(at: Any, end: Any) -> Any:
    """Return (float64, can) of 1 to 8 digits and nothing else."""
    n = end - at
    if n < 1 or n > 8:
        return 0.0, False
    x, can = whole_of(at, n)
    return np.float64(x), can


@forced
def number(at: Any, end: Any) -> Any:
    """Return (float64, can): the number that a span spells, as ``float`` reads it.

    An optional sign, digits with an optional point, an optional exponent. Exact where the digits fit a float64's 53
    bits and the power of ten is exact (Clinger, 1990), or where it is a whole number below 10^19. It cannot do others,
    what is no number, and -0.
    """
    few, can = few_digits(at, end)
    if can:
        return few, True
    negative = False
    if at < end:
        sign = byte(at)
        if sign == 45 or sign == 43:
            negative = sign == 45
            at += 1
    digits, exponent, any_digit, point = np.uint64(0), 0, False, False
    significant = 0
    while at < end:
        c = byte(at)
        if 48 <= c <= 57:
            any_digit = True
            digits = digits * np.uint64(10) + np.uint64(c - 48)
            if c > 48 or significant > 0:  # not `digits > 0`: beyond 19 digits they wrap around
                significant += 1
            if point:
                exponent -= 1
        elif c == 46 and not point:
            point = True
        else:
            break
        at += 1
    if not any_digit or significant > 19:
        return 0.0, False
    if at < end:
        c = byte(at)
        if c != 101 and c != 69:
            return 0.0, False
        at += 1
        down = False
        if at < end:
            c = byte(at)
            if c == 45 or c == 43:
                down = c == 45
                at += 1
        if at >= end or end - at > 3:
            return 0.0, False
        power = 0
        while at < end:
            c = byte(at)
            if c < 48 or c > 57:
                return 0.0, False
            power = power * 10 + c - 48
            at += 1
        exponent += -power if down else power
    if digits == 0:
        return 0.0, not negative
    x = np.float64(digits)
    if exponent != 0:
        if digits > np.uint64(1 << 53) or exponent > 22 or exponent < -22:
            return 0.0, False
        x = x * POWERS[exponent] if exponent > 0 else x / POWERS[-exponent]
    return (-x if negative else x), True


@forced
def canonical(at: Any, end: Any, kind: Any) -> Any:
    """Return (at, end, can): the part of a literal's span that is its canonical text (`ctr.events.hashing`).

    It cannot do exponents, more than 15 digits around a point, what ECMAScript writes with an exponent, and whole
    numbers that may not fit 64 bits.
    """
    if kind == TEXT or kind == TRUE or kind == FALSE:
        return at, end, True
    first = at + 1 if byte(at) == 45 else at
    if kind == INTEGER:
        if byte(first) == 48:  # JSON has no leading zeros: this is 0 or -0
            return first, end, True
        return at, end, end - first <= (18 if first > at else 19)
    significant, leading, point = 0, 0, np.int64(0)
    for i in range(first, end):
        c = byte(i)
        if c == 46:
            point = np.int64(i)
        elif c < 48 or c > 57:
            return at, end, False
        elif c > 48 or significant > 0:
            significant += 1
        elif point > 0:
            leading += 1
    if significant == 0:
        return first, first + 1, True
    # 15 digits read as a float64 are the shortest that read so; ECMAScript writes 1e-7 where Python's repr has 1e-05.
    if significant > 15 or leading > 5 or point == 0:
        return at, end, False
    while byte(end - 1) == 48:
        end -= 1
    return at, (end - 1 if end - 1 == point else end), True


# ---- lines ----------------------------------------------------------------------------------------------------------

@forced
def find(at: Any, end: Any, value: Any) -> Any:
    """Address of the first byte of that value, `end` where there is none."""
    while at < end:
        bits = equal32(at, value)
        if bits:
            return min(at + trailing_zeros(bits), end)
        at += 32
    return end


@forced
def clean(at: Any, end: Any) -> Any:
    """Return (no byte below a blank, no byte beyond ASCII)."""
    low, high = np.uint64(0), np.uint64(0)
    while at + 32 <= end:
        low |= below32(at, 32)
        high |= signed_below32(at, 0)
        at += 32
    if at < end:
        inside = (np.uint64(1) << np.uint64(end - at)) - np.uint64(1)
        high |= signed_below32(at, 0) & inside
        low |= below32(at, 32) & inside
    return low == 0, high == 0


@forced
def ordinary(at: Any, end: Any) -> Any:
    """Whether a span has no control character, no byte beyond ASCII and no backslash."""
    odd = np.uint64(0)
    while at + 64 <= end:
        odd |= signed_below64(at, 32) | equal64(at, 92)
        at += 64
    if at < end:
        odd |= (signed_below64(at, 32) | equal64(at, 92)) & ((np.uint64(1) << np.uint64(end - at)) - np.uint64(1))
    return odd == 0


@helper
def is_utf8(at: Any, end: Any) -> Any:
    """Whether a span is UTF-8: no surrogates, no overlong form, nothing beyond U+10FFFF."""
    while at < end:
        if end - at >= 8 and not word8(at) & np.uint64(0x8080808080808080):
            at += 8
            continue
        c = byte(at)
        at += 1
        if c < 0x80:
            continue
        if c < 0xC2 or c > 0xF4:
            return False
        more = 1 if c < 0xE0 else 2 if c < 0xF0 else 3
        if end - at < more:
            return False
        second = byte(at)
        low = 0xA0 if c == 0xE0 else 0x90 if c == 0xF0 else 0x80
        high = 0x9F if c == 0xED else 0x8F if c == 0xF4 else 0xBF
        if second < low or second > high:
            return False
        for i in range(1, more):
            if byte(at + i) & 0xC0 != 0x80:
                return False
        at += more
    return True


# ---- times ----------------------------------------------------------------------------------------------------------

DAYS_BEFORE = np.array([0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365])


@helper
def _two_digits(at: Any, most: Any) -> Any:
    """Value of two digits; -1 where they are none or say more than `most`."""
    a, b = byte(at) - 48, byte(at + 1) - 48
    value = a * 10 + b
    return value if 0 <= a <= 9 and 0 <= b <= 9 and value <= most else -1


@helper
def rfc3339(at: Any, end: Any) -> Any:
    """Return (seconds since 1970, can) of ``YYYY-MM-DDTHH:MM:SS[.f][Z|+hh:mm]``; up to 6 digits f, from 1970 on."""
    if end - at < 20 or byte(at + 4) != 45 or byte(at + 7) != 45 or byte(at + 10) != 84:
        return 0.0, False
    if byte(at + 13) != 58 or byte(at + 16) != 58:
        return 0.0, False
    century, year, month, day = _two_digits(at, 99), _two_digits(at + 2, 99), _two_digits(at + 5, 12), 0
    day = _two_digits(at + 8, 31)
    hour, minute, second = _two_digits(at + 11, 23), _two_digits(at + 14, 59), _two_digits(at + 17, 59)
    if min(min(century, year), min(hour, min(minute, second))) < 0 or month < 1 or day < 1:
        return 0.0, False
    year += century * 100
    if year < 1970 or year > 2200:
        return 0.0, False
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    in_month = DAYS_BEFORE[month] - DAYS_BEFORE[month - 1] + (1 if leap and month == 2 else 0)
    if day > in_month:
        return 0.0, False
    before = year - 1
    days = before * 365 + before // 4 - before // 100 + before // 400 - 719162  # of 1970-01-01
    days += DAYS_BEFORE[month - 1] + (1 if leap and month > 2 else 0) + day - 1
    at += 19
    micros, unit = 0, 100_000
    if byte(at) == 46:
        at += 1
        while at < end and 48 <= byte(at) <= 57:
            if unit == 0:
                return 0.0, False
            micros += (byte(at) - 48) * unit
            unit //= 10
            at += 1
        if unit == 100_000:
            return 0.0, False
    offset = 0
    if at + 1 == end and byte(at) == 90:
        offset = 0
    elif at + 6 == end and (byte(at) == 43 or byte(at) == 45) and byte(at + 3) == 58:
        hours, minutes = _two_digits(at + 1, 23), _two_digits(at + 4, 59)
        if hours < 0 or minutes < 0:
            return 0.0, False
        offset = (hours * 60 + minutes) * (60 if byte(at) == 43 else -60)
    else:
        return 0.0, False
    seconds = ((days * 24 + hour) * 60 + minute) * 60 + second - offset
    # Below 2^53 us, so the division is correctly rounded, as that of timedelta.total_seconds.
    return np.float64(seconds * 1_000_000 + micros) / 1e6, seconds >= 0
