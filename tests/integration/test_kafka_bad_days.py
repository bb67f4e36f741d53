"""What can happen to a topic while a model learns from it, on a real broker: restarts, loss, births, another topic."""

import gc
import time

import pytest
from kafka import TopicPartition
from kafka.admin import OffsetSpec
from test_record_batches import flip_a_byte, producer
from workbench import (
    FIELDS,
    ctr,
    learned_counts,
    logged,
    market_lines,
    metric,
    read_topic,
    send,
    stored,
    touched,
    trainer,
    wait_for,
)

from ctr.errors import PositionLostError
from ctr.store import ShardKeys, connect
from workers.lifecycle import ExitCode
from workers.sinks import KafkaSink
from workers.sources import kafka as kafka_source
from workers.sources.kafka import KafkaSource


@pytest.fixture
def opened():
    """Makes sources that are closed at the end."""
    made = []

    def make(kafka, topic, offsets, furthest=None, **options):
        source = KafkaSource(kafka.bootstrap, topic, group="bad-days", start="earliest", **options)
        made.append(source)
        source.open(offsets, furthest)
        return source

    yield make
    for source in made:
        source.close()


def numbered(kafka, topic, first, last, size=10):
    """Records `first` to `last - 1`, `size` a batch."""
    with producer(kafka) as p:
        for begin in range(first, last, size):
            for i in range(begin, min(begin + size, last)):
                p.send(topic, b"record %d." % i)
            p.flush()


def taken(source, count, within_s=20.0):
    """(partition, offset) of the next records, at least `count` of them."""
    found, until = [], time.monotonic() + within_s
    while len(found) < count:
        assert time.monotonic() < until, f"{len(found)} of {count}"
        if (messages := source.poll(0.1)) is not None:
            found += [
                (source.partitions[p], o)
                for p, o in zip(messages.partitions.tolist(), messages.offsets.tolist(), strict=True)
            ]
    return found


def test_a_broker_that_restarts_or_is_killed_and_a_partition_that_is_born(breakable_kafka, redis_url, spec, tmp_path):
    cluster, name = breakable_kafka.cluster, "restarts"
    cluster.create_topic(name)
    worker = trainer(tmp_path, spec, "--kafka", cluster.bootstrap, "--topic", name, "--redis", redis_url, "--create")
    with connect(redis_url) as client:

        def learned():
            return sum(map(int, stored(client, "ads@1")[1].values()))

        try:
            worker.start()
            for seed, end in enumerate((breakable_kafka.stop, breakable_kafka.kill)):
                send(cluster, name, market_lines(40_000, seed=seed))
                wait_for(lambda seed=seed: learned() > 40_000 * seed, every_s=0.001)
                end()
                wait_for(lambda: metric(worker, "ctr_source_up") == 0.0)
                old = metric(worker, "ctr_arrival_watermark_seconds")
                time.sleep(1.5)
                assert metric(worker, "ctr_arrival_watermark_seconds") == old, "unknown is not up to date"
                breakable_kafka.start()
                wait_for(lambda: metric(worker, "ctr_source_up") == 1.0)
                send(cluster, name, market_lines(300, seed=10 + seed))
            with cluster.admin() as admin:
                admin.create_partitions({name: 3})
            for partition in (1, 2):
                send(cluster, name, market_lines(300, seed=partition), partition)
            with cluster.admin() as admin:
                ends = sum(end_of(admin, name, partition) for partition in range(3))
            wait_for(lambda: learned() == ends)
            worker.stop()
            rows, offsets = stored(client, "ads@1")
        finally:
            worker.kill()
    lines = [record.value for record in read_topic(cluster.bootstrap, name, ends)]
    assert len(lines) == ends
    assert offsets[f"offset:{name}:2".encode()] == b"300"
    assert learned_counts(rows, len(FIELDS)) == touched(lines, FIELDS)
    assert not [line for line in logged(worker) if line["event"] in ("fenced", "server_went_back")]


def end_of(admin, topic, partition):
    """Next offset of a partition."""
    tp = TopicPartition(topic, partition)
    return admin.list_partition_offsets({tp: OffsetSpec.LATEST})[tp].offset


# kafka-python leaves the sockets of connections that were refused to the collector
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_log_that_was_cut_is_told_also_when_it_has_grown_again(breakable_kafka, opened):
    cluster, name = breakable_kafka.cluster, "cut"
    cluster.create_topic(name)
    numbered(cluster, name, 0, 50)
    source = opened(cluster, name, {})
    taken(source, 50)
    at = f"{name}:0"
    furthest = {at: (50, source.marks()[at])}
    assert opened(cluster, name, {at: 40}, furthest).positions() == {at: 40}
    breakable_kafka.kill()  # an unclean end: the broker looks through its log and cuts it at the first damage
    flip_a_byte(breakable_kafka.directory, name, b"record 25.")
    breakable_kafka.start()
    with pytest.raises(PositionLostError, match="below offset 50 is learned, the log ends at 20"):
        opened(cluster, name, {at: 50}, furthest)
    with pytest.raises(PositionLostError, match="the log ends at 20"):
        opened(cluster, name, {at: 10}, furthest)  # one shard was behind, another had it all
    numbered(cluster, name, 20, 80)
    with pytest.raises(PositionLostError, match="was cut, and may have grown again"):
        opened(cluster, name, {at: 50}, furthest)
    again = opened(cluster, name, {at: 20}, {at: (20, source.marks()[at])})
    assert taken(again, 60)[0] == (at, 20), "what was learned before the cut is there: nothing is wrong"
    with pytest.raises(PositionLostError):  # who was reading while it happened
        taken(source, 1)
    gc.collect()


def test_a_topic_made_anew_is_told_however_long_it_is(kafka, topic, opened, monkeypatch):
    monkeypatch.setattr(kafka_source, "_METADATA_S", 0.5)
    name = topic()
    at = f"{name}:0"
    numbered(kafka, name, 0, 30)
    running = opened(kafka, name, {})
    taken(running, 30)
    furthest = {at: (30, running.marks()[at])}
    with kafka.admin() as admin:
        admin.delete_topics([name])
    wait_for(lambda: kafka.create_topic(name, 1))
    numbered(kafka, name, 0, 60)
    with pytest.raises(PositionLostError, match=f"{name} was deleted and made anew"):
        opened(kafka, name, {at: 30}, furthest)
    with pytest.raises(PositionLostError, match=f"{name} was deleted and made anew"):
        taken(running, 1)


def test_a_partition_that_is_born_is_read_from_its_start(kafka, topic, opened, monkeypatch):
    monkeypatch.setattr(kafka_source, "_METADATA_S", 0.5)
    name = topic()
    numbered(kafka, name, 0, 20)
    source = opened(kafka, name, {})
    taken(source, 20)
    with kafka.admin() as admin:
        admin.create_partitions({name: 2})
    sink = KafkaSink(kafka.bootstrap, name)
    for partition in (0, 1):
        sink.send([b"later"] * 10, partition=partition)
    sink.flush()
    sink.close()
    found = taken(source, 20)
    assert sorted(found) == [(f"{name}:0", 20 + i) for i in range(10)] + [(f"{name}:1", i) for i in range(10)]
    assert source.positions() == {f"{name}:0": 30, f"{name}:1": 10}
    assert source.marks().keys() == source.positions().keys()


@pytest.mark.parametrize("accept", [True, False])
def test_retention_that_passes_a_reader(kafka, topic, opened, accept):
    name = topic()
    at = f"{name}:0"
    numbered(kafka, name, 0, 20)
    source = opened(kafka, name, {}, accept_gap=accept)
    taken(source, 20)
    source._consumer.pause(TopicPartition(name, 0))
    source.poll(0.1)
    numbered(kafka, name, 20, 100)
    with kafka.admin() as admin:
        admin.delete_records({TopicPartition(name, 0): 70})
    source._consumer.resume(TopicPartition(name, 0))
    if accept:
        assert taken(source, 30)[0] == (at, 70)
        assert source.skipped == {at: ((20, 70),)}
    else:
        with pytest.raises(PositionLostError, match=r"retention removed 50 events.*--accept-gap"):
            taken(source, 1)


def test_a_gap_is_accepted_on_purpose_alone_and_counted(kafka, redis_url, topic, spec, tmp_path):
    name, lines = topic(), market_lines(1000)
    at = f"{name}:0"
    arguments = (spec, "--kafka", kafka.bootstrap, "--topic", name, "--redis", redis_url, "--create")

    def meta(client, shard, field):
        return client.hget(ShardKeys("ads@1", shard).meta, f"{field}:{at}")

    with connect(redis_url) as client:
        worker = trainer(tmp_path / "1", *arguments)
        worker.start()
        send(kafka, name, lines[:500])
        wait_for(lambda: stored(client, "ads@1")[1].get(f"offset:{at}".encode()) == b"500")
        assert len({meta(client, shard, "mark") for shard in range(16)}) == 1
        assert len(meta(client, 0, "mark").partition(b"/")[0]) == 32
        worker.stop()
        send(kafka, name, lines[500:])
        with kafka.admin() as admin:
            admin.delete_records({TopicPartition(name, 0): 900})
        done = ctr("train", *arguments)
        assert done.returncode == ExitCode.POSITION
        assert "removed 400 events that were never learned; --accept-gap" in done.stderr.splitlines()[-1]
        assert meta(client, 0, "gap") is None
        for accept in (["--accept-gap"], []):  # once over, it is over
            worker = trainer(tmp_path / f"2{len(accept)}", *arguments, *accept)
            worker.start()
            wait_for(lambda: stored(client, "ads@1")[1].get(f"offset:{at}".encode()) == b"1000")
            assert metric(worker, "ctr_source_gap_events_total", partition=at) == 400
            worker.stop()
            assert [line["lost"] for line in logged(worker) if line["event"] == "gap_accepted"] == [400] * len(accept)
        assert {meta(client, shard, "gap") for shard in range(16)} == {b"400"}
        counts = learned_counts(stored(client, "ads@1")[0], len(FIELDS))
    assert counts == touched(lines[:500] + lines[900:], FIELDS)


@pytest.mark.slow  # in every build by a source that plays it: tests/unit/workers/test_pipeline.py
def test_a_broker_that_stays_away_ends_the_trainer_when_the_limit_is_reached(
    breakable_kafka, redis_url, spec, tmp_path
):
    cluster, name = breakable_kafka.cluster, "stays-away"
    cluster.create_topic(name)
    send(cluster, name, market_lines(100))
    worker = trainer(
        tmp_path, spec, "--kafka", cluster.bootstrap, "--topic", name, "--redis", redis_url, "--create",
        "--outage-limit", 3,
    )  # fmt: skip
    worker.start()
    with connect(redis_url) as client:
        wait_for(lambda: stored(client, "ads@1")[1].get(f"offset:{name}:0".encode()) == b"100")
    breakable_kafka.kill()
    wait_for(lambda: not worker.alive(), within_s=30)
    assert worker._child.returncode == ExitCode.UNAVAILABLE
    assert "has not answered for" in worker.log.read_text()
