"""Kafka's record batches, walked over their bytes: where each record's value lies, without one Python object a record.

Format: https://kafka.apache.org/documentation/#record. Lengths and deltas are zigzag varints:

    record = length, attributes int8, timestamp delta, offset delta, key length, key, value length, value, headers
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import inlined, kernel


@inlined
def varint(data: Any, at: Any, end: Any) -> Any:
    """Value, and the position behind it; position -1 where it does not end before `end` or is longer than 64 bits."""
    value, shift = np.uint64(0), np.uint64(0)
    position = np.int64(-1)
    while at < end and shift < 64:
        byte = np.uint64(data[at])
        at += 1
        value |= (byte & np.uint64(127)) << shift
        shift += np.uint64(7)
        if byte < 128:
            position = np.int64(at)
            break
    return np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1)), position


@kernel
def walk(
    data: Any, first: Any, last: Any, counts: Any, base_offsets: Any, wanted_from: Any, base_ms: Any, fixed_ms: Any,
    begin: Any, end: Any, offsets: Any, times_ms: Any, batch_of: Any,
) -> Any:  # fmt: skip
    """All records of several batches, in order.

    In: batch ``b``'s records lie in ``data[first[b]:last[b]]``; records before offset ``wanted_from[b]`` are left out;
    times are ``base_ms[b]`` + delta, or ``fixed_ms[b]`` for all where that is not negative (LogAppendTime).
    Out: for record i ``data[begin[i]:end[i]]`` is the value, ``end[i] = -1`` for null.

    Returns
    -------
    n, bad
        Number of records, and the first batch whose bytes do not fit its lengths, -1 if none; `n` then counts the
        records of the batches before it.
    """
    n = 0
    for b in range(first.shape[0]):
        kept, at, stop = n, first[b], last[b]
        good = True
        for _ in range(counts[b]):
            length, at = varint(data, at, stop)
            if at < 0 or length < 0 or length > stop - at:
                good = False
                break
            record_end = at + length
            at += 1  # attributes: none are defined for records
            time_delta, at = varint(data, at, record_end)
            if at < 0:
                good = False
                break
            offset_delta, at = varint(data, at, record_end)
            if at < 0:
                good = False
                break
            key_length, at = varint(data, at, record_end)
            if at < 0 or key_length < -1 or key_length > record_end - at:
                good = False
                break
            at += max(key_length, 0)
            value_length, at = varint(data, at, record_end)
            if at < 0 or value_length < -1 or value_length > record_end - at:
                good = False
                break
            offset = base_offsets[b] + offset_delta
            if offset >= wanted_from[b]:
                begin[n] = at
                end[n] = at + value_length if value_length >= 0 else -1
                offsets[n] = offset
                times_ms[n] = fixed_ms[b] if fixed_ms[b] >= 0 else base_ms[b] + time_delta
                batch_of[n] = b
                n += 1
            at = record_end
        if not good or at != stop:
            return kept, b
    return n, -1
