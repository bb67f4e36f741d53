"""Ads a bidder may show <-> Redis: id -> features as JSON, and a stream of what changed, followed like rows.

Three keys a catalogue, in one slot: ``ctr:{name}:ads`` (hash: id -> JSON object of feature values), ``:ads:meta``
(hash: ``ver``, as a shard's) and ``:ads:changes`` (stream: one entry a write, with its nonce and the one before it). A
catalogue belongs to no generation: what an ad is does not change when a model is retrained.

Unlike a model a catalogue has any number of writers: each write is one transaction under a WATCH of meta, and to repeat
one changes nothing. Readers do as `ctr.store.reader` does: a link that is missing means that everything is read again.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import msgspec

from ctr.errors import SettingError, ShardLostError, StoreUnavailableError
from ctr.store.connection import Client, Command, Session, translated
from ctr.store.shard import Version

MAX_ID_BYTES = 256
MAX_AD_BYTES = 16 << 10
CHUNK = 1000
"""Ads a transaction, and a reply: how long Redis is kept from others."""
_STREAM_ENTRIES = 1000
"""Entries kept at least: a reader that is further behind reads everything again."""
_ENTRIES = 100
_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class AdKeys:
    """The keys of a catalogue."""

    name: str

    @property
    def ads(self) -> str:
        """Hash: id -> features."""
        return f"ctr:{{{self.name}}}:ads"

    @property
    def meta(self) -> str:
        """Hash: version. The only key ever watched; every write writes it."""
        return f"{self.ads}:meta"

    @property
    def changes(self) -> str:
        """Stream: one entry a write."""
        return f"{self.ads}:changes"


def put(client: Client, catalogue: str, ads: Iterable[tuple[str, bytes]]) -> int:
    """Add ads, or put them in the place of those with their ids; returns how many were given.

    Parameters
    ----------
    client : Client
    catalogue : str
    ads : iterable of (str, bytes)
        Id, and a JSON object of feature values. `CHUNK` of them become visible at once.

    Raises
    ------
    SettingError
        An id or an ad that is too long; those before it may have been written.
    StoreUnavailableError
        Some may have been written: call again.
    """
    given, ads = 0, iter(ads)
    with contextlib.closing(_Writer(client, catalogue)) as writer:
        while chunk := dict(islice(ads, CHUNK)):
            for identity, features in chunk.items():
                check(identity, features)
            writer.write(chunk, ())
            given += len(chunk)
    return given


def remove(client: Client, catalogue: str, ids: Iterable[str]) -> int:
    """Take ads out; returns how many there were.

    Raises
    ------
    StoreUnavailableError
        Some may have been taken out: call again.
    """
    gone, ids = 0, iter(ids)
    with contextlib.closing(_Writer(client, catalogue)) as writer:
        while chunk := list(islice(ids, CHUNK)):
            gone += writer.write({}, chunk)
    return gone


def check(identity: str, features: bytes) -> None:
    """Refuse what does not fit.

    Raises
    ------
    SettingError
    """
    if not identity or len(identity.encode()) > MAX_ID_BYTES:
        raise SettingError("id", identity[:80], f"text of 1 to {MAX_ID_BYTES} bytes")
    if len(features) > MAX_AD_BYTES:
        raise SettingError(f"ad {identity[:80]}", f"{len(features)} bytes", f"at most {MAX_AD_BYTES}")


class _Writer:
    """One transaction a write, over one connection."""

    def __init__(self, client: Client, catalogue: str) -> None:
        self._keys, self._session = AdKeys(catalogue), Session(client, AdKeys(catalogue).meta)

    def write(self, ads: Mapping[str, bytes], gone: Sequence[str]) -> int:
        """Put ads and take others out; returns how many of those there were."""
        nonce, keys = secrets.token_hex(8), self._keys
        with translated():
            for _ in range(_ATTEMPTS):
                _, raw = self._session.calls([("WATCH", keys.meta), ("HGET", keys.meta, "ver")])
                before = Version.read(raw) if raw is not None else Version(0, "")
                version = Version(before.sequence + 1, nonce)
                commands: list[Command] = [
                    ("HSET", keys.meta, "ver", str(version)),
                    (
                        "XADD", keys.changes, "MAXLEN", "~", _STREAM_ENTRIES, version.stream_id, "nonce", nonce,
                        "prev", before.nonce, "ids", encode_ids(ads), "gone", encode_ids(gone),
                    ),
                ]  # fmt: skip
                if ads:
                    commands.append(("HSET", keys.ads, *chain.from_iterable(ads.items())))
                if gone:
                    commands.append(("HDEL", keys.ads, *gone))
                replies = self._session.transaction(commands)
                if replies is not None:
                    return int(replies[-1]) if gone else 0
        raise StoreUnavailableError(f"{keys.meta} changed under every one of {_ATTEMPTS} attempts to write")

    def close(self) -> None:
        self._session.drop()


def encode_ids(ids: Iterable[str]) -> bytes:
    """Ids as a change entry holds them: a JSON list."""
    return msgspec.json.encode(list(ids))


@dataclass(frozen=True, slots=True)
class AdChanges:
    """What happened since the last look.

    Attributes
    ----------
    written, gone : set of str
        Ids put, and taken out and not put again since.
    broken : bool
        The chain of writes could not be followed: anything may have changed.
    version : Version
    """

    written: set[str]
    gone: set[str]
    broken: bool
    version: Version


class AdReader:
    """Reads a catalogue and follows what changes. One that was never made is empty.

    Parameters
    ----------
    client : Client
    catalogue : str
    """

    def __init__(self, client: Client, catalogue: str) -> None:
        self._client, self._keys = client, AdKeys(catalogue)
        self._seen: Version | None = None

    def fetch(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Ads of these ids, as many as exist.

        Raises
        ------
        StoreUnavailableError
        """
        found: dict[str, bytes] = {}
        for begin in range(0, len(ids), CHUNK):
            part = list(ids[begin : begin + CHUNK])
            with translated():
                values: Any = self._client.hmget(self._keys.ads, part)
            found.update((identity, raw) for identity, raw in zip(part, values, strict=True) if raw is not None)
        return found

    def scan(self) -> Iterator[dict[str, bytes]]:
        """All ads, in blocks; one that is there all the while is among them.

        Raises
        ------
        StoreUnavailableError
        """
        cursor = 0
        while True:
            with translated():
                reply: Any = self._client.hscan(self._keys.ads, cursor, count=CHUNK)
            cursor, held = reply
            yield {identity.decode(): raw for identity, raw in held.items()}
            if cursor == 0:
                return

    def poll(self) -> AdChanges | None:
        """What changed since the last call; None where nothing did. The first call says `broken`: read everything.

        Raises
        ------
        ShardLostError
            The catalogue was there and is gone: an emptied server.
        StoreUnavailableError
        """
        with translated():
            found: Any = self._client.hmget(self._keys.meta, ["ver"])
        (raw,) = found
        seen = self._seen
        if raw is None:
            if seen is not None and seen.sequence > 0:
                raise ShardLostError(f"{self._keys.meta} is gone: an emptied server; ctr catalogue puts the ads again")
            version = Version(0, "")
        else:
            version = Version.read(raw)
        if version == seen:
            return None
        if seen is None:
            return self._all(version)
        with translated():
            entries: Any = self._client.xrange(self._keys.changes, f"({seen.stream_id}", "+", count=_ENTRIES)
        written: set[str] = set()
        gone: set[str] = set()
        reached = seen
        for identity, entry in entries:
            if entry[b"prev"].decode() != reached.nonce:
                return self._all(version)
            reached = Version(int(identity.partition(b"-")[0]), entry[b"nonce"].decode())
            put_now, gone_now = (set(msgspec.json.decode(entry[name], type=list[str])) for name in (b"ids", b"gone"))
            written, gone = (written - gone_now) | put_now, (gone | gone_now) - put_now
        behind = len(entries) < _ENTRIES and reached.sequence < version.sequence
        if not entries or behind or (reached.sequence == version.sequence and reached != version):
            return self._all(version)
        self._seen = reached
        return AdChanges(written, gone, broken=False, version=reached)

    def forget(self) -> None:
        """Let the next `poll` say that everything must be read."""
        self._seen = None

    def _all(self, version: Version) -> AdChanges:
        """Follow from here on; everything must be read again."""
        self._seen = version
        return AdChanges(set(), set(), broken=True, version=version)
