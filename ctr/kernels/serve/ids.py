"""Ids of ads as a request's bytes have them -> their places: no Python object for each.

An open-addressing table of hashes, a power of two long; 0 is a free slot. Who reads may run beside the one who adds: a
place is there before its hash is. Two ids of the same 64 bits would be one ad: for a million ads 3 in 10^8.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import helper, kernel
from ctr.kernels.serve import brief

QUOTE, BACKSLASH, COMMA, OPEN, CLOSE, BLANK = 34, 92, 44, 91, 93, 32
PRIME, OTHER = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


@helper
def hash_of(data: Any, begin: int, end: int) -> Any:
    """64 bits of ``data[begin:end]``, never 0: a byte at a time, ids are short."""
    h = OTHER ^ np.uint64(end - begin)
    for at in range(begin, end):
        h = (h ^ np.uint64(data[at])) * PRIME
        h ^= h >> np.uint64(29)
    h = (h ^ (h >> np.uint64(32))) * OTHER
    h ^= h >> np.uint64(31)
    return h if h != 0 else np.uint64(1)


@kernel
def add(data: Any, ends: Any, places: Any, hashes: Any, held: Any) -> None:
    """Put ids, one behind the other in ``data`` with their ``ends``, at their places; -1 lets one go.

    In and out: ``hashes`` (2^m,) uint64 and ``held`` (2^m,) int64, with free slots left.
    """
    mask, begin = np.uint64(hashes.shape[0] - 1), 0
    for j in range(ends.shape[0]):
        h = hash_of(data, begin, ends[j])
        begin = ends[j]
        slot = h & mask
        while hashes[slot] != 0 and hashes[slot] != h:
            slot = (slot + np.uint64(1)) & mask
        held[slot] = places[j]
        hashes[slot] = h


@brief
def find(data: Any, at: int, hashes: Any, held: Any, out: Any) -> Any:
    """Places of the ids of a JSON list of texts at ``data[at:]``, -1 for an unknown one; returns how many there are.

    -1 where it is not so plain a list: escapes, bytes that must be escaped, anything but texts; or longer than ``out``.
    """
    mask, n, end = np.uint64(hashes.shape[0] - 1), 0, data.shape[0]
    while at < end and data[at] <= BLANK:
        at += 1
    if at == end or data[at] != OPEN:
        return -1
    while True:
        at += 1
        while at < end and data[at] <= BLANK:
            at += 1
        if at == end or data[at] != QUOTE or n == out.shape[0]:
            return -1
        begin = at + 1
        at = begin
        while at < end and data[at] != QUOTE:
            if data[at] == BACKSLASH or data[at] < BLANK:
                return -1
            at += 1
        if at == end:
            return -1
        h = hash_of(data, begin, at)
        slot = h & mask
        while hashes[slot] != 0 and hashes[slot] != h:
            slot = (slot + np.uint64(1)) & mask
        out[n] = held[slot] if hashes[slot] == h else -1
        n += 1
        at += 1
        while at < end and data[at] <= BLANK:
            at += 1
        if at == end or (data[at] != COMMA and data[at] != CLOSE):
            return -1
        if data[at] == CLOSE:
            return n
