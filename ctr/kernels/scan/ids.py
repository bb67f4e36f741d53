"""Ids of ads as a request's bytes have them -> their places: no Python object for each.

An open-addressing table, a power of two long: (hash, place) after (hash, place), hash 0 is a free slot. Who reads may
run beside the one who adds: a place is there before its hash is. Two ids of the same 64 bits would be one ad: for a
million ads 3 in 10^8. Slots are asked for as ids are read, and looked into once all are: each is a line from afar.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import helper, kernel
from ctr.kernels.scan.memory import below32, byte, equal32, trailing_zeros, word8
from ctr.kernels.serve import brief
from ctr.kernels.simd import prefetch

QUOTE, BACKSLASH, COMMA, OPEN, CLOSE, BLANK = 34, 92, 44, 91, 93, 32
PRIME, OTHER = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
ONES = np.uint64(0xFFFFFFFFFFFFFFFF)
HASH, PLACE = 0, 1


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


@helper
def slot_of(h: Any, table: Any) -> Any:
    """Slot of a hash: its own, or the free one where it would be."""
    mask = np.uint64(table.shape[0] - 1)
    slot = h & mask
    while table[slot, HASH] != 0 and table[slot, HASH] != h:
        slot = (slot + np.uint64(1)) & mask
    return slot


@kernel
def add(data: Any, ends: Any, places: Any, table: Any) -> None:
    """Put ids, one behind the other in ``data`` with their ``ends``, at their places; -1 lets one go.

    ``data`` holds 8 bytes more. In and out: ``table`` (2^m, 2) uint64, with free slots left.
    """
    start, begin = np.int64(data.ctypes.data), 0
    for j in range(ends.shape[0]):
        h = hash_of(start + begin, start + ends[j])
        begin = ends[j]
        slot = slot_of(h, table)
        table[slot, PLACE] = np.uint64(places[j])
        table[slot, HASH] = h


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
def find(data: Any, begin: int, table: Any, out: Any) -> Any:
    """Places of the ids of a JSON list of texts at ``data[begin:]``, -1 for an unknown one; returns how many there are.

    -1 where it is not so plain a list: escapes, bytes that must be escaped, anything but texts; or longer than ``out``.
    ``data`` holds 64 bytes more.
    """
    start, mask, n = np.int64(data.ctypes.data), np.uint64(table.shape[0] - 1), 0
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
        prefetch(table, np.int64(h & mask) * 2)
        out[n] = np.int64(h)
        n += 1
        at = space_end(at + 1, end)
        good = at < end and (byte(at) == COMMA or byte(at) == CLOSE)
        if good and byte(at) == CLOSE:
            break
    if not good:
        return -1
    for i in range(n):
        h = np.uint64(out[i])
        slot = slot_of(h, table)
        out[i] = np.int64(table[slot, PLACE]) if table[slot, HASH] == h else -1
    return n
