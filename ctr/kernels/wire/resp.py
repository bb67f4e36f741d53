r"""Rows as the fields and values of HSET: a gather into a buffer that already holds all that is the same in each row.

Format: https://redis.io/docs/latest/develop/reference/protocol-spec/#bulk-strings. A row of n bytes is a record:

    $8\r\n  key, 8 bytes, little-endian  \r\n  $n\r\n  row  \r\n
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import kernel
from ctr.kernels.simd import prefetch

AHEAD = 4
"""Rows that are asked for before they are copied."""
LINE = 64
"""Bytes of a cache line."""


@kernel
def fill(keys: Any, data: Any, chosen: Any, begin: int, end: int, key_at: int, row_at: int, records: Any) -> None:
    """Keys and rows ``chosen[begin:end]`` -> ``records`` (end - begin or more, record bytes) uint8, at their places."""
    for j in range(end - begin):
        row = chosen[begin + j]
        if begin + j + AHEAD < end:
            later = chosen[begin + j + AHEAD] * data.shape[1]
            for at in range(later, later + data.shape[1], LINE):
                prefetch(data, at)
        key = keys[row]
        for i in range(8):
            records[j, key_at + i] = np.uint8((key >> np.uint64(8 * i)) & np.uint64(255))
        for i in range(data.shape[1]):
            records[j, row_at + i] = data[row, i]
