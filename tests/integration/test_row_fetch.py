"""Rows read by hand over a connection of our own are those that redis-py reads, and what is odd is left to redis-py."""

import time

import numpy as np
import pytest
from redis_servers import Masters

from ctr.errors import ModelMismatchError, StoreUnavailableError
from ctr.store import ShardKeys, ShardReader, connect
from ctr.store.bulk import RowFetch
from ctr.store.codec import encode_keys

SIZE, NAME = 148, "ctr:{ads@1:0}:rows"


@pytest.fixture
def client(redis_url):
    with connect(redis_url, timeout_s=0.5) as client:
        yield client


def filled(client, count=2500, name=NAME):
    """Keys of which two in three have a row, and these rows."""
    keys = np.random.default_rng(7).integers(1 << 20, 1 << 63, count, dtype=np.uint64)
    rows = {int(key): np.random.default_rng(int(key) % 1000).bytes(SIZE) for key in keys[np.arange(count) % 3 > 0]}
    client.hset(name, mapping={encode_keys(np.array([key], np.uint64)): row for key, row in rows.items()})
    return keys, rows


def as_dict(block):
    return {int(key): row.tobytes() for key, row in zip(block.keys, block.data, strict=True)}


@pytest.mark.parametrize("count", [0, 1, 7, 1000, 2500])
def test_rows_are_those_that_are_stored(client, count):
    keys, rows = filled(client)
    fetch = RowFetch(client, SIZE)
    for _ in range(2):  # the connection is used again
        block = fetch.fetch(NAME, keys[:count])
        assert as_dict(block) == {int(key): rows[int(key)] for key in keys[:count] if int(key) in rows}
        assert block.keys.tolist() == [key for key in keys[:count].tolist() if key in rows]


def test_on_a_cluster(tmp_path):
    masters = Masters(tmp_path)
    masters.start()
    try:
        with connect(masters.url) as client:
            fetch = RowFetch(client, SIZE)
            for shard in range(6):
                name = ShardKeys("ads@1", shard).rows
                keys, rows = filled(client, 300, name)
                assert as_dict(fetch.fetch(name, keys)) == rows
    finally:
        masters.stop()


def test_a_connection_that_was_lost_is_replaced(client):
    keys, rows = filled(client)
    fetch = RowFetch(client, SIZE)
    assert fetch.fetch(NAME, keys) is not None
    client.client_kill_filter(_type="normal", skipme=True)
    assert fetch.fetch(NAME, keys) is None
    assert as_dict(fetch.fetch(NAME, keys)) == rows


def test_a_server_that_hangs_is_not_waited_for(client, redis_url):
    keys, rows = filled(client)
    fetch = RowFetch(client, SIZE)
    assert fetch.fetch(NAME, keys) is not None
    with connect(redis_url) as other:
        other.client_pause(1500)
        began = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            fetch.fetch(NAME, keys)
        assert time.monotonic() - began < 1.2
        time.sleep(1.5)
    assert as_dict(fetch.fetch(NAME, keys)) == rows, "the late reply is not taken for that of the next request"


def test_what_is_no_row_is_left_to_redis_py(client):
    shard = ShardKeys("ads@1", 0)
    keys, _ = filled(client, name=shard.rows)
    fetch = RowFetch(client, SIZE)
    reader = ShardReader(client, shard, row_bytes=SIZE, in_bulk=fetch)
    for wrong in (b"", b"short", bytes(SIZE + 1)):
        client.hset(shard.rows, encode_keys(keys[5:6]), wrong)
        assert fetch.fetch(shard.rows, keys) is None
        with pytest.raises(ModelMismatchError):
            reader.fetch(keys)
    client.set("text", "x")
    assert fetch.fetch("text", keys[:3]) is None  # WRONGTYPE
    client.hset(shard.rows, encode_keys(keys[5:6]), bytes(SIZE))
    assert len(reader.fetch(keys)) == len(fetch.fetch(shard.rows, keys)) > 1000
