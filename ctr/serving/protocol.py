"""Bytes of a connection in, bytes of answers out: uvicorn's protocol, with a shorter way for plain requests.

A POST whose whole body is there, and that its application can answer at once, is answered where it was read: without
the task, the queue and the messages of ASGI, which take longer than a row takes to be scored. All else goes uvicorn's
way, also what the application cannot answer at once: then the request is handed on as if nothing had been tried.
"""

from __future__ import annotations

import time

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ctr.serving.asgi import App, PlainRoute, Response

_ENDLESS = b'{"error":"the headers are too long"}'
_TOO_LONG = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%s" % (len(_ENDLESS), _ENDLESS)
)


class Protocol(HttpToolsProtocol):
    """One connection. A request's head that does not end is not collected for ever.

    `app` is an `App`, or another ASGI application with its `max_header_bytes`, for which there is no shorter way.
    """

    _head_bytes: int | None = None
    """Bytes of the head that is being read, since the chunk in which it began; None while there is none."""
    _plain: PlainRoute | None = None
    """Who may answer the request that is being read."""
    _began = 0.0
    _body: bytes | bytearray = b""

    def data_received(self, data: bytes) -> None:
        """Of the socket."""
        if self._head_bytes is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        # Above the application's own limit, which answers with a reason where the head is complete.
        if (self._head_bytes or 0) > 2 * self.app.max_header_bytes and not self.transport.is_closing():
            self.transport.write(_TOO_LONG)
            self.transport.close()

    def on_message_begin(self) -> None:
        """Of the parser, as all that follow: a request begins."""
        super().on_message_begin()
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """Its head is there."""
        self._head_bytes = None
        self._plain = self._plain_route()
        if self._plain is None:
            super().on_headers_complete()
        else:
            self._began, self._body = time.perf_counter(), b""

    def _plain_route(self) -> PlainRoute | None:
        """Who may answer the request at once whose head is there."""
        app, parser = self.app, self.parser
        if (
            not isinstance(app, App) or parser.get_method() != b"POST" or self.expect_100_continue
            or not (self.cycle is None or self.cycle.response_complete)  # answers keep the order of requests
            or self.flow.write_paused or self.limit_concurrency is not None
            or parser.get_http_version() != "1.1" or parser.should_upgrade() or not parser.should_keep_alive()
        ):  # fmt: skip
            return None
        return app.plain_route(self.url)

    def on_body(self, body: bytes) -> None:
        """More of its body is there."""
        if self._plain is None:
            super().on_body(body)
            return
        if not self._body:
            self._body = body  # nearly always all of it
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)  # to which even a byte at a time may be added
            self._body += body
        if len(self._body) > self._plain.max_body_bytes:
            self._go_the_long_way()

    def on_message_complete(self) -> None:
        """All of it is there."""
        if self._plain is not None:
            response = self._plain.answer(self.headers, bytes(self._body), self._began)
            if response is not None:
                self._plain = None
                self._write(response)
                return
            self._go_the_long_way()
        super().on_message_complete()

    def _go_the_long_way(self) -> None:
        """As if the head had just come, and the body with it."""
        self._plain = None
        super().on_headers_complete()
        if self._body:
            super().on_body(bytes(self._body))

    def _write(self, response: Response) -> None:
        head = b"HTTP/1.1 200 OK\r\n"
        for name, value in (*self.server_state.default_headers, *response.headers):
            head += name + b": " + value + b"\r\n"
        self.transport.write(b"%scontent-length: %d\r\n\r\n%s" % (head, len(response.body), response.body))
        self.on_response_complete()

    def shutdown(self) -> None:
        """A request that is being read is answered before the connection is closed."""
        if self._plain is not None:
            self._go_the_long_way()
        super().shutdown()
