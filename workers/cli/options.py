"""What options of several commands are, and how they read their values."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from ctr.errors import SettingError

_Command = TypeVar("_Command", bound=Callable[..., Any])
_REDIS = "redis://127.0.0.1:6379/0"


def examples(text: str) -> Any:
    """End a command's help with runnable examples, kept as they are written."""
    return {"epilog": "\b\nExamples:\n" + text, "context_settings": {"max_content_width": 110}}


def command(text: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a function a command whose help ends with these examples."""
    return click.command(cls=click.Command, **examples(text))


def group(text: str) -> Callable[[Callable[..., Any]], click.Group]:
    """The same of a group of commands."""
    return click.group(cls=click.Group, **examples(text))


def drop_from_environment(options: dict[str, Any], *names: str) -> None:
    """Forget options that the environment gave: a flag that excludes them wins."""
    context = click.get_current_context()
    for name in names:
        if context.get_parameter_source(name) is ParameterSource.ENVIRONMENT:
            options[name] = None


class Finite(click.FloatRange):
    """A number within bounds, neither NaN nor infinite."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """As click, and finite."""
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


def answers_option(what: str, *, required: bool) -> Callable[[_Command], _Command]:
    """Where answers of scorers are kept."""
    return click.option(
        "--answers", metavar="kafka://HOST:PORT/TOPIC|PATH", required=required, help=f"{what}a topic or a file."
    )
shards_option = click.option("--shards", type=click.IntRange(1, 16_384), help="Number of shards; that of the original "
                              "where not given.")  # fmt: skip
write_pace_option = click.option("--rows-per-s", type=Finite(min=0), default=100_000.0, show_default=True,
                                  help="Pace of writing, so that Redis has time for others; 0: none.")  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")
