"""Raw record batches give what kafka-python's own records give, on a real broker, whatever lies in the log."""

import json
import re
import time

import numpy as np
import pytest
import structlog
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from workbench import metric, read_topic, stored, trainer, wait_for

from ctr.kernels import build
from ctr.store import connect
from workers.sources import batches
from workers.sources.kafka import KafkaSource

EVENTS = 1500


def producer(kafka, **options):
    return KafkaProducer(**{"bootstrap_servers": kafka.bootstrap, "linger_ms": 5, **options})


def by_record(kafka, topic, isolation_level="read_committed", start=0):
    """What a plain consumer, with none of our code, gets: (offset, time, value), and where it ends."""
    tp = TopicPartition(topic, 0)
    consumer = KafkaConsumer(
        bootstrap_servers=kafka.bootstrap, auto_offset_reset="none", isolation_level=isolation_level, group_id=None
    )
    consumer.assign([tp])
    consumer.seek(tp, start)
    end, found = consumer.end_offsets([tp])[tp], []
    until = time.monotonic() + 30
    while consumer.position(tp) < end and time.monotonic() < until:
        for records in consumer.poll(timeout_ms=500).values():
            found += [(r.offset, r.timestamp, r.value) for r in records]
    position = consumer.position(tp)
    consumer.close()
    return found, position


def by_batch(kafka, topic, start=0, **config):
    """What our source gets."""
    source = KafkaSource(kafka.bootstrap, topic, group="parity", start="earliest")
    source._consumer.config.update(config)
    source._consumer._fetcher.config.update({k: v for k, v in config.items() if k in source._consumer._fetcher.config})
    source.open({f"{topic}:0": start})
    found, refused, until = [], [], time.monotonic() + 30
    while sum(source.lag().values()) and time.monotonic() < until:
        messages = source.poll(0.2)
        if messages is None:
            continue
        refused += messages.refused
        found += [
            (o, round(t * 1000), None if e < 0 else bytes(messages.data[b:e]))
            for b, e, o, t in zip(
                messages.begin.tolist(),
                messages.end.tolist(),
                messages.offsets.tolist(),
                messages.arrivals_s,
                strict=True,
            )
        ]
    position = source.positions()[f"{topic}:0"]
    source.close()
    return found, position, refused


def assert_parity(kafka, topic, starts=(0,), **config):
    for start in starts:
        expected, end = by_record(kafka, topic, start=start)
        found, position, refused = by_batch(kafka, topic, start, **config)
        assert found == expected
        assert (position, refused) == (end, [])
    return expected


@pytest.mark.parametrize("codec", [None, "gzip", "lz4", "zstd"])
def test_every_codec_and_any_start_inside_a_batch(kafka, topic, codec):
    name = topic()
    with producer(kafka, compression_type=codec) as p:
        for i in range(EVENTS):
            p.send(name, b"value %d " % i * (i % 7), timestamp_ms=1_700_000_000_000 + i)
    expected = assert_parity(kafka, name, starts=(EVENTS - 3, 777, 1, 0))
    assert len(expected) == EVENTS


def test_keys_headers_tombstones_and_empty_values(kafka, topic):
    name = topic()
    with producer(kafka) as p:
        for i in range(300):
            p.send(
                name,
                value=[b"v%d" % i, b"", None][i % 3],
                key=[b"k", None, b"x" * 200][i % 3] or b"k",
                headers=[("h", b"x" * i)] * (i % 4),
                timestamp_ms=1_700_000_000_000 - 997 * (i % 5),
            )
    expected = assert_parity(kafka, name)
    assert {type(value) for _, _, value in expected} == {bytes, type(None)}


def test_broker_times_and_broker_compression(kafka, topic):
    for configs in ({"message.timestamp.type": "LogAppendTime"}, {"compression.type": "zstd"}):
        name = topic(configs=configs)
        with producer(kafka) as p:
            for i in range(400):
                p.send(name, b"%d" % i, timestamp_ms=1_600_000_000_000)
        expected = assert_parity(kafka, name)
        assert (expected[0][1] > 1_700_000_000_000) == ("message.timestamp.type" in configs)


def test_many_small_batches_and_small_fetches(kafka, topic):
    name = topic()
    with producer(kafka) as p:
        for i in range(200):
            p.send(name, b"%d" % i * 50)
            p.flush()
    assert_parity(kafka, name, max_partition_fetch_bytes=1000)


def test_aborted_transactions_are_left_out_and_markers_passed(kafka, topic):
    name = topic()
    with producer(kafka, transactional_id=name) as p:
        p.init_transactions()
        for round_ in range(6):
            p.begin_transaction()
            for i in range(50):
                p.send(name, b"%d/%d" % (round_, i))
            p.flush()
            (p.abort_transaction if round_ % 2 else p.commit_transaction)()
    expected = assert_parity(kafka, name)
    assert {value.split(b"/")[0] for _, _, value in expected} == {b"0", b"2", b"4"}
    assert len(expected) == 150


COMPACTED = {
    "cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01",
    "max.compaction.lag.ms": "200", "delete.retention.ms": "1",
}  # fmt: skip


def wait_for_the_cleaner(kafka, topic, at_most):
    """Until compaction has left that many records."""
    wait_for(lambda: len(by_record(kafka, topic)[0]) <= at_most, within_s=90, every_s=0.5)


@pytest.mark.parametrize("codec", [None, "lz4"])
def test_offsets_that_compaction_removed_are_passed(kafka, topic, codec):
    name = topic(configs=COMPACTED)
    with producer(kafka, compression_type=codec, batch_size=2000) as p:
        for i in range(1000):
            # many keys are written once: what survives lies between gaps, in the middle of batches, too
            key = b"%d" % (i if i % 17 == 0 else i % 40)
            p.send(name, None if i % 11 == 0 else b"v%d" % i, key=key, timestamp_ms=1_700_000_000_000 + i)
            if i % 100 == 0:
                p.flush()
                time.sleep(0.15)
        wait_for_the_cleaner(kafka, name, 250)
    left = [offset for offset, _, _ in by_record(kafka, name)[0]]
    gone = sorted(set(range(left[0], left[-1])) - set(left))
    assert len(gone) > 500
    assert_parity(kafka, name, starts=(0, gone[0], gone[len(gone) // 2], gone[-1], left[5], left[5] + 1))
    assert_parity(kafka, name, max_partition_fetch_bytes=500)


def test_batches_that_compaction_emptied_are_passed(kafka, topic):
    """Of each producer the cleaner keeps the last batch for its sequence numbers, even with no record left in it."""
    name = topic(configs=COMPACTED)
    for turn in range(4):
        with producer(kafka, linger_ms=50) as p:
            for key in range(20):
                p.send(name, b"v%d" % turn, key=b"k%d" % key)
        time.sleep(0.15)
        with producer(kafka, transactional_id=f"{name}-{turn}") as p:
            p.init_transactions()
            p.begin_transaction()
            for key in range(20):
                p.send(name, b"x", key=b"k%d" % key)
            p.flush()
            (p.abort_transaction if turn % 2 else p.commit_transaction)()
        time.sleep(0.15)
    with producer(kafka) as p:
        p.send(name, b"end", key=b"end")  # into a segment of its own: the active one is never cleaned
        p.flush()
        wait_for_the_cleaner(kafka, name, 21)
    assert_parity(kafka, name, starts=(0, 25))
    counts = []
    source = KafkaSource(kafka.bootstrap, name, group="counts", start="earliest")
    fetcher = source._consumer._fetcher

    class Spy(fetcher.PartitionRecords):
        def _unpack_records(self, tp, records, *rest):
            class Seen:
                def next_batch(self):
                    batch = records.next_batch()
                    if batch is not None:
                        counts.append(batch.records_count)
                    return batch

            return super()._unpack_records(tp, Seen(), *rest)

    fetcher.PartitionRecords = Spy
    source.open({})
    wait_for(lambda: source.poll(0.2) is None and counts)
    source.close()
    assert 0 in counts


def test_large_messages_come_whole(kafka, topic):
    name = topic(configs={"max.message.bytes": str(4 << 20)})
    with producer(kafka, max_request_size=4 << 20) as p:
        for size in (3 << 20, 10, 2 << 20):
            p.send(name, b"x" * size)
            p.flush()
    assert_parity(kafka, name)


def flip_a_byte(directory, topic, text):
    """Damage the batch that holds `text` in the broker's segment."""
    [segment] = (directory / "data" / f"{topic}-0").glob("*.log")
    data = bytearray(segment.read_bytes())
    at = data.index(text)
    data[at] ^= 1
    segment.write_bytes(data)


@pytest.mark.parametrize("raw", [True, False])
def test_a_corrupt_batch_is_refused_by_position_and_passed(breakable_kafka, monkeypatch, raw):
    cluster, name = breakable_kafka.cluster, f"corrupt-{raw}".lower()
    cluster.create_topic(name)
    with producer(cluster) as p:
        for batch in range(5):
            for i in range(10):
                p.send(name, b"batch %d record %d" % (batch, i))
            p.flush()
    breakable_kafka.stop()
    flip_a_byte(breakable_kafka.directory, name, b"batch 2 record 5")
    breakable_kafka.start()
    if not raw:
        monkeypatch.setattr(batches, "CHECKED", "no version")
    found, position, [refusal] = by_batch(cluster, name)
    assert [offset for offset, _, _ in found] == [*range(20), *range(30, 50)]
    assert position == 50
    assert (refusal.reason, refusal.offset) == ("corrupt", 20)
    assert re.search(r"record batch 20 to 29 .*checksum|record batch 20 to 29 .*crc", refusal.message)


def test_a_trainer_goes_on_behind_a_corrupt_batch(breakable_kafka, redis_url, tmp_path):
    cluster, name = breakable_kafka.cluster, "corrupt-train"
    cluster.create_topic(name)
    with producer(cluster) as p:
        for batch in range(3):
            for i in range(10):
                p.send(name, json.dumps({"user": f"u{batch}-{i}", "label": 1}).encode())
            p.flush()
    breakable_kafka.stop()
    flip_a_byte(breakable_kafka.directory, name, b"u1-5")
    breakable_kafka.start()
    (tmp_path / "m.toml").write_text('name = "m"\nfields = [{ name = "user" }]\n')
    worker = trainer(
        tmp_path, tmp_path / "m.toml", "--kafka", cluster.bootstrap, "--topic", name, "--redis", redis_url, "--create"
    )
    worker.start()
    wait_for(lambda: metric(worker, "ctr_events_total", result="learned") == 20)
    assert metric(worker, "ctr_dead_letters_total", reason="corrupt") == 1
    worker.stop()
    with connect(redis_url) as client:
        assert stored(client, "m@1")[1] == {f"offset:{name}:0".encode(): b"30"}
    [letter] = read_topic(cluster.bootstrap, f"{name}.dlq", 1)
    assert letter.key == f"{name}:0:10".encode()
    assert dict(letter.headers)["__ctr.errors.reason"] == b"corrupt"


def test_an_unknown_kafka_python_reads_record_by_record_and_says_so(kafka, topic, monkeypatch):
    name = topic()
    with producer(kafka) as p:
        for i in range(50):
            p.send(name, [b"%d" % i, None][i % 2], key=b"k")
    monkeypatch.setattr(batches, "CHECKED", "no version")
    with structlog.testing.capture_logs() as logs:  # whatever another test has set up
        assert_parity(kafka, name, starts=(0, 7))
    assert "slow_records" in [line["event"] for line in logs]


def test_mutated_bytes_never_lead_outside_the_batch(kafka, topic):
    name = topic()
    with producer(kafka) as p:
        for i in range(60):
            p.send(name, b"value %d" % i, key=b"key", headers=[("h", b"1")])
    raw = []
    source = KafkaSource(kafka.bootstrap, name, group="mutate", start="earliest")
    source.open({})
    until = time.monotonic() + 20
    while not raw and time.monotonic() < until:
        for held in source._consumer.poll(timeout_ms=500).values():
            raw += held
    source.close()
    walk, rng = build.load("scan/records").walk, np.random.default_rng(1)
    good = np.frombuffer(raw[0].data, np.uint8)
    room, refused = 64, 0
    for _ in range(5000):
        # the batch between guard bytes: a walk that left it would read them, a value that left it would hold them
        data = np.full(len(good) + 2 * room, 255, np.uint8)
        data[room:-room] = good
        data[room + rng.integers(len(good), size=rng.integers(1, 4))] = rng.integers(256)
        out = [np.full(raw[0].count, -7, np.int64) for _ in range(5)]
        one = lambda value: np.array([value], np.int64)  # noqa: E731
        n, bad = walk(data, one(room), one(room + len(good)), one(raw[0].count), one(0), one(0), one(0), one(-1), *out)
        refused += bad >= 0
        begin, end = out[0][:n], out[1][:n]
        assert ((begin >= room) & (end <= room + len(good)) & ((end == -1) | (end >= begin))).all()
    assert refused > 500, "most damage to lengths is noticed"
