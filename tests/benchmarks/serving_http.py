"""`ctr serve` under load: `python tests/benchmarks/serving_http.py` prints tables, writes serving_http.json.

One scorer process on one core; on the other a real Redis, a trainer-like committer of 50,000 rows/s and whoever makes
the load. On the scorer's core, taking turns with it in the same run, an ASGI application under the same server that
only gives each body back: read the ratios to it. The scorer is stopped (SIGSTOP) while the echo is measured, so that
following the committer costs the echo nothing. Where others use the machine, too, requests a second depend on them: the
processor time of the server, read beside, does so less.

Saturation: wrk, closed loop. Latency: a generator of its own here, open loop: a request is due at its time whatever
became of those before it, and its latency counts from then on (no coordinated omission); it sleeps between two, and is
run before committer and Redis, with whom it shares a core (root): its own waiting is no latency. Rounds with the
committer take turns with rounds without. `--seconds` a round; `--latency` writes latency against load, for the plot.
Criteo's shape: 39 fields, of which 30 are a ranking's context.

Not named http.py: scripts beside it would then import it instead of the standard library's.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
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

from load import at_rate, preferred, requests, saturate  # noqa: E402

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
PREDICT, UNCOMMITTED = "predict, one row", "predict, no commits"
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
    due, turn, written = time.monotonic(), 0, 0
    while True:
        Path(ready).write_text(str(written))
        cut = cuts[turn % len(cuts)]
        turn, written = turn + 1, written + len(cut)
        writer.commit(Cut(cut, {"t:0": n + turn}, watermarks(), origins={"t:0": 0}))
        due = max(due + len(cut) / COMMITTED_ROWS_PER_S, time.monotonic())  # after a stop it makes up for nothing
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("serving_http.json"))
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency", type=Path, default=Path("latency.json"))
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
    by_id, best, in_full = [], [], []
    for row in rows[:100]:
        context, chosen = dict(list(row.items())[:CONTEXT]), random.choice(ADS, CANDIDATES, replace=False).tolist()
        asked = {"context": context, "candidates": [f"ad-{i}" for i in chosen]}
        by_id.append(json.dumps(asked).encode())
        best.append(json.dumps({**asked, "top": 10}).encode())
        in_full.append(json.dumps({"context": context, "candidates": [catalogue[i] for i in chosen]}).encode())
    suites = {
        "echo": (echo_port, "/", predict),
        PREDICT: (port, "/v1/models/bench:predict", predict),
        "rank 500 by id": (port, "/v1/models/bench:rank", by_id),
        "rank 500 by id, the best 10": (port, "/v1/models/bench:rank", best),
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
    behind, begun = [], (time.monotonic(), int(ready.read_text()))
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
    committed = (int(ready.read_text()) - begun[1]) / (time.monotonic() - begun[0])
    report("http saturation, committed meanwhile", "rows, to the same Redis", committed, "rows/s")
    if not options.no_latency:
        found = latency(quietly, sent, medians[PREDICT], started[0], options)
        options.latency.write_text(json.dumps({"committed_rows_per_s": COMMITTED_ROWS_PER_S, "loads": found}) + "\n")


def latency(quietly, sent, saturation, committer, options):
    """All at the same rates, parts of what the scorer can answer at most: of each load p50 and p99 in milliseconds."""

    def uncommitted(work):
        committer.send_signal(signal.SIGSTOP)
        try:
            time.sleep(1.0)  # the scorer reads what was committed last
            return work()
        finally:
            committer.send_signal(signal.SIGCONT)
            time.sleep(1.0)

    measured = []
    for load in LOADS:
        rate = load * saturation
        found = {name: [] for name in ("echo", PREDICT, UNCOMMITTED)}
        for _ in range(options.rounds):
            for name, milliseconds in found.items():
                at, made = sent["echo" if name == "echo" else PREDICT]

                def work(at=at, made=made):
                    with preferred():
                        return at_rate(made, at, rate, options.seconds)  # noqa: B023

                took = uncommitted(work) if name == UNCOMMITTED else quietly(name, work)
                milliseconds.append(np.percentile(took, [50, 99]) * 1e3)
        medians = {name: np.median(ms, axis=0).tolist() for name, ms in found.items()}
        measured.append({"load": load, "requests_per_s": rate, **medians})
        suite = f"http latency at {load:.2f} of {saturation:,.0f} requests/s"
        for at, what in enumerate(("p50", "p99")):
            mine, base, alone = (medians[name][at] for name in (PREDICT, "echo", UNCOMMITTED))
            report(suite, f"predict, {what}", mine, "ms", base, mine / base)
            report(suite, f"predict, {what}, against that without commits", mine, "ms", alone, mine / alone)
    return measured


def show():
    grid = Grid("suite", "what", "value", "unit", "baseline", "ratio", title="ctr serve on one core")
    for row in results:
        digits = ".2f" if row["unit"] == "ms" else ",.0f"
        value, base = ("" if row[key] is None else format(row[key], digits) for key in ("value", "baseline"))
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.3f} x"
        grid.add_row(row["suite"], row["name"], value, row["unit"], base, ratio)
    Console(width=140).print(grid)


if __name__ == "__main__":
    main()
