"""Scores -> a ranking's answer: the numbers in their order, as bytes of JSON."""

from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import helper
from ctr.kernels.scan.memory import put8
from ctr.kernels.serve import brief

DIGIT_0, COMMA, POINT = 48, 44, 46
DECIMALS = 12
"""Of a probability: 2 more than float32 has at 1 %."""
SCALE = 10**DECIMALS
PLACE_BYTES, SCORE_BYTES = 20, DECIMALS + 3
"""Room for a place and for a score, with the comma behind each."""
ZEROS = np.uint64(0x3030303030303030)
PLACE_MASK = np.uint64(0xFFFFFFFF)


@helper
def descending(score: Any) -> Any:
    """32 bits of a score whose order is that of scores, the highest first."""
    bits = np.float32(score + np.float32(0)).view(np.int32)  # -0 is 0
    return np.uint64(np.uint32(bits if bits < 0 else ~(bits | np.int32(-(2**31)))))


@helper
def order(scores: Any) -> Any:
    """(n,) uint64 places of scores, the highest score first, of equal ones the first place.

    A radix sort by the bytes that differ. NumPy's sort takes as long, but gives the GIL away (see `brief`): beside a
    trainer's commits an answer then waited 20 us for it on average.
    """
    n, counts = scores.shape[0], np.zeros((4, 256), np.int64)
    ranking, other = np.empty(n, np.uint64), np.empty(n, np.uint64)
    for i in range(n):
        key = descending(scores[i])
        ranking[i] = key << np.uint64(32) | np.uint64(i)
        for digit in range(4):
            counts[digit, key >> np.uint64(8 * digit) & np.uint64(255)] += 1
    source, target = ranking, other
    for digit in range(4):
        shift, count = np.uint64(32 + 8 * digit), counts[digit]
        if n == 0 or count[source[0] >> shift & np.uint64(255)] == n:
            continue
        begin = 0
        for value in range(256):
            begin, count[value] = begin + count[value], begin
        for i in range(n):
            value = source[i] >> shift & np.uint64(255)
            target[count[value]] = source[i]
            count[value] += 1
        source, target = target, source
    for i in range(n):
        ranking[i] = source[i] & PLACE_MASK
    return ranking


@helper
def digits_of(pair: Any) -> Any:
    """Two numbers of four digits, one in each half of a word -> their eight digits as text, the first one lowest.

    All at once: hundreds by a multiplication with 10486 / 2^20, which is exact below 10^4, tens by 103 / 2^10.
    """
    hundreds = ((pair * np.uint64(10486)) >> np.uint64(20)) & np.uint64(0x0000007F0000007F)
    two = hundreds | (pair - hundreds * np.uint64(100)) << np.uint64(16)
    tens = ((two * np.uint64(103)) >> np.uint64(10)) & np.uint64(0x000F000F000F000F)
    return ZEROS | tens | (two - tens * np.uint64(10)) << np.uint64(8)


@helper
def write_place(at: Any, value: Any) -> Any:
    """Write an integer >= 0 and a comma; returns where they end."""
    if value < 10000:
        digits = 1 + (value >= 10) + (value >= 100) + (value >= 1000)
        text = digits_of(np.uint64(value)) & np.uint64(0xFFFFFFFF) | np.uint64(COMMA) << np.uint64(32)
        put8(at, text >> np.uint64(8 * (4 - digits)))
        return at + digits + 1
    behind = write_place(at, value // 10000)
    put8(behind - 1, digits_of(np.uint64(value % 10000)) & np.uint64(0xFFFFFFFF) | np.uint64(COMMA) << np.uint64(32))
    return behind + 4


@helper
def write_score(at: Any, score: Any) -> Any:
    """Write a probability with `DECIMALS` decimals and a comma; returns where they end."""
    value = np.uint64(np.float64(score) * SCALE + 0.5)
    whole = value // np.uint64(SCALE)
    value -= whole * np.uint64(SCALE)
    high, low = value // np.uint64(10**8), value % np.uint64(10**8)
    put8(at, np.uint64(DIGIT_0) + whole | np.uint64(POINT) << np.uint64(8))
    put8(at + 2, digits_of(high))
    put8(at + 6, digits_of(low // np.uint64(10**4) | (low % np.uint64(10**4)) << np.uint64(32)))
    put8(at + 2 + DECIMALS, np.uint64(COMMA))
    return at + 3 + DECIMALS


@helper
def write_text(at: Any, text: Any) -> Any:
    """Copy bytes; returns where they end."""
    for c in text:
        put8(at, np.uint64(c))
        at += 1
    return at


@brief
def write(scores: Any, n: int, parts: Any, ends: Any, out: Any) -> Any:
    """Write places and scores of the n best, with ``parts[:ends[0]]`` before, and so on between and behind.

    Returns how many bytes; ``out`` has 8 more.
    """
    ranking, begin = order(scores), np.int64(out.ctypes.data)
    at = write_text(begin, parts[: ends[0]])
    for i in range(n):
        at = write_place(at, np.int64(ranking[i]))
    at = write_text(at - (n > 0), parts[ends[0] : ends[1]])
    for i in range(n):
        at = write_score(at, scores[ranking[i]])
    return write_text(at - (n > 0), parts[ends[1] :]) - begin
