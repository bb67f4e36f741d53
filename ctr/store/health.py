"""A Redis server goes in, what `ctr doctor` must know of it comes out: INFO, limits, clock, and which commands we may.

Every command that any of our processes sends is tried, on keys of a model that does not exist and that are deleted
afterwards: an ACL that forbids one, or their names, is found before a trainer finds it.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any

from ctr.errors import SettingError, StoreUnavailableError
from ctr.store.connection import Client, Session, servers, translated
from ctr.store.keys import ShardKeys, live_key, spec_key
from ctr.store.upkeep import server_time_s

_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says of itself.

    Attributes
    ----------
    server : str
        Its address.
    info : dict
        INFO, all sections.
    output_buffer_limits : str or None
        None where CONFIG is forbidden.
    clock_ahead_s : float
        Its clock less ours.
    round_trip_s : float
        Shortest of a few.
    forbidden : tuple of str
        Commands that this login may not send.
    refused : tuple of str
        Commands that failed otherwise, with the server's words.
    """

    server: str
    info: dict[str, Any]
    output_buffer_limits: str | None
    clock_ahead_s: float
    round_trip_s: float
    forbidden: tuple[str, ...]
    refused: tuple[str, ...]


def look(client: Client) -> list[ServerFacts]:
    """Ask every server that takes writes; commands are tried once, wherever their keys lie.

    Raises
    ------
    StoreUnavailableError
        It does not answer.
    SettingError
        INFO is forbidden: without it nothing can be said.
    """
    forbidden, refused = _permissions(client)
    return [_facts(name, server, forbidden, refused) for name, server in servers(client).items()]


def _facts(name: str, server: Client, forbidden: tuple[str, ...], refused: tuple[str, ...]) -> ServerFacts:
    with translated(name):
        info: Any = server.info()
    try:
        with translated(name):
            limits: Any = server.config_get("client-output-buffer-limit")
    except (SettingError, StoreUnavailableError):  # CONFIG is forbidden, or renamed away
        limits = {}
    ahead_s, trip_s = _clock(server)
    return ServerFacts(name, info, limits.get("client-output-buffer-limit"), ahead_s, trip_s, forbidden, refused)


def _clock(client: Client) -> tuple[float, float]:
    """How far its clock is ahead of ours, and the shortest round trip: half of that is the error."""
    best: tuple[float, float] | None = None
    for _ in range(_ROUNDS):
        before = time.time()
        theirs = server_time_s(client)
        after = time.time()
        if best is None or after - before < best[1]:
            best = theirs - (before + after) / 2, after - before
    assert best is not None
    return best


def commands(model_id: str) -> list[tuple[object, ...]]:
    """Every command that trainer, scorer, snapshots and upkeep send, on keys of this model; UNLINK clears them away."""
    name = model_id.partition("@")[0]
    keys, tag = ShardKeys(model_id, 0), f"ctr:{{{model_id}}}"
    return [
        ("PING",), ("TIME",), ("INFO", "memory"),
        ("SET", spec_key(model_id), "{}", "NX"), ("GET", spec_key(model_id)), ("EXISTS", spec_key(model_id)),
        ("SETNX", live_key(name), "1"), ("SET", f"{tag}:lease", "1", "NX", "PX", "1000"),
        ("PEXPIRE", f"{tag}:lease", "1000"),
        ("HSET", f"{tag}:names", "k", "v"), ("HRANDFIELD", f"{tag}:names", 1),
        ("HSETNX", keys.meta, "ver", "0-0"), ("HGET", keys.meta, "ver"), ("HGETALL", keys.meta),
        ("HEXISTS", keys.meta, "ver"),
        ("HSET", keys.rows, "12345678", "row"), ("HMGET", keys.rows, "12345678"), ("HLEN", keys.rows),
        ("HSCAN", keys.rows, 0, "COUNT", 1), ("HDEL", keys.rows, "1"),
        ("HSET", f"{keys.rows}:new", "12345678", "row"), ("RENAME", f"{keys.rows}:new", keys.rows),
        ("XADD", keys.changes, "MAXLEN", "~", 64, "1-0", "nonce", "0"), ("XRANGE", keys.changes, "-", "+"),
        ("XREVRANGE", keys.changes, "+", "-", "COUNT", 1),
        ("MEMORY", "USAGE", keys.rows), ("SCAN", 0, "MATCH", f"{tag}*", "COUNT", 1),
        ("UNLINK", keys.rows, keys.changes, keys.meta), ("UNLINK", f"{keys.rows}:new"),
        ("UNLINK", f"{tag}:names"), ("UNLINK", f"{tag}:lease"), ("UNLINK", spec_key(model_id)),
        ("UNLINK", live_key(name)),
    ]  # fmt: skip


def _permissions(client: Client) -> tuple[tuple[str, ...], tuple[str, ...]]:
    model_id = f"ctr-doctor-{secrets.token_hex(4)}@1"
    keys = ShardKeys(model_id, 0)
    forbidden: dict[str, None] = {}
    refused: dict[str, None] = {}
    sessions: dict[str, Session] = {}  # a connection for each key: on a Cluster they are of several servers

    def attempt(name: str, *batch: tuple[object, ...], transaction: bool = False) -> None:
        key = next((part for part in batch[0] if str(part).startswith("ctr:")), keys.meta)
        session = sessions.setdefault(str(key), Session(client, str(key)))
        try:
            with translated():
                if transaction:
                    session.transaction(batch)
                else:
                    session.calls(batch)
        except SettingError:
            forbidden[name] = None
        except StoreUnavailableError as error:
            refused[f"{name} ({error.__cause__})"] = None

    try:
        attempt("WATCH", ("WATCH", keys.meta), ("UNWATCH",))
        attempt("MULTI/EXEC", ("HSET", keys.meta, "owner", "0"), transaction=True)
        for command in commands(model_id):
            attempt(str(command[0]), command)
    finally:
        for session in sessions.values():
            session.drop()
    return tuple(forbidden), tuple(refused)
