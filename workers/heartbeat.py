"""A lease and a loop that turns go in, a lease that stays ours comes out: for as long as the loop turns."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable

from ctr.errors import CtrError
from ctr.store import Lease

BEATS = 6
"""Renewals in a lease's time: some may fail, or come late."""


class Heartbeat:
    """Renews a lease from a daemon thread.

    Parameters
    ----------
    lease : Lease
        Used by that thread alone from `start` to `stop`.
    alive : callable
        Whether the loop turns: a process that hangs must lose the lease.
    """

    def __init__(self, lease: Lease, alive: Callable[[], bool]) -> None:
        self._lease, self._alive = lease, alive
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._held_at = -math.inf

    @property
    def held(self) -> bool:
        """Whether the lease is ours, as far as we know: by the last answer, for as long as it lasts."""
        return time.monotonic() - self._held_at < self._lease.ttl_s

    def start(self) -> None:
        """Begin; the lease has just been taken."""
        self._held_at = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(self._stopping,), name="lease", daemon=True)
        self._thread.start()

    def _run(self, stopping: threading.Event) -> None:
        while not stopping.wait(self._lease.ttl_s / BEATS):
            if self._alive():
                # the store is away, or another holds the lease: the next beat, and the next commit, tell
                with contextlib.suppress(CtrError):
                    asked = time.monotonic()
                    self._held_at = asked if self._lease.hold() else -math.inf

    def look(self) -> bool:
        """Ask now whether the lease is ours; without another holder it becomes so.

        Raises
        ------
        StoreUnavailableError
            Call again; until then it is not renewed.
        """
        self.stop()
        if not self._lease.hold():
            return False
        self.start()
        return True

    def stop(self) -> None:
        """Renew it no more."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._held_at = -math.inf
