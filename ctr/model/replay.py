"""Events that some shards of the store have already, and others not: learned so that each counts once in every shard.

After a crash in mid-commit the stored offsets differ from shard to shard. Reading goes on at the smallest of them, and
event k of a partition changes rows of those shards alone whose offset is not beyond it: rows of all shards are read,
those of shards that have the event stay as they are. Event by event, because each prediction must see the rows as they
are: a tenth of the speed of learning (see `tests/benchmarks/commit.py`), for the events of one commit interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ctr.events.batch import Batch
from ctr.model.model import Model


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
        kinds = (counts > 0).astype(np.int8) + (counts == self._shards)  # nobody has it, some, all
        cuts = [0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(batch)]
        for begin, end in pairwise(cuts):
            if begin == end:  # an empty batch
                continue
            part = batch.slice(begin, end)
            if kinds[begin] == 0:
                p[begin:end] = self._model.learn_many(part, salts=salts)
            elif kinds[begin] == 1:
                p[begin:end] = self._model.learn_masked(part, ahead[begin:end], salts=salts)
        return p, counts == 0

    def _ahead(self, batch: Batch, partitions: Sequence[str]) -> NDArray[np.bool_]:
        """(n, shards) which shards have which events."""
        nexts = [[offsets.get(name, 0) for offsets in self._stored] for name in partitions]
        table = np.array([*nexts, [0] * self._shards], np.int64)  # the last one for events of no partition, -1
        return np.less(batch.offsets[:, None], table[batch.partitions])
