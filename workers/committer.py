"""A cut goes in, its acknowledgement comes out, and learning goes on between the two: when to cut, and who sends it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

from ctr.errors import StoreUnavailableError
from ctr.store import Cut

NICE = 5
"""Of the thread that sends, beside the learner's: where cores are short, cuts grow rarer, and learning goes on."""


class Commits(Protocol):
    """The store's side."""

    def commit(self, cut: Cut) -> None:
        """Publish a cut; with the same one again after a `StoreUnavailableError`."""


class Pace:
    """When the next cut may be made: after the interval, and not before its rows fit under the ceiling.

    A cut of `d` dirty rows waits until d <= `rows_per_s` x the time since the last one. Features repeat, so d grows
    more slowly than time and such a moment comes; the interval settles where the two meet.

    Parameters
    ----------
    interval_s : float
        Shortest time between two cuts.
    rows_per_s : float
        Ceiling on rows written a second, in the mean over each interval; 0 for none.

    Examples
    --------
    >>> pace = Pace(1.0, rows_per_s=100)
    >>> pace.made(0.0)
    >>> pace.is_due(0.9, dirty=10), pace.is_due(1.0, dirty=10)
    (False, True)
    >>> pace.is_due(1.0, dirty=250), pace.is_due(2.5, dirty=250)
    (False, True)
    """

    def __init__(self, interval_s: float, rows_per_s: float) -> None:
        self._interval_s, self._rows_per_s = interval_s, rows_per_s
        self._last: float | None = None
        self.settled_s = interval_s
        """Time between the last two cuts."""

    def is_due(self, now: float, dirty: int) -> bool:
        """Whether a cut of so many rows may be made now, by the monotonic clock."""
        if self._last is None:
            return True
        elapsed = now - self._last
        return elapsed >= self._interval_s and (not self._rows_per_s or dirty <= self._rows_per_s * elapsed)

    def wait_s(self, now: float) -> float:
        """Time until the interval is over."""
        return 0.0 if self._last is None else max(0.0, self._last + self._interval_s - now)

    def since_s(self, now: float) -> float:
        """Time since the last cut; infinite before the first."""
        return float("inf") if self._last is None else now - self._last

    def made(self, now: float) -> None:
        """A cut was made."""
        if self._last is not None:
            self.settled_s = now - self._last
        self._last = now


class Committer:
    """Sends one cut at a time, each from a daemon thread of its own.

    Parameters
    ----------
    writer : Commits
        Called by that thread alone while a cut is under way.
    patiently : (action) -> None
        Calls the action again through outages; runs in that thread too.
    """

    def __init__(self, writer: Commits, patiently: Callable[[Callable[[], None]], Any]) -> None:
        self._writer, self._patiently = writer, patiently
        self._cut: Cut | None = None
        self._sent: Future[None] = Future()
        self._began = 0.0
        self.busy_s = 0.0
        """Seconds with a cut under way."""

    @property
    def busy(self) -> bool:
        """Whether a cut is under way, or its end has not been looked at."""
        return self._cut is not None

    @property
    def under_way_s(self) -> float:
        """How long the cut under way has been so; 0 where there is none."""
        return time.monotonic() - self._began if self._cut is not None else 0.0

    def send(self, cut: Cut) -> None:
        """Begin to send; `ended` or `wait` tells how it went."""
        assert self._cut is None, "one cut at a time"
        self._cut, self._sent, self._began = cut, Future(), time.monotonic()
        threading.Thread(target=self._run, args=(cut, self._sent), name="commit", daemon=True).start()

    def _run(self, cut: Cut, sent: Future[None]) -> None:
        began = time.monotonic()
        if sys.platform == "linux":  # where it is the thread's alone
            os.nice(NICE)
        try:
            self._patiently(lambda: self._writer.commit(cut))
        except Exception as error:  # noqa: BLE001  handed over: raised where the worker is ended
            failed: Exception | None = error
        else:
            failed = None
        self.busy_s += time.monotonic() - began  # before the result: then the next thread may begin
        if failed is None:
            sent.set_result(None)
        else:
            sent.set_exception(failed)

    def ended(self) -> Cut | None:
        """Return the cut that was acknowledged since the last call, if one was.

        Raises
        ------
        CtrError
            What `commit` raised, the outage limit counted in.
        """
        return self._finish() if self._cut is not None and self._sent.done() else None

    def wait(self, timeout_s: float | None = None) -> Cut | None:
        """Wait for the cut under way; as `ended` otherwise.

        Raises
        ------
        StoreUnavailableError
            Not within `timeout_s`.
        CtrError
            As `ended`.
        """
        if self._cut is None:
            return None
        try:
            self._sent.exception(timeout_s)
        except TimeoutError:
            raise StoreUnavailableError(
                f"a commit of {len(self._cut.rows):,} rows was not acknowledged in time; the log still has its events"
            ) from None
        return self._finish()

    def _finish(self) -> Cut | None:
        cut, self._cut = self._cut, None
        self._sent.result()
        return cut
