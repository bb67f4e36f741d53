"""A specification and a sample file in, what its events became and why some are refused out: `ctr check`.

Nothing is learned and no service is asked. Keys, values, labels, weights and times are read off the very batches that a
trainer would learn from.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from ctr import spec as specification
from ctr.errors import SettingError
from ctr.events import MISSING, Batch, Messages, Reader, Refusal, feature_key, open_reader
from ctr.events.envelope import lookup
from ctr.events.names import described
from ctr.spec import Spec
from workers.lifecycle import ExitCode
from workers.sources.files import FileSource

MAX_LINES = 100_000
"""The sample is read up to the end of the block that holds this line: about three seconds."""
_WIDTH = 120
_LONGEST_CELL = 40


def check(spec_path: str | Path, sample_path: str | Path, events: int, echo: Callable[[str], None]) -> ExitCode:
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
    ExitCode
        ``OK``, or ``SETTING`` where at least as many events are refused as are read: the specification and the sample
        do not belong together.

    Raises
    ------
    SettingError
        A file that cannot be read, or a specification that is wrong.
    """
    spec = specification.read(Path(spec_path))
    if Path(sample_path).is_dir():
        raise SettingError("sample", str(sample_path), "a file, not a directory")
    try:
        return _check(open_reader(spec), Path(sample_path), events, echo)
    except OSError as error:
        raise SettingError("sample", str(sample_path), f"a file that can be read: {error}") from None


def _check(reader: Reader, sample: Path, events: int, echo: Callable[[str], None]) -> ExitCode:
    spec = reader.spec
    source = FileSource(sample, follow=False, max_line_bytes=spec.event.max_bytes)
    source.open({})
    seen, shown = _Seen(spec), 0
    echo(f"{spec.model_id}: {spec.event.format} events, {len(spec.fields)} fields, digest {spec.digest}\n")
    while seen.lines < MAX_LINES and (messages := source.poll(0)) is not None:
        batch, refusals = reader.read(messages)
        for index in range(min(len(batch), events - shown)):
            at = int(np.searchsorted(messages.offsets, batch.offsets[index]))  # a line is a message is an event
            line = bytes(messages.data[int(messages.begin[at]) : int(messages.end[at])])
            echo(_event(reader, batch, index, line, seen.lines + _line_in(messages, int(messages.begin[at]))))
            shown += 1
        seen.add(messages, batch, refusals)
    echo(seen.by_field())
    echo(seen.summary())
    return ExitCode.OK if seen.events > seen.refused else ExitCode.SETTING


@dataclass
class _Seen:
    """What the sample holds as a whole."""

    spec: Spec
    lines: int = 0
    events: int = 0
    refused: int = 0
    positives: int = 0
    first_s: float = np.inf
    last_s: float = -np.inf
    reasons: dict[str, tuple[int, int, Refusal]] = field(default_factory=dict)
    """Events refused for a reason, the first one's line, the first one."""
    filled: NDArray[np.int64] = field(init=False)
    """(F,) events in which the field has a value."""

    def __post_init__(self) -> None:
        self.filled = np.zeros(len(self.spec.fields), np.int64)
        self._absent = np.array([feature_key(declared.name, "") for declared in self.spec.fields], np.uint64)

    def add(self, messages: Messages, batch: Batch, refusals: list[Refusal]) -> None:
        self.events += len(batch)
        self.refused += len(refusals)
        if len(batch):
            self.positives += int(np.count_nonzero(batch.labels))
            self.first_s = min(self.first_s, float(batch.times_s.min()))
            self.last_s = max(self.last_s, float(batch.times_s.max()))
        event = np.repeat(np.arange(len(batch)), np.diff(batch.start))
        here = (batch.keys != MISSING) & (batch.keys != self._absent[batch.fields])
        pairs = np.unique(event[here] * len(self.filled) + batch.fields[here])  # a multi-valued field counts once
        self.filled += np.bincount(pairs % len(self.filled), minlength=len(self.filled))
        for refusal in refusals:
            if refusal.reason not in self.reasons:
                self.reasons[refusal.reason] = 0, self.lines + _line_in(messages, refusal.begin), refusal
            count, line, first = self.reasons[refusal.reason]
            self.reasons[refusal.reason] = count + 1, line, first
        self.lines += _line_in(messages, len(messages.data)) - 1

    def by_field(self) -> str:
        table = _table("Fields", "field", "source", "events that have it")
        never = []
        for declared, filled in zip(self.spec.fields, self.filled.tolist(), strict=True):
            source = " x ".join(declared.cross) if declared.cross else declared.column
            if declared.transform in ("hour", "weekday"):
                source = str(self.spec.event.time)
            table.add_row(declared.name, source, _share(filled, self.events))
            if not filled and self.events and not declared.derived:
                never.append(declared.column)
        text = _text(table)
        if never:
            text += f"\nnever present: {', '.join(never)}. Is the source written as in the sample?\n"
        return text

    def summary(self) -> str:
        text = f"{self.lines:,} lines read: {self.events:,} events, {self.refused:,} refused."
        if self.events:
            text += f" Positive labels: {_share(self.positives, self.events)}."
            if self.spec.event.time:
                text += f" Times: {_when(self.first_s)} to {_when(self.last_s)}."
        if not self.reasons:
            return text
        table = _table("Refused", "reason", "events", "first at", "path", "what was found")
        for reason, (count, line, first) in sorted(self.reasons.items(), key=lambda item: -item[1][0]):
            table.add_row(reason, f"{count:,}", f"line {line:,}", first.path, first.message)
        return _text(table) + "\n" + text


def _event(reader: Reader, batch: Batch, index: int, line: bytes, number: int) -> str:
    record = reader.parse(line)
    named = reader.spec.event.id
    transformed = any(field.transform or field.cross for field in reader.spec.fields)
    table = _table(
        f"Line {number:,}: label {batch.labels[index]:g}, weight {batch.weights[index]:g},"
        f" time {_when(float(batch.times_s[index]))}"
        + (f", id {_cut(repr(lookup(record, named)))}" if named else ""),
        "field", "in the event", "hashed as", "key", "value", *(["in words"] if transformed else []),
    )  # fmt: skip
    found = described(reader.spec, record, float(batch.times_s[index]))
    words = {(feature.field, feature.key): (feature.text, feature.name) for feature in found}
    entries = slice(int(batch.start[index]), int(batch.start[index + 1]))
    keys, values, fields = batch.keys[entries], batch.values[entries], batch.fields[entries]
    for position, declared in enumerate(reader.spec.fields):
        given = None if declared.derived else lookup(record, declared.column)
        shown = "-" if given is None else _cut(repr(given))
        own = np.flatnonzero((fields == position) & (keys != MISSING))
        if not len(own):
            table.add_row(declared.name, shown, "(missing)", "-", "-")
            continue
        for at in own.tolist():
            text, name = words[declared.name, int(keys[at])]
            hashed = "two keys" if text is None else _cut(repr(text))
            said = _cut(name) if declared.transform or declared.cross else ""
            table.add_row(declared.name, shown, hashed, f"{int(keys[at]):016x}", f"{values[at]:.6g}",
                          *([said] if transformed else []))  # fmt: skip
    return _text(table)



def _line_in(messages: Messages, at: int) -> int:
    """Which line of the messages' buffer begins at a byte; the first is 1."""
    return 1 + bytes(messages.data).count(b"\n", 0, at)


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
