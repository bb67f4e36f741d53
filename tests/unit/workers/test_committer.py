"""When a cut is made, and that learning goes on while it is sent."""

import os
import sys
import threading
import time

import numpy as np
import pytest

from ctr.errors import FencedError, StoreUnavailableError
from ctr.rows import RowBlock
from ctr.store import Cut, Watermarks
from workers.committer import NICE, Committer, Pace


def cut():
    return Cut(RowBlock(np.empty(0, np.uint64), np.empty((0, 8), np.uint8)), {"log:0": 1}, Watermarks())


class Writer:
    """Commits when it is let."""

    def __init__(self, *errors):
        self.go, self.errors, self.seen, self.thread = threading.Event(), list(errors), [], None

    def commit(self, given):
        self.thread = threading.get_ident()
        self.go.wait(10)
        self.seen.append(given)
        if self.errors:
            raise self.errors.pop(0)


def at_once(action):
    action()


def test_the_sender_waits_for_nothing_and_hears_of_the_end_once():
    writer, sent = Writer(), cut()
    committer = Committer(writer, at_once)
    assert committer.ended() is None
    began = time.monotonic()
    committer.send(sent)
    assert time.monotonic() - began < 1
    assert committer.busy
    assert committer.ended() is None
    time.sleep(0.05)
    assert committer.under_way_s >= 0.05
    writer.go.set()
    assert committer.wait(5) is sent
    assert not committer.busy
    assert committer.ended() is None
    assert committer.wait(5) is None
    assert writer.thread != threading.get_ident()
    assert committer.busy_s >= 0.05


@pytest.mark.skipif(sys.platform != "linux", reason="niceness is a process's, not a thread's")
def test_the_sender_steps_back_behind_the_learner():
    class Noting:
        def commit(self, _cut):
            self.nice = os.getpriority(os.PRIO_PROCESS, 0)  # of the calling thread

    writer, before = Noting(), os.getpriority(os.PRIO_PROCESS, 0)
    committer = Committer(writer, at_once)
    for _ in range(2):
        committer.send(cut())
        committer.wait(10)
        assert writer.nice == min(19, before + NICE)
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_an_error_is_raised_where_the_end_is_asked_for():
    writer = Writer(FencedError("another"))
    writer.go.set()
    committer = Committer(writer, at_once)
    committer.send(cut())
    with pytest.raises(FencedError):
        committer.wait(5)
    assert not committer.busy


def test_the_same_cut_is_sent_again_through_an_outage():
    writer, sent = Writer(StoreUnavailableError("away"), StoreUnavailableError("away")), cut()
    writer.go.set()

    def patiently(action):
        while True:
            try:
                return action()
            except StoreUnavailableError:
                continue

    committer = Committer(writer, patiently)
    committer.send(sent)
    assert committer.wait(5) is sent
    assert [given is sent for given in writer.seen] == [True] * 3


def test_a_wait_has_an_end():
    writer = Writer()
    committer = Committer(writer, at_once)
    committer.send(cut())
    with pytest.raises(StoreUnavailableError, match="not acknowledged in time"):
        committer.wait(0.05)
    assert committer.busy, "it is still under way"
    writer.go.set()
    assert committer.wait(5) is not None


def test_the_interval_settles_where_the_rows_fit_under_the_ceiling():
    """Distinct rows of t seconds: 1,000 sqrt(t). They fit under 500/s from t = 4 s on."""
    pace, now, last, cuts = Pace(1.0, rows_per_s=500), 0.0, 0.0, []
    while now < 40:
        dirty = round(1000 * (now - last) ** 0.5)
        if pace.is_due(now, dirty):
            pace.made(now)
            cuts.append((now - last, dirty))
            last = now
        now += 0.01
    assert pace.settled_s == pytest.approx(4.0, abs=0.02)
    assert all(rows <= 500 * elapsed + 1 for elapsed, rows in cuts[1:])


@pytest.mark.parametrize(("ceiling", "dirty", "due"), [(0, 10**9, True), (100, 100, True), (100, 101, False)])
def test_without_a_ceiling_only_the_interval_counts(ceiling, dirty, due):
    pace = Pace(1.0, ceiling)
    assert pace.is_due(0.0, dirty), "the first cut says that the model is there"
    pace.made(0.0)
    assert not pace.is_due(0.99, 0)
    assert pace.is_due(1.0, dirty) is due
    assert (pace.wait_s(0.25), pace.wait_s(3.0), pace.since_s(3.0)) == (0.75, 0.0, 3.0)
