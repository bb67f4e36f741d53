"""One shard's side of the commit protocol: take over, load, commit. Exactly once, whatever crashes.

`meta` is the only key ever watched and every write to the shard writes it, so a transaction whose WATCH saw the right
owner and version cannot interleave with another writer's.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ctr.errors import FencedError, ModelMismatchError, ServerWentBackError, ShardLostError, StoreUnavailableError
from ctr.rows import ALL_SHARDS, RowBlock
from ctr.store.codec import CHUNK, RowPacker, decode_scan, encode_keys, hdel_commands
from ctr.store.connection import Client, Command, Session, translated
from ctr.store.keys import ShardKeys
from ctr.store.shard import Meta, Version, Watermarks

STREAM_BYTES = 64 << 20
"""Room of a model's change streams: they are trimmed to the entries that fit, so a slow reader re-reads all instead."""
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
        Next offset to learn of each partition. A shard that is ahead of it stays where it is.
    watermarks : Watermarks
    gone : (m,) uint64
        Keys whose rows left the table: dropped from the store, unless `rows` has them too.
    origins : mapping of str to int
        Where reading of each partition began for which the store had no offset; see `ctr.store.model_writer`.
    marks : mapping of str to str
        What the source says of the log at `offsets`, to know it again.
    skipped : mapping of str to sequence of (int, int)
        Offsets from and to which reading has jumped, because the log had lost what lies between and that was accepted:
        what a shard lacks of it is counted as its gap.
    chosen : (shards,) bool
        Which shards it goes to; to all where not given.
    """

    rows: RowBlock
    offsets: Mapping[str, int]
    watermarks: Watermarks
    gone: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    origins: Mapping[str, int] = field(default_factory=dict)
    marks: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    chosen: NDArray[np.bool_] = field(default_factory=lambda: ALL_SHARDS)
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
    session : Session, optional
        To share one with other shards of the same server.
    packer : RowPacker, optional
        To share its buffer.
    streams : int
        Shards that share `STREAM_BYTES`.
    """

    def __init__(
        self, client: Client, keys: ShardKeys, *, spec_digest: str, row_bytes: int, session: Session | None = None,
        packer: RowPacker | None = None, streams: int = 1,
    ) -> None:  # fmt: skip
        self._keys, self._spec_digest, self._row_bytes = keys, spec_digest, row_bytes
        self._session = session or Session(client, keys.meta)
        self._packer = packer or RowPacker(row_bytes)
        self._stream_bytes = STREAM_BYTES // streams
        self._owner = ""
        self._meta: Meta | None = None
        self._rows: int | None = None  # how many are stored; None where a reply is missing

    @property
    def meta(self) -> Meta | None:
        """What is stored, as far as was acknowledged; None before `take_over`."""
        return self._meta

    def look(self) -> Meta:
        """What is stored, without becoming the owner.

        Raises
        ------
        ShardLostError
            There is no meta although there is a specification; or there are fewer rows than it says.
        ModelMismatchError
            The rows belong to another specification.
        StoreUnavailableError
        """
        with self._exclusively():
            stored = self._session.transaction([("HLEN", self._keys.rows), ("HGETALL", self._keys.meta)])
            rows, flat = stored or (0, [])
            meta = self._parsed(flat)
        if rows < meta.least_rows:
            raise self._rows_lost(rows, meta.least_rows)
        if meta.spec_digest != self._spec_digest:
            raise ModelMismatchError(
                f"{self._keys.meta} belongs to another specification ({meta.spec_digest}, ours {self._spec_digest})"
            )
        return meta

    def take_over(self) -> Meta:
        """Become the owner: from here on no other writer's commit can succeed.

        Returns
        -------
        Meta
            What is stored: the offsets at which to go on.

        Raises
        ------
        ShardLostError, ModelMismatchError
            See `look`; the shard was left alone.
        StoreUnavailableError
            Redis did not answer; call again.
        """
        self.look()
        owner = secrets.token_hex(16)
        for _ in range(_ATTEMPTS):
            with self._exclusively():
                _, flat = self._session.calls([("WATCH", self._keys.meta), ("HGETALL", self._keys.meta)])
                meta = self._parsed(flat)
                if self._session.transaction([("HSET", self._keys.meta, "owner", owner)]) is None:
                    continue
            self._owner, self._meta, self._rows = owner, replace(meta, owner=owner), None
            return self._meta
        raise StoreUnavailableError(f"{self._keys.meta} changed under each of {_ATTEMPTS} attempts to take it over")

    def load(self, count: int = CHUNK) -> Iterator[RowBlock]:
        """All rows, in blocks. Call after `take_over`, while nothing is being committed."""
        cursor = 0
        while True:
            with self._exclusively():
                reply = self._session.call("HSCAN", self._keys.rows, cursor, "COUNT", count)
            cursor = int(reply[0])
            yield decode_scan(reply[1], self._row_bytes)
            if cursor == 0:
                return

    def commit(self, cut: Cut, chosen: NDArray[np.int64] | None = None) -> None:
        """Publish a cut: rows, offsets, watermarks and the change entry in one transaction.

        After a `StoreUnavailableError` the outcome is unknown; calling again with the same cut is safe, since a version
        with this cut's nonce proves that it was applied. One that was acknowledged is not sent again.

        Parameters
        ----------
        cut : Cut
        chosen : (m,) int64, optional
            Which of its rows are this shard's; all where not given. What is `gone` must be this shard's alone.

        Raises
        ------
        FencedError
            Another writer owns the shard: drop everything.
        ServerWentBackError
            The stored version is older than what was acknowledged to us: take over and load again.
        ShardLostError
            Meta, or rows beside it, are gone.
        StoreUnavailableError
            No reply, or a server that cannot write now. Retry.
        """
        if self._meta is None:
            raise FencedError(f"{self._keys.meta}: commit before take_over")
        if self._meta.version.nonce == cut.nonce:
            return
        chosen = np.arange(len(cut.rows)) if chosen is None else chosen
        for _ in range(_ATTEMPTS):
            with self._exclusively():
                if self._attempt(cut, chosen, self._meta):
                    return
        raise StoreUnavailableError(f"{self._keys.meta} changed under every one of {_ATTEMPTS} attempts to commit")

    def begin_rewrite(self) -> None:
        """Become the owner of what is left of the shard, which may be nothing, and make room for new rows.

        Raises
        ------
        StoreUnavailableError
            Call again.
        """
        owner = secrets.token_hex(16)
        for _ in range(_ATTEMPTS):
            with self._exclusively():
                _, version = self._session.calls([
                    ("WATCH", self._keys.meta), ("HGET", self._keys.meta, "ver"),
                ])  # fmt: skip
                fields = {"owner": owner} if version else {"owner": owner, "ver": f"0-{secrets.token_hex(8)}"}
                if self._session.transaction([("HSET", self._keys.meta, *_flat(fields))]) is None:
                    continue
                self._session.call("DEL", self._keys.new_rows)
            self._owner = owner
            return
        raise StoreUnavailableError(f"{self._keys.meta} changed under each of {_ATTEMPTS} attempts to take it over")

    def add_rows(self, block: RowBlock, chosen: NDArray[np.int64]) -> None:
        """Write some of the new rows beside the old ones. Raises StoreUnavailableError: begin again."""
        with self._exclusively():
            self._session.calls(self._packer.hset_commands(self._keys.new_rows, block, chosen))

    def end_rewrite(
        self, offsets: Mapping[str, int], origins: Mapping[str, int], watermarks: Watermarks,
        marks: Mapping[str, str], gaps: Mapping[str, int],
    ) -> None:  # fmt: skip
        """Put the new rows in the place of the old ones, with their offsets, in one transaction.

        Readers see a broken chain of commits and read again all that they hold.

        Raises
        ------
        FencedError
            Another writer has taken the shard over since `begin_rewrite`.
        StoreUnavailableError
            Begin again.
        """
        keys = self._keys
        with self._exclusively():
            _, rows, flat = self._session.calls([
                ("WATCH", keys.meta), ("HLEN", keys.new_rows), ("HGETALL", keys.meta),
            ])  # fmt: skip
            stored = self._parsed(flat)
            if stored.owner != self._owner:
                raise FencedError(f"{keys.meta} now belongs to another writer; this one stops without writing")
            reached = max(stored.version.sequence, self._meta.version.sequence if self._meta is not None else 0)
            meta = Meta(
                Version(reached + 1, secrets.token_hex(8)), self._owner, self._spec_digest,
                replace(watermarks, commit_s=time.time()), dict(offsets), {**origins, **stored.origins}, rows,
                dict(marks), {**gaps, **stored.gaps},
            )  # fmt: skip
            moments = meta.watermarks.fields()
            fields = {
                "ver": str(meta.version), "owner": self._owner, "spec": self._spec_digest, "rows": rows,
                **meta.positions(), **moments,
            }  # fmt: skip
            change = {"nonce": meta.version.nonce, "prev": "", "keys": b"", **moments}
            replies = self._session.transaction([
                ("RENAME", keys.new_rows, keys.rows) if rows else ("DEL", keys.rows),
                ("DEL", keys.meta, keys.changes),
                ("HSET", keys.meta, *_flat(fields)),
                ("XADD", keys.changes, meta.version.stream_id, *_flat(change)),
            ])  # fmt: skip
            if replies is None:
                raise StoreUnavailableError(f"{keys.meta} changed while its rows were written anew")
        self._meta, self._rows = meta, rows

    def _attempt(self, cut: Cut, chosen: NDArray[np.int64], mine: Meta) -> bool:
        """One try over one connection; False where meta changed between WATCH and EXEC."""
        # a. look at what is stored, under WATCH; rows are counted before meta is read, so that what the meta of a
        #    commit says is never held against the rows before it
        _, rows, flat = self._session.calls([
            ("WATCH", self._keys.meta), ("HLEN", self._keys.rows), ("HGETALL", self._keys.meta),
        ])  # fmt: skip
        stored = self._parsed(flat)
        # b. another owner: fenced
        self._check_owner(stored, mine)
        # c. this cut's nonce: an earlier EXEC whose reply was lost had been applied
        if stored.version.nonce == cut.nonce:
            self._session.call("UNWATCH")
            self._meta, self._rows = stored, None
            return True
        # d. not what I last wrote: the server went back in time
        self._check_version(stored, mine)
        if rows < mine.least_rows or (self._rows is not None and rows != self._rows):
            raise self._rows_lost(rows, mine.least_rows if self._rows is None else self._rows)
        # e. everything in one transaction
        meta = self._next_meta(cut, len(chosen), stored, rows)
        written, gone = encode_keys(cut.rows.keys[chosen]), encode_keys(cut.gone)
        watermarks = meta.watermarks.fields()
        change = {"nonce": cut.nonce, "prev": stored.version.nonce, "keys": written, **watermarks}
        if gone:
            change["gone"] = gone
        changed = _beyond(stored.positions(), meta.positions())
        fields = {"ver": str(meta.version), "rows": meta.least_rows, **changed, **watermarks}
        entries = max(64, self._stream_bytes // (256 + len(written) + len(gone)))
        xadd = ("XADD", self._keys.changes, "MAXLEN", "~", entries, meta.version.stream_id, *_flat(change))
        drops = list(hdel_commands(self._keys.rows, cut.gone))

        def commands() -> Iterator[Command]:
            yield from drops
            yield from self._packer.hset_commands(self._keys.rows, cut.rows, chosen)
            yield ("HSET", self._keys.meta, *_flat(fields))
            yield xadd

        replies = self._session.transaction(commands())
        if replies is None:
            return False
        added, dropped = sum(replies[len(drops) : -2]), sum(replies[: len(drops)])
        self._meta, self._rows = meta, rows + added - dropped
        return True

    def _check_owner(self, stored: Meta, mine: Meta) -> None:
        if stored.owner == self._owner:
            return
        if stored.version.sequence < mine.version.sequence:
            raise ServerWentBackError(
                f"{self._keys.meta} is at version {stored.version} of an earlier owner, {mine.version} had been "
                "acknowledged: the server lost commits"
            )
        raise FencedError(f"{self._keys.meta} now belongs to another writer; this one stops without writing")

    def _check_version(self, stored: Meta, mine: Meta) -> None:
        if stored.version != mine.version or stored.offsets != mine.offsets:
            raise ServerWentBackError(
                f"{self._keys.meta} is at version {stored.version}, {mine.version} had been acknowledged: "
                "the server lost a commit"
            )

    def _next_meta(self, cut: Cut, written: int, stored: Meta, rows: int) -> Meta:
        """What meta is once the cut is applied to `rows` rows."""
        ahead = {name: max(offset, stored.offsets.get(name, 0)) for name, offset in cut.offsets.items()}
        moments = Watermarks(cut.watermarks.event_s, cut.watermarks.arrival_s, time.time())
        return Meta(
            version=Version(stored.version.sequence + 1, cut.nonce),
            owner=self._owner,
            spec_digest=stored.spec_digest,
            watermarks=moments.joined(stored.watermarks),
            offsets={**stored.offsets, **ahead},
            origins={**cut.origins, **stored.origins},
            least_rows=max(written, rows - len(cut.gone)),
            marks={**stored.marks, **_marks(cut, stored)},
            gaps={**stored.gaps, **_gaps(cut, stored)},
        )

    def _parsed(self, flat: list[bytes]) -> Meta:
        meta = Meta.read(dict(zip(flat[::2], flat[1::2], strict=True)))
        if meta is None:
            raise ShardLostError(
                f"{self._keys.meta} is gone, the specification is there: data was lost; restore Redis from a backup"
            )
        return meta

    def _rows_lost(self, found: int, expected: int) -> ShardLostError:
        return ShardLostError(
            f"{self._keys.rows} has {found} rows where {expected} had been written: data was lost (evicted, or deleted "
            "by hand); restore Redis from a backup"
        )

    @contextlib.contextmanager
    def _exclusively(self) -> Iterator[None]:
        """Over one connection; any error gives it up, and with it every WATCH."""
        with translated():
            try:
                yield
            except BaseException:
                self._session.drop()
                raise

    def close(self) -> None:
        """Give the connection up."""
        self._session.drop()


def _marks(cut: Cut, stored: Meta) -> dict[str, str]:
    """Of the offsets that the cut moves: where one stays, what was said when it got there holds."""
    return {
        name: mark
        for name, mark in cut.marks.items()
        if cut.offsets[name] > stored.offsets.get(name, -1)
        or (cut.offsets[name] == stored.offsets[name] and name not in stored.marks)
    }


def _gaps(cut: Cut, stored: Meta) -> dict[str, int]:
    """Events given up so far, of partitions where reading jumped over what this shard does not have."""
    places = {**cut.origins, **stored.origins, **stored.offsets}
    lost = {
        name: sum(max(0, last - max(first, places.get(name, first))) for first, last in jumps)
        for name, jumps in cut.skipped.items()
    }
    return {name: stored.gaps.get(name, 0) + events for name, events in lost.items() if events > 0}


def _beyond(stored: Mapping[str, int | str], wanted: Mapping[str, int | str]) -> dict[str, int | str]:
    """Entries that are not stored, or otherwise."""
    return {name: value for name, value in wanted.items() if stored.get(name) != value}


def _flat(mapping: Mapping[str, object]) -> list[object]:
    return [part for item in mapping.items() for part in item]
