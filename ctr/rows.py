"""Packed rows: what a model hands to the store and takes back from it.

Packed row, format 1, little-endian, ``4 + 8 size`` bytes:

====================  =======================================================================================
bytes                 meaning
====================  =======================================================================================
1, uint8              field of the feature, 0 in a row of the model itself
1 + 2                 reserved, zero
4 size, float32       w
4 size, float32       n: the optimizer's sums of squared gradients in the same places; 1 where no weight is learned
====================  =======================================================================================

Four lanes of w from `h` on are the head: ``w[h]`` the linear weight, ``w[h + 1]`` the count of learned events,
``w[h + 2]`` the minute of the last one since 2020-01-01T00:00Z, ``w[h + 3]`` FTRL's z of the linear weight where it has
l1, else 0. With F fields and kp = 4 ceil(k / 4) padded coordinates (0 for d >= k):

===============  ==========  =========  =======================================================================
model            size        h          latent factors
===============  ==========  =========  =======================================================================
lr               4           0          none
fm, fwfm, fefm   4 + kp      0          coordinate d at 4 + d
ffm              F kp        kp field   coordinate d for partner field g at g kp + d; g = field is the head's block
ffm, libffm      4 + F kp    0          coordinate d for partner field g at 4 + g kp + d
===============  ==========  =========  =======================================================================

The row of key 1 holds the bias as its linear weight. fwfm's and fefm's pair weights stand in rows of the keys from 16
on, kp in each behind the head, the last one padded with zeros: weights s_fg in the order (0, 1), (0, 2), .. (1, 2), ..
and for fefm in the place of each one the upper triangle of S_fg by rows, k (k + 1) / 2 of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctr.spec import Spec

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


def shard_of(keys: NDArray[np.uint64], shards: int) -> NDArray[np.int64]:
    """(m,) the shard of each feature: keys are hashes, so that their low bits spread them evenly."""
    return (keys % np.uint64(shards)).astype(np.int64)


ALL_SHARDS = np.ones(1, np.bool_)
"""A choice of shards, (shards,) bool, that leaves none out, however many there are."""


def padded_k(k: int) -> int:
    """Coordinates kept for one partner field: k rounded up to whole groups of four."""
    return 4 * ((k + 3) // 4)


@dataclass(frozen=True, slots=True)
class RowShape:
    """Where things stand in the rows of a model.

    Attributes
    ----------
    kp : int
        `padded_k`.
    size : int
        Weights of a row; its packed form has `packed_bytes`.
    head_step : int
        The head of a row of field f is at ``head_step * f``.
    pair_weights : int
        How many the model has as a whole, in `pair_rows` rows.
    """

    kp: int
    size: int
    head_step: int
    pair_weights: int

    @classmethod
    def of(cls, spec: Spec) -> RowShape:
        """Rows of the model that a specification describes."""
        F, k, kind = len(spec.fields), spec.model.k, spec.model.type
        kp, pairs = padded_k(k), F * (F - 1) // 2
        if kind == "ffm":
            return cls(kp, 4 + F * kp, 0, 0) if spec.model.libffm else cls(kp, F * kp, kp, 0)
        if kind == "lr":
            return cls(kp, 4, 0, 0)
        return cls(kp, 4 + kp, 0, {"fm": 0, "fwfm": pairs, "fefm": pairs * k * (k + 1) // 2}[kind])

    @property
    def packed_bytes(self) -> int:
        """Size of a packed row of format 1."""
        return HEADER_BYTES + 8 * self.size

    @property
    def pair_rows(self) -> int:
        """Rows that hold the pair weights."""
        return -(-self.pair_weights // self.kp)
