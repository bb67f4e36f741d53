"""Pacing by a fake clock, whole lines to files and pipes, and the tally against plain formulas."""

import json
import math
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from ctr.errors import SettingError
from workers.market import SIMULATED_PACE, Market
from workers.simulate import BLOCK, FLUSH_EVENTS, TICK_S, FileSink, SimulateSettings, Tally, simulate
from workers.simulate import run as run_command


class FakeClock:
    """Moves only when slept on, a little longer than asked as real ones do."""

    def __init__(self, overshoot_s=0.0003):
        self.now, self.overshoot_s, self.longest_s = 100.0, overshoot_s, 0.0

    def time(self):
        return self.now + 1_800_000_000.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        assert seconds > 0
        self.longest_s = max(self.longest_s, seconds)
        self.now += seconds + self.overshoot_s


class MemorySink:
    """Keeps lines and keys, and when each arrived; a call takes `cost_s`, `stall` = (event, seconds) blocks once."""

    def __init__(self, clock, stall=None, cost_s=0.0):
        self.clock, self.stall, self.cost_s = clock, stall, cost_s
        self.lines, self.keys, self.arrivals_s = [], [], []
        self.flushed, self.flushes_s, self.most_unflushed = 0, [], 0

    def send(self, lines, keys):
        assert len(lines) == len(keys)
        self.lines += lines
        self.keys += keys
        self.arrivals_s += [self.clock.now] * len(lines)
        self.clock.now += self.cost_s
        self.most_unflushed = max(self.most_unflushed, len(self.lines) - self.flushed)
        if self.stall and len(self.lines) > self.stall[0]:
            self.clock.now += self.stall[1]
            self.stall = None

    def flush(self):
        self.flushed = len(self.lines)
        self.flushes_s.append(self.clock.now)


def run(market, sink, clock, **settings):
    return simulate(market, sink, stopping=settings.pop("stopping", lambda: False), clock=clock, **settings)


@pytest.mark.parametrize("rate", [3.0, 700.0, 33_333.0])
def test_rate_has_no_drift(rate):
    clock = FakeClock()
    sink = MemorySink(clock)
    n = int(rate * 20)
    run(Market(1), sink, clock, rate=rate, events=n)
    late_s = np.array(sink.arrivals_s) - 100.0 - np.arange(n) / rate
    assert len(sink.lines) == n
    assert late_s.min() >= -1e-9  # never before it is due
    assert late_s.max() < 2 * TICK_S + 0.001  # gathered for a tick and slept one, after twenty seconds as after one
    assert clock.longest_s <= 0.05  # a stop is seen in time


def test_a_stall_is_caught_up():
    clock = FakeClock()
    sink = MemorySink(clock, stall=(1000, 3.0))
    run(Market(1), sink, clock, rate=1000.0, events=10_000)
    late_s = np.array(sink.arrivals_s) - 100.0 - np.arange(10_000) / 1000.0
    assert late_s.max() > 2.9
    assert late_s[-5000:].max() < 2 * TICK_S + 0.001


def test_flat_out_sends_exactly_so_many_in_order():
    clock = FakeClock()
    sink = MemorySink(clock)
    n = 2 * BLOCK + 17
    tally = run(Market(2), sink, clock, events=n, truth=True)
    assert tally.events == n
    assert [json.loads(line)["id"] for line in sink.lines] == [f"2-{i}" for i in range(n)]
    assert [json.loads(line)["user"].encode() for line in sink.lines] == sink.keys
    assert clock.now == 100.0  # no sleep
    assert "p" in json.loads(sink.lines[0])


def test_a_rate_is_met_in_blocks_not_in_crumbs():
    clock = FakeClock()
    sink = MemorySink(clock, cost_s=0.0002)
    run(Market(1), sink, clock, rate=20_000.0, events=20_000)
    assert len(set(sink.arrivals_s)) <= 1 / TICK_S + 1


def test_nothing_is_sent_once_stopped():
    clock = FakeClock()
    sink = MemorySink(clock)
    tally = run(Market(1), sink, clock, stopping=lambda: len(sink.lines) >= 2 * BLOCK)
    assert tally.events == len(sink.lines) == 2 * BLOCK
    assert run(Market(1), sink, clock, stopping=lambda: True).events == 0


def test_wall_clock_and_given_times():
    clock = FakeClock()
    sink = MemorySink(clock)
    run(Market(1), sink, clock, rate=10.0, events=30)
    ts = [json.loads(line)["ts"] for line in sink.lines]
    assert ts == pytest.approx(np.array(sink.arrivals_s) + 1_800_000_000.0, abs=0.0006)

    def stamped(**settings):
        sink = MemorySink(clock)
        run(Market(1), sink, clock, events=50, start_time_s=1e9, **settings)
        return [json.loads(line)["ts"] for line in sink.lines]

    assert stamped() == pytest.approx(1e9 + np.arange(50) / SIMULATED_PACE, abs=0.0006)
    assert stamped(rate=40.0) == pytest.approx(1e9 + np.arange(50) / 40.0, abs=0.0006)
    assert stamped(rate=40.0, pace=2.0) == pytest.approx(1e9 + np.arange(50) / 2.0, abs=0.0006)


def test_tally_against_plain_formulas():
    market, tally = Market(1), Tally()
    assert tally.summary() == "no events"
    assert math.isnan(tally.base_logloss)
    blocks = [market.events(500) for _ in range(4)]
    for block in blocks:
        tally.add(block)
    p = [float(x) for block in blocks for x in block.p]
    y = [int(x) for block in blocks for x in block.click]
    rate = sum(y) / 2000
    assert (tally.events, tally.clicks) == (2000, sum(y))
    assert tally.base_rate == pytest.approx(rate)
    assert tally.base_logloss == pytest.approx(sum(-math.log(rate if c else 1 - rate) for c in y) / 2000)
    oracle = sum(-math.log(q if c else 1 - q) for q, c in zip(p, y, strict=True)) / 2000
    assert tally.oracle_logloss == pytest.approx(oracle)
    assert tally.oracle_entropy == pytest.approx(sum(-q * math.log(q) - (1 - q) * math.log(1 - q) for q in p) / 2000)
    assert f"{rate:.4f}" in tally.summary()
    assert f"oracle {oracle:.4f}" in tally.summary()


def test_file_holds_whole_lines(tmp_path):
    path = tmp_path / "events.jsonl"
    with FileSink(str(path)) as sink:
        sink.send([b"a", b"bc"], [b"", b""])
        assert path.read_bytes() == b"a\nbc\n"  # a follower sees it at once
        sink.send([], [])
        sink.send([b"d"], [b""])
        assert path.read_bytes() == b"a\nbc\nd\n"


def test_standard_output(capfdbinary):
    with FileSink("-") as sink:
        simulate(Market(1), sink, stopping=lambda: False, events=10)
    out = capfdbinary.readouterr().out
    assert out.endswith(b"\n")
    assert [json.loads(line)["id"] for line in out.splitlines()] == [f"1-{i}" for i in range(10)]
    os.write(1, b"still open")


def test_a_reader_that_leaves_ends_it(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with FileSink(str(path)) as sink:
        sink.send([b"seen"], [b""])
        os.close(reader)
        assert simulate(Market(1), sink, stopping=lambda: False).events == 0


def test_a_path_that_cannot_be_written(tmp_path):
    with pytest.raises(SettingError, match="--out"):
        FileSink(str(tmp_path / "missing" / "events.jsonl"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_full_disk_is_said():
    with FileSink("/dev/full") as sink, pytest.raises(SettingError, match="No space left"):
        simulate(Market(1), sink, stopping=lambda: False, events=10)


def test_times_module_is_a_clock():
    sink = MemorySink(FakeClock())
    before = time.time()
    simulate(Market(1), sink, stopping=lambda: False, rate=200.0, events=3)
    assert before - 0.001 <= json.loads(sink.lines[0])["ts"] <= time.time() + 0.001


def test_what_was_sent_arrives_in_time():
    clock = FakeClock()
    sink = MemorySink(clock)
    run(Market(1), sink, clock, events=60_000)
    assert sink.most_unflushed < FLUSH_EVENTS + BLOCK
    assert sink.flushed == 60_000
    slow = MemorySink(clock)
    began_s = clock.now
    run(Market(1), slow, clock, rate=20.0, events=200)
    assert max(np.diff([began_s, *slow.flushes_s])) < 1.1  # a failure is noticed within a second, not 20,000 events
    assert slow.flushed == 200


@pytest.fixture
def _signals():
    """The command takes the signals over; pytest wants them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_signals")
def test_command_writes_a_file_and_says_what_is_to_be_learned(tmp_path, capsys):
    path = tmp_path / "events.jsonl"
    assert run_command(SimulateSettings(out=str(path), events=5000, seed=4, users=50, start_time_s=1e9)) == 0
    lines = path.read_bytes().splitlines()
    market = Market(4, users=50)
    expected = market.events(5000, 1e9 + np.arange(5000) / SIMULATED_PACE)
    assert lines == market.lines(expected)
    tally = Tally()
    tally.add(expected)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == tally.summary() + "\n"


@pytest.mark.parametrize(
    ("settings", "key"),
    [({}, "--out"), ({"kafka": "localhost:1"}, "--topic"), ({"out": "-", "kafka": "localhost:1"}, "--out")],
)
@pytest.mark.usefixtures("_signals")
def test_one_place_to_write_to(settings, key):
    with pytest.raises(SettingError, match=key):
        run_command(SimulateSettings(**settings))
