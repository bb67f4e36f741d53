"""A model of sixteen shards on a real Redis: one cut for all, crashes between them, fencing, killed connections."""

import dataclasses
import threading

import numpy as np
import pytest
from tcp_proxy import Proxy

from ctr import spec as specification
from ctr.errors import (
    FencedError,
    ModelMismatchError,
    ServerWentBackError,
    SettingError,
    ShardLostError,
    StoreUnavailableError,
)
from ctr.rows import RowBlock, RowShape
from ctr.store import Cut, ModelWriter, ShardKeys, ShardReader, Watermarks, connect, create_model, open_model, resume

S = 16
TEXT = 'name = "m"\nfields = [{ name = "a" }, { name = "b" }]\n'
SPEC = specification.parse(f"{TEXT}[store]\nshards = {S}")
SIZE = RowShape.of(SPEC).packed_bytes
KEYS = [ShardKeys(SPEC.model_id, shard) for shard in range(S)]
ORIGINS = {"t:0": 3, "t:1": 0}


def rows(first, count, fill):
    keys = np.arange(first, first + count, dtype=np.uint64)
    return RowBlock(keys, np.full((count, SIZE), fill, np.uint8))


def cut(block, offset, *, gone=(), moment=0.0):
    return Cut(
        block, {"t:0": offset}, Watermarks(moment, moment), gone=np.array(gone, np.uint64), origins=ORIGINS
    )  # fmt: skip


def stored(client):
    """First byte of every row, by key; a row in a shard that is not its own fails."""
    found = {}
    for shard, keys in enumerate(KEYS):
        for name, value in client.hgetall(keys.rows).items():
            key = int.from_bytes(name, "little")
            assert key % S == shard
            found[key] = value[0]
    return found


def offsets(client, name="t:0"):
    return [int(client.hget(keys.meta, f"offset:{name}") or -1) for keys in KEYS]


@pytest.fixture
def client(redis_url):
    with connect(redis_url) as made:
        create_model(made, SPEC)
        yield made


@pytest.fixture
def proxied(redis_url, redis_server):
    """A proxy in front of the server, and a client through it."""
    proxy = Proxy(redis_server.client().connection_pool.connection_kwargs["port"])
    with connect(f"redis://127.0.0.1:{proxy.port}/0") as made:
        yield proxy, made
    proxy.close()


def writer_of(client):
    return ModelWriter(client, open_model(client, SPEC, create=False))


def owner_of(client):
    writer = writer_of(client)
    writer.take_over()
    return writer


def test_one_cut_reaches_every_shard(client):
    writer = owner_of(client)
    writer.commit(cut(rows(1000, 5000, 7), 41, moment=12.5))
    writer.commit(cut(rows(1000, 3, 8), 42, gone=range(2000, 2100), moment=11.0))
    again = writer_of(client)
    start = resume(again.take_over())
    assert start.level
    assert start.offsets == {"t:0": 42}
    assert (start.watermarks.event_s, start.watermarks.arrival_s) == (12.5, 12.5), "no moment goes back"
    expected = dict.fromkeys(range(1000, 1003), 8) | dict.fromkeys({*range(1003, 6000)} - {*range(2000, 2100)}, 7)
    assert stored(client) == expected
    assert sum(len(block) for block in again.load()) == len(expected)
    assert {version.sequence for version in again.versions} == {2}


def test_an_empty_cut_is_seen_in_every_shard(client):
    readers = [ShardReader(client, keys, row_bytes=SIZE) for keys in KEYS]
    writer = owner_of(client)
    for reader in readers:
        reader.poll()
    writer.commit(cut(rows(0, 0, 0), 5, moment=3.0))
    for reader in readers:
        changes = reader.poll()
        assert (changes.broken, len(changes.written), changes.watermarks.arrival_s) == (False, 0, 3.0)


def test_only_what_moved_is_sent(client):
    writer = owner_of(client)
    many = {f"t:{p}": 1 for p in range(100)}
    writer.commit(Cut(rows(0, 0, 0), many, Watermarks(), origins=dict.fromkeys(many, 0)))
    before = client.info("commandstats")["cmdstat_hset"]["calls"], client.info("stats")["total_net_input_bytes"]
    writer.commit(Cut(rows(0, 0, 0), {**many, "t:7": 2}, Watermarks()))
    sent = client.info("stats")["total_net_input_bytes"] - before[1]
    assert offsets(client, "t:7") == [2] * S
    assert offsets(client, "t:8") == [1] * S
    assert sent / S < 1000, "a hundred offsets alone take 3,000 bytes"


def crashing(writer, shard, monkeypatch):
    """The process is killed before it comes to this shard."""

    class KilledError(Exception):
        pass

    def killed(*_):
        raise KilledError

    monkeypatch.setattr(writer._writers[shard], "commit", killed)
    return KilledError


def test_after_a_crash_in_mid_commit_reading_goes_on_at_the_shard_that_is_behind(client, monkeypatch):
    writer = owner_of(client)
    writer.commit(cut(rows(1000, 160, 1), 10))
    with pytest.raises(crashing(writer, 5, monkeypatch)):
        writer.commit(cut(rows(1000, 160, 2), 20))
    start = resume(writer_of(client).take_over())
    assert not start.level
    assert start.offsets == {"t:0": 10}
    assert [places["t:0"] for places in start.stored] == [20] * 5 + [10] * 11
    again = owner_of(client)
    again.commit(cut(rows(1000, 0, 0), 15))
    assert offsets(client) == [20] * 5 + [15] * 11, "who is ahead stays there"


def test_a_gap_is_what_each_shard_lacks(client, monkeypatch):
    writer = owner_of(client)
    writer.commit(dataclasses.replace(cut(rows(1000, 160, 1), 10), marks={"t:0": "log/1"}))
    with pytest.raises(crashing(writer, 5, monkeypatch)):
        writer.commit(dataclasses.replace(cut(rows(1000, 160, 2), 20), marks={"t:0": "log/2"}))
    start = resume(writer_of(client).take_over())
    assert start.furthest == {"t:0": (20, "log/2")}
    again = owner_of(client)
    jump = {"skipped": {"t:0": [(10, 50)]}, "marks": {"t:0": "log/3"}}
    for offset in (50, 55):  # what was given up is given up once
        again.commit(dataclasses.replace(cut(rows(1000, 160, 3), offset), **jump))
    assert [int(client.hget(keys.meta, "gap:t:0")) for keys in KEYS] == [30] * 5 + [40] * 11
    start = resume(writer_of(client).take_over())
    assert (start.level, start.offsets, start.gaps) == (True, {"t:0": 55}, {"t:0": 40})
    assert start.furthest == {"t:0": (55, "log/3")}
    # learned up to 60, then passed by the log: what was learned is no gap
    last = owner_of(client)
    last.commit(dataclasses.replace(cut(rows(1000, 160, 4), 90), skipped={"t:0": [(60, 70), (75, 80)]}))
    assert [int(client.hget(keys.meta, "gap:t:0")) for keys in KEYS] == [45] * 5 + [55] * 11


def test_a_mark_is_that_of_its_offset(client, monkeypatch):
    writer = owner_of(client)
    with pytest.raises(crashing(writer, 5, monkeypatch)):
        writer.commit(dataclasses.replace(cut(rows(1000, 160, 2), 20), marks={"t:0": "log/2"}))
    again = owner_of(client)
    again.commit(dataclasses.replace(cut(rows(1000, 0, 0), 15), marks={"t:0": "log/1"}))
    assert [client.hget(keys.meta, "mark:t:0") for keys in KEYS] == [b"log/2"] * 5 + [b"log/1"] * 11


def test_a_partition_that_only_some_shards_know_begins_at_its_origin(client, monkeypatch):
    writer = owner_of(client)
    with pytest.raises(crashing(writer, 1, monkeypatch)):
        writer.commit(cut(rows(1000, 16, 1), 10))
    start = resume(writer_of(client).take_over())
    assert [places["t:0"] for places in start.stored] == [10] + [3] * 15
    assert start.offsets == {"t:0": 3}
    again = owner_of(client)
    again.commit(Cut(rows(1000, 16, 1), {"t:0": 10}, Watermarks()))
    assert [client.hget(keys.meta, "origin:t:0") for keys in KEYS] == [b"3"] * S


def test_a_partition_without_an_origin_is_a_mistake(client):
    writer = owner_of(client)
    with pytest.raises(ValueError, match="t:9"):
        writer.commit(Cut(rows(1000, 16, 1), {"t:9": 10}, Watermarks()))
    assert stored(client) == {}


@pytest.mark.parametrize("applied", [True, False])
def test_an_exec_without_reply_counts_once(client, proxied, applied):
    proxy, through = proxied
    writer = owner_of(through)
    writer.commit(cut(rows(1000, 160, 1), 1))
    (proxy.lose_reply_to if applied else proxy.lose_request)(b"EXEC")
    second = cut(rows(1000, 160, 2), 2)
    with pytest.raises(StoreUnavailableError):
        writer.commit(second)
    writer.commit(second)
    assert stored(client) == dict.fromkeys(range(1000, 1160), 2)
    assert [client.hget(keys.meta, "ver")[:2] for keys in KEYS] == [b"2-"] * S
    assert [client.xlen(keys.changes) for keys in KEYS] == [2] * S


def test_connections_killed_all_the_time_lose_and_double_nothing(client):
    """CLIENT KILL at random, in the midst of EXEC or not, while sixty cuts are sent."""
    writer = owner_of(client)
    stop, kills = threading.Event(), [0]

    def kill():
        rng = np.random.default_rng(1)
        while not stop.wait(float(rng.uniform(0, 0.04))):
            kills[0] += client.client_kill_filter(_type="normal", skipme=True) or 0

    killer = threading.Thread(target=kill)
    killer.start()
    failed = 0
    try:
        for offset in range(10, 70):
            now = cut(rows(1000, 3000, offset), offset)
            while True:
                try:
                    writer.commit(now)
                    break
                except StoreUnavailableError:
                    failed += 1
    finally:
        stop.set()
        killer.join()
    assert failed > 5
    assert kills[0] >= failed
    assert stored(client) == dict.fromkeys(range(1000, 4000), 69)
    assert offsets(client) == [69] * S
    assert [client.hget(keys.meta, "ver").split(b"-")[0] for keys in KEYS] == [b"60"] * S, "each cut once"


def test_a_paused_writer_wakes_up_and_stops(client, monkeypatch):
    """It sleeps between WATCH and EXEC of shard 7, another takes over and commits."""
    old = owner_of(client)
    old.commit(cut(rows(1000, 160, 1), 1))
    transaction, at = old._sessions[0].transaction, [0]

    def asleep(commands):
        at[0] += 1
        if at[0] == 8:
            owner_of(client).commit(cut(rows(1000, 160, 3), 5))
        return transaction(commands)

    monkeypatch.setattr(old._sessions[0], "transaction", asleep)
    with pytest.raises(FencedError, match="m@1:7"):
        old.commit(cut(rows(1000, 160, 2), 2))
    assert stored(client) == dict.fromkeys(range(1000, 1160), 3)
    assert offsets(client) == [5] * S
    with pytest.raises(FencedError):
        old.commit(cut(rows(1000, 160, 2), 9))


def test_of_two_writers_one_stops(client):
    """Both commit as fast as they can; the second takes over in the midst of the first one's cuts."""
    first, ended = owner_of(client), []

    def run():
        try:
            for offset in range(1, 100_000):
                first.commit(cut(rows(1000, 160, 1), offset))
        except FencedError as error:
            ended.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    while offsets(client)[-1] < 20:
        pass
    with connect(f"redis://127.0.0.1:{client.connection_pool.connection_kwargs['port']}/0") as other:
        second = writer_of(other)
        start = resume(second.take_over())
        thread.join()
        assert len(ended) == 1
        assert "another writer" in ended[0]
        assert max(places["t:0"] for places in start.stored) - start.offsets["t:0"] <= 1
        second.commit(cut(rows(1000, 160, 2), 100_000))
    assert set(stored(client).values()) == {2}
    assert offsets(client) == [100_000] * S


def test_a_shard_that_went_back_is_named(client):
    writer = owner_of(client)
    writer.commit(cut(rows(1000, 160, 1), 1))
    names = [KEYS[9].meta, KEYS[9].rows, KEYS[9].changes]
    saved = [(name, client.dump(name)) for name in names]
    writer.commit(cut(rows(1000, 160, 2), 2))
    for name, value in saved:
        client.restore(name, 0, value, replace=True)
    with pytest.raises(ServerWentBackError, match="m@1:9"):
        writer.commit(cut(rows(1000, 160, 3), 3))
    start = resume(writer.take_over())
    assert start.offsets == {"t:0": 1}
    assert [places["t:0"] for places in start.stored] == [3] * 9 + [1] + [2] * 6


@pytest.mark.parametrize("running", [True, False])
def test_rows_that_are_gone_beside_their_meta_are_noticed(client, running):
    writer = owner_of(client)
    writer.commit(cut(rows(1000, 1600, 1), 1))
    writer.commit(cut(rows(1000, 16, 1), 2, gone=range(1100, 1116)))
    client.delete(KEYS[4].rows)
    act = (lambda: writer.commit(cut(rows(1000, 16, 1), 3))) if running else writer_of(client).take_over
    with pytest.raises(ShardLostError, match=r"m@1:4\}:rows has 0 rows"):
        act()
    assert client.hget(KEYS[0].meta, "owner").decode() == writer._writers[0]._owner, "a lost model is left alone"


def test_one_row_deleted_by_hand_is_noticed_by_who_counts(client):
    writer = owner_of(client)
    writer.commit(cut(rows(1000, 160, 1), 1))
    client.hdel(KEYS[8].rows, (1000).to_bytes(8, "little"))
    with pytest.raises(ShardLostError, match="has 9 rows where 10"):
        writer.commit(cut(rows(1000, 0, 1), 2))


@pytest.mark.parametrize("missing", ["meta", "spec of another"])
def test_a_model_that_cannot_be_used_is_not_taken_from_its_owner(client, missing):
    owner = owner_of(client)
    owner.commit(cut(rows(1000, 160, 1), 1))
    if missing == "meta":
        client.delete(KEYS[15].meta)
    else:
        client.hset(KEYS[15].meta, "spec", "another")
    with pytest.raises((ShardLostError, ModelMismatchError), match="m@1:15"):
        writer_of(client).take_over()
    assert client.hget(KEYS[0].meta, "owner").decode() == owner._writers[0]._owner


def test_a_server_that_may_drop_rows_is_refused(client):
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(SettingError, match="'allkeys-lru': noeviction"):
            writer_of(client).take_over()
    finally:
        client.config_set("maxmemory-policy", "noeviction")
    assert client.hget(KEYS[0].meta, "owner") is None


@pytest.mark.parametrize("left", ["rows", "changes", "meta"])
def test_nothing_is_built_on_what_a_deletion_left(client, left):
    owner_of(client).commit(cut(rows(1000, 160, 1), 1))
    kept = getattr(KEYS[11], left)
    for name in client.scan_iter(match="ctr:*"):
        if name.decode() != kept:
            client.delete(name)
    one_shard = specification.parse(TEXT)
    with pytest.raises(ShardLostError) as caught:
        create_model(client, one_shard)
    assert kept in str(caught.value)
    client.delete(kept)
    assert create_model(client, one_shard).shards >= 1


def test_a_creation_that_was_cut_short_is_finished(redis_url):
    with connect(redis_url) as client:
        client.hset(KEYS[0].meta, mapping={"ver": "0-abc", "spec": "of another"})
        client.hset(KEYS[1].meta, "ver", "0-def")
        create_model(client, SPEC)
        assert owner_of(client).versions[0].nonce == "abc"
        with pytest.raises(ModelMismatchError, match="is there already"):
            create_model(client, SPEC)


def test_the_number_of_shards_is_the_stores_business(client):
    assert open_model(client, specification.parse(TEXT), create=False).shards == S, "left out: as it is stored"
    other = specification.parse(f"{TEXT}[store]\nshards = 4")
    with pytest.raises(ModelMismatchError, match=r"16 shards.*store\.shards = 4"):
        open_model(client, other, create=False)
    assert other.digest == SPEC.digest, "rows mean the same wherever they lie"
