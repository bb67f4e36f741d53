"""The pipeline between a source and the learner: order, bounds, positions, failures, whatever the threads do."""

import random
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr.errors import PositionLostError, SourceUnavailableError
from ctr.events.messages import Messages
from workers.pipeline import Clocks, Pipeline


def messages(offset, n, n_bytes=10):
    """`n` messages of one partition from `offset` on; each says its offset."""
    lines = [b"%d" % (offset + i) for i in range(n)]
    lines = [line.ljust(n_bytes) for line in lines]
    end = np.cumsum([len(line) for line in lines])
    begin = np.concatenate(([0], end[:-1])).astype(np.int64)
    return Messages(
        b"".join(lines), begin, end, np.zeros(n, np.int32), np.arange(offset, offset + n), np.ones(n, np.float64)
    )


class Source:
    """Plays a script: so many messages, an exception to raise, None for nothing new, "away" for no answer."""

    def __init__(self, script, n_bytes=10):
        self._script, self._n_bytes, self._at, self._position = list(script), n_bytes, 0, 0
        self.threads, self.told, self.up, self.polls = set(), [], True, 0

    def _called(self):
        self.threads.add(threading.get_ident())

    @property
    def partitions(self):
        return ["log:0"]

    @property
    def finished(self):
        return self._at >= len(self._script)

    def poll(self, timeout_s):
        self._called()
        self.polls += 1
        step = self._script[self._at]
        self._at += 1
        if isinstance(step, Exception):
            self.up = not isinstance(step, SourceUnavailableError)
            raise step
        self.up = step != "away"
        if step in (None, "away"):
            time.sleep(min(0.005, timeout_s))
            return None
        found = messages(self._position, step, self._n_bytes)
        self._position += step
        return found

    def positions(self):
        self._called()
        return {"log:0": self._position}

    def marks(self):
        return {"log:0": f"mark {self._position}"}

    @property
    def skipped(self):
        return {}

    def arrival_watermark_s(self):
        self._called()
        return float(self._position)

    def lag(self):
        self._called()
        return {"log:0": sum(step for step in self._script[self._at :] if isinstance(step, int))}

    def committed(self, offsets):
        self._called()
        self.told.append(dict(offsets))


class Reader:
    """Gives back what the messages say, after a time that chance decides."""

    def __init__(self, slow_s=0.0, fail_at=None):
        self._slow_s, self._fail_at = slow_s, fail_at

    def read(self, given):
        if self._slow_s:
            time.sleep(random.Random(int(given.offsets[0])).uniform(0, self._slow_s))
        if self._fail_at in given.offsets:
            raise ValueError("scanner")
        return [int(given.data[a:b]) for a, b in zip(given.begin, given.end, strict=True)], []


def pipeline(source, reader, threads, **options):
    options = {"outage_limit_s": 60.0, "clocks": Clocks(), **options}
    return Pipeline(source, reader, threads=threads, **options)


def drained(line, within_s=20.0):
    """All chunks until the source is finished."""
    chunks, until = [], time.monotonic() + within_s
    while not chunks or not chunks[-1].standing.finished:
        assert time.monotonic() < until
        if (chunk := line.take(0.05)) is not None:
            chunks.append(chunk)
    return chunks


def take_all(line, taken):
    """Until it fails."""
    while True:
        if (chunk := line.take(1.0)) is not None:
            taken += chunk.batch or []


@pytest.mark.parametrize("threads", [0, 1, 4])
@settings(max_examples=25)
@given(script=st.lists(st.one_of(st.none(), st.integers(1, 30)), min_size=1, max_size=40), seed=st.integers(0, 9))
def test_events_come_in_order_with_the_positions_behind_them(threads, script, seed):
    source = Source(script)
    line = pipeline(source, Reader(slow_s=0.002), threads)
    line.start()
    chance, learned = random.Random(seed), []
    while True:
        chunk = line.take(chance.choice([0.0, 0.001, 0.05]))
        if chunk is None:
            continue
        learned += chunk.batch or []
        # what is behind the chunk is what was taken, however far the source is
        assert chunk.standing.positions == {"log:0": len(learned)}
        assert chunk.standing.marks == {"log:0": f"mark {len(learned)}"}
        assert chunk.standing.arrival_s == len(learned)
        if chunk.standing.finished:
            break
    assert line.stop()
    assert learned == list(range(sum(step or 0 for step in script)))
    assert chunk.standing.lag == {"log:0": 0}


@pytest.mark.parametrize("threads", [0, 2])
def test_reading_ahead_is_bounded_and_goes_on_when_there_is_room(threads):
    source = Source([100] * 50)
    line = pipeline(source, Reader(), threads, ahead_events=250)
    line.start()
    time.sleep(0.3)
    # a chunk is asked for while less than 250 wait: the third one makes 300
    assert source.polls == 3
    assert sum(line.queued_events().values()) == 300
    line.take(1.0)
    time.sleep(0.3)
    assert source.polls == 4
    assert sum(len(chunk.batch) for chunk in drained(line)) == 4900
    assert line.stop()


def test_reading_ahead_is_bounded_by_bytes_and_one_large_chunk_passes():
    clocks = Clocks()
    source = Source([10] * 20, n_bytes=1000)
    line = pipeline(source, Reader(), 1, ahead_bytes=5000, clocks=clocks)
    line.start()
    time.sleep(0.3)
    assert source.polls == 1
    assert line.queued_bytes == 10_000
    assert clocks.waited_s["fetch", "blocked"] > 0.1
    drained(line)
    assert line.queued_bytes == 0
    assert line.stop()


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_a_failure_of_the_source_comes_after_everything_before_it(threads):
    line = pipeline(Source([5, 7, PositionLostError("gone"), 3]), Reader(slow_s=0.02), threads)
    line.start()
    taken = []
    with pytest.raises(PositionLostError, match="gone"):
        take_all(line, taken)
    assert taken == list(range(12))
    assert line.stop()


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_a_failure_of_a_scanner_is_raised_in_its_place(threads):
    line = pipeline(Source([5, 5, 5, 5]), Reader(slow_s=0.02, fail_at=12), threads)
    line.start()
    taken = []
    with pytest.raises(ValueError, match="scanner"):
        take_all(line, taken)
    assert taken == list(range(10))
    line.stop()


def test_an_outage_is_waited_for_and_said():
    source = Source([4, SourceUnavailableError("away"), 4])
    line = pipeline(source, Reader(), 1)
    line.start()
    until = time.monotonic() + 10
    while line.source_up:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert line.source_said == "away"
    assert sum(len(chunk.batch or []) for chunk in drained(line)) == 8
    assert line.source_up
    assert line.stop()


def test_an_outage_beyond_the_limit_ends_it():
    line = pipeline(Source([SourceUnavailableError("away")] * 100), Reader(), 1, outage_limit_s=0.0)
    line.start()
    with pytest.raises(SourceUnavailableError, match="away"):
        take_all(line, [])
    assert line.stop()


def test_a_source_that_says_nothing_and_does_not_answer_is_away():
    line = pipeline(Source([4, *["away"] * 100]), Reader(), 1, outage_limit_s=0.02)
    line.start()
    taken = []
    with pytest.raises(SourceUnavailableError, match="has not answered"):
        take_all(line, taken)
    assert taken == [0, 1, 2, 3]
    assert line.stop()


def test_the_source_belongs_to_one_thread_and_hears_of_commits_even_when_reading_is_blocked():
    source = Source([100] * 50)
    line = pipeline(source, Reader(), 2, ahead_events=100)
    line.start()
    time.sleep(0.2)
    for position in (1, 2, 3):
        line.committed({"log:0": position})
    until = time.monotonic() + 5
    while not source.told or source.told[-1] != {"log:0": 3}:
        assert time.monotonic() < until
        time.sleep(0.005)
    drained(line)
    assert line.stop()
    assert len(source.threads) == 1
    assert threading.get_ident() not in source.threads


@pytest.mark.parametrize("threads", [0, 4])
def test_stop_drops_what_was_not_taken_and_leaves_no_thread(threads):
    before = set(threading.enumerate())
    line = pipeline(Source([10] * 1000), Reader(slow_s=0.01), threads)
    line.start()
    line.take(1.0)
    assert line.stop()
    assert set(threading.enumerate()) <= before
    assert line.queued_events() == {"scan": 0, "learn": 0}
    assert pipeline(Source([1]), Reader(), threads).stop(), "one that never started ends too"


def test_what_has_only_the_time_to_say_does_not_pile_up():
    source = Source([None] * 200 + [1])
    line = pipeline(source, Reader(), 1)
    line.start()
    until = time.monotonic() + 20
    while not source.finished:
        assert time.monotonic() < until
        time.sleep(0.01)
    chunks = drained(line)
    assert [chunk.batch for chunk in chunks] == [None, [0]]
    assert line.stop()
