"""One shard's side of the commit protocol: take over, load, commit. Exactly once, whatever crashes.

`meta` is the only key ever watched and every write to the shard writes it, so a transaction whose WATCH saw the right
owner and version cannot interleave with another writer's.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ctr.errors import FencedError, ModelMismatchError, ServerWentBackError, ShardLostError, StoreUnavailableError
from ctr.rows import RowBlock
from ctr.store.codec import decode_scan, encode_keys, hdel_commands, hset_commands
from ctr.store.connection import Client, Session, translated
from ctr.store.keys import ShardKeys
from ctr.store.shard import Meta, Version, Watermarks, offset_fields

STREAM_BYTES = 64 << 20
"""Room of a model's change stream: it is trimmed to the entries that fit, so a slow reader re-reads all instead."""
_ATTEMPTS = 20
"""A transaction that finds meta changed under its WATCH this often has a writer beside it that ignores the owner."""


@dataclass(frozen=True, slots=True)
class Cut:
    """All that one commit publishes: frozen when it is made, sent as often as it takes.

    Attributes
    ----------
    rows : RowBlock
        Rows to write.
    offsets : mapping of str to int
        Next offset to learn of each partition.
    watermarks : Watermarks
    gone : (m,) uint64
        Keys whose rows left the table: dropped from the store, unless `rows` has them too.
    """

    rows: RowBlock
    offsets: Mapping[str, int]
    watermarks: Watermarks
    gone: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    nonce: str = field(default_factory=lambda: secrets.token_hex(8))


class ShardWriter:
    """The one writer of a shard.

    Parameters
    ----------
    client : Client
    keys : ShardKeys
    spec_digest : str
        Of the specification that trains; the stored one must be the same.
    row_bytes : int
        Size of a packed row.
    """

    def __init__(self, client: Client, keys: ShardKeys, *, spec_digest: str, row_bytes: int) -> None:
        self._client, self._keys = client, keys
        self._spec_digest, self._row_bytes = spec_digest, row_bytes
        self._session = Session(client)
        self._owner = ""
        self._meta: Meta | None = None

    def look(self) -> Meta:
        """What is stored, without becoming the owner."""
        with translated(), self._dropping():
            return self._read_meta()

    def take_over(self) -> Meta:
        """Become the owner: from here on no other writer's commit can succeed.

        Returns
        -------
        Meta
            What is stored: the offsets at which to go on.

        Raises
        ------
        ShardLostError
            There is no meta although there is a specification.
        StoreUnavailableError
            Redis did not answer; call again.
        """
        owner = secrets.token_hex(16)
        for _ in range(_ATTEMPTS):
            with translated(), self._dropping():
                self._session.call("UNWATCH")
                self._session.call("WATCH", self._keys.meta)
                meta = self._read_meta()
                if self._session.transaction([("HSET", self._keys.meta, "owner", owner)]) is None:
                    continue
            if meta.spec_digest != self._spec_digest:
                raise ModelMismatchError(
                    f"{self._keys.meta} belongs to another specification ({meta.spec_digest}, ours {self._spec_digest})"
                )
            self._owner, self._meta = owner, meta
            return meta
        raise StoreUnavailableError(f"{self._keys.meta} changed under each of {_ATTEMPTS} attempts to take it over")

    def load(self, count: int = 1000) -> Iterator[RowBlock]:
        """All rows, in blocks. Call after `take_over`, while nothing is being committed."""
        cursor = 0
        while True:
            with translated(), self._dropping():
                reply = self._session.call("HSCAN", self._keys.rows, cursor, "COUNT", count)
            cursor = int(reply[0])
            yield decode_scan(reply[1], self._row_bytes)
            if cursor == 0:
                return

    def commit(self, cut: Cut) -> None:
        """Publish a cut: rows, offsets, watermarks and the change entry in one transaction.

        After a `StoreUnavailableError` the outcome is unknown; calling again with the same cut is safe, since a version
        with this cut's nonce proves that it was applied.

        Raises
        ------
        FencedError
            Another writer owns the shard: drop everything.
        ServerWentBackError
            The stored version is older than what was acknowledged to us: take over and load again.
        StoreUnavailableError
            No reply, or a server that cannot write now. Retry.
        """
        if self._meta is None:
            raise FencedError(f"{self._keys.meta}: commit before take_over")
        for _ in range(_ATTEMPTS):
            with translated(), self._dropping():
                if self._attempt(cut, self._meta):
                    return
        raise StoreUnavailableError(f"{self._keys.meta} changed under every one of {_ATTEMPTS} attempts to commit")

    def _attempt(self, cut: Cut, mine: Meta) -> bool:
        """One try over one connection; False where meta changed between WATCH and EXEC."""
        # a. look at what is stored, under WATCH
        self._session.call("WATCH", self._keys.meta)
        stored = self._read_meta()
        # b. another owner: fenced
        if stored.owner != self._owner:
            self._session.call("UNWATCH")
            if stored.version.sequence < mine.version.sequence:
                raise ServerWentBackError(
                    f"{self._keys.meta} is at version {stored.version} of an earlier owner, {mine.version} had been "
                    "acknowledged: the server lost commits"
                )
            raise FencedError(f"{self._keys.meta} now belongs to another writer; this one stops without writing")
        # c. this cut's nonce: an earlier EXEC whose reply was lost had been applied
        if stored.version.nonce == cut.nonce:
            self._session.call("UNWATCH")
            self._meta = stored
            return True
        # d. not what I last wrote: the server went back in time
        if stored.version != mine.version or stored.offsets != mine.offsets:
            self._session.call("UNWATCH")
            raise ServerWentBackError(
                f"{self._keys.meta} is at version {stored.version}, {mine.version} had been acknowledged: "
                "the server lost a commit"
            )
        # e. everything in one transaction
        version = Version(stored.version.sequence + 1, cut.nonce)
        watermarks = Watermarks(cut.watermarks.event_s, cut.watermarks.arrival_s, time.time())
        offsets = {**stored.offsets, **cut.offsets}
        meta = {"ver": str(version), **offset_fields(offsets), **watermarks.fields()}
        written, gone = encode_keys(cut.rows.keys), encode_keys(cut.gone)
        change = {"nonce": cut.nonce, "prev": stored.version.nonce, "keys": written, **watermarks.fields()}
        if gone:
            change["gone"] = gone
        entries = max(64, STREAM_BYTES // (256 + len(written) + len(gone)))
        commands: list[tuple[object, ...]] = [
            *hdel_commands(self._keys.rows, cut.gone),
            *hset_commands(self._keys.rows, cut.rows),
            ("HSET", self._keys.meta, *_flat(meta)),
            ("XADD", self._keys.changes, "MAXLEN", "~", entries, version.stream_id, *_flat(change)),
        ]
        if self._session.transaction(commands) is None:
            return False
        self._meta = Meta(version, self._owner, stored.spec_digest, watermarks, offsets)
        return True

    def _read_meta(self) -> Meta:
        flat = self._session.call("HGETALL", self._keys.meta)
        meta = Meta.read(dict(zip(flat[::2], flat[1::2], strict=True)))
        if meta is None:
            self._session.drop()
            raise ShardLostError(
                f"{self._keys.meta} is gone, the specification is there: data was lost; restore Redis from a backup"
            )
        return meta

    def _dropping(self) -> _Dropping:
        return _Dropping(self._session)

    def close(self) -> None:
        """Give the connection up."""
        self._session.drop()


class _Dropping:
    """On any error give the connection up, and with it every WATCH."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._session.drop()


def _flat(mapping: Mapping[str, object]) -> list[object]:
    return [part for item in mapping.items() for part in item]
