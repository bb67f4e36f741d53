"""Scoring requests over HTTP in, probabilities out: TensorFlow Serving's row format, and what all routes share.

A request whose features are all known stays in the event loop's thread from its first byte to its last. One with
unknown features asks the store in a thread, waits for it until the deadline, and is answered from what is held.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

import ctr
from ctr.errors import EventError
from ctr.events import Batch
from ctr.events.jsonlines import decoder
from ctr.kernels import simd
from ctr.metrics import SCORER, Value, registry
from ctr.serving import openapi, routes, v2
from ctr.serving.asgi import JSON, HttpError, OpsApp, Reason, Request, Response, json_response
from ctr.serving.bodies import read
from ctr.serving.durations import Durations
from ctr.serving.generation import Generation
from ctr.serving.limits import Limits
from ctr.serving.models import Models
from ctr.serving.scorer import Scorer
from ctr.spec import Spec
from ctr.store import Version

_FILL_THREADS = 4
_MAX_FILLS = 256
"""Requests that may wait for the store at once; beyond it they are answered from what is held."""

_STALE = (b"x-ctr-stale", b"1")
_encode = msgspec.json.Encoder().encode

Headers = tuple[tuple[bytes, bytes], ...]
T = TypeVar("T")


class _PredictRequest(msgspec.Struct):
    instances: list[dict[str, Any]]


class Answers(Protocol):
    """Keeps what was answered, or some of it."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Rows by what became of them."""

    def offer(self, spec: Spec, body: bytes, response: Response) -> None:
        """Told of each predict request that was answered, and of the specification of the model that did so."""


class ScorerApp(OpsApp):
    """What `ctr serve` answers: prediction, ranking and explanation (`routes`, `v2`), and operations.

    Every answer that is made of a model carries ``x-ctr-model`` (name@generation), ``x-ctr-version`` (the oldest commit
    whose rows it is made of) and ``x-ctr-staleness-seconds`` (see `Generation.staleness_s`); ``x-ctr-stale: 1`` while
    it may be older than wished: the model cannot be read, rows are being read again after a broken chain of commits, or
    the staleness is above the limit; and ``x-ctr-fallback`` with the number of rows that were given the prior.

    Parameters
    ----------
    *scorers : Scorer
        Started by the caller; each a model of its own.
    limits : Limits
    token : str, optional
        What requests must bring, those of operation excepted.
    ready : callable, optional
        Further reason not to be ready, such as a shut-down under way.
    answers : Answers, optional
    """

    def __init__(
        self,
        *scorers: Scorer,
        limits: Limits | None = None,
        token: str | None = None,
        ready: Reason = lambda: None,
        answers: Answers | None = None,
    ) -> None:
        self.models, self.limits = Models(scorers), limits or Limits()
        limits = self.limits
        self._pool = ThreadPoolExecutor(_FILL_THREADS, thread_name_prefix="fill")
        self._fills = 0
        self._requests: Counter[tuple[str, ...]] = Counter()
        self._rows: Counter[str] = Counter()
        self._unanswered: Counter[str] = Counter({scorer.name: 0 for scorer in scorers})
        self._fallbacks: Counter[tuple[str, str]] = Counter()
        self._decode = decoder(_PredictRequest)
        self._named: tuple[Generation | None, Version | None, Headers] = None, None, ()
        """Headers that name a generation and a version: those of the last answer."""
        metrics = registry(SCORER, self._counted)
        self._durations = Durations(
            next(metric for metric in SCORER if metric.name == "ctr_score_request_duration_seconds")
        )
        metrics.register(self._durations)

        def unready() -> str | None:
            return self.models.ready() or ready() or self.models.too_old(limits.unready_after_s)

        super().__init__(
            metrics, live=self.models.live, ready=unready, degraded=lambda: self.models.stale(limits.stale_after_s),
            max_body_bytes=limits.max_body_bytes, max_headers=limits.max_headers,
            max_header_bytes=limits.max_header_bytes, token=token, observe=self._count,
        )  # fmt: skip
        self._answers = answers
        predict, plain = self._predict, self._predict_plain
        if answers is not None:
            predict, plain = self._predict_and_keep, self._predict_plain_and_keep
        self.route("POST", "/v1/models/{model}:predict", predict, plain=plain)
        self.route("POST", "/v1/models/{model}/versions/{version}:predict", predict, plain=plain)
        routes.add(self)
        v2.add(self, live=self.models.live, ready=unready)
        openapi.add(self)

    def _predict_plain(self, params: dict[str, str], body: bytes, began: float) -> Response | None:
        """The answer to a few rows of which all is known: nearly all requests, so no step more than is needed."""
        scorer, limits = self.models.find(params), self.limits
        late = limits.prior is not None and time.perf_counter() - began > limits.deadline_s
        # More values may be allowed by the exact way, which counts them.
        if late or not limits.are_few(body) or scorer.ready() is not None:
            return None
        held = scorer.current
        known = held.score_plain(body, limits.max_instances)
        if known is None:
            return None
        self._rows[scorer.name] += len(known)
        return Response(b'{"predictions":%s}' % _encode(known), 200, [JSON, *self.headers(held)])

    async def _predict(self, request: Request) -> Response:
        scorer = self.models.find(request.params)
        held, limits = scorer.current, self.limits
        if limits.prior is None:
            self.require_ready(scorer)
        batch = None
        if limits.are_few(request.body):
            batch = held.scan(request.body, limits.max_instances)
        if batch is None:
            rows = read(self._decode, request.body).instances
            predictions, headers = await self.score(scorer, held, rows, "$.instances", request)
        else:
            predictions, headers = await self.score_batch(scorer, held, batch, request)
        return json_response({"predictions": predictions}, headers=headers)

    async def _predict_and_keep(self, request: Request) -> Response:
        response = await self._predict(request)
        self._keep(request.params, request.body, response)
        return response

    def _predict_plain_and_keep(self, params: dict[str, str], body: bytes, began: float) -> Response | None:
        response = self._predict_plain(params, body, began)
        if response is not None:
            self._keep(params, body, response)
        return response

    def _is_late(self, request: Request) -> bool:
        """Whether the deadline has passed."""
        return time.perf_counter() - request.began > self.limits.deadline_s

    def _keep(self, params: dict[str, str], body: bytes, response: Response) -> None:
        assert self._answers is not None, "only then is this reached"
        self._answers.offer(self.models.find(params).spec, body, response)

    # What all routes share

    async def score(
        self, scorer: Scorer, held: Generation, rows: Sequence[Mapping[str, Any]], path: str, request: Request
    ) -> tuple[list[float], Headers]:
        """Predictions of rows that stand at `path`, and the headers that say what they are made of.

        Raises
        ------
        HttpError
            400 for rows that cannot be read, 503 while the model is being loaded and there is no prior.
        """
        if self.limits.prior is None:
            self.require_ready(scorer)
        self.limits.check_rows(rows, path, lists=not held.dense)
        try:
            batch = held.encode(rows, path)
        except EventError as error:
            raise HttpError(400, str(error)) from None
        return await self.score_batch(scorer, held, batch, request)

    async def score_batch(
        self, scorer: Scorer, held: Generation, batch: Batch, request: Request
    ) -> tuple[list[float], Headers]:
        """The same of rows that are keys already."""
        prior, n = self.limits.prior, len(batch)
        if prior is not None and scorer.ready() is not None:
            return self._fall_back(scorer, held, [prior] * n, n, "starting")
        if not (prior is not None and self._is_late(request)) and (known := held.score_known(batch)) is not None:
            self.scored(scorer, n)
            return known.tolist(), self.headers(held)
        unheard: NDArray[np.bool_] | None = None
        if len(held.missing(batch)) and not await self.ask(scorer, held, lambda: held.fill(batch), request):
            unheard = None if prior is None else held.cache.unheard(batch)
        elif prior is not None and self._is_late(request):
            return self._fall_back(scorer, held, [prior] * n, n, "late")
        scores = held.score(batch)
        if unheard is not None and unheard.any():
            scores[unheard] = prior
            predictions = scores.tolist()
            return self._fall_back(scorer, held, predictions, int(np.count_nonzero(unheard)), "unknown")
        self.scored(scorer, n)
        return scores.tolist(), self.headers(held)

    def scored(self, scorer: Scorer, rows: int) -> None:
        """Count rows that were scored."""
        self._rows[scorer.name] += rows

    def _fall_back(
        self, scorer: Scorer, held: Generation, predictions: list[Any], count: int, why: str
    ) -> tuple[list[float], Headers]:
        self.scored(scorer, len(predictions))
        self._fallbacks[scorer.name, why] += count
        return predictions, (*self.headers(held), (b"x-ctr-fallback", b"%d" % count))

    def require_ready(self, scorer: Scorer) -> None:
        """Refuse while the model is being loaded.

        Raises
        ------
        HttpError
            503.
        """
        starting = scorer.ready()
        if starting is not None:
            raise HttpError(503, starting, ((b"retry-after", b"1"),))

    async def ask(self, scorer: Scorer, held: Generation, fill: Callable[[], bool], request: Request) -> bool:
        """Let a thread ask the store for what a request lacks, but do not wait for it beyond the deadline.

        False where it did not answer. A reply that comes later is kept for the next request.
        """
        answered = held.error is None and await self.within_deadline(fill, request) is True
        self._unanswered[scorer.name] += not answered
        return answered

    async def within_deadline(self, work: Callable[[], T], request: Request) -> T | None:
        """What `work` returns, done in a thread; None where the deadline came first, or too many are waiting."""
        if self._fills >= _MAX_FILLS:
            return None
        self._fills += 1
        asked = asyncio.get_running_loop().run_in_executor(self._pool, work)
        asked.add_done_callback(self._filled)
        left = self.limits.deadline_s - (time.perf_counter() - request.began)
        done, _ = await asyncio.wait((asked,), timeout=max(0.0, left))
        return asked.result() if done else None

    def _filled(self, asked: asyncio.Future[Any]) -> None:
        self._fills -= 1
        if not asked.cancelled():
            asked.exception()  # looked at: whoever waited may have gone

    def headers(self, held: Generation) -> Headers:
        """What an answer is made of, for the bidder's log."""
        version, staleness_s = held.cache.version, held.staleness_s()
        if self._named[:2] != (held, version):
            model = (b"x-ctr-model", held.model_id.encode())
            self._named = held, version, (model, (b"x-ctr-version", str(version).encode() if version else b"none"))
        headers = (*self._named[2], (b"x-ctr-staleness-seconds", b"%.3f" % staleness_s))
        return (*headers, _STALE) if held.is_stale(staleness_s, self.limits.stale_after_s) else headers

    def _count(self, route: str, status: int, seconds: float) -> None:
        labels = route, str(status)
        self._requests[labels] += 1
        self._durations.observe(labels, seconds)

    def numbers(self) -> Mapping[str, Value]:
        """Every metric of `ctr.metrics.SCORER`, as it stands now; of the histogram the requests by duration."""
        return {**self._counted(), "ctr_score_request_duration_seconds": self._durations.numbers()}

    def _counted(self) -> Mapping[str, Value]:
        """Everything but the histogram, read at scrape time."""
        numbers: dict[str, dict[tuple[str, ...], float]] = {
            "ctr_score_requests": dict(self._requests),
            "ctr_score_fallbacks": {},
        }
        if self._answers is not None:
            numbers["ctr_score_answers"] = {(result,): count for result, count in self._answers.counts.items()}
        for scorer in self.models:
            name, held = scorer.name, scorer.current
            cache, counts = held.cache, held.cache.counts
            for metric, value in (
                ("ctr_score_rows", self._rows[name]),
                ("ctr_score_unanswered", self._unanswered[name]),
                ("ctr_cache_rows", cache.rows),
                ("ctr_cache_bytes", cache.memory_bytes),
                ("ctr_cache_due_rows", cache.due_rows),
                ("ctr_cache_rereads", counts["rereads"]),
                ("ctr_catalogue_ads", len(held.catalogue)),
                ("ctr_catalogue_bytes", held.catalogue.memory_bytes),
                ("ctr_catalogue_refused", held.catalogue.refused),
                ("ctr_chain_breaks", counts["breaks"]),
                ("ctr_staleness_seconds", held.staleness_s()),
                ("ctr_event_lag_seconds", held.event_lag_s()),
                ("ctr_commit_age_seconds", held.commit_age_s()),
                ("ctr_store_up", float(held.error is None)),
            ):
                numbers.setdefault(metric, {})[name,] = value
            for result, value in (("hit", counts["hits"]), ("miss", counts["misses"])):
                numbers.setdefault("ctr_cache_features", {})[name, result] = value
            for why in ("starting", "late", "unknown"):
                numbers["ctr_score_fallbacks"][name, why] = self._fallbacks[name, why]
            for field, asked, without in zip(held.spec.fields, *cache.by_field.tolist(), strict=True):
                numbers.setdefault("ctr_field_features", {})[name, field.name] = asked
                numbers.setdefault("ctr_field_features_without_row", {})[name, field.name] = without
            numbers.setdefault("ctr_build_info", {})[ctr.__version__, held.model_id, simd.ISA] = 1.0
        return numbers

    def close(self) -> None:
        """Let the threads go; requests that wait for one are not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
