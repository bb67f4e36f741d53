"""A Kafka topic goes in, what `ctr doctor` must know of it comes out: partitions, records, whether they can be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from workers import kafka_login

_READ_MS = 5000


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """What a broker says of a topic.

    Attributes
    ----------
    partitions : dict of int to (int, int)
        First and next offset of each; empty where there is no such topic, or it may not be seen.
    read : bool or None
        Whether a record could be read; None where there is none.
    newest_s : float
        Timestamp of the newest record that was read, seconds since 1970; 0 where there is none.
    dead_letters : bool
        Whether ``<topic>.dlq`` is there.
    """

    partitions: dict[int, tuple[int, int]]
    read: bool | None
    newest_s: float
    dead_letters: bool

    @property
    def records(self) -> int:
        """Offsets from the first to the next, over all partitions."""
        return sum(end - first for first, end in self.partitions.values())


def look(bootstrap: str, topic: str, *, timeout_s: float = 5.0, login: Mapping[str, Any] | None = None) -> TopicFacts:
    """Ask a broker; the last record of each partition is read.

    Raises
    ------
    SourceUnavailableError, SettingError
        See `workers.kafka_login.connecting`.
    """
    with kafka_login.connecting(bootstrap):
        consumer = KafkaConsumer(
            bootstrap_servers=bootstrap.split(","), group_id=None, enable_auto_commit=False,
            auto_offset_reset="earliest", bootstrap_timeout_ms=int(timeout_s * 1000), reconnect_backoff_max_ms=2000,
            metrics_enabled=False, **(login or {}),
        )  # fmt: skip
        try:
            return _facts(consumer, topic, timeout_s)
        finally:
            consumer.close()


def _facts(consumer: KafkaConsumer, topic: str, timeout_s: float) -> TopicFacts:
    topics = consumer.topics()
    there = f"{topic}.dlq" in topics
    if topic not in topics:
        return TopicFacts({}, None, 0.0, there)
    tps = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
    consumer.assign(tps)
    first = consumer.beginning_offsets(tps, timeout_ms=int(timeout_s * 1000))
    ends = consumer.end_offsets(tps, timeout_ms=int(timeout_s * 1000))
    filled = [tp for tp in tps if ends[tp] > first[tp]]
    found: list[float] = []
    if filled:
        consumer.assign(filled)
        for tp in filled:
            consumer.seek(tp, max(first[tp], ends[tp] - 1))
        polled = consumer.poll(timeout_ms=_READ_MS)
        found = [record.timestamp / 1000 for records in polled.values() for record in records]
    spans = {tp.partition: (first[tp], ends[tp]) for tp in tps}
    return TopicFacts(spans, bool(found) if filled else None, max(found, default=0.0), there)
