"""Commands that run until they are told to stop: train, serve, join."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import click

from workers.cli.options import (
    Finite,
    answers_option,
    command,
    drop_from_environment,
    isa_option,
    kafka_config_option,
    listen_option,
    redis_option,
)


@command(
    "  ctr train ads.toml --create --from events.jsonl\n"
    "  ctr train ads.toml --kafka 127.0.0.1:9092 --topic ads --listen 127.0.0.1:9100\n"
)  # fmt: skip
@click.argument("spec", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@redis_option
@click.option("--kafka", envvar="CTR_KAFKA", metavar="HOST:PORT[,...]", show_envvar=True, help="Learn from a topic.")
@click.option("--topic", envvar="CTR_TOPIC", show_envvar=True, help="Kafka topic; all its partitions are read.")
@kafka_config_option
@click.option("--from", "path", type=click.Path(path_type=Path), help="Learn from a file, or the files of a directory.")
@click.option("--follow", is_flag=True, help="With --from: wait for more instead of ending at the end.")
@click.option("--start", default="earliest", show_default=True, metavar="earliest|latest|TIME",
              help="Where a new model begins in Kafka; ignored once positions are stored.")  # fmt: skip
@click.option("--accept-gap", is_flag=True, help="With --kafka: where the log has lost the next events to learn, go on "
              "without them, counted in the model, instead of stopping.")  # fmt: skip
@click.option("--create", is_flag=True, help="Make the model if the store does not hold it.")
@listen_option
@isa_option
@click.option("--dead-letters", type=click.Path(path_type=Path), help="With --from: file for events that cannot be "
              "read; PATH.dlq where not given. With --kafka they go to TOPIC.dlq.")  # fmt: skip
@click.option("--outage-limit", "outage_limit_s", type=Finite(min=0), default=600.0, show_default=True,
              help="Seconds that Redis or Kafka may be away before the worker gives up.")  # fmt: skip
@click.option("--window", type=click.IntRange(1, 100_000_000), default=100_000, show_default=True,
              help="Events over which quality is measured, each predicted before it is learned.")  # fmt: skip
@click.option("--refused-run", type=click.IntRange(min=0), default=1000, show_default=True,
              help="Stop after so many unreadable events without a readable one; 0: never.")  # fmt: skip
@click.option("--refused-share", type=Finite(0, 1, min_open=True), default=0.5, show_default=True,
              help="Stop when so large a share of the last 10,000 events is unreadable; 1: never.")  # fmt: skip
@click.option("--scan-threads", type=click.IntRange(0, 64), help="Threads that read events ahead of the learner; 0: it "
              "reads them itself. By default one, two from four cores on. Results do not depend on it.")  # fmt: skip
@click.option("--lease", "lease_s", type=Finite(0.5, 60), default=3.0, show_default=True,
              help="Seconds after which a stand-by takes over from a trainer that was killed.")  # fmt: skip
@click.option("--when-fenced", type=click.Choice(["end", "stand-by"]), default="end", show_default=True,
              help="When another trainer has taken the model over: end by exit code 6, or wait.")  # fmt: skip
@click.option("--names", type=Finite(0, 1), default=0.0, show_default=True,
              help="Share of events whose feature names go to Redis, for explanations in words; 0: none.")  # fmt: skip
@click.option("--max-names", type=click.IntRange(64, 100_000_000), default=100_000, show_default=True,
              help="Names kept at most; others, drawn at random, make room.")  # fmt: skip
@click.option("--snapshots", metavar="URL", envvar="CTR_SNAPSHOTS", show_envvar=True,
              help="Directory or URL for snapshots, taken by a process of their own; see `ctr snapshot`.")  # fmt: skip
@click.option("--snapshot-interval", "snapshot_interval_s", type=Finite(min=1), default=3600.0, show_default=True,
              help="Seconds from one to the next.")  # fmt: skip
@click.option("--snapshot-keep", type=click.IntRange(min=1), default=24, show_default=True,
              help="Newest ones to keep.")  # fmt: skip
@click.option("--token-file", type=click.Path(path_type=Path), help="File with a token that the live page asks for; or "
              "CTR_TOKEN in the environment. Probes and /metrics need none.")  # fmt: skip
@click.option("--token", envvar="CTR_TOKEN", hidden=True)  # as of serve
def train(**options: Any) -> None:
    """Learn from events, one by one, and publish the parameters to Redis."""
    from workers import train as worker  # noqa: PLC0415  numba takes a second: only where needed
    from workers.serve import read_token  # noqa: PLC0415  as above

    if options["path"] is not None:  # a flag wins over the environment
        drop_from_environment(options, "kafka", "topic", "kafka_config")
    if (token_file := options.pop("token_file")) is not None:
        options["token"] = read_token(token_file)
    sys.exit(worker.train(worker.TrainSettings(**options)))


@command(
    "  ctr serve ads --listen 127.0.0.1:8080\n"
    "  ctr serve ads --model video --model ads@2 --prior 0.01 --token-file token.txt\n"
)  # fmt: skip
@click.argument("model", required=False)
@click.option("--model", "models", multiple=True, metavar="MODEL", help="A further model; may be given several times.")
@redis_option
@listen_option
@isa_option
@click.option("--catalogue", metavar="NAME", help="Of the ads that may be ranked by id; by default that of the model's "
              "name.")  # fmt: skip
@click.option("--max-rows", type=click.IntRange(min=1024), help="Rows of a model held at most; by default its own "
              "bound.")  # fmt: skip
@click.option("--preload", type=click.IntRange(min=0), default=100_000, show_default=True,
              help="Rows of a model read before /readyz is 200: those written last.")  # fmt: skip
@click.option("--deadline", "deadline_s", type=Finite(min=0, min_open=True), default=0.05, show_default=True,
              help="Seconds from a request's head on; none waits for Redis beyond it.")  # fmt: skip
@click.option("--prior", type=Finite(0, 1), help="Probability answered where nothing better can be had in time; "
              "without it a model that is being loaded answers 503.")  # fmt: skip
@click.option("--stale-after", "stale_after_s", type=Finite(min=0, min_open=True), default=60.0, show_default=True,
              help="Seconds of staleness above which answers are marked and /readyz says degraded.")  # fmt: skip
@click.option("--unready-after", "unready_after_s", type=Finite(min=0, min_open=True),
              help="Seconds of staleness above which /readyz is 503; never where not given.")  # fmt: skip
@click.option("--max-instances", type=click.IntRange(min=1), default=1024, show_default=True,
              help="Rows, or candidates, of a request.")  # fmt: skip
@click.option("--max-elements", type=click.IntRange(min=1), default=100_000, show_default=True,
              help="Values of all rows of a request.")  # fmt: skip
@click.option("--max-body-bytes", type=click.IntRange(min=1), default=4 << 20, show_default=True,
              help="Length of a request's body.")  # fmt: skip
@click.option("--max-headers", type=click.IntRange(min=1), default=100, show_default=True, help="Headers of a request.")
@click.option("--max-header-bytes", type=click.IntRange(min=64), default=32 << 10, show_default=True,
              help="Length of all headers of a request.")  # fmt: skip
@click.option("--token-file", type=click.Path(path_type=Path), help="File with a token that requests must bring as "
              "`authorization: Bearer TOKEN`; or CTR_TOKEN in the environment. Probes need none.")  # fmt: skip
@click.option("--token", envvar="CTR_TOKEN", hidden=True)  # from the environment alone: a command line is seen by ps
@answers_option("Keep a sample of what was answered, for `ctr join`: ", required=False)
@kafka_config_option
@click.option("--answers-share", type=Finite(0, 1), default=0.01, show_default=True,
              help="With --answers: share of the requests that are kept, with all their rows.")  # fmt: skip
def serve(model: str | None, models: tuple[str, ...], **options: Any) -> None:
    """Answer scoring requests for MODEL (NAME or NAME@GENERATION) from parameters that are seconds old.

    Of a NAME the live generation is followed, whichever that is.
    """
    named = (() if model is None else (model,)) + models
    if not named:
        raise click.UsageError("Missing argument 'MODEL'.")
    from ctr.serving.limits import Limits  # noqa: PLC0415  as above
    from workers import serve as worker  # noqa: PLC0415  as above

    if (token_file := options.pop("token_file")) is not None:
        options["token"] = worker.read_token(token_file)
    if options["unready_after_s"] is None:
        options["unready_after_s"] = math.inf
    limits = Limits(**{name: options.pop(name) for name in _LIMITS})
    sys.exit(worker.serve(worker.ServeSettings(models=named, limits=limits, **options)))


_LIMITS = (
    "deadline_s", "prior", "stale_after_s", "unready_after_s", "max_instances", "max_elements", "max_body_bytes",
    "max_headers", "max_header_bytes",
)  # fmt: skip


@command(
    "  ctr serve ads --answers kafka://127.0.0.1:9092/ads.answers\n"
    "  ctr join ads --answers kafka://127.0.0.1:9092/ads.answers --kafka 127.0.0.1:9092 --topic ads "
    "--listen 127.0.0.1:9101\n"
    "  ctr join ads --answers answers.jsonl --from events.jsonl\n"
)  # fmt: skip
@click.argument("model")
@redis_option
@answers_option("What scorers answered: ", required=True)
@click.option("--kafka", envvar="CTR_KAFKA", metavar="HOST:PORT[,...]", show_envvar=True, help="Events of a topic.")
@click.option("--topic", envvar="CTR_TOPIC", show_envvar=True, help="Kafka topic of the events.")
@kafka_config_option
@click.option("--from", "path", type=click.Path(path_type=Path), help="Events of a file, or of a directory's files.")
@click.option("--follow", is_flag=True, help="Of files: wait for more instead of ending at the end.")
@click.option("--start", default="latest", show_default=True, metavar="earliest|latest|TIME", help="Where in Kafka.")
@listen_option
@isa_option
@click.option("--window", type=click.IntRange(1, 100_000_000), default=100_000, show_default=True,
              help="Events over which quality is measured.")  # fmt: skip
@click.option("--wait", "wait_s", type=Finite(min=0, min_open=True), default=3600.0, show_default=True,
              help="Seconds that an answer waits for its event.")  # fmt: skip
@click.option("--token", envvar="CTR_TOKEN", hidden=True)  # from the environment alone: a command line is seen by ps
@click.option("--max-waiting", type=click.IntRange(min=1), default=1_000_000, show_default=True,
              help="Answers that wait at most; the oldest make room. About 1 kB each.")  # fmt: skip
def join(**options: Any) -> None:
    """Judge what scorers of MODEL really answered by the events that came of it, found by their id.

    The quality of what was served, beside the trainer's own view, and in which fields requests differ from events.
    """
    from workers import join as worker  # noqa: PLC0415  as above

    if options["path"] is not None:
        drop_from_environment(options, "kafka", "topic")
    sys.exit(worker.join(worker.JoinSettings(**options)))
