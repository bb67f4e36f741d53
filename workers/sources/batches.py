"""Whole record batches out of kafka-python's own fetcher, instead of one Python object a record.

The fetcher unpacks a fetched partition through its inner class `PartitionRecords`. Put in its place, `BatchRecords`
hands over each batch as bytes and leaves positions, fetch sessions, seek, CRC and transactions to kafka-python. It
relies on private names: kafka-python is pinned to the minor it was checked with, `install` looks whether the names are
there, and where they are not, records come one by one as before.

Both ways are safe against kafka-python's endless loop: a `PartitionRecords` whose iterator has raised stays true and
gives nothing for ever (3.0.12, Fetcher.fetched_records); drained, the next poll fetches anew and raises again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import kafka
from kafka import errors
from kafka.consumer.fetcher import Fetcher, IsolationLevel

CHECKED = "3.0."
"""Versions of kafka-python that the parity test was run with."""


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """A batch as the broker stored it, decompressed.

    Attributes
    ----------
    offset : int
        Of the last record, also if compaction removed it: what the fetcher looks at.
    base_offset, wanted_from : int
        Offset of the first record, and of the first one that was asked for.
    count : int
        Records, after compaction.
    epoch : int
        Of the leader that took it.
    base_ms, fixed_ms : int
        Time that the records' deltas count from; the time of all of them (LogAppendTime), or -1.
    data : bytes-like
        The records.
    """

    offset: int
    base_offset: int
    wanted_from: int
    count: int
    base_ms: int
    fixed_ms: int
    data: memoryview
    epoch: int


class CorruptBatchError(errors.CorruptRecordError):  # type: ignore[misc]  # kafka-python is untyped
    """A batch that cannot be read; `next_offset` is where reading can go on."""

    def __init__(self, tp: Any, base_offset: int, next_offset: int, why: str) -> None:
        super().__init__(f"record batch {base_offset} to {next_offset - 1} of {tp.topic}:{tp.partition}: {why}")
        self.tp, self.base_offset, self.next_offset, self.why = tp, base_offset, next_offset, why


class SafeRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """One object a record, as kafka-python makes them; after an error the partition is fetched anew."""

    record_iterator: Any
    _next_inline_exception: Any

    def take(self, n: int | None = None) -> list[Any]:
        """Up to `n` items; what was read before an error comes first, the error with the next call."""
        self._maybe_raise_next_inline_exception()
        taken: list[Any] = []
        try:
            for item in self.record_iterator or ():
                taken.append(item)
                if n is not None and len(taken) >= n:
                    break
        except Exception as error:
            if not taken:
                self.drain()
                raise
            self._next_inline_exception = error
            self.record_iterator = iter(())
        return taken

    def _maybe_raise_next_inline_exception(self) -> None:
        error, self._next_inline_exception = self._next_inline_exception, None
        if error is not None:
            self.drain()
            raise error

    def _unpack_records(self, tp: Any, records: Any, key_deserializer: Any, value_deserializer: Any) -> Iterator[Any]:
        batches = _Positions(records)
        try:
            yield from super()._unpack_records(tp, batches, key_deserializer, value_deserializer)
        except errors.CorruptRecordError as error:
            batch = batches.last
            raise CorruptBatchError(tp, batch.base_offset, batch.next_offset, str(error)) from error


class _Positions:
    """Remembers the batch that is being read, so that an error can say where reading can go on."""

    def __init__(self, records: Any) -> None:
        self._records = records
        self.last: Any = None

    def next_batch(self) -> Any:
        self.last = self._records.next_batch()
        return self.last


class BatchRecords(SafeRecords):
    """One `RecordBatch` a batch; control batches, aborted transactions and emptied batches are passed over."""

    def _unpack_records(self, tp: Any, records: Any, key_deserializer: Any, value_deserializer: Any) -> Iterator[Any]:
        del key_deserializer, value_deserializer  # values stay bytes
        while (batch := records.next_batch()) is not None:
            if batch.magic != 2:
                raise errors.UnsupportedVersionError(f"record format {batch.magic}: brokers before 0.11 are not read")
            if self.check_crcs and not batch.validate_crc():
                raise CorruptBatchError(tp, batch.base_offset, batch.next_offset, "its checksum does not fit")
            self.leader_epoch = batch.leader_epoch
            count = batch.records_count  # 0: compaction left an empty batch, for its producer's sequence numbers
            if count and not self._passed_over(batch):
                yield self._decompressed(tp, batch, count)
            self.next_fetch_offset = batch.next_offset
        self.drain()

    def _passed_over(self, batch: Any) -> bool:
        if self.isolation_level == IsolationLevel.READ_COMMITTED and batch.has_producer_id():
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if self._contains_abort_marker(batch):
                self.aborted_producer_ids.discard(batch.producer_id)
            elif self._is_batch_aborted(batch):
                return True
        return bool(batch.is_control_batch)

    def _decompressed(self, tp: Any, batch: Any, count: int) -> RecordBatch:
        try:
            batch._maybe_uncompress()  # noqa: SLF001  see above
        except errors.UnsupportedCodecError:
            raise  # the codec's package is not installed: nothing to skip
        except Exception as error:
            why = f"cannot be decompressed: {error}"
            raise CorruptBatchError(tp, batch.base_offset, batch.next_offset, why) from error
        self.records_read += count
        self.bytes_read += batch.size_in_bytes
        self.next_fetch_offset = batch.next_offset  # before the yield: the fetcher moves its position by it
        return RecordBatch(
            batch.last_offset, batch.base_offset, self.fetch_offset, count, batch.first_timestamp,
            batch.max_timestamp if batch.timestamp_type == 1 else -1,
            memoryview(batch._buffer)[batch._pos :], batch.leader_epoch,  # noqa: SLF001
        )  # fmt: skip


_NEEDED = ("_unpack_records", "_consume_aborted_transactions_up_to", "_contains_abort_marker", "_is_batch_aborted")


def install(consumer: Any) -> bool:
    """Make a consumer hand over batches; False where this kafka-python is not the one that was checked."""
    fetcher = getattr(consumer, "_fetcher", None)
    inner = getattr(fetcher, "PartitionRecords", None)
    fits = kafka.__version__.startswith(CHECKED) and all(hasattr(inner, name) for name in _NEEDED)
    if inner is not None and fetcher is not None:
        fetcher.PartitionRecords = BatchRecords if fits else SafeRecords
    return fits
