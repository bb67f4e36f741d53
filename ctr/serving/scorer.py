"""Rows of features in, probabilities out: a model in the store, scored from a local copy that follows it."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ctr import log
from ctr.errors import CtrError, SettingError, StoreUnavailableError
from ctr.events import Batch, encode_rows
from ctr.model import Model
from ctr.model.ranking import Question
from ctr.serving.cache import RowCache
from ctr.serving.questions import QuestionEncoder, Ranking
from ctr.spec import Spec
from ctr.store import Client, ShardReader, connect, read_model

POLL_S = 0.05
"""Time between two looks at the store: adds half of it to an answer's age."""
REREAD_ROWS_PER_S = 100_000
"""Rows read again at most: what one Redis bears beside its writer if scorers' p99 is to stay under 6 ms (DESIGN.md)."""
_TIMEOUT_S = 1.0
_MAX_BACKOFF_S = 2.0


class Scorer:
    """Scores with a model of the store. Pure: it never writes, whatever is asked.

    A feature that the model has never seen, or whose row has expired, contributes nothing. While Redis is away it goes
    on with the rows it has read; `staleness_s` says how old they are.

    Parameters
    ----------
    redis : str or Client
        URL, or a client from `ctr.store.connect`.
    model : str
        ``name`` (its live generation) or ``name@generation``.
    max_rows : int, optional
        Bound on the rows held; the specification's where it is not given.
    poll_s : float
        Time between two looks at the store.
    reread_rows_per_s : float
        Pace at which rows that changed are read again.

    Raises
    ------
    ModelMissingError, ModelMismatchError
        The store holds no such model, or a newer format.
    StoreUnavailableError
        Redis does not answer.

    Examples
    --------
    >>> with Scorer("redis://localhost:6379/0", "ads") as scorer:  # doctest: +SKIP
    ...     scorer.predict([{"user": 7, "ad": "a1"}, {"user": 8, "ad": "a1"}])
    array([0.0312, 0.0127], dtype=float32)

    Without ``with`` or `start` nothing follows the store in the background: each `predict` then looks for changes
    itself, one round trip more.
    """

    def __init__(
        self,
        redis: str | Client,
        model: str,
        *,
        max_rows: int | None = None,
        poll_s: float = POLL_S,
        reread_rows_per_s: float = REREAD_ROWS_PER_S,
    ) -> None:
        if max_rows is not None and max_rows < 1024:
            raise SettingError("max_rows", max_rows, "at least 1024")
        client = connect(redis, timeout_s=_TIMEOUT_S) if isinstance(redis, str) else redis
        stored = read_model(client, model)
        self.spec: Spec = stored.spec
        rows = max_rows or stored.spec.model.max_rows
        self._readers = readers = [
            ShardReader(client, keys, row_bytes=stored.row_bytes) for keys in stored.keys
        ]
        self.cache = RowCache(Model(stored.spec, weights_only=True, max_rows=rows), readers, max_rows=rows)
        self._poll_s, self._reread_rows_per_s = poll_s, reread_rows_per_s
        self._questions = QuestionEncoder(stored.spec)
        self._log = log.get(component="scorer", model=self.model_id)
        self._following = threading.Lock()
        self._stop, self._ready = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._error: CtrError | None = None
        self._away_since: float | None = None
        self._warm = False

    @property
    def model_id(self) -> str:
        """``name@generation``."""
        return self.spec.model_id

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        """Probability of a click for each row.

        Parameters
        ----------
        rows : sequence of n mappings
            Feature values as in an event; one that is missing or that no field reads is fine.

        Returns
        -------
        (n,) float32

        Raises
        ------
        EventError
            A value that cannot be a feature, with its path.
        """
        if self._thread is None:
            self._follow_once()
        batch = self.encode(rows, path="$")
        if len(self.missing(batch)):
            self.fill(batch)
        return self.score(batch)

    def rank(
        self, context: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]], top: int | None = None
    ) -> Ranking:
        """Find the best of many candidates for one context.

        The same as predicting ``{**context, **candidate}`` for each and sorting, within 1e-6, but what the context
        alone decides is computed once.

        Parameters
        ----------
        context : mapping
            User, page, time of day: what all candidates share.
        candidates : sequence of n mappings
            What each of them adds, or puts in the place of the context's.
        top : int, optional
            How many to return; all n where it is not given.

        Raises
        ------
        EventError
            A value that cannot be a feature, with its path.
        """
        if self._thread is None:
            self._follow_once()
        question = self.question(context, candidates, ("$", "$"))
        scores, unknown = self.score_question(question)
        if unknown and self.fill(question.batch):
            scores, _ = self.score_question(question)
        return Ranking.of(scores, top)

    # The steps of `predict`, for a caller that must not wait: only `fill` does

    def encode(self, rows: Sequence[Mapping[str, Any]], path: str = "$.instances") -> Batch:
        """Rows as keys; `path` is where they stand, for errors."""
        return encode_rows(self.spec, rows, time.time(), path)

    def missing(self, batch: Batch) -> NDArray[np.uint64]:
        """Keys of which nothing is known here yet."""
        return self.cache.missing(batch)

    def fill(self, batch: Batch) -> bool:
        """Read what is missing; False where the store did not give it. Waits for the store, at most its time-out."""
        if self._error is not None and self._thread is not None:
            return False  # the follower tries; a request need not wait for what it will be told anyway
        try:
            self.cache.fill(batch)
        except CtrError:
            return False
        return True

    def score(self, batch: Batch) -> NDArray[np.float32]:
        """(n,) probabilities from what is held."""
        return self.cache.predict(batch)

    def question(
        self, context: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]],
        paths: tuple[str, str] = ("$.context", "$.candidates"),
    ) -> Question:  # fmt: skip
        """Context and candidates as keys; `paths` is where they stand, for errors."""
        return self._questions.question(context, candidates, time.time(), paths)

    def score_question(self, question: Question) -> tuple[NDArray[np.float32], int]:
        """(n,) probabilities from what is held, and how many features nothing is known of here yet."""
        return self.cache.rank(question)

    # Following the store

    def start(self) -> None:
        """Follow the store in a daemon thread, until `close`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._follow, name=f"follow-{self.model_id}", daemon=True)
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
        if self._thread is not None:
            self._thread.join(_TIMEOUT_S + 1.0)

    def __enter__(self) -> Self:
        self.start()
        self.wait_ready(60.0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _follow(self) -> None:
        try:
            self._compile()
            failures = 0
            pause = 0.0
            while not self._stop.wait(pause):
                began = time.monotonic()
                read = self._follow_once()
                if read is None:
                    failures += 1
                    pause = min(_MAX_BACKOFF_S, self._poll_s * 2.0 ** min(failures, 16)) * random.uniform(0.5, 1.0)
                    continue
                failures = 0
                self._ready.set()
                pause = max(0.0, read / self._reread_rows_per_s - (time.monotonic() - began))
                if not self.cache.due_rows:
                    pause = max(pause, self._poll_s * random.uniform(0.8, 1.0))  # many scorers, one Redis
        except Exception:
            # The one place that ends this thread; `live` tells of it, and the process goes on answering meanwhile.
            self._log.exception("the follower crashed; answers grow stale")
            raise

    def _compile(self) -> None:
        """Compile what requests call, or load it from the disk cache: up to seconds that no request should pay."""
        self.cache.warm()
        batch = self.encode([{}])
        self.missing(batch)
        self.score(batch)
        self._warm = True

    def _follow_once(self) -> int | None:
        """One step of the cache; None where the store could not be read. Says so once when that changes."""
        with self._following:
            try:
                ShardReader.look_ahead(self._readers)
                read = self.cache.follow()
            except CtrError as error:
                if self._error is None:
                    self._away_since = time.time()
                    self._log.warning("the store cannot be read; answering from what is held", error=str(error))
                self._error = error
                return None
            if self._error is not None:
                self._log.info("the store is back", away_s=round(self.away_s, 1))
                self._error, self._away_since = None, None
            return read

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
        return f"starting: {self._error or 'the model is being read'}"

    @property
    def error(self) -> CtrError | None:
        """Why the store cannot be read; None while it can."""
        return self._error

    @property
    def away_s(self) -> float:
        """For how long the store could not be read, in seconds; 0 while it can."""
        since = self._away_since
        return 0.0 if since is None else max(0.0, time.time() - since)

    def staleness_s(self) -> float:
        """Age of what answers are made of: all that arrived in the log longer ago is learned and in use here.

        Infinite before anything was committed.
        """
        watermarks = self.cache.watermarks
        return _age(watermarks.arrival_s if watermarks else 0.0)

    def event_lag_s(self) -> float:
        """Age of the newest event in use, by its own time; infinite before there was one."""
        watermarks = self.cache.watermarks
        return _age(watermarks.event_s if watermarks else 0.0)

    def commit_age_s(self) -> float:
        """Age of the last commit in use; infinite before there was one."""
        watermarks = self.cache.watermarks
        return _age(watermarks.commit_s if watermarks else 0.0)


def _age(moment_s: float) -> float:
    return max(0.0, time.time() - moment_s) if moment_s > 0 else math.inf
