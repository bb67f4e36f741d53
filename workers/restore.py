"""`ctr restore`, `ctr rollback`, `ctr live`: a snapshot goes in, a model that is served or trained on comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from ctr.store import Client, archive, connect, read_model, restoring, upkeep
from ctr.store.archive import Snapshot
from workers.lifecycle import ExitCode


@dataclass(frozen=True, slots=True)
class RestoreSettings:
    """What `ctr restore` and `ctr rollback` are told."""

    url: str
    model: str
    redis: str = field(repr=False)  # may hold a password
    shards: int | None = None
    generation: str | None = None
    live: bool = False
    rows_per_s: float = restoring.ROWS_PER_S


def restore(settings: RestoreSettings, say: Callable[[str], object]) -> ExitCode:
    """Write a snapshot's model into Redis; a trainer goes on from its positions.

    Raises
    ------
    SnapshotError
        There is none, it is damaged, or does not fit so many shards. Nothing was written.
    ModelMismatchError
        The model is there already.
    ShardLostError, FencedError, StoreUnavailableError
        See `ctr.store.restoring.restore`.
    """
    name, _, generation = settings.model.partition("@")
    snapshot = _newest(settings.url, settings.model, name)
    with connect(settings.redis) as client:
        model_id = _write(client, snapshot, f"{name}@{generation or snapshot.spec.generation}", settings, say)
        if settings.live:
            upkeep.set_live(client, model_id)
        served = read_model(client, name).spec.model_id
    say(f"served as {name}: {served}" + ("" if served == model_id else f"; ctr live {model_id} changes that"))
    return ExitCode.OK


def _newest(url: str, model: str, name: str) -> Snapshot:
    """Of exactly this generation, or else of any."""
    exact = model if archive.stored(url, model) else name
    return archive.find(url, exact)


def _write(
    client: Client, snapshot: Snapshot, model_id: str, settings: RestoreSettings, say: Callable[[str], object]
) -> str:
    manifest = snapshot.manifest
    shards = settings.shards or len(manifest.files)
    spec = restoring.renamed(snapshot.spec, model_id, shards)
    say(f"{snapshot.place.url}: {manifest.model} of {manifest.created}, {manifest.rows:,} rows; checking")
    restoring.dealt(snapshot.images, shards)  # before an hour of reading: do they fit?
    snapshot.check()
    restoring.restore(client, spec, snapshot.images, shards=shards, rows_per_s=settings.rows_per_s)
    say(f"restored {model_id} in {shards} shards: a trainer goes on from its positions")
    return model_id


def rollback(settings: RestoreSettings, say: Callable[[str], object]) -> ExitCode:
    """Write a snapshot as a new generation and serve it from then on, in one step.

    Raises what `restore` does.
    """
    name, _, generation = settings.model.partition("@")
    with connect(settings.redis) as client:
        live = read_model(client, settings.model).spec
        snapshot = archive.find(settings.url, f"{name}@{generation or live.generation}")
        taken = datetime.fromisoformat(snapshot.manifest.created)
        target = settings.generation or f"{snapshot.spec.generation[:40]}-{taken:%Y%m%dt%H%M%S}"
        model_id = _write(client, snapshot, f"{name}@{target}", settings, say)
        before = upkeep.set_live(client, model_id)
    say(
        f"served as {name}: {model_id}, before it {name}@{before}. A trainer of that goes on with that; to learn on "
        f'from here, stop it and start one whose specification says generation = "{target}"'
    )
    return ExitCode.OK


def live(redis: str, model_id: str, say: Callable[[str], object]) -> ExitCode:
    """Switch what is served.

    Raises
    ------
    ModelMissingError, ShardLostError, StoreUnavailableError
    """
    with connect(redis) as client:
        before = upkeep.set_live(client, model_id)
    name = model_id.partition("@")[0]
    say(f"served as {name}: {model_id}" + (f", before it {name}@{before}" if before else ""))
    return ExitCode.OK
