"""A command goes in, a running and answering server process comes out; and it is ended with certainty.

Everything here uses the standard library only: tests, `make up` and the demo share it.
"""

from __future__ import annotations

import atexit
import contextlib
import http.client
import os
import random
import signal
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from ctr.errors import CtrError, PortInUseError

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "127.0.0.1"
POLL_S = 0.02


class ServiceError(CtrError):
    """A server did not start, did not answer in time, or ended by itself."""


class ServiceMissingError(ServiceError):
    """What a server needs (a program, its jars) is not on this machine; the message says how to get it."""


@dataclass(frozen=True)
class Identity:
    """A process that cannot be taken for another one: a pid is reused, a pid with its start time is not.

    Parameters
    ----------
    pid : int
    started : str
        Boot id and start time in clock ticks after boot (Linux: field 22 of /proc/PID/stat).
    """

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """Return the identity of a running process; None when there is none, or only a zombie waits to be reaped."""
        try:
            # The second field, the name in parentheses, may hold blanks and parentheses itself.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            return None
        state, ticks = fields[0], fields[19]
        return None if state in "ZX" else cls(pid, f"{boot}/{ticks}")

    def alive(self) -> bool:
        """Tell whether exactly this process still runs."""
        return Identity.of(self.pid) == self

    def send(self, number: signal.Signals) -> None:
        """Signal exactly this process; nothing happens when it is gone, whoever has its pid now."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def end(self, deadline_s: float) -> bool:
        """SIGTERM, and SIGKILL after `deadline_s`. False when SIGKILL was needed."""
        self.send(signal.SIGTERM)
        self.send(signal.SIGCONT)  # a paused process would never see the SIGTERM
        if self.gone_within(deadline_s):
            return True
        self.send(signal.SIGKILL)
        if not self.gone_within(deadline_s):
            raise ServiceError(f"process {self.pid} does not end, not even by SIGKILL: look at it with ps")
        return False

    def gone_within(self, seconds: float) -> bool:
        """Wait for the end of the process; False when it still runs after `seconds`."""
        until = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > until:
                return False
            time.sleep(POLL_S)
        return True


_handed_out: set[int] = set()


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody has at this moment; each is given once.

    It lies below the range from which the system takes ports for outgoing connections (Linux: 32768 on): one of those
    would be taken again, by any client, before the server that it is meant for has started.
    """
    while True:
        port = random.randrange(16_384, 32_768)
        with socket.socket() as probe, contextlib.suppress(OSError):
            if port not in _handed_out:
                probe.bind((HOST, port))
                _handed_out.add(port)
                return port


def listening(port: int) -> bool:
    """Tell whether a connection to a loopback port is accepted."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0


def http_ok(port: int, path: str) -> bool:
    """Tell whether GET `path` on a loopback port is answered with 200."""
    connection = http.client.HTTPConnection(HOST, port, timeout=2.0)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextmanager
def signals_held() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait until the block is over: between a fork and its record they would leave an orphan.

    By Python's handlers, not by the signal mask, which a started process would inherit.
    """
    if threading.current_thread() is not threading.main_thread():  # signals do not reach other threads
        yield
        return
    held: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda number, _frame: held.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for waiting in held:
            signal.raise_signal(waiting)


class Service:
    """One server process on loopback: start, stop, and the failures that tests need.

    A subclass says what to run (`command`), when it answers (`ready`), and what must be there before (`prepare`).
    The directory and the port stay, so that `start` after `stop` or `kill` brings the same server back with its data.

    Parameters
    ----------
    name : str
    directory : Path
        Holds the server's data; made when missing. Its log is `directory`.log, appended to.
    port : int
    tied : bool
        The process ends with this one, however that ends. False for `make up`, whose servers outlive the command.
    """

    ready_within_s = 30.0
    stop_within_s = 15.0

    def __init__(self, name: str, directory: Path, port: int, *, tied: bool = True) -> None:
        self.name, self.directory, self.port, self.tied = name, directory, port, tied
        self.log = directory.with_name(directory.name + ".log")
        self.identity: Identity | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def address(self) -> str:
        """Where the server answers, as a user would write it."""
        return f"{HOST}:{self.port}"

    @property
    def ports(self) -> list[int]:
        """Every port the server listens on."""
        return [self.port]

    def check_ports_free(self) -> None:
        """Raise PortInUseError, naming the port and who wants it, when something has one already."""
        for port in self.ports:
            with socket.socket() as probe:
                # As servers do: connections of an ended predecessor (TIME_WAIT) do not count, listeners do.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((HOST, port))
                except OSError as error:
                    raise PortInUseError(f"port {port}, which {self.name} wants, is in use: end what has it") from error

    def command(self) -> list[str]:
        """Return the command line that runs the server in the foreground."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Make what the server needs before its start: configuration, formatted storage."""

    def ready(self) -> bool:
        """Ask the server itself whether it answers."""
        return listening(self.port)

    def alive(self) -> bool:
        """Tell whether the process runs (a paused one does)."""
        if self._child is not None:
            self._child.poll()  # reaps it when it has ended
        return self.identity is not None and self.identity.alive()

    def spawn(self) -> Identity:
        """Start the process without waiting until it answers.

        Raises
        ------
        PortInUseError
            Something else has the port.
        ServiceMissingError
            The program, or what it needs, is not on this machine.
        """
        if self.alive():
            raise ServiceError(f"{self.name} already runs")
        self.check_ports_free()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.prepare()
        command = self.command()
        with self.log.open("ab") as log, signals_held():
            self._log_start = log.tell()
            try:
                # A session of its own: Ctrl-C in a terminal reaches us, and we end our servers in the right order.
                self._child = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            except OSError as error:
                raise ServiceMissingError(f"{self.name} cannot be run: {command[0]}: {error.strerror}") from error
            self.identity = Identity.of(self._child.pid)
            if self.tied:
                atexit.register(self.stop)
                self._watcher = _end_with_us(self._child.pid)
        if self.identity is None:
            raise ServiceError(self._why_it_ended())
        return self.identity

    def wait_ready(self, within_s: float | None = None) -> None:
        """Wait until the server answers; ServiceError with the end of its log when it ends or the time is over."""
        within_s = self.ready_within_s if within_s is None else within_s
        until = time.monotonic() + within_s
        while not self.ready():
            if not self.alive():
                raise ServiceError(self._why_it_ended())
            if time.monotonic() > until:
                late = f"{self.name} did not answer on port {self.port} within {within_s:g} s"
                raise ServiceError(f"{late}; its log is {self.log}")
            time.sleep(POLL_S)
        if not self.alive():  # whoever answered, it was not ours
            raise ServiceError(self._why_it_ended())

    def start(self) -> None:
        """Start the process and wait until it answers; nothing is left running when that fails."""
        try:
            self.spawn()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server in order (SIGTERM, then SIGKILL after `stop_within_s`); harmless when it does not run."""
        if self.identity is not None:
            self.identity.end(self.stop_within_s)
        self._forget()

    def kill(self) -> None:
        """End the server by SIGKILL, as a crash would."""
        if self.identity is not None:
            self.identity.send(signal.SIGKILL)
            self.identity.gone_within(self.stop_within_s)
        self._forget()

    def restart(self) -> None:
        """Stop in order and start again on the same port with the same data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the process (SIGSTOP): connections stay open, nothing is answered."""
        if self.identity is not None:
            self.identity.send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on (SIGCONT)."""
        if self.identity is not None:
            self.identity.send(signal.SIGCONT)

    def _forget(self) -> None:
        if self._child is not None:
            self._child.wait()
        if self._watcher is not None and self._watcher.stdin is not None:
            self._watcher.kill()
            self._watcher.wait()
            self._watcher.stdin.close()
        atexit.unregister(self.stop)
        self.identity = self._child = self._watcher = None

    def _why_it_ended(self) -> str:
        code = None if self._child is None else self._child.poll()
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            lines = [line.strip() for line in log.read().decode(errors="replace").split("\n") if line.strip()]
        # The last line of a Java program is the tail of a stack trace; what went wrong stands above it.
        telling = [line for line in lines if "error" in line.lower()] or lines
        said = f", saying {telling[-1]!r}" if telling else ""
        return f"{self.name} ended with code {code} before it answered{said}; its log is {self.log}"


def _end_with_us(pid: int) -> subprocess.Popen[bytes]:
    """Start a shell that kills `pid` once our end of its input closes, which even SIGKILL of this process does.

    Linux's PR_SET_PDEATHSIG would do without it, but fires at the end of the *thread* that started the child.
    """
    script = 'read -r _ || kill -KILL "$1" 2>/dev/null'
    return subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
