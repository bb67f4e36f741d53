"""What every source of events promises, tried on each: files and a real Kafka."""

import time

import pytest

from workers.sinks import KafkaSink
from workers.sources.files import FileSource
from workers.sources.kafka import KafkaSource

LINES = [b"event %d" % i for i in range(1000)]


class Files:
    """A file that grows."""

    def __init__(self, path):
        self.path = path
        self.path.touch()

    def append(self, lines):
        with self.path.open("ab") as file:
            file.write(b"".join(line + b"\n" for line in lines))

    def source(self):
        return FileSource(self.path, follow=True, max_line_bytes=1 << 20)


class Topic:
    """A topic of one partition."""

    def __init__(self, bootstrap, name):
        self.bootstrap, self.name = bootstrap, name

    def append(self, lines):
        sink = KafkaSink(self.bootstrap, self.name)
        sink.send(lines)
        sink.flush()
        sink.close()

    def source(self):
        return KafkaSource(self.bootstrap, self.name, group="contract", start="earliest")


@pytest.fixture(params=["files", "kafka"])
def log(request, tmp_path):
    if request.param == "files":
        return Files(tmp_path / "events.jsonl")
    return Topic(request.getfixturevalue("kafka").bootstrap, request.getfixturevalue("topic")())


@pytest.fixture
def opened(log):
    """Makes sources that are closed at the end."""
    made = []

    def make(offsets):
        source = log.source()
        made.append(source)
        source.open(offsets)
        return source

    yield make
    for source in made:
        source.close()


def take(source, count, within_s=30.0):
    """The next `count` messages as (payload, offset), and the positions after each poll."""
    found, positions, until = [], [], time.monotonic() + within_s
    while len(found) < count and time.monotonic() < until:
        messages = source.poll(0.1)
        if messages is None:
            continue
        found += [
            (bytes(messages.data[b:e]), o)
            for b, e, o in zip(messages.begin, messages.end, messages.offsets.tolist(), strict=True)
        ]
        assert set(messages.partitions.tolist()) == {0}
        positions.append(dict(source.positions()))
    return found, positions


def test_every_message_comes_once_and_in_order(log, opened):
    log.append(LINES)
    found, _ = take(opened({}), len(LINES))
    assert [payload for payload, _ in found] == LINES
    offsets = [offset for _, offset in found]
    assert offsets == sorted(set(offsets))


def test_a_position_is_where_the_next_source_goes_on(log, opened):
    log.append(LINES[:300])
    first, positions = take(opened({}), 300)
    assert len(first) == 300
    log.append(LINES[300:])
    rest, _ = take(opened(positions[-1]), 700)
    assert [payload for payload, _ in first + rest] == LINES


def test_nothing_is_none_within_the_timeout(log, opened):
    source = opened({})
    began = time.monotonic()
    assert source.poll(0.2) is None
    assert time.monotonic() - began < 5
    assert not source.finished


def test_the_watermark_is_now_at_the_end_and_not_before(log, opened):
    log.append(LINES)
    source = opened({})
    before = time.time()
    take(source, len(LINES))
    until = time.monotonic() + 20
    while source.arrival_watermark_s() < before and time.monotonic() < until:
        assert source.poll(0.1) is None
    assert before <= source.arrival_watermark_s() <= time.time()
    assert source.up


def test_the_lag_is_what_is_left(log, opened):
    log.append(LINES)
    source = opened({})
    assert sum(source.lag().values()) > 0
    take(source, len(LINES))
    assert sum(source.lag().values()) == 0


def test_names_of_partitions_stay_the_same(log, opened):
    log.append(LINES[:1])
    first, second = opened({}), opened({})
    take(first, 1)
    take(second, 1)
    assert list(first.partitions) == list(second.partitions) == list(first.positions())


def test_telling_lag_tools_never_waits_and_never_fails(log, opened):
    log.append(LINES[:10])
    source = opened({})
    take(source, 10)
    began = time.monotonic()
    source.committed(source.positions())
    assert time.monotonic() - began < 1


def test_a_silent_partition_beside_a_busy_one_is_up_to_date(kafka, topic):
    name = topic(partitions=2)
    sink = KafkaSink(kafka.bootstrap, name)
    source = KafkaSource(kafka.bootstrap, name, group="contract", start="earliest")
    source.open({})
    before, until = time.time(), time.monotonic() + 20
    while source.arrival_watermark_s() < before and time.monotonic() < until:
        sink.send([b"busy"] * 3, partition=0)
        sink.flush()
        source.poll(0.5)
    source.close()
    sink.close()
    assert source.arrival_watermark_s() >= before


def test_positions_of_other_sources_do_not_decide_where_a_topic_begins(kafka, topic):
    name = topic()
    sink = KafkaSink(kafka.bootstrap, name)
    sink.send([b"old"] * 5)
    sink.flush()
    sink.close()
    source = KafkaSource(kafka.bootstrap, name, group="contract", start="latest")
    source.open({"/data/backfill.jsonl": 900})
    assert source.positions() == {f"{name}:0": 5}
    source.close()
