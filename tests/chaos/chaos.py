"""Kafka, Redis and two trainers, with everything killed at random; then what is stored is held against the topic.

`python tests/chaos/chaos.py --minutes 10` does it three times:

* counts: sixteen shards, three partitions: each row's update count is the number of events in the topic that touch it;
* cluster: the same on a Redis Cluster of three masters;
* bits: one shard, one partition, with admission, expiry and a bound on rows: rows and offsets are those of a model that
  reads the topic once, event by event, bit for bit.

Each time every event that cannot be read is among the dead letters, and nothing else is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import redis as redis_py  # noqa: E402  the repository's own, wherever this is run
from kafka import KafkaConsumer, TopicPartition  # noqa: E402
from redis_servers import Masters  # noqa: E402
from workbench import FIELDS, SPEC, exit_code, learned_counts, logged, metric, stored, touched, trainer  # noqa: E402

from ctr import spec as specification  # noqa: E402
from ctr.errors import CtrError  # noqa: E402
from ctr.events import open_reader  # noqa: E402
from ctr.events.hashing import partition_salts  # noqa: E402
from ctr.events.messages import Messages  # noqa: E402
from ctr.model import Model  # noqa: E402
from ctr.store import connect  # noqa: E402
from deploy.local.kafka import Kafka  # noqa: E402
from deploy.local.process import Service, free_port  # noqa: E402
from deploy.local.redis import Redis  # noqa: E402
from workers.lifecycle import ExitCode  # noqa: E402
from workers.market import Market  # noqa: E402
from workers.sinks import KafkaSink  # noqa: E402

TOPIC = "events"
MODEL = "ads@1"
PATIENT = 0.8
"""Share of what happens that waits for a trainer that learns."""
SAID = ("recovered", "fenced", "lease_taken", "server_went_back", "store_lost", "retrying")
"""Log lines of trainers that are counted."""
EXPECTED_ENDS = {ExitCode.OK, ExitCode.UNAVAILABLE}
"""How a trainer may end by itself; anything else fails the run."""


@dataclass(frozen=True)
class Plan:
    """One of the runs."""

    name: str
    partitions: int
    toml: str
    store: Callable[[Path], Redis | Masters]

    @property
    def spec(self):
        return specification.parse(self.toml)


def one_server(directory: Path) -> Redis:
    """A server that keeps what it has written, but for its last second."""
    return Redis(directory, free_port(), durable=True)


COUNTS = Plan("counts", 3, SPEC, one_server)
CLUSTER = Plan("cluster", 3, SPEC, Masters)
BITS = Plan(
    "bits", 1,
    SPEC.replace("[model]", "[model]\nmax_rows = 1024")
    + "[lifetime]\nttl_s = 14000\nadmission = 0.5\n[store]\nshards = 1\n",
    one_server,
)  # fmt: skip
"""Users come by the thousand and market time runs fast: rows are let in, expire and are evicted all the time."""


class Stream(threading.Thread):
    """Sends events, some of which cannot be read, through all outages; an event may so be there twice."""

    def __init__(self, bootstrap: str, partitions: int, rate: float, seed: int) -> None:
        super().__init__(daemon=True)
        self._servers, self._partitions, self._rate, self._seed = bootstrap, partitions, rate, seed
        self._ended, self.failed = threading.Event(), 0
        self.start()

    def run(self) -> None:
        market, rng, sink = Market(seed=self._seed), random.Random(self._seed), None
        at, now = 0, 1_690_000_000.0
        while not self._ended.is_set():
            began, count = time.monotonic(), max(1, int(self._rate * 0.1))
            step_s = 20.0 if at // 3000 % 2 else 5.0  # rows expire in one phase, and are evicted in the other
            lines = market.lines(market.events(count, now + step_s * np.arange(count)))
            now += step_s * count
            lines = [b"broken" if rng.random() < 0.002 else line for line in lines]
            at += count
            try:
                sink = sink or KafkaSink(self._servers, TOPIC, timeout_s=20)
                for partition in range(self._partitions):
                    sink.send(lines[partition :: self._partitions], partition=partition)
                sink.flush()
            except CtrError:
                self.failed += 1
                with contextlib.suppress(Exception):
                    sink.close()
                sink = None
            self._ended.wait(max(0.0, began + 0.1 - time.monotonic()))
        if sink is not None:
            sink.close()

    def end(self) -> None:
        self._ended.set()
        self.join()


class Chaos:
    """The processes, and what can happen to them."""

    def __init__(self, directory: Path, plan: Plan, seed: int, rate: float) -> None:
        self._rng, self.seen, self._seed, self._rate = random.Random(seed), Counter(), seed, rate
        self.plan = plan
        self.kafka = Kafka(directory / "kafka", free_port(), free_port())
        self.store = plan.store(directory / "redis")
        spec = directory / "chaos.toml"
        spec.write_text(plan.toml)
        self._arguments = (
            spec, "--kafka", self.kafka.bootstrap, "--topic", TOPIC, "--redis", self.store.url, "--create",
            "--lease", 1, "--when-fenced", "stand-by", "--refused-share", 1,
        )  # fmt: skip
        self.trainers = [trainer(directory / name, *self._arguments) for name in "ab"]

    def __enter__(self):
        try:
            self.kafka.start()
            self.store.start()
            self.kafka.create_topic(TOPIC, self.plan.partitions, {"retention.ms": "-1"})
            for worker in self.trainers:
                worker.start()
            self.stream = Stream(self.kafka.bootstrap, self.plan.partitions, self._rate, self._seed)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for service in (*self.trainers, *self._servers, self.kafka):
            service.resume()
            service.kill()

    @property
    def _servers(self) -> list[Redis]:
        return self.store.nodes if isinstance(self.store, Masters) else [self.store]

    def run(self, seconds: float) -> None:
        """Something happens, again and again; then nothing more, and all is learned."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._rng.random() < PATIENT:
                self._wait_for_a_writer(until)
            self._rng.choice([
                *[self._kill_trainer] * 6, *[self._pause_trainer] * 3, *[self._kill_connections] * 6,
                self._stop_trainer, self._kill_both, self._kill_redis, self._restart_redis, self._pause_redis,
                self._kill_kafka, self._restart_kafka,
            ])()  # fmt: skip
            time.sleep(self._rng.uniform(0.2, 2.0))
            self._start_what_ended()
        self.stream.end()

    def _wait_for_a_writer(self, until: float) -> None:
        """Until one of the trainers learns: a kill while both of them load their kernels harms nobody."""
        while time.monotonic() < until and not any(map(self._writes, self.trainers)):
            self._start_what_ended()
            time.sleep(0.1)

    @staticmethod
    def _writes(worker: Service) -> bool:
        try:
            return worker.alive() and metric(worker, "ctr_role", role="writer") == 1.0
        except OSError:
            return False

    def _start_what_ended(self) -> None:
        for worker in self.trainers:
            code = exit_code(worker) if worker._child is not None else None
            if code is not None and code not in EXPECTED_ENDS:
                raise AssertionError(f"a trainer ended with {code}: {worker.log.read_text()[-2000:]}")
            if not worker.alive():
                worker.spawn()

    def _any(self) -> Service:
        return self._rng.choice(self.trainers)

    def _kill_trainer(self) -> None:
        self.seen["trainer killed"] += 1
        self._any().kill()

    def _kill_both(self) -> None:
        self.seen["both trainers killed"] += 1
        for worker in self.trainers:
            worker.kill()

    def _stop_trainer(self) -> None:
        self.seen["trainer stopped"] += 1
        self._any().stop()

    def _pause_trainer(self) -> None:
        self.seen["trainer paused"] += 1
        worker = self._any()
        worker.pause()
        time.sleep(self._rng.uniform(0.2, 4.0))
        worker.resume()

    def _kill_connections(self) -> None:
        """Several times in a row, so that some are in the midst of EXEC."""
        for server in self._rng.sample(self._servers, len(self._servers)):
            with contextlib.suppress(redis_py.RedisError), server.client() as client:
                for _ in range(20):
                    self.seen["connections killed"] += client.client_kill_filter(_type="normal", skipme=True) or 0
                    time.sleep(self._rng.uniform(0.0, 0.05))

    def _kill_redis(self) -> None:
        self.seen["redis killed"] += 1
        server = self._rng.choice(self._servers)
        server.kill()
        time.sleep(self._rng.uniform(0.0, 2.0))
        server.start()

    def _restart_redis(self) -> None:
        self.seen["redis restarted"] += 1
        self._rng.choice(self._servers).restart()

    def _pause_redis(self) -> None:
        self.seen["redis paused"] += 1
        server = self._rng.choice(self._servers)
        server.pause()
        time.sleep(self._rng.uniform(0.5, 7.0))
        server.resume()

    def _restart_kafka(self) -> None:
        self.seen["kafka restarted"] += 1
        self.kafka.restart()

    def _kill_kafka(self) -> None:
        self.seen["kafka killed"] += 1
        self.kafka.kill()
        time.sleep(self._rng.uniform(0.0, 2.0))
        self.kafka.start()

    def settle(self, within_s: float = 180.0):
        """Until all of the topic is learned; the topic, and what is stored."""
        records = read(self.kafka.bootstrap, TOPIC, self.plan.partitions)
        wanted = {
            f"offset:{TOPIC}:{p}".encode(): b"%d" % len(records[p]) for p in range(self.plan.partitions)
        }  # fmt: skip
        until = time.monotonic() + within_s
        with connect(self.store.url, timeout_s=30) as client:
            while (found := stored(client, MODEL))[1] != wanted:
                assert time.monotonic() < until, f"not all was learned: {found[1]}, of {wanted}"
                self._start_what_ended()
                time.sleep(0.5)
            for worker in self.trainers:
                if worker.alive():
                    worker.stop()
            return records, stored(client, MODEL)

    def letters(self) -> set[str]:
        """Keys of all dead letters."""
        partitions = read(self.kafka.bootstrap, f"{TOPIC}.dlq", 1)
        return {record.key.decode() for records in partitions for record in records}

    def said(self, event: str) -> int:
        """How often the trainers have said this."""
        return sum(line["event"] == event for worker in self.trainers for line in logged(worker))


def read(bootstrap: str, topic: str, partitions: int):
    """All records of a topic, by partition."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=None, auto_offset_reset="earliest")
    places = [TopicPartition(topic, number) for number in range(partitions)]
    consumer.assign(places)
    ends, found = consumer.end_offsets(places), {place: [] for place in places}
    consumer.seek_to_beginning(*places)
    while any(consumer.position(place) < ends[place] for place in places):
        for place, records in consumer.poll(timeout_ms=500).items():
            found[place] += records
    consumer.close()
    return [found[place] for place in places]


def in_order(plan: Plan, records):
    """{key as it is stored: row} of a model that learns one partition, event by event."""
    spec = plan.spec
    reader, model, salts = open_reader(spec), Model(spec), partition_salts([f"{TOPIC}:0"])
    for record in records:
        place = np.array([record.offset], np.int64)
        moment = np.array([record.timestamp / 1000])
        batch, _ = reader.read(Messages(
            record.value, np.zeros(1, np.int64), np.array([len(record.value)]), np.zeros(1, np.int32), place, moment,
        ))  # fmt: skip
        model.learn_many(batch, salts=salts)
    counts = model.counts
    assert counts.rows_evicted > 0
    assert counts.rows_expired > 0
    rows = {}
    for block in model.blocks():
        rows |= {int(k).to_bytes(8, "little"): row.tobytes() for k, row in zip(block.keys, block.data, strict=True)}
    return rows, counts


def check(chaos: Chaos) -> dict[str, object]:
    """Hold what is stored against the topic.

    Raises
    ------
    AssertionError
        An event counts twice, or not at all.
    """
    records, (rows, _) = chaos.settle()
    every = [record for records_of in records for record in records_of]
    good = [record.value for record in every if record.value != b"broken"]
    bad = {f"{TOPIC}:{record.partition}:{record.offset}" for record in every if record.value == b"broken"}
    assert chaos.letters() == bad, "dead letters"
    if chaos.plan is not BITS:
        counted, wanted = learned_counts(rows, len(FIELDS)), touched(good, FIELDS)
        wrong = {key: (counted.get(key), wanted[key]) for key in wanted if counted.get(key) != wanted[key]}
        assert not wrong, f"{len(wrong)} rows (stored, in the topic), for example {list(wrong.items())[:5]}"
        assert counted == wanted
    else:
        expected, _ = in_order(chaos.plan, records[0])
        wrong = [key for key in expected.keys() | rows.keys() if expected.get(key) != rows.get(key)]
        assert not wrong, f"{len(wrong)} of {len(expected)} rows differ"
    return {
        "run": chaos.plan.name, "events": len(every), "dead letters": len(bad), "rows": len(rows), **chaos.seen,
        **{event: chaos.said(event) for event in SAID},
        "replays": sum(
            not line["shards_level"] for w in chaos.trainers for line in logged(w) if line["event"] == "recovered"
        ),
    }  # fmt: skip


def one_run(directory: Path, plan: Plan, seconds: float, seed: int, rate: float) -> dict[str, object]:
    """Chaos for so long, and what came of it. Raises AssertionError as `check`."""
    directory.mkdir(parents=True)
    with Chaos(directory, plan, seed, rate) as chaos:
        chaos.run(seconds)
        return check(chaos)


def main() -> None:
    """All runs, or one, one after the other; a line of JSON each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="of chaos, of all runs together")
    parser.add_argument("--only", choices=[plan.name for plan in (COUNTS, CLUSTER, BITS)], help="one of the runs")
    parser.add_argument("--rate", type=float, default=1000.0, help="events a second")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10_000)
    options = parser.parse_args()
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # that a broker is away is the plan
    print(f"seed {options.seed}", file=sys.stderr)
    shares = ((COUNTS, 0.35), (CLUSTER, 0.35), (BITS, 0.3))
    chosen = [(plan, share) for plan, share in shares if options.only in (None, plan.name)]
    seconds = 60 * options.minutes / sum(share for _, share in chosen)
    with tempfile.TemporaryDirectory() as directory:
        for plan, share in chosen:
            figures = one_run(Path(directory) / plan.name, plan, seconds * share, options.seed, options.rate)
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
