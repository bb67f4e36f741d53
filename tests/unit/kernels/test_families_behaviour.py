"""What every family promises beyond one exact step: it learns, survives bad numbers, batches, and a restart."""

import math

import numpy as np
import pytest
from naive import Event, to_batch

from ctr.kernels import layout
from ctr.model import Model, RowBlock
from ctr.spec import Field, Optimizer, Spec
from ctr.spec import Model as ModelSpec

KINDS = ("lr", "fm", "ffm", "fwfm", "fefm")
PAIRS = KINDS[1:]
F = 4


def make(kind, *, multi=True, optimizer=None, **model):
    fields = tuple(Field(name=f"f{i}", multi=multi) for i in range(F))
    model = ModelSpec(type=kind, max_rows=2048, **model)
    return Model(Spec(name="m", fields=fields, model=model, optimizer=optimizer or Optimizer()))


def key(f, value):
    return ((f + 1) << 56) + (value << 33) + 77


def stream(n, seed=0, values=12):
    rng = np.random.default_rng(seed)
    return [
        Event([(key(f, int(v)), f, float(np.float32(rng.normal() or 1.0))) for f in range(F)
               if rng.random() < 0.8 for v in [rng.integers(values)]],
              float(rng.random() < 0.3), 1.0, 1.7e9 + i)
        for i in range(n)
    ]  # fmt: skip


@pytest.mark.parametrize("optimizer", ["adagrad", "ftrl"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_pair_is_learned_by_all_but_lr(kind, optimizer):
    """y = 1 if and only if the values of fields 0 and 1 agree: no single feature says anything."""
    rng = np.random.default_rng(0)
    events = []
    for i in range(6000):
        values = rng.integers(0, 2, F)
        events.append(Event([(key(f, int(v)), f, 1.0) for f, v in enumerate(values)], float(values[0] == values[1]),
                            1.0, 1.7e9 + i))  # fmt: skip
    model = make(kind, start=0.1, optimizer=Optimizer(type=optimizer, step=0.2))
    p = model.learn_many(to_batch(events, F, dense=False))[-1500:].astype(float)
    y = np.array([event.y for event in events[-1500:]])
    loss = -np.mean(np.log(np.where(y == 1, p, 1 - p)))
    if kind == "lr":
        assert loss > 0.65  # ln 2 = .693 is to know nothing
    else:
        assert loss < 0.1


@pytest.mark.parametrize("kind", PAIRS)
def test_latent_factors_do_not_die_under_ftrl(kind):
    """FTRL in its usual form, z from 0, turns a latent factor to 0 at its first step, where its gradients stay 0."""
    model = make(kind, k=4, optimizer=Optimizer(type="ftrl", step=0.05, l2=0.5))
    model.learn_many(to_batch(stream(2000), F, dense=False))
    keys, rows = model._table.held()
    size = model._table.shape.size
    latent = [
        model._table.W[row * model._table.stride :][slice(4, size) if kind != "ffm" else slice(0, size)]
        for key, row in zip(keys.tolist(), rows.tolist(), strict=True) if key >= layout.RESERVED_KEYS
    ]  # fmt: skip
    if kind == "ffm":
        latent = [np.delete(w.reshape(F, 4), keep, 0) for w, keep in zip(
            latent, [model._table.row_field[row] for key, row in zip(keys, rows, strict=True)
                     if key >= layout.RESERVED_KEYS], strict=True)]  # fmt: skip
    assert all(np.abs(w).min() > 1e-6 for w in latent)


BAD = {
    "x = 1e30": {"features": [(key(0, 1), 0, 1e30), (key(1, 1), 1, 1.0)]},
    "x = NaN": {"features": [(key(0, 1), 0, math.nan), (key(1, 99), 1, 1.0)]},
    "x = inf": {"features": [(key(0, 1), 0, math.inf)]},
    "weight = inf": {"features": [(key(0, 1), 0, 1.0)], "c": math.inf},
    "weight = NaN": {"features": [(key(0, 1), 0, 1.0)], "c": math.nan},
    "label = NaN": {"features": [(key(0, 1), 0, 1.0)], "y": math.nan},
}


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "ftrl"])
@pytest.mark.parametrize("kind", KINDS)
def test_bad_numbers_are_refused_and_leave_the_good_ones_alone(kind, optimizer):
    good = stream(60)
    bad = [Event(**{"y": 1.0, "time_s": 1.7e9 + 30, **event}) for event in BAD.values()]
    mixed = [event for i, one in enumerate(good) for event in ([one] if i % 10 else [bad[i // 10], one])]
    clean, other = (make(kind, optimizer=Optimizer(type=optimizer)) for _ in range(2))
    p = clean.learn_many(to_batch(good, F, dense=False))
    q = other.learn_many(to_batch(mixed, F, dense=False))
    assert other.counts.events_refused == len(bad)
    assert other.counts.events_learned == len(good)
    np.testing.assert_array_equal(q[[event in good for event in mixed]], p)
    assert other.state_hash() == clean.state_hash()


@pytest.mark.parametrize("multi", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_margin_that_overflows_is_refused(kind, multi):
    """Rows from elsewhere may hold anything finite: a margin beyond float32 is no prediction, and teaches nothing."""
    model = make(kind, multi=multi)
    event = Event([(key(0, 1), 0, 1.0), (key(1, 1), 1, 1.0)], 1.0)
    batch = to_batch([event], F, dense=not multi)
    model.learn_many(batch)
    block = model.take_dirty()
    big = block.data.copy()
    floats = big[:, 4:].view("<f4")
    for at, k in enumerate(block.keys.tolist()):
        if k >= layout.RESERVED_KEYS:
            head = 4 * big[at, 0] if kind == "ffm" else 0
            weights = floats[at, : model._table.shape.size]
            keep = weights[head + 1 : head + 4].copy()
            weights[:] = 3e38
            weights[head + 1 : head + 4] = keep
    model.load(RowBlock(block.keys, big))
    before, refused = model.state_hash(), model.counts.events_refused
    assert np.isnan(model.predict_many(batch)).all()
    assert np.isnan(model.learn_many(batch)).all()
    assert model.state_hash() == before
    assert model.counts.events_refused == refused + 1


@pytest.mark.parametrize("multi", [True, False])
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "ftrl"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_overflow_between_good_events_leaves_them_alone(kind, optimizer, multi):
    """In one call: refused, counted, and the others' predictions and rows are those of a stream without it."""
    good = [Event([(k, f, 1.0) for k, f, _ in e.features], e.y, e.c, e.time_s) for e in stream(60)]
    clean, hurt = (make(kind, multi=multi, optimizer=Optimizer(type=optimizer)) for _ in range(2))
    size = clean._table.shape.size
    keys, rows = [key(f, 999) for f in range(2)], np.zeros((2, 4 + 8 * size), np.uint8)
    floats = rows[:, 4:].view("<f4")
    floats[:, :size], floats[:, size:] = 3e38, 1.0
    for f in range(2):
        head = 4 * f if kind == "ffm" else 0
        rows[f, 0], floats[f, head + 1], floats[f, head + 2], floats[f, head + 3] = f, 1.0, 2e7, 0.0
    block = RowBlock(np.array(keys, np.uint64), rows)
    for model in (clean, hurt):
        model.load(block)
    bad = Event([(k, f, 1.0) for f, k in enumerate(keys)], 1.0, 1.0, good[0].time_s)
    mixed = [event for i, one in enumerate(good) for event in ([bad, one] if i % 10 == 5 else [one])]
    p, q = (
        model.learn_many(to_batch(events, F, dense=not multi)) for model, events in ((clean, good), (hurt, mixed))
    )
    refused = np.array([event is bad for event in mixed])
    assert np.isnan(q[refused]).all()
    np.testing.assert_array_equal(q[~refused], p)
    assert (hurt.counts.events_refused, hurt.counts.events_learned) == (6, len(good))
    assert hurt.state_hash() == clean.state_hash()


@pytest.mark.parametrize("multi", [True, False])
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "ftrl"])
@pytest.mark.parametrize("kind", KINDS)
def test_cuts_and_restarts_do_not_matter(kind, optimizer, multi):
    """One model learns a stream at once; another in pieces, with its rows packed and loaded into a third on the way."""
    events = stream(600)
    if not multi:
        events = [Event([(k, f, 1.0) for k, f, _ in e.features], e.y, e.c, e.time_s) for e in events]
    batch = to_batch(events, F, dense=not multi)
    setting = Optimizer(type=optimizer, linear_step=0.1, **({"l1": 0.05} if optimizer == "ftrl" else {}))
    whole, model = (make(kind, multi=multi, optimizer=setting) for _ in range(2))
    p = whole.learn_many(batch)
    store, parts, begin = {}, [], 0
    for size in (1, 63, 200, 1, 335):
        parts.append(model.learn_many(batch.slice(begin, begin + size)))
        begin += size
        block = model.take_dirty()
        store.update(zip(block.keys.tolist(), block.data, strict=True))
        model = make(kind, multi=multi, optimizer=setting)
        model.load(RowBlock(np.array(list(store), np.uint64), np.array(list(store.values()))))
    np.testing.assert_array_equal(np.concatenate(parts), p)
    assert model.state_hash() == whole.state_hash()
    scorer = Model(model.spec, weights_only=True)
    scorer.load(RowBlock(np.array(list(store), np.uint64), np.array(list(store.values()))))
    np.testing.assert_array_equal(scorer.predict_many(batch), whole.predict_many(batch))
    assert set(whole.own_keys.tolist()) <= store.keys()


def test_squared_loss_learns_a_mean_and_clips():
    model = make("lr", loss="squared", label_min=1.0, label_max=5.0, base_label=3.0)
    assert model.predict_many(to_batch([Event([])], F, dense=False)) == 3.0
    rng = np.random.default_rng(0)
    events = [Event([(key(0, v), 0, 1.0)], 4.5 if v else 2.0) for v in rng.integers(0, 2, 4000).tolist()]
    model.learn_many(to_batch(events, F, dense=False))
    low, high = model.predict_many(to_batch([Event([(key(0, v), 0, 1.0)]) for v in (0, 1)], F, dense=False))
    assert (low, high) == pytest.approx((2.0, 4.5), abs=0.05)
    assert model.predict_many(to_batch([Event([(key(0, 1), 0, 100.0)])], F, dense=False)) == 5.0
    model.learn_many(to_batch([Event([(key(0, 1), 0, 1.0)], 6.0)], F, dense=False))
    assert model.counts.events_refused == 1
