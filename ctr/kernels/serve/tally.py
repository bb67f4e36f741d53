"""Features that were asked for -> counts by field: how many, and how many of them have no row."""

from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import kernel
from ctr.kernels.lookup import AHEAD, find, home
from ctr.kernels.simd import prefetch


@kernel
def tally(index: Any, slots: Any, keys: Any, fields: Any, counts: Any) -> None:
    """Add to ``counts`` (2, F): features of each field of which it is known whether they have a row, those without."""
    for j in range(keys.shape[0]):
        if j + AHEAD < keys.shape[0]:
            prefetch(index, home(keys[j + AHEAD], index) * 8)
        row = find(index, slots, keys[j]) if keys[j] != 0 else np.int64(-1)
        counts[0, fields[j]] += row >= 0
        counts[1, fields[j]] += row == 0
