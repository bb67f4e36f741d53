"""Routes, limits, and what a defect looks like from outside."""

import asyncio
import json

import pytest
import structlog
from prometheus_client import CollectorRegistry, Counter

from ctr.serving.asgi import App, HttpError, OpsApp, Response, json_response


def ask(app, path, method="GET", *, body=b"", headers=(), chunks=None):
    """One request as a server would hand it over; returns status, headers, decoded body (None: no answer)."""
    parts = chunks if chunks is not None else [body]
    messages = [
        {"type": "http.request", "body": part, "more_body": index + 1 < len(parts)} for index, part in enumerate(parts)
    ] + [{"type": "http.disconnect"}]
    sent = []

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
    asyncio.run(app(scope, receive, send))
    if not sent:
        return None
    start, end = sent
    assert int(dict(start["headers"])[b"content-length"]) == len(end["body"])
    kind = dict(start["headers"])[b"content-type"]
    return start["status"], dict(start["headers"]), json.loads(end["body"]) if b"json" in kind else end["body"]


@pytest.fixture
def app():
    made = App(max_body_bytes=10)

    async def echo(request):
        return Response(request.body, headers=[(b"content-type", b"text/plain")])

    async def name(request):
        return json_response(request.params)

    async def fail(_request):
        raise RuntimeError("the password is tiger")

    async def refuse(_request):
        raise HttpError(418, "no", ((b"x-why", b"tea"),))

    made.route("POST", "/echo", echo)
    made.route("POST", "/v1/models/{model}:predict", name)
    made.route("GET", "/v1/models/{model}", name)
    made.route("GET", "/fail", fail)
    made.route("GET", "/refuse", refuse)
    return made


def test_routes_and_their_parameters(app):
    assert ask(app, "/v1/models/ads@2:predict", "POST")[2] == {"model": "ads@2"}
    assert ask(app, "/v1/models/ads")[2] == {"model": "ads"}
    assert ask(app, "/v1/models/ads:rank", "POST")[0] == 404
    assert ask(app, "/v1/models/ads/x")[0] == 404
    assert ask(app, "/")[2] == {"error": "there is nothing at /"}


def test_wrong_method_says_which_is_right(app):
    status, headers, body = ask(app, "/echo")
    assert (status, headers[b"allow"]) == (405, b"POST")
    assert "POST" in body["error"]


def test_head_is_get(app):
    assert ask(app, "/v1/models/ads", "HEAD")[0] == 200


def test_body_in_pieces(app):
    assert ask(app, "/echo", "POST", chunks=[b"abc", b"", b"def"])[2] == b"abcdef"


@pytest.mark.parametrize(
    "request_",
    [
        {"body": b"x" * 11},
        {"chunks": [b"x" * 6, b"x" * 6]},
        {"chunks": [], "headers": [(b"content-length", b"11")]},
        {"chunks": [], "headers": [(b"content-length", b"9" * 5000)]},
    ],
)
def test_long_body_is_refused(app, request_):
    status, _, body = ask(app, "/echo", "POST", **request_)
    assert status == 413
    assert "10" in body["error"]


def test_body_at_the_limit(app):
    assert ask(app, "/echo", "POST", body=b"x" * 10)[0] == 200


def test_client_that_leaves_gets_no_answer(app):
    assert ask(app, "/echo", "POST", chunks=[]) is None


def test_handler_refuses(app):
    status, headers, body = ask(app, "/refuse")
    assert (status, headers[b"x-why"], body) == (418, b"tea", {"error": "no"})


def test_defect_is_logged_once_and_not_shown(app):
    with structlog.testing.capture_logs() as logs:
        status, _, body = ask(app, "/fail", headers=[(b"x-request-id", b"r-17")])
    assert status == 500
    assert "tiger" not in json.dumps(body)
    assert body["request_id"] == "r-17"
    (line,) = logs
    assert (line["request_id"], line["exc_info"]) == ("r-17", True)


def test_odd_request_id_is_not_repeated(app):
    with structlog.testing.capture_logs():
        body = ask(app, "/fail", headers=[(b"x-request-id", b"a\nb")])[2]
    assert len(body["request_id"]) == 16


def test_observer_hears_of_every_answer():
    seen = []
    app = App(observe=lambda route, status, seconds: seen.append((route, status, seconds >= 0)))

    async def fine(_request):
        return json_response({})

    app.route("GET", "/a/{b}", fine)
    ask(app, "/a/1")
    ask(app, "/nowhere/at/all")
    assert seen == [("/a/{b}", 200, True), ("none", 404, True)]


def test_operations():
    registry = CollectorRegistry()
    Counter("things", "Things.", registry=registry).inc(3)
    reasons = {"live": None, "ready": "starting"}
    app = OpsApp(registry, live=lambda: reasons["live"], ready=lambda: reasons["ready"])
    assert ask(app, "/livez")[::2] == (200, {"status": "ok"})
    assert ask(app, "/readyz")[::2] == (503, {"status": "unavailable", "reason": "starting"})
    reasons.update(live="stuck", ready=None)
    assert ask(app, "/livez")[::2] == (503, {"status": "unavailable", "reason": "stuck"})
    assert ask(app, "/readyz")[0] == 200
    status, headers, body = ask(app, "/metrics")
    assert status == 200
    assert b"things_total 3.0" in body
    assert headers[b"content-type"].startswith(b"text/plain")
    openmetrics = ask(app, "/metrics", headers=[(b"accept", b"application/openmetrics-text; version=1.0.0")])
    assert openmetrics[1][b"content-type"].startswith(b"application/openmetrics-text")
    assert ask(app, "/metrics", "POST")[0] == 405


def test_only_http():
    with pytest.raises(NotImplementedError):
        asyncio.run(App()({"type": "websocket"}, None, None))


def test_paths_that_are_remembered(app, monkeypatch):
    """However many paths clients make up, each finds its own route, the first time and later."""
    monkeypatch.setattr("ctr.serving.asgi._MAX_FOUND", 4)
    for _ in range(2):
        for at in range(10):
            assert ask(app, f"/v1/models/m{at}")[2] == {"model": f"m{at}"}
            assert ask(app, f"/v1/models/m{at}:predict", "POST")[2] == {"model": f"m{at}"}
            assert ask(app, f"/nothing/{at}")[0] == 404
        assert len(app._found) <= 4
