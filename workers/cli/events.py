"""Commands about events and where they come from: check, quantiles, skew, simulate, replay."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from workers.cli.options import (
    Finite,
    command,
    drop_from_environment,
    isa_option,
    kafka_config_option,
    redis_option,
)


@command("  ctr check ads.toml events.jsonl\n  ctr check ads.toml events.jsonl --events 2\n")
@click.argument("spec", type=click.Path(path_type=Path))
@click.argument("sample", type=click.Path(path_type=Path))
@click.option("--events", type=click.IntRange(min=0), default=3, show_default=True, help="Events to show in full.")
def check(spec: Path, sample: Path, events: int) -> None:
    """Show what SPEC makes of the events of SAMPLE, without learning: fields, keys, labels, times, refusals."""
    from workers.check import check as run  # noqa: PLC0415  as above

    sys.exit(run(spec, sample, events, click.echo))


@command(
    "  ctr quantiles ads.toml events.jsonl            # shows it\n"
    "  ctr quantiles ads.toml events.jsonl --write    # writes it into ads.toml\n"
)  # fmt: skip
@click.argument("spec", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("sample", type=click.Path(path_type=Path))
@click.option("--events", type=click.IntRange(min=1), default=100_000, show_default=True, help="Events to look at.")
@click.option("--write", is_flag=True, help="Write SPEC instead of showing it.")
def quantiles(spec: Path, sample: Path, events: int, write: bool) -> None:
    """Learn the `quantiles` of SPEC's fields from SAMPLE, once, and freeze them as `edges`; nothing else changes."""
    from workers.quantiles import learn_quantiles  # noqa: PLC0415  as above

    sys.exit(learn_quantiles(
        spec, sample, events, write=write, echo=lambda text: click.echo(text, nl=False),
        say=lambda line: click.echo(line, err=True),
    ))  # fmt: skip


@command(
    "  ctr skew ads events.jsonl\n"
    "  ctr skew ads events.jsonl --scorer http://127.0.0.1:8080\n"
)  # fmt: skip
@click.argument("model")
@click.argument("sample", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@redis_option
@isa_option
@click.option("--scorer", metavar="URL", help="Server to ask; a scorer in this process where not given.")
@click.option("--token", envvar="CTR_TOKEN", hidden=True)  # from the environment alone: a command line is seen by ps
@click.option("--events", type=click.IntRange(min=1), default=10_000, show_default=True, help="Events to compare.")
def skew(**options: Any) -> None:
    """Compare training and serving of MODEL on the events of SAMPLE: the same keys, the same probabilities.

    Its trainer must have stopped. Exit code 5 where they disagree.
    """
    from workers.skew import SkewSettings  # noqa: PLC0415  as above
    from workers.skew import skew as run  # noqa: PLC0415  as above

    sys.exit(run(SkewSettings(**options), click.echo))


@command(
    "  ctr simulate --events 100000 --out events.jsonl\n"
    "  ctr simulate --kafka 127.0.0.1:9092 --topic ads --rate 5000\n"
)  # fmt: skip
@click.option("--out", metavar="PATH", help="Write events to a file; - for standard output.")
@click.option("--kafka", envvar="CTR_KAFKA", metavar="HOST:PORT[,...]", show_envvar=True, help="Send to a topic.")
@click.option("--topic", envvar="CTR_TOPIC", show_envvar=True, help="Kafka topic; made if it does not exist.")
@kafka_config_option
@click.option("--partitions", type=click.IntRange(min=1), default=1, show_default=True, help="Of a topic that is made.")
@click.option("--events", type=click.IntRange(min=1), help="How many; endless without it.")
@click.option("--rate", type=Finite(min=0, min_open=True), help="Events a second; flat out without it.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Decides the whole market.")
@click.option("--users", type=click.IntRange(1, 10_000_000), default=20_000, show_default=True, help="Number of users.")
@click.option("--ads", type=click.IntRange(1, 1_000_000), default=400, show_default=True, help="Number of ads alive.")
@click.option("--start-time", "start_time_s", type=Finite(), metavar="SECONDS",
              help="Date events from here on (seconds since 1970) instead of now.")  # fmt: skip
@click.option("--truth", is_flag=True, help="Add each event's true click probability as `p`.")
def simulate(**options: Any) -> None:
    """Make the events of an endless ad market whose true click probabilities, and so the best logloss, are known."""
    from workers.simulate import SimulateSettings, run  # noqa: PLC0415  as above

    if options["out"] is not None:
        drop_from_environment(options, "kafka", "topic", "kafka_config")
    sys.exit(run(SimulateSettings(**options)))


@command(
    "  ctr replay train.txt --kafka 127.0.0.1:9092 --topic criteo --partitions 4\n"
    "  ctr replay avazu.csv --header --kafka 127.0.0.1:9092 --topic avazu --rate 2000\n"
)  # fmt: skip
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--kafka", envvar="CTR_KAFKA", metavar="HOST:PORT[,...]", show_envvar=True, required=True, help="To.")
@click.option("--topic", envvar="CTR_TOPIC", show_envvar=True, required=True, help="Made if it does not exist.")
@kafka_config_option
@click.option("--partitions", type=click.IntRange(min=1), default=1, show_default=True, help="Of a topic that is made.")
@click.option("--rate", type=Finite(min=0, min_open=True), help="Lines a second; flat out without it.")
@click.option("--header", is_flag=True, help="Leave out the first line of each file.")
def replay(path: Path, **options: Any) -> None:
    """Send the lines of a file, or of a directory's files, to a Kafka topic, one message each."""
    from workers.replay import ReplaySettings, run  # noqa: PLC0415  as above

    sys.exit(run(ReplaySettings(path=path, **options)))
