"""Open Inference Protocol (version 2, REST) in and out: https://github.com/kserve/open-inference-protocol.

One tensor a column, of n values (shape [n] or [n, 1]) or, for a field of several values, n rows of them (shape
[n, m]). A null, or "" in a BYTES tensor, is a missing value; a column without a tensor is missing in all rows. Errors
are ``{"error": message}``, as the protocol has them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

import ctr
from ctr.events.jsonlines import decoder
from ctr.serving.asgi import Handler, HttpError, Reason, Request, Response, json_response
from ctr.serving.bodies import read
from ctr.serving.routes import inputs, is_number
from ctr.spec import Spec

if TYPE_CHECKING:
    from ctr.serving.http import ScorerApp

OUTPUT = "predictions"
PLATFORM = "ctr"
_KINDS: dict[str, tuple[type, ...]] = {
    "BOOL": (bool,),
    "BYTES": (str,),
    **dict.fromkeys(("FP16", "FP32", "FP64"), (float, int)),
    **{f"{sign}INT{bits}": (int,) for sign in ("", "U") for bits in (8, 16, 32, 64)},
}


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class _Output(msgspec.Struct):
    name: str


class _InferRequest(msgspec.Struct):
    inputs: list[_Tensor]
    id: str | None = None
    outputs: list[_Output] | None = None


def add(app: ScorerApp, *, live: Reason, ready: Reason) -> None:
    """Give an application the routes of this file; `live` and `ready` are those of its probes."""
    app.route("GET", "/v2", _server)
    app.route("GET", "/v2/health/live", _probe("live", live), public=True)
    app.route("GET", "/v2/health/ready", _probe("ready", ready), public=True)
    for base in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        app.route("GET", base, _metadata(app))
        app.route("GET", f"{base}/ready", _model_ready(app))
        app.route("POST", f"{base}/infer", _infer(app))


async def _server(_request: Request) -> Response:
    return json_response({"name": "ctr", "version": ctr.__version__, "extensions": []})


def _probe(name: str, reason: Reason) -> Handler:
    async def answer(_request: Request) -> Response:
        found = reason()
        return json_response({name: found is None, **({"error": found} if found else {})}, 503 if found else 200)

    return answer


def _metadata(app: ScorerApp) -> Handler:
    async def metadata(request: Request) -> Response:
        held = app.models.find(request.params).current
        answer = {
            "name": held.spec.name,
            "versions": [held.spec.generation],
            "platform": PLATFORM,
            "inputs": [
                {
                    "name": field.column,
                    "datatype": "FP64" if is_number(field) else "BYTES",
                    "shape": [-1, -1] if field.multi else [-1],
                }
                for field in inputs(held.spec.fields)
            ],
            "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": [-1]}],
        }
        return json_response(answer, headers=app.headers(held))

    return metadata


def _model_ready(app: ScorerApp) -> Handler:
    async def ready(request: Request) -> Response:
        scorer = app.models.find(request.params)
        starting = scorer.ready()
        answer = {"name": scorer.spec.name, "ready": starting is None}
        return json_response(answer | ({"error": starting} if starting else {}), 503 if starting else 200)

    return ready


def _infer(app: ScorerApp) -> Handler:
    decode = decoder(_InferRequest)

    async def infer(request: Request) -> Response:
        scorer = app.models.find(request.params)
        held, asked = scorer.current, read(decode, request.body)
        for index, output in enumerate(asked.outputs or ()):
            if output.name != OUTPUT:
                raise HttpError(400, f"$.outputs[{index}].name: {output.name[:100]!r}, only {OUTPUT!r} is computed")
        rows = _rows(held.spec, asked.inputs, app.limits.max_instances)
        predictions, headers = await app.score(scorer, held, rows, "$.rows", request)
        answer: dict[str, Any] = {"model_name": held.spec.name, "model_version": held.spec.generation}
        if asked.id is not None:
            answer["id"] = asked.id
        answer["outputs"] = [
            {"name": OUTPUT, "datatype": "FP32", "shape": [len(predictions)], "data": predictions}
        ]  # fmt: skip
        return json_response(answer, headers=headers)

    return infer


def _rows(spec: Spec, tensors: list[_Tensor], most: int) -> list[dict[str, Any]]:
    """Tensors, one a column, as rows.

    Raises
    ------
    HttpError
        400 for a tensor that is none, or not as long as the first one.
    """
    columns = {field.column: field for field in inputs(spec.fields)}
    rows: list[dict[str, Any]] | None = None
    named: set[str] = set()
    for index, tensor in enumerate(tensors):
        path = f"$.inputs[{index}]"
        if tensor.name not in columns:
            raise HttpError(400, f"{path}.name: the model has no input {tensor.name[:100]!r}")
        if tensor.name in named:
            raise HttpError(400, f"{path}.name: {tensor.name!r} is there twice")
        named.add(tensor.name)
        values = _values(tensor, path)
        if rows is None:
            if len(values) > most:
                raise HttpError(400, f"{path}.shape: {len(values)} rows, at most {most} are allowed")
            rows = [{} for _ in values]
        if len(values) != len(rows):
            raise HttpError(400, f"{path}.shape: {len(values)} rows, the tensors before have {len(rows)}")
        several = columns[tensor.name].multi
        for row, value in zip(rows, values, strict=True):
            row[tensor.name] = [value] if several and type(value) is not list and value is not None else value
    if rows is None:
        raise HttpError(400, "$.inputs: at least one tensor is needed")
    return rows


def _values(tensor: _Tensor, path: str) -> list[Any]:
    """One value, or list of values, a row."""
    kinds = _KINDS.get(tensor.datatype)
    if kinds is None:
        raise HttpError(400, f"{path}.datatype: {tensor.datatype[:20]!r}, known are {', '.join(_KINDS)}")
    shape, data = tensor.shape, tensor.data
    if not 1 <= len(shape) <= 2 or min(shape) < 0:
        raise HttpError(400, f"{path}.shape: expected [n] or [n, m]")
    if len(shape) == 2 and len(data) == shape[0] and all(type(row) is list for row in data):
        if any(len(row) != shape[1] for row in data):
            raise HttpError(400, f"{path}.data: rows of {shape[1]} values are announced")
        data = [value for row in data for value in row]
    if len(data) != math.prod(shape):
        raise HttpError(400, f"{path}.data: {len(data)} values, the shape {shape} has {math.prod(shape)}")
    for at, value in enumerate(data):
        if value is not None and (type(value) not in kinds):
            raise HttpError(400, f"{path}.data[{at}]: not {tensor.datatype}")
    if len(shape) == 1 or shape[1] == 1:
        return data
    m = shape[1]
    return [data[begin : begin + m] for begin in range(0, shape[0] * m, m)] if m else [[] for _ in range(shape[0])]
