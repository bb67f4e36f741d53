"""The command line: flags and environment become settings, errors become one line and an exit code."""

from __future__ import annotations

from typing import Any

import click

import ctr
from ctr import log
from ctr.errors import CtrError
from workers.cli import events, run, stored
from workers.lifecycle import exit_code

_WORKERS = {"train": "trainer", "serve": "scorer"}
"""What logs and Prometheus call a command's process."""


class _Group(click.Group):
    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except CtrError as error:
            click.echo(log.redacted(f"ctr: {error}"), err=True)
            context.exit(exit_code(error))


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


for _command in (
    run.train, run.serve, run.join,
    events.check, events.quantiles, events.skew, events.simulate, events.replay,
    stored.explain, stored.catalogue, stored.snapshot, stored.restore, stored.rollback, stored.guard, stored.live,
    stored.doctor, stored.models,
):  # fmt: skip
    main.add_command(_command)
