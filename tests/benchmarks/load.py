"""Who asks: closed loop by wrk, and open loop at a fixed rate by a generator of our own."""

from __future__ import annotations

import ctypes
import os
import select
import socket
import subprocess
import time
from contextlib import contextmanager

import numpy as np

from deploy.local.process import HOST

CONNECTIONS = 16


def requests(path, bodies, port):
    """Whole requests, as bytes."""
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nContent-Type: application/json\r\nContent-Length: "
    return [head.encode() + b"%d\r\n\r\n%s" % (len(body), body) for body in bodies]


LUA = """
local requests, at = {}, 0
init = function(arguments)
  local file = io.open(arguments[1], "rb")
  local data = file:read("*a")
  file:close()
  local from = 1
  while from <= #data do
    local size = tonumber(data:sub(from, from + 9))
    requests[#requests + 1] = data:sub(from + 10, from + 9 + size)
    from = from + 10 + size
  end
end
request = function() at = at % #requests + 1; return requests[at] end
done = function(summary, latency)
  io.write(string.format("\\nRESULT %d %d %d %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99)))
  local e = summary.errors
  io.write(string.format("ERRORS %d\\n", e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@contextmanager
def preferred():
    """Be run the moment there is something to do, whoever else has this core, where that is allowed (root)."""
    before = os.sched_getscheduler(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    except PermissionError:
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, before, os.sched_param(0))


def ticker(seconds):
    """A file that can be read each so many seconds (timerfd_create(2), which Python has from 3.13 on)."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK)
    whole, rest = divmod(round(seconds * 1e9), 10**9)
    if number < 0 or libc.timerfd_settime(number, 0, ctypes.byref((ctypes.c_long * 4)(whole, rest, whole, rest)), None):
        raise OSError(ctypes.get_errno(), "no timer")
    return number


def saturate(directory, name, sent, port, seconds, connections=CONNECTIONS):
    """Requests a second that wrk gets answered, its one thread never idle."""
    script, data = directory / "wrk.lua", directory / f"{name}.requests"
    script.write_text(LUA)
    data.write_bytes(b"".join(b"%010d%s" % (len(one), one) for one in sent))
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", script, f"http://{HOST}:{port}/",
         "--", data],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    lines = dict(line.split(" ", 1) for line in done.splitlines() if line.startswith(("RESULT", "ERRORS")))
    if int(lines["ERRORS"]):
        raise RuntimeError(f"{name}: wrk counts {lines['ERRORS']} errors\n{done}")
    count, took_us, *_ = map(int, lines["RESULT"].split())
    return count / took_us * 1e6


def at_rate(sent, port, rate, seconds, connections=64):
    """Latencies in seconds at a fixed rate, each from the moment its request was due; it sleeps between two of them."""
    links = [socket.create_connection((HOST, port)) for _ in range(connections)]
    poller, free, busy = select.epoll(), [], {}
    for link in links:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poller.register(link, select.EPOLLIN)
        free.append(link)
    by_number = {link.fileno(): link for link in links}
    clock = ticker(1 / rate)
    poller.register(clock, select.EPOLLIN)
    total, begun, took = int(rate * seconds), 0, []
    start = time.perf_counter() + 0.01
    while len(took) < total:
        now = time.perf_counter()
        while begun < total and free and start + begun / rate <= now:
            link = free.pop()
            link.sendall(sent[begun % len(sent)])
            busy[link.fileno()] = [start + begun / rate, -1, b""]
            begun += 1
        for number, _ in poller.poll(1.0):
            if number == clock:
                os.read(clock, 8)
                continue
            link, state = by_number[number], busy[number]
            data = state[2] + link.recv(1 << 18)
            if state[1] < 0 and (end := data.find(b"\r\n\r\n")) >= 0:
                if not data.startswith(b"HTTP/1.1 200"):
                    raise RuntimeError(data[:300])
                at = data.lower().index(b"content-length:") + 15
                state[1] = end + 4 + int(data[at : data.index(b"\r\n", at)])
            if 0 < state[1] <= len(data):
                took.append(time.perf_counter() - state[0])
                free.append(link)
            else:
                state[2] = data
        if now - start > 4 * seconds + 5:
            break  # it cannot keep up: what came back says enough
    os.close(clock)
    for link in links:
        link.close()
    return np.array(took)
