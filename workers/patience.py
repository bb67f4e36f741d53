"""An action goes in and is called again through outages, each of them said and counted; its result comes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ctr.errors import CtrError
from workers.lifecycle import Deadline, Shutdown, retry

T = TypeVar("T")

GRACE_S = 10.0
"""How long to go on trying after a stop was asked for."""


class Patience:
    """Of one worker with its services.

    Parameters
    ----------
    shutdown : Shutdown
    limit_s : float
        How long a service may be away before the worker gives up.
    turned : callable
        Called whenever something was tried in the worker's own thread: it waits, it does not hang.
    logger : structlog logger

    Attributes
    ----------
    failures : int
        Tries that failed.
    store_up : bool
        Whether the last commit that was tried was answered.
    """

    def __init__(self, shutdown: Shutdown, limit_s: float, turned: Callable[[], None], logger: Any) -> None:
        self._shutdown, self._limit_s, self._turned, self._log = shutdown, limit_s, turned, logger
        self.failures = 0
        self.store_up = True

    def __call__(self, action: Callable[[], T], /, deadline: Deadline | None = None) -> T:
        """Do it in the worker's own thread."""

        def failed(error: CtrError, pause_s: float) -> None:
            self._turned()
            self._say(error, pause_s)

        return self._retried(action, failed, deadline)

    def commit(self, action: Callable[[], None]) -> None:
        """Do it in the committer's thread."""

        def failed(error: CtrError, pause_s: float) -> None:
            self.store_up = False
            self._say(error, pause_s)

        self._retried(action, failed, None)
        if not self.store_up:
            self._log.info("store_up")
        self.store_up = True

    def _retried(self, action: Callable[[], T], failed: Callable[[CtrError, float], None], end: Deadline | None) -> T:
        grace_s = end.remaining if end else GRACE_S
        return retry(action, limit_s=self._limit_s, shutdown=self._shutdown, grace_s=grace_s, failed=failed)

    def _say(self, error: CtrError, pause_s: float) -> None:
        self.failures += 1
        self._log.warning("retrying", error=str(error), pause_s=round(pause_s, 2))
