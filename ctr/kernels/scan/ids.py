"""Ids of ads as a request's bytes have them -> their places: no Python object for each.

An open-addressing table of hashes, a power of two long; 0 is a free slot. Who reads may run beside the one who adds: a
place is there before its hash is. Two ids of the same 64 bits would be one ad: for a million ads 3 in 10^8.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import helper, kernel
from ctr.kernels.scan.memory import below32, byte, equal32, trailing_zeros, word8
from ctr.kernels.serve import brief

QUOTE, BACKSLASH, COMMA, OPEN, CLOSE, BLANK = 34, 92, 44, 91, 93, 32
PRIME, OTHER = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
ONES = np.uint64(0xFFFFFFFFFFFFFFFF)


@helper
def stirred(h: Any, word: Any) -> Any:
    """A hash with eight bytes more."""
    h = (h ^ word) * PRIME
    return h ^ (h >> np.uint64(29))


@helper
def hash_of(at: Any, end: Any) -> Any:
    """64 bits of the bytes between two addresses, never 0."""
    h = OTHER ^ np.uint64(end - at)
    while end - at >= 8:
        h = stirred(h, word8(at))
        at += 8
    if at < end:
        h = stirred(h, word8(at) & ~(ONES << np.uint64(8 * (end - at))))
    h = (h ^ (h >> np.uint64(32))) * OTHER
    h ^= h >> np.uint64(31)
    return h if h != 0 else np.uint64(1)


@kernel
def add(data: Any, ends: Any, places: Any, hashes: Any, held: Any) -> None:
    """Put ids, one behind the other in ``data`` with their ``ends``, at their places; -1 lets one go.

    ``data`` holds 8 bytes more. In and out: ``hashes`` (2^m,) uint64 and ``held`` (2^m,) int64, with free slots left.
    """
    start, mask, begin = np.int64(data.ctypes.data), np.uint64(hashes.shape[0] - 1), 0
    for j in range(ends.shape[0]):
        h = hash_of(start + begin, start + ends[j])
        begin = ends[j]
        slot = h & mask
        while hashes[slot] != 0 and hashes[slot] != h:
            slot = (slot + np.uint64(1)) & mask
        held[slot] = places[j]
        hashes[slot] = h


@helper
def text_end(at: Any, end: Any) -> Any:
    """Address of the quote behind a plain text; `end` where there is none: an escape, a byte that must be escaped."""
    while at < end:
        bits = equal32(at, QUOTE) | equal32(at, BACKSLASH) | below32(at, BLANK)
        if bits:
            at += trailing_zeros(bits)
            return at if at < end and byte(at) == QUOTE else end
        at += 32
    return end


@helper
def space_end(at: Any, end: Any) -> Any:
    """Address of the first byte beyond a blank."""
    while at < end and byte(at) <= BLANK:
        at += 1
    return at


@brief
def find(data: Any, begin: int, hashes: Any, held: Any, out: Any) -> Any:
    """Places of the ids of a JSON list of texts at ``data[begin:]``, -1 for an unknown one; returns how many there are.

    -1 where it is not so plain a list: escapes, bytes that must be escaped, anything but texts; or longer than ``out``.
    ``data`` holds 64 bytes more.
    """
    start, mask, n = np.int64(data.ctypes.data), np.uint64(hashes.shape[0] - 1), 0
    end = start + data.shape[0] - 64
    at = space_end(start + begin, end)
    good = at < end and byte(at) == OPEN
    while good:
        at = space_end(at + 1, end)
        good = at < end and byte(at) == QUOTE and n < out.shape[0]
        if not good:
            break
        begin_at = at + 1
        at = text_end(begin_at, end)
        if at >= end:
            good = False
            break
        h = hash_of(begin_at, at)
        slot = h & mask
        while hashes[slot] != 0 and hashes[slot] != h:
            slot = (slot + np.uint64(1)) & mask
        out[n] = held[slot] if hashes[slot] == h else -1
        n += 1
        at = space_end(at + 1, end)
        good = at < end and (byte(at) == COMMA or byte(at) == CLOSE)
        if good and byte(at) == CLOSE:
            break
    return n if good else -1
