"""A model in the store in, the generation of it that answers out: its rows, its settings and itself kept up to date."""

from __future__ import annotations

import random
import threading
import time
from types import TracebackType
from typing import Self

from ctr import log
from ctr.errors import CtrError, SettingError, StoreUnavailableError
from ctr.serving.cache import RowCache
from ctr.serving.catalogue import settle
from ctr.serving.generation import Generation
from ctr.spec import Spec
from ctr.store import Client, StoredModel, connect, read_model

POLL_S = 0.05
"""Time between two looks at the store: adds half of it to an answer's age."""
LOOK_S = 1.0
"""Time between two looks at which generation is live and at what changed in place, such as the ttl."""
REREAD_ROWS_PER_S = 100_000
"""Rows read again at most: what one Redis bears beside its writer if scorers' p99 is to stay under 6 ms (DESIGN.md)."""
_LEAST_REST_S, _MOST_BEHIND_S = 0.0005, 0.01
"""Between two pieces of work requests get the core, however late it is; of a pace that was not kept so much is made up
for."""
_TIMEOUT_S = 1.0
_MAX_BACKOFF_S = 2.0
_PRELOAD_CHUNK = 1000
PRELOAD = 100_000
"""Rows read before the first request: a second at the pace above, and 70 MB of 39 fields with k = 4."""
_HOT_SET_S = 30.0
"""How long the rows that will be asked for may take before requests are answered without them."""


class Follower:
    """Holds the generation of a model that answers, and follows what happens to it; `ctr.serving.scorer.Scorer` asks.

    Parameters and errors are those of `ctr.serving.scorer.Scorer`.
    """

    def __init__(
        self,
        redis: str | Client,
        model: str,
        *,
        max_rows: int | None = None,
        poll_s: float = POLL_S,
        reread_rows_per_s: float = REREAD_ROWS_PER_S,
        look_s: float = LOOK_S,
        catalogue: str | None = None,
        preload: int = PRELOAD,
    ) -> None:
        if max_rows is not None and max_rows < 1024:
            raise SettingError("max_rows", max_rows, "at least 1024")
        if preload < 0:
            raise SettingError("preload", preload, "a number of rows, 0 for none")
        self.name, self._max_rows, self._catalogue, self._preload = model, max_rows, catalogue, preload
        self._client = connect(redis, timeout_s=_TIMEOUT_S) if isinstance(redis, str) else redis
        self._current = self._generation(read_model(self._client, model))
        self._next: Generation | None = None
        self._preparing: threading.Thread | None = None
        self._poll_s, self._reread_rows_per_s, self._look_s = poll_s, reread_rows_per_s, look_s
        self._look_at = time.monotonic() + look_s
        self._lost: CtrError | None = None
        self._log = log.get(component="scorer", model=model)
        self._following = threading.Lock()
        self._stop, self._ready = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._away_since: float | None = None
        self._paced_s = 0.0
        self._warm = False

    def _generation(self, stored: StoredModel) -> Generation:
        return Generation(
            self._client, stored, max_rows=self._max_rows, catalogue=self._catalogue, preload=self._preload
        )

    @property
    def current(self) -> Generation:
        """The generation that answers now. A request asks once and takes all its steps with what it got."""
        return self._current

    @property
    def spec(self) -> Spec:
        """Specification of the generation that answers now."""
        return self._current.spec

    @property
    def model_id(self) -> str:
        """``name@generation`` of what answers now."""
        return self._current.model_id

    @property
    def cache(self) -> RowCache:
        """Rows of the generation that answers now."""
        return self._current.cache

    def _looked(self) -> Generation:
        """What answers now; where nobody follows in the background, after a look at the store."""
        if self._thread is None:
            self._follow_once()
        return self._current

    def _may_ask(self, held: Generation) -> bool:
        """While the store is away the follower tries: a request need not wait for what it will be told anyway."""
        return held.error is None or self._thread is None

    # Following the store

    def start(self) -> None:
        """Follow the store in a daemon thread, until `close`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._follow, name=f"follow-{self.name}", daemon=True)
            self._thread.start()

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until `ready` has nothing to say.

        Raises
        ------
        StoreUnavailableError
            It was not within `timeout_s`.
        """
        if not self._ready.wait(timeout_s):
            raise StoreUnavailableError(f"{self.model_id} was not ready within {timeout_s} s: {self.ready()}")

    def close(self) -> None:
        """Stop following. Safe to call twice; `predict` goes on working."""
        self._stop.set()
        for thread in (self._thread, self._preparing):
            if thread is not None:
                thread.join(_TIMEOUT_S + 1.0)

    def __enter__(self) -> Self:
        self.start()
        self.wait_ready(60.0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _follow(self) -> None:
        try:
            self._current.warm()
            self._warm = True
            failures, ready_by = 0, time.monotonic() + _HOT_SET_S
            pause = 0.0
            while not self._stop.wait(pause):
                began = time.monotonic()
                read = self._follow_once()
                if read is not None:
                    read += self._current.catalogue.follow() + self._current.preload.follow()
                if read is None:
                    failures += 1
                    pause = min(_MAX_BACKOFF_S, self._poll_s * 2.0 ** min(failures, 16)) * random.uniform(0.5, 1.0)
                    continue
                failures = 0
                due = self._current.catalogue.due + self._current.preload.due
                if not due or time.monotonic() > ready_by:
                    self._ready.set()
                pause = max(0.0, read / self._reread_rows_per_s - (time.monotonic() - began))
                if not (self.cache.due_rows or due):
                    pause = max(pause, self._poll_s * random.uniform(0.8, 1.0))  # many scorers, one Redis
        except Exception:
            # The one place that ends this thread; `live` tells of it, and the process goes on answering meanwhile.
            self._log.exception("the follower crashed; answers grow stale")
            raise

    def _rest(self, rows: int) -> None:
        """Keep to the pace at which rows are read again; without a thread of its own a scorer goes on at once."""
        if self._thread is None:
            return
        now = time.monotonic()
        self._paced_s = max(self._paced_s, now - _MOST_BEHIND_S) + rows / self._reread_rows_per_s
        self._stop.wait(max(_LEAST_REST_S, self._paced_s - now))

    def _follow_once(self) -> int | None:
        """One step of the cache; None where the store could not be read. Says so once when that changes."""
        with self._following:
            if time.monotonic() >= self._look_at or self._current.error is not None:
                self._look()
                if isinstance(self._lost, StoreUnavailableError):  # to ask for rows would only wait once more
                    self._told(self._current, self._lost)
                    return None
            self._take_over()
            held = self._current
            try:
                read = held.follow(self._rest)
            except CtrError as error:
                self._told(held, error)
                return None
            self._told(held, self._lost)
            return None if self._lost else read

    def _told(self, held: Generation, error: CtrError | None) -> None:
        """Remember how the store was found, and say so once."""
        if error is not None and held.error is None:
            self._away_since = time.time()
            self._log.warning("the store cannot be read; answering from what is held", error=str(error))
        elif error is None and held.error is not None:
            self._log.info("the store is back", away_s=round(self.away_s, 1))
            self._away_since = None
        held.error = error

    def _look(self) -> None:
        """See which generation is live, and how it stands; another one is prepared beside the one that answers."""
        self._look_at = time.monotonic() + self._look_s
        try:
            stored = read_model(self._client, self.name)
            self._lost = None
        except CtrError as error:
            self._lost = error
            return
        held = self._current
        if stored.spec == held.spec and stored.shards == held.stored.shards:
            return  # as nearly always: a digest of 39 fields takes ten milliseconds of the interpreter
        if (stored.spec.model_id, stored.spec.digest, stored.shards) == (
            held.model_id, held.spec.digest, held.stored.shards,
        ):  # fmt: skip
            held.change(stored.spec)
            self._log.info("settings changed in place", ttl_s=stored.spec.lifetime.ttl_s)
        elif self._thread is None:
            self._prepare(stored)
        elif self._preparing is None or not self._preparing.is_alive():
            self._preparing = threading.Thread(
                target=self._prepare, args=(stored,), name=f"prepare-{self.name}", daemon=True
            )
            self._preparing.start()

    def _prepare(self, stored: StoredModel) -> None:
        """Load another generation, with the features that are in use now: to have them cold would slow all requests."""
        try:
            made = self._generation(stored)
            made.warm()
            while not self._stop.is_set():
                made.follow(self._rest)
                if not made.cache.broken:
                    break
            settle(made.catalogue, self._stop.wait)
            if made.catalogue.error is not None:
                raise made.catalogue.error
            keys = self.cache.held_keys()[::-1]  # the latest first
            for begin in range(0, len(keys), _PRELOAD_CHUNK):
                if self._stop.is_set():
                    return
                made.cache.preload(keys[begin : begin + _PRELOAD_CHUNK])
                self._stop.wait(_PRELOAD_CHUNK / self._reread_rows_per_s)
            self._next = made
        except CtrError as error:
            self._log.warning("another generation cannot be loaded yet", model=stored.spec.model_id, error=str(error))
        except Exception:  # noqa: BLE001  whatever it is, what answers now goes on, and the next look tries again
            self._log.exception("another generation cannot be loaded", model=stored.spec.model_id)

    def _take_over(self) -> None:
        made, self._next = self._next, None
        if made is None:
            return
        left, self._current = self._current, made
        self._away_since = None
        self._log.info("another generation answers", before=left.model_id, now=made.model_id, rows=made.cache.rows)

    # How it stands

    def live(self) -> str | None:
        """None, or why this process should be restarted."""
        if self._thread is not None and not self._thread.is_alive() and not self._stop.is_set():
            return "the thread that follows the store has crashed; the log says why"
        return None

    def ready(self) -> str | None:
        """None once requests can be answered well, else what is still missing."""
        if self._ready.is_set():
            return None
        if not self._warm:
            return "starting: kernels are being compiled"
        return f"starting: {self.error or 'rows that will be asked for are being read'}"

    @property
    def error(self) -> CtrError | None:
        """Why the store cannot be read; None while it can."""
        return self._current.error

    @property
    def away_s(self) -> float:
        """For how long the store could not be read, in seconds; 0 while it can."""
        since = self._away_since
        return 0.0 if since is None else max(0.0, time.time() - since)

    def staleness_s(self) -> float:
        """See `Generation.staleness_s`."""
        return self._current.staleness_s()

    def event_lag_s(self) -> float:
        """See `Generation.event_lag_s`."""
        return self._current.event_lag_s()

    def commit_age_s(self) -> float:
        """See `Generation.commit_age_s`."""
        return self._current.commit_age_s()
