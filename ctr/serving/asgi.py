"""HTTP requests in, JSON answers out: a raw ASGI application with routes, limits, and the routes of operation.

Written without a framework because the framework is the cost: 36,000 requests/s of an echo on one core against 24,000
under Starlette (uvicorn with uvloop and httptools, wrk -t1 -c8; DESIGN.md section 7).
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from ctr import log

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Reason = Callable[[], str | None]
"""None where all is well, else what is not."""

MAX_BODY_BYTES = 4 << 20
_JSON = (b"content-type", b"application/json")
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


class HttpError(Exception):
    """An answer other than 200 that a handler wants to give.

    Parameters
    ----------
    status : int
    message : str
        For the client; becomes ``{"error": message}``.
    headers : tuple of (bytes, bytes)
    """

    def __init__(self, status: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers


@dataclass(slots=True)
class Request:
    """What a handler gets: the whole body is there."""

    scope: Scope
    body: bytes = b""
    params: dict[str, str] = field(default_factory=dict)
    """Parts of the path that the route names."""

    def header(self, name: bytes) -> bytes:
        """First header of this (lower-case) name, empty where there is none."""
        return next((value for key, value in self.scope["headers"] if key == name), b"")


@dataclass(slots=True)
class Response:
    """What a handler gives."""

    body: bytes
    status: int = 200
    headers: list[tuple[bytes, bytes]] = field(default_factory=lambda: [_JSON])


Handler = Callable[[Request], Awaitable[Response]]
Observer = Callable[[str, int, float], None]
"""Told of each answered request: route, status, seconds."""


def json_response(value: Any, status: int = 200, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Response:
    """`value` as JSON."""
    return Response(msgspec.json.encode(value), status, [_JSON, *headers])


@dataclass(frozen=True, slots=True)
class _Route:
    name: str
    pattern: re.Pattern[str]
    methods: dict[str, Handler]


class App:
    """Routes requests, limits bodies, turns every outcome into an answer.

    Parameters
    ----------
    max_body_bytes : int
        A longer body is answered with 413.
    observe : callable, optional
        Told of each request: route (its pattern, "none" where no route matched), status, seconds.
    """

    def __init__(self, *, max_body_bytes: int = MAX_BODY_BYTES, observe: Observer | None = None) -> None:
        self._max_body_bytes = max_body_bytes
        self._observe = observe
        self._routes: list[_Route] = []
        self._log = log.get(component="http")

    def route(self, method: str, path: str, handler: Handler) -> None:
        """Answer `method` on `path`, for example ``/v1/models/{model}:predict``; a part in braces holds no ``/``."""
        known = next((route for route in self._routes if route.name == path), None)
        if known is None:
            parts = re.split(r"\{(\w+)\}", path)
            pattern = "".join(
                re.escape(part) if index % 2 == 0 else f"(?P<{part}>[^/:]+)" for index, part in enumerate(parts)
            )
            known = _Route(path, re.compile(pattern), {})
            self._routes.append(known)
        known.methods[method] = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI wants it."""
        if scope["type"] != "http":
            raise NotImplementedError(f"only HTTP is served here, not {scope['type']}")
        began = time.perf_counter()
        name, response = await self._answer(scope, receive)
        if response is None:
            return  # the client has gone; nobody is there to be told
        response.headers.append((b"content-length", b"%d" % len(response.body)))
        await send({"type": "http.response.start", "status": response.status, "headers": response.headers})
        await send({"type": "http.response.body", "body": response.body})
        if self._observe is not None:
            self._observe(name, response.status, time.perf_counter() - began)

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[str, Response | None]:
        name = "none"
        request = Request(scope)
        try:
            route, request.params = self._find(scope["path"])
            name = route.name
            method = scope["method"]
            handler = route.methods.get("GET" if method == "HEAD" else method)
            if handler is None:
                allowed = ", ".join(sorted(route.methods))
                raise HttpError(405, f"{method} is not allowed here, {allowed} is", ((b"allow", allowed.encode()),))
            body = await self._read(request, receive)
            if body is None:
                return name, None
            request.body = body
            return name, await handler(request)
        except HttpError as error:
            return name, json_response({"error": error.message}, error.status, error.headers)
        except Exception:  # noqa: BLE001 - the one place that turns a defect into an answer instead of a dropped connection
            given = request.header(b"x-request-id")
            identity = given.decode() if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
            self._log.exception("request failed", request_id=identity, method=scope["method"], path=scope["path"])
            message = f"internal error; the log says more under request_id {identity}"
            return name, json_response({"error": message, "request_id": identity}, 500)

    def _find(self, path: str) -> tuple[_Route, dict[str, str]]:
        for route in self._routes:
            match = route.pattern.fullmatch(path)
            if match is not None:
                return route, match.groupdict()
        raise HttpError(404, f"there is nothing at {path[:200]}")

    async def _read(self, request: Request, receive: Receive) -> bytes | None:
        """The whole body; None where the client went away before its end."""
        limit = self._max_body_bytes
        declared = request.header(b"content-length")
        if declared.isdigit() and int(declared[:20]) > limit:
            # Answered unread: the server goes on reading and drops it, so that the client gets to see the answer.
            raise HttpError(413, f"the body has {int(declared[:20])} bytes, at most {limit} are allowed")
        message = await receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            whole: bytes = message.get("body", b"")
            if len(whole) > limit:
                raise HttpError(413, f"the body has {len(whole)} bytes, at most {limit} are allowed")
            return whole
        body = bytearray()
        while message["type"] == "http.request":
            body += message.get("body", b"")
            if len(body) > limit:
                raise HttpError(413, f"the body has more than {limit} bytes")
            if not message.get("more_body", False):
                return bytes(body)
            message = await receive()
        return None


class OpsApp(App):
    """``/livez``, ``/readyz`` and ``/metrics``: what an operator asks of any worker. A worker adds its own routes.

    Parameters
    ----------
    registry : CollectorRegistry
        What ``/metrics`` shows.
    live : callable
        None while the process does its work, else why it should be restarted.
    ready : callable
        None while it may be sent requests, else why not.
    role : callable, optional
        What the process is at the moment; named by ``/readyz``.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        live: Reason,
        ready: Reason,
        *,
        role: Callable[[], str] | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
        observe: Observer | None = None,
    ) -> None:
        super().__init__(max_body_bytes=max_body_bytes, observe=observe)
        self._registry = registry
        self.route("GET", "/livez", _probe(live))
        self.route("GET", "/readyz", _probe(ready, role))
        self.route("GET", "/metrics", self._metrics)

    async def _metrics(self, request: Request) -> Response:
        encode, content_type = choose_encoder(request.header(b"accept").decode("latin-1"))
        # In a thread: a scrape takes milliseconds, and requests go on meanwhile.
        body = await asyncio.to_thread(encode, self._registry)
        return Response(body, 200, [(b"content-type", content_type.encode())])


def _probe(reason: Reason, role: Callable[[], str] | None = None) -> Handler:
    async def answer(_request: Request) -> Response:
        found, named = reason(), {} if role is None else {"role": role()}
        if found is None:
            return json_response({"status": "ok", **named})
        return json_response({"status": "unavailable", "reason": found, **named}, 503)

    return answer
