"""A model's name and one event in, where its prediction comes from out: `ctr explain`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import msgspec
from rich.console import Console

from ctr.errors import EventError, SettingError
from ctr.events import jsonlines, open_reader
from ctr.events.envelope import Record
from ctr.serving.explain import picture
from ctr.serving.scorer import Scorer
from ctr.spec import Spec
from workers.lifecycle import ExitCode


def explain(
    redis: str, model: str, event: str, line: int, *, as_json: bool, most: int, echo: Callable[[str], None]
) -> ExitCode:
    """Explain one event with the model as the store has it now.

    Parameters
    ----------
    redis, model : str
        As `Scorer`.
    event : str
        A JSON object; a file, of which `line` is taken; or ``-`` for a line of standard input.
    line : int
        From 1 on.
    as_json : bool
        Instead of a picture.
    most : int
        Features and pairs in the picture.
    echo : (text: str) -> None
        Takes the answer, a picture with the terminal's colours where there is one.

    Raises
    ------
    SettingError
        The event cannot be read; the message says where it is wrong.
    ModelMissingError, ModelMismatchError, StoreUnavailableError
    """
    scorer = Scorer(redis, model)
    try:
        explanation = scorer.explain(_record(scorer.spec, _text(event, line)))
    except EventError as error:
        raise SettingError("EVENT", event if len(event) <= 80 else f"{event[:80]} ...", str(error)) from None
    finally:
        scorer.close()
    if as_json:
        echo(msgspec.json.format(msgspec.json.encode(explanation), indent=2).decode())
    else:
        console = Console(highlight=False)
        with console.capture() as captured:
            console.print(picture(explanation, most=most))
        echo(captured.get().rstrip("\n"))
    return ExitCode.OK


def _text(event: str, line: int) -> bytes:
    if event.lstrip().startswith("{"):
        return event.encode()
    try:
        if event == "-":
            found: bytes | None = next(islice(sys.stdin.buffer, line - 1, None), None)
        else:
            with Path(event).open("rb") as file:
                found = next(islice(file, line - 1, None), None)
    except OSError as error:
        raise SettingError("EVENT", event, f"a JSON object, a file or - ({error.strerror})") from None
    if found is None or not found.strip():
        raise SettingError("EVENT", event, f"something in line {line}")
    return found.rstrip(b"\r\n")


def _record(spec: Spec, text: bytes) -> Record:
    """A line in the format of the model's events, or an object in JSON whatever that is."""
    return jsonlines.parse(text) if text.lstrip().startswith(b"{") else open_reader(spec).parse(text)

