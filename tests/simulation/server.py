"""A modelled Redis: commands of the commit protocol in, replies out, over connections that fail in every way.

What a client sends is executed command by command, and between any two of them another client's may be. A connection
can break before, between or behind the commands that were sent, and what was sent may be executed long after the client
gave up. Commands come as tuples, or as bytes where the writer packed them itself.
"""

from __future__ import annotations

import random
from collections import Counter, deque

import redis


class Server:
    """The keys of one server, and what is still on its way to it.

    Parameters
    ----------
    rng : random.Random
    pause : callable
        Lets others run; called between two commands.
    written : callable
        Told the names of the keys that a transaction or a command wrote.
    fault : float
        Probability with which a round trip fails.
    """

    def __init__(self, rng: random.Random, pause, written, fault: float) -> None:
        self.rng, self.pause, self.written, self.fault = rng, pause, written, fault
        self.hashes: dict[str, dict[bytes, bytes]] = {}
        self.streams: dict[str, list] = {}
        self.touched: Counter[str] = Counter()
        self.epoch = 0
        self.late: deque[tuple[Link, list]] = deque()
        self.seen: Counter[str] = Counter()
        self.connection_pool = self  # what a client shows of itself

    def make_connection(self) -> Connection:
        return Connection(self)

    def run_late(self) -> None:
        """Execute what somebody sent who is no longer waiting for the reply."""
        link, commands = self.late.popleft()
        for command in commands:
            link.run(command)
        self.seen["late"] += 1

    def fail_over(self) -> None:
        """All connections break; what was on its way is lost."""
        self.epoch += 1
        self.late.clear()

    def execute(self, command) -> object:
        name, *arguments = command
        if name == "HGETALL":
            found = self.hashes.get(arguments[0], {})
            return [part for item in found.items() for part in item]
        if name == "HLEN":
            return len(self.hashes.get(arguments[0], ()))
        if name == "HSCAN":
            found = self.hashes.get(arguments[0], {})
            return [b"0", [part for item in found.items() for part in item]]
        if name == "INFO":
            return b"# Memory\r\nmaxmemory_policy:noeviction\r\n"
        key, *rest = arguments
        self.touched[key] += 1
        if name == "HSET":
            held = self.hashes.setdefault(key, {})
            before = len(held)
            held.update(zip(map(_encoded, rest[::2]), map(_encoded, rest[1::2]), strict=True))
            return len(held) - before
        if name == "XADD":
            self.streams.setdefault(key, []).append(rest[3])
            return rest[3].encode()
        raise AssertionError(name)


class Link:
    """The server's side of a connection: what it watches, what it queued."""

    def __init__(self, server: Server) -> None:
        self.server, self.epoch = server, server.epoch
        self.watched: dict[str, int] = {}
        self.queued: list | None = None

    def run(self, command) -> object:
        server = self.server
        if isinstance(command, memoryview | bytes):
            command = parse(bytes(command))
        name = command[0]
        if name == "MULTI":
            self.queued = []
            return b"OK"
        if name == "EXEC":
            commands, self.queued = self.queued, None
            stale = any(server.touched[key] != count for key, count in self.watched.items())
            self.watched = {}
            if stale:
                server.seen["aborts"] += 1
                return None
            replies = [server.execute(queued) for queued in commands]
            self._tell(commands)
            return replies
        if self.queued is not None:
            self.queued.append(command)
            return b"QUEUED"
        if name == "WATCH":
            self.watched.setdefault(command[1], server.touched[command[1]])
            return b"OK"
        if name == "UNWATCH":
            self.watched = {}
            return b"OK"
        reply = server.execute(command)
        self._tell([command])
        return reply

    def _tell(self, commands) -> None:
        names = {command[1] for command in commands if command[0] in ("HSET", "XADD")}
        if names:
            self.server.written(names)


class Connection:
    """What `ctr.store.connection.Session` uses of a redis-py connection."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.link: Link | None = None
        self.sent: list = []
        self.replies: deque = deque()

    def connect(self) -> None:
        self.link = Link(self.server)

    def disconnect(self) -> None:
        if self.link is not None and self.sent and self.server.rng.random() < 0.5:
            self._leave_behind()
        self.link = None

    def pack_commands(self, commands):
        return list(commands)

    def send_packed_command(self, commands) -> None:
        for command in commands:  # the sender's buffer is used again
            self.sent.append(bytes(command) if isinstance(command, memoryview) else command)

    def read_response(self):
        if not self.replies:
            self._travel()
        return self.replies.popleft()

    def _travel(self) -> None:
        server, rng, commands = self.server, self.server.rng, self.sent
        breaks_at = rng.randrange(len(commands) + 1) if rng.random() < server.fault else None
        for at, command in enumerate(commands):
            if self.link.queued is None or command[0] == "EXEC":
                server.pause()
            if self.link.epoch != server.epoch:
                self._broken()
            if at == breaks_at:
                if rng.random() < 0.5:
                    self.sent = commands[at:]
                    self._leave_behind()
                self._broken()
            self.replies.append(self.link.run(command))
            if at + 1 == breaks_at == len(commands):
                server.seen["unknown"] += command[0] == "EXEC"
                self._broken()
            self.sent = commands[at + 1 :]
        self.sent = []

    def _leave_behind(self) -> None:
        """Somebody will execute it."""
        if self.link.epoch == self.server.epoch:
            self.server.late.append((self.link, self.sent))
        self.sent = []

    def _broken(self) -> None:
        self.sent, self.link = [], None
        self.replies.clear()
        raise redis.ConnectionError("the connection broke")


def parse(data: bytes) -> tuple:
    """A command from its bytes."""
    end = data.index(b"\r\n")
    count, at = int(data[1:end]), end + 2
    parts = []
    for _ in range(count):
        end = data.index(b"\r\n", at)
        size = int(data[at + 1 : end])
        parts.append(data[end + 2 : end + 2 + size])
        at = end + 4 + size
    assert at == len(data)
    return (parts[0].decode(), parts[1].decode(), *parts[2:])


def _encoded(value) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
