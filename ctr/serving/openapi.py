"""The routes of `ctr serve` in, an OpenAPI 3.1 document out: what ``/openapi.json`` answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ctr
from ctr.serving.asgi import Request, Response, json_response

if TYPE_CHECKING:
    from ctr.serving.http import ScorerApp

Schema = dict[str, Any]


def add(app: ScorerApp) -> None:
    """Give an application ``/openapi.json``."""
    limits = app.limits
    made = document(max_instances=limits.max_instances, max_explained=limits.max_explained)

    async def answer(_request: Request) -> Response:
        return json_response(made)

    app.route("GET", "/openapi.json", answer, public=True)


def document(*, max_instances: int, max_explained: int) -> Schema:
    """OpenAPI 3.1, with the limits of a server."""
    rows = _array({"$ref": "#/components/schemas/Row"}, maxItems=max_instances)
    few = _array({"$ref": "#/components/schemas/Row"}, maxItems=max_explained)
    numbers, text = _array({"type": "number"}), {"type": "string"}
    predict = _post(
        "predict", "Probabilities of rows, in TensorFlow Serving's row format.",
        _object({"instances": rows}), _object({"predictions": numbers}),
    )  # fmt: skip
    context = _object({
        "context": {"$ref": "#/components/schemas/Row"},
        "candidates": rows,
        "top": {"type": "integer", "minimum": 0, "description": "How many to return; all where it is not given."},
    }, optional={"context", "top"})  # fmt: skip
    rank = _post(
        "rank", "The best candidates for one context, best first: their places in the request, and their scores.",
        context, _object({"order": _array({"type": "integer"}), "scores": numbers, "unknown": _array(text)}),
    )  # fmt: skip
    explain = _post(
        "explain", "What bias, features and pairs of features add to each row's logit.",
        _object({"instances": few}),
        _object({"explanations": _array({"$ref": "#/components/schemas/Explanation"})}),
    )  # fmt: skip
    infer = _post(
        "infer", "Open Inference Protocol: one tensor a column.",
        _object({
            "id": text, "inputs": _array({"$ref": "#/components/schemas/Tensor"}),
            "outputs": _array(_object({"name": text})),
        }, optional={"id", "outputs"}),
        _object({
            "model_name": text, "model_version": text, "id": text,
            "outputs": _array({"$ref": "#/components/schemas/Tensor"}),
        }, optional={"id"}),
    )  # fmt: skip
    probe: Schema = {"type": "object"}
    paths: Schema = {
        "/livez": {"get": _get("livez", "Whether the process does its work.", probe, {"503"}, public=True)},
        "/readyz": {"get": _get("readyz", 'Whether requests may be sent; "degraded" where answers are stale.', probe,
                                {"503"}, public=True)},
        "/metrics": {"get": _metrics()},
        "/openapi.json": {"get": _get("openapi", "This document.", probe, public=True)},
        "/v2": {"get": _get("server", "Open Inference Protocol: server metadata.", probe)},
        "/v2/health/live": {"get": _get("v2Live", "As /livez.", probe, {"503"}, public=True)},
        "/v2/health/ready": {"get": _get("v2Ready", "As /readyz.", probe, {"503"}, public=True)},
    }  # fmt: skip
    for suffix, where in (("", ""), ("OfVersion", "/versions/{version}")):
        v1, v2 = f"/v1/models/{{model}}{where}", f"/v2/models/{{model}}{where}"
        for path, method, operation in (
            (v1, "get", _get("status", "State of the model.", probe, {"404"})),
            (f"{v1}/metadata", "get", _get("metadata", "Signature of the model.", probe, {"404"})),
            (f"{v1}:predict", "post", predict),
            (f"{v1}:rank", "post", rank),
            (f"{v1}:explain", "post", explain),
            (v2, "get", _get("v2Metadata", "Tensors of the model.", probe, {"404"})),
            (f"{v2}/ready", "get", _get("v2ModelReady", "Whether the model can be asked.", probe, {"404", "503"})),
            (f"{v2}/infer", "post", infer),
        ):
            named = {**operation, "operationId": operation["operationId"] + suffix}
            parts = ["model", "version"] if where else ["model"]
            paths[path] = {method: named, "parameters": [_part(name) for name in parts]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "ctr serve", "version": ctr.__version__, "description": _ABOUT, "license": _LICENSE},
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": _SCHEMAS,
            "headers": _HEADERS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


_ABOUT = "Probabilities from a model that learns while it is asked. Answers say what they are made of in their headers."
_LICENSE = {"name": "Apache-2.0", "identifier": "Apache-2.0"}

_HEADERS: Schema = {
    "x-ctr-model": {"description": "name@generation that answered.", "schema": {"type": "string"}},
    "x-ctr-version": {"description": "Oldest commit whose rows it is made of.", "schema": {"type": "string"}},
    "x-ctr-staleness-seconds": {
        "description": "All events that arrived longer ago are learned and in use; inf before a commit.",
        "schema": {"type": "string"},
    },
    "x-ctr-stale": {"description": "1 while answers may be older than wished.", "schema": {"type": "string"}},
    "x-ctr-fallback": {"description": "Rows given the configured prior.", "schema": {"type": "integer"}},
}

_REASONS = {
    "400": "What cannot be read, with its path.",
    "401": "No valid token.",
    "404": "No such model here.",
    "413": "The body is too long.",
    "431": "Too many headers, or too long ones.",
    "503": "The model is being loaded.",
}


def _object(properties: Schema, optional: set[str] | None = None) -> Schema:
    required = [name for name in properties if name not in (optional or set())]
    return {"type": "object", "properties": properties, "required": required}


def _array(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _refusals(codes: set[str]) -> Schema:
    error = _json({"$ref": "#/components/schemas/Error"})
    return {code: {"description": _REASONS[code], "content": error} for code in sorted(codes)}


def _part(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _get(name: str, about: str, schema: Schema, codes: set[str] | None = None, *, public: bool = False) -> Schema:
    codes = (codes or set()) | {"431"} | (set() if public else {"401"})
    operation = {
        "operationId": name, "summary": about,
        "responses": {"200": {"description": "OK", "content": _json(schema)}, **_refusals(codes)},
    }  # fmt: skip
    return operation | ({"security": []} if public else {})


def _post(name: str, about: str, request: Schema, answer: Schema) -> Schema:
    headers = {header: {"$ref": f"#/components/headers/{header}"} for header in _HEADERS}
    answered = {"description": "OK", "headers": headers, "content": _json(answer)}
    return {
        "operationId": name,
        "summary": about,
        "requestBody": {"required": True, "content": _json(request)},
        "responses": {"200": answered, **_refusals({"400", "401", "404", "413", "431", "503"})},
    }


def _metrics() -> Schema:
    text = {"text/plain": {"schema": {"type": "string"}}}
    return {
        "operationId": "metrics", "summary": "Figures for Prometheus.", "security": [],
        "responses": {"200": {"description": "OK", "content": text}},
    }  # fmt: skip


_SCHEMAS: Schema = {
    "Row": {
        "type": "object",
        "description": "Column -> value, as in an event. One that is missing or that no field reads is fine.",
        "additionalProperties": True,
    },
    "Error": _object({"error": {"type": "string"}}),
    "Tensor": _object({
        "name": {"type": "string"},
        "shape": _array({"type": "integer", "minimum": 0}, minItems=1, maxItems=2),
        "datatype": {"type": "string"},
        "data": _array({}),
    }),
    "Explanation": _object({
        "model": {"type": "string"},
        "prediction": {"type": "number"},
        "logit": {"type": "number", "description": "The sum of bias and all contributions."},
        "bias": {"type": "number"},
        "features": _array(_object({
            "field": {"type": "string"},
            "name": {"type": "string"},
            "key": {"type": ["string", "null"]},
            "value": {"type": "number"},
            "known": {"type": "boolean"},
            "contribution": {"type": "number"},
        })),
        "pairs": _array(_object({
            "features": _array({"type": "string"}, minItems=2, maxItems=2),
            "contribution": {"type": "number"},
        })),
    }),
}  # fmt: skip
