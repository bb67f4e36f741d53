"""The door to Redis: a checked client, and a session whose every command goes over one and the same connection."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ctr.errors import SettingError, StoreUnavailableError

Client = redis.Redis

Command = Sequence[Any] | memoryview
"""Name and arguments, or all of it as the bytes that are sent (see `ctr.store.codec.RowPacker`)."""

_REFUSED = (redis.AuthenticationError, redis.exceptions.NoPermissionError)


def connect(url: str, *, timeout_s: float = 5.0) -> Client:
    """A client for ``redis://``, ``rediss://`` or ``unix://`` that answered a PING.

    The client's own retries are off: a commit must know which connection its WATCH was on.

    Raises
    ------
    SettingError
        The URL cannot be read, or the password is wrong.
    StoreUnavailableError
        Nobody answers there.
    """
    allowed = "redis://[user:password@]HOST:PORT/DB, rediss://... or unix://PATH"
    parts = urlsplit(url)
    if parts.scheme in ("redis", "rediss") and not re.fullmatch(r"/?\d*", parts.path):
        raise SettingError("redis", _without_password(url), allowed)  # redis-py would take database 0
    try:
        client: Client = redis.Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0), protocol=2
        )
    except ValueError as error:
        raise SettingError("redis", _without_password(url), f"{allowed} ({error})") from None
    with translated(url):
        client.ping()
    return client


@contextlib.contextmanager
def translated(url: str = "Redis") -> Iterator[None]:
    """Redis's exceptions as ours: what may pass by itself becomes `StoreUnavailableError`."""
    try:
        yield
    except _REFUSED as error:
        raise SettingError("redis", _without_password(url), f"the server refused the login: {error}") from None
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise StoreUnavailableError(f"{_without_password(url)} does not answer: {error}") from error
    except redis.ResponseError as error:
        # OOM, READONLY (a replica), LOADING, MISCONF (disk full), EXECABORT: the server's state, not our mistake
        raise StoreUnavailableError(f"{_without_password(url)} refused a command: {error}") from error


def _without_password(url: str) -> str:
    head, separator, tail = url.rpartition("@")
    return f"{head.split('://', maxsplit=1)[0]}://***{separator}{tail}" if separator else url


class Session:
    """Commands over one connection, which is thrown away at the first error and never silently replaced.

    redis-py reconnects by itself; a connection replaced between WATCH and EXEC would run the EXEC unwatched.
    """

    def __init__(self, client: Client) -> None:
        self._pool = client.connection_pool
        self._connection: Any = None  # redis-py types its connections incompletely

    def call(self, *command: Any) -> Any:
        """One command, one reply."""
        return self.calls([command])[0]

    def calls(self, commands: Iterable[Command]) -> list[Any]:
        """Several commands in one round trip; their replies."""
        return self._exchange(commands)

    def transaction(self, commands: Iterable[Command]) -> list[Any] | None:
        """MULTI ... EXEC. None where a watched key had changed: nothing was applied.

        Commands are sent as they are made. An error (of the connection, or EXECABORT) leaves the outcome unknown to the
        caller.
        """
        replies = self._exchange(chain([("MULTI",)], commands, [("EXEC",)]))
        result: list[Any] | None = replies[-1]
        if result is not None:
            for reply in result:
                if isinstance(reply, redis.ResponseError):
                    raise reply
        return result

    def _exchange(self, commands: Iterable[Command]) -> list[Any]:
        try:
            if self._connection is None:
                self._connection = self._pool.make_connection()
                self._connection.connect()
            connection = self._connection
            sent = self._send(connection, commands)
            replies, failed = [], None
            for _ in range(sent):
                try:
                    replies.append(connection.read_response())
                except redis.ResponseError as error:
                    failed = failed or error
                    replies.append(error)
            if failed is not None:
                raise failed
        except BaseException:
            self.drop()
            raise
        return replies

    @staticmethod
    def _send(connection: Any, commands: Iterable[Command]) -> int:
        """Send commands, small ones together, packed ones as they come; returns how many."""
        small: list[Command] = []
        sent = 0
        for command in commands:
            sent += 1
            if isinstance(command, memoryview):
                connection.send_packed_command([*connection.pack_commands(small), command])
                small = []
            else:
                small.append(command)
        connection.send_packed_command(connection.pack_commands(small))
        return sent

    def drop(self) -> None:
        """Close the connection; the next command opens a new one. A closed connection watches nothing."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()
