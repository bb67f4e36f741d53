"""Events that some shards of the store have already, and others not: learned so that each counts once in every shard.

After a crash in mid-commit the stored offsets differ from shard to shard. Reading goes on at the smallest of them, and
event k of a partition changes rows of those shards alone whose offset is not beyond it: rows of all shards are read,
those of shards that have the event are put back afterwards. Event by event, because each prediction must see the rows
as they are; slow (see `tests/benchmarks/commit.py`), for the events of one commit interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ctr.events.batch import MISSING, Batch
from ctr.model.model import Model
from ctr.rows import shard_of


class Replay:
    """Learns in a model's stead until all shards are level.

    Parameters
    ----------
    model : Model
        With the rows of all shards loaded.
    stored : sequence of mapping of str to int
        For each shard the next offset that it does not have, by partition.
    """

    def __init__(self, model: Model, stored: Sequence[Mapping[str, int]]) -> None:
        self._model, self._stored, self._shards = model, stored, len(stored)
        self._goal = {name: max(offsets.get(name, 0) for offsets in stored) for name in set().union(*stored)}
        self._own = model.own_keys
        self._shard_of_own = shard_of(self._own, self._shards)

    def over(self, offsets: Mapping[str, int]) -> bool:
        """Whether no shard has anything at or beyond these next offsets, so that the model may learn by itself."""
        return all(offsets.get(name, goal) >= goal for name, goal in self._goal.items())

    def learn_many(
        self, batch: Batch, partitions: Sequence[str], *, salts: NDArray[np.uint64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Learn events one after the other, each in the shards that do not have it.

        Parameters
        ----------
        batch : Batch
        partitions : sequence of str
            Names of the batch's partitions.
        salts : (partitions,) uint64, optional
            See `Model.learn_many`.

        Returns
        -------
        p : (n,) float32
            As `Model.learn_many` gives them; NaN for an event that every shard has.
        fresh : (n,) bool
            Events that no shard had: the predictions of all others have seen the label.
        """
        ahead = self._ahead(batch, partitions)
        counts = np.count_nonzero(ahead, axis=1)
        p = np.full(len(batch), np.nan, np.float32)
        begin = 0
        while begin < len(batch):
            end = begin + 1
            if counts[begin] == 0:
                while end < len(batch) and counts[end] == 0:
                    end += 1
                p[begin:end] = self._model.learn_many(batch.slice(begin, end), salts=salts)
            elif counts[begin] < self._shards:
                p[begin:end] = self._learn_in_part(batch.slice(begin, end), ahead[begin], salts)
            begin = end
        return p, counts == 0

    def _ahead(self, batch: Batch, partitions: Sequence[str]) -> NDArray[np.bool_]:
        """(n, shards) which shards have which events."""
        nexts = [[offsets.get(name, 0) for offsets in self._stored] for name in partitions]
        table = np.array([*nexts, [0] * self._shards], np.int64)  # the last one for events of no partition, -1
        return np.less(batch.offsets[:, None], table[batch.partitions])

    def _learn_in_part(
        self, event: Batch, ahead: NDArray[np.bool_], salts: NDArray[np.uint64] | None
    ) -> NDArray[np.float32]:
        done = event.keys[ahead[shard_of(event.keys, self._shards)] & (event.keys != MISSING)]
        held = self._model.hold(np.concatenate([self._own[ahead[self._shard_of_own]], done]))
        # a feature without a row is none there (not let in, or swept out since) and must not become one
        none = done[~self._model.lookup(done)]
        self._model.mark_absent(none)
        p = self._model.learn_many(event, salts=salts)
        self._model.forget(none)
        self._model.put_back(held)
        return p
