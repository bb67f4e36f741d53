"""How a worker ends: signals, exit codes, deadlines, and retries that are bounded and said aloud."""

from __future__ import annotations

import enum
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

from ctr.errors import (
    CtrError,
    FencedError,
    GuardRefusedError,
    ModelMismatchError,
    ModelMissingError,
    PortInUseError,
    PositionLostError,
    SettingError,
    ShardLostError,
    SnapshotError,
    SourceUnavailableError,
    StoreUnavailableError,
    TooManyRefusedError,
)

T = TypeVar("T")


class ExitCode(enum.IntEnum):
    """What a worker's exit status means; the README carries this table."""

    OK = 0
    CRASHED = 1
    USAGE = 2
    SETTING = 3
    UNAVAILABLE = 4
    MODEL = 5
    FENCED = 6
    POSITION = 7
    PORT = 8
    REFUSED = 9
    GUARD = 10
    KILLED = 130


_CODES: tuple[tuple[type[CtrError], ExitCode], ...] = (
    (SettingError, ExitCode.SETTING),
    (StoreUnavailableError, ExitCode.UNAVAILABLE),
    (SourceUnavailableError, ExitCode.UNAVAILABLE),
    (ModelMissingError, ExitCode.MODEL),
    (ModelMismatchError, ExitCode.MODEL),
    (ShardLostError, ExitCode.MODEL),
    (SnapshotError, ExitCode.MODEL),
    (FencedError, ExitCode.FENCED),
    (PositionLostError, ExitCode.POSITION),
    (PortInUseError, ExitCode.PORT),
    (TooManyRefusedError, ExitCode.REFUSED),
    (GuardRefusedError, ExitCode.GUARD),
)


def exit_code(error: CtrError) -> ExitCode:
    """Which status tells of this error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.CRASHED)


class Shutdown:
    """A flag that the first SIGTERM or SIGINT sets; the second ends the process at once."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def install(self) -> None:
        """Take the signals; call from the main thread."""
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)

    def _handle(self, _signal: int, _frame: FrameType | None) -> None:
        if self._event.is_set():
            os._exit(ExitCode.KILLED)
        self._event.set()

    def request(self) -> None:
        """As if a signal had come."""
        self._event.set()

    @property
    def requested(self) -> bool:
        """Whether it is time to stop."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep, but no longer than until the flag is set; returns the flag."""
        return self._event.wait(seconds)


class Deadline:
    """One budget of seconds that all steps of a shut-down share."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def remaining(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._end - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether nothing is left."""
        return self.remaining == 0.0


def retry(
    action: Callable[[], T],
    *,
    limit_s: float,
    shutdown: Shutdown,
    grace_s: float,
    failed: Callable[[CtrError, float], Any],
) -> T:
    """Call `action` until it succeeds; a retriable error waits 0.1 s to 5 s (doubling, with jitter) and tries again.

    Parameters
    ----------
    action : callable
    limit_s : float
        Total time after which the error is raised after all.
    shutdown : Shutdown
    grace_s : float
        How long to go on trying after a stop was asked for.
    failed : callable
        Told of each failure and of the pause before the next try: logs and counts.
    """
    end, pause, stop_end = time.monotonic() + limit_s, 0.1, None
    while True:
        try:
            return action()
        except CtrError as error:
            now = time.monotonic()
            if shutdown.requested and stop_end is None:
                stop_end = now + grace_s
            if not error.retriable or now >= end or (stop_end is not None and now >= stop_end):
                raise
            failed(error, pause)
            wait = pause * random.uniform(0.5, 1.0)
            if stop_end is None:
                shutdown.wait(wait)
            else:
                time.sleep(min(wait, grace_s / 10))
            pause = min(5.0, pause * 2)
