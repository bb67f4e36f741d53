"""`ctr serve` under load: `python tests/benchmarks/serving_http.py` prints tables, writes serving_http.json.

One scorer process on one core; on the other a real Redis, a trainer-like committer of 50,000 rows/s and whoever makes
the load. On the scorer's core, taking turns with it in the same run, an ASGI application under the same server that
only gives each body back: read the ratios to it. The scorer is stopped (SIGSTOP) while the echo is measured, so that
following the committer costs the echo nothing. Where others use the machine, too, requests a second depend on them: the
processor time of the server, read beside, does so less.

Saturation: wrk, closed loop. Latency: a generator of its own here, open loop: a request is due at its time whatever
became of those before it, and its latency counts from then on (no coordinated omission). `--seconds` a round; the JSON
also holds latency against load, for a plot. Criteo's shape: 39 fields, of which 30 are a ranking's context.

Not named http.py: scripts beside it would then import it instead of the standard library's.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
from engine import CRITEO, cardinalities, events
from measure import report, results
from rich.console import Console
from rich.table import Table as Grid

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from ctr.events import encode_rows  # noqa: E402  the repository's own, wherever this is run
from ctr.model import Model  # noqa: E402
from ctr.serving.server import open_socket, run  # noqa: E402
from ctr.spec import parse  # noqa: E402
from ctr.store import Cut, ModelWriter, Watermarks, ads, connect, create_model  # noqa: E402
from deploy.local.process import HOST, free_port  # noqa: E402
from deploy.local.redis import Redis  # noqa: E402

NAMES = [f"I{i}" for i in range(1, 14)] + [f"C{i}" for i in range(1, 27)]
CONTEXT, CANDIDATES, ADS = 30, 500, 5000
COMMITTED_ROWS_PER_S, SHARDS = 50_000, 16
CONNECTIONS = 16
LOADS = (0.1, 0.2, 1 / 3, 0.5, 0.7, 0.85)
"""Parts of the saturation at which latency is measured."""
TOML = (
    'name = "bench"\nfields = [' + ", ".join(f'{{ name = "{name}" }}' for name in NAMES)
    + "]\n[model]\nbase_rate = 0.26\nmax_rows = 1048576\n"
    + f"[store]\nshards = {SHARDS}\n"
)  # fmt: skip


def rows_of(n, seed):
    """Criteo-shaped events as rows: 13 small numbers, 26 texts of 8 hexadecimal digits."""
    ids, labels = events(cardinalities(CRITEO, 1 << 20), n, seed)
    rows = [
        dict(zip(NAMES, [*row[:13], *(f"{value * 2654435761 & 0xFFFFFFFF:08x}" for value in row[13:])], strict=True))
        for row in ids.tolist()
    ]
    return rows, labels


# ---- the processes of a run -----------------------------------------------------------------------------------------


class Echo:
    """An ASGI application that gives each body back."""

    max_header_bytes = 32 << 10

    async def __call__(self, _scope, receive, send):
        message = await receive()
        body = message.get("body", b"")
        while message.get("more_body"):
            message = await receive()
            body += message.get("body", b"")
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def echo(port):
    run(Echo(), open_socket(f"{HOST}:{port}"), lambda: False)


def commit(url, ready):
    """Trainer-like: each second the rows that so many events touched, 50,000 of them, in one cut."""
    client, spec = connect(url), parse(TOML)
    model = Model(spec)
    writer = ModelWriter(client, create_model(client, spec))
    writer.take_over()
    cuts, n = [], 0
    for seed in range(4):
        rows, labels = rows_of(12_000, seed + 1)
        batch = encode_rows(spec, rows, time.time())
        model.learn_many(replace(batch, labels=labels))
        n += len(rows)
        block = model.take_dirty()
        writer.commit(Cut(block, {"t:0": n}, watermarks(), origins={"t:0": 0}))
        order = np.random.default_rng(seed).permutation(len(block))
        cuts.append(type(block)(block.keys[order][:COMMITTED_ROWS_PER_S], block.data[order][:COMMITTED_ROWS_PER_S]))
    catalogue = [dict(list(row.items())[CONTEXT:]) for row in rows_of(ADS, 1)[0]]
    ads.put(client, "bench", ((f"ad-{i}", json.dumps(ad).encode()) for i, ad in enumerate(catalogue)))
    Path(ready).write_text(str([len(cut) for cut in cuts]))
    due, turn = time.monotonic(), 0
    while True:
        cut = cuts[turn % len(cuts)]
        turn += 1
        writer.commit(Cut(cut, {"t:0": n + turn}, watermarks(), origins={"t:0": 0}))
        due += len(cut) / COMMITTED_ROWS_PER_S
        time.sleep(max(0.0, due - time.monotonic()))


def watermarks():
    now = time.time()
    return Watermarks(now, now, now)


def spawn(cores, *arguments, **options):
    """A process on these cores alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # inherited
    try:
        return subprocess.Popen([sys.executable, *map(str, arguments)], cwd=ROOT, **options)
    finally:
        os.sched_setaffinity(0, before)


def cpu_s(process):
    """Processor time so far of a process, and of its event loop: what requests cost, whoever else wants the core."""
    times = []
    for stat in (f"/proc/{process.pid}/stat", f"/proc/{process.pid}/task/{process.pid}/stat"):
        fields = Path(stat).read_text().rpartition(")")[2].split()
        times.append((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
    return np.array(times)


def wait_until(holds, within_s=300.0):
    until = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > until:
            raise TimeoutError("the processes of this run did not come up")
        time.sleep(0.1)


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


# ---- load -----------------------------------------------------------------------------------------------------------


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
    """Latencies in seconds at a fixed rate, each from the moment its request was due; busy, so that it is in time."""
    links = [socket.create_connection((HOST, port)) for _ in range(connections)]
    poller, free, busy = select.epoll(), [], {}
    for link in links:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poller.register(link, select.EPOLLIN)
        free.append(link)
    by_number = {link.fileno(): link for link in links}
    total, begun, took = int(rate * seconds), 0, []
    start = time.perf_counter() + 0.01
    while len(took) < total:
        now = time.perf_counter()
        while begun < total and free and start + begun / rate <= now:
            link = free.pop()
            link.sendall(sent[begun % len(sent)])
            busy[link.fileno()] = [start + begun / rate, -1, b""]
            begun += 1
        ready = poller.poll(0)
        if not ready:
            os.sched_yield()
        for number, _ in ready:
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
    for link in links:
        link.close()
    return np.array(took)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("serving_http.json"))
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-latency", action="store_true")
    parser.add_argument("--echo", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--commit", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.echo:
        echo(options.echo)
    elif options.commit:
        commit(*options.commit)
    else:
        measured(options)


def measured(options):
    """Start all, measure, end all."""
    cores = sorted(os.sched_getaffinity(0))
    served, other = set(cores[-1:]), set(cores[:-1] or cores)
    os.sched_setaffinity(0, other)
    started = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        redis = Redis(directory / "redis", free_port())
        redis.start()
        try:
            measure(directory, redis, served, other, started, options)
        finally:
            for process in reversed(started):
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()
            redis.stop()
    show()
    options.json.write_text(json.dumps(results, indent=1) + "\n")


def measure(directory, redis, served, other, started, options):
    ready, quiet = directory / "ready", {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started.append(spawn(other, __file__, "--commit", redis.url, ready))
    wait_until(ready.exists)
    port, echo_port = free_port(), free_port()
    scorer = spawn(
        served, "-m", "workers.cli", "serve", "bench", "--redis", redis.url, "--listen", f"{HOST}:{port}", **quiet
    )
    started += [scorer, spawn(served, __file__, "--echo", echo_port, **quiet)]
    wait_until(lambda: answers(f"http://{HOST}:{port}/readyz") and answers(f"http://{HOST}:{echo_port}/"))

    rows, random = rows_of(1000, 2)[0], np.random.default_rng(5)
    catalogue = [dict(list(row.items())[CONTEXT:]) for row in rows_of(ADS, 1)[0]]
    predict = [json.dumps({"instances": [row]}).encode() for row in rows]
    by_id, in_full = [], []
    for row in rows[:100]:
        context, chosen = dict(list(row.items())[:CONTEXT]), random.choice(ADS, CANDIDATES, replace=False).tolist()
        by_id.append(json.dumps({"context": context, "candidates": [f"ad-{i}" for i in chosen]}).encode())
        in_full.append(json.dumps({"context": context, "candidates": [catalogue[i] for i in chosen]}).encode())
    suites = {
        "echo": (echo_port, "/", predict),
        "predict, one row": (port, "/v1/models/bench:predict", predict),
        "rank 500 by id": (port, "/v1/models/bench:rank", by_id),
        "rank 500 as JSON": (port, "/v1/models/bench:rank", in_full),
    }
    sent = {name: (at, requests(path, bodies, at)) for name, (at, path, bodies) in suites.items()}

    def quietly(name, work):
        """The echo has the core for itself; the scorer first catches up with what was committed meanwhile."""
        if name == "echo":
            scorer.send_signal(signal.SIGSTOP)
            try:
                return work()
            finally:
                scorer.send_signal(signal.SIGCONT)
                time.sleep(2.0)
        return work()

    for name, (at, made) in sent.items():  # rows are read, and answers are right, before a clock starts
        saturate(directory, name, made, at, 2)
    speeds, costs = {name: [] for name in suites}, {name: [] for name in suites}
    behind = []
    for _ in range(options.rounds):
        for name, (at, made) in sent.items():
            process = started[2 if name == "echo" else 1]
            before, began = cpu_s(process), time.monotonic()
            speed = quietly(name, lambda: saturate(directory, name, made, at, options.seconds))  # noqa: B023
            speeds[name].append(speed)
            whole, loop = cpu_s(process) - before
            costs[name].append(loop / (speed * options.seconds) * 1e6)
            if name != "echo":
                behind.append(100 * (whole - loop) / (time.monotonic() - began))
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    for name, speed in medians.items():
        ratio = statistics.median(one / base for one, base in zip(speeds[name], speeds["echo"], strict=True))
        report("http saturation, wrk", name, speed, "requests/s", medians["echo"], ratio)
    for name, found in costs.items():
        cost, base = statistics.median(found), statistics.median(costs["echo"])
        report("http saturation, CPU time of the event loop", name, cost, "us/request", base, base / cost)
    report("http saturation, CPU time beside it", "following the store", statistics.median(behind), "% of the core")
    if not options.no_latency:
        latency(quietly, sent, medians["predict, one row"], options)


def latency(quietly, sent, saturation, options):
    """Both at the same rates, parts of what the scorer can answer at most."""
    for load in LOADS:
        found = {name: [] for name in ("echo", "predict, one row")}
        for _ in range(options.rounds if load == 1 / 3 else 1):
            for name, milliseconds in found.items():
                at, made = sent[name]
                took = quietly(name, lambda: at_rate(made, at, load * saturation, options.seconds))  # noqa: B023
                milliseconds.append(np.percentile(took, [50, 99]) * 1e3)
        medians = {name: np.median(ms, axis=0) for name, ms in found.items()}
        for at, what in enumerate(("p50", "p99")):
            mine, base = (float(medians[name][at]) for name in ("predict, one row", "echo"))
            suite = f"http latency at {load:.2f} of {saturation:,.0f} requests/s"
            report(suite, f"predict, {what}", mine, "ms", base, mine / base)


def show():
    grid = Grid("suite", "what", "value", "unit", "echo", "ratio", title="ctr serve on one core")
    for row in results:
        digits = ".2f" if row["unit"] == "ms" else ",.0f"
        value, base = ("" if row[key] is None else format(row[key], digits) for key in ("value", "baseline"))
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.3f} x"
        grid.add_row(row["suite"], row["name"], value, row["unit"], base, ratio)
    Console(width=140).print(grid)


if __name__ == "__main__":
    main()
