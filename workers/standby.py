"""A lease that another holds goes in, a lease of our own comes out, with a model that is warm: what a stand-by does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ctr.errors import CtrError, StoreUnavailableError
from ctr.store import Lease
from workers.follower import Follower
from workers.heartbeat import BEATS
from workers.lifecycle import Shutdown

POLL_S = 0.1
"""Between two looks at lease and change streams: a tenth of the time that a graceful hand-over may take."""
_SAY_S = 10.0


class Standby:
    """Waits for a lease.

    Parameters
    ----------
    lease : Lease
    open_follower : callable
        Makes the follower, when it is clear that there is something to wait for.
    shutdown : Shutdown
    turned : callable
        Called whenever the loop has turned.
    logger : structlog logger
    """

    def __init__(
        self, lease: Lease, open_follower: Callable[[], Follower], shutdown: Shutdown, turned: Callable[[], None],
        logger: Any,
    ) -> None:  # fmt: skip
        self._lease, self._open_follower, self._shutdown = lease, open_follower, shutdown
        self._turned, self._log = turned, logger
        self._follower: Follower | None = None
        self._absent_since: float | None = None
        self._say_due = 0.0

    @property
    def warm(self) -> bool:
        """Whether it would take over at once."""
        return self._follower is not None and self._follower.warm

    @property
    def rows(self) -> int:
        """Features held."""
        return 0 if self._follower is None else self._follower.rows

    def wait(self) -> Follower | None:
        """Wait until the lease is ours, or a stop is asked for.

        Returns
        -------
        Follower or None
            None where nobody had the lease at the first look: then nothing was followed.

        Raises
        ------
        StoreUnavailableError
            Redis did not answer the first question.
        """
        self._follower = self._absent_since = None
        if self._lease.hold():
            return None
        self._log.info("standing_by", reason="another trainer of this model holds the lease")
        follower = self._follower = self._open_follower()
        while not self._shutdown.requested:
            try:
                if self._is_over() and self._lease.hold():
                    self._log.info("lease_taken", rows=follower.rows, warm=follower.warm)
                    self._follower = None
                    return follower
                follower.follow()
            except CtrError as error:
                self._absent_since = None if isinstance(error, StoreUnavailableError) else self._absent_since
                if time.monotonic() >= self._say_due:
                    self._log.warning("standby_waits", error=str(error))
                    self._say_due = time.monotonic() + _SAY_S
            self._turned()
            self._shutdown.wait(POLL_S)
        return None

    def _is_over(self) -> bool:
        """Whether the holder gave the lease up, or has let it lapse for longer than it takes to come back to it.

        After an outage of the store the lease has lapsed, and its holder is alive: it is given two beats.
        """
        free = self._lease.is_free()
        if free is not None:
            self._absent_since = None
            return free
        now = time.monotonic()
        if self._absent_since is None:
            self._absent_since = now
        return now - self._absent_since >= 2 * self._lease.ttl_s / BEATS
