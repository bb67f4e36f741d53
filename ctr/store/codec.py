"""Rows and keys as Redis holds them: fields of 8 bytes, values of one packed row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ctr.errors import ModelMismatchError
from ctr.rows import RowBlock

CHUNK = 1000
"""Rows an HSET: larger ones gain nothing and keep Redis from others for longer."""


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


def hset_commands(name: str, rows: RowBlock) -> Iterator[tuple[object, ...]]:
    """HSET commands that write all rows, `CHUNK` rows each."""
    names, data, size = field_names(rows.keys), rows.data.tobytes(), rows.data.shape[1]
    for begin in range(0, len(names), CHUNK):
        pairs: list[object] = ["HSET", name]
        for i in range(begin, min(begin + CHUNK, len(names))):
            pairs.append(names[i])
            pairs.append(data[i * size : (i + 1) * size])
        yield tuple(pairs)


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
