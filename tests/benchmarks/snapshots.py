"""Does learning notice a snapshot? `python tests/benchmarks/snapshots.py` prints a table.

A learner in this process (39 fields, k = 4, 16 shards) commits once a second to a real Redis on the other core, as
`ctr train` does; in every second window `ctr snapshot` runs beside it as `ctr train --snapshots` has it run. Figures
are medians over windows of equal length. The longest pause is the time between two batches of 64 events; commits cause
some by themselves (the dirty rows are packed), so read the difference. Memory is the snapshot process's own peak, pages
of its scratch file not counted, beside the learner's table. On a machine that others use too `--priority 15` (root)
lets learner and Redis, not the snapshot, go before them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table as Grid

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from ctr.events.batch import Batch  # noqa: E402  the repository's own, wherever this is run
from ctr.model import Model  # noqa: E402
from ctr.spec import Field, Spec, Store  # noqa: E402
from ctr.spec import Model as ModelSpec  # noqa: E402
from ctr.store import Cut, ModelWriter, Watermarks, connect, create_model  # noqa: E402
from deploy.local.process import free_port  # noqa: E402
from deploy.local.redis import Redis  # noqa: E402
from workers.committer import Committer  # noqa: E402
from workers.snapshot import NICE  # noqa: E402

F, N, RATE = 39, 64, 20_000
LONG_S = 0.05


@dataclass
class Window:
    """What happened in one stretch of learning."""

    events_per_s: float
    pause_s: float
    long_pauses_per_min: float
    took_s: float = 0.0
    peak_bytes: int = 0


class Learner:
    """Learns at a steady rate, and commits once a second."""

    def __init__(self, writer: ModelWriter, spec: Spec, features: int) -> None:
        self._model, self._committer = Model(spec), Committer(writer, lambda send: send())
        rng = np.random.default_rng(1)
        ranks = np.minimum(rng.zipf(1.25, (N * 2000, F)), features // F)
        keys = (ranks * F + np.arange(F)).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        self._batches = [self._batch(keys[i * N : (i + 1) * N], rng) for i in range(2000)]
        self._at, self._due, self._offset = 0, 0.0, 0
        every = np.arange(features) // F * F + np.arange(features) % F
        self._fill(every[: len(every) // F * F].reshape(-1, F).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15), rng)

    @staticmethod
    def _batch(keys: NDArray[np.uint64], rng: np.random.Generator) -> Batch:
        n = len(keys)
        return Batch(
            keys.ravel(), np.ones(n * F, np.float32), np.tile(np.arange(F, dtype=np.uint8), n), np.arange(n + 1) * F,
            (rng.random(n) < 0.3).astype(np.float32), np.ones(n, np.float32), np.full(n, 1.7e9),
            np.zeros(n, np.int32), np.arange(n), True,
        )  # fmt: skip

    def _fill(self, keys: NDArray[np.uint64], rng: np.random.Generator) -> None:
        """Every feature once, so that the table and the store are full."""
        for begin in range(0, len(keys), 1000):
            self._model.learn_many(self._batch(keys[begin : begin + 1000], rng))
        self._commit()
        self._committer.wait()

    @property
    def table_bytes(self) -> int:
        """Memory of the table."""
        return self._model.memory_bytes

    @property
    def rows(self) -> int:
        """In the table."""
        return self._model.rows

    def _commit(self) -> None:
        self._offset += 1
        offsets = {"t:0": self._offset}
        self._committer.send(Cut(self._model.take_dirty(), offsets, Watermarks(), origins={"t:0": 0}))
        self._due = time.perf_counter() + 1.0

    def run(self, url: str, target: str | None, least_s: float, priority: int) -> Window:
        """Learn for so long at least, and until the snapshot is taken."""
        process, peak, took = None, 0, 0.0
        if target is not None:
            command = ["nice", "-n", str(priority), sys.executable, "-m", "workers.cli"]
            command += ["snapshot", "bench", target, "--nice", str(NICE)]
            process = subprocess.Popen(
                command, env={**os.environ, "CTR_REDIS": url}, cwd=ROOT, stdout=subprocess.DEVNULL
            )
        began = last = time.perf_counter()
        looked, events, pause, long = began, 0, 0.0, 0
        while last - began < least_s or process is not None:
            if (cut := self._committer.ended()) is not None:
                self._model.reuse(cut.rows)  # as a trainer does
            if last >= self._due and not self._committer.busy:
                self._commit()
            self._model.learn_many(self._batches[self._at])
            self._at = (self._at + 1) % len(self._batches)
            events += N
            now = time.perf_counter()
            long += now - last > LONG_S
            pause, last = max(pause, now - last), now
            if process is not None and now - looked > 0.25:
                looked = now
                peak = max(peak, _own_bytes(process.pid))
                if process.poll() is not None:
                    assert process.returncode == 0
                    process, took = None, now - began
                last = time.perf_counter()  # looking is not the learner's
            idle = began + events / RATE - last
            if idle > 0:
                time.sleep(idle)
                last = time.perf_counter()
        return Window(events / (last - began), pause, 60 * long / (last - began), took, peak)


def _own_bytes(pid: int) -> int:
    """Resident memory of a process that is no file's."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--priority", type=int, default=0)
    options = parser.parse_args()
    fields = tuple(Field(name=f"f{i}") for i in range(F))
    spec = Spec(
        name="bench", fields=fields, store=Store(shards=16), model=ModelSpec(max_rows=options.features + 1000)
    )  # fmt: skip
    cores = sorted(os.sched_getaffinity(0))
    windows: dict[bool, list[Window]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as directory:
        server = Redis(Path(directory) / "redis", free_port())
        server.start()
        try:
            with connect(server.url, timeout_s=30) as client:
                redis_id = client.info("server")["process_id"]
                os.sched_setaffinity(redis_id, cores[1:2] or cores)
                if options.priority:
                    os.setpriority(os.PRIO_PROCESS, redis_id, -options.priority)
                    os.nice(-options.priority)
                writer = ModelWriter(client, create_model(client, spec))
                writer.take_over()
                learner = Learner(writer, spec, options.features)
                learner.run(server.url, None, 2.0, 0)
                for _ in range(options.rounds):
                    beside = learner.run(server.url, f"{directory}/snapshots", options.seconds, options.priority)
                    windows[True].append(beside)
                    windows[False].append(learner.run(server.url, None, max(options.seconds, beside.took_s), 0))
                writer.close()
        finally:
            server.stop()
    grid = Grid("", "events/s", "longest pause", "over 50 ms a minute")
    for with_one, found in windows.items():
        pauses = [window.pause_s * 1000 for window in found]
        grid.add_row(
            "beside a snapshot" if with_one else "alone", f"{statistics.median(w.events_per_s for w in found):,.0f}",
            f"{statistics.median(pauses):.1f} ms", f"{statistics.median(w.long_pauses_per_min for w in found):.1f}",
        )  # fmt: skip
    console, taken = Console(), windows[True]
    console.print(grid)
    console.print(
        f"a snapshot of {learner.rows:,} rows takes {statistics.median(w.took_s for w in taken):.1f} s and "
        f"{max(w.peak_bytes for w in taken) / 1e6:.0f} MB of its own; the learner's table has "
        f"{learner.table_bytes / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    main()
