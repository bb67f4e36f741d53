"""Keys go in, their rows come out, read by hand: for thousands of rows a second beside requests that must not wait.

redis-py makes a Python object of each row, all under the interpreter's lock: 2 us of a core a row, in stretches of a
millisecond. Here bytes are received into a buffer and taken apart by a kernel; neither holds the lock.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.errors import StoreUnavailableError
from ctr.kernels import build
from ctr.kernels.wire.replies import AT, DONE, HELD
from ctr.rows import RowBlock
from ctr.store.codec import encode_keys
from ctr.store.connection import Client, Session, server_of

CHUNK = 1000
_LINKS = 4
"""Connections kept: of the thread that follows, and of requests that wait for rows."""
_HEADER_BYTES = 16
_ITEM, _KEY = np.frombuffer(b"$8\r\n" + bytes(8) + b"\r\n", np.uint8), slice(4, 12)
Taken = tuple[NDArray[np.bool_], NDArray[np.uint8]]
"""(n,) which keys have a row, and these rows (m, row_bytes)."""


class _Link:
    """One connection and the buffer for what it brings."""

    def __init__(self, client: Client, name: str, room: int) -> None:
        self.session, self.buffer = Session(client, name), np.empty(room, np.uint8)

    def exchange(self, request: bytes, count: int, head: NDArray[np.uint8], size: int, take: Any) -> Taken | None:
        """Send, and take what comes; None where it is no reply of so many values of this size."""
        socket = self.session.socket()
        socket.sendall(request)
        first, into = b"*%d\r\n" % count, self.buffer.data
        state, found, rows = np.zeros(3, np.int64), np.empty(count, np.bool_), np.empty((count, size), np.uint8)
        filled = 0
        while state[DONE] < count:
            came = socket.recv_into(into[filled:])
            if not came:
                return None
            filled += came
            if not state[AT]:
                if self.buffer[: min(filled, len(first))].tobytes() != first[:filled]:
                    return None
                if filled < len(first):
                    continue
                state[AT] = len(first)
            if not take(self.buffer, filled, head, state, found, rows):
                return None
        return (found, rows[: state[HELD]]) if state[AT] == filled else None


class RowFetch:
    """Reads rows, of any shard and for any number of threads.

    Parameters
    ----------
    client : Client
    row_bytes : int
    """

    def __init__(self, client: Client, row_bytes: int) -> None:
        self._client, self._size = client, row_bytes
        self._head = np.frombuffer(b"$%d\r\n" % row_bytes, np.uint8)
        self._take = build.load("wire/replies").take_rows
        self._idle: dict[str, list[_Link]] = {}  # by server

    def warm_up(self) -> None:
        """Compile what takes replies apart, or load it from the disk cache."""
        nothing = np.empty(0, np.bool_), np.empty((0, self._size), np.uint8)
        self._take(np.empty(1, np.uint8), 0, self._head, np.zeros(3, np.int64), *nothing)

    def fetch(self, name: str, keys: NDArray[np.uint64]) -> RowBlock | None:
        """Rows of these keys in the hash `name`, as many as exist; None where the reply is not understood.

        Raises
        ------
        StoreUnavailableError
            No connection, or no reply in time.
        SettingError
            The login is refused.
        """
        held, rows = [np.empty(0, np.uint64)], [np.empty((0, self._size), np.uint8)]
        for begin in range(0, len(keys), CHUNK):
            part = keys[begin : begin + CHUNK]
            taken = self._ask(name, part)
            if taken is None:
                return None
            held.append(part[taken[0]])
            rows.append(taken[1])
        if len(rows) == 2:  # as nearly always: no copy
            return RowBlock(held[1], rows[1])
        return RowBlock(np.concatenate(held), np.concatenate(rows))

    def _ask(self, name: str, keys: NDArray[np.uint64]) -> Taken | None:
        encoded = name.encode()
        items = np.empty((len(keys), len(_ITEM)), np.uint8)
        items[:] = _ITEM
        items[:, _KEY] = np.frombuffer(encode_keys(keys), np.uint8).reshape(-1, 8)
        head = b"*%d\r\n$5\r\nHMGET\r\n$%d\r\n%b\r\n" % (2 + len(keys), len(encoded), encoded)
        idle = self._idle.setdefault(server_of(self._client, name), [])
        try:
            link = idle.pop()
        except IndexError:
            link = _Link(self._client, name, CHUNK * (self._size + len(self._head) + 2) + _HEADER_BYTES)
        taken = None
        try:
            taken = link.exchange(head + items.tobytes(), len(keys), self._head, self._size, self._take)
        except TimeoutError as error:
            raise StoreUnavailableError(f"Redis does not answer: {error}") from error
        except OSError:
            return None  # it hung up: a new connection tells why
        finally:
            if taken is not None and len(idle) < _LINKS:
                idle.append(link)
            else:
                link.session.drop()
        return taken
