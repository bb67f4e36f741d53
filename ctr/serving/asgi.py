"""HTTP requests in, JSON answers out: a raw ASGI application with routes, limits, and the routes of operation.

Written without a framework because the framework is the cost: 36,000 requests/s of an echo on one core against 24,000
under Starlette (uvicorn with uvloop and httptools, wrk -t1 -c8; DESIGN.md section 7).
"""

from __future__ import annotations

import asyncio
import hmac
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
MAX_HEADERS = 100
MAX_HEADER_BYTES = 32 << 10
"""Of all headers together, as a request sends them: what nginx takes by default."""
_MAX_FOUND = 1024
"""Paths whose route is remembered: four patterns tried in vain cost 2 us a request."""
JSON = (b"content-type", b"application/json")
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
    """Parts of the path that the route names; only to be read."""
    began: float = field(default_factory=time.perf_counter)
    """When it came, by `time.perf_counter`."""

    def header(self, name: bytes) -> bytes:
        """First header of this (lower-case) name, empty where there is none."""
        for key, value in self.scope["headers"]:
            if key == name:
                found: bytes = value
                return found
        return b""


@dataclass(slots=True)
class Response:
    """What a handler gives."""

    body: bytes
    status: int = 200
    headers: list[tuple[bytes, bytes]] = field(default_factory=lambda: [JSON])


Handler = Callable[[Request], Awaitable[Response]]
Plain = Callable[[dict[str, str], bytes, float], Response | None]
"""Answers a request at once, of its path's parts, its body and when it came; None where the handler is to be asked."""
Observer = Callable[[str, int, float], None]
"""Told of each answered request: route, status, seconds."""


def json_response(value: Any, status: int = 200, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Response:
    """`value` as JSON."""
    return Response(msgspec.json.encode(value), status, [JSON, *headers])


@dataclass(frozen=True, slots=True)
class _Route:
    name: str
    pattern: re.Pattern[str]
    methods: dict[str, Handler]
    plains: dict[str, Plain]
    public: bool


@dataclass(frozen=True, slots=True)
class PlainRoute:
    """Answers POST requests to one path that can be answered at once.

    Attributes
    ----------
    answer : callable
        Of headers, body and when the request came: the answer, of status 200; None where `App` must be asked, also for
        what is wrong with the request.
    max_body_bytes : int
        No longer body can be answered so.
    """

    answer: Callable[[list[tuple[bytes, bytes]], bytes, float], Response | None]
    max_body_bytes: int


class App:
    """Routes requests, limits bodies and headers, turns every outcome into an answer.

    Parameters
    ----------
    max_body_bytes : int
        A longer body is answered with 413.
    max_headers, max_header_bytes : int
        More headers, or longer ones, are answered with 431.
    token : str, optional
        What a request must bring as ``authorization: Bearer TOKEN``, else it is answered with 401. Public routes ask
        for none.
    observe : callable, optional
        Told of each request: route (its pattern, "none" where no route matched), status, seconds.
    """

    def __init__(
        self,
        *,
        max_body_bytes: int = MAX_BODY_BYTES,
        max_headers: int = MAX_HEADERS,
        max_header_bytes: int = MAX_HEADER_BYTES,
        token: str | None = None,
        observe: Observer | None = None,
    ) -> None:
        self._max_body_bytes, self._max_headers, self._max_header_bytes = max_body_bytes, max_headers, max_header_bytes
        self._token = None if token is None else token.encode()
        self._observe = observe
        self._routes: list[_Route] = []
        self._found: dict[str, tuple[_Route, dict[str, str]]] = {}
        self._plain_found: dict[bytes, PlainRoute | None] = {}
        self._log = log.get(component="http")

    @property
    def max_header_bytes(self) -> int:
        """For the server, which must not collect more than that."""
        return self._max_header_bytes

    @property
    def has_token(self) -> bool:
        """Whether routes that are not public ask for a token."""
        return self._token is not None

    def route(
        self, method: str, path: str, handler: Handler, *, plain: Plain | None = None, public: bool = False
    ) -> None:
        """Answer `method` on `path`, for example ``/v1/models/{model}:predict``; a part in braces holds no ``/``.

        `plain` is asked before `handler`.
        """
        known = next((route for route in self._routes if route.name == path), None)
        if known is None:
            parts = re.split(r"\{(\w+)\}", path)
            pattern = "".join(
                re.escape(part) if index % 2 == 0 else f"(?P<{part}>[^/:]+)" for index, part in enumerate(parts)
            )
            known = _Route(path, re.compile(pattern), {}, {}, public)
            self._routes.append(known)
        self._found.clear()
        self._plain_found.clear()
        known.methods[method] = handler
        if plain is not None:
            known.plains[method] = plain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI wants it."""
        if scope["type"] != "http":
            raise NotImplementedError(f"only HTTP is served here, not {scope['type']}")
        began = time.perf_counter()
        name, response = await self._answer(scope, receive, began)
        if response is None:
            return  # the client has gone; nobody is there to be told
        response.headers.append((b"content-length", b"%d" % len(response.body)))
        await send({"type": "http.response.start", "status": response.status, "headers": response.headers})
        await send({"type": "http.response.body", "body": response.body})
        if self._observe is not None:
            self._observe(name, response.status, time.perf_counter() - began)

    async def _answer(self, scope: Scope, receive: Receive, began: float) -> tuple[str, Response | None]:
        name = "none"
        try:
            declared = self._check_headers(scope["headers"])
            route, params = self._find(scope["path"])
            name = route.name
            if self._token is not None and not route.public:
                self._check_token(scope)
            method = scope["method"]
            handler = route.methods.get("GET" if method == "HEAD" else method)
            if handler is None:
                allowed = ", ".join(sorted(route.methods))
                raise HttpError(405, f"{method} is not allowed here, {allowed} is", ((b"allow", allowed.encode()),))
            if declared > self._max_body_bytes:
                # Answered unread: the server goes on reading and drops it, so that the client gets to see the answer.
                raise HttpError(413, f"the body has {declared} bytes, at most {self._max_body_bytes} are allowed")
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                body = message.get("body", b"")
                if len(body) > self._max_body_bytes:
                    raise HttpError(413, f"the body has {len(body)} bytes, at most {self._max_body_bytes} are allowed")
            else:
                body = await self._read(message, receive)
                if body is None:
                    return name, None
            plain = route.plains.get(method)
            if plain is not None and (response := plain(params, body, began)) is not None:
                return name, response
            return name, await handler(Request(scope, body, params, began))
        except HttpError as error:
            return name, json_response({"error": error.message}, error.status, error.headers)
        except Exception:  # noqa: BLE001 - the one place that turns a defect into an answer instead of a dropped connection
            given = Request(scope).header(b"x-request-id")
            identity = given.decode() if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
            self._log.exception("request failed", request_id=identity, method=scope["method"], path=scope["path"])
            told = f"internal error; the log says more under request_id {identity}"
            return name, json_response({"error": told, "request_id": identity}, 500)

    def plain_route(self, url: bytes) -> PlainRoute | None:
        """Who may answer a POST request to this path, as it stands in the request; None where it goes the usual way."""
        try:
            return self._plain_found[url]
        except KeyError:
            if len(self._plain_found) >= _MAX_FOUND:  # clients decide what is asked for
                self._plain_found.clear()
            found = self._plain_found[url] = self._plain_route(url)
            return found

    def _plain_route(self, url: bytes) -> PlainRoute | None:
        if b"?" in url or b"%" in url or not url.isascii():
            return None
        try:
            route, params = self._find(url.decode())
        except HttpError:
            return None
        plain = route.plains.get("POST")
        if plain is None:
            return None

        def answer(headers: list[tuple[bytes, bytes]], body: bytes, began: float) -> Response | None:
            try:
                self._check_headers(headers)
                if self._token is not None and not route.public:
                    self._check_token({"headers": headers})
                response = plain(params, body, began)
            except Exception:  # noqa: BLE001 - whatever it is, it comes again on the usual way, which tells of it
                return None
            if response is not None and self._observe is not None:
                self._observe(route.name, response.status, time.perf_counter() - began)
            return response

        return PlainRoute(answer, self._max_body_bytes)

    def _check_headers(self, headers: list[tuple[bytes, bytes]]) -> int:
        """Refuse too many or too long ones; the length of the body that they declare, 0 where they do not."""
        if len(headers) > self._max_headers:
            raise HttpError(431, f"{len(headers)} headers, at most {self._max_headers} are allowed")
        size, declared = 0, b""
        for key, value in headers:
            size += len(key) + len(value)
            if key == b"content-length":
                declared = value
        if size > self._max_header_bytes:
            raise HttpError(431, f"headers of {size} bytes, at most {self._max_header_bytes} are allowed")
        return int(declared[:20]) if declared.isdigit() else 0

    def _check_token(self, scope: Scope) -> None:
        assert self._token is not None
        scheme, _, given = Request(scope).header(b"authorization").partition(b" ")
        # The time of the comparison tells nothing of the token; what was given is neither logged nor repeated.
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._token):
            raise HttpError(401, "authorization: Bearer TOKEN is needed here", ((b"www-authenticate", b"Bearer"),))

    def _find(self, path: str) -> tuple[_Route, dict[str, str]]:
        if (found := self._found.get(path)) is not None:
            return found
        for route in self._routes:
            match = route.pattern.fullmatch(path)
            if match is not None:
                if len(self._found) >= _MAX_FOUND:  # clients decide what is asked for
                    self._found.clear()
                found = self._found[path] = route, match.groupdict()
                return found
        raise HttpError(404, f"there is nothing at {path[:200]}")

    async def _read(self, message: MutableMapping[str, Any], receive: Receive) -> bytes | None:
        """The whole body, which begins with `message`; None where the client went away before its end."""
        body = bytearray()
        while message["type"] == "http.request":
            body += message.get("body", b"")
            if len(body) > self._max_body_bytes:
                raise HttpError(413, f"the body has more than {self._max_body_bytes} bytes")
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
    degraded : callable, optional
        None, or what is not as it should be although requests may be sent: ``/readyz`` says it, with status 200.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        live: Reason,
        ready: Reason,
        *,
        role: Callable[[], str] | None = None,
        degraded: Reason = lambda: None,
        max_body_bytes: int = MAX_BODY_BYTES,
        max_headers: int = MAX_HEADERS,
        max_header_bytes: int = MAX_HEADER_BYTES,
        token: str | None = None,
        observe: Observer | None = None,
    ) -> None:
        super().__init__(
            max_body_bytes=max_body_bytes, max_headers=max_headers, max_header_bytes=max_header_bytes, token=token,
            observe=observe,
        )  # fmt: skip
        self._registry = registry
        self._reasons = {"live": live, "ready": ready, "degraded": degraded}
        self._role = role
        self.route("GET", "/livez", _probe(live), public=True)
        self.route("GET", "/readyz", _probe(ready, degraded, role), public=True)
        self.route("GET", "/metrics", self._metrics, public=True)

    def reasons(self) -> dict[str, str | None]:
        """``live``, ``ready`` and ``degraded`` (where not: that it is) -> None while all is well, else what is not."""
        return {name: reason() for name, reason in self._reasons.items()}

    def role(self) -> str | None:
        """What the process is at the moment; None where there is but one thing to be."""
        return None if self._role is None else self._role()

    async def _metrics(self, request: Request) -> Response:
        try:
            encode, content_type = choose_encoder(request.header(b"accept").decode("latin-1"))
        except (TypeError, ValueError):  # a version that is no number: prometheus_client compares it with numbers
            encode, content_type = choose_encoder("")
        # In a thread: a scrape takes milliseconds, and requests go on meanwhile.
        body = await asyncio.to_thread(encode, self._registry)
        return Response(body, 200, [(b"content-type", content_type.encode())])


def _probe(
    reason: Reason, degraded: Reason = lambda: None, role: Callable[[], str] | None = None
) -> Handler:
    async def answer(_request: Request) -> Response:
        named = {} if role is None else {"role": role()}
        if (found := reason()) is not None:
            return json_response({"status": "unavailable", "reason": found, **named}, 503)
        if (found := degraded()) is not None:
            return json_response({"status": "degraded", "reason": found, **named})
        return json_response({"status": "ok", **named})

    return answer
