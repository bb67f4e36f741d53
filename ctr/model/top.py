"""A table in, the features that weigh most and are learned most often out: a bounded look, while others learn.

Nothing is locked. The table's memory never moves, so a look beside the learner is safe; what it sees of a row may be an
event older than what it sees of the next, which is fine for eyes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctr.kernels import layout
from ctr.model.table import Table

LOOK_ROWS = 1 << 20
"""Rows of one look. A larger table takes several; what the earlier ones found is looked at again each time."""
_CHUNK = 1 << 15
_PAUSE_S = 0.002
"""Between two chunks (1.5 ms each): the memory's bandwidth belongs to the learner."""


@dataclass(frozen=True, slots=True)
class Features:
    """Some features of a model.

    Attributes
    ----------
    keys : (m,) uint64
    fields : (m,) uint8
    weights : (m,) float32
        Linear weights.
    updates : (m,) int64
        Events learned.
    """

    keys: NDArray[np.uint64]
    fields: NDArray[np.uint8]
    weights: NDArray[np.float32]
    updates: NDArray[np.int64]

    def best(self, by: NDArray[np.float32] | NDArray[np.int64], most: int) -> Features:
        """The `most` with the largest `by`, largest first; those where it is 0 are left out."""
        order = np.argsort(-by, kind="stable")[:most]
        return self.chosen(order[by[order] > 0])

    def typical(self) -> NDArray[np.int64]:
        """Places of those with the most updates of each field."""
        order = np.argsort(-self.updates, kind="stable")
        _, first = np.unique(self.fields[order], return_index=True)
        places: NDArray[np.int64] = order[first]
        return places

    def chosen(self, places: NDArray[np.int64]) -> Features:
        """Those at these places."""
        return Features(self.keys[places], self.fields[places], self.weights[places], self.updates[places])


class Top:
    """The top features of one table; by one thread at a time.

    Parameters
    ----------
    table : Table
    most : int
        Features in each list.
    """

    def __init__(self, table: Table, most: int = 12) -> None:
        self.table, self._most = table, most
        self._found: NDArray[np.int64] = np.empty(0, np.int64)
        self._first = layout.FIRST_ROW + table.shape.pair_rows
        self._next = self._first

    def look(self) -> tuple[Features, Features, Features]:
        """Look at the next `LOOK_ROWS` rows, and again at those found before.

        Returns
        -------
        (Features, Features, Features)
            By absolute linear weight; by updates; and of each field the one with the most updates.
        """
        end = int(self.table.counters[layout.NEXT_ROW])
        begin = self._next if self._next < end else self._first
        self._next = min(begin + LOOK_ROWS, end)
        found = [self._found]
        for at in range(begin, self._next, _CHUNK):
            rows, features = self._read(np.arange(at, min(at + _CHUNK, self._next)))
            found += [_largest(rows, by, self._most) for by in (np.abs(features.weights), features.updates)]
            found.append(rows[features.typical()])
            time.sleep(_PAUSE_S)
        rows, features = self._read(np.unique(np.concatenate(found)))
        heavy, frequent = (features.best(by, self._most) for by in (np.abs(features.weights), features.updates))
        typical = features.chosen(features.typical())
        self._found = rows[np.isin(features.keys, np.concatenate([heavy.keys, frequent.keys, typical.keys]))]
        return heavy, frequent, typical

    def _read(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], Features]:
        """Those of the rows that a feature has, and what stands in their heads."""
        table = self.table
        fields = table.row_field[rows]
        rows, fields = rows[fields != layout.FREE_FIELD], fields[fields != layout.FREE_FIELD]
        heads = rows * table.stride + table.shape.head_step * fields.astype(np.int64)
        weights, counts = table.W[heads + layout.LINEAR], table.W[heads + layout.COUNT]
        weights[~np.isfinite(weights)] = 0
        return rows, Features(table.row_key[rows], fields, weights, np.nan_to_num(counts).astype(np.int64))


def _largest(
    rows: NDArray[np.int64], by: NDArray[np.float32] | NDArray[np.int64], most: int
) -> NDArray[np.int64]:
    return rows if len(rows) <= most else rows[np.argpartition(by, -most)[-most:]]
