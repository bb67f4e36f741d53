"""`ctr simulate`: a market and a clock in, event lines to a sink out, at a rate or flat out, until told to stop."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

from ctr.errors import SettingError
from workers.lifecycle import ExitCode, Shutdown
from workers.market import SIMULATED_PACE, Market

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.market import Events

BLOCK = 4096
"""Most events between two looks at the stop flag: 7 ms of a flat-out market."""
TICK_S = 0.005
"""Shortest sleep: at high rates events leave in blocks, and a follower still sees each within 0.1 s."""
PATIENCE_S = 0.05
"""Longest sleep: how long a stop may go unnoticed at low rates."""
FLUSH_EVENTS, FLUSH_S = 20_000, 1.0
"""Events, and seconds, after which what was sent must have arrived: bounds memory, and tells of a failure in time."""


@dataclass(frozen=True, slots=True)
class SimulateSettings:
    """What the command line and the environment say; see `Market` and `simulate`."""

    out: str | None = None
    kafka: str | None = None
    topic: str | None = None
    kafka_config: Path | None = None
    partitions: int = 1
    events: int | None = None
    rate: float | None = None
    seed: int = 1
    users: int = 20_000
    ads: int = 400
    start_time_s: float | None = None
    truth: bool = False


class Sink(Protocol):
    """Where lines go: a file, a topic."""

    def send(self, lines: list[bytes], keys: list[bytes], /) -> None:
        """Pass on all lines (without line ends) before returning, or within 0.1 s; `keys` are their message keys."""

    def flush(self) -> None:
        """Wait until everything sent has arrived."""

    def close(self) -> None:
        """Let go of the file or the connection."""


class Clock(Protocol):
    """What the module `time` offers, so that a test can bring its own."""

    def time(self) -> float:
        """Seconds since 1970."""

    def monotonic(self) -> float:
        """Seconds since some moment, never set back."""

    def sleep(self, seconds: float, /) -> None:
        """Wait."""


class FileSink:
    """Lines to a file, or to standard output for ``-``; unbuffered, so that a follower sees them at once.

    Raises
    ------
    SettingError
        The path cannot be opened or written.
    BrokenPipeError
        The reader of a pipe has left.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            # The descriptor itself: Python's own buffer of standard output would be flushed once more at exit, into
            # a pipe that may be gone.
            self._file = open(1 if path == "-" else path, "wb", buffering=0, closefd=path != "-")  # noqa: SIM115  closed by close()
        except OSError as error:
            raise SettingError("--out", path, f"cannot be opened: {error.strerror}") from None

    def send(self, lines: list[bytes], _keys: list[bytes], /) -> None:
        """Write whole lines; the keys have no place in a file."""
        if not lines:
            return
        left = memoryview(b"\n".join(lines) + b"\n")
        try:
            while left:  # a pipe may take a part
                left = left[self._file.write(left) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise SettingError("--out", self._path, f"cannot be written: {error.strerror}") from None

    def flush(self) -> None:
        """Nothing waits: `send` has written."""

    def close(self) -> None:
        """Close the file; standard output stays open."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(slots=True)
class Tally:
    """What is known of the events so far: the two ends of the scale on which a model of them is measured."""

    events: int = 0
    clicks: int = 0
    oracle_loss: float = 0.0
    """Sum of the logloss of the true probabilities."""
    entropy: float = 0.0
    """Sum of its expectation, which chance has no part in."""

    def add(self, events: Events) -> None:
        """Count a block in."""
        p, clicked = events.p, events.click == 1
        gain, loss = np.log(p), np.log1p(-p)
        self.events += len(events)
        self.clicks += int(clicked.sum())
        self.oracle_loss -= float(np.where(clicked, gain, loss).sum())
        self.entropy -= float((p * gain + (1 - p) * loss).sum())

    @property
    def base_rate(self) -> float:
        """Share of clicks; NaN before the first event."""
        return self.clicks / self.events if self.events else math.nan

    @property
    def base_logloss(self) -> float:
        """Mean logloss of always predicting the base rate: its entropy."""
        return sum(-rate * math.log(rate) if rate else 0.0 for rate in (self.base_rate, 1 - self.base_rate))

    @property
    def oracle_logloss(self) -> float:
        """Mean logloss of the true probabilities: the best reachable."""
        return self.oracle_loss / self.events if self.events else math.nan

    @property
    def oracle_entropy(self) -> float:
        """Mean of what `oracle_logloss` is expected to be."""
        return self.entropy / self.events if self.events else math.nan

    def summary(self) -> str:
        """One line for people."""
        if not self.events:
            return "no events"
        return (
            f"{self.events:,} events, base rate {self.base_rate:.4f}; "
            f"logloss of the base rate {self.base_logloss:.4f}, "
            f"of the oracle {self.oracle_logloss:.4f} (expected {self.oracle_entropy:.4f})"
        )


def run(settings: SimulateSettings) -> ExitCode:
    """Simulate until all events are sent or a signal comes; says on standard error what there is to be learned.

    Raises
    ------
    SettingError
        No place to write to, two, or one that cannot be written.
    SourceUnavailableError
        Kafka did not take the events.
    """
    shutdown = Shutdown()
    shutdown.install()
    market = Market(settings.seed, users=settings.users, ads=settings.ads)
    sink = _open_sink(settings)
    try:
        tally = simulate(
            market, sink, stopping=lambda: shutdown.requested, rate=settings.rate, events=settings.events,
            start_time_s=settings.start_time_s, truth=settings.truth,
        )  # fmt: skip
    finally:
        sink.close()
    print(tally.summary(), file=sys.stderr)
    return ExitCode.OK


def _open_sink(settings: SimulateSettings) -> Sink:
    if settings.out is not None:
        if settings.kafka is not None:
            raise SettingError("--out", settings.out, "either --out or --kafka")
        return FileSink(settings.out)
    if settings.kafka is None:
        raise SettingError("--out", None, "one of --out PATH or --kafka HOST:PORT --topic NAME is required")
    if settings.topic is None:
        raise SettingError("--topic", None, "is required with --kafka")
    from workers import kafka_login  # noqa: PLC0415  kafka-python takes 0.3 s: only where needed
    from workers.sinks import KafkaSink  # noqa: PLC0415  as above

    login = kafka_login.read(settings.kafka_config)
    return KafkaSink(settings.kafka, settings.topic, partitions=settings.partitions, login=login)


def simulate(
    market: Market,
    sink: Sink,
    *,
    stopping: Callable[[], bool],
    rate: float | None = None,
    events: int | None = None,
    start_time_s: float | None = None,
    pace: float | None = None,
    truth: bool = False,
    tally: Tally | None = None,
    clock: Clock = time,
) -> Tally:
    """Send the market's next events until `events` are sent, `stopping` says so, or the reader of a pipe has left.

    Parameters
    ----------
    market, sink
        Where events come from and go to.
    stopping
        Looked at before every block and every 0.05 s of a wait; a block that was begun is sent whole.
    rate : float, optional
        Events a second; flat out without it. Event i is due i / rate after the start, whatever happened before: no
        drift, and after a stall it catches up.
    events : int, optional
        How many; endless without it.
    start_time_s : float, optional
        Event times begin here (seconds since 1970) and advance by 1 / pace; without it events are dated when they
        are sent.
    pace : float, optional
        Events a second of simulated time: `rate` or, flat out, `SIMULATED_PACE` without it.
    truth : bool
        Events carry their true click probability as ``p``.
    tally : Tally, optional
        Counted into, block by block, instead of a new one.

    Returns
    -------
    Tally
        Of the events sent (and of those it held before).
    """
    step_s = 1.0 / (pace or rate or SIMULATED_PACE)
    tally = Tally() if tally is None else tally
    begin_s = flushed_s = clock.monotonic()
    sent = unflushed = 0
    while not stopping() and (events is None or sent < events):
        due = BLOCK if events is None else min(BLOCK, events - sent)
        if rate is not None:
            passed_s = clock.monotonic() - begin_s
            room, due = due, math.floor(passed_s * rate) + 1 - sent
            # A block costs 0.15 ms however small: none below a tick's worth.
            if due < min(room, max(1.0, rate * TICK_S)):
                clock.sleep(min(max(sent / rate - passed_s, TICK_S), PATIENCE_S))
                continue
            due = min(due, room)
        if start_time_s is None:
            times = np.full(due, clock.time())
        else:
            times = start_time_s + step_s * np.arange(sent, sent + due)
        block = market.events(due, times)
        try:
            sink.send(market.lines(block, truth=truth), market.users(block))
        except BrokenPipeError:
            return tally
        tally.add(block)
        sent += due
        unflushed += due
        if unflushed >= FLUSH_EVENTS or clock.monotonic() - flushed_s >= FLUSH_S:
            sink.flush()
            unflushed, flushed_s = 0, clock.monotonic()
    sink.flush()
    return tally
