"""The command line: flags and environment become settings, errors become one line and an exit code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

import ctr
from ctr import log
from ctr.errors import CtrError
from workers.lifecycle import ExitCode, exit_code

_REDIS = "redis://127.0.0.1:6379/0"


class _Group(click.Group):
    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except CtrError as error:
            click.echo(f"ctr: {error}", err=True)
            context.exit(exit_code(error))


def _examples(text: str) -> Any:
    """End a command's help with runnable examples, kept as they are written."""
    return {"epilog": "\b\nExamples:\n" + text, "context_settings": {"max_content_width": 110}}


redis_option = click.option(
    "--redis", envvar="CTR_REDIS", default=_REDIS, show_default=True, show_envvar=True, help="Where parameters live."
)
listen_option = click.option(
    "--listen", envvar="CTR_LISTEN", metavar="HOST:PORT", show_envvar=True, help="Address of the HTTP endpoints."
)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ctr.__version__, prog_name="ctr")
@click.option(
    "--log-level", envvar="CTR_LOG_LEVEL", default="info", show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"]), help="Least severe log line to write.",
)  # fmt: skip
def main(log_level: str) -> None:
    """Online-learned click-through rates.

    \b
    Exit codes: 0 done, 1 crashed, 2 wrong usage, 3 wrong setting or specification, 4 Redis or Kafka unavailable,
    5 model missing, mismatched or damaged, 6 fenced by another writer, 7 position lost in the log, 8 port in use,
    130 ended at once by a second signal.
    """
    log.configure(log_level)


@main.command(**_examples(
    "  ctr train ads.toml --create --from events.jsonl\n"
    "  ctr train ads.toml --kafka 127.0.0.1:9092 --topic ads --listen 127.0.0.1:9100\n"
))  # fmt: skip
@click.argument("spec", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@redis_option
@click.option("--kafka", envvar="CTR_KAFKA", metavar="HOST:PORT[,...]", show_envvar=True, help="Learn from a topic here.")
@click.option("--topic", envvar="CTR_TOPIC", show_envvar=True, help="Kafka topic; all its partitions are read.")
@click.option("--from", "path", type=click.Path(path_type=Path), help="Learn from a file, or the files of a directory.")
@click.option("--follow", is_flag=True, help="With --from: wait for more instead of ending at the end.")
@click.option("--start", default="earliest", show_default=True, metavar="earliest|latest|TIME",
              help="Where a new model begins in Kafka; ignored once positions are stored.")  # fmt: skip
@click.option("--create", is_flag=True, help="Make the model if the store does not hold it.")
@listen_option
@click.option("--dead-letters", type=click.Path(path_type=Path), help="With --from: file for events that cannot be "
              "read; PATH.dlq where not given. With --kafka they go to TOPIC.dlq.")  # fmt: skip
@click.option("--outage-limit", "outage_limit_s", type=click.FloatRange(min=0), default=600.0, show_default=True,
              help="Seconds that Redis or Kafka may be away before the worker gives up.")  # fmt: skip
def train(**options: Any) -> None:
    """Learn from events, one by one, and publish the parameters to Redis."""
    from workers.train import TrainSettings, train as run  # noqa: PLC0415  numba takes a second: only where needed

    sys.exit(run(TrainSettings(**options)))


if __name__ == "__main__":
    main()
