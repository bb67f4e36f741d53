"""A model's name and a sample of its events in, where training and serving disagree about them out: `ctr skew`.

The same events go both ways: as a trainer reads and predicts them, from the rows of the store; and as scoring requests,
through a server or, where none is named, through a scorer of this process. Keys must be equal, probabilities too.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from ctr.client import Client as HttpClient
from ctr.errors import ModelMismatchError, SettingError
from ctr.events import MISSING, Batch, encode_rows, open_reader
from ctr.events.envelope import Record
from ctr.events.requests import RequestScanner
from ctr.model import Model
from ctr.serving.scorer import Scorer
from ctr.spec import Spec
from ctr.store import Client, ModelWriter, StoredModel, Version, connect, read_model
from workers.follower import Follower
from workers.lifecycle import ExitCode
from workers.sources.files import FileSource

TOLERANCE = 1e-6
"""Probabilities may differ by rounding alone."""
_ROWS = 256
"""Of a request."""
_TIMEOUT_S, _READY_S = 10.0, 120.0
_LOOKS, _PAUSE_S = 10, 0.1
"""A server that has not read all rows yet answers within its deadline from those it has, and reads on: so often, and so
long after each other, it is asked before a difference counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SkewSettings:
    """What `ctr skew` is told."""

    model: str
    sample: Path
    redis: str = field(repr=False)  # may hold a password
    scorer: str | None = None
    token: str | None = field(default=None, repr=False)
    events: int = 10_000


@dataclass
class Skew:
    """What was found.

    Attributes
    ----------
    events : int
    refused : int
        Events that a trainer refuses: nothing to compare.
    fields : Counter
        Events in which a field's features differ, by field.
    example : str
        The first of them.
    apart : int
        Probabilities that differ by more than `TOLERANCE`.
    largest : float
        Largest difference of two probabilities.
    """

    events: int = 0
    refused: int = 0
    fields: Counter[str] = field(default_factory=Counter)
    example: str = ""
    apart: int = 0
    largest: float = 0.0

    @property
    def found(self) -> bool:
        """Whether training and serving disagree."""
        return bool(self.fields or self.apart)


def skew(settings: SkewSettings, echo: Callable[[str], None]) -> ExitCode:
    """Compare both ways, event by event.

    Returns
    -------
    ExitCode
        ``OK``, or ``MODEL`` where they disagree.

    Raises
    ------
    SettingError
        A sample that cannot be read or holds no event.
    ModelMismatchError
        The model was committed to meanwhile: its trainer must have stopped.
    ModelMissingError, StoreUnavailableError, ScorerUnavailableError, RequestRefusedError
    """
    with connect(settings.redis) as client:
        stored = read_model(client, settings.model)
        before = _versions(client, stored)
        model = _loaded(client, stored)
        found = Skew()
        serving = _Serving(settings, stored.spec)
        try:
            for batch, records in _events(settings, stored.spec, found):
                compare_keys(stored.spec, batch, records, found)
                learned = model.predict_many(batch)
                compare_probabilities(learned, serving.predict(batch, records, learned), found)
        finally:
            serving.close()
        if not found.events:
            raise SettingError("SAMPLE", str(settings.sample), "a file with events that can be read")
        if _versions(client, stored) != before:
            raise ModelMismatchError(f"{stored.spec.model_id} was committed to meanwhile: stop its trainer first")
    echo(_report(stored.spec, found, serving))
    return ExitCode.MODEL if found.found else ExitCode.OK


def compare_keys(spec: Spec, batch: Batch, records: list[Record], found: Skew) -> None:
    """Add to `found` in which fields the events as a trainer reads them and as scoring requests have other features."""
    scanner = RequestScanner(spec)
    for index, record in enumerate(records):
        time_s = float(batch.times_s[index])
        body = msgspec.json.encode({"instances": [record]})
        asked = scanner.scan_rows(body, time_s, max_rows=len(body))
        if asked is None:
            asked = encode_rows(spec, [msgspec.json.decode(msgspec.json.encode(record))], time_s)
        learned, scored = _features(batch, index), _features(asked, 0)
        for position in {feature[0] for feature in learned ^ scored}:
            name = spec.fields[position].name
            found.fields[name] += 1
            if not found.example:
                one, other = ([f"{key:016x} x {value:g}" for at, key, value in sorted(features) if at == position]
                              for features in (learned, scored))  # fmt: skip
                found.example = f"{name}: training has {', '.join(one) or 'none'}, serving {', '.join(other) or 'none'}"


def compare_probabilities(learned: NDArray[np.float32], scored: NDArray[np.float32], found: Skew) -> None:
    """Add to `found` how far predictions of the same events (n,) are apart."""
    apart = np.abs(learned.astype(np.float64) - scored)
    found.events += len(apart)
    found.apart += _beyond(apart)
    found.largest = max(found.largest, float(apart.max(initial=0.0)))


def _beyond(apart: NDArray[np.float64]) -> int:
    return int(np.count_nonzero(~(apart <= TOLERANCE)))  # NaN is no agreement


class _Serving:
    """Answers of a server, or of a scorer in this process."""

    def __init__(self, settings: SkewSettings, spec: Spec) -> None:
        self._spec, self._scorer, self._http = spec, None, None
        self.versions: set[str] = set()
        if settings.scorer is None:
            self._scorer = Scorer(settings.redis, spec.model_id)
            self._scorer.start()
            self._scorer.wait_ready(_READY_S)
        elif any(one.transform in ("hour", "weekday") for one in spec.fields):
            raise SettingError("--scorer", settings.scorer, "not given for a model whose fields read the clock: a "
                               "server dates requests now, the events are older")  # fmt: skip
        else:
            self._http = HttpClient(settings.scorer, token=settings.token, timeout_s=_TIMEOUT_S)

    def predict(self, batch: Batch, records: list[Record], expected: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._http is not None:
            for look in range(_LOOKS):
                answer = self._http.predict(self._spec.model_id, records)
                scored = np.array(answer.value, np.float32)
                if not _beyond(np.abs(expected.astype(np.float64) - scored)):
                    break
                time.sleep(_PAUSE_S * (look < _LOOKS - 1))
            self.versions.add(answer.made.version)
            return scored
        assert self._scorer is not None, "one of the two"
        held = self._scorer.current
        if len(held.missing(batch)):
            held.cache.fill(batch)
        return held.score(batch)

    def close(self) -> None:
        if self._http is not None:
            self._http.close()
        if self._scorer is not None:
            self._scorer.close()


def _events(settings: SkewSettings, spec: Spec, found: Skew) -> Iterator[tuple[Batch, list[Record]]]:
    """Events of the sample as a trainer reads them, and as records, some at a time."""
    reader = open_reader(spec)
    if settings.sample.is_dir():
        raise SettingError("SAMPLE", str(settings.sample), "a file, not a directory")
    source = FileSource(settings.sample, follow=False, max_line_bytes=spec.event.max_bytes)
    source.open({})
    left = settings.events
    while left > 0 and (messages := source.poll(0)) is not None:
        batch, refusals = reader.read(messages)
        found.refused += len(refusals)
        at = np.searchsorted(messages.offsets, batch.offsets)  # a line is a message is an event
        for begin in range(0, min(len(batch), left), _ROWS):
            end = min(begin + _ROWS, len(batch), begin + left)
            lines = zip(messages.begin[at[begin:end]].tolist(), messages.end[at[begin:end]].tolist(), strict=True)
            yield batch.slice(begin, end), [reader.parse(bytes(messages.data[a:b])) for a, b in lines]
            left -= end - begin


def _features(batch: Batch, index: int) -> set[tuple[int, int, float]]:
    a, b = int(batch.start[index]), int(batch.start[index + 1])
    entries = zip(batch.fields[a:b].tolist(), batch.keys[a:b].tolist(), batch.values[a:b].tolist(), strict=True)
    return {entry for entry in entries if entry[1] != int(MISSING)}


def _versions(client: Client, stored: StoredModel) -> tuple[Version, ...]:
    return tuple(meta.version for meta in ModelWriter(client, stored).look())


def _loaded(client: Client, stored: StoredModel) -> Model:
    """The model as a trainer that starts now has it."""
    follower = Follower(client, stored, stored.spec)
    model = follower.hand_over(_versions(client, stored))
    if model is None:
        raise ModelMismatchError(f"{stored.spec.model_id} is being committed to: stop its trainer first")
    return model


def _report(spec: Spec, found: Skew, serving: _Serving) -> str:
    table = Table(title=f"{spec.model_id}: training and serving", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("what", "events", "differ"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for one in spec.fields:
        if found.fields[one.name]:
            table.add_row(f"features of {one.name}", f"{found.events:,}", f"{found.fields[one.name]:,}")
    if not found.fields:
        table.add_row("features, all fields", f"{found.events:,}", "0")
    table.add_row(f"probabilities, by more than {TOLERANCE:g}", f"{found.events:,}", f"{found.apart:,}")
    console = Console(width=120, color_system=None, highlight=False)
    with console.capture() as captured:
        console.print(table)
    lines = ["\n".join(line.rstrip() for line in captured.get().rstrip().splitlines()),
             f"largest difference of two probabilities: {found.largest:.2g}"]  # fmt: skip
    if found.refused:
        lines.append(f"{found.refused:,} events cannot be read and were left out; `ctr check` says why")
    if found.example:
        lines.append(f"first: {found.example}")
    if found.apart and not found.fields and serving.versions:
        lines.append(f"the server answered from versions {', '.join(sorted(serving.versions))}: is it up to date?")
    return "\n".join(lines)
