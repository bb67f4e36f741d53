"""Keys -> row numbers, to look at rows without learning."""

from __future__ import annotations

from typing import Any

from ctr.kernels.jit import kernel
from ctr.kernels.lookup import find


@kernel
def find_rows(index: Any, slots: Any, keys: Any, rows: Any) -> None:
    """``rows[j]`` is the row of key j, 0 where it has none."""
    for j in range(keys.shape[0]):
        rows[j] = max(find(index, slots, keys[j]), 0) if keys[j] != 0 else 0
