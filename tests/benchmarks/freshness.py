"""Event produced -> visible in an HTTP answer: `python tests/benchmarks/freshness.py`.

A real broker, a real Redis, `ctr train` and `ctr serve` with default settings; Criteo-shaped events at a fixed rate.
Among them, ten times a second, one event with a value that nobody has seen. From the moment it is sent the scorer is
asked, every 10 ms, for a row of this value alone and for an empty one: once the two answers differ, it is visible.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from pathlib import Path

import httpx
import numpy as np
from end_to_end import PARTITIONS, Feeder, json_lines, numbers, record_batches, toml
from measure import main, report
from workbench import scorer, trainer  # found where `end_to_end` looks

from deploy.local.kafka import Kafka
from deploy.local.process import free_port
from deploy.local.redis import Redis

RATE, POOL = 20_000, 100_000
SECONDS, WARM_UP_S = 30.0, 15.0
EVERY_S, LOOK_S, GIVE_UP_S = 0.1, 0.01, 30.0
CEILING = 100_000
"""Rows written a second, the default."""


class Steady(Feeder):
    """Sends at a fixed rate, and what it is given to send in between."""

    def __init__(self, port, topic, batches):
        super().__init__(port, topic, batches, lambda: 0.0)
        self.probes, self.sent_at, self._probing = [], {}, threading.Event()

    def run(self):
        try:
            turn, start = 0, time.monotonic()
            probe_at, number = start, 0
            while not self.stopping.is_set():
                now = time.monotonic()
                if self._probing.is_set() and probe_at <= now:  # first: they are sent even where the rate is not held
                    value = f"probe-{number}"
                    [(_, records)] = record_batches([json.dumps({"label": 1, "C1": value}).encode()])
                    self.sent_at[value] = time.perf_counter()
                    self._produce(number % PARTITIONS, records, turn)
                    number, probe_at = number + 1, max(probe_at + EVERY_S, now)
                elif start + self.sent / RATE <= now:
                    n, records = self._batches[turn % len(self._batches)]
                    self._produce(turn % PARTITIONS, records, turn)
                    self.sent, turn = self.sent + n, turn + 1
                else:
                    self.stopping.wait(0.001)
        except Exception as error:
            self.failed = error
            raise

    def probe(self):
        """Begin with the events that are waited for."""
        self._probing.set()


def watch(address, feeder, seconds):
    """Seconds from sending to seeing, of each probe sent in so many seconds."""
    took, until, seen = [], time.monotonic() + seconds, set()
    with httpx.Client(base_url=address, timeout=5.0) as http:
        while True:
            assert feeder.failed is None, feeder.failed
            waiting = [value for value in list(feeder.sent_at) if value not in seen]
            if time.monotonic() >= until:
                feeder.stopping.set()
                if not waiting:
                    assert took, "no event was sent"
                    return np.array(took)
                assert time.monotonic() < until + GIVE_UP_S, f"{len(waiting)} events never became visible"
            rows = [{}, *({"C1": value} for value in waiting)]
            answer = http.post("/v1/models/criteo:predict", json={"instances": rows})
            answer.raise_for_status()
            now = time.perf_counter()
            nothing, *found = answer.json()["predictions"]
            for value, score in zip(waiting, found, strict=True):
                if score != nothing:
                    seen.add(value)
                    took.append(now - feeder.sent_at[value])
            time.sleep(LOOK_S)


def bench_freshness(rate=RATE):
    """Started, fed and warm, then watched."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        kafka = Kafka(directory / "kafka", free_port(), free_port())
        redis = Redis(directory / "redis", free_port())
        kafka.start()
        redis.start()
        workers, feeder = [], None
        try:
            kafka.cluster.create_topic("fresh", PARTITIONS, {"message.timestamp.type": "LogAppendTime"})
            spec = directory / "criteo.toml"
            spec.write_text(toml("1", CEILING))
            workers.append(trainer(
                directory, spec, "--kafka", kafka.bootstrap, "--topic", "fresh", "--redis", redis.url, "--create"
            ))  # fmt: skip
            workers[0].start()
            feeder = Steady(kafka.port, "fresh", record_batches(json_lines(POOL)))
            feeder.start()
            workers.append(scorer(directory, "criteo", "--redis", redis.url))
            workers[1].start()
            time.sleep(WARM_UP_S)
            before = numbers(workers[0])
            feeder.probe()
            took = watch(workers[1].address, feeder, SECONDS)
            after = numbers(workers[0])
        finally:
            if feeder is not None:
                feeder.stopping.set()
                feeder.join(10)
            for worker in reversed(workers):
                worker.stop()
            redis.stop()
            kafka.stop()
    suite = f"event -> HTTP answer at {rate:,} events/s, {len(took)} events"
    for part in (50, 90, 99):
        report(suite, f"p{part}", float(np.percentile(took, part)) * 1e3, "ms")
    report(suite, "learned", (after["learned"] - before["learned"]) / (after["at"] - before["at"]), "events/s")


SUITES = [("freshness", bench_freshness, ())]

if __name__ == "__main__":
    main(SUITES, __doc__)
