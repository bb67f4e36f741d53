"""Masked replay: after a crash in mid-commit every row is what it is where each shard learned its own events, once."""

import numpy as np
import pytest
from naive import Event, to_batch

from ctr.model import Model
from ctr.model.replay import Replay
from ctr.spec import Field, Lifetime, Optimizer, Spec
from ctr.spec import Model as ModelSpec

F, S = 6, 4
NAMES = ["t:0", "t:1"]
FAMILIES = [
    ({"type": "ffm"}, True), ({"type": "ffm"}, False), ({"type": "lr"}, True), ({"type": "fwfm"}, True),
    ({"type": "fefm"}, False), ({"type": "fm", "normalize": True}, True), ({"type": "ffm", "k": 12}, True),
]  # fmt: skip


def make_spec(model=None, *, dense=True, **lifetime):
    return Spec(
        name="m", fields=tuple(Field(name=f"f{i}", multi=not dense) for i in range(F)),
        model=ModelSpec(**{"k": 4, "max_rows": 4096, **(model or {})}), optimizer=Optimizer(),
        lifetime=Lifetime(**lifetime),
    )  # fmt: skip


def stream(n, *, dense=True, seed=0):
    """Events of two partitions, in turns; keys of all shards."""
    rng = np.random.default_rng(seed)
    events = []
    for i in range(n):
        features = [
            (((f + 1) << 56) + int(rng.integers(12)) * 77_777 + 70_000, f, 1.0)
            for f in range(F) if rng.random() > 0.2
        ]  # fmt: skip
        events.append(Event(features, float(rng.random() < 0.3), float(rng.choice([1.0, 2.0, 0.0])), 1.7e9 + i))
    batch = to_batch(events, F, dense=dense)
    object.__setattr__(batch, "partitions", np.arange(n, dtype=np.int32) % 2)
    object.__setattr__(batch, "offsets", np.arange(n) // 2)
    return batch


def rows_of(model):
    block = model.state().block
    return {int(key): row.tobytes() for key, row in zip(block.keys, block.data, strict=True)}


def oracle(model_of, batch, stored):
    """Event by event: a whole model learns it, and its rows are taken over only in the shards that lack the event."""
    rows = rows_of(model_of())
    for i in range(len(batch)):
        at = model_of()
        keys = np.array(list(rows), np.uint64)
        data = np.frombuffer(b"".join(rows.values()), np.uint8).reshape(len(keys), -1)
        at.load(type(at.state().block)(keys, data))
        at.learn_many(batch.slice(i, i + 1))
        name, offset = NAMES[batch.partitions[i]], batch.offsets[i]
        lacking = {s for s in range(S) if offset >= stored[s].get(name, 0)}
        rows |= {key: row for key, row in rows_of(at).items() if key % S in lacking}
    return rows


@pytest.mark.parametrize(("family", "dense"), FAMILIES)
def test_a_shard_learns_what_it_lacks_and_nothing_else(family, dense):
    spec = make_spec(family, dense=dense)
    batch = stream(60, dense=dense)
    stored = [{"t:0": 20, "t:1": 5}, {"t:0": 8}, {"t:0": 8, "t:1": 5}, {"t:0": 20, "t:1": 9}]
    model = Model(spec)
    replay = Replay(model, stored)
    p, fresh = replay.learn_many(batch, NAMES)
    assert rows_of(model) == oracle(lambda: Model(spec), batch, stored)
    of_zero = batch.partitions == 0
    assert fresh.tolist() == np.where(of_zero, batch.offsets >= 20, batch.offsets >= 9).tolist()
    assert np.isnan(p).tolist() == (of_zero & (batch.offsets < 8)).tolist(), "what all have is not learned"


def test_only_what_changed_is_written_again():
    spec = make_spec()
    batch = stream(40)
    model = Model(spec)
    model.learn_many(batch)
    model.take_dirty()
    before = rows_of(model)
    stored = [{"t:0": 20, "t:1": 20}, {}, {"t:0": 20, "t:1": 20}, {"t:0": 20, "t:1": 20}]
    Replay(model, stored).learn_many(batch, NAMES)
    count = model.dirty_rows
    taken = model.take_dirty()
    after = rows_of(model)
    changed = {key for key in after if after[key] != before.get(key)}
    assert changed
    assert {key % S for key in changed} == {1}
    assert set(taken.keys.tolist()) == changed
    assert count == len(changed)


def test_a_row_that_another_partition_changed_stays_dirty():
    spec = make_spec()
    batch = stream(2)  # one event of each partition
    keys = batch.keys.copy()
    keys[F : 2 * F] = keys[:F]
    object.__setattr__(batch, "keys", keys)
    object.__setattr__(batch, "weights", np.ones(2, np.float32))
    object.__setattr__(batch, "partitions", np.array([1, 0], np.int32))
    object.__setattr__(batch, "offsets", np.array([0, 0]))
    model = Model(spec)
    model.take_dirty()
    Replay(model, [{"t:0": 1}] * 3 + [{}]).learn_many(batch, NAMES)
    assert set(model.take_dirty().keys.tolist()) == {*keys[keys != 0].tolist(), 1}


def test_a_feature_that_was_not_let_in_is_not_let_in_by_the_replay():
    batch = stream(40)
    stored = [{"t:0": 20, "t:1": 20}] * 3 + [{}]
    model = Model(make_spec())
    Replay(model, stored).learn_many(batch, NAMES)
    held = set(rows_of(model)) - {1}
    assert held == {key for key in batch.keys[np.repeat(batch.weights > 0, F)].tolist() if key and key % S == 3}
    assert model.counts.rows_created == len(held)
    assert not model.lookup(batch.keys)[batch.keys % S != 3].any()


def test_it_is_over_where_no_shard_is_ahead():
    replay = Replay(Model(make_spec()), [{"t:0": 20, "t:1": 5}, {"t:0": 8, "t:1": 9}])
    assert not replay.over({"t:0": 20, "t:1": 8})
    assert replay.over({"t:0": 20, "t:1": 9})
    assert replay.over({"t:0": 21, "t:1": 9, "t:2": 0})


def test_level_shards_learn_as_a_model_does():
    spec, batch = make_spec(), stream(300)
    one, other = Model(spec), Model(spec)
    p, fresh = Replay(one, [{"t:0": 0}] * S).learn_many(batch, NAMES)
    np.testing.assert_array_equal(p, other.learn_many(batch))
    assert fresh.all()
    assert one.state_hash() == other.state_hash()
