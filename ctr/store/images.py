"""A model in Redis goes in while its writer goes on; every shard's rows at one version, all at one cut, come out.

Never a write, and nothing that Redis would have to stand still for. A shard is read in pages, each a moment later than
the one before, while its change stream is followed: what changed meanwhile is read again, until a look finds nothing
that changed since the last one. Then every row that is held is that of the version last seen, and the offsets that
stand beside that version are theirs. (One MULTI over 50,000 rows would be as right, and block Redis for 45 ms.)

All shards at one cut: an image is kept until a newer one of the same shard is whole. Those behind the furthest shard
are brought on until all offsets are equal. That ends as soon as a cut has gone through all shards, unless a writer died
in mid-commit: such images still are right, each by its own offsets, but cannot be dealt to another number of shards.

Memory: rows go to a scratch file as they come, newest wins; 16 bytes a row that was read stay in memory.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ctr.errors import StoreUnavailableError
from ctr.rows import RowBlock
from ctr.store.catalog import StoredModel
from ctr.store.codec import CHUNK
from ctr.store.connection import Client
from ctr.store.keys import ShardKeys
from ctr.store.model_writer import resume
from ctr.store.reader import ShardReader
from ctr.store.shard import Meta

ROWS_PER_S = 50_000
"""Pace of reading: half of what one Redis serves beside commits while scorers' p99 stays under 6 ms."""
BLOCK = 8 * CHUNK
"""Rows that an image hands out at a time."""
_NOTE_S = 1.0
"""Change streams are followed at least so often while pages are read: they are trimmed by bytes."""
_ATTEMPTS = 3
_SETTLE_S = 120.0
_LOOK_S = 0.005
"""Between two looks whether a shard that is behind has come on."""


class Image(Protocol):
    """One shard at one version, wherever it is kept."""

    @property
    def meta(self) -> Meta:
        """Its version, offsets, origins and watermarks."""

    @property
    def fields(self) -> Mapping[str, str]:
        """Its meta hash as it is stored."""

    @property
    def rows(self) -> int:
        """How many."""

    def blocks(self) -> Iterator[RowBlock]:
        """All rows, ascending by key, up to `BLOCK` at a time."""


def parsed(fields: Mapping[str, str]) -> Meta:
    """Meta as values."""
    meta = Meta.read({name.encode(): value.encode() for name, value in fields.items()})
    assert meta is not None, "an image has a version"
    return meta


class RowLog:
    """Rows as they come, the newest of each key wins: a scratch file that is gone when it is closed.

    Parameters
    ----------
    row_bytes : int
    directory : str, optional
        Where the file is; the system's place for temporary files where not given.
    """

    def __init__(self, row_bytes: int, directory: str | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=directory, prefix="ctr-rows-")  # noqa: SIM115  lives as long as we do
        self._row_bytes, self._entries = row_bytes, 0
        self._keys: list[NDArray[np.uint64]] = []
        self._places: list[NDArray[np.int64]] = []

    def put(self, block: RowBlock) -> None:
        """Rows that from now on are the newest of their keys."""
        self._file.write(np.ascontiguousarray(block.data).data)
        self._note(block.keys, np.arange(self._entries, self._entries + len(block)))
        self._entries += len(block)

    def drop(self, keys: NDArray[np.uint64]) -> None:
        """Keys that have no row from now on."""
        self._note(keys, np.full(len(keys), -1))

    def _note(self, keys: NDArray[np.uint64], places: NDArray[np.int64]) -> None:
        self._keys.append(keys)
        self._places.append(places)

    def settled(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Keys that have a row, ascending, and the place of each one's newest row in the file."""
        keys = np.concatenate([np.empty(0, np.uint64), *self._keys])
        places = np.concatenate([np.empty(0, np.int64), *self._places])
        order = np.argsort(keys, kind="stable")
        keys, places = keys[order], places[order]
        newest = np.append(keys[1:] != keys[:-1], True)[: len(keys)]
        there = newest & (places >= 0)
        return keys[there], places[there]

    def read(self, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(m, row_bytes) rows at these places."""
        if not len(places):
            return np.empty((0, self._row_bytes), np.uint8)
        self._file.flush()
        held = np.memmap(self._file, np.uint8, "r", shape=(self._entries, self._row_bytes))
        return np.array(held[places])

    def close(self) -> None:
        """Give the file up."""
        self._file.close()


@dataclass(frozen=True, slots=True)
class ReadImage:
    """An image whose rows are in a scratch file."""

    meta: Meta
    fields: dict[str, str]
    log: RowLog
    keys: NDArray[np.uint64]
    places: NDArray[np.int64]

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.keys)

    def blocks(self) -> Iterator[RowBlock]:
        """All rows, ascending by key."""
        for begin in range(0, len(self.keys), BLOCK):
            part = slice(begin, begin + BLOCK)
            yield RowBlock(self.keys[part], self.log.read(self.places[part]))


class _ChainBrokenError(StoreUnavailableError):
    """Changes could not be followed: anything may have changed."""


class _Follower:
    """One shard: its rows as far as they were read, and which of them have changed since."""

    def __init__(self, client: Client, keys: ShardKeys, row_bytes: int, directory: str | None) -> None:
        self._keys = keys
        self._reader = ShardReader(client, keys, row_bytes=row_bytes)
        self._log = RowLog(row_bytes, directory)
        self._changed = np.empty(0, np.uint64)
        self._reader.poll()  # follow from here

    def pages(self) -> Iterator[int]:
        """Read all rows; the number of each page's rows, for whoever keeps the pace."""
        for block in self._reader.scan():
            self._log.put(block)
            yield len(block)

    def note(self) -> None:
        """Take note of what changed."""
        changes = self._reader.poll()
        if changes is None:
            return
        if changes.broken:
            raise _ChainBrokenError(
                f"{self._keys.changes} no longer holds what came since the last look: commits are faster than reading"
            )
        self._changed = np.union1d(np.setdiff1d(self._changed, changes.gone), changes.written)
        self._log.drop(changes.gone)

    def settle(self) -> ReadImage:
        """Read what changed until nothing did since."""
        until = time.monotonic() + _SETTLE_S
        while time.monotonic() < until:
            self.note()
            if (fields := self._read_again()) is not None:
                return ReadImage(parsed(fields), fields, self._log, *self._log.settled())
        raise StoreUnavailableError(
            f"{self._keys.rows} changes faster than it can be read: take it with a longer commit.interval_ms, or on "
            "a less busy machine"
        )

    def _read_again(self) -> dict[str, str] | None:
        """Read what changed; the meta where all that is held is of its version.

        A row that is gone by now is so by a commit that is yet to be noted. Rows and meta come in one round trip: what
        falls between the look at the change stream and that round trip, nothing else, has us read again.
        """
        changed, self._changed = self._changed, np.empty(0, np.uint64)
        while len(changed) > BLOCK:
            self._log.put(self._reader.fetch(changed[:BLOCK]))
            changed = changed[BLOCK:]
        found, stored = self._reader.fetch_at(changed)
        self._log.put(found)
        fields = {name.decode(): value.decode() for name, value in stored.items()}
        return fields if "ver" in fields and parsed(fields).version == self._reader.version else None

    def close(self) -> None:
        self._log.close()


@contextlib.contextmanager
def gather(
    client: Client, stored: StoredModel, *, directory: str | os.PathLike[str] | None = None,
    rows_per_s: float = ROWS_PER_S, level_within_s: float = 30.0,
) -> Iterator[list[ReadImage]]:  # fmt: skip
    """Images of all shards, in their order; good within the context.

    Parameters
    ----------
    client : Client
    stored : StoredModel
    directory : path, optional
        For scratch files: as much room as the model's rows, and what changes while they are read.
    rows_per_s : float
        Pace of reading; 0 for none.
    level_within_s : float
        How long to go on for images of one cut; see `is_level`.

    Raises
    ------
    ShardLostError
        A shard has no meta.
    StoreUnavailableError
        Redis did not answer, or the model changes faster than it can be read.
    """
    shards: dict[int, _Follower] = {}
    place = None if directory is None else os.fspath(directory)
    try:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                _scan(client, stored, shards, place, rows_per_s)
                images = [shards[shard].settle() for shard in range(stored.shards)]
                _bring_level(images, shards, time.monotonic() + level_within_s)
                break
            except _ChainBrokenError:
                if attempt == _ATTEMPTS:
                    raise
                _close(shards)
        yield images
    finally:
        _close(shards)


def _scan(
    client: Client, stored: StoredModel, shards: dict[int, _Follower], directory: str | None, rows_per_s: float
) -> None:
    """Read all pages of all shards, at the pace; following each from its first page on."""
    noted = time.monotonic()
    for shard, keys in enumerate(stored.keys):
        shards[shard] = _Follower(client, keys, stored.row_bytes, directory)
        began, read = time.monotonic(), 0
        for rows in shards[shard].pages():
            read += rows
            if rows_per_s:
                time.sleep(max(0.0, began + read / rows_per_s - time.monotonic()))
            if time.monotonic() - noted >= _NOTE_S:
                for follower in shards.values():
                    follower.note()
                noted = time.monotonic()


def _bring_level(images: list[ReadImage], shards: Mapping[int, _Follower], until: float) -> None:
    """Bring on the shards that are behind the furthest, until all are at one cut or the time is over."""
    while time.monotonic() < until:
        places = resume([image.meta for image in images]).stored
        furthest = max(places, key=lambda offsets: sum(offsets.values()))
        behind = [shard for shard, offsets in enumerate(places) if offsets != furthest]
        if not behind:
            return
        for shard in behind:
            images[shard] = shards[shard].settle()
        time.sleep(_LOOK_S)


def is_level(images: Sequence[Image]) -> bool:
    """Whether all shards have the same events."""
    return resume([image.meta for image in images]).level


def _close(shards: dict[int, _Follower]) -> None:
    for follower in shards.values():
        follower.close()
    shards.clear()
