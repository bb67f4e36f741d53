"""A Kafka topic as a source: all partitions by manual assignment, positions kept by us, never a rebalance."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import kafka
import numpy as np
import structlog
from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.errors import (
    KafkaError,
    LogTruncationError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    UnsupportedCodecError,
)

from ctr.errors import PositionLostError, SettingError, SourceUnavailableError
from ctr.events.messages import Messages, Refusal
from ctr.kernels import build
from workers import kafka_login
from workers.sources import marks
from workers.sources.batches import CHECKED, CorruptBatchError, RecordBatch, install

MAX_RECORDS = 4000
"""Records handed over at a time: large enough to amortise a turn of the loop, small enough to commit in time."""
_MAX_BATCHES = 64
"""Record batches taken from kafka-python at a time: they wait here, and their bytes with them."""
_LOOK_S = 1.0
"""How often the log's end is asked for while nothing comes: what proves that we are up to date."""
_METADATA_S = 5.0
"""How often the broker is asked for the topic's partitions and id: a new partition is found by then."""


class KafkaSource:
    """Reads every partition of one topic.

    Parameters
    ----------
    bootstrap : str
        ``HOST:PORT[,HOST:PORT...]``.
    topic : str
    group : str
        Consumer group under which positions are copied to Kafka, for lag tools. The truth is in the store.
    start : str
        Where partitions without a stored position begin: ``earliest``, ``latest`` or a time (RFC 3339 or seconds).
    timeout_s : float
        For each question to the broker.
    accept_gap : bool
        Where the log has lost the next events to learn, go on at the first one that it has, instead of stopping.
    login : mapping of str to object, optional
        How to be let in: see `workers.kafka_login`.
    """

    def __init__(
        self, bootstrap: str, topic: str, *, group: str, start: str, timeout_s: float = 5.0, accept_gap: bool = False,
        login: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self._topic, self._start, self._timeout_ms = topic, start, int(timeout_s * 1000)
        self._start_ms = None if start in ("earliest", "latest") else _milliseconds(start)
        self._bootstrap, self._accept_gap = bootstrap, accept_gap
        with kafka_login.connecting(bootstrap):
            self._consumer = KafkaConsumer(
                bootstrap_servers=bootstrap.split(","),
                group_id=group,
                enable_auto_commit=False,
                auto_offset_reset="none",
                isolation_level="read_committed",
                bootstrap_timeout_ms=self._timeout_ms,
                fetch_max_wait_ms=100,
                max_partition_fetch_bytes=4 << 20,
                max_poll_records=_MAX_BATCHES,
                reconnect_backoff_max_ms=2000,
                metadata_max_age_ms=int(_METADATA_S * 1000),
                metrics_enabled=False,
                **(login or {}),
            )
        self._walk = build.load("scan/records").walk
        if not install(self._consumer):
            self._walk = None
            self._consumer.config["max_poll_records"] = MAX_RECORDS
            structlog.get_logger().warning(
                "slow_records", kafka_python=kafka.__version__,
                reason=f"raw record batches were checked with {CHECKED}x: records come one by one",
            )  # fmt: skip
        self._queue: deque[tuple[int, RecordBatch]] = deque()
        self._tps: list[Any] = []
        self._index: dict[Any, int] = {}
        self._positions: list[int] = []
        self._epochs: list[int] = []
        self._topic_id = ""
        self._jumps: dict[str, tuple[tuple[int, int], ...]] = {}
        self._newest_s: list[float] = []
        self._ends: dict[Any, int] = {}
        self._looked = self._looked_at_topic = 0.0
        self._copy: dict[Any, Any] = {}
        self.up = True

    @property
    def partitions(self) -> Sequence[str]:
        return [self._name(tp) for tp in self._tps]

    @property
    def finished(self) -> bool:
        return False

    def _name(self, tp: Any) -> str:
        return f"{tp.topic}:{tp.partition}"

    def open(self, offsets: Mapping[str, int], furthest: Mapping[str, tuple[int, str]] | None = None) -> None:
        furthest, self._jumps = furthest or {}, {}
        try:
            numbers = self._consumer.partitions_for_topic(self._topic)
            if not numbers:
                raise SettingError("--topic", self._topic, "a topic that exists on this broker")
            tps = [TopicPartition(self._topic, number) for number in sorted(numbers)]
            self._consumer.assign(tps)
            first = self._consumer.beginning_offsets(tps, timeout_ms=self._timeout_ms)
            ends = self._consumer.end_offsets(tps, timeout_ms=self._timeout_ms)
            held = [self._name(tp) for tp in tps if self._name(tp) in offsets]
            origin = first if held else self._origins(first, ends)
            self._topic_id = marks.topic_id(self._consumer, self._topic)
            for tp in tps:  # kafka-python looks at all positions when it is asked for one
                self._consumer.seek(tp, first[tp])
            for tp in tps:
                name = self._name(tp)
                self._check_furthest(tp, ends[tp], *furthest.get(name, (offsets.get(name, 0), "")))
        except LogTruncationError as error:
            raise self._lost(error) from None
        except KafkaError as error:
            raise SourceUnavailableError(f"Kafka at {self._bootstrap} does not answer: {_said(error)}") from error
        if held and self._start != "earliest":
            structlog.get_logger().info("start_ignored", start=self._start, reason="the model has stored positions")
        positions = [offsets.get(self._name(tp), origin[tp]) for tp in tps]
        for tp, position in zip(tps, positions, strict=True):
            if position < first[tp]:
                self._skip(tp, position, first[tp])
        positions = [max(position, first[tp]) for tp, position in zip(tps, positions, strict=True)]
        for tp, position in zip(tps, positions, strict=True):
            self._consumer.seek(tp, position)
        self._queue.clear()
        self._index = {tp: i for i, tp in enumerate(tps)}
        self._ends, self._newest_s, self._positions, self._tps = ends, [0.0] * len(tps), positions, tps
        self._epochs = [marks.UNKNOWN] * len(tps)
        self._looked = 0.0

    def _check_furthest(self, tp: Any, end: int, offset: int, mark: str) -> None:
        """Whether this is still the log of which so much was learned once."""
        identity, epoch = marks.read(mark)
        if identity and self._topic_id and identity != self._topic_id:
            raise self._made_anew()
        if offset > end:
            raise PositionLostError(
                f"{self._name(tp)}: all below offset {offset} is learned, the log ends at {end}: it was cut or made "
                "anew; train a new generation"
            )
        marks.check_epoch(self._consumer, tp, offset, epoch, timeout_ms=self._timeout_ms)

    def _made_anew(self) -> PositionLostError:
        return PositionLostError(
            f"{self._topic} was deleted and made anew: stored positions are of another log. A topic of another name is "
            "learned from its beginning; or train a new generation"
        )

    def _skip(self, tp: Any, position: int, first: int) -> None:
        """Give up what the log has lost, if that is accepted."""
        name = self._name(tp)
        if not self._accept_gap:
            raise PositionLostError(
                f"{name}: offset {position} is to be learned next, the log begins at {first}: retention removed "
                f"{first - position} events that were never learned; --accept-gap goes on without them"
            )
        self._jumps[name] = (*self._jumps.get(name, ()), (position, first))
        structlog.get_logger().error("gap_accepted", partition=name, lost=first - position, begin=first)

    def _origins(self, first: Mapping[Any, int], ends: Mapping[Any, int]) -> Mapping[Any, int]:
        """Where a new model begins."""
        if self._start == "earliest":
            return first
        if self._start_ms is None:
            return ends
        found = self._consumer.offsets_for_times(dict.fromkeys(first, self._start_ms), timeout_ms=self._timeout_ms)
        return {tp: end if found.get(tp) is None else found[tp].offset for tp, end in ends.items()}

    def poll(self, timeout_s: float) -> Messages | None:
        if self._queue:
            return self._decoded()
        try:
            records = self._consumer.poll(timeout_ms=int(timeout_s * 1000))
        except CorruptBatchError as error:
            self._consumer.seek(error.tp, error.next_offset)
            return self._skipped(self._index[error.tp], error)
        except UnsupportedCodecError as error:
            raise SettingError("--topic", self._topic, f"its messages need a package: {_said(error)}") from None
        except OffsetOutOfRangeError as error:
            self._go_on_behind_gaps(error)
            return None
        except (NoOffsetForPartitionError, LogTruncationError) as error:
            raise self._lost(error) from None
        except KafkaError as error:
            self.up = False
            raise SourceUnavailableError(f"Kafka at {self._bootstrap}: {_said(error)}") from error
        self._look(records)
        self._look_at_topic()
        if not records:
            return None
        self.up = True
        if self._walk is None:
            return self._messages(records)
        self._queue.extend((self._index[tp], batch) for tp, batches in records.items() for batch in batches)
        return self._decoded()

    def _decoded(self) -> Messages:
        """The records of the batches that wait, about `MAX_RECORDS` of them."""
        taken: list[tuple[int, RecordBatch]] = []
        while self._queue and sum(batch.count for _, batch in taken) < MAX_RECORDS:
            taken.append(self._queue.popleft())
        index, batches = [i for i, _ in taken], [batch for _, batch in taken]
        last = np.cumsum([len(batch.data) for batch in batches])
        per_batch = [
            np.array([getattr(batch, name) for batch in batches], np.int64)
            for name in ("count", "base_offset", "wanted_from", "base_ms", "fixed_ms")
        ]
        data = b"".join(batch.data for batch in batches)
        begin, end, offsets, times_ms, batch_of = (np.empty(per_batch[0].sum(), np.int64) for _ in range(5))
        n, bad = self._walk(
            np.frombuffer(data, np.uint8), np.concatenate(([0], last[:-1])), last, *per_batch,
            begin, end, offsets, times_ms, batch_of,
        )  # fmt: skip
        if bad >= 0:
            self._queue.extendleft(reversed(taken[bad + 1 :]))
            taken = taken[:bad]
        for i, batch in taken:
            self._positions[i], self._epochs[i] = batch.offset + 1, batch.epoch
        partitions, arrivals = np.array(index, np.int32)[batch_of[:n]], times_ms[:n] / 1000
        arrivals[arrivals < 0] = time.time()  # -1: the record carries none
        for i in set(index):
            self._newest_s[i] = max(self._newest_s[i], float(arrivals[partitions == i].max(initial=0.0)))
        messages = Messages(data, begin[:n], end[:n], partitions, offsets[:n], arrivals)
        if bad >= 0:
            tp, batch = self._tps[index[bad]], batches[bad]
            error = CorruptBatchError(tp, batch.base_offset, batch.offset + 1, "its records do not fit their lengths")
            messages = replace(messages, refused=self._skipped(index[bad], error).refused)
        return messages

    def _skipped(self, index: int, error: CorruptBatchError) -> Messages:
        """Nothing but the refusal of a batch; reading goes on behind it."""
        self._positions[index], self._epochs[index] = error.next_offset, marks.UNKNOWN
        structlog.get_logger().error(
            "corrupt_batch", partition=self._name(self._tps[index]), offset=error.base_offset, error=_said(error)
        )
        refusal = Refusal(index, error.base_offset, "corrupt", "$", _said(error), 0, 0)
        none = np.empty(0, np.int64)
        return Messages(b"", none, none, none.astype(np.int32), none, none.astype(np.float64), (refusal,))

    def _messages(self, records: Mapping[Any, Sequence[Any]]) -> Messages:
        """The same from kafka-python's records, one by one."""
        values: list[bytes] = []
        lengths: list[int] = []
        partitions: list[int] = []
        offsets: list[int] = []
        arrivals: list[float] = []
        now = time.time()
        for tp, held in records.items():
            index = self._index[tp]
            for record in held:
                value = record.value
                values.append(value or b"")
                lengths.append(-1 if value is None else len(value))
                offsets.append(record.offset)
                arrivals.append(record.timestamp / 1000 if record.timestamp >= 0 else now)  # -1: it carries none
            partitions.extend([index] * len(held))
            self._positions[index], self._epochs[index] = held[-1].offset + 1, held[-1].leader_epoch
            self._newest_s[index] = max(self._newest_s[index], arrivals[-1])
        length = np.array(lengths, np.int64)
        begin = np.concatenate(([0], np.cumsum(np.maximum(length, 0))[:-1]))
        return Messages(
            b"".join(values), begin, np.where(length < 0, -1, begin + length),
            np.array(partitions, np.int32), np.array(offsets, np.int64), np.array(arrivals, np.float64),
        )  # fmt: skip

    def _look(self, records: Mapping[Any, Any]) -> None:
        """Of partitions that gave nothing: find out whether nothing is there, or the broker is away."""
        now = time.time()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        silent = [tp for tp in self._tps if tp not in records]
        try:
            ends = self._consumer.end_offsets(silent, timeout_ms=1000) if silent else {}
            # behind the last record may lie markers of transactions, and what compaction removed
            at = {tp: self._consumer.position(tp, timeout_ms=1000) or 0 for tp in silent}
        except LogTruncationError as error:
            raise self._lost(error) from None
        except KafkaError:
            self.up = False
            return
        self.up = True
        self._ends = {**self._ends, **ends}
        for tp in silent:
            i = self._index[tp]
            if at[tp] > self._positions[i]:
                self._positions[i], self._epochs[i] = at[tp], marks.epoch(self._consumer, tp)
            if self._positions[i] >= ends[tp]:
                self._newest_s[i] = now

    def _look_at_topic(self) -> None:
        """Find partitions that were born, from their start on; and a topic that is another one by now."""
        now = time.monotonic()
        if now - self._looked_at_topic < _METADATA_S / 5:
            return
        self._looked_at_topic = now
        identity = marks.topic_id(self._consumer, self._topic)
        if identity and self._topic_id and identity != self._topic_id:
            raise self._made_anew()
        numbers = sorted(marks.partitions(self._consumer, self._topic))
        born = [tp for tp in (TopicPartition(self._topic, number) for number in numbers) if tp not in self._index]
        if not born:
            return
        structlog.get_logger().info("partitions_found", partitions=[self._name(tp) for tp in born])
        self._consumer.assign([*self._tps, *born])
        for tp in born:
            self._consumer.seek(tp, 0)
            self._index[tp] = len(self._tps)
            self._tps.append(tp)
            self._positions.append(0)
            self._epochs.append(marks.UNKNOWN)
            self._newest_s.append(0.0)

    def _go_on_behind_gaps(self, error: KafkaError) -> None:
        """Retention has passed us while we read."""
        try:
            first = self._consumer.beginning_offsets(self._tps, timeout_ms=self._timeout_ms)
        except KafkaError as failed:
            self.up = False
            raise SourceUnavailableError(f"Kafka at {self._bootstrap}: {_said(failed)}") from failed
        behind = [tp for tp in self._tps if self._positions[self._index[tp]] < first[tp]]
        if not behind:
            raise self._lost(error)
        for tp in behind:
            i = self._index[tp]
            self._skip(tp, self._positions[i], first[tp])
            self._consumer.seek(tp, first[tp])
            self._positions[i], self._epochs[i] = first[tp], marks.UNKNOWN

    def _lost(self, error: KafkaError) -> PositionLostError:
        return PositionLostError(
            f"{self._topic}: the log is not the one that was learned ({_said(error)}): it was cut, and may have grown "
            "again since; train a new generation"
        )

    def positions(self) -> dict[str, int]:
        return dict(zip(self.partitions, self._positions, strict=True))

    def marks(self) -> dict[str, str]:
        found = (marks.mark(self._topic_id, epoch) for epoch in self._epochs)
        return {name: mark for name, mark in zip(self.partitions, found, strict=True) if mark}

    @property
    def skipped(self) -> Mapping[str, Sequence[tuple[int, int]]]:
        return self._jumps

    def arrival_watermark_s(self) -> float:
        return min(self._newest_s, default=0.0)

    def lag(self) -> dict[str, int]:
        lag = {}
        for tp, position in zip(list(self._tps), list(self._positions), strict=True):
            end = max(self._consumer.highwater(tp) or 0, self._ends.get(tp, 0))
            lag[self._name(tp)] = max(0, end - position)
        return lag

    def committed(self, offsets: Mapping[str, int]) -> None:
        known = {tp: offsets.get(self._name(tp)) for tp in self._tps}  # a partition may have been born since
        self._copy = {tp: OffsetAndMetadata(at, "", -1) for tp, at in known.items() if at is not None}
        self._consumer.commit_async(self._copy, callback=lambda _offsets, _reply: None)

    def close(self) -> None:
        with contextlib.suppress(KafkaError):
            if self._copy and self.up:
                self._consumer.commit(self._copy, timeout_ms=1000)  # the last asynchronous one may still be under way
        self._consumer.close(autocommit=False, timeout_ms=1000)


def _milliseconds(text: str) -> int:
    """``--start`` as milliseconds since 1970."""
    try:
        return int(float(text) * 1000)
    except OverflowError:
        raise SettingError("--start", text, "earliest, latest, RFC 3339 time or seconds since 1970") from None
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingError("--start", text, "earliest, latest, RFC 3339 time or seconds since 1970") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
