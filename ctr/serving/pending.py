"""What a cache remembers of the keys that come, are on their way, and are due to be read again."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ctr.store import ShardReader, Version, Watermarks

Keys = NDArray[np.uint64]


class KeyLog:
    """Keys in the order in which they came, oldest first; one may be there twice."""

    def __init__(self) -> None:
        self._keys, self._begin, self._end = np.empty(1024, np.uint64), 0, 0

    def __len__(self) -> int:
        return self._end - self._begin

    def add(self, keys: Keys) -> None:
        """Put keys behind the others."""
        if self._end + len(keys) > len(self._keys):
            self.reset(self.all(), room=len(self) + 2 * len(keys))
        self._keys[self._end : self._end + len(keys)] = keys
        self._end += len(keys)

    def pop(self, count: int) -> Keys:
        """Take the oldest out."""
        oldest = self._keys[self._begin : min(self._begin + count, self._end)].copy()
        self._begin += len(oldest)
        return oldest

    def all(self) -> Keys:
        """All of them, the oldest first."""
        return self._keys[self._begin : self._end].copy()

    def reset(self, keys: Keys, room: int = 1024) -> None:
        """Hold these keys and no others."""
        self._keys = np.empty(len(keys) + room, np.uint64)
        self._keys[: len(keys)] = keys
        self._begin, self._end = 0, len(keys)


class Flight:
    """Keys on their way for a request; `named` marks those that a change has named since they were asked for."""

    def __init__(self, keys: Keys) -> None:
        self.keys, self.named = keys, np.zeros(len(keys), np.bool_)

    def mark(self, written: Keys, *, everything: bool) -> None:
        """Note that a change has named these keys, ascending."""
        if everything:
            self.named[:] = True
        elif len(written):
            at = np.minimum(np.searchsorted(written, self.keys), len(written) - 1)
            self.named |= written[at] == self.keys


@dataclass(slots=True)
class Due:
    """Held rows that have changed, and how far the shard has come once they are read."""

    keys: Keys
    version: Version
    watermarks: Watermarks
    broken: bool


@dataclass(slots=True)
class FollowedShard:
    """A shard as a cache follows it."""

    reader: ShardReader
    due: deque[Due] = field(default_factory=deque)
    """Changed by the follower alone, without the lock."""
    flights: list[Flight] = field(default_factory=list)
    watermarks: Watermarks | None = None
    """How far the rows held have come; None until the first look was taken."""
    version: Version | None = None
    """Commit whose rows are held, likewise."""
    broken: bool = True
    """Whether the chain of commits broke and not all rows have been read again."""
