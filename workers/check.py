"""A specification and a sample file in, what its events became and why some are refused out: `ctr check`.

Nothing is learned and no service is asked. Keys, values, labels, weights and times are read off the very batches that a
trainer would learn from.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from ctr import spec as specification
from ctr.errors import SettingError
from ctr.events import MISSING, Batch, Messages, Reader, Refusal, open_reader
from ctr.events.encoder import texts
from ctr.events.envelope import lookup
from ctr.spec import Spec

MAX_LINES = 100_000
"""Lines of the sample that are read: two seconds' worth."""
LINES_PER_READ = 1000
ALL_READ, SOME_REFUSED = 0, 1
"""Exit statuses of `check`."""

_WIDTH = 120
_LONGEST_CELL = 40


def check(spec_path: str | Path, sample_path: str | Path, events: int, echo: Callable[[str], None]) -> int:
    """Show what the first events became, and what the sample as a whole looks like.

    Parameters
    ----------
    spec_path, sample_path : path
    events : int
        How many events to show feature by feature.
    echo : (text: str) -> None
        Takes the report, a paragraph at a time.

    Returns
    -------
    int
        `ALL_READ`, or `SOME_REFUSED` where at least one event cannot be read or there is none.

    Raises
    ------
    SettingError
        A file that cannot be read, or a specification that is wrong.
    """
    spec = specification.parse(_read_text(Path(spec_path)), str(spec_path))
    reader = open_reader(spec)
    seen = _Seen(spec)
    arrival_s = time.time()  # as a file's events arrive: with the start of the run
    echo(f"{spec.model_id}: {spec.event.format}, {len(spec.fields)} fields, digest {spec.digest}")
    for lines, line_numbers in _chunks(Path(sample_path)):
        batch, refusals = reader.read(_messages(lines, line_numbers, arrival_s))
        for index in range(min(len(batch), events - seen.shown)):
            number = int(batch.offsets[index])
            echo(_event(reader, batch, index, number, lines[number - line_numbers[0]]))
            seen.shown += 1
        seen.add(batch, refusals, len(lines))
    echo(seen.fields_report())
    echo(seen.summary())
    return SOME_REFUSED if seen.reasons or not seen.events else ALL_READ


@dataclass
class _Seen:
    """What the sample holds as a whole."""

    spec: Spec
    lines: int = 0
    events: int = 0
    positives: int = 0
    shown: int = 0
    first_s: float = np.inf
    last_s: float = -np.inf
    reasons: dict[str, tuple[int, Refusal]] = field(default_factory=dict)
    filled: NDArray[np.int64] = field(init=False)
    """(F,) events in which the field has a feature."""

    def __post_init__(self) -> None:
        self.filled = np.zeros(len(self.spec.fields), np.int64)

    def add(self, batch: Batch, refusals: list[Refusal], lines: int) -> None:
        self.lines += lines
        self.events += len(batch)
        if len(batch):
            self.positives += int(np.count_nonzero(batch.labels))
            self.first_s = min(self.first_s, float(batch.times_s.min()))
            self.last_s = max(self.last_s, float(batch.times_s.max()))
        event = np.repeat(np.arange(len(batch)), np.diff(batch.start))
        here = batch.keys != MISSING
        pairs = np.unique(event[here] * len(self.filled) + batch.fields[here])  # a multi-valued field counts once
        self.filled += np.bincount(pairs % len(self.filled), minlength=len(self.filled))
        for refusal in refusals:
            count, first = self.reasons.get(refusal.reason, (0, refusal))
            self.reasons[refusal.reason] = count + 1, first

    def fields_report(self) -> str:
        table = _table("Fields", "field", "source", "events with a feature")
        never = []
        for declared, filled in zip(self.spec.fields, self.filled.tolist(), strict=True):
            table.add_row(declared.name, declared.column, _share(filled, self.events))
            if not filled and self.events:
                never.append(declared.column)
        text = _text(table)
        if never:
            text += f"\nnever present: {', '.join(never)}. Is the source written as in the sample?\n"
        return text

    def summary(self) -> str:
        refused = sum(count for count, _ in self.reasons.values())
        limit = f" (the first {MAX_LINES:,} were read)" if self.lines == MAX_LINES else ""
        text = f"{self.lines:,} lines{limit}: {self.events:,} events, {refused:,} refused."
        if self.events:
            text += f" Positive labels: {_share(self.positives, self.events)}."
            if self.spec.event.time:
                text += f" Times: {_when(self.first_s)} to {_when(self.last_s)}."
        if not self.reasons:
            return text
        table = _table("Refused", "reason", "events", "first at", "path", "what was found")
        for reason, (count, first) in sorted(self.reasons.items(), key=lambda item: -item[1][0]):
            table.add_row(reason, f"{count:,}", f"line {first.offset}", first.path, _cut(first.message, 60))
        return _text(table) + "\n" + text


def _event(reader: Reader, batch: Batch, index: int, number: int, line: bytes) -> str:
    record = reader.parse(line)
    table = _table(
        f"Line {number}: label {batch.labels[index]:g}, weight {batch.weights[index]:g},"
        f" time {_when(float(batch.times_s[index]))}",
        "field", "in the event", "hashed as", "key", "value",
    )  # fmt: skip
    entries = slice(int(batch.start[index]), int(batch.start[index + 1]))
    keys, values, fields = batch.keys[entries], batch.values[entries], batch.fields[entries]
    for position, declared in enumerate(reader.spec.fields):
        given = lookup(record, declared.column)
        shown = "-" if given is None else _cut(repr(given))
        hashed = list(dict.fromkeys(texts(declared, record)))  # equal ones are one feature, at the first one's place
        own = np.flatnonzero((fields == position) & (keys != MISSING))
        if not len(own):
            table.add_row(declared.name, shown, "(missing)", "-", "-")
        for at, text in zip(own.tolist(), hashed or [""], strict=True):
            table.add_row(declared.name, shown, _cut(repr(text)), f"{int(keys[at]):016x}", f"{values[at]:.6g}")
    return _text(table)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError("specification", str(path), f"cannot be read: {error}") from None


def _chunks(path: Path) -> Iterator[tuple[list[bytes], range]]:
    """Yield lines, without their line breaks, and their numbers from 1."""
    try:
        with path.open("rb") as file:
            for begin in range(0, MAX_LINES, LINES_PER_READ):
                lines = [line.removesuffix(b"\n") for line in islice(file, LINES_PER_READ)]
                if not lines:
                    return
                yield lines, range(begin + 1, begin + 1 + len(lines))
    except OSError as error:
        raise SettingError("sample", str(path), f"cannot be read: {error}") from None


def _messages(lines: list[bytes], numbers: range, arrival_s: float) -> Messages:
    ...


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in ("value", "events") else "left", overflow="fold")
    return table


def _text(table: Table) -> str:
    out = io.StringIO()
    Console(file=out, width=_WIDTH, color_system=None, markup=False, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({100 * part / whole:.1f} %)" if whole else "0"


def _when(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="seconds")


def _cut(text: str, longest: int = _LONGEST_CELL) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."
