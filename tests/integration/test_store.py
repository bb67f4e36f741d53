"""The commit protocol on a real Redis: every promise of `ctr.store`, with the fault that would break it."""

import contextlib
import dataclasses

import numpy as np
import pytest
from tcp_proxy import Proxy

from ctr import spec as specification
from ctr.errors import (
    FencedError,
    ModelMismatchError,
    ModelMissingError,
    ServerWentBackError,
    SettingError,
    ShardLostError,
    StoreUnavailableError,
)
from ctr.rows import RowBlock, RowShape
from ctr.store import (
    Cut,
    ShardKeys,
    ShardReader,
    ShardWriter,
    Watermarks,
    connect,
    create_model,
    open_model,
    read_model,
)

SPEC = specification.parse('name = "m"\nfields = [{ name = "a" }, { name = "b" }]')
KEYS = ShardKeys(SPEC.model_id, 0)
SIZE = RowShape.of(SPEC).packed_bytes


def rows(first, count, fill):
    keys = np.arange(first, first + count, dtype=np.uint64)
    return RowBlock(keys, np.full((count, SIZE), fill, np.uint8))


def cut(block, offset, event_s=0.0):
    return Cut(rows=block, offsets={"t:0": offset}, watermarks=Watermarks(event_s, event_s))


def writer_of(client):
    return ShardWriter(client, KEYS, spec_digest=SPEC.digest, row_bytes=SIZE)


def reader_of(client):
    return ShardReader(client, KEYS, row_bytes=SIZE)


def stored_rows(client):
    return client.hgetall(KEYS.rows)


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


def test_what_was_committed_is_there_after_a_restart(client):
    writer = writer_of(client)
    writer.take_over()
    writer.commit(cut(rows(100, 2500, 7), 41, event_s=12.5))
    writer.commit(cut(rows(100, 1, 8), 42, event_s=13.5))
    again = writer_of(client)
    meta = again.take_over()
    assert meta.offsets == {"t:0": 42}
    assert meta.version.sequence == 2
    assert (meta.watermarks.event_s, meta.watermarks.arrival_s) == (13.5, 13.5)
    loaded = {int(key): block.data[i, 0] for block in again.load() for i, key in enumerate(block.keys)}
    assert loaded == {100: 8} | dict.fromkeys(range(101, 2600), 7)


def test_watermarks_are_numbers_whatever_kind_of_number_they_were(client):
    writer = writer_of(client)
    writer.take_over()
    writer.commit(cut(rows(1000, 1, 1), 1, event_s=np.float64(1.5)))
    assert client.hget(KEYS.meta, "event_s") == b"1.5"
    assert writer_of(client).look().watermarks.arrival_s == 1.5


def test_another_owner_fences_the_first_for_good(client):
    old, new = writer_of(client), writer_of(client)
    old.take_over()
    old.commit(cut(rows(1000, 5, 1), 1))
    new.take_over()
    before = stored_rows(client)
    with pytest.raises(FencedError):
        old.commit(cut(rows(1000, 5, 2), 2))
    assert stored_rows(client) == before
    new.commit(cut(rows(1000, 5, 3), 2))
    with pytest.raises(FencedError):
        old.commit(cut(rows(1000, 5, 4), 3))
    assert {value[0] for value in stored_rows(client).values()} == {3}


def test_a_taker_between_watch_and_exec_makes_the_commit_fail(client, monkeypatch):
    old, new = writer_of(client), writer_of(client)
    old.take_over()
    session = old._session
    transaction = session.transaction

    def interrupted(commands):
        monkeypatch.setattr(session, "transaction", transaction)
        new.take_over()
        return transaction(commands)

    monkeypatch.setattr(session, "transaction", interrupted)
    with pytest.raises(FencedError):
        old.commit(cut(rows(1000, 5, 2), 2))
    assert stored_rows(client) == {}


@pytest.mark.parametrize("applied", [True, False])
def test_an_exec_without_reply_counts_once(client, proxied, applied):
    proxy, through = proxied
    writer = writer_of(through)
    writer.take_over()
    writer.commit(cut(rows(1000, 3, 1), 1))
    (proxy.lose_reply_to if applied else proxy.lose_request)(b"EXEC")
    second = cut(rows(1000, 3, 2), 2)
    with pytest.raises(StoreUnavailableError):
        writer.commit(second)
    assert proxy.lost == 1
    assert client.hget(KEYS.meta, "ver").startswith(b"2-" if applied else b"1-")
    writer.commit(second)
    assert client.hget(KEYS.meta, "ver").startswith(b"2-")
    assert client.xlen(KEYS.changes) == 2
    writer.commit(cut(rows(1000, 3, 3), 3))
    assert client.hget(KEYS.meta, "offset:t:0") == b"3"


def test_a_server_that_forgot_a_commit_is_noticed(client):
    writer = writer_of(client)
    writer.take_over()
    writer.commit(cut(rows(1000, 3, 1), 1))
    before = client.dump(KEYS.meta)
    writer.commit(cut(rows(1000, 3, 2), 2))
    client.restore(KEYS.meta, 0, before, replace=True)
    with pytest.raises(ServerWentBackError):
        writer.commit(cut(rows(1000, 3, 3), 3))
    assert {value[0] for value in stored_rows(client).values()} == {2}, "nothing was written on top"


def test_a_refused_write_applies_nothing_and_may_be_retried(client):
    writer = writer_of(client)
    writer.take_over()
    first = cut(rows(1000, 2000, 1), 1)
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreUnavailableError, match="maxmemory"):
            writer.commit(first)
        assert stored_rows(client) == {}
        assert client.hget(KEYS.meta, "offset:t:0") is None
    finally:
        client.config_set("maxmemory", 0)
    writer.commit(first)
    assert len(stored_rows(client)) == 2000


def test_lost_meta_is_not_taken_for_a_new_model(client):
    client.delete(KEYS.meta)
    with pytest.raises(ShardLostError):
        writer_of(client).take_over()


def test_rows_without_a_specification_are_not_built_upon(client):
    writer = writer_of(client)
    writer.take_over()
    writer.commit(cut(rows(1000, 1, 1), 1))
    client.delete(f"ctr:{{{SPEC.model_id}}}:spec")
    with pytest.raises(ShardLostError):
        create_model(client, SPEC)


def test_a_reader_follows_every_commit(client):
    writer, reader = writer_of(client), reader_of(client)
    writer.take_over()
    writer.commit(cut(rows(1000, 3, 1), 1))
    first = reader.poll()
    assert first.broken, "nothing is known yet"
    assert reader.poll() is None
    writer.commit(cut(rows(1001, 1, 2), 2))
    writer.commit(cut(rows(1002, 2, 3), 3, event_s=5.0))
    changes = reader.poll()
    assert not changes.broken
    assert changes.written.tolist() == [1001, 1002, 1003]
    assert changes.watermarks.event_s == 5.0
    found = reader.fetch(np.array([1000, 1001, 1002, 1003, 9999], np.uint64))
    assert dict(zip(found.keys.tolist(), found.data[:, 0].tolist(), strict=True)) == {
        1000: 1, 1001: 2, 1002: 3, 1003: 3,
    }  # fmt: skip
    assert sorted(key for block in reader.scan() for key in block.keys.tolist()) == [1000, 1001, 1002, 1003]


def keys_of(*numbers):
    return np.array(numbers, np.uint64)


def leaving(offset, gone, block=None):
    return dataclasses.replace(cut(rows(1, 0, 0) if block is None else block, offset), gone=keys_of(*gone))


def test_rows_that_left_are_dropped_with_the_commit_that_names_them(client):
    writer, reader = writer_of(client), reader_of(client)
    writer.take_over()
    writer.commit(cut(rows(1000, 2600, 1), 1))
    reader.poll()
    writer.commit(leaving(2, range(1000, 3500), rows(3500, 50, 2)))  # more than one HDEL
    assert set(stored_rows(client)) == {key.to_bytes(8, "little") for key in range(3500, 3600)}
    changes = reader.poll()
    assert (changes.gone.tolist(), changes.written.tolist()) == ([*range(1000, 3500)], [*range(3500, 3550)])
    writer.commit(cut(rows(3500, 1, 3), 3))
    entries = [entry for _, entry in client.xrange(KEYS.changes)]
    assert [b"gone" in entry for entry in entries] == [False, True, False]  # as entries were before rows could leave
    assert reader.poll().gone.tolist() == []


def test_a_reader_says_what_became_of_a_key_in_the_end(client):
    writer, reader = writer_of(client), reader_of(client)
    writer.take_over()
    reader.poll()
    writer.commit(cut(rows(1000, 3, 1), 1))
    writer.commit(leaving(2, [1000, 1001]))
    writer.commit(cut(rows(1001, 1, 2), 3))
    writer.commit(leaving(4, [1002]))
    changes = reader.poll()
    assert changes.gone.tolist() == [1000, 1002]
    assert sorted(changes.written.tolist()) == [1000, 1001, 1001, 1002]


def test_a_key_that_left_and_is_written_in_one_cut_is_there(client):
    writer, reader = writer_of(client), reader_of(client)
    writer.take_over()
    reader.poll()
    writer.commit(leaving(1, [1000], rows(1000, 1, 7)))
    assert stored_rows(client) == {(1000).to_bytes(8, "little"): bytes([7] * SIZE)}
    assert reader.poll().gone.tolist() == []


def test_a_fenced_writer_drops_nothing(client):
    old, new = writer_of(client), writer_of(client)
    old.take_over()
    old.commit(cut(rows(1000, 3, 1), 1))
    new.take_over()
    with pytest.raises(FencedError):
        old.commit(leaving(2, [1000, 1001]))
    assert len(stored_rows(client)) == 3


def test_a_reader_passed_by_the_trimming_reads_all_again(client):
    writer, reader = writer_of(client), reader_of(client)
    writer.take_over()
    reader.poll()
    writer.commit(cut(rows(1000, 1, 1), 1))
    assert not reader.poll().broken
    for offset in range(2, 6):
        writer.commit(cut(rows(1000, 1, offset), offset))
    client.xtrim(KEYS.changes, maxlen=2, approximate=False)
    assert reader.poll().broken
    assert reader.poll() is None


def test_a_reader_notices_a_server_that_went_back(client):
    writer, reader = writer_of(client), reader_of(client)
    writer.take_over()
    writer.commit(cut(rows(1000, 1, 1), 1))
    saved = [(name, client.dump(name)) for name in (KEYS.meta, KEYS.rows, KEYS.changes)]
    writer.commit(cut(rows(1000, 1, 2), 2))
    reader.poll()
    for name, value in saved:
        client.restore(name, 0, value, replace=True)
    assert reader.poll().broken
    # the same sequence number again, by another cut: only the nonce tells the two apart
    other = writer_of(client)
    other.take_over()
    writer_version = client.hget(KEYS.meta, "ver")
    other.commit(cut(rows(1000, 1, 9), 2))
    assert client.hget(KEYS.meta, "ver") != writer_version
    assert reader.poll().written.tolist() == [1000]


def test_the_same_sequence_by_another_cut_breaks_the_chain(client):
    writer, reader = writer_of(client), reader_of(client)
    writer.take_over()
    writer.commit(cut(rows(1000, 1, 1), 1))
    saved = [(name, client.dump(name)) for name in (KEYS.meta, KEYS.rows, KEYS.changes)]
    writer.commit(cut(rows(1000, 1, 2), 2))
    reader.poll()
    for name, value in saved:
        client.restore(name, 0, value, replace=True)
    other = writer_of(client)
    other.take_over()
    other.commit(cut(rows(2000, 1, 9), 2))
    other.commit(cut(rows(2001, 1, 9), 3))
    assert reader.poll().broken, "version 2 that the reader saw is not the version 2 that version 3 stands on"


def test_an_emptied_server_is_an_error_for_a_reader(client):
    reader = reader_of(client)
    reader.poll()
    client.flushdb()
    with pytest.raises(ShardLostError):
        reader.poll()


def test_models_are_found_by_name_and_by_generation(client):
    second = specification.parse('name = "m"\ngeneration = "2"\nfields = [{ name = "a" }]')
    create_model(client, second)
    assert read_model(client, "m").spec == SPEC, "the first generation stays live"
    assert read_model(client, "m@2").spec == second
    for missing in ("nobody", "m@3"):
        with pytest.raises(ModelMissingError, match=missing):
            read_model(client, missing)
    with pytest.raises(SettingError, match="model = 'M!'"):
        read_model(client, "M!")


def test_another_specification_is_refused_with_the_difference(client):
    wider = specification.parse('name = "m"\nfields = [{ name = "a" }, { name = "b" }]\n[model]\nk = 8')
    with pytest.raises(ModelMismatchError, match=r"model\.k: 4 -> 8"):
        open_model(client, wider, create=False)
    faster = specification.parse('name = "m"\nfields = [{ name = "a" }, { name = "b" }]\n[optimizer]\nstep = 0.5')
    assert open_model(client, faster, create=False).spec.optimizer.step == 0.5
    assert read_model(client, "m").spec.optimizer.step == 0.5


def test_a_missing_model_is_made_only_when_told(redis_url):
    with connect(redis_url) as client:
        with pytest.raises(ModelMissingError, match="--create"):
            open_model(client, SPEC, create=False)
        assert client.keys() == []
        assert open_model(client, SPEC, create=True).spec == SPEC


def test_a_newer_format_is_refused_with_both_numbers(client):
    name = f"ctr:{{{SPEC.model_id}}}:spec"
    client.set(name, client.get(name).replace(b'"format":1', b'"format":2'))
    with pytest.raises(ModelMismatchError, match="format 2, this version reads up to 1"):
        read_model(client, "m")


@pytest.mark.parametrize("url", ["http://x", "redis://127.0.0.1:6379/x", "nonsense"])
def test_an_unreadable_url_names_what_is_allowed(url):
    with pytest.raises(SettingError, match="redis://"):
        connect(url)


def test_nobody_there_and_wrong_password(own_redis):
    with pytest.raises(StoreUnavailableError, match="does not answer"):
        connect("redis://127.0.0.1:1/0")
    with own_redis.client() as client:
        client.config_set("requirepass", "right")
        try:
            with pytest.raises(SettingError, match="refused the login") as caught:
                connect(own_redis.url.replace("redis://", "redis://:wrong@"))
            assert "wrong@" not in str(caught.value), "a password is never printed"
        finally:
            with contextlib.suppress(Exception):
                client.config_set("requirepass", "")
