"""Speed of the ways in, on one core: `python tests/benchmarks/sources.py` prints a table and writes sources.json.

Records out of a real Kafka broker that is started here, beside what one would use instead (lines out of files:
scan_text.py). Each figure is the median over rounds in which the things compared take turns: read the ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table as Grid

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "(read|open)_text is deprecated", DeprecationWarning)
    from kafka import KafkaConsumer, TopicPartition

from deploy.local.kafka import Kafka
from deploy.local.process import free_port
from workers.sinks import KafkaSink
from workers.sources.kafka import KafkaSource

ROUNDS = 7
EVENT_BYTES = 543
"""Of a Criteo-shaped event in JSON."""
results: list[dict] = []


def report(suite, name, value, unit, baseline=None, ratio=None):
    results.append({"suite": suite, "name": name, "value": value, "unit": unit, "baseline": baseline, "ratio": ratio})


def taking_turns(runs, rounds=ROUNDS, clock=time.perf_counter):
    """Median seconds of each of several things to do, done in turns; the first turn warms up."""
    times = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            begin = clock()
            run()
            times[name].append(clock() - begin)
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}


def bench_records(n=100_000):
    """Records of a topic as arrays of positions, and as kafka-python's objects with their values.

    In CPU seconds of this process, all its threads: the broker runs beside it.
    """
    rng = np.random.default_rng(1)
    values = [rng.integers(32, 127, EVENT_BYTES, np.uint8).tobytes() for _ in range(1000)]
    with tempfile.TemporaryDirectory() as directory:
        broker = Kafka(Path(directory) / "kafka", free_port(), free_port())
        broker.start()
        try:
            for codec in ("lz4",):
                sink = KafkaSink(broker.bootstrap, codec)
                for _ in range(n // len(values)):
                    sink.send(values)
                sink.flush()
                sink.close()
                _compare_records(broker.bootstrap, codec, n)
        finally:
            broker.stop()


def _compare_records(bootstrap, topic, n):
    source = KafkaSource(bootstrap, topic, group="bench", start="earliest")
    plain = KafkaConsumer(
        bootstrap_servers=bootstrap, group_id=None, auto_offset_reset="none", isolation_level="read_committed",
        max_partition_fetch_bytes=4 << 20, max_poll_records=4000, metrics_enabled=False,
    )  # fmt: skip
    tp = TopicPartition(topic, 0)
    plain.assign([tp])

    def walked():
        source.open({f"{topic}:0": 0})
        found = size = 0
        while found < n:
            messages = source.poll(1.0)
            if messages is not None:
                found += len(messages)
                size += int((messages.end - messages.begin).sum())
        return size

    def polled():
        plain.seek(tp, 0)
        found = size = 0
        while found < n:
            for records in plain.poll(timeout_ms=1000).values():
                found += len(records)
                for record in records:
                    size += len(record.value)
        return size

    if walked() != polled():
        raise AssertionError("the two ways do not agree")
    taken = taking_turns({"walk": walked, "poll": polled}, clock=time.process_time)
    source.close()
    plain.close()
    report(f"kafka {topic} {EVENT_BYTES} bytes", "record walk (baseline: poll())", n / taken["walk"], "records/s",
           n / taken["poll"], taken["poll"] / taken["walk"])  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("sources.json"))
    parser.add_argument("--only", default="", help="suites whose name contains this")
    arguments = parser.parse_args()
    for name, run in (("records", bench_records),):
        if arguments.only in name:
            run()
    grid = Grid("suite", "what", "value", "unit", "baseline", "ratio", title="medians of interleaved rounds")
    for row in results:
        shown = [f"{row[key]:,.0f}" if row[key] is not None else "" for key in ("value", "baseline")]
        ratio = f"{row['ratio']:.2f} x" if row["ratio"] is not None else ""
        grid.add_row(row["suite"], row["name"], shown[0], row["unit"], shown[1], ratio)
    Console(width=140).print(grid)
    arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
