"""Topic -> served parameters, sustained: `python tests/benchmarks/end_to_end.py` prints tables, writes end_to_end.json.

A real broker, a real Redis and `ctr train` are started here. Criteo-shaped events (39 fields, about 560 bytes of JSON)
come from a feeder that sends ready-made record batches, so that it takes next to nothing from the machine, and never
runs far ahead. One line without a ceiling on rows written a second, one with it. Beside both stands the speed of
`learn_many` alone on keys of the same events, one core, measured before and after in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time
import urllib.request
import warnings
from pathlib import Path

import numpy as np
from engine import CRITEO, cardinalities, events
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table as Grid

sys.path.insert(0, str(Path(__file__).parents[1]))

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "(read|open)_text is deprecated", DeprecationWarning)
    from kafka.record.default_records import DefaultRecordBatchBuilder
    from workbench import trainer

from ctr.events import open_reader
from ctr.events.messages import Messages
from ctr.model import Model
from ctr.spec import parse
from deploy.local.kafka import Kafka
from deploy.local.process import HOST, free_port
from deploy.local.redis import Redis

NAMES = [f"I{i}" for i in range(1, 14)] + [f"C{i}" for i in range(1, 27)]
ROWS = 1 << 20
PARTITIONS, BATCH = 4, 500
AHEAD = 1_000_000
"""Events in the topic and not yet learned: some seconds of work."""
STAGES = ("fetch", "scan", "learn", "pack", "commit")
WAITS = (("fetch", "starved"), ("fetch", "blocked"), ("learn", "starved"), ("learn", "blocked"))


def toml(generation, ceiling):
    fields = ", ".join(f'{{ name = "{name}" }}' for name in NAMES)
    return (
        f'name = "criteo"\ngeneration = "{generation}"\nfields = [{fields}]\n'
        f"[model]\nbase_rate = 0.26\nmax_rows = {ROWS}\n[commit]\nrows_per_s = {ceiling}\n[store]\nshards = 16\n"
    )


def json_lines(n, seed=1):
    """Events as JSON: 13 small numbers, 26 values of 8 hexadecimal digits, Zipf-distributed.

    Labels follow a weight of each value: the guard would hold back what is learned of mere chance.
    """
    ids, _ = events(cardinalities(CRITEO, ROWS), n, seed)
    logits = 0.25 * np.sin(ids * 12.9898).sum(axis=1) - 1.85
    labels = np.random.default_rng(seed).random(n) < 1 / (1 + np.exp(-logits))
    hashed = (ids[:, 13:].astype(np.uint64) * np.uint64(2654435761) & np.uint64(0xFFFFFFFF)).tolist()
    head = ('{{"label":{},' + ",".join(f'"I{i}":{{}}' for i in range(1, 14)) + ",").format
    tail = (",".join(f'"C{i}":"{{:08x}}"' for i in range(1, 27)) + "}}").format
    return [
        (head(int(y), *small) + tail(*large)).encode()
        for y, small, large in zip(labels.tolist(), ids[:, :13].tolist(), hashed, strict=True)
    ]


def record_batches(lines):
    """Compressed record batches (format 2, lz4) as a producer would send them; the broker gives them their offsets."""
    made, now = [], int(time.time() * 1000)
    for begin in range(0, len(lines), BATCH):
        part = lines[begin : begin + BATCH]
        builder = DefaultRecordBatchBuilder(2, DefaultRecordBatchBuilder.CODEC_LZ4, False, -1, -1, -1, 16 << 20)
        for i, line in enumerate(part):
            builder.append(i, now, None, line, [])
        made.append((len(part), bytes(builder.build())))
    return made


class Feeder(threading.Thread):
    """Sends record batches over and over, never more than `AHEAD` events before what `learned` says."""

    def __init__(self, port, topic, batches, learned):
        super().__init__(name="feeder", daemon=True)
        self._link = socket.create_connection((HOST, port))
        self._topic, self._batches, self._learned = topic.encode(), batches, learned
        self.stopping, self.sent, self.failed = threading.Event(), 0, None

    def run(self):
        try:
            turn = 0
            while not self.stopping.is_set():
                if self.sent - self._learned() > AHEAD:
                    self.stopping.wait(0.05)
                    continue
                for _ in range(40):
                    n, records = self._batches[turn % len(self._batches)]
                    self._produce(turn % PARTITIONS, records, turn)
                    self.sent += n
                    turn += 1
        except Exception as error:
            self.failed = error
            raise

    def _produce(self, partition, records, turn):
        """Produce, version 3: https://kafka.apache.org/protocol#The_Messages_Produce."""
        body = struct.pack(">hhih5s", 0, 3, turn, 5, b"bench") + struct.pack(">hhi", -1, 1, 10_000)
        body += struct.pack(">ih", 1, len(self._topic)) + self._topic
        body += struct.pack(">iii", 1, partition, len(records))
        self._link.sendall(struct.pack(">i", len(body) + len(records)) + body)
        self._link.sendall(records)
        reply = self._read(struct.unpack(">i", self._read(4))[0])
        code = struct.unpack_from(">h", reply, 4 + 4 + 2 + len(self._topic) + 4 + 4)[0]
        if code:
            raise RuntimeError(f"the broker answered with error {code}")

    def _read(self, n):
        data = b""
        while len(data) < n:
            if not (part := self._link.recv(n - len(data))):
                raise RuntimeError("the broker hung up")
            data += part
        return data


class Alone:
    """`learn_many` on ready keys: 4,096 events at a time, one core, on a table that has seen them all."""

    def __init__(self, lines):
        spec = parse(toml("alone", 0))
        reader, self._model, self._batches = open_reader(spec), Model(spec), []
        for begin in range(0, len(lines), 4096):
            part = lines[begin : begin + 4096]
            end = np.cumsum([len(line) for line in part]).astype(np.int64)
            n = len(part)
            first = np.concatenate(([0], end[:-1])).astype(np.int64)
            batch, refused = reader.read(
                Messages(b"".join(part), first, end, np.zeros(n, np.int32), np.arange(n), np.full(n, time.time()))
            )
            assert not refused, refused[0]
            self._batches.append(batch)
            self._model.learn_many(batch)
        self.rows = self._model.rows

    def speed(self):
        """Events a second."""
        begin = time.perf_counter()
        for batch in self._batches:
            self._model.learn_many(batch)
        return sum(map(len, self._batches)) / (time.perf_counter() - begin)

    def lookup_share(self):
        """Part of the time of `learn_many` that finds rows."""
        resolve, spent = self._model._resolve, 0.0

        def timed(*arguments):
            nonlocal spent
            begin = time.perf_counter()
            end = resolve(*arguments)
            spent += time.perf_counter() - begin
            return end

        self._model._resolve = timed
        try:
            begin = time.perf_counter()
            self.speed()
            return spent / (time.perf_counter() - begin)
        finally:
            self._model._resolve = resolve


def numbers(worker):
    """What the trainer says of itself now, by one scrape: each one sorts the quality window, 10 ms of a core."""
    with urllib.request.urlopen(f"{worker.address}/metrics", timeout=10) as reply:
        families = text_string_to_metric_families(reply.read().decode())
    held = {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}
    assert not held["ctr_guard_refusing",], "the guard holds a cut back"
    found = {"at": time.monotonic(), "learned": held.get(("ctr_events_total", "learned"), 0.0)}
    for stage in STAGES:
        found[stage] = held["ctr_stage_seconds_total", stage]
    for stage, why in WAITS:
        found[stage, why] = held["ctr_stage_wait_seconds_total", stage, why]
    for name in ("commits", "commit_rows"):
        found[name] = held[f"ctr_{name}_total",]
    found["interval_s"] = held["ctr_commit_interval_seconds",]
    return found


def resident(worker):
    """Resident memory, MiB."""
    lines = Path(f"/proc/{worker._child.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def sustained(directory, kafka, redis, batches, ceiling, seconds, warm_s, threads):
    """One line of the record: `ctr train` for so long, after a warm-up in which the table fills."""
    name = f"ceiling-{ceiling}"
    kafka.cluster.create_topic(name, PARTITIONS, {
        "message.timestamp.type": "LogAppendTime", "retention.ms": "-1", "retention.bytes": str(1 << 29),
        "segment.bytes": str(1 << 27),
    })  # fmt: skip
    spec = directory / f"{name}.toml"
    spec.write_text(toml(name, ceiling))
    more = () if threads is None else ("--scan-threads", threads)
    worker = trainer(
        directory / name, spec, "--kafka", kafka.bootstrap, "--topic", name, "--redis", redis.url, "--create", *more
    )
    worker.start()
    learned = [0.0]
    feeder = Feeder(kafka.port, name, batches, lambda: learned[0])
    feeder.start()
    try:
        memory, begin, now = [], None, numbers(worker)
        started = now["at"]
        while begin is None or now["at"] - begin["at"] < seconds:
            time.sleep(1.0)
            assert feeder.failed is None, feeder.failed
            now = numbers(worker)
            learned[0] = now["learned"]
            if begin is None and now["at"] - started >= warm_s:
                begin = now
            if begin is not None and now["at"] - begin["at"] >= len(memory) * seconds / 10:
                with redis.client() as client:
                    held = client.info("memory")["used_memory"] / 2**20
                memory.append((round(now["at"] - begin["at"], 1), resident(worker), held, now["interval_s"]))
        end = now
    finally:
        feeder.stopping.set()
        feeder.join(10)
        worker.stop()
        with redis.client() as client:
            client.flushall()
    wall = end["at"] - begin["at"]
    n = end["learned"] - begin["learned"]
    return {
        "ceiling": ceiling, "seconds": wall, "events_per_s": n / wall,
        "rows_per_s": (end["commit_rows"] - begin["commit_rows"]) / wall,
        "commits": end["commits"] - begin["commits"],
        "interval_s": statistics.median(sample[3] for sample in memory),
        "busy_s": {stage: end[stage] - begin[stage] for stage in STAGES},
        "waited_s": {f"{stage} {why}": end[stage, why] - begin[stage, why] for stage, why in WAITS},
        "memory_mib": [(at, round(worker_mib), round(redis_mib)) for at, worker_mib, redis_mib, _ in memory],
        "events": n,
    }  # fmt: skip


def show(console, line, alone, share):
    """Breakdown of one line by stage."""
    wall, n = line["seconds"], line["events"]
    title = f"rows/s ceiling {line['ceiling'] or 'off'}: {line['events_per_s']:,.0f} events/s"
    title += f" = {100 * line['events_per_s'] / alone:.0f} % of learn_many alone ({alone:,.0f})"
    title += f"; {line['rows_per_s']:,.0f} rows/s, a cut every {line['interval_s']:.1f} s"
    grid = Grid(title=title)
    for column in ("stage", "busy, % of the time", "us an event", "starved, %", "blocked, %"):
        grid.add_column(column, justify="left" if column == "stage" else "right")

    def waited(stage, why):
        seconds = line["waited_s"].get(f"{stage} {why}")
        return "" if seconds is None else f"{100 * seconds / wall:.0f}"

    for stage, seconds in line["busy_s"].items():
        cells = waited(stage, "starved"), waited(stage, "blocked")
        grid.add_row(stage, f"{100 * seconds / wall:.0f}", f"{1e6 * seconds / n:.2f}", *cells)
        if stage == "learn":
            for part, of in (("  look-up", share), ("  update", 1 - share)):
                grid.add_row(part, f"{100 * of * seconds / wall:.0f}", f"{1e6 * of * seconds / n:.2f}", "", "")
    console.print(grid)
    memory = Grid(title="memory, MiB")
    for column in ("s", "trainer", "Redis"):
        memory.add_column(column, justify="right")
    for row in line["memory_mib"]:
        memory.add_row(*map(str, row))
    console.print(memory)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=600.0, help="for each line, after the warm-up")
    parser.add_argument("--warm-up", type=float, default=30.0, help="seconds in which the table fills")
    parser.add_argument("--pool", type=int, default=500_000, help="distinct events")
    parser.add_argument("--ceilings", type=int, nargs="*", default=[0, 100_000])
    parser.add_argument("--scan-threads", type=int)
    parser.add_argument("--json", type=Path, default=Path("end_to_end.json"))
    arguments = parser.parse_args()
    console = Console()
    lines = json_lines(arguments.pool)
    size = sum(map(len, lines)) / len(lines)
    batches = record_batches(lines)
    alone = Alone(lines[: min(arguments.pool, 200_000)])
    del lines
    console.print(f"{arguments.pool:,} events of {size:.0f} bytes, {os.cpu_count()} cores, {alone.rows:,} features")
    speeds, share = [alone.speed() for _ in range(3)], alone.lookup_share()
    found = []
    with tempfile.TemporaryDirectory() as directory:
        kafka = Kafka(Path(directory) / "kafka", free_port(), free_port())
        redis = Redis(Path(directory) / "redis", free_port())
        kafka.start()
        redis.start()
        try:
            for ceiling in arguments.ceilings:
                found.append(sustained(
                    Path(directory), kafka, redis, batches, ceiling, arguments.seconds, arguments.warm_up,
                    arguments.scan_threads,
                ))  # fmt: skip
                speeds += [alone.speed() for _ in range(3)]
        finally:
            redis.stop()
            kafka.stop()
    median = statistics.median(speeds)
    for line in found:
        show(console, line, median, share)
    results = {"learn_many_events_per_s": speeds, "lookup_share": share, "event_bytes": size, "lines": found}
    arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
