"""A cut in parts: all or nothing of it is let pass, all shards get it at one place, and learning waits meanwhile."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import structlog
from workbench import wait_for

from ctr.errors import ServerWentBackError, StoreUnavailableError
from ctr.events import encode_rows
from ctr.model import Model
from ctr.quality import Progressive
from ctr.rows import shard_of
from ctr.spec import parse
from ctr.store import Resume, Watermarks
from workers import publisher as module
from workers.guard import Gate
from workers.learner import Learner
from workers.lifecycle import Deadline, Shutdown
from workers.patience import Patience
from workers.pipeline import Chunk, Clocks, Standing
from workers.publisher import Publisher

SHARDS = 8
SPEC = parse('name = "ads"\nfields = [{ name = "user" }, { name = "ad" }]\n[commit]\nrows_per_s = 0')
HERE = Standing(("t:0",), {"t:0": 300}, 0.0, {}, False, {}, {})


class Writer:
    """Takes as many cuts as it is let."""

    def __init__(self):
        self.let, self.cuts, self.error = threading.Semaphore(1000), [], None

    def commit(self, cut):
        assert self.let.acquire(timeout=10)
        if self.error is not None:
            raise self.error
        self.cuts.append(replace(cut, rows=replace(cut.rows, data=cut.rows.data.copy())))


class Record:
    """What stands beside the model."""

    def read(self):
        return {}

    def write(self, _given):
        return True


class DeadLetters:
    def flush(self):
        pass


@pytest.fixture
def learner():
    """Has learned 300 events of as many users."""
    model = Model(SPEC, max_rows=4096)
    start = Resume({}, ({},) * SHARDS, Watermarks())
    made = Learner(model, start, replace(HERE, positions={"t:0": 0}), Progressive(SPEC, 1000))
    batch = encode_rows(SPEC, [{"user": f"u{i}", "ad": f"a{i % 7}"} for i in range(300)], times_s=1.8e9)
    made.learn(Chunk(HERE, None, replace(batch, labels=np.zeros(300, np.float32)), ()))
    return made


@pytest.fixture
def made(learner, monkeypatch):
    """A publisher with its writer and gate, whose bound is a quarter of what was learned."""
    monkeypatch.setattr(module, "CUT_BYTES", learner.waiting_bytes // 4 + 1)
    logger = structlog.get_logger()
    writer, gate = Writer(), Gate(learner._quality.guard, Record(), logger)
    patience = Patience(Shutdown(), 5.0, lambda: None, logger)
    return Publisher(SPEC, writer, gate, DeadLetters(), patience, Clocks()), writer, gate


def test_all_shards_get_their_rows_at_one_place(learner, made):
    publisher, writer, _ = made
    rows = {int(key) for block in learner.model.dirty_blocks() for key in block.keys}
    publisher.cut(learner)
    assert publisher.wait(10) is not None
    assert [np.flatnonzero(cut.chosen).tolist() for cut in writer.cuts] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    for cut in writer.cuts:
        assert cut.chosen[shard_of(cut.rows.keys, SHARDS)].all()
        assert cut.offsets == HERE.positions
    found = [int(key) for cut in writer.cuts for key in cut.rows.keys]
    assert len(found) == len(rows)
    assert set(found) == rows
    assert learner.model.dirty_rows == 0
    assert publisher.committed == HERE.positions
    numbers = publisher.numbers()
    assert (numbers["ctr_commits"], numbers["ctr_commit_rows"]) == (1, len(rows))


def test_learning_waits_until_the_last_part_is_made(learner, made):
    publisher, writer, _ = made
    writer.let = threading.Semaphore(0)
    publisher.cut(learner)
    assert learner.waiting_bytes < module.CUT_BYTES * SHARDS, "it is not that there is too much"
    for _ in range(3):
        left = learner.model.dirty_rows
        assert left
        assert publisher.is_behind(learner)
        assert not publisher.is_due(learner, 1e12)
        writer.let.release()
        wait_for(lambda left=left: publisher.ended() is not None or learner.model.dirty_rows < left, 10)
    assert not learner.model.dirty_rows
    assert publisher.busy
    assert not publisher.is_behind(learner)
    writer.let.release()
    assert publisher.wait(10) is not None


def test_a_part_that_must_not_be_published_holds_all_of_it_back(learner, made):
    publisher, writer, gate = made
    table = learner.model.table
    spoilt = next(row for row in table.find_dirty() if table.row_key[row] % SHARDS == SHARDS - 1)  # of the last part
    table.W[int(spoilt) * table.stride] = np.nan
    publisher.cut(learner)
    assert gate.refusing
    assert not publisher.busy
    assert publisher.wait(1) is None
    assert writer.cuts == []
    publisher.publish(gate.resume())  # an operator wants it all the same
    assert publisher.wait(10) is not None
    assert sum(len(cut.rows) for cut in writer.cuts) == len({int(k) for cut in writer.cuts for k in cut.rows.keys})
    assert learner.model.dirty_rows == 0


def test_what_is_left_of_a_cut_is_forgotten_with_what_was_learned(learner, made):
    publisher, writer, _ = made
    writer.error = ServerWentBackError("it did")
    publisher.cut(learner)
    with pytest.raises(ServerWentBackError):
        publisher.wait(10)
    publisher.forget()
    assert not publisher.is_behind(learner)
    writer.error = None
    publisher.cut(learner)
    assert publisher.wait(10) is not None


def test_a_wait_that_is_over_says_so(learner, made):
    publisher, writer, _ = made
    writer.let = threading.Semaphore(0)
    publisher.cut(learner, Deadline(5))
    with pytest.raises(StoreUnavailableError, match="not acknowledged in time"):
        publisher.wait(0.05)
    writer.let.release(4)
    assert publisher.wait(10) is not None
