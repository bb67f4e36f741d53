"""Rows <-> packed rows (format 1 of `ctr.rows`): a gather and a scatter."""

from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import inlined, kernel
from ctr.kernels.layout import COUNT, SEEN, ZERO_ROW
from ctr.kernels.simd import prefetch

AHEAD = 4
"""Rows that are asked for before they are copied: they come from memory, in an order that no processor foresees."""
LINE = 16
"""Floats of a cache line."""


@inlined
def ask_row(W: Any, base: Any, stride: Any) -> None:
    """All lines of a row."""
    for at in range(base, base + stride, LINE):
        prefetch(W, at)


@kernel
def pack(
    W: Any, stride: int, P: int, size: int, head_step: int, first: int, row_field: Any, rows: Any,
    heads: Any, data: Any,
) -> None:  # fmt: skip
    """Rows -> ``data`` (m, 1 + size or 1 + 2 size) float32 and its alias ``heads`` uint32; size = F kp.

    Rows of features begin at `first`. One that was never learned, since each of its events was refused for its margin,
    holds what its last owner left there: it goes out as zeros, all n 1, and when it was last seen.
    """
    with_state = data.shape[1] > 1 + size
    for j in range(rows.shape[0]):
        row = np.int64(rows[j])
        base = row * stride
        if j + AHEAD < rows.shape[0]:
            ask_row(W, np.int64(rows[j + AHEAD]) * stride, stride)
        heads[j, 0] = np.uint32(row_field[row])
        head = np.int64(row_field[row]) * head_step
        if row >= first and W[base + head + COUNT] == np.float32(0):
            data[j, 1 : 1 + size] = np.float32(0)
            data[j, 1 + size :] = np.float32(1)
            data[j, 1 + head + SEEN] = W[base + head + SEEN]
            continue
        for i in range(size):
            data[j, 1 + i] = W[base + i]
        if with_state:
            for i in range(size):
                data[j, 1 + size + i] = W[base + P + i]


@kernel
def unpack(W: Any, stride: int, P: int, size: int, row_field: Any, rows: Any, heads: Any, data: Any) -> None:
    """``data`` -> rows, without accumulators where the table holds none; row 0 is skipped. Padding: w 0, n 1."""
    for j in range(rows.shape[0]):
        row = np.int64(rows[j])
        if row == ZERO_ROW:
            continue
        base = row * stride
        row_field[row] = np.uint8(heads[j, 0])
        for i in range(size):
            W[base + i] = data[j, 1 + i]
        for i in range(size, P):
            W[base + i] = np.float32(0)
        if stride > P:
            for i in range(size):
                W[base + P + i] = data[j, 1 + size + i]
            for i in range(size, P):
                W[base + P + i] = np.float32(1)
