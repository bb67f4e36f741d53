"""Events as arrays: what readers produce and models learn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MISSING = np.uint64(0)
"""Key that stands for 'no feature here' in a dense batch. No value hashes to it (see `ctr.events.hashing`)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """`n` events with `nnz` features, in the order in which they are to be learned.

    A *dense* batch (``dense = True``: every field single-valued) has exactly F entries an event, entry ``j`` belongs to
    field ``j``, `keys` may be `MISSING` and all `values` are 1. Otherwise entries are compressed rows: entries
    ``start[i]:start[i + 1]`` belong to event ``i``, ordered by field, equal keys merged, no `MISSING`, no zero value.

    Attributes
    ----------
    keys : (nnz,) uint64
    values : (nnz,) float32
    fields : (nnz,) uint8
        Index of the entry's field in the specification.
    start : (n + 1,) int64
    labels : (n,) float32
        NaN where a row has none (scoring).
    weights : (n,) float32
    times_s : (n,) float64
        Event time, seconds since 1970.
    partitions : (n,) int32
        Index into the source's list of partitions; -1 where there is none.
    offsets : (n,) int64
        Position of the event's message in its partition.
    """

    keys: NDArray[np.uint64]
    values: NDArray[np.float32]
    fields: NDArray[np.uint8]
    start: NDArray[np.int64]
    labels: NDArray[np.float32]
    weights: NDArray[np.float32]
    times_s: NDArray[np.float64]
    partitions: NDArray[np.int32]
    offsets: NDArray[np.int64]
    dense: bool

    def __len__(self) -> int:
        return len(self.labels)

    def slice(self, begin: int, end: int) -> Batch:
        """Events ``begin:end`` as views (only `start` is copied)."""
        a, b = int(self.start[begin]), int(self.start[end])
        return Batch(
            self.keys[a:b], self.values[a:b], self.fields[a:b], self.start[begin : end + 1] - a,
            self.labels[begin:end], self.weights[begin:end], self.times_s[begin:end],
            self.partitions[begin:end], self.offsets[begin:end], self.dense,
        )  # fmt: skip
