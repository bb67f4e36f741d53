"""An ASGI application in, a listening server out: bound before all else, in the main thread or beside it."""

from __future__ import annotations

import contextlib
import errno
import re
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn

from ctr.errors import CtrError, PortInUseError, SettingError
from ctr.serving.asgi import App
from ctr.serving.protocol import Protocol

DRAIN_S = 10.0
"""How long requests under way may take to end once the server was told to stop."""
_BACKLOG = 2048
_LISTEN = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^:\[\]]+)):(?P<port>\d{1,5})")


def open_socket(listen: str) -> socket.socket:
    """Bind and listen, so that a taken port is known before a model is loaded.

    Parameters
    ----------
    listen : str
        ``HOST:PORT`` or ``[IPV6]:PORT``; port 0 takes any free one.

    Raises
    ------
    SettingError
        It cannot be read, or this machine has no such address.
    PortInUseError
        Somebody listens there already.
    """
    allowed = "HOST:PORT, for example 127.0.0.1:8500, 0.0.0.0:8500 or [::1]:8500; port 0 takes any free one"
    match = _LISTEN.fullmatch(listen)
    if match is None or int(match["port"]) > 65535:
        raise SettingError("--listen", listen, allowed)
    host, port = match["six"] or match["host"], int(match["port"])
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise SettingError("--listen", listen, f"{allowed} ({error.strerror})") from None
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
        bound.listen(_BACKLOG)  # with SO_REUSEADDR it is listen() that finds out about another listener
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(f"{listen} is in use: stop what listens there, or pass another --listen") from None
        raise SettingError("--listen", listen, f"{allowed} ({error.strerror})") from None
    return bound


def address_of(bound: socket.socket) -> str:
    """``HOST:PORT`` as a client would write it."""
    host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if bound.family == socket.AF_INET6 else f"{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the worker owns the signals and says when to stop."""

    def __init__(self, app: App, stopping: Callable[[], bool]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=Protocol,
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,  # nobody asks who the client is; a layer less in each request
                backlog=_BACKLOG,
                timeout_graceful_shutdown=int(DRAIN_S),
            )
        )
        self._stopping = stopping

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._stopping()


def run(app: App, bound: socket.socket, stopping: Callable[[], bool]) -> None:
    """Serve in this thread until `stopping` says so (asked every 0.1 s), then end what is under way and return."""
    _Server(app, stopping).run([bound])


class BackgroundServer:
    """Serves beside a worker's own loop, in a daemon thread.

    Parameters
    ----------
    app : App
    sock : socket
        From `open_socket`; closed by `stop`.
    """

    def __init__(self, app: App, sock: socket.socket) -> None:
        self._sock = sock
        self._stop = threading.Event()
        self._server = _Server(app, self._stop.is_set)
        self._thread = threading.Thread(target=self._server.run, args=([sock],), name="http", daemon=True)

    def start(self, timeout_s: float = 10.0) -> None:
        """Return once requests are answered.

        Raises
        ------
        CtrError
            The server did not come up.
        """
        self._thread.start()
        pause = threading.Event()
        for _ in range(int(timeout_s / 0.01)):
            if self._server.started:
                return
            if not self._thread.is_alive():
                break
            pause.wait(0.01)
        raise CtrError(f"the HTTP server on {address_of(self._sock)} did not start within {timeout_s} s")

    def stop(self, timeout_s: float = DRAIN_S) -> None:
        """Stop accepting, end what is under way, close the socket. Safe to call twice."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        self._sock.close()
