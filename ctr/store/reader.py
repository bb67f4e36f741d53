"""One shard as a scorer sees it: rows by key, and what changed since the last look. Never a write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.errors import ModelMismatchError, ShardLostError
from ctr.rows import RowBlock
from ctr.store.bulk import RowFetch
from ctr.store.codec import CHUNK, decode_keys, decode_rows, decode_scan, field_names
from ctr.store.connection import Client, translated
from ctr.store.keys import ShardKeys
from ctr.store.shard import Meta, Version, Watermarks

_POLLED = (b"ver", b"spec", b"event_s", b"arrival_s", b"commit_s")
"""Fields of meta that are looked at 20 times a second: not the offsets of all partitions."""
_ENTRIES = 100
"""Change entries read at a time: one holds up to some hundred thousand keys."""
_LOOKS_BACK = 16
"""Round trips of `ShardReader.recent`, each twice as many entries as the one before, up to `_ENTRIES`."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened since the last look.

    Attributes
    ----------
    written : (m,) uint64
        Keys whose rows were written; may repeat.
    gone : (m,) uint64
        Keys whose rows were dropped, and not written again since; each once.
    broken : bool
        The chain of commits could not be followed (trimmed, or the server went back): anything may have changed.
    version, watermarks
        What the shard is at once these changes have been read again.
    """

    written: NDArray[np.uint64]
    broken: bool
    version: Version
    watermarks: Watermarks
    gone: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))


class ShardReader:
    """Reads one shard and follows its change stream.

    Parameters
    ----------
    client : Client
    keys : ShardKeys
    row_bytes : int
    spec_digest : str, optional
        Of the specification that its rows are read by; where it is given, a shard of another one is refused.
    in_bulk : RowFetch, optional
        Reads rows for who reads many of them all the time.
    """

    def __init__(
        self, client: Client, keys: ShardKeys, *, row_bytes: int, spec_digest: str | None = None,
        in_bulk: RowFetch | None = None,
    ) -> None:  # fmt: skip
        self._client, self._keys, self._row_bytes, self._in_bulk = client, keys, row_bytes, in_bulk
        self._spec_digest = spec_digest
        self._seen: Version | None = None
        self._looked: Any = None

    @property
    def version(self) -> Version | None:
        """What the shard was when the changes that `poll` returned last were the newest; None before the first."""
        return self._seen

    def fetch(self, keys: NDArray[np.uint64]) -> RowBlock:
        """Rows of these keys, as many as exist.

        Raises
        ------
        StoreUnavailableError
        """
        rows = None if self._in_bulk is None else self._in_bulk.fetch(self._keys.rows, keys)
        return self._fetch(keys, with_meta=False)[0] if rows is None else rows

    def fetch_at(self, keys: NDArray[np.uint64]) -> tuple[RowBlock, dict[bytes, bytes]]:
        """Rows of these keys, and the meta hash as it is once they are read, in one round trip.

        Raises
        ------
        StoreUnavailableError
        """
        return self._fetch(keys, with_meta=True)

    def _fetch(self, keys: NDArray[np.uint64], *, with_meta: bool) -> tuple[RowBlock, dict[bytes, bytes]]:
        names = field_names(keys)
        with translated():
            pipeline = self._client.pipeline(transaction=False)
            for begin in range(0, len(names), CHUNK):
                pipeline.hmget(self._keys.rows, names[begin : begin + CHUNK])
            if with_meta:
                pipeline.hgetall(self._keys.meta)
            replies = pipeline.execute()
        meta = replies.pop() if with_meta else {}
        return decode_rows(keys, [value for reply in replies for value in reply], self._row_bytes), meta

    def scan(self, count: int = CHUNK) -> Iterator[RowBlock]:
        """All rows, in blocks."""
        cursor = 0
        while True:
            with translated():
                reply: Any = self._client.hscan(self._keys.rows, cursor, count=count)
            cursor, held = reply
            yield decode_scan([part for item in held.items() for part in item], self._row_bytes)
            if cursor == 0:
                return

    def poll(self) -> Changes | None:
        """What changed since the last call; None where nothing did. The first call says `broken`: read everything.

        Raises
        ------
        ShardLostError
            The shard's meta is gone: an emptied server, or a dropped model.
        ModelMismatchError
            The shard's rows are those of another specification.
        StoreUnavailableError
        """
        stored, self._looked = self._looked, None
        if stored is None:
            with translated():
                stored = self._client.hmget(self._keys.meta, _POLLED)
        meta = Meta.read({name: value for name, value in zip(_POLLED, stored, strict=True) if value is not None})
        if meta is None:
            raise ShardLostError(f"{self._keys.meta} is gone: an emptied server, or a dropped model")
        if self._spec_digest is not None and meta.spec_digest not in (self._spec_digest, ""):
            raise ModelMismatchError(
                f"{self._keys.meta} is of another specification now ({meta.spec_digest}, not {self._spec_digest})"
            )
        seen = self._seen
        if seen == meta.version:
            return None
        if seen is None:
            return self._all(meta)
        with translated():
            entries: Any = self._client.xrange(self._keys.changes, f"({seen.stream_id}", "+", count=_ENTRIES)
        written, nonce, sequence, watermarks = [], seen.nonce, seen.sequence, meta.watermarks
        gone = np.empty(0, np.uint64)
        for identity, entry in entries:
            if entry[b"prev"].decode() != nonce:
                return self._all(meta)
            sequence, nonce = int(identity.partition(b"-")[0]), entry[b"nonce"].decode()
            written.append(decode_keys(entry[b"keys"]))
            if b"gone" in entry:  # only where something is: entries from before rows could leave have none
                gone = np.union1d(gone, decode_keys(entry[b"gone"]))
            if len(gone):
                gone = gone[~np.isin(gone, written[-1])]
            watermarks = Watermarks.read(entry)
        reached = Version(sequence, nonce)
        if not written or (len(entries) < _ENTRIES and reached.sequence < meta.version.sequence):
            return self._all(meta)
        if reached.sequence == meta.version.sequence and reached != meta.version:
            return self._all(meta)
        self._seen = reached
        return Changes(np.concatenate(written), False, reached, watermarks, gone)

    def recent(self, limit: int) -> NDArray[np.uint64]:
        """Up to `limit` keys that the last thousand commits wrote, as far as the stream goes; the latest's first.

        Raises
        ------
        StoreUnavailableError
        """
        found, before, count = np.empty(0, np.uint64), "+", 1
        for _ in range(_LOOKS_BACK):
            if len(found) >= limit:
                break
            with translated():
                entries: Any = self._client.xrevrange(self._keys.changes, before, "-", count=count)
            if not entries:
                break
            for _, entry in entries:
                keys = np.unique(decode_keys(entry[b"keys"]))
                found = np.append(found, keys[~np.isin(keys, found)])
            before, count = f"({entries[-1][0].decode()}", min(2 * count, _ENTRIES)
        return found[:limit]

    def _all(self, meta: Meta) -> Changes:
        """Follow from here on; all that is held must be read again."""
        self._seen = meta.version
        return Changes(np.empty(0, np.uint64), True, meta.version, meta.watermarks)

    @classmethod
    def look_ahead(cls, readers: Sequence[ShardReader]) -> None:
        """Ask for the metas of all shards in one round trip; each reader's next `poll` begins with what was found.

        Raises
        ------
        StoreUnavailableError
        """
        with translated():
            pipeline = readers[0]._client.pipeline(transaction=False)  # noqa: SLF001  of the same class
            for reader in readers:
                pipeline.hmget(reader._keys.meta, _POLLED)  # noqa: SLF001  as above
            for reader, stored in zip(readers, pipeline.execute(), strict=True):
                reader._looked = stored  # noqa: SLF001  as above
