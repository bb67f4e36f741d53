"""Commands about what the store holds: explain, catalogue, snapshot, restore, rollback, guard, live, doctor, models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from workers.cli.options import (
    Finite,
    command,
    examples,
    group,
    isa_option,
    json_option,
    kafka_config_option,
    redis_option,
    shards_option,
    write_pace_option,
)


@command(
    "  ctr explain ads '{\"user\": 7, \"ad\": \"a1\"}'\n"
    "  ctr explain ads@2 events.jsonl --line 3 --json\n"
)  # fmt: skip
@click.argument("model")
@click.argument("event")
@redis_option
@isa_option
@click.option("--line", type=click.IntRange(min=1), default=1, show_default=True, help="Of a file: which one.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, all of it, instead of a picture.")
@click.option("--most", type=click.IntRange(min=1), default=20, show_default=True, help="Features and pairs to show.")
def explain(model: str, event: str, redis: str, line: int, as_json: bool, most: int) -> None:
    """Show what each feature and each pair of features adds to the prediction of MODEL for one EVENT.

    EVENT is a JSON object, or a file (- for standard input) with events as the model learns them.
    """
    from workers.explain import explain as run  # noqa: PLC0415  as above

    sys.exit(run(redis, model, event, line, as_json=as_json, most=most, echo=click.echo))


@group(
    "  ctr catalogue put ads ads.jsonl\n"
    "  zcat ads.jsonl.gz | ctr catalogue put ads -\n"
    "  ctr catalogue list ads > ads.jsonl\n"
    "  ctr catalogue remove ads a17 a18\n"
)  # fmt: skip
def catalogue() -> None:
    """Keep the ads that a ranking request may name by id: id -> features, followed by scorers within a blink.

    A catalogue has a name; scorers of a model use that of the model's name. A line is a JSON object, for example
    {"id": "a17", "features": {"ad": 17, "advertiser": "x", "size": "300x250"}}.
    """


@catalogue.command("put")
@click.argument("name")
@click.argument("path", type=click.Path(path_type=Path, allow_dash=True, exists=True, dir_okay=False))
@redis_option
def catalogue_put(name: str, path: Path, redis: str) -> None:
    """Add the ads of PATH (- for standard input), or put them in the place of those with their ids."""
    from workers import catalogue as worker  # noqa: PLC0415  as above

    sys.exit(worker.put(redis, name, path, click.echo))


@catalogue.command("list")
@click.argument("name")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@redis_option
def catalogue_list(name: str, ids: tuple[str, ...], redis: str) -> None:
    """Write all ads, or those of the IDs, as `put` takes them."""
    from workers import catalogue as worker  # noqa: PLC0415  as above

    sys.exit(worker.show(redis, name, ids, click.echo))


@catalogue.command("remove")
@click.argument("name")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--from", "path", type=click.Path(path_type=Path, allow_dash=True, exists=True, dir_okay=False),
              help="File of lines as `put` takes them, or of ids alone.")  # fmt: skip
@redis_option
def catalogue_remove(name: str, ids: tuple[str, ...], path: Path | None, redis: str) -> None:
    """Take ads out."""
    from workers import catalogue as worker  # noqa: PLC0415  as above

    sys.exit(worker.remove(redis, name, ids, path, click.echo))


@command(
    "  ctr snapshot ads /backups\n"
    "  ctr snapshot ads@2 s3://bucket/models --keep 24\n"
    "  ctr snapshot ads /backups --list\n"
)  # fmt: skip
@click.argument("model")
@click.argument("url")
@redis_option
@click.option("--keep", type=click.IntRange(min=0), default=0, show_default=True,
              help="Delete all but so many of the newest afterwards; 0: none.")  # fmt: skip
@click.option("--rows-per-s", type=Finite(min=0), default=50_000.0, show_default=True,
              help="Pace of reading, so that Redis has time for others; 0: none.")  # fmt: skip
@click.option("--scratch", type=click.Path(path_type=Path), help="Directory with room for the model's rows; the "
              "system's place for temporary files where not given.")  # fmt: skip
@click.option("--level-within", "level_within_s", type=Finite(min=0), default=30.0, show_default=True,
              help="Seconds to wait at most until all shards are at one cut.")  # fmt: skip
@click.option("--nice", type=click.IntRange(0, 19), default=0, show_default=True, help="Give way to other processes.")
@click.option("--list", "only_list", is_flag=True, help="Take none: show those that are there.")
def snapshot(model: str, url: str, only_list: bool, **options: Any) -> None:
    """Write MODEL as files below URL while it is trained: rows, positions, specification, checksums."""
    from workers import snapshot as worker  # noqa: PLC0415  as above

    if only_list:
        sys.exit(worker.listed(url, model, click.echo))
    sys.exit(worker.take(worker.SnapshotSettings(model=model, url=url, **options), click.echo))


@command(
    "  ctr restore /backups ads                    # the newest one, into an empty Redis\n"
    "  ctr restore s3://bucket/models ads@2 --shards 16 --live\n"
    "  ctr restore /backups/ads@1/20261121T153000.123Z-5f0c ads@before\n"
)  # fmt: skip
@click.argument("url")
@click.argument("model")
@redis_option
@shards_option
@click.option("--live", is_flag=True, help="Serve it from then on; what is served under a new name is served anyhow.")
@write_pace_option
def restore(url: str, model: str, **options: Any) -> None:
    """Write the snapshot at URL, or the newest of MODEL below it, into Redis as MODEL (NAME or NAME@GENERATION).

    A trainer of it goes on from the snapshot's positions, each event once. A damaged snapshot is refused.
    """
    from workers import restore as worker  # noqa: PLC0415  as above

    sys.exit(worker.restore(worker.RestoreSettings(url=url, model=model, **options), click.echo))


@command(
    "  ctr rollback ads /backups\n"
    "  ctr rollback ads /backups/ads@1/20261121T153000.123Z-5f0c --generation good\n"
)  # fmt: skip
@click.argument("model")
@click.argument("url")
@redis_option
@click.option("--generation", help="Name of the generation that is made; its own and the time where not given.")
@shards_option
@write_pace_option
def rollback(model: str, url: str, **options: Any) -> None:
    """Serve MODEL as it was in the snapshot at URL, or the newest below it: as a new generation, in one switch."""
    from workers import restore as worker  # noqa: PLC0415  as above

    sys.exit(worker.rollback(worker.RestoreSettings(url=url, model=model, **options), click.echo))


@command(
    "  ctr guard ads\n"
    "  ctr guard ads resume\n"
    "  ctr guard ads discard --to clicks:0=812345\n"
)  # fmt: skip
@click.argument("model")
@click.argument("action", type=click.Choice(["show", "resume", "discard"]), default="show")
@redis_option
@click.option("--to", multiple=True, metavar="PARTITION=OFFSET", help="discard: go on from here instead of behind the "
              "last event that was learned; may be given several times.")  # fmt: skip
@json_option
def guard(model: str, action: str, redis: str, to: tuple[str, ...], as_json: bool) -> None:
    """Look at what keeps a cut of MODEL from being published; answer where one is held back.

    resume: publish it, and judge later ones by what comes now. discard: forget it and leave its events out for good;
    `show` keeps which they were.
    """
    from workers import guard as worker  # noqa: PLC0415  as above

    if to and action != "discard":
        raise click.UsageError("--to is for discard")
    if action == "show":
        sys.exit(worker.show(redis, model, click.echo, as_json=as_json))
    sys.exit(worker.decide(redis, model, action, click.echo, to=to))


@command("  ctr live ads@2\n")
@click.argument("model")
@redis_option
def live(model: str, redis: str) -> None:
    """Serve generation MODEL (NAME@GENERATION) under its name from now on."""
    from workers import restore as worker  # noqa: PLC0415  as above

    sys.exit(worker.live(redis, model, click.echo))


@command(
    "  ctr doctor --kafka 127.0.0.1:9092 --topic ads --snapshots /backups\n"
    "  ctr doctor --plan --events-per-s 20000 --features 5000000 --fields 39 --k 4\n"
)  # fmt: skip
@redis_option
@click.option("--kafka", envvar="CTR_KAFKA", metavar="HOST:PORT[,...]", show_envvar=True, help="Look at it too.")
@click.option("--topic", envvar="CTR_TOPIC", show_envvar=True, help="Of that Kafka.")
@kafka_config_option
@click.option("--snapshots", metavar="URL", envvar="CTR_SNAPSHOTS", show_envvar=True, help="Whether it can be written.")
@json_option
@click.option("--plan", "only_plan", is_flag=True, help="Look at nothing: work out what a stream will take.")
@click.option("--events-per-s", type=Finite(min=0, min_open=True), default=10_000.0, show_default=True)
@click.option("--features", type=click.IntRange(1, 2**31), default=1 << 20, show_default=True,
              help="Distinct ones that the model holds.")  # fmt: skip
@click.option("--fields", type=click.IntRange(1, 64), default=39, show_default=True)
@click.option("--k", type=click.IntRange(1, 32), default=4, show_default=True, help="Latent factors.")
@click.option("--type", type=click.Choice(["lr", "fm", "ffm", "fwfm", "fefm"]), default="ffm", show_default=True)
@click.option("--event-bytes", type=click.IntRange(min=1), default=500, show_default=True, help="Size of a message.")
@click.option("--interval", "interval_s", type=Finite(min=0.01), default=0.5, show_default=True,
              help="Seconds: commit.interval_ms.")  # fmt: skip
@click.option("--rows-per-s", type=Finite(min=0), default=100_000.0, show_default=True, help="commit.rows_per_s.")
@click.option("--scorers", type=click.IntRange(min=0), default=1, show_default=True)
def doctor(
    redis: str, kafka: str | None, topic: str | None, kafka_config: Path | None, snapshots: str | None, as_json: bool,
    only_plan: bool, **stream: Any,
) -> None:  # fmt: skip
    """Look at packages, machine, Redis and Kafka: what would keep a worker from its work, and what to do.

    Exit code 1 where anything would. With --plan: memory, rows a second, network and freshness of a stream to come.
    """
    from workers import doctor as worker  # noqa: PLC0415  as above
    from workers import plan  # noqa: PLC0415  as above

    if only_plan:
        sys.exit(plan.run(plan.PlanSettings(**stream), click.echo, as_json=as_json))
    settings = worker.DoctorSettings(redis, kafka, topic, kafka_config, snapshots)
    sys.exit(worker.run(settings, click.echo, as_json=as_json))


@click.group()
def models() -> None:
    """What the store holds: list, inspect, drop, clone."""


@models.command(name="list")
@redis_option
@json_option
def list_models(redis: str, as_json: bool) -> None:
    """Show one line for each model."""
    from workers import models as worker  # noqa: PLC0415  as above

    sys.exit(worker.show_all(redis, click.echo, as_json=as_json))


@models.command(**examples("  ctr models inspect ads\n  ctr models inspect ads@2 --spec > ads-2.toml\n"))
@click.argument("model")
@redis_option
@json_option
@click.option("--spec", is_flag=True, help="Only the specification, as TOML.")
def inspect(model: str, redis: str, **options: Any) -> None:
    """Show all that is known of MODEL: shards, rows, positions, ages, memory, damage."""
    from workers import models as worker  # noqa: PLC0415  as above

    sys.exit(worker.inspect(redis, model, click.echo, **options))


@models.command(**examples("  ctr models drop ads@1\n"))
@click.argument("model")
@redis_option
@click.option("--force", is_flag=True, help="Although it is served, or a trainer holds it.")
def drop(model: str, redis: str, force: bool) -> None:
    """Delete generation MODEL (NAME@GENERATION), or what is left of one."""
    from workers import models as worker  # noqa: PLC0415  as above

    sys.exit(worker.drop(redis, model, click.echo, force=force))


@models.command(**examples("  ctr models clone ads ads@wide --shards 16\n"))
@click.argument("source")
@click.argument("target")
@redis_option
@shards_option
@write_pace_option
def clone(source: str, target: str, redis: str, **options: Any) -> None:
    """Copy SOURCE, also while it is trained, to TARGET (NAME or NAME@GENERATION), its positions included."""
    from workers import models as worker  # noqa: PLC0415  as above

    sys.exit(worker.clone(redis, source, target, click.echo, **options))
