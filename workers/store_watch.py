"""A store goes in, gauges and warnings come out: what may run out on its servers, looked at beside the work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from ctr import log, metrics
from ctr.errors import CtrError
from ctr.store.watch import Gauges

_EVERY_S = 10.0
_SAY_S = 600.0
"""The same warning of the same server is said again after this time."""


class StoreWatch:
    """Looks every ten seconds, from a daemon thread.

    Parameters
    ----------
    look : callable
        Gauges of all servers, by address; a `CtrError` of it is passed over, for commits tell of it.
    """

    def __init__(self, look: Callable[[], Mapping[str, Gauges]], *, every_s: float = _EVERY_S) -> None:
        self._look, self._every_s = look, every_s
        self._log = log.get(worker="store")
        self._gauges: Mapping[str, Gauges] = {}
        self._said: dict[tuple[str, str], float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store-watch", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; a look under way is not waited for."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.turn()
            self._stopping.wait(self._every_s)

    def turn(self) -> None:
        """Look once."""
        try:
            found = self._look()
        except CtrError:
            return
        for server, gauges in found.items():
            for warning in gauges.warnings(self._gauges.get(server)):
                self._say(server, warning)
        self._gauges = found

    def _say(self, server: str, warning: str) -> None:
        kind, now = (server, warning.rpartition(":")[2]), time.monotonic()  # what to do; the figures change
        if now >= self._said.get(kind, 0.0):
            self._log.warning("store_strained", server=server, reason=warning)
            self._said[kind] = now + _SAY_S

    def numbers(self) -> dict[str, metrics.Value]:
        """Metrics of all servers, as they were at the last look."""
        found = dict(self._gauges)
        return {
            f"ctr_redis_{name}": {(server,): float(getattr(gauges, name)) for server, gauges in found.items()}
            for name in (
                "memory_bytes", "memory_limit_bytes", "replicas", "behind_bytes", "backlog_bytes",
                "output_buffer_bytes", "clients_cut",
            )
        }  # fmt: skip
