"""Requests to rank, to explain and to describe a model in, their answers out: what version 1 has beside predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from ctr.errors import EventError
from ctr.events.jsonlines import decoder
from ctr.model.ranking import AdQuestion, Question
from ctr.serving.asgi import JSON, Handler, HttpError, Plain, Request, Response, json_response
from ctr.serving.bodies import read
from ctr.serving.generation import Generation
from ctr.serving.places import RankingWriter
from ctr.serving.questions import Ranking, by_id
from ctr.serving.scorer import Scorer
from ctr.spec import Field

if TYPE_CHECKING:
    from ctr.serving.http import ScorerApp

MAX_FEATURES = 512
"""Features of a row that is explained: it has that many squared, halved, pairs."""


class _RankRequest(msgspec.Struct):
    candidates: list[dict[str, Any] | str]
    context: dict[str, Any] = {}
    top: Annotated[int, msgspec.Meta(ge=0)] | None = None


class _ExplainRequest(msgspec.Struct):
    instances: list[dict[str, Any]]


def add(app: ScorerApp) -> None:
    """Give an application the routes of this file."""
    for base in ("/v1/models/{model}", "/v1/models/{model}/versions/{version}"):
        app.route("GET", base, _status(app))
        app.route("GET", f"{base}/metadata", _metadata(app))
        rank, plain = _rank(app)
        app.route("POST", f"{base}:rank", rank, plain=plain)
        app.route("POST", f"{base}:explain", _explain(app))


def _rank(app: ScorerApp) -> tuple[Handler, Plain]:
    decode, writer, limits = decoder(_RankRequest), RankingWriter(), app.limits

    def scanned(held: Generation, body: bytes) -> tuple[Question | AdQuestion, int | None] | None:
        if not limits.are_few(body) or held.spec.model.loss != "logistic":
            return None
        return held.scan_ranking(body, limits.max_instances)

    def answer(scorer: Scorer, held: Generation, scores: NDArray[np.float32], top: int | None) -> Response:
        app.scored(scorer, len(scores))
        return Response(writer.body(scores, top), headers=[JSON, *app.headers(held)])

    def plain(params: dict[str, str], body: bytes, _began: float) -> Response | None:
        """The answer where all features are known: nearly always."""
        scorer = app.models.find(params)
        held = scorer.current
        found = scanned(held, body) if scorer.ready() is None else None
        scores = held.rank_known(found[0]) if found is not None else None
        return None if found is None or scores is None else answer(scorer, held, scores, found[1])

    async def scores_of(
        scorer: Scorer, held: Generation, question: Question | AdQuestion, request: Request
    ) -> NDArray[np.float32]:
        scores, unknown = held.score_question(question)
        if unknown and await app.ask(scorer, held, lambda: held.fill(question.batch), request):
            scores, _ = held.score_question(question)
        return scores

    async def rank(request: Request) -> Response:
        scorer = app.models.find(request.params)
        app.require_ready(scorer)
        held = scorer.current
        if (found := scanned(held, request.body)) is not None:
            return answer(scorer, held, await scores_of(scorer, held, found[0], request), found[1])
        asked = read(decode, request.body)
        limits.check_rows([asked.context], "$.context", lists=not held.dense)
        try:
            question, known = _question(app, held, asked)
        except EventError as error:
            raise HttpError(400, str(error)) from None
        scores = await scores_of(scorer, held, question, request)
        app.scored(scorer, len(scores))
        ranking = (
            Ranking.of(scores, asked.top) if known is None
            else Ranking.of_ads(scores, asked.top, cast("list[str]", asked.candidates), known)
        )  # fmt: skip
        return _ranked(app, held, ranking)

    return rank, plain


def _ranked(app: ScorerApp, held: Generation, ranking: Ranking) -> Response:
    answer = {
        "order": ranking.order.tolist(),
        "scores": ranking.scores.astype(np.float64).tolist(),
        "unknown": list(ranking.unknown),
    }
    return json_response(answer, headers=app.headers(held))


def _question(
    app: ScorerApp, held: Generation, asked: _RankRequest
) -> tuple[Question | AdQuestion, NDArray[np.int64] | None]:
    """Context and candidates as keys; where these are ids, which of them the catalogue has."""
    if not by_id(asked.candidates, "$.candidates"):
        rows = cast("list[dict[str, Any]]", asked.candidates)
        app.limits.check_rows(rows, "$.candidates", lists=not held.dense)
        return held.question(asked.context, rows), None
    if len(asked.candidates) > app.limits.max_instances:
        raise HttpError(
            400, f"$.candidates: {len(asked.candidates)} ids, at most {app.limits.max_instances} are allowed"
        )
    return held.question_of_ads(asked.context, asked.candidates)


def _explain(app: ScorerApp) -> Handler:
    decode = decoder(_ExplainRequest)

    async def explain(request: Request) -> Response:
        scorer = app.models.find(request.params)
        app.require_ready(scorer)
        held, rows = scorer.current, read(decode, request.body).instances
        app.limits.check_rows(rows, "$.instances")
        if len(rows) > app.limits.max_explained:
            raise HttpError(400, f"$.instances: {len(rows)} rows, at most {app.limits.max_explained} can be explained")
        try:
            batch = held.encode(rows)
        except EventError as error:
            raise HttpError(400, str(error)) from None
        if (most := int(np.diff(batch.start).max(initial=0))) > MAX_FEATURES:
            raise HttpError(400, f"$.instances: a row of {most} features, at most {MAX_FEATURES} can be explained")
        if len(held.missing(batch)):
            await app.ask(scorer, held, lambda: held.fill(batch), request)

        def explained(*, in_words: bool) -> list[Any]:
            return [held.explain(row, in_words=in_words) for row in rows]

        # The dictionary of names is in the store, which may not answer in time: then the rows' own words do.
        found = await app.within_deadline(lambda: explained(in_words=True), request) if held.error is None else None
        answer = {"explanations": found if found is not None else explained(in_words=False)}
        return json_response(answer, headers=app.headers(held))

    return explain


def _status(app: ScorerApp) -> Handler:
    async def status(request: Request) -> Response:
        """TensorFlow Serving's model status, and what a client needs to know to ask."""
        scorer = app.models.find(request.params)
        held, starting = scorer.current, scorer.ready()
        state = {
            "version": held.spec.generation,
            "state": "AVAILABLE" if starting is None else "LOADING",
            "status": {"error_code": "OK", "error_message": ""},
        }
        described = {
            "model": held.model_id,
            "type": held.spec.model.type,
            "k": held.spec.model.k,
            "features": [
                {"name": field.column, "field": field.name, "multi": field.multi} for field in inputs(held.spec.fields)
            ],
            "rows_cached": held.cache.rows,
            "store": "up" if held.error is None else str(held.error),
        }
        answer = {"model_version_status": [state], "metadata": described}
        return json_response(answer, headers=app.headers(held))

    return status


def _metadata(app: ScorerApp) -> Handler:
    async def metadata(request: Request) -> Response:
        """TensorFlow Serving's model metadata: the signature, one input a column."""
        held = app.models.find(request.params).current
        columns = {
            field.column: {
                "name": field.column,
                "dtype": "DT_DOUBLE" if is_number(field) else "DT_STRING",
                "tensor_shape": {"dim": [{"size": "-1"}] * (2 if field.multi else 1), "unknown_rank": False},
            }
            for field in inputs(held.spec.fields)
        }
        output = {
            "name": "predictions", "dtype": "DT_FLOAT",
            "tensor_shape": {"dim": [{"size": "-1"}], "unknown_rank": False},
        }  # fmt: skip
        signature = {"inputs": columns, "outputs": {"predictions": output}, "method_name": "tensorflow/serving/predict"}
        answer = {
            "model_spec": {"name": held.spec.name, "signature_name": "", "version": held.spec.generation},
            "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
        }
        return json_response(answer, headers=app.headers(held))

    return metadata


def inputs(fields: Sequence[Field]) -> list[Field]:
    """Fields that read a column of their own, each column once: what is made of other values is not to be sent."""
    return list({field.column: field for field in fields if not field.derived}.values())


def is_number(field: Field) -> bool:
    """Whether a field reads numbers; any other takes texts, numbers and booleans as they come."""
    return field.real or field.transform in ("log", "bins", "bspline")
