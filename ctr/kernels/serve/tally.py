"""Features that were asked for -> counts by field: how many, and how many of them have no row."""

from __future__ import annotations

from typing import Any

from ctr.kernels.jit import kernel
from ctr.kernels.lookup import AHEAD, find, home
from ctr.kernels.simd import prefetch


@kernel
def tally(index: Any, slots: Any, keys: Any, fields: Any, counts: Any) -> None:
    """Add to ``counts`` (2, F): features of each field, those without a row. Key 0 is no feature."""
    for j in range(keys.shape[0]):
        if j + AHEAD < keys.shape[0]:
            prefetch(index, home(keys[j + AHEAD], index) * 8)
        if keys[j] != 0:
            counts[0, fields[j]] += 1
            counts[1, fields[j]] += find(index, slots, keys[j]) <= 0
