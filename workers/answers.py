"""Answered requests go in, a sample of their rows and probabilities goes to a topic or a file: what was really served.

Best effort in every step, beside the requests and never in their way: what does not fit into the queue is dropped, an
outage of Kafka drops what was to be written, and all of it is counted. `ctr join` reads it.
"""

from __future__ import annotations

import math
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from ctr import log
from ctr.errors import EventError, SettingError, SourceUnavailableError
from ctr.events.envelope import Record, lookup
from ctr.serving.asgi import Response
from ctr.spec import Spec

QUEUE = 1000
"""Requests that wait at most; each holds its body."""
_EVERY_S = 0.2
_KAFKA = re.compile(r"kafka://(?P<bootstrap>[^/\s]+)/(?P<topic>[A-Za-z0-9._-]{1,249})")


class Place(msgspec.Struct, frozen=True):
    """Where answers are kept: a topic of a Kafka, or a file."""

    bootstrap: str | None = None
    topic: str | None = None
    path: Path | None = None

    @classmethod
    def read(cls, text: str) -> Place:
        """``kafka://HOST:PORT[,HOST:PORT...]/TOPIC`` or a path.

        Raises
        ------
        SettingError
        """
        if not text.startswith("kafka:"):
            return cls(path=Path(text))
        match = _KAFKA.fullmatch(text)
        if match is None:
            raise SettingError("--answers", text, "kafka://HOST:PORT[,HOST:PORT...]/TOPIC or the path of a file")
        return cls(match["bootstrap"], match["topic"])


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the log.

    Attributes
    ----------
    id : str
        Of the event that the row became, as the specification's ``event.id`` names it.
    time_s : float
        When it was answered, seconds since 1970.
    model, version : str
        What answered: ``name@generation``, and the oldest commit whose rows are in use.
    staleness_s : float or None
        None before a commit.
    p : float
        The answer.
    row : dict
        As it was asked.
    """

    id: str
    time_s: float
    model: str
    version: str
    staleness_s: float | None
    p: float
    row: dict[str, Any]


def identity_of(record: Record, column: str | None) -> str | None:
    """Id of an event or a row as text; None where it has none."""
    try:
        value = None if column is None else lookup(record, column)
    except EventError:
        return None
    return value if value is None or isinstance(value, str) else str(value)


class _Sink(Protocol):
    def send(self, values: Sequence[bytes]) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class _FileSink:
    """Appends lines to a file."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("ab")
        except OSError as error:
            raise SettingError("--answers", str(path), f"a file that can be written ({error.strerror})") from None

    def send(self, values: Sequence[bytes]) -> None:
        self._file.write(b"".join(value + b"\n" for value in values))

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class AnswerLog:
    """Writes in a daemon thread.

    Parameters
    ----------
    place : Place
    share : float
        Probability with which a request is kept, with all its rows.
    login : mapping of str to object, optional
        Of a topic's Kafka: see `workers.kafka_login`.
    """

    def __init__(self, place: Place, share: float, login: Mapping[str, Any] | None = None) -> None:
        self._place, self._share, self._login = place, share, login
        self._sink: _Sink | None = None if place.path is None else _FileSink(place.path)
        self._lock = threading.Lock()
        self._waiting: list[tuple[Spec, bytes, Response, float]] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)
        self._log = log.get(worker="scorer")
        self.counts: Counter[str] = Counter(dict.fromkeys(("written", "without_id", "dropped"), 0))
        """Rows by what became of them; `dropped` are requests."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, and end."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        self.write()
        if self._sink is not None:
            self._sink.close()

    def offer(self, spec: Spec, body: bytes, response: Response) -> None:
        """Keep some of these answered requests. Never waits."""
        if random.random() >= self._share:
            return
        with self._lock:
            if len(self._waiting) < QUEUE:
                self._waiting.append((spec, body, response, time.time()))
            else:
                self.counts["dropped"] += 1

    def _run(self) -> None:
        try:
            self._opened()  # makes the topic: a reader need not wait for the first answer
        except (SourceUnavailableError, OSError) as error:
            self._log.warning("answers_cannot_be_written_yet", error=str(error))
        while not self._stopping.wait(_EVERY_S):
            self.write()

    def write(self) -> None:
        """Write what waits; called by the thread, at its end, and by tests."""
        with self._lock:
            entries, self._waiting = self._waiting, []
        if not entries:
            return
        lines = [line for entry in entries for line in self._lines(*entry)]
        try:
            sink = self._opened()
            sink.send(lines)
            sink.flush()
        except (SourceUnavailableError, OSError) as error:
            self.counts["dropped"] += len(entries)
            self._log.warning("answers_dropped", requests=len(entries), error=str(error))
            return
        self.counts["written"] += len(lines)

    def _opened(self) -> _Sink:
        if self._sink is None:
            bootstrap, topic = self._place.bootstrap, self._place.topic
            assert bootstrap is not None, "a file has its sink from the start"
            assert topic is not None, "as above"
            from workers.sinks import KafkaSink  # noqa: PLC0415  kafka-python takes 0.3 s: only where needed

            self._sink = KafkaSink(bootstrap, topic, login=self._login)
        return self._sink

    def _lines(self, spec: Spec, body: bytes, response: Response, time_s: float) -> list[bytes]:
        said = dict(response.headers)
        staleness_s = float(said[b"x-ctr-staleness-seconds"])
        model, version = said[b"x-ctr-model"].decode(), said[b"x-ctr-version"].decode()
        rows, predictions = msgspec.json.decode(body)["instances"], msgspec.json.decode(response.body)["predictions"]
        lines = []
        for row, p in zip(rows, predictions, strict=True):
            if (identity := identity_of(row, spec.event.id)) is None:
                self.counts["without_id"] += 1
            else:
                lines.append(msgspec.json.encode(Answered(
                    id=identity, time_s=time_s, model=model, version=version, p=p, row=row,
                    staleness_s=staleness_s if math.isfinite(staleness_s) else None,
                )))  # fmt: skip
        return lines
