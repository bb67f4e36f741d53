"""Events with shards that they may not change go in; what they would have changed there stays as it was.

An event is predicted from all rows, those of frozen shards too. Their rows are copied right before it is learned and
put back right behind it, and a feature that has no row there gets none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ctr.events.batch import MISSING, Batch
from ctr.kernels import build
from ctr.model.table import Table
from ctr.rows import shard_of


class Freeze:
    """Stands around each event of a batch: see `ctr.model.Model.learn_masked`.

    Parameters
    ----------
    table : Table
    batch : Batch
    frozen : (n, shards) bool
        Which shards each event may not change.
    """

    def __init__(self, table: Table, batch: Batch, frozen: NDArray[np.bool_]) -> None:
        self._table, self._frozen = table, np.require(frozen, np.bool_, ["C", "A", "W"])
        self._keys = np.require(batch.keys, np.uint64, ["C", "A", "W"])
        self._start: list[int] = batch.start.tolist()
        room = len(table.own_keys) + int(np.diff(batch.start).max(initial=0))
        self._rows, self._was_dirty = np.empty(room, np.uint32), np.empty(room, np.bool_)
        self._saved = np.empty((room, table.stride), np.float32)
        kernel = build.load("wire/freeze")
        self._hold, self._put_back = kernel.hold, kernel.put_back
        self._held = 0
        self._none: NDArray[np.uint64] | None = None

    def before(self, i: int) -> None:
        """Event i is about to be learned; called again where a sweep came between."""
        table, begin, end, frozen = self._table, self._start[i], self._start[i + 1], self._frozen[i]
        self._held, lacking = self._hold(
            table.index, table.slots, table.own_keys, self._keys, begin, end, frozen, table.W, table.stride,
            table.dirty, self._rows, self._saved, self._was_dirty,
        )  # fmt: skip
        self._none = None
        if lacking:  # not let in, or swept out since: it must not become a row
            keys = self._keys[begin:end]
            done = keys[frozen[shard_of(keys, len(frozen))] & (keys != MISSING)]
            self._none = done[table.known(done) != 2]
            table.remember_absent(self._none)

    def after(self) -> None:
        """It is learned."""
        table = self._table
        if self._none is not None:
            table.forget(self._none)
        self._put_back(
            table.W, table.stride, table.dirty, table.counters, self._held, self._rows, self._saved, self._was_dirty
        )  # fmt: skip
