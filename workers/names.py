"""Messages go in, the names of a sample of their features go to the store: beside the commits, never in their way.

Best effort in every step: events beyond `EVENTS` a second are passed over, an outage of the store drops what was to be
written, and all of it is counted. A feature that is seen often is named soon.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from ctr.errors import CtrError, EventError
from ctr.events import Batch, named_features
from ctr.events.envelope import Envelope, Record, label_range
from ctr.events.messages import Messages
from ctr.quality.slices import Slices
from ctr.spec import Spec

EVENTS = 100
"""Looked at in a second at most: naming 39 features takes 0.1 ms of the interpreter, 1 % of a core then."""
_EVERY_S = 1.0
_REMEMBERED = 1 << 17
"""Names that were written lately and need not be written again."""


class Namer:
    """Names the features of a message.

    Parameters
    ----------
    spec : Spec
    parse : (line: bytes) -> Record
        Of the reader of this specification's events.
    """

    def __init__(self, spec: Spec, parse: Callable[[bytes], Record]) -> None:
        self._spec, self._parse, self._envelope = spec, parse, Envelope(spec.event, label_range(spec))

    def __call__(self, message: bytes, arrival_s: float) -> dict[int, str]:
        """Feature key -> name, of all its lines; a line that cannot be read is among the dead letters."""
        names: dict[int, str] = {}
        for line in message.splitlines():
            with contextlib.suppress(EventError):
                record = self._parse(line)
                names.update(named_features(self._spec, record, self._envelope.read(record, arrival_s)[2]))
        return names


class SliceNamer:
    """Gives the slices of quality their names, once each, out of the first message that holds their value.

    Parameters
    ----------
    spec, parse
        As of `Namer`.
    slices : Slices
    """

    def __init__(self, spec: Spec, parse: Callable[[bytes], Record], slices: Slices) -> None:
        self._names_in, self._slices = Namer(spec, parse), slices

    def __call__(self, batch: Batch, messages: Messages) -> None:
        """Name what can be named by these events and their messages."""
        for event in self._slices.unnamed_in(batch):
            of_event = (messages.offsets == batch.offsets[event]) & (messages.partitions == batch.partitions[event])
            for at in np.flatnonzero(of_event)[:1].tolist():
                begin, end = int(messages.begin[at]), int(messages.end[at])
                message, arrival_s = bytes(messages.data[begin:end]), float(messages.arrivals_s[at])
                self._slices.name(self._names_in(message, arrival_s))


class NameTaker:
    """Takes names in a daemon thread.

    Parameters
    ----------
    spec : Spec
    parse : (line: bytes) -> Record
        Of the reader of this specification's events.
    share : float
        Probability with which an event is looked at.
    write : (names) -> int
        Stores feature key -> name; returns how many others made room.
    """

    def __init__(
        self, spec: Spec, parse: Callable[[bytes], Record], share: float, write: Callable[[Mapping[int, str]], int]
    ) -> None:
        self._names_in, self._share, self._write = Namer(spec, parse), share, write
        self._chance = np.random.default_rng()  # nothing that is learned depends on it
        self._lock = threading.Lock()
        self._waiting: list[tuple[bytes, float]] = []
        self._written: set[int] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="names", daemon=True)
        self.counts: Counter[str] = Counter()
        """Names by what became of them: written, evicted, failed."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, and end."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        self.take()

    def offer(self, messages: Messages) -> None:
        """Look at some of these messages, later. Never waits."""
        chosen = np.flatnonzero(self._chance.random(len(messages)) < self._share)
        with self._lock:
            for i in chosen[: EVENTS - len(self._waiting)].tolist():
                begin, end = int(messages.begin[i]), int(messages.end[i])
                if end > begin and messages.offsets[i] > 0:  # the first line of a file may be a header
                    self._waiting.append((bytes(messages.data[begin:end]), float(messages.arrivals_s[i])))

    def _run(self) -> None:
        while not self._stopping.wait(_EVERY_S):
            self.take()

    def take(self) -> None:
        """Name what waits and write it; called by the thread, at its end, and by tests."""
        with self._lock:
            events, self._waiting = self._waiting, []
        names: dict[int, str] = {}
        for message, arrival_s in events:
            names.update(self._names_in(message, arrival_s))
        new = {key: name for key, name in names.items() if key not in self._written}
        if not new:
            return
        try:
            self.counts["evicted"] += self._write(new)
        except CtrError:
            self.counts["failed"] += len(new)
            return
        self.counts["written"] += len(new)
        if len(self._written) + len(new) > _REMEMBERED:
            self._written.clear()  # they are written again, should they have been evicted meanwhile
        self._written.update(new)

