"""Images of a model's shards go in, the same model comes out in Redis: under another generation, on other shards.

Exactly once goes on: a shard holds the events below its own offsets, so each new shard must take its rows from shards
that have the same events. From S shards to S, or to a multiple of S, a new shard has all its rows from one old shard
(key mod S follows from key mod m S) and takes over its offsets, whatever the others have. To any other number the old
shards must be level, and images are nearly always (see `ctr.store.images`); where they are not, it is refused.

Half a model never looks like one: a shard's meta holds a token from before its first row until all rows are there, and
the specification comes last of all. A restore that died leaves what the next one clears away, by that token.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from ctr.errors import FencedError, ModelMismatchError, SettingError, ShardLostError, SnapshotError
from ctr.rows import RowBlock, shard_of
from ctr.spec import NAME_PATTERN, Spec
from ctr.store.catalog import StoredModel, encoded
from ctr.store.codec import RowPacker
from ctr.store.connection import Client, Session, is_cluster, translated
from ctr.store.images import Image
from ctr.store.keys import ShardKeys, live_key, model_pattern, spec_key
from ctr.store.model_writer import resume
from ctr.store.shard import position_fields

ROWS_PER_S = 100_000
_TOKEN = "restoring"  # noqa: S105  names a field of meta, is no secret
_SET_ANEW = ("ver", "owner", "rows", "spec")
"""Fields of meta that are the new shard's own."""
_PAUSE_S = 0.02
"""Between two shards that are deleted: UNLINK frees beside, but not for nothing."""


def renamed(spec: Spec, model_id: str, shards: int) -> Spec:
    """The same specification under another name, generation and number of shards.

    Raises
    ------
    SettingError
        The name or the generation cannot be one.
    """
    name, _, generation = model_id.partition("@")
    if not re.match(NAME_PATTERN, name) or (generation and not re.match(NAME_PATTERN, generation)):
        raise SettingError("model", model_id, "name or name@generation, each of a-z 0-9 _ - and at most 64 long")
    placed = msgspec.structs.replace(spec.store, shards=shards if spec.store.shards else None)
    return msgspec.structs.replace(spec, name=name, generation=generation or spec.generation, store=placed)


def dealt(images: Sequence[Image], shards: int) -> list[dict[str, str]]:
    """For each new shard what its meta says of events: offsets, origins, watermarks, and all that is kept beside them.

    Raises
    ------
    SnapshotError
        No offsets would be right for so many shards.
    """
    if shards % len(images) == 0:
        return [_kept(images[shard % len(images)]) for shard in range(shards)]
    start = resume([image.meta for image in images])
    if not start.level:
        raise SnapshotError(
            f"its {len(images)} shards are not at one cut, so that they fit {len(images)} shards or a multiple, not "
            f"{shards}: restore to {len(images)}, let a trainer bring them level, and take another snapshot of that"
        )
    joined = {name: value for image in reversed(images) for name, value in _kept(image).items()}
    positions = {name: str(value) for name, value in position_fields(start.stored[0]).items()}
    return [{**joined, **positions, **start.watermarks.fields()}] * shards


def _kept(image: Image) -> dict[str, str]:
    return {name: value for name, value in image.fields.items() if name not in _SET_ANEW}


def restore(
    client: Client, spec: Spec, images: Sequence[Image], *, shards: int, rows_per_s: float = ROWS_PER_S
) -> StoredModel:
    """Write a model that is not there yet; it is served if its name has no live generation.

    Parameters
    ----------
    client : Client
    spec : Spec
        As it is to be stored: see `renamed`.
    images : sequence of Image
    shards : int
    rows_per_s : float
        Pace of writing; 0 for none.

    Raises
    ------
    ModelMismatchError
        The model is there, or the images hold other rows than the specification's.
    SnapshotError
        See `dealt`.
    ShardLostError
        Parts of a model of that name are there, without a specification.
    FencedError
        Somebody else restores, or drops, the same model.
    StoreUnavailableError
        Call again: what was written is cleared away first.
    """
    fields, model_id = dealt(images, shards), spec.model_id
    with translated():
        if client.exists(spec_key(model_id)):
            raise ModelMismatchError(f"{model_id} is there already: name another generation, or drop it first")
        _clear(client, model_id)
    stored = StoredModel(spec, shards, spread=is_cluster(client))
    writer = _Writer(client, stored, rows_per_s)
    try:
        for image in images:
            for block in image.blocks():
                writer.write(block)
        for shard in range(shards):
            writer.finish(shard, fields[shard])
    finally:
        writer.close()
    with translated():
        if not client.set(spec_key(model_id), encoded(stored), nx=True):
            raise FencedError(f"somebody else has made {model_id} meanwhile")
        client.setnx(live_key(spec.name), spec.generation)
    return stored


def _clear(client: Client, model_id: str) -> None:
    """Delete what a restore, or a creation, left that died before it was done."""
    found = sorted(client.scan_iter(match=model_pattern(model_id), count=1000))
    unfinished = {name.rpartition(b":")[0] for name in found if name.endswith(b":meta") and _is_begun(client, name)}
    if strangers := [name.decode() for name in found if name.rpartition(b":")[0] not in unfinished]:
        raise ShardLostError(
            f"{model_id} has no specification but {', '.join(strangers[:3])}{' ...' if len(strangers) > 3 else ''} "
            f"({len(strangers)} keys): ctr models drop {model_id} deletes them; or name another generation"
        )
    for name in sorted(found, key=lambda name: name.endswith(b":meta")):  # the token last: it says what the rest is
        client.unlink(name)
        time.sleep(_PAUSE_S)


def _is_begun(client: Client, meta: bytes) -> bool:
    version: Any = client.hget(meta, "ver")
    return bool(client.hexists(meta, _TOKEN)) or (version or b"").startswith(b"0-")


class _Writer:
    """Rows into shards that nobody else writes to, which the token in each shard's meta makes sure of."""

    def __init__(self, client: Client, stored: StoredModel, rows_per_s: float) -> None:
        self._spec, self._row_bytes, self._keys = stored.spec, stored.row_bytes, stored.keys
        self._sessions = [Session(client, keys.meta) for keys in self._keys]
        self._packer = RowPacker(self._row_bytes)
        self._token, self._rows = secrets.token_hex(8), [0] * stored.shards
        self._rows_per_s, self._began = rows_per_s, time.monotonic()
        with translated():
            for keys, session in zip(self._keys, self._sessions, strict=True):
                session.call("HSET", keys.meta, _TOKEN, self._token, "ver", f"0-{self._token}")

    def write(self, block: RowBlock) -> None:
        """Put rows into their shards."""
        if block.data.shape[1:] != (self._row_bytes,):
            raise ModelMismatchError(f"rows of {block.data.shape[1:]} bytes where the model's have {self._row_bytes}")
        of_row = shard_of(block.keys, len(self._keys))
        for shard in np.unique(of_row).tolist():
            chosen, keys = np.flatnonzero(of_row == shard), self._keys[shard]
            with translated():
                self._check(shard)
                replies = self._sessions[shard].transaction(self._packer.hset_commands(keys.rows, block, chosen))
            if replies is None:
                raise self._fenced(keys)
            self._rows[shard] += sum(replies)
        if self._rows_per_s:
            time.sleep(max(0.0, self._began + sum(self._rows) / self._rows_per_s - time.monotonic()))

    def finish(self, shard: int, fields: dict[str, str]) -> None:
        """Make a shard whole: what its rows are the effect of, and no token any more."""
        keys, session, rows = self._keys[shard], self._sessions[shard], self._rows[shard]
        flat = [part for item in fields.items() for part in item]
        with translated():
            self._check(shard)
            if (found := session.call("HLEN", keys.rows)) != rows:
                raise ShardLostError(f"{keys.rows} has {found} rows where {rows} were written: restore it again")
            replies = session.transaction([
                ("HSET", keys.meta, *flat, "rows", rows, "spec", self._spec.digest),
                ("HDEL", keys.meta, _TOKEN),
            ])  # fmt: skip
        if replies is None:
            raise self._fenced(keys)

    def _check(self, shard: int) -> None:
        keys = self._keys[shard]
        _, token = self._sessions[shard].calls([("WATCH", keys.meta), ("HGET", keys.meta, _TOKEN)])
        if token != self._token.encode():
            raise self._fenced(keys)

    @staticmethod
    def _fenced(keys: ShardKeys) -> FencedError:
        return FencedError(f"{keys.meta} was taken by another restore, or dropped: this one stops")

    def close(self) -> None:
        """Give the connections up, and with them every WATCH."""
        for session in self._sessions:
            session.drop()
