"""Ids of ads as a request's bytes have them -> their places: no Python object for each.

An open-addressing table, a power of two long: (hash, place) after (hash, place), hash 0 is a free slot. Who reads may
run beside the one who adds: a place is there before its hash is. Two ids of the same 64 bits would be one ad: for a
million ads 3 in 10^8. Slots are asked for as ids are read, and looked into once all are: each is a line from afar.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import helper, kernel
from ctr.kernels.scan.jsonlines import blanks_end, string_end
from ctr.kernels.scan.memory import byte, word8
from ctr.kernels.simd import prefetch

QUOTE, BACKSLASH, COMMA, CLOSE = 34, 92, 44, 93
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
def places_of(at: Any, end: Any, table: Any, out: Any) -> Any:
    """Places of the ids of the JSON list of texts that opens at address `at`, -1 for an unknown one, to ``out``.

    Bytes that must be escaped have been looked for. ``out`` is uint64, and room while hashes wait for their slots.

    Returns
    -------
    n, behind, known
        How many; the address behind the list, 0 where it is not so plain (escapes, anything but texts, none at all) or
        longer than ``out``; whether all are known.
    """
    mask, n, good = np.uint64(table.shape[0] - 1), 0, False
    at = blanks_end(at + 1, end)
    while byte(at) == QUOTE and n < out.shape[0]:
        begin = at + 1
        at = string_end(begin, end)
        if at >= end or byte(at) == BACKSLASH:
            break
        h = hash_of(begin, at)
        prefetch(table, np.int64(h & mask) * 2)
        out[n] = h
        n += 1
        at = blanks_end(at + 1, end)
        c = byte(at)
        at += 1
        good = c == CLOSE
        if c != COMMA:
            break
        at = blanks_end(at, end)
    if not good:
        return 0, np.int64(0), False
    unknown = 0
    for i in range(n):
        slot = slot_of(out[i], table)
        found = table[slot, HASH] == out[i]
        out[i] = table[slot, PLACE] if found else ONES
        unknown += 1 if np.int64(out[i]) < 0 else 0
    return n, at, unknown == 0
