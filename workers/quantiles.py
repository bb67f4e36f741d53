"""A specification and a sample file in, the specification with its quantiles frozen as edges out: `ctr quantiles`.

A trainer must not learn edges while it runs: a bin would mean another thing every hour. So they are learned once, from
a sample, and become part of the specification, which is stored with the model and is the same in training and serving.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import tomlkit
from tomlkit.exceptions import TOMLKitError

from ctr import spec as specification
from ctr.errors import EventError, SettingError
from ctr.events import open_reader
from ctr.events.envelope import Record, lookup
from ctr.events.transforms import number
from ctr.spec import Field, Spec
from workers.lifecycle import ExitCode
from workers.sources.files import FileSource


def learn_quantiles(
    spec_path: Path, sample_path: Path, events: int, *, write: bool,
    echo: Callable[[str], None], say: Callable[[str], None],
) -> ExitCode:  # fmt: skip
    """Learn the edges of all fields that have `quantiles` and none yet.

    Parameters
    ----------
    spec_path, sample_path : Path
    events : int
        How many events of the sample to look at.
    write : bool
        Write the specification to its file; otherwise `echo` gets it.
    echo : (text: str) -> None
        Takes the specification.
    say : (text: str) -> None
        Takes a line a field on what was found.

    Raises
    ------
    SettingError
        A file that cannot be read, a specification that is wrong, a field that the sample has too few values of.
    """
    spec = specification.read(spec_path)
    text = spec_path.read_text(encoding="utf-8")
    columns = [_Column(i, field) for i, field in enumerate(spec.fields) if field.quantiles and not field.edges]
    if not columns:
        say("no field has quantiles without edges: nothing to learn")
        return ExitCode.OK
    try:
        read = _sample(spec, columns, sample_path, events)
    except OSError as error:
        raise SettingError("sample", str(sample_path), f"a file that can be read: {error}") from None
    try:
        document = tomlkit.parse(text)
    except TOMLKitError as error:
        raise SettingError("SPEC", str(spec_path), f"TOML that can be edited: {error}") from None
    for column in columns:
        edges = column.edges(read)
        document["fields"][column.index]["edges"] = [int(x) if x == int(x) else x for x in edges]
        say(
            f"{column.declared.name}: {len(edges)} edges from {edges[0]:g} to {edges[-1]:g}, of {len(column.values):,}"
            f" numbers in {read:,} events ({column.unreadable:,} are none)"
        )
    frozen = tomlkit.dumps(document)
    specification.parse(frozen, str(spec_path))  # what is written can be read
    if write:
        spec_path.write_text(frozen, encoding="utf-8")
    else:
        echo(frozen)
    return ExitCode.OK


@dataclass
class _Column:
    """Numbers of one field."""

    index: int
    declared: Field
    values: array[float] = field(default_factory=lambda: array("d"))
    unreadable: int = 0

    def add(self, record: Record) -> None:
        given = lookup(record, self.declared.column)
        for value in given if self.declared.multi and isinstance(given, list) else [given]:
            if value is None or value == "":
                continue
            try:
                self.values.append(number(value))
            except EventError:
                self.unreadable += 1

    def edges(self, events: int) -> list[float]:
        """See `quantile_edges`."""
        n = self.declared.quantiles or 0
        found = quantile_edges(np.array(self.values), n, ends=self.declared.transform == "bspline")
        if len(found) < (2 if self.declared.transform == "bspline" else 1):
            what = f"field {self.declared.name!r} has {len(set(self.values))} different numbers in {events:,} events"
            raise SettingError(f"fields[{self.index}].quantiles", n, f"needs a sample with more of them: {what}")
        return found


def quantile_edges(values: np.ndarray[tuple[int], np.dtype[np.float64]], n: int, *, ends: bool) -> list[float]:
    """Edges that cut numbers into `n` parts as equal as ties allow: each once, increasing.

    Quantile j of n is the smallest number x such that at least the share j / n of all is at most x, so that each edge
    is one of the numbers. For bins these are j = 1 ... n - 1 without the smallest number itself, below which no bin
    would hold anything; for knots (`ends`) j = 0 ... n, where 0 is the smallest number.

    Parameters
    ----------
    values : (m,) float64
    n : int
    ends : bool

    Examples
    --------
    >>> quantile_edges(np.array([5.0, 1, 2, 3, 4, 6, 7, 8]), 4, ends=False)
    [2.0, 4.0, 6.0]
    >>> quantile_edges(np.array([0.0, 0, 0, 0, 0, 1, 2, 9]), 4, ends=True)
    [0.0, 1.0, 9.0]
    """
    if not len(values):
        return []
    ordered = np.sort(values)
    ranks = (np.arange(1, n + 1 if ends else n) * len(ordered) + n - 1) // n  # ceil(j m / n), in whole numbers
    found = np.unique(ordered[ranks - 1])
    smallest = ordered[:1]
    found = np.union1d(smallest, found) if ends else np.setdiff1d(found, smallest)
    edges: list[float] = (found + 0.0).tolist()  # -0.0 is 0.0
    return edges


def _sample(spec: Spec, columns: list[_Column], path: Path, events: int) -> int:
    """Collect the columns' numbers from events that a trainer would read; how many those are."""
    plain = tuple(Field(name=column.declared.name, source=column.declared.source, multi=column.declared.multi)
                  for column in columns)  # fmt: skip
    reader = open_reader(msgspec.structs.replace(spec, fields=plain))
    source = FileSource(path, follow=False, max_line_bytes=spec.event.max_bytes)
    source.open({})
    seen = 0
    while seen < events and (messages := source.poll(0)) is not None:
        batch, _ = reader.read(messages)
        for at in np.searchsorted(messages.offsets, batch.offsets[: events - seen]).tolist():
            record = reader.parse(bytes(messages.data[int(messages.begin[at]) : int(messages.end[at])]))
            for column in columns:
                column.add(record)
        seen += len(batch)
    return min(seen, events)
