"""A consumer goes in, what tells a topic's log from another one comes out: its id, and the epochs of its records.

A position alone says too little. A topic that was deleted and made anew under its name has offsets again that were
learned already; a log that was cut by an unclean end of its broker grows beyond a stored position again, with other
records. The id of a topic is random, and the broker begins a new leader epoch whenever a partition has a new leader,
also the same one come back: the end of an epoch is a place in one log alone (KIP-320). A mark is ``id/epoch``.

Private names of kafka-python are used here, for which it has no public ones; it is pinned to the minor.
"""

from __future__ import annotations

from typing import Any

from kafka import OffsetAndMetadata
from kafka.errors import LogTruncationError

UNKNOWN = -1
"""Epoch of a position behind a record that was not read."""


def topic_id(consumer: Any, topic: str) -> str:
    """As the broker last said; "" where it does not say (before Kafka 2.8)."""
    found = consumer._cluster.topic_id(topic)  # noqa: SLF001  see above
    return "" if found is None or not found.int else found.hex


def partitions(consumer: Any, topic: str) -> set[int]:
    """Numbers as the broker last said, without asking; empty where there is no such topic."""
    return set(consumer._cluster.partitions_for_topic(topic) or ())  # noqa: SLF001  see above


def epoch(consumer: Any, tp: Any) -> int:
    """Leader epoch of the last record before the consumer's position."""
    position = consumer._subscription.assignment[tp].position  # noqa: SLF001  see above
    return UNKNOWN if position is None else int(position.leader_epoch)


def mark(identity: str, leader_epoch: int) -> str:
    """As it is stored; "" where nothing is known."""
    return f"{identity}/{leader_epoch}" if identity or leader_epoch >= 0 else ""


def read(stored: str) -> tuple[str, int]:
    """Inverse of `mark`."""
    identity, _, number = stored.partition("/")
    return identity, int(number) if number else UNKNOWN


def check_epoch(consumer: Any, tp: Any, offset: int, leader_epoch: int, *, timeout_ms: int) -> None:
    """Ask the broker whether its log still has this offset, behind a record of this epoch. The position is moved.

    Raises
    ------
    LogTruncationError
        It ends before, or has other records there.
    """
    if leader_epoch < 0:
        return
    position = OffsetAndMetadata(offset, "", leader_epoch)
    consumer._subscription.assignment[tp].seek(position)  # noqa: SLF001  see above
    consumer.position(tp, timeout_ms=timeout_ms)  # which asks first, where another leader's epoch has begun since
    found = consumer._fetcher._cached_log_truncation  # noqa: SLF001  see above: the answer may have come just now
    if isinstance(found, LogTruncationError):
        consumer._fetcher._cached_log_truncation = None  # noqa: SLF001  as above
        raise found
