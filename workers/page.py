"""A worker in, its live page out: which numbers, tables and words it shows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from ctr.answers import Explanation
from ctr.errors import CtrError, EventError
from ctr.events.jsonlines import decoder
from ctr.metrics import SCORER, TRAINER, Metric, Value
from ctr.model.table import Table
from ctr.page import Page, Subject
from ctr.serving.asgi import HttpError, OpsApp, Request, Response, json_response
from ctr.serving.bodies import read
from ctr.serving.http import ScorerApp
from ctr.serving.routes import MAX_FEATURES
from ctr.serving.scorer import Scorer
from ctr.spec import Spec
from workers.trainer import Trainer

_HELD_ROWS = 1 << 16
"""Rows that the committed model holds for explanations: those of some thousand events."""


def trainer_page(
    app: OpsApp, trainer: Trainer, numbers: Callable[[], Mapping[str, Value]], spec: Spec, redis: str
) -> Page:
    """Page of `ctr train`."""
    return stored_page(app, "trainer", TRAINER, numbers, spec, redis, table=lambda: trainer.table)


def stored_page(
    app: OpsApp, worker: str, declared: Sequence[Metric], numbers: Callable[[], Mapping[str, Value]], spec: Spec,
    redis: str, *, table: Callable[[], Table | None] | None = None,
) -> Page:  # fmt: skip
    """Page of a worker that does not score: ``/page/explain`` explains with the parameters last committed."""
    committed = _Committed(redis, spec.model_id)
    app.route("POST", "/page/explain", committed.answer)
    subject = Subject(
        name=spec.model_id, spec=lambda: spec, table=table, names=committed.names, explain="page/explain"
    )
    return Page(app, worker, declared, numbers, [subject])


def scorer_page(app: ScorerApp, scorers: Sequence[Scorer]) -> Page:
    """Page of `ctr serve`, its models one by one."""
    return Page(app, "scorer", SCORER, app.numbers, [_subject(scorer) for scorer in scorers])


def _subject(scorer: Scorer) -> Subject:
    def names(keys: Sequence[int]) -> Mapping[int, str]:
        return scorer.current.names(keys)  # of the generation that answers by then

    return Subject(
        name=scorer.name, spec=lambda: scorer.spec, table=lambda: scorer.cache.table, names=names,
        explain=f"v1/models/{scorer.name}:explain",
    )  # fmt: skip


class _ExplainRequest(msgspec.Struct):
    instances: list[dict[str, Any]]


class _Committed:
    """The model as the store has it, read when somebody asks: the trainer's own table is the learner's alone.

    Parameters
    ----------
    redis : str
        URL; a connection of its own, so that no commit waits for a question.
    model : str
        ``name@generation``.
    """

    def __init__(self, redis: str, model: str) -> None:
        self._redis, self._model = redis, model
        self._lock = threading.Lock()
        self._opened: Scorer | None = None
        self._decode = decoder(_ExplainRequest)

    def _scorer(self) -> Scorer:
        if self._opened is None:
            self._opened = Scorer(self._redis, self._model, max_rows=_HELD_ROWS)
        return self._opened

    def names(self, keys: Sequence[int]) -> Mapping[int, str]:
        """Words of the dictionary."""
        with self._lock:
            try:
                return self._scorer().current.names(keys)
            except CtrError:
                return {}

    async def answer(self, request: Request) -> Response:
        """As ``/v1/models/M:explain``, of one row."""
        rows = read(self._decode, request.body).instances
        if len(rows) != 1:
            raise HttpError(400, f"$.instances: {len(rows)} rows, one is explained here")
        # In a thread: it asks Redis, and the first question loads kernels.
        return json_response({"explanations": [await asyncio.to_thread(self._explain, rows[0])]})

    def _explain(self, row: Mapping[str, Any]) -> Explanation:
        with self._lock:
            try:
                scorer = self._scorer()
                batch = scorer.current.encode_row(row, "$.instances[0]")
                if (most := int(np.diff(batch.start).max(initial=0))) > MAX_FEATURES:
                    raise HttpError(400, f"$.instances[0]: {most} features, at most {MAX_FEATURES} can be explained")
                return scorer.explain(row)
            except EventError as error:
                raise HttpError(400, str(error)) from None
            except CtrError as error:
                raise HttpError(503, str(error), ((b"retry-after", b"1"),)) from None
