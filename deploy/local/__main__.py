"""`python -m deploy.local up|down|status`: the whole system on loopback, from one command line."""

from __future__ import annotations

import signal
import sys

import click

from ctr.errors import CtrError
from deploy.local import stack

EXAMPLES = f"""\b
Ports and their variables: {", ".join(
    f"{name.removesuffix('_port')} {field.default} (CTR_LOCAL_{name.upper()})"
    for name, field in stack.Settings.__dataclass_fields__.items()
    if name.endswith("_port")
)}.
State and logs: .run (CTR_LOCAL_RUN_DIR).

\b
Examples:
  python -m deploy.local up
  python -m deploy.local up --no-workers    only Kafka, Redis and Prometheus
  python -m deploy.local down
"""


@click.group(epilog=EXAMPLES)
def main() -> None:
    """Run Kafka, Redis, Prometheus, a trainer and a scorer on 127.0.0.1."""


@main.command()
@click.option("--workers/--no-workers", default=True, help="Start the trainer and the scorer too.")
def up(*, workers: bool) -> None:
    """Start what does not run yet, and say where it is."""
    stack.up(stack.Settings.read(), workers=workers, say=click.echo)


@main.command()
def down() -> None:
    """End what `up` started, and nothing else."""
    stack.down(stack.Settings.read(), say=click.echo)


@main.command()
def status() -> None:
    """Say what runs; the exit code is 1 when something does not."""
    if not stack.status(stack.Settings.read(), say=click.echo):
        sys.exit(1)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    # SIGTERM ends a half-done `up` as Ctrl-C does: with what it started.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        main(prog_name="python -m deploy.local", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("interrupted; what this call started is ended", err=True)
        sys.exit(130)
    except (CtrError, OSError) as error:
        sys.exit(f"error: {error}")
