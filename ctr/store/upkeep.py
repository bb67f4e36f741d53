"""Whole models in Redis: which there are and what they are like, dropped, cloned, and which generation is served."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ctr.errors import CtrError, FencedError, ModelMismatchError, ModelMissingError, ShardLostError
from ctr.store.catalog import StoredModel, read_model
from ctr.store.connection import Client, Session, translated
from ctr.store.images import gather
from ctr.store.keys import ShardKeys, guard_key, lease_key, live_key, model_pattern, spec_key
from ctr.store.model_writer import resume
from ctr.store.names import names_key
from ctr.store.restoring import renamed, restore
from ctr.store.shard import Meta

HELD_S = 10.0
"""A trainer commits at least once a second: one that has not for so long is not there."""
_PAUSE_S = 0.05
"""Between two hashes that are deleted: UNLINK frees them beside the server's work, but one after the other."""


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """One shard: rows, version, offsets, memory in bytes (0 where Redis does not tell), events given up."""

    shard: int
    rows: int
    version: str
    commit_s: float
    offsets: dict[str, int]
    memory_bytes: int
    gaps: dict[str, int]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the store says of a model.

    Attributes
    ----------
    model_id : str
    live : bool
        Whether its generation is the one that is served.
    held : bool
        Whether a trainer seems to be at it: a lease, or a commit within `HELD_S`.
    commit_age_s, arrival_age_s : float
        Since the last commit of the shard that is furthest behind, and since the arrival of the newest event for which
        all earlier ones are learned; infinite before the first commit.
    level : bool
        Whether all shards have the same events.
    damage : str
        What is wrong with it; empty where nothing is.
    """

    model_id: str
    live: bool
    held: bool
    type: str
    fields: int
    k: int
    digest: str
    commit_age_s: float
    arrival_age_s: float
    level: bool
    damage: str
    shards: tuple[ShardFacts, ...]

    @property
    def rows(self) -> int:
        """Of all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def memory_bytes(self) -> int:
        """Of all shards, sampled by Redis."""
        return sum(shard.memory_bytes for shard in self.shards)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "rows": self.rows, "memory_bytes": self.memory_bytes}


def model_ids(client: Client) -> list[str]:
    """All models that have a specification, sorted."""
    head, tail = spec_key("|").encode().split(b"|")
    with translated():
        found = list(client.scan_iter(match=spec_key("*"), count=1000))
    names = (name.removeprefix(head).removesuffix(tail).decode() for name in found)
    return sorted(name for name in names if "@" in name)


def inspect(client: Client, model: str, *, memory: bool = True) -> ModelFacts:
    """Facts of one model; what is damaged is said, not raised.

    Raises
    ------
    ModelMissingError, ModelMismatchError, StoreUnavailableError
    """
    stored = read_model(client, model)
    spec, metas, shards, damage = stored.spec, [], [], ""
    for shard, keys in enumerate(stored.keys):
        with translated():
            fields: Any = client.hgetall(keys.meta)
            rows: Any = client.hlen(keys.rows)
        meta = Meta.read(fields)
        if meta is None or rows < meta.least_rows:
            damage = damage or f"shard {shard} has lost " + ("its meta" if meta is None else "rows")
            continue
        used = _memory(client, keys) if memory else 0
        metas.append(meta)
        shards.append(ShardFacts(
            shard, rows, str(meta.version), meta.watermarks.commit_s, meta.offsets, used, meta.gaps
        ))  # fmt: skip
    level = False
    if not damage:
        try:
            level = resume(metas).level
        except ShardLostError as error:
            damage = str(error)
    now = server_time_s(client)
    commit_s = min((meta.watermarks.commit_s for meta in metas), default=0.0)
    arrival_s = min((meta.watermarks.arrival_s for meta in metas), default=0.0)
    return ModelFacts(
        spec.model_id, _live(client, spec.name) == spec.generation, _is_held(client, stored), spec.model.type,
        len(spec.fields), spec.model.k, spec.digest, now - commit_s if commit_s else float("inf"),
        now - arrival_s if arrival_s else float("inf"), level, damage, tuple(shards),
    )  # fmt: skip


def server_time_s(client: Client) -> float:
    """Redis's own clock, seconds since 1970."""
    with translated():
        moment: Any = client.time()
    return float(moment[0] + moment[1] * 1e-6)


def _memory(client: Client, keys: ShardKeys) -> int:
    try:
        with translated():
            parts: list[Any] = [client.memory_usage(name, samples=50) for name in (keys.rows, keys.meta, keys.changes)]
    except CtrError:  # MEMORY may be forbidden
        return 0
    return sum(part or 0 for part in parts)


def _live(client: Client, name: str) -> str:
    with translated():
        live: Any = client.get(live_key(name))
    return "" if live is None else live.decode()


def _is_held(client: Client, stored: StoredModel) -> bool:
    """Whether a lease is there, or a commit younger than `HELD_S` by an owner."""
    with translated():
        if client.exists(lease_key(stored.spec.model_id)):
            return True
        found: Any = client.hmget(stored.keys[0].meta, ["owner", "commit_s"])
    owner, commit_s = found
    return owner is not None and server_time_s(client) - float(commit_s or 0) < HELD_S


def set_live(client: Client, model_id: str) -> str:
    """Let a generation be served from now on; returns the one that was, empty where none was.

    One SET: a scorer sees the one or the other.

    Raises
    ------
    ModelMissingError, ModelMismatchError
        There is no such generation, or this version cannot read it.
    ShardLostError
        A shard of it is gone: what is served now is better.
    """
    name, _, generation = model_id.partition("@")
    if not generation:
        raise ModelMissingError(f"{model_id}: say which generation, as {name}@GENERATION")
    stored = read_model(client, model_id)
    with translated():
        for shard, keys in enumerate(stored.keys):
            if not client.exists(keys.meta):
                raise ShardLostError(f"{model_id}: shard {shard} has no meta; restore it, or serve another generation")
        before: Any = client.set(live_key(name), generation, get=True)
    return "" if before is None else before.decode()


def drop(client: Client, model_id: str, *, force: bool = False, deleted: Callable[[str], Any] = str) -> int:
    """Delete all that a model has in Redis, or what is left of one; returns the number of keys.

    The specification first, then each shard's meta: from there on no commit of a forgotten trainer can succeed. Then
    rows, streams and names, one UNLINK at a time.

    Parameters
    ----------
    client : Client
    model_id : str
        ``name@generation``.
    force : bool
        Although a trainer holds it, or it is served.
    deleted : callable
        Told of each key.

    Raises
    ------
    ModelMissingError
        Nothing of that name is there.
    FencedError
        A trainer holds it.
    ModelMismatchError
        It is the one that is served.
    """
    name, _, generation = model_id.partition("@")
    if not generation:
        raise ModelMissingError(f"{model_id}: say which generation, as {name}@GENERATION")
    served = _live(client, name) == generation
    with translated():
        whole = bool(client.exists(spec_key(model_id)))
    shards = _refuse_to_drop(client, model_id, served=served, force=force) if whole else ()
    known = [key for keys in shards for key in (keys.meta, keys.rows, keys.changes)]
    with translated():
        # what no specification speaks of: half a restore, a shard that was being rewritten, the lease
        found = {key.decode() for key in client.scan_iter(match=model_pattern(model_id), count=1000)}
        beside = [names_key(model_id), guard_key(model_id), lease_key(model_id)]
        keys = [spec_key(model_id), *known, *sorted(found - {*known}, key=_meta_first), *beside]
        keys.sort(key=_meta_first)
        count = 0
        for key in keys:
            if client.unlink(key):
                count += 1
                deleted(key)
                if not key.endswith((":meta", ":spec")):
                    time.sleep(_PAUSE_S)
        if served:
            _forget_live(client, name, generation)
    if not count:
        raise ModelMissingError(f"the store holds nothing of {model_id}: ctr models list shows what there is")
    return count


def _refuse_to_drop(client: Client, model_id: str, *, served: bool, force: bool) -> tuple[ShardKeys, ...]:
    """Shards of a model that may be dropped."""
    stored = read_model(client, model_id)
    if not force and _is_held(client, stored):
        raise FencedError(f"a trainer holds {model_id}: stop it and wait {HELD_S:.0f} s, or pass --force")
    if not force and served:
        raise ModelMismatchError(
            f"{model_id} is what is served as {stored.spec.name}: ctr live {stored.spec.name}@OTHER first, or --force"
        )
    return stored.keys


def _meta_first(key: str) -> int:
    return 0 if key.endswith(":spec") else 1 if key.endswith(":meta") else 2


def _forget_live(client: Client, name: str, generation: str) -> None:
    """No generation is served any more, unless another one has been chosen meanwhile."""
    session = Session(client, live_key(name))
    try:
        _, live = session.calls([("WATCH", live_key(name)), ("GET", live_key(name))])
        if live == generation.encode():
            session.transaction([("UNLINK", live_key(name))])
    finally:
        session.drop()


def clone(client: Client, source: str, target: str, *, shards: int | None = None, rows_per_s: float) -> StoredModel:
    """Copy a model, also one that is being trained, to a new name or generation; its positions are copied too.

    Raises
    ------
    ModelMissingError, ModelMismatchError, SnapshotError, StoreUnavailableError
        See `ctr.store.images.gather` and `ctr.store.restoring.restore`.
    """
    stored = read_model(client, source)
    spec = renamed(stored.spec, target, shards or stored.shards)
    if spec.model_id == stored.spec.model_id:
        raise ModelMismatchError(f"{target} is the model itself: name another generation")
    with gather(client, stored, rows_per_s=rows_per_s) as images:
        return restore(client, spec, images, shards=shards or stored.shards, rows_per_s=rows_per_s)
