"""Redis's servers go in, what may run out on them comes out: memory, output buffers, replication.

From INFO alone: managed servers forbid CONFIG. INFO does not tell the limits of output buffers, but how large they
became, and from 7.2 on how many clients were cut off for theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ctr.store.connection import Client, servers, translated

_MEMORY_SHARE, _BACKLOG_SHARE = 0.9, 0.5
"""Of maxmemory, and of the replication backlog: what is used above it is said."""
_OUTPUT_BYTES = 256 << 20
"""Of one client: a reader that does not read, or a replica that copies; Redis's own limit for replicas."""


@dataclass(frozen=True, slots=True)
class Gauges:
    """One server.

    Attributes
    ----------
    memory_bytes, memory_limit_bytes : int
        The limit is 0 where there is none.
    replicas : int
    behind_bytes : int
        What the replica that is furthest behind has not acknowledged.
    backlog_bytes : int
        So far behind a replica may be and still go on after an outage, instead of copying everything.
    output_buffer_bytes : int
        The largest one of any client of late, or that of all replicas.
    clients_cut : int
        Clients that were cut off for theirs, since the server's start; 0 before Redis 7.2, which does not count.
    """

    memory_bytes: int
    memory_limit_bytes: int
    replicas: int
    behind_bytes: int
    backlog_bytes: int
    output_buffer_bytes: int
    clients_cut: int

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Gauges:
        """From INFO, as redis-py reads it."""
        replicas = [value for name, value in info.items() if name.startswith("slave") and isinstance(value, dict)]
        reached = int(info.get("master_repl_offset", 0))
        return cls(
            int(info.get("used_memory", 0)),
            int(info.get("maxmemory", 0)),
            len(replicas),
            max((reached - int(replica["offset"]) for replica in replicas), default=0),
            int(info.get("repl_backlog_size", 0)),
            max(int(info.get("client_recent_max_output_buffer", 0)), int(info.get("mem_clients_slaves", 0))),
            int(info.get("client_output_buffer_limit_disconnections", 0)),
        )

    def warnings(self, before: Gauges | None) -> Iterator[str]:
        """What will become a trouble; `before` are the gauges of the last look."""
        if self.memory_limit_bytes and self.memory_bytes > _MEMORY_SHARE * self.memory_limit_bytes:
            yield (
                f"{_mb(self.memory_bytes)} of maxmemory {_mb(self.memory_limit_bytes)} are used: when it is full, "
                "commits fail and learning waits; raise it, or lower model.max_rows"
            )
        if self.replicas and self.behind_bytes > _BACKLOG_SHARE * self.backlog_bytes:
            yield (
                f"a replica is {_mb(self.behind_bytes)} behind, the backlog holds {_mb(self.backlog_bytes)}: beyond it "
                "everything is copied anew; raise repl-backlog-size, or lower commit.rows_per_s"
            )
        if self.output_buffer_bytes > _OUTPUT_BYTES:
            yield f"{_mb(self.output_buffer_bytes)} wait in an output buffer: a client, or a replica, does not keep up"
        if before is not None and self.clients_cut > before.clients_cut:
            yield (
                f"{self.clients_cut - before.clients_cut} clients were cut off for their output buffers: see "
                "client-output-buffer-limit (`ctr doctor`)"
            )


def look(client: Client) -> dict[str, Gauges]:
    """Every server, by its address.

    Raises
    ------
    StoreUnavailableError
    SettingError
        INFO is forbidden.
    """
    found = {}
    for name, server in servers(client).items():
        with translated(name):
            info: Any = server.info()
        found[name] = Gauges.of(info)
    return found


def _mb(count: float) -> str:
    return f"{count / 1e6:,.0f} MB"
