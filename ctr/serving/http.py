"""Scoring requests over HTTP in, probabilities out: TensorFlow Serving's row format over a `Scorer`.

A request whose features are all known stays in the event loop's thread from its first byte to its last. One with
unknown features asks the store in a thread, waits for it until the deadline, and is answered from what is held.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from prometheus_client import Histogram

import ctr
from ctr.errors import EventError
from ctr.events import Batch
from ctr.events.jsonlines import decoder
from ctr.kernels import simd
from ctr.metrics import SCORER, Value, registry
from ctr.serving.asgi import MAX_BODY_BYTES, HttpError, OpsApp, Reason, Request, Response, json_response
from ctr.serving.scorer import Scorer

DEADLINE_S = 0.05
MAX_INSTANCES = 1024
"""Rows in a request. They are scored in one go, and others wait meanwhile: 14 us a row of 39 fields, most of it values
becoming keys (wrk -t1 -c8, 100 rows a request, all known)."""
STALE_AFTER_S = 60.0
_FILL_THREADS = 4
_MAX_FILLS = 256
"""Requests that may wait for the store at once; beyond it they are answered from what is held."""
_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)


class _PredictRequest(msgspec.Struct):
    instances: list[dict[str, Any]]


class ScorerApp(OpsApp):
    """What `ctr serve` answers: ``POST /v1/models/{model}:predict``, ``GET /v1/models/{model}``, and operations.

    Every prediction carries ``x-ctr-model`` (name@generation) and ``x-ctr-staleness-seconds`` (see
    `Scorer.staleness_s`), and ``x-ctr-stale: 1`` while it may be older than wished: Redis is away, rows are being read
    again after a broken chain of commits, or the staleness is above `stale_after_s`.

    Parameters
    ----------
    scorer : Scorer
        Started by the caller.
    deadline_s : float
        How long a request waits for Redis at most.
    stale_after_s : float
    max_instances : int
        Rows a request may hold.
    max_body_bytes : int
    ready : callable, optional
        Further reason not to be ready, such as a shut-down under way.
    """

    def __init__(
        self,
        scorer: Scorer,
        *,
        deadline_s: float = DEADLINE_S,
        stale_after_s: float = STALE_AFTER_S,
        max_instances: int = MAX_INSTANCES,
        max_body_bytes: int = MAX_BODY_BYTES,
        ready: Reason = lambda: None,
    ) -> None:
        self._scorer = scorer
        self._deadline_s, self._stale_after_s, self._max_instances = deadline_s, stale_after_s, max_instances
        self._pool = ThreadPoolExecutor(_FILL_THREADS, thread_name_prefix="fill")
        self._fills = self._unanswered = self._rows = 0
        self._requests: Counter[tuple[str, ...]] = Counter()
        self._decode = decoder(_PredictRequest)
        self._model_header = (b"x-ctr-model", scorer.model_id.encode())
        metrics = registry(SCORER, self._numbers)
        duration = next(metric for metric in SCORER if metric.name == "ctr_score_request_duration_seconds")
        self._duration = Histogram(
            duration.name, duration.help, duration.labels, buckets=_BUCKETS, registry=metrics
        )
        super().__init__(
            metrics,
            live=scorer.live,
            ready=lambda: scorer.ready() or ready(),
            max_body_bytes=max_body_bytes,
            observe=self._count,
        )
        self.route("POST", "/v1/models/{model}:predict", self._predict)
        self.route("GET", "/v1/models/{model}", self._describe)

    async def _predict(self, request: Request) -> Response:
        scorer = self._named(request)
        starting = scorer.ready()
        if starting is not None:
            raise HttpError(503, starting, ((b"retry-after", b"1"),))
        batch = scorer.scan(request.body)
        if batch is None or len(batch) > self._max_instances:
            rows = self._instances(request.body)
            try:
                batch = scorer.encode(rows)
            except EventError as error:
                raise HttpError(400, str(error)) from None
        if len(scorer.missing(batch)):
            await self._fill(batch)
        predictions = scorer.score(batch).tolist()
        self._rows += len(predictions)
        staleness_s = scorer.staleness_s()
        headers = [self._model_header, (b"x-ctr-staleness-seconds", b"%.3f" % staleness_s)]
        if scorer.error is not None or scorer.cache.broken or staleness_s > self._stale_after_s:
            headers.append((b"x-ctr-stale", b"1"))
        return json_response({"predictions": predictions}, headers=tuple(headers))

    def _named(self, request: Request) -> Scorer:
        name = request.params["model"]
        if name not in (self._scorer.spec.name, self._scorer.model_id):
            raise HttpError(404, f"model {name[:200]!r} is not served here, {self._scorer.model_id} is")
        return self._scorer

    def _instances(self, body: bytes) -> list[dict[str, Any]]:
        try:
            rows = self._decode(body).instances
        except msgspec.ValidationError as error:
            raise HttpError(400, _located(str(error))) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise HttpError(400, f"$: {error}") from None
        except RecursionError:
            raise HttpError(400, "$: nested too deeply") from None
        if len(rows) > self._max_instances:
            raise HttpError(400, f"$.instances: {len(rows)} rows, at most {self._max_instances} are allowed")
        return rows

    async def _fill(self, batch: Batch) -> None:
        """Ask the store for what is missing, but do not wait for it beyond the deadline.

        A reply that comes later is kept for the next request.
        """
        answered = False
        if self._scorer.error is None and self._fills < _MAX_FILLS:
            self._fills += 1
            asked = asyncio.get_running_loop().run_in_executor(self._pool, self._scorer.fill, batch)
            asked.add_done_callback(self._filled)
            done, _ = await asyncio.wait((asked,), timeout=self._deadline_s)
            answered = bool(done) and asked.result()
        self._unanswered += not answered

    def _filled(self, _asked: asyncio.Future[bool]) -> None:
        self._fills -= 1

    async def _describe(self, request: Request) -> Response:
        """TensorFlow Serving's model status, and what a client needs to know to ask."""
        scorer = self._named(request)
        starting = scorer.ready()
        status = {
            "version": scorer.spec.generation,
            "state": "AVAILABLE" if starting is None else "LOADING",
            "status": {"error_code": "OK", "error_message": ""},
        }
        model = scorer.spec.model
        described = {
            "model": scorer.model_id,
            "type": model.type,
            "k": model.k,
            "features": [
                {"name": field.column, "field": field.name, "multi": field.multi}
                for field in scorer.spec.fields if not field.derived  # what is made of other values is not to be sent
            ],
            "rows_cached": scorer.cache.rows,
            "store": "up" if scorer.error is None else str(scorer.error),
        }
        return json_response({"model_version_status": [status], "metadata": described})

    def _count(self, route: str, status: int, seconds: float) -> None:
        self._requests[route, str(status)] += 1
        self._duration.labels(route).observe(seconds)

    def _numbers(self) -> Mapping[str, Value]:
        """Everything but the histogram, read at scrape time."""
        scorer, cache = self._scorer, self._scorer.cache
        counts = cache.counts
        return {
            "ctr_score_requests": dict(self._requests),
            "ctr_score_rows": self._rows,
            "ctr_score_unanswered": self._unanswered,
            "ctr_cache_features": {("hit",): counts["hits"], ("miss",): counts["misses"]},
            "ctr_cache_rows": cache.rows,
            "ctr_cache_bytes": cache.memory_bytes,
            "ctr_cache_due_rows": cache.due_rows,
            "ctr_cache_rereads": counts["rereads"],
            "ctr_chain_breaks": counts["breaks"],
            "ctr_staleness_seconds": scorer.staleness_s(),
            "ctr_event_lag_seconds": scorer.event_lag_s(),
            "ctr_commit_age_seconds": scorer.commit_age_s(),
            "ctr_store_up": float(scorer.error is None),
            "ctr_build_info": {(ctr.__version__, scorer.model_id, simd.ISA): 1.0},
        }

    def close(self) -> None:
        """Let the threads go; requests that wait for one are not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _located(message: str) -> str:
    """Turn msgspec's 'Expected ... - at `$.instances[3]`' into '$.instances[3]: expected ...'."""
    match = re.fullmatch(r"(.*?)(?: - at `(.*)`)?", message, re.DOTALL)
    text, path = (match[1], match[2] or "$") if match else (message, "$")
    return f"{path}: {text[:1].lower()}{text[1:]}"
