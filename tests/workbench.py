"""What integration tests share: the real command line in processes of its own, and what a model in Redis holds."""

import json
import os
import struct
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np
import xxhash
from kafka import KafkaConsumer, TopicPartition

from ctr.errors import ModelMissingError
from ctr.store import read_model
from deploy.local.process import free_port
from deploy.local.stack import Worker
from workers.market import Market
from workers.sinks import KafkaSink

REPOSITORY = Path(__file__).parents[1]
FIELDS = ("user", "ad", "site", "device")
SPEC = f"""
name = "ads"
fields = [{", ".join(f'{{ name = "{name}" }}' for name in FIELDS)}]
[event]
label = "click"
time = "ts"
[model]
base_rate = 0.035
[commit]
interval_ms = 50
"""
"""Of the simulated market's events: a model of 16 shards that commits often."""
START_S = 1_790_000_000.0
CLEAN = {key: value for key, value in os.environ.items() if not key.startswith("CTR_")}


def ctr(*arguments, timeout=120, **options):
    """Run `ctr` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "workers.cli", *map(str, arguments)],
        capture_output=True, text=True, timeout=timeout, check=False, env=CLEAN, cwd=REPOSITORY, **options,
    )  # fmt: skip


def market_lines(n, seed=1):
    """Events of the simulated market, a hundred a second from START_S on, as JSON."""
    market = Market(seed=seed)
    return market.lines(market.events(n, START_S + 0.01 * np.arange(n)))


def send(kafka, topic, lines, partition=0):
    """Lines into a topic, each acknowledged."""
    sink = KafkaSink(kafka.bootstrap, topic)
    sink.send(lines, partition=partition)
    sink.flush()
    sink.close()


def trainer(directory, *arguments):
    """A `ctr train` process with HTTP endpoints on a free port; start(), stop(), kill()."""
    port = free_port()
    return Worker(
        "trainer", directory / "trainer", port, ["train", *map(str, arguments), "--listen", f"127.0.0.1:{port}"]
    )


def scorer(directory, *arguments):
    """A `ctr serve` process on a free port."""
    port = free_port()
    return Worker(
        "scorer", directory / "scorer", port, ["serve", *map(str, arguments), "--listen", f"127.0.0.1:{port}"]
    )


def logged(worker):
    """Log lines of a worker, parsed."""
    return [json.loads(line) for line in worker.log.read_text().splitlines() if line.startswith("{")]


def metric(worker, name, **labels):
    """A number on the worker's /metrics; None where it is not (yet) there."""
    with urllib.request.urlopen(f"{worker.address}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    for line in text.splitlines():
        head, _, value = line.rpartition(" ")
        found, _, rest = head.partition("{")
        if found == name and all(f'{key}="{wanted}"' in rest for key, wanted in labels.items()):
            return float(value)
    return None


def wait_for(condition, within_s=60.0, every_s=0.05):
    """Wait until `condition` returns something true, and return it."""
    until = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < until, f"not within {within_s} s: {condition}"
        time.sleep(every_s)
    return found


def post(url, body):
    """POST JSON; returns the parsed answer."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.loads(reply.read())


def stored(client, model_id):
    """Everything that must be equal for two models to be the same: rows and offsets, byte by byte.

    The offset of a partition is that of the shard that is furthest behind, and none where one shard has none.
    """
    rows, offsets = {}, []
    try:
        shards = read_model(client, model_id).keys
    except ModelMissingError:  # not made yet
        return {}, {}
    for keys in shards:
        rows |= client.hgetall(keys.rows)
        meta = client.hgetall(keys.meta)
        offsets.append({key: int(value) for key, value in meta.items() if key.startswith(b"offset:")})
    everywhere = set.intersection(*(set(found) for found in offsets))
    return rows, {key: b"%d" % min(found[key] for found in offsets) for key in everywhere}


def key_of(field, value):
    """Key of a text feature, by the formula."""
    return xxhash.xxh64_intdigest(value.encode(), xxhash.xxh64_intdigest(field.encode()))


def touched(lines, fields):
    """{key: number of these JSON events that touch it} of text fields; the bias, key 1, is touched by each."""
    counts = Counter()
    for line in lines:
        event = json.loads(line)
        counts.update([1, *(key_of(field, event[field]) for field in fields if event.get(field))])
    return counts


def learned_counts(rows, n_fields, k=4):
    """{key: learned events} of packed ffm rows as `stored` gives them; the count is the head's second lane."""
    kp = -(-k // 4) * 4
    found = {}
    for name, row in rows.items():
        (count,) = struct.unpack_from("<f", row, 4 + 4 * (kp * row[0] + 1))
        found[int.from_bytes(name, "little")] = int(count)
        assert len(row) == 4 + 8 * n_fields * kp
    return found


def exit_code(worker):
    """Status of a worker that has ended by itself; None while it runs."""
    return None if worker.alive() else worker._child.returncode


def read_topic(bootstrap, topic, count, within_s=30.0):
    """The first `count` records of a topic, all partitions."""
    consumer = KafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", group_id=None)
    found, until = [], time.monotonic() + within_s
    while len(found) < count and time.monotonic() < until:
        for records in consumer.poll(timeout_ms=500).values():
            found += records
    consumer.close()
    return found


def committed(bootstrap, group, topic, partition=0):
    """What Kafka believes that a group has read of a partition."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=group)
    try:
        return consumer.committed(TopicPartition(topic, partition))
    finally:
        consumer.close()
