"""Packed rows: what a model hands to the store and takes back from it.

Packed row, format 1, little-endian, ``4 + 8 F kp`` bytes for F fields and kp = 4 ceil(k / 4) padded coordinates:

====================  =======================================================================================
bytes                 meaning
====================  =======================================================================================
1, uint8              field of the feature, h below is ``kp * field``
1 + 2                 reserved, zero
4 F kp, float32       w: coordinate d of the latent factor for partner field g at ``g kp + d`` (0 for d >= k);
                      in the block of the row's own field ``w[h]`` the linear weight, ``w[h + 1]`` the count of
                      learned events, ``w[h + 2]`` the minute of the last one since 2020-01-01T00:00Z, ``w[h + 3]`` 0
4 F kp, float32       n: AdaGrad's accumulators in the same places; 1 where no weight is learned
====================  =======================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROW_FORMAT = 1
HEADER_BYTES = 4


@dataclass(frozen=True, slots=True)
class RowBlock:
    """`m` packed rows.

    Attributes
    ----------
    keys : (m,) uint64
    data : (m, row_bytes) uint8
    """

    keys: NDArray[np.uint64]
    data: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.keys)


def padded_k(k: int) -> int:
    """Coordinates kept for one partner field: k rounded up to whole groups of four."""
    return 4 * ((k + 3) // 4)


def packed_bytes(n_fields: int, k: int) -> int:
    """Size of a packed row of format 1."""
    return HEADER_BYTES + 8 * n_fields * padded_k(k)
