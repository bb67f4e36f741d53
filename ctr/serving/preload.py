"""A model's change streams in, rows that requests will ask for read into the cache before they do.

What is learned is what is shown, and what is shown is what was scored: the rows that the last commits wrote are the
ones that the next requests need. Nobody has to write down what was asked for: a scorer only reads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ctr.errors import CtrError
from ctr.serving.cache import RowCache
from ctr.store import ShardReader

_AT_ONCE = 1000


class Preload:
    """Reads the rows that were written last, some at a time; for the thread that follows.

    Parameters
    ----------
    readers : sequence of ShardReader
        All shards.
    cache : RowCache
    limit : int
        Rows read at most, of all shards alike, and at most half of what the cache holds: contexts need room, too.
    """

    def __init__(self, readers: Sequence[ShardReader], cache: RowCache, limit: int) -> None:
        self._readers, self._cache = readers, cache
        self._each = -(-min(limit, cache.max_rows // 2) // len(readers))
        self._keys: NDArray[np.uint64] | None = None
        """Still to be read; None until the streams were asked."""

    @property
    def due(self) -> int:
        """Rows still to be read, as far as that is known."""
        return len(self._readers) * self._each if self._keys is None else len(self._keys)

    def follow(self) -> int:
        """One step; how many rows were read. A store that does not answer is asked again by the next step."""
        if not self.due:
            return 0
        try:
            if self._keys is None:
                self._keys = self._latest()
            self._cache.preload(self._keys[:_AT_ONCE])
        except CtrError:
            return 0
        read = len(self._keys[:_AT_ONCE])
        self._keys = self._keys[_AT_ONCE:]
        return read

    def _latest(self) -> NDArray[np.uint64]:
        """Keys by how recently they were written, the shards' turn by turn: what is left out is the oldest."""
        found = [reader.recent(self._each) for reader in self._readers]
        turn = np.concatenate([np.arange(len(keys)) for keys in found])
        latest: NDArray[np.uint64] = np.concatenate(found)[np.argsort(turn, kind="stable")]
        return latest
