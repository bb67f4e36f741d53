"""Change streams go in, a model that is as the store is comes out: what a stand-by keeps warm."""

from __future__ import annotations

import numpy as np

from ctr.model import Model
from ctr.spec import Spec
from ctr.store import CHUNK, Client, ShardReader, StoredModel, Version


class Follower:
    """A whole model that follows the store, one step at a time. Never a write.

    Parameters
    ----------
    client : Client
    stored : StoredModel
    spec : Spec
        That trains.
    """

    def __init__(self, client: Client, stored: StoredModel, spec: Spec) -> None:
        self._client, self._stored, self._spec = client, stored, spec
        self._begin()

    def _begin(self) -> None:
        self._model = Model(self._spec)
        self._readers = [
            ShardReader(self._client, keys, row_bytes=self._stored.row_bytes) for keys in self._stored.keys
        ]
        self._seen: list[Version | None] = [None] * len(self._readers)

    @property
    def rows(self) -> int:
        """Features held."""
        return self._model.rows

    @property
    def warm(self) -> bool:
        """Whether all rows have been read once."""
        return all(version is not None for version in self._seen)

    def follow(self) -> int:
        """Look at every shard once and read what was written; returns how many rows.

        Raises
        ------
        CtrError
            The store did not answer, or what it holds cannot be used. The next call begins anew.
        """
        try:
            ShardReader.look_ahead(self._readers)
            return sum(self._follow(shard) for shard in range(len(self._readers)))
        except BaseException:
            self._begin()  # what a reader has reported is not reported again
            raise

    def _follow(self, shard: int) -> int:
        reader = self._readers[shard]
        changes = reader.poll()
        if changes is None:
            return 0
        read = 0
        if changes.broken:
            if self._seen[shard] is not None:  # rows that left meanwhile cannot be told: all is read again
                self._begin()
                return 0
            for block in reader.scan():
                self._model.load(block)
                read += len(block)
        else:
            self._model.forget(changes.gone)
            written = np.unique(changes.written)
            for begin in range(0, len(written), CHUNK):
                part = written[begin : begin + CHUNK]
                block = reader.fetch(part)
                self._model.load(block)
                self._model.forget(np.setdiff1d(part, block.keys))
                read += len(block)
        self._seen[shard] = changes.version
        return read

    def hand_over(self, versions: tuple[Version, ...]) -> Model | None:
        """Return the model, once nobody writes any more, if it is what the store holds at these versions.

        Raises
        ------
        CtrError
            As `follow`.
        """
        for _ in range(1000):  # a poll brings a hundred commits at most
            if tuple(self._seen) == versions:
                break
            self.follow()
        else:
            return None
        # shards may be a commit apart: more rows than ever were there at once, which the bound refuses
        return None if self._model.counts.rows_refused else self._model
