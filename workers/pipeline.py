"""A source goes in, batches come out, in the source's order: one thread fetches, others scan, ahead of the learner.

Who calls the source: from `Pipeline.start` to `Pipeline.stop` the fetch thread alone, before and after that the thread
that owns the pipeline. So a source needs no lock. What others want to know of it (positions, lag, watermark) travels
with the chunk that it belongs to, which is also why positions are those of what was learned, whatever was read ahead.

Memory: what was fetched and not yet taken is bounded by `AHEAD_EVENTS` and `AHEAD_BYTES` (of messages; a batch of them
takes about as much again). A learner that waits, for a slow store, so stops the reading.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from ctr.errors import SourceUnavailableError
from ctr.events import Batch
from ctr.events.messages import Messages, Refusal
from workers.sources import Source

AHEAD_EVENTS = 16_384
"""Enough to bridge the packing of a cut (0.1 s) at 100,000 events/s, and small enough to stay in the caches."""
AHEAD_BYTES = 32 << 20
_POLL_S = 0.1
_PAUSE_S = 0.5
"""Between two questions to a source that does not answer."""
_LAG_S = 0.25
"""How often the lag is asked for: of a directory it costs a stat for each file."""
_END_S = 10.0
"""What a fetch under way may take to end; the source's own timeouts are shorter."""


class ReadsMessages(Protocol):
    """A reader; several threads call it at once."""

    def read(self, messages: Messages) -> tuple[Batch, list[Refusal]]:
        """As `ctr.events.Reader.read`."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the source stood right behind a chunk: true of the learner once it has learned that chunk.

    Attributes
    ----------
    partitions : sequence of str
        Names; the chunk's partition numbers are indices.
    positions : mapping of str to int
        Next offset to learn.
    arrival_s : float
        All that arrived before this moment is in this chunk or in earlier ones.
    lag : mapping of str to int
        What was left to read behind it, at most `_LAG_S` ago.
    finished : bool
        Nothing can come after it.
    marks : mapping of str to str
        What the source says of the log at these positions.
    skipped : mapping of str to sequence of (int, int)
        Spans of offsets that are lost, and given up.
    """

    partitions: Sequence[str]
    positions: Mapping[str, int]
    arrival_s: float
    lag: Mapping[str, int]
    finished: bool
    marks: Mapping[str, str]
    skipped: Mapping[str, Sequence[tuple[int, int]]]

    @classmethod
    def of(cls, source: Source, lag: Mapping[str, int]) -> Standing:
        """Ask a source that is this thread's."""
        return cls(
            tuple(source.partitions), source.positions(), source.arrival_watermark_s(), lag, source.finished,
            source.marks(), dict(source.skipped),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Chunk:
    """Messages that are ready to be learned, or none: the source had nothing new, but time has passed."""

    standing: Standing
    messages: Messages | None
    batch: Batch | None
    refusals: Sequence[Refusal]


@dataclass(frozen=True, slots=True)
class Clocks:
    """Seconds by stage; they go on counting when a pipeline is replaced by another. Each entry has one writer.

    Attributes
    ----------
    busy_s : dict of str to float
        Seconds of work of a stage, of all its threads together.
    waited_s : dict of (str, str) to float
        Seconds of waiting for something to do (``starved``) or for room to put it (``blocked``). A learner that starves
        beside a fetch that is blocked waits for the scanners; beside one that starves, too, for events.
    """

    busy_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("fetch", "scan", "learn", "pack"), 0.0))
    waited_s: dict[tuple[str, ...], float] = field(
        default_factory=lambda: dict.fromkeys(((s, w) for s in ("fetch", "learn") for w in ("starved", "blocked")), 0.0)
    )


@dataclass(slots=True)
class _Ticket:
    """A place in the order. `read` scans it, at once (no scan threads) or when somebody waits for the result."""

    standing: Standing | None
    messages: Messages | None
    scanned: Future[tuple[Batch, list[Refusal], float]] | None
    events: int = 0
    n_bytes: int = 0


class Pipeline:
    """Reads ahead of the learner. Made anew for each start: a stopped pipeline has nothing to hand over.

    Parameters
    ----------
    source : Source
        Open, at the positions where reading is to begin.
    reader : ReadsMessages
    threads : int
        Scan threads; 0 scans in `take`. What comes out does not depend on it.
    outage_limit_s : float
        How long the source may be away before its error ends the worker.
    clocks : Clocks
    ahead_events, ahead_bytes : int
        Bounds on what waits; a single chunk that is larger passes alone.
    """

    def __init__(
        self, source: Source, reader: ReadsMessages, *, threads: int, outage_limit_s: float, clocks: Clocks,
        ahead_events: int = AHEAD_EVENTS, ahead_bytes: int = AHEAD_BYTES,
    ) -> None:  # fmt: skip
        self._source, self._reader, self._outage_limit_s = source, reader, outage_limit_s
        self._clocks, self._max_events, self._max_bytes = clocks, ahead_events, ahead_bytes
        self._changed = threading.Condition()  # guards the queue, its sizes and the copy
        self._queue: deque[_Ticket] = deque()
        self._events = self._bytes = 0
        self._copy: Mapping[str, int] | None = None
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(threads, "scan") if threads else None
        self._thread = threading.Thread(target=self._run, name="fetch", daemon=True)
        self._lag: Mapping[str, int] = {}
        self._lag_due = 0.0
        self.source_up = True
        self.source_said = ""
        """Of the last outage: what the source said."""

    def start(self) -> None:
        """Begin to read. From here on the source belongs to the fetch thread."""
        self._thread.start()

    def stop(self) -> bool:
        """Stop reading, drop what was not taken. Whether the fetch thread has ended, and the source is free again."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(_END_S)
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        with self._changed:
            self._queue.clear()
            self._events = self._bytes = 0
        return not self._thread.is_alive()

    def committed(self, offsets: Mapping[str, int]) -> None:
        """Have the fetch thread tell the source; a later call replaces one that was not told yet."""
        with self._changed:
            self._copy = offsets
            self._changed.notify_all()

    def queued_events(self) -> dict[str, int]:
        """Events that wait, by the stage that they wait for."""
        with self._changed:
            waiting = [(ticket.events, ticket.scanned is not None and ticket.scanned.done()) for ticket in self._queue]
        scanned = sum(events for events, done in waiting if done)
        return {"scan": sum(events for events, _ in waiting) - scanned, "learn": scanned}

    @property
    def queued_bytes(self) -> int:
        """Bytes of the messages that wait."""
        return self._bytes

    def take(self, timeout_s: float) -> Chunk | None:
        """Next chunk in order; None where there is none within `timeout_s`.

        Raises
        ------
        CtrError
            Whatever ended the fetch thread, after all chunks before it.
        """
        began = time.perf_counter()
        try:
            ticket = self._head(timeout_s)
        finally:
            self._clocks.waited_s["learn", "starved"] += time.perf_counter() - began
        if ticket is None:
            return None
        batch, refusals = None, list[Refusal]()
        if ticket.scanned is not None:
            batch, refusals, seconds = ticket.scanned.result()
            self._clocks.busy_s["scan"] += seconds
        elif ticket.messages is not None:
            batch, refusals, seconds = self._scan(ticket.messages)
            self._clocks.busy_s["scan"] += seconds
        if ticket.messages is not None:
            refusals = [*ticket.messages.refused, *refusals]
        assert ticket.standing is not None, "only a failure has none, and its result() has raised it"
        return Chunk(ticket.standing, ticket.messages, batch, refusals)

    def _head(self, timeout_s: float) -> _Ticket | None:
        """Take the first ticket off the queue once it is scanned."""
        end = time.monotonic() + timeout_s
        with self._changed:
            if not self._changed.wait_for(lambda: bool(self._queue), timeout_s):
                return None
            ticket = self._queue[0]
        if ticket.scanned is not None:
            try:
                ticket.scanned.exception(max(0.0, end - time.monotonic()))
            except TimeoutError:
                return None
        with self._changed:
            self._queue.popleft()
            self._events -= ticket.events
            self._bytes -= ticket.n_bytes
            self._changed.notify_all()
        return ticket

    def _scan(self, messages: Messages) -> tuple[Batch, list[Refusal], float]:
        began = time.perf_counter()
        batch, refusals = self._reader.read(messages)
        return batch, refusals, time.perf_counter() - began

    # ---- the fetch thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._fetch_until_stopped()
        except Exception as error:  # noqa: BLE001  handed over: `take` raises it where the worker is ended
            failure: Future[tuple[Batch, list[Refusal], float]] = Future()
            failure.set_exception(error)
            with self._changed:
                self._queue.append(_Ticket(None, None, failure))
                self._changed.notify_all()

    def _fetch_until_stopped(self) -> None:
        answered = time.monotonic()
        while not self._stopping.is_set():
            self._tell()
            if not self._has_room():
                continue
            asked, began = time.monotonic(), time.perf_counter()
            messages = None
            try:
                messages = self._source.poll(_POLL_S)
                if self._source.up:
                    answered = asked
                elif asked - answered > self._outage_limit_s:
                    raise SourceUnavailableError(f"the source has not answered for {asked - answered:.0f} s")
            except SourceUnavailableError as error:
                if asked - answered > self._outage_limit_s:
                    raise
                self.source_said, self.source_up = str(error), self._source.up
                self._stopping.wait(_PAUSE_S)
            self.source_up = self._source.up
            seconds = time.perf_counter() - began
            if messages is None:
                self._clocks.waited_s["fetch", "starved"] += seconds
            else:
                self._clocks.busy_s["fetch"] += seconds
            standing = self._standing()
            self._put(standing, messages)
            if standing.finished:
                return

    def _standing(self) -> Standing:
        now = time.monotonic()
        if now >= self._lag_due or self._source.finished:
            self._lag, self._lag_due = self._source.lag(), now + _LAG_S
        return Standing.of(self._source, self._lag)

    def _put(self, standing: Standing, messages: Messages | None) -> None:
        events, n_bytes = (0, 0) if messages is None else (len(messages), len(messages.data))
        ticket = _Ticket(standing, messages, None, events, n_bytes)
        if messages is not None and self._pool is not None:
            ticket.scanned = self._pool.submit(self._scan, messages)
        with self._changed:
            if messages is None and self._queue and self._queue[-1].messages is None:
                self._queue.pop()  # what has only the time to say, the later one says as well
            self._queue.append(ticket)
            self._events += events
            self._bytes += n_bytes
            self._changed.notify_all()

    def _has_room(self) -> bool:
        """Wait for room, but not so long that a copy of positions would wait with it."""
        began = time.perf_counter()
        with self._changed:
            room = self._changed.wait_for(
                lambda: self._stopping.is_set() or self._copy is not None or self._is_below_bounds(), _POLL_S
            )
            room = room and self._is_below_bounds()
        self._clocks.waited_s["fetch", "blocked"] += time.perf_counter() - began
        return room and not self._stopping.is_set()

    def _is_below_bounds(self) -> bool:
        return self._events < self._max_events and self._bytes < self._max_bytes

    def _tell(self) -> None:
        with self._changed:
            offsets, self._copy = self._copy, None
        if offsets is not None:
            self._source.committed(offsets)
