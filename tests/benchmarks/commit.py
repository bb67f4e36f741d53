"""Commit throughput against a real Redis on the other core: `python tests/benchmarks/commit.py`.

Rows of 39 fields, k = 4: 1,252 bytes each. The ways to write take turns, each figure is the median over rounds; read
the ratios. Then how much a pure Python thread is held up while commits run beside it (the GIL; all on any core), and a
learner (on a core of its own); and how many events a second the masked replay after a crash in mid-commit takes.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from measure import main, report

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from ctr.events.batch import Batch  # noqa: E402  the repository's own, wherever this is run
from ctr.model import Model  # noqa: E402
from ctr.model.replay import Replay  # noqa: E402
from ctr.rows import RowBlock, RowShape  # noqa: E402
from ctr.spec import Field, Spec, Store  # noqa: E402
from ctr.store import Client, Cut, ModelWriter, Watermarks, connect, create_model, read_model  # noqa: E402
from deploy.local.process import free_port  # noqa: E402
from deploy.local.redis import Redis  # noqa: E402

F, CHUNK = 39, 1000
Cores = tuple[Sequence[int], Sequence[int]]


def spec_of(shards: int) -> Spec:
    """A model of that many shards."""
    fields = tuple(Field(name=f"f{i}") for i in range(F))
    return Spec(name="bench", generation=f"s{shards}", fields=fields, store=Store(shards=shards))


def one_hset_a_row(client: Client, rows: RowBlock) -> None:
    """redis-py, pipelines of 1,000 commands."""
    names, values = [key.tobytes() for key in rows.keys], [row.tobytes() for row in rows.data]
    for begin in range(0, len(names), CHUNK):
        pipeline = client.pipeline(transaction=False)
        for name, value in zip(names[begin : begin + CHUNK], values[begin : begin + CHUNK], strict=True):
            pipeline.hset("each", name, value)
        pipeline.execute()


def mapping(client: Client, rows: RowBlock) -> None:
    """redis-py, one HSET of a mapping of 1,000 rows after the other."""
    names, values = [key.tobytes() for key in rows.keys], [row.tobytes() for row in rows.data]
    for begin in range(0, len(names), CHUNK):
        held = dict(zip(names[begin : begin + CHUNK], values[begin : begin + CHUNK], strict=True))
        client.hset("mapping", mapping=held)


def writer_of(client: Client, shards: int) -> ModelWriter:
    """The model's writer."""
    writer = ModelWriter(client, create_model(client, spec_of(shards)))
    writer.take_over()
    return writer


def throughput(client: Client, count: int, rounds: int) -> list[tuple[str, float, float]]:
    """(way, rows/s, share of the time that this process computed) by medians."""
    rng = np.random.default_rng(1)
    keys = rng.integers(1 << 40, 1 << 63, count, dtype=np.uint64)
    rows = RowBlock(keys, rng.integers(0, 256, (count, RowShape.of(spec_of(1)).packed_bytes), dtype=np.uint8))
    writers = {shards: writer_of(client, shards) for shards in (1, 16)}

    def commit(shards: int) -> None:
        writers[shards].commit(Cut(rows, {"t:0": time.time_ns()}, Watermarks(), origins={"t:0": 0}))

    ways = {
        "redis-py, one HSET a row": lambda: one_hset_a_row(client, rows),
        "redis-py, mapping of 1,000": lambda: mapping(client, rows),
        "commit, 1 shard": lambda: commit(1),
        "commit, 16 shards": lambda: commit(16),
    }
    took: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for at in range(rounds + 1):
        for way, write in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            write()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if at:  # the first round fills the hashes
                took[way].append((count / wall, cpu / wall))
    return [
        (way, statistics.median(speed for speed, _ in found), statistics.median(share for _, share in found))
        for way, found in took.items()
    ]


def kept(client: Client, count: int, rounds: int, work: Callable[[int], object], cores: Cores) -> float:
    """Speed of a thread that works all the time beside commits, as a share of its speed alone.

    `cores`: that thread's and the committer's.
    """
    rows = RowBlock(np.arange(1 << 40, (1 << 40) + count, dtype=np.uint64), np.zeros((count, 1252), np.uint8))
    writer = ModelWriter(client, read_model(client, "bench@s16"))
    writer.take_over()
    os.sched_setaffinity(0, cores[1])
    shares = []
    for _ in range(rounds):
        turns, stop = [0], threading.Event()

        def spin(turns: list[int] = turns, stop: threading.Event = stop) -> None:
            os.sched_setaffinity(0, cores[0])  # of this thread alone
            while not stop.is_set():
                work(turns[0])
                turns[0] += 1

        thread = threading.Thread(target=spin)
        thread.start()
        time.sleep(0.1)
        at, began = turns[0], time.perf_counter()
        time.sleep(0.5)
        alone = (turns[0] - at) / (time.perf_counter() - began)
        at, began = turns[0], time.perf_counter()
        for _ in range(3):
            writer.commit(Cut(rows, {"t:0": time.time_ns()}, Watermarks(), origins={"t:0": 0}))
        beside = (turns[0] - at) / (time.perf_counter() - began)
        stop.set()
        thread.join()
        shares.append(beside / alone)
    return statistics.median(shares)


def learning() -> Callable[[int], object]:
    """What a learner does: micro-batches of 64 events, a table of 200,000 rows."""
    model, batches = Model(spec_of(16)), [made(64, seed) for seed in range(200)]
    for batch in batches:
        model.learn_many(batch)
    return lambda turn: model.learn_many(batches[turn % len(batches)])


def made(count: int, seed: int) -> Batch:
    """Events of 39 one-hot fields."""
    rng = np.random.default_rng(seed)
    n = count * F
    return Batch(
        rng.integers(1 << 40, (1 << 40) + 200_000, n, dtype=np.uint64), np.ones(n, np.float32),
        np.tile(np.arange(F, dtype=np.uint8), count), np.arange(count + 1) * F,
        (rng.random(count) < 0.3).astype(np.float32), np.ones(count, np.float32), np.full(count, 1.7e9),
        np.zeros(count, np.int32), np.arange(count), True,
    )  # fmt: skip


def replayed(count: int = 3000) -> float:
    """Events a second of the masked replay, half of 16 shards ahead."""
    batch = made(count, 2)
    model = Model(spec_of(16))
    replay = Replay(model, [{"t:0": count if shard % 2 else 0} for shard in range(16)])
    replay.learn_many(batch.slice(0, 100), ["t:0"])
    began = time.perf_counter()
    replay.learn_many(batch.slice(100, count), ["t:0"])
    return (count - 100) / (time.perf_counter() - began)


def bench_commits(count: int = 50_000, rounds: int = 9) -> None:
    """Ways to write rows beside each other, and what they leave of a core."""
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as directory:
        server = Redis(Path(directory), free_port())
        server.start()
        try:
            with connect(server.url, timeout_s=30) as client:
                os.sched_setaffinity(client.info("server")["process_id"], cores[1:2] or cores)
                os.sched_setaffinity(0, cores[:1])
                figures = throughput(client, count, rounds)
                os.sched_setaffinity(0, cores)
                python = kept(client, count, rounds, lambda _turn: None, (cores, cores))
                learned = kept(client, count, rounds, learning(), (cores[:1], cores[1:2] or cores))
        finally:
            os.sched_setaffinity(0, cores)
            server.stop()
    suite, slow = "commit 39 fields k=4, 1,252 bytes", figures[0][1]
    for way, speed, computing in figures:
        report(suite, f"{way} (baseline: one HSET a row)", speed, "rows/s", slow, speed / slow)
        report(suite, f"{way}: processor time of the client", 100 * computing, "%")
    report(suite, "a thread of pure Python beside commits (baseline: alone)", 100 * python, "%", 100, python)
    report(suite, "learn_many on its own core beside commits (baseline: alone)", 100 * learned, "%", 100, learned)
    report(suite, "masked replay, half of 16 shards ahead", replayed(), "events/s")


SUITES = [("commit", bench_commits, ())]

if __name__ == "__main__":
    main(SUITES, __doc__)
