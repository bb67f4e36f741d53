"""Whoever becomes the writer, or becomes it again, judges by what was accepted before."""

import numpy as np
import pytest
import structlog

from ctr.quality import Guard
from ctr.rows import RowBlock, RowShape
from ctr.spec import parse
from ctr.store import Cut, Watermarks
from workers.guard import Gate

SPEC = parse('name = "ads"\nfields = [{ name = "user" }]\n[guard]\nmin_events = 10000\n')


class Record:
    """What stands beside the model; `lost`: the lease, for a while."""

    def __init__(self):
        self.stored, self.lost = {}, False

    def read(self):
        return dict(self.stored)

    def write(self, given):
        if not self.lost:
            self.stored |= given
        return not self.lost


def gate(record):
    guard = Guard(SPEC)
    return guard, Gate(guard, record, structlog.get_logger())


def cut():
    return Cut(
        RowBlock(np.empty(0, np.uint64), np.empty((0, RowShape.of(SPEC).packed_bytes), np.uint8)), {"t:0": 1},
        Watermarks(), origins={"t:0": 0},
    )  # fmt: skip


def learn(guard, n, flipped, seed):
    """Predictions that are right, of labels of which a share is turned round."""
    rng = np.random.default_rng(seed)
    p = (0.05 + 0.4 * rng.random(n)).astype(np.float32)
    y = rng.random(n) < p
    y ^= rng.random(n) < flipped
    losses = -np.log(np.where(y, p, 1 - p).astype(np.float64))
    guard.observe(p, y.astype(np.float32), np.ones(n, np.float32), losses)


@pytest.mark.parametrize("again", [True, False])
def test_poison_that_is_learned_once_more_is_held_back_once_more(again):
    record = Record()
    guard, one = gate(record)
    one.begin(again=False)
    one.remember(at_once=True)  # of nothing yet
    for seed in range(10):
        learn(guard, 3000, 0.0, seed)
        assert one.passes(cut())
    if not again:
        one.remember(at_once=True)
    learn(guard, 5000, 0.3, 77)
    assert not one.passes(cut())
    record.lost = again  # a lease that lapsed for a moment: why the cut is held back could not be written down
    if not again:
        guard, one = gate(record)
    one.begin(again=again)
    assert not one.refusing
    assert guard.armed
    learn(guard, 5000, 0.3, 77)
    assert not one.passes(cut()), "nothing of it may be published because a lease lapsed"


def test_who_takes_over_from_another_judges_by_what_that_one_accepted():
    record = Record()
    guard, one = gate(record)
    one.begin(again=False)
    learn(guard, 30_000, 0.0, 1)
    assert one.passes(cut())
    one.remember(at_once=True)
    other, second = gate(record)
    learn(other, 30_000, 0.45, 2)  # what it had followed before is of no account
    second.begin(again=False)
    assert other.memory() == guard.memory()
