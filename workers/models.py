"""`ctr models`: what the store holds of each model, as tables or JSON; models dropped, or copied."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import msgspec
import tomlkit
from rich.console import Console
from rich.table import Table

from ctr.errors import CtrError
from ctr.spec import encode
from ctr.store import connect, read_model, upkeep
from workers.lifecycle import ExitCode

Say = Callable[[str], object]


def show_all(redis: str, say: Say, *, as_json: bool = False) -> ExitCode:
    """One line a model; a damaged one is marked, one that cannot be read says why."""
    table = Table(box=None)
    for column in ("model", "", "type", "fields", "k"):
        table.add_column(column)
    for column in ("shards", "rows", "MB", "committed", "newest event"):
        table.add_column(column, justify="right")
    found = []
    with connect(redis) as client:
        for model_id in upkeep.model_ids(client):
            try:
                facts = upkeep.inspect(client, model_id)
            except CtrError as error:
                found.append({"model_id": model_id, "damage": str(error)})
                table.add_row(model_id, str(error))
                continue
            found.append(facts.plain())
            marks = [word for word, true in (("live", facts.live), ("trained", facts.held)) if true]
            table.add_row(
                model_id, ", ".join([*marks, *([facts.damage] if facts.damage else [])]), facts.type,
                str(facts.fields), str(facts.k), str(len(facts.shards)), f"{facts.rows:,}",
                f"{facts.memory_bytes / 1e6:,.1f}", ago(facts.commit_age_s), ago(facts.arrival_age_s),
            )  # fmt: skip
    say(msgspec.json.encode(found).decode() if as_json else _text(table) if found else "the store holds no model")
    return ExitCode.OK


def inspect(redis: str, model: str, say: Say, *, as_json: bool = False, spec: bool = False) -> ExitCode:
    """All that is known of one model; its specification alone, as TOML to train on with, where `spec` says so.

    Raises
    ------
    ModelMissingError, ModelMismatchError, StoreUnavailableError
    """
    with connect(redis) as client:
        stored = read_model(client, model)
        if spec:
            say(tomlkit.dumps(_without_nulls(encode(stored.spec))))
            return ExitCode.OK
        facts = upkeep.inspect(client, model)
    if as_json:
        say(msgspec.json.encode({**facts.plain(), "spec": encode(stored.spec)}).decode())
        return ExitCode.MODEL if facts.damage else ExitCode.OK
    say(f"{facts.model_id}: {facts.type}, {facts.fields} fields, k = {facts.k}, digest {facts.digest}")
    say(f"{'served' if facts.live else 'not served'}, {'held by a trainer' if facts.held else 'no trainer'}, "
        f"committed {ago(facts.commit_age_s)}, all learned that arrived {ago(facts.arrival_age_s)}")  # fmt: skip
    say(f"{facts.rows:,} rows, {facts.memory_bytes / 1e6:,.1f} MB of Redis, {len(facts.shards)} shards"
        f"{'' if facts.level or facts.damage else ', which are not level: a commit is under way, or a trainer died in one'}")  # fmt: skip # noqa: E501  one sentence
    if facts.damage:
        say(f"DAMAGED: {facts.damage}; ctr restore URL {facts.model_id}@NEW brings a snapshot back")
    table = Table(box=None)
    table.add_column("shard", justify="right")
    table.add_column("rows", justify="right")
    table.add_column("MB", justify="right")
    table.add_column("version")
    table.add_column("next offsets")
    for shard in facts.shards:
        offsets = ", ".join(f"{name} {offset}" for name, offset in sorted(shard.offsets.items())[:4])
        more = f" and {len(shard.offsets) - 4} more" if len(shard.offsets) > 4 else ""
        table.add_row(str(shard.shard), f"{shard.rows:,}", f"{shard.memory_bytes / 1e6:,.2f}", shard.version,
                      offsets + more)  # fmt: skip
    say(_text(table))
    return ExitCode.MODEL if facts.damage else ExitCode.OK


def drop(redis: str, model_id: str, say: Say, *, force: bool) -> ExitCode:
    """Delete a model.

    Raises
    ------
    ModelMissingError, ModelMismatchError, FencedError, StoreUnavailableError
    """
    with connect(redis) as client:
        count = upkeep.drop(client, model_id, force=force)
    say(f"dropped {model_id}: {count} keys")
    return ExitCode.OK


def clone(redis: str, source: str, target: str, say: Say, *, shards: int | None, rows_per_s: float) -> ExitCode:
    """Copy a model.

    Raises
    ------
    ModelMissingError, ModelMismatchError, SnapshotError, StoreUnavailableError
    """
    with connect(redis) as client:
        made = upkeep.clone(client, source, target, shards=shards, rows_per_s=rows_per_s)
        rows = upkeep.inspect(client, made.spec.model_id, memory=False).rows
    say(f"{made.spec.model_id}: {rows:,} rows in {made.shards} shards, as {source} was")
    return ExitCode.OK


def ago(seconds: float) -> str:
    """A time that has passed, to two digits or so.

    >>> ago(0.3), ago(59), ago(5400), ago(200_000), ago(float("inf"))
    ('0.3 s ago', '59 s ago', '1.5 h ago', '2.3 d ago', 'never')
    """
    if not math.isfinite(seconds):
        return "never"
    for unit, length in (("d", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit} ago"
    return f"{seconds:.1f} s ago" if seconds < 10 else f"{seconds:.0f} s ago"


def _text(table: Table) -> str:
    out = io.StringIO()
    Console(file=out, width=140, highlight=False, markup=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())


def _without_nulls(value: Any) -> Any:
    """TOML has no null: what is not given is left out."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(inner) for inner in value]
    return value
