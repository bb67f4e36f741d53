"""The command line: flags and environment become settings, errors become one line and an exit code."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

import ctr
from ctr import log
from ctr.errors import CtrError, SettingError
from workers.lifecycle import exit_code

_Command = TypeVar("_Command", bound=Callable[..., Any])
_REDIS = "redis://127.0.0.1:6379/0"
_WORKERS = {"train": "trainer", "serve": "scorer"}
"""What logs and Prometheus call a command's process."""


class _Group(click.Group):
    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except CtrError as error:
            click.echo(log.redacted(f"ctr: {error}"), err=True)
            context.exit(exit_code(error))


def _examples(text: str) -> Any:
    """End a command's help with runnable examples, kept as they are written."""
    return {"epilog": "\b\nExamples:\n" + text, "context_settings": {"max_content_width": 110}}


def _drop_from_environment(options: dict[str, Any], *names: str) -> None:
    context = click.get_current_context()
    for name in names:
        if context.get_parameter_source(name) is ParameterSource.ENVIRONMENT:
            options[name] = None


class _Finite(click.FloatRange):
    """A number within bounds, neither NaN nor infinite."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        number = super().convert(value, parameter, context)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", parameter, context)
        return number


def _use_isa(_context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    """Before anything is compiled: a process has one instruction set."""
    if value is None:
        return
    from ctr.kernels import build  # noqa: PLC0415  numba takes a second: only where needed

    try:
        build.use(value)
    except SettingError as error:
        raise SettingError("--isa", value, error.allowed) from None


redis_option = click.option(
    "--redis", envvar="CTR_REDIS", default=_REDIS, show_default=True, show_envvar=True,
    help="Where parameters live: redis://, rediss:// (TLS), unix://, redis+sentinel://HOST:PORT[,...]/NAME, "
    "redis+cluster://HOST:PORT[,...].",
)
kafka_config_option = click.option(
    "--kafka-config", type=click.Path(path_type=Path), envvar="CTR_KAFKA_CONFIG", show_envvar=True,
    help="File that says how to log in to Kafka: lines as kcat takes them, such as security.protocol=SASL_SSL, "
    "sasl.mechanism=SCRAM-SHA-256, sasl.username=..., sasl.password=..., ssl.ca.location=...",
)  # fmt: skip
listen_option = click.option(
    "--listen", envvar="CTR_LISTEN", metavar="HOST:PORT", show_envvar=True, help="Address of the HTTP endpoints."
)
isa_option = click.option(
    "--isa", envvar="CTR_ISA", metavar="avx512|avx2|portable", show_envvar=True, expose_value=False, callback=_use_isa,
    help="Instruction set of the kernels; the best that the processor has where not given. Trained parameters are the "
    "same bit for bit only on the same one.",
)  # fmt: skip


def _answers_option(what: str, *, required: bool) -> Callable[[_Command], _Command]:
    """Where answers of scorers are kept."""
    return click.option(
        "--answers", metavar="kafka://HOST:PORT/TOPIC|PATH", required=required, help=f"{what}a topic or a file."
    )


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ctr.__version__, prog_name="ctr")
@click.option(
    "--log-level", envvar="CTR_LOG_LEVEL", default="info", show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"]), help="Least severe log line to write.",
)  # fmt: skip
@click.pass_context
def main(context: click.Context, log_level: str) -> None:
    r"""Online-learned click-through rates.

    \b
    Exit codes: 0 done, 1 crashed, 2 wrong usage, 3 wrong setting or specification, 4 Redis or Kafka unavailable,
    5 model missing, mismatched or damaged, 6 fenced by another writer, 7 position lost in the log, 8 port in use,
    9 too many unreadable events, 10 held back by the guard, 130 ended at once by a second signal.
    """
    command = context.invoked_subcommand or ""
    log.configure(log_level, worker=_WORKERS.get(command, command), version=ctr.__version__)


@main.command(**_examples(
    "  ctr train ads.toml --create --from events.jsonl\n"
    "  ctr train ads.toml --kafka 127.0.0.1:9092 --topic ads --listen 127.0.0.1:9100\n"
))  # fmt: skip
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
@click.option("--outage-limit", "outage_limit_s", type=_Finite(min=0), default=600.0, show_default=True,
              help="Seconds that Redis or Kafka may be away before the worker gives up.")  # fmt: skip
@click.option("--window", type=click.IntRange(1, 100_000_000), default=100_000, show_default=True,
              help="Events over which quality is measured, each predicted before it is learned.")  # fmt: skip
@click.option("--refused-run", type=click.IntRange(min=0), default=1000, show_default=True,
              help="Stop after so many unreadable events without a readable one; 0: never.")  # fmt: skip
@click.option("--refused-share", type=_Finite(0, 1, min_open=True), default=0.5, show_default=True,
              help="Stop when so large a share of the last 10,000 events is unreadable; 1: never.")  # fmt: skip
@click.option("--scan-threads", type=click.IntRange(0, 64), help="Threads that read events ahead of the learner; 0: it "
              "reads them itself. By default one, two from four cores on. Results do not depend on it.")  # fmt: skip
@click.option("--lease", "lease_s", type=_Finite(0.5, 60), default=3.0, show_default=True,
              help="Seconds after which a stand-by takes over from a trainer that was killed.")  # fmt: skip
@click.option("--when-fenced", type=click.Choice(["end", "stand-by"]), default="end", show_default=True,
              help="When another trainer has taken the model over: end by exit code 6, or wait.")  # fmt: skip
@click.option("--names", type=_Finite(0, 1), default=0.0, show_default=True,
              help="Share of events whose feature names go to Redis, for explanations in words; 0: none.")  # fmt: skip
@click.option("--max-names", type=click.IntRange(64, 100_000_000), default=100_000, show_default=True,
              help="Names kept at most; others, drawn at random, make room.")  # fmt: skip
@click.option("--snapshots", metavar="URL", envvar="CTR_SNAPSHOTS", show_envvar=True,
              help="Directory or URL for snapshots, taken by a process of their own; see `ctr snapshot`.")  # fmt: skip
@click.option("--snapshot-interval", "snapshot_interval_s", type=_Finite(min=1), default=3600.0, show_default=True,
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
        _drop_from_environment(options, "kafka", "topic", "kafka_config")
    if (token_file := options.pop("token_file")) is not None:
        options["token"] = read_token(token_file)
    sys.exit(worker.train(worker.TrainSettings(**options)))


@main.command(**_examples(
    "  ctr serve ads --listen 127.0.0.1:8080\n"
    "  ctr serve ads --model video --model ads@2 --prior 0.01 --token-file token.txt\n"
))  # fmt: skip
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
@click.option("--deadline", "deadline_s", type=_Finite(min=0, min_open=True), default=0.05, show_default=True,
              help="Seconds from a request's head on; none waits for Redis beyond it.")  # fmt: skip
@click.option("--prior", type=_Finite(0, 1), help="Probability answered where nothing better can be had in time; "
              "without it a model that is being loaded answers 503.")  # fmt: skip
@click.option("--stale-after", "stale_after_s", type=_Finite(min=0, min_open=True), default=60.0, show_default=True,
              help="Seconds of staleness above which answers are marked and /readyz says degraded.")  # fmt: skip
@click.option("--unready-after", "unready_after_s", type=_Finite(min=0, min_open=True),
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
@_answers_option("Keep a sample of what was answered, for `ctr join`: ", required=False)
@click.option("--answers-share", type=_Finite(0, 1), default=0.01, show_default=True,
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


@main.command(**_examples(
    "  ctr explain ads '{\"user\": 7, \"ad\": \"a1\"}'\n"
    "  ctr explain ads@2 events.jsonl --line 3 --json\n"
))  # fmt: skip
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


@main.group(**_examples(
    "  ctr catalogue put ads ads.jsonl\n"
    "  zcat ads.jsonl.gz | ctr catalogue put ads -\n"
    "  ctr catalogue list ads > ads.jsonl\n"
    "  ctr catalogue remove ads a17 a18\n"
))  # fmt: skip
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


@main.command(**_examples("  ctr check ads.toml events.jsonl\n  ctr check ads.toml events.jsonl --events 2\n"))
@click.argument("spec", type=click.Path(path_type=Path))
@click.argument("sample", type=click.Path(path_type=Path))
@click.option("--events", type=click.IntRange(min=0), default=3, show_default=True, help="Events to show in full.")
def check(spec: Path, sample: Path, events: int) -> None:
    """Show what SPEC makes of the events of SAMPLE, without learning: fields, keys, labels, times, refusals."""
    from workers.check import check as run  # noqa: PLC0415  as above

    sys.exit(run(spec, sample, events, click.echo))


@main.command(**_examples(
    "  ctr quantiles ads.toml events.jsonl            # shows it\n"
    "  ctr quantiles ads.toml events.jsonl --write    # writes it into ads.toml\n"
))  # fmt: skip
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


@main.command(**_examples(
    "  ctr serve ads --answers kafka://127.0.0.1:9092/ads.answers\n"
    "  ctr join ads --answers kafka://127.0.0.1:9092/ads.answers --kafka 127.0.0.1:9092 --topic ads "
    "--listen 127.0.0.1:9101\n"
    "  ctr join ads --answers answers.jsonl --from events.jsonl\n"
))  # fmt: skip
@click.argument("model")
@redis_option
@_answers_option("What scorers answered: ", required=True)
@click.option("--kafka", envvar="CTR_KAFKA", metavar="HOST:PORT[,...]", show_envvar=True, help="Events of a topic.")
@click.option("--topic", envvar="CTR_TOPIC", show_envvar=True, help="Kafka topic of the events.")
@click.option("--from", "path", type=click.Path(path_type=Path), help="Events of a file, or of a directory's files.")
@click.option("--follow", is_flag=True, help="Of files: wait for more instead of ending at the end.")
@click.option("--start", default="latest", show_default=True, metavar="earliest|latest|TIME", help="Where in Kafka.")
@listen_option
@isa_option
@click.option("--window", type=click.IntRange(1, 100_000_000), default=100_000, show_default=True,
              help="Events over which quality is measured.")  # fmt: skip
@click.option("--wait", "wait_s", type=_Finite(min=0, min_open=True), default=3600.0, show_default=True,
              help="Seconds that an answer waits for its event.")  # fmt: skip
@click.option("--max-waiting", type=click.IntRange(min=1), default=1_000_000, show_default=True,
              help="Answers that wait at most; the oldest make room. About 1 kB each.")  # fmt: skip
def join(**options: Any) -> None:
    """Judge what scorers of MODEL really answered by the events that came of it, found by their id.

    The quality of what was served, beside the trainer's own view, and in which fields requests differ from events.
    """
    from workers import join as worker  # noqa: PLC0415  as above

    if options["path"] is not None:
        _drop_from_environment(options, "kafka", "topic")
    sys.exit(worker.join(worker.JoinSettings(**options)))


@main.command(**_examples(
    "  ctr skew ads events.jsonl\n"
    "  ctr skew ads events.jsonl --scorer http://127.0.0.1:8080\n"
))  # fmt: skip
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


@main.command(**_examples(
    "  ctr simulate --events 100000 --out events.jsonl\n"
    "  ctr simulate --kafka 127.0.0.1:9092 --topic ads --rate 5000\n"
))  # fmt: skip
@click.option("--out", metavar="PATH", help="Write events to a file; - for standard output.")
@click.option("--kafka", envvar="CTR_KAFKA", metavar="HOST:PORT[,...]", show_envvar=True, help="Send to a topic.")
@click.option("--topic", envvar="CTR_TOPIC", show_envvar=True, help="Kafka topic; made if it does not exist.")
@kafka_config_option
@click.option("--partitions", type=click.IntRange(min=1), default=1, show_default=True, help="Of a topic that is made.")
@click.option("--events", type=click.IntRange(min=1), help="How many; endless without it.")
@click.option("--rate", type=_Finite(min=0, min_open=True), help="Events a second; flat out without it.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Decides the whole market.")
@click.option("--users", type=click.IntRange(1, 10_000_000), default=20_000, show_default=True, help="Number of users.")
@click.option("--ads", type=click.IntRange(1, 1_000_000), default=400, show_default=True, help="Number of ads alive.")
@click.option("--start-time", "start_time_s", type=_Finite(), metavar="SECONDS",
              help="Date events from here on (seconds since 1970) instead of now.")  # fmt: skip
@click.option("--truth", is_flag=True, help="Add each event's true click probability as `p`.")
def simulate(**options: Any) -> None:
    """Make the events of an endless ad market whose true click probabilities, and so the best logloss, are known."""
    from workers.simulate import SimulateSettings, run  # noqa: PLC0415  as above

    if options["out"] is not None:
        _drop_from_environment(options, "kafka", "topic", "kafka_config")
    sys.exit(run(SimulateSettings(**options)))


@main.command(**_examples(
    "  ctr replay train.txt --kafka 127.0.0.1:9092 --topic criteo --partitions 4\n"
    "  ctr replay avazu.csv --header --kafka 127.0.0.1:9092 --topic avazu --rate 2000\n"
))  # fmt: skip
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--kafka", envvar="CTR_KAFKA", metavar="HOST:PORT[,...]", show_envvar=True, required=True, help="To.")
@click.option("--topic", envvar="CTR_TOPIC", show_envvar=True, required=True, help="Made if it does not exist.")
@kafka_config_option
@click.option("--partitions", type=click.IntRange(min=1), default=1, show_default=True, help="Of a topic that is made.")
@click.option("--rate", type=_Finite(min=0, min_open=True), help="Lines a second; flat out without it.")
@click.option("--header", is_flag=True, help="Leave out the first line of each file.")
def replay(path: Path, **options: Any) -> None:
    """Send the lines of a file, or of a directory's files, to a Kafka topic, one message each."""
    from workers.replay import ReplaySettings, run  # noqa: PLC0415  as above

    sys.exit(run(ReplaySettings(path=path, **options)))


@main.command(**_examples(
    "  ctr snapshot ads /backups\n"
    "  ctr snapshot ads@2 s3://bucket/models --keep 24\n"
    "  ctr snapshot ads /backups --list\n"
))  # fmt: skip
@click.argument("model")
@click.argument("url")
@redis_option
@click.option("--keep", type=click.IntRange(min=0), default=0, show_default=True,
              help="Delete all but so many of the newest afterwards; 0: none.")  # fmt: skip
@click.option("--rows-per-s", type=_Finite(min=0), default=50_000.0, show_default=True,
              help="Pace of reading, so that Redis has time for others; 0: none.")  # fmt: skip
@click.option("--scratch", type=click.Path(path_type=Path), help="Directory with room for the model's rows; the "
              "system's place for temporary files where not given.")  # fmt: skip
@click.option("--level-within", "level_within_s", type=_Finite(min=0), default=30.0, show_default=True,
              help="Seconds to wait at most until all shards are at one cut.")  # fmt: skip
@click.option("--nice", type=click.IntRange(0, 19), default=0, show_default=True, help="Give way to other processes.")
@click.option("--list", "only_list", is_flag=True, help="Take none: show those that are there.")
def snapshot(model: str, url: str, only_list: bool, **options: Any) -> None:
    """Write MODEL as files below URL while it is trained: rows, positions, specification, checksums."""
    from workers import snapshot as worker  # noqa: PLC0415  as above

    if only_list:
        sys.exit(worker.listed(url, model, click.echo))
    sys.exit(worker.take(worker.SnapshotSettings(model=model, url=url, **options), click.echo))


_shards_option = click.option("--shards", type=click.IntRange(1, 16_384), help="Number of shards; that of the original "
                              "where not given.")  # fmt: skip
_write_pace_option = click.option("--rows-per-s", type=_Finite(min=0), default=100_000.0, show_default=True,
                                  help="Pace of writing, so that Redis has time for others; 0: none.")  # fmt: skip
_json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")


@main.command(**_examples(
    "  ctr restore /backups ads                    # the newest one, into an empty Redis\n"
    "  ctr restore s3://bucket/models ads@2 --shards 16 --live\n"
    "  ctr restore /backups/ads@1/20261121T153000.123Z-5f0c ads@before\n"
))  # fmt: skip
@click.argument("url")
@click.argument("model")
@redis_option
@_shards_option
@click.option("--live", is_flag=True, help="Serve it from then on; what is served under a new name is served anyhow.")
@_write_pace_option
def restore(url: str, model: str, **options: Any) -> None:
    """Write the snapshot at URL, or the newest of MODEL below it, into Redis as MODEL (NAME or NAME@GENERATION).

    A trainer of it goes on from the snapshot's positions, each event once. A damaged snapshot is refused.
    """
    from workers import restore as worker  # noqa: PLC0415  as above

    sys.exit(worker.restore(worker.RestoreSettings(url=url, model=model, **options), click.echo))


@main.command(**_examples(
    "  ctr rollback ads /backups\n"
    "  ctr rollback ads /backups/ads@1/20261121T153000.123Z-5f0c --generation good\n"
))  # fmt: skip
@click.argument("model")
@click.argument("url")
@redis_option
@click.option("--generation", help="Name of the generation that is made; its own and the time where not given.")
@_shards_option
@_write_pace_option
def rollback(model: str, url: str, **options: Any) -> None:
    """Serve MODEL as it was in the snapshot at URL, or the newest below it: as a new generation, in one switch."""
    from workers import restore as worker  # noqa: PLC0415  as above

    sys.exit(worker.rollback(worker.RestoreSettings(url=url, model=model, **options), click.echo))


@main.command(**_examples(
    "  ctr guard ads\n"
    "  ctr guard ads resume\n"
    "  ctr guard ads discard --to clicks:0=812345\n"
))  # fmt: skip
@click.argument("model")
@click.argument("action", type=click.Choice(["show", "resume", "discard"]), default="show")
@redis_option
@click.option("--to", multiple=True, metavar="PARTITION=OFFSET", help="discard: go on from here instead of behind the "
              "last event that was learned; may be given several times.")  # fmt: skip
@_json_option
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


@main.command(**_examples("  ctr live ads@2\n"))
@click.argument("model")
@redis_option
def live(model: str, redis: str) -> None:
    """Serve generation MODEL (NAME@GENERATION) under its name from now on."""
    from workers import restore as worker  # noqa: PLC0415  as above

    sys.exit(worker.live(redis, model, click.echo))


@main.command(**_examples(
    "  ctr doctor --kafka 127.0.0.1:9092 --topic ads --snapshots /backups\n"
    "  ctr doctor --plan --events-per-s 20000 --features 5000000 --fields 39 --k 4\n"
))  # fmt: skip
@redis_option
@click.option("--kafka", envvar="CTR_KAFKA", metavar="HOST:PORT[,...]", show_envvar=True, help="Look at it too.")
@click.option("--topic", envvar="CTR_TOPIC", show_envvar=True, help="Of that Kafka.")
@kafka_config_option
@click.option("--snapshots", metavar="URL", envvar="CTR_SNAPSHOTS", show_envvar=True, help="Whether it can be written.")
@_json_option
@click.option("--plan", "only_plan", is_flag=True, help="Look at nothing: work out what a stream will take.")
@click.option("--events-per-s", type=_Finite(min=0, min_open=True), default=10_000.0, show_default=True)
@click.option("--features", type=click.IntRange(1, 2**31), default=1 << 20, show_default=True,
              help="Distinct ones that the model holds.")  # fmt: skip
@click.option("--fields", type=click.IntRange(1, 64), default=39, show_default=True)
@click.option("--k", type=click.IntRange(1, 32), default=4, show_default=True, help="Latent factors.")
@click.option("--type", type=click.Choice(["lr", "fm", "ffm", "fwfm", "fefm"]), default="ffm", show_default=True)
@click.option("--event-bytes", type=click.IntRange(min=1), default=500, show_default=True, help="Size of a message.")
@click.option("--interval", "interval_s", type=_Finite(min=0.01), default=1.0, show_default=True,
              help="Seconds: commit.interval_ms.")  # fmt: skip
@click.option("--rows-per-s", type=_Finite(min=0), default=100_000.0, show_default=True, help="commit.rows_per_s.")
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


@main.group()
def models() -> None:
    """What the store holds: list, inspect, drop, clone."""


@models.command(name="list")
@redis_option
@_json_option
def list_models(redis: str, as_json: bool) -> None:
    """Show one line for each model."""
    from workers import models as worker  # noqa: PLC0415  as above

    sys.exit(worker.show_all(redis, click.echo, as_json=as_json))


@models.command(**_examples("  ctr models inspect ads\n  ctr models inspect ads@2 --spec > ads-2.toml\n"))
@click.argument("model")
@redis_option
@_json_option
@click.option("--spec", is_flag=True, help="Only the specification, as TOML.")
def inspect(model: str, redis: str, **options: Any) -> None:
    """Show all that is known of MODEL: shards, rows, positions, ages, memory, damage."""
    from workers import models as worker  # noqa: PLC0415  as above

    sys.exit(worker.inspect(redis, model, click.echo, **options))


@models.command(**_examples("  ctr models drop ads@1\n"))
@click.argument("model")
@redis_option
@click.option("--force", is_flag=True, help="Although it is served, or a trainer holds it.")
def drop(model: str, redis: str, force: bool) -> None:
    """Delete generation MODEL (NAME@GENERATION), or what is left of one."""
    from workers import models as worker  # noqa: PLC0415  as above

    sys.exit(worker.drop(redis, model, click.echo, force=force))


@models.command(**_examples("  ctr models clone ads ads@wide --shards 16\n"))
@click.argument("source")
@click.argument("target")
@redis_option
@_shards_option
@_write_pace_option
def clone(source: str, target: str, redis: str, **options: Any) -> None:
    """Copy SOURCE, also while it is trained, to TARGET (NAME or NAME@GENERATION), its positions included."""
    from workers import models as worker  # noqa: PLC0415  as above

    sys.exit(worker.clone(redis, source, target, click.echo, **options))


if __name__ == "__main__":
    main()
