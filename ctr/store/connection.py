"""The door to Redis: a checked client, and a session whose every command goes over one and the same connection."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, cast

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry
from redis.sentinel import Sentinel

from ctr.errors import SettingError, StoreUnavailableError
from ctr.store import address

Client = redis.Redis

Command = Sequence[Any] | memoryview
"""Name and arguments, or all of it as the bytes that are sent (see `ctr.store.codec.RowPacker`)."""

_REFUSED = (redis.AuthenticationError, redis.exceptions.NoPermissionError)

_ANY = (redis.RedisError, redis.exceptions.RedisClusterException)  # the second is none of the first


def connect(url: str, *, timeout_s: float = 5.0) -> Client:
    """A client that answered a PING, for any URL of `ctr.store.address`.

    The client's own retries are off: a commit must know which connection its WATCH was on.

    Raises
    ------
    SettingError
        The URL cannot be read, or the password is wrong.
    StoreUnavailableError
        Nobody answers there.
    """
    place = address.parse(url)
    timeouts = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    options: dict[str, Any] = {**place.options, **timeouts, "protocol": 2}
    once = Retry(NoBackoff(), 0)
    with translated(place.shown):
        try:
            if place.kind == "cluster":
                nodes = [ClusterNode(host, port) for host, port in place.hosts]  # type: ignore[no-untyped-call]  # redis-py has none there
                # it has the same commands, but is no subclass
                client = cast("Client", RedisCluster(startup_nodes=nodes, **options))
            elif place.kind == "sentinel":
                tls = {name: value for name, value in options.items() if name.startswith("ssl") or "timeout" in name}
                login = {**tls, **place.sentinel}
                watchers = Sentinel(place.hosts, sentinel_kwargs=login, **options, retry=once)  # type: ignore[no-untyped-call]  # redis-py has none there
                client = watchers.master_for(place.service)  # type: ignore[no-untyped-call]  # redis-py has none there
            else:
                if place.hosts:
                    options["host"], options["port"] = place.hosts[0]
                client = redis.Redis(**options, retry=once)
        except (ValueError, TypeError):
            raise SettingError("redis", place.shown, "options behind the question mark as redis-py has them") from None
        client.ping()
    return client


def is_cluster(client: Client) -> bool:
    """Whether keys of different tags may lie on different servers."""
    return isinstance(client, RedisCluster)


def servers(client: Client) -> dict[str, Client]:
    """Every server that takes writes, by its address: one, or the masters of a Cluster."""
    given: Any = client
    if isinstance(given, RedisCluster):
        nodes = given.get_primaries()  # type: ignore[no-untyped-call]  # redis-py has none there
        return {node.name: given.get_redis_connection(node) for node in nodes}
    pool = given.connection_pool
    options = pool.connection_kwargs
    if "host" in options:
        return {f"{options['host']}:{options['port']}": client}
    return {options.get("path") or str(getattr(pool, "service_name", "redis")): client}  # a socket; behind Sentinels


def server_of(client: Client, key: str) -> str:
    """Address of the server of a Cluster that has this key; empty where there is one server alone."""
    given: Any = client
    return str(given.get_node_from_key(key).name) if isinstance(given, RedisCluster) else ""  # type: ignore[no-untyped-call]  # redis-py has none there


@contextlib.contextmanager
def translated(where: str = "Redis") -> Iterator[None]:
    """Redis's exceptions as ours: what may pass by itself becomes `StoreUnavailableError`."""
    try:
        yield
    except _REFUSED as error:
        raise SettingError("redis", where, f"the server refused the login: {error}") from None
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise StoreUnavailableError(f"{where} does not answer: {error}") from error
    except redis.ResponseError as error:
        # OOM, READONLY (a replica), LOADING, MISCONF (disk full), EXECABORT: the server's state, not our mistake
        raise StoreUnavailableError(f"{where} refused a command: {error}") from error
    except _ANY as error:  # of a Cluster: slots that nobody serves, no node that answers
        raise StoreUnavailableError(f"{where} cannot be used now: {error}") from error


class Session:
    """Commands over one connection, which is thrown away at the first error and never silently replaced.

    redis-py reconnects by itself; a connection replaced between WATCH and EXEC would run the EXEC unwatched.

    Parameters
    ----------
    client : Client
    key : str
        On a Cluster the connection is to the server of this key; a session is good for keys of the same tag alone.
    """

    def __init__(self, client: Client, key: str) -> None:
        self._client: Any = client  # or a Cluster's
        self._key = key
        self._connection: Any = None  # redis-py types its connections incompletely

    def _connect(self) -> Any:
        client = self._client
        if isinstance(client, RedisCluster):
            client = client.get_redis_connection(client.get_node_from_key(self._key))  # type: ignore[no-untyped-call]  # redis-py has none there
        connection = client.connection_pool.make_connection()
        connection.connect()
        return connection

    def socket(self) -> Any:
        """The connection's socket, for who reads replies by hand, and drops the session where one was not as expected.

        Raises
        ------
        StoreUnavailableError, SettingError
        """
        if self._connection is None:
            with translated():
                self._connection = self._connect()
        return self._connection._sock  # noqa: SLF001  redis-py gives no other way

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
                self._connection = self._connect()
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
        except BaseException as error:
            self.drop()
            if isinstance(self._client, RedisCluster) and isinstance(error, _ANY):
                self._look_around(self._client)
            raise
        return replies

    @staticmethod
    def _look_around(client: RedisCluster) -> None:
        """Ask a Cluster who serves what: a node is gone, or a slot has moved (MOVED, ASK, READONLY)."""
        with contextlib.suppress(*_ANY):
            client.nodes_manager.initialize()

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
