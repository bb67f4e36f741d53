"""Bytes on the wire: rows packed by hand are what the client library would have sent, byte for byte."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.connection import Connection

from ctr.errors import ModelMismatchError
from ctr.rows import RowBlock
from ctr.store.codec import CHUNK, RowPacker, decode_keys, encode_keys, hdel_commands


def block(count, row_bytes, seed=0):
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, 2**64, count, dtype=np.uint64, endpoint=False)
    return RowBlock(keys, rng.integers(0, 256, (count, row_bytes), dtype=np.uint8))


def as_redis_packs(name, rows, chosen):
    """The same commands by the client library."""
    commands = []
    for begin in range(0, len(chosen), CHUNK):
        pairs = []
        for i in chosen[begin : begin + CHUNK]:
            pairs += [int(rows.keys[i]).to_bytes(8, "little"), rows.data[i].tobytes()]
        commands.append(("HSET", name, *pairs))
    return b"".join(Connection().pack_commands(commands))


@given(st.integers(0, 40), st.sampled_from([1, 9, 10, 36, 99, 100, 1252]), st.integers(0, 2**32))
def test_packed_rows_are_what_redis_py_sends(count, row_bytes, seed):
    rows = block(count, row_bytes, seed)
    chosen = np.flatnonzero(rows.keys % np.uint64(3) == 1)
    packed = b"".join(map(bytes, RowPacker(row_bytes).hset_commands("ctr:{m@1:7}:rows", rows, chosen)))
    assert packed == as_redis_packs("ctr:{m@1:7}:rows", rows, chosen)


@pytest.mark.parametrize("count", [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5])
def test_many_rows_are_several_commands_of_one_buffer(count):
    rows, packer = block(count, 36), RowPacker(36)
    for seed in (0, 1):  # the buffer is used again
        rows = block(count, 36, seed)
        views = [bytes(view) for view in packer.hset_commands("n" * 200, rows, np.arange(count))]
        assert len(views) == -(-count // CHUNK)
        assert b"".join(views) == as_redis_packs("n" * 200, rows, np.arange(count))


def test_rows_that_cannot_be_written_to_are_packed_too():
    rows = block(5, 36)
    frozen = RowBlock(np.frombuffer(rows.keys.tobytes(), np.uint64), np.frombuffer(rows.data, np.uint8).reshape(5, 36))
    packed = b"".join(map(bytes, RowPacker(36).hset_commands("n", frozen, np.arange(5))))
    assert packed == as_redis_packs("n", rows, np.arange(5))


def test_rows_of_another_size_are_refused():
    with pytest.raises(ModelMismatchError, match="37"):
        list(RowPacker(37).hset_commands("n", block(3, 36), np.arange(3)))


def test_keys_come_back():
    keys = block(50, 1).keys
    assert decode_keys(encode_keys(keys)).tolist() == keys.tolist()
    names = [name for command in hdel_commands("n", keys) for name in command[2:]]
    assert b"".join(names) == encode_keys(keys)
