"""Rows and keys as Redis holds them: fields of 8 bytes, values of one packed row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ctr.errors import ModelMismatchError
from ctr.kernels import build
from ctr.rows import RowBlock

CHUNK = 1000
"""Rows a command: larger ones gain nothing and keep Redis from others for longer."""

_HEAD_BYTES = 1024
"""Room for what stands before the first field of an HSET: its name is some 200 bytes at most."""


def encode_keys(keys: NDArray[np.uint64]) -> bytes:
    """Keys as one string, 8 bytes each, little-endian."""
    return keys.astype("<u8").tobytes()


def decode_keys(raw: bytes) -> NDArray[np.uint64]:
    """Inverse of `encode_keys`."""
    return np.frombuffer(raw, "<u8").astype(np.uint64)


def field_names(keys: NDArray[np.uint64]) -> list[bytes]:
    """Each key as a field of the rows hash."""
    raw = encode_keys(keys)
    return [raw[i : i + 8] for i in range(0, len(raw), 8)]


class RowPacker:
    """HSET commands as bytes, packed without a Python object a row and without the GIL.

    A client library's own packing takes three times as long as the server (`tests/benchmarks/commit.py`).

    Parameters
    ----------
    row_bytes : int
        Size of a packed row.
    """

    def __init__(self, row_bytes: int) -> None:
        head = b"$8\r\n"
        middle = b"\r\n$%d\r\n" % row_bytes
        record = np.frombuffer(head + bytes(8) + middle + bytes(row_bytes) + b"\r\n", np.uint8)
        self._key_at, self._row_at = len(head), len(head) + 8 + len(middle)
        self._buffer = np.zeros(_HEAD_BYTES + CHUNK * len(record), np.uint8)
        self._records = self._buffer[_HEAD_BYTES:].reshape(CHUNK, len(record))
        self._records[:] = record
        self._row_bytes = row_bytes
        self._fill = build.load("wire/resp").fill
        nothing = RowBlock(np.zeros(0, np.uint64), np.zeros((0, row_bytes), np.uint8))
        self._write(nothing, np.zeros(0, np.int64), 0, 0)  # compiles, or loads from the disk cache

    def hset_commands(self, name: str, rows: RowBlock, chosen: NDArray[np.int64]) -> Iterator[memoryview]:
        """HSET commands that write rows ``chosen`` of a block, `CHUNK` rows each.

        Each view is good until the next one is asked for: all share one buffer.
        """
        if rows.data.shape[1:] != (self._row_bytes,):
            raise ModelMismatchError(f"rows of {rows.data.shape[1:]} bytes where {self._row_bytes} are to be stored")
        keys = np.require(rows.keys, np.uint64, ["C", "A", "W"])
        block = RowBlock(keys, np.require(rows.data, np.uint8, ["C", "A", "W"]))
        for begin in range(0, len(chosen), CHUNK):
            end = min(begin + CHUNK, len(chosen))
            self._write(block, chosen, begin, end)
            encoded = name.encode()
            head = b"*%d\r\n$4\r\nHSET\r\n$%d\r\n%b\r\n" % (2 + 2 * (end - begin), len(encoded), encoded)
            first = _HEAD_BYTES - len(head)
            self._buffer[first:_HEAD_BYTES] = np.frombuffer(head, np.uint8)
            last = _HEAD_BYTES + (end - begin) * self._records.shape[1]
            yield self._buffer.data[first:last]

    def _write(self, rows: RowBlock, chosen: NDArray[np.int64], begin: int, end: int) -> None:
        self._fill(rows.keys, rows.data, chosen, begin, end, self._key_at, self._row_at, self._records)


def hdel_commands(name: str, keys: NDArray[np.uint64]) -> Iterator[tuple[object, ...]]:
    """HDEL commands that drop the rows of all keys, `CHUNK` keys each."""
    names = field_names(keys)
    for begin in range(0, len(names), CHUNK):
        yield ("HDEL", name, *names[begin : begin + CHUNK])


def decode_rows(keys: NDArray[np.uint64], values: Sequence[bytes | None], row_bytes: int) -> RowBlock:
    """Rows read by HMGET; keys without a row are left out.

    Raises
    ------
    ModelMismatchError
        A value has another size than the specification's rows.
    """
    held = [value for value in values if value is not None]
    present = np.fromiter((value is not None for value in values), np.bool_, len(values))
    joined = b"".join(held)
    if len(joined) != len(held) * row_bytes or any(len(value) != row_bytes for value in held):
        raise ModelMismatchError(f"a stored row does not have the {row_bytes} bytes that the specification gives it")
    return RowBlock(keys[present], np.frombuffer(joined, np.uint8).reshape(len(held), row_bytes))


def decode_scan(flat: Sequence[bytes], row_bytes: int) -> RowBlock:
    """Rows read by HSCAN: field, value, field, value ..."""
    return decode_rows(decode_keys(b"".join(flat[::2])), flat[1::2], row_bytes)
