"""Rows that an event may read and not change: copied before it is learned, put back behind it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import kernel
from ctr.kernels.layout import BIAS_ROW
from ctr.kernels.lookup import find
from ctr.kernels.marks import clear_dirty, dirty_word


@kernel
def hold(
    index: Any, slots: Any, own_keys: Any, keys: Any, begin: int, end: int, frozen: Any, W: Any, stride: int,
    dirty: Any, rows: Any, saved: Any, was_dirty: Any,
) -> Any:  # fmt: skip
    """Copy the rows of ``keys[begin:end]``, and the model's own, that lie in ``frozen`` (shards,) shards.

    Returns how many; and how many keys of such shards have no row. ``rows``, ``saved`` (m, stride) and ``was_dirty``
    have room for all keys and the model's own.
    """
    shards = np.uint64(frozen.shape[0])
    m = lacking = 0
    for j in range(own_keys.shape[0]):
        if frozen[own_keys[j] % shards]:
            rows[m] = BIAS_ROW + j
            m += 1
    own = m
    for j in range(begin, end):
        if keys[j] == 0 or not frozen[keys[j] % shards]:
            continue
        row = find(index, slots, keys[j])
        if row <= 0:
            lacking += 1
            continue
        known = False
        for i in range(own, m):  # equal keys of one event
            known |= rows[i] == row
        if not known:
            rows[m] = row
            m += 1
    for i in range(m):
        at = np.int64(rows[i]) * stride
        for x in range(stride):
            saved[i, x] = W[at + x]
        was_dirty[i] = (dirty_word(dirty, rows[i]) & np.uint64(1)) != 0
    return m, lacking


@kernel
def put_back(W: Any, stride: int, dirty: Any, counters: Any, m: int, rows: Any, saved: Any, was_dirty: Any) -> None:
    """Undo what was done to the ``m`` rows that `hold` copied."""
    for i in range(m):
        at = np.int64(rows[i]) * stride
        for x in range(stride):
            W[at + x] = saved[i, x]
        if not was_dirty[i]:
            clear_dirty(dirty, counters, np.int64(rows[i]))
