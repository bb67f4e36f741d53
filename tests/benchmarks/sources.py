"""Speed of the ways in, on one core: `python tests/benchmarks/sources.py`.

Records out of a real Kafka broker that is started here, beside what one would use instead (lines out of files:
scan_text.py).
"""

from __future__ import annotations

import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from measure import main, report, taking_turns

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

    def walked(_turn=0):
        source.open({f"{topic}:0": 0})
        found = size = 0
        while found < n:
            messages = source.poll(1.0)
            if messages is not None:
                found += len(messages)
                size += int((messages.end - messages.begin).sum())
        return size

    def polled(_turn=0):
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
    taken = taking_turns({"walk": walked, "poll": polled}, ROUNDS, time.process_time)
    source.close()
    plain.close()
    report(f"kafka {topic} {EVENT_BYTES} bytes", "record walk (baseline: poll())", n / taken["walk"], "records/s",
           n / taken["poll"], taken["poll"] / taken["walk"])  # fmt: skip


SUITES = [("kafka records", bench_records, ())]

if __name__ == "__main__":
    main(SUITES, __doc__)
