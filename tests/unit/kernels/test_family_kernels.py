"""The kernels of lr, fm, fwfm and ffm for one-hot events against `pooled`, which takes the same as compressed rows."""

from dataclasses import replace

import numpy as np
import pytest
from naive import Event, to_batch

from ctr.kernels import simd
from ctr.model import Model, RowBlock
from ctr.spec import Field, Lifetime, Optimizer, Spec
from ctr.spec import Model as ModelSpec

U = 2.0**-24
RSQRT = {"avx512": 2.0**-14, "avx2": 1.5 * 2.0**-12, "portable": 2.0**-16}[simd.ISA]
OPTIMIZERS = {
    "adagrad": Optimizer(),
    "adagrad l2": Optimizer(l2=0.02, linear_l2=0.1),
    "adagrad decay": Optimizer(half_life_s=600.0),
    "sgd": Optimizer(type="sgd", step=0.05, linear_step=0.05, l2=0.01),
    "ftrl": Optimizer(type="ftrl", step=0.05, linear_step=0.1, l2=0.5, linear_l2=0.1),
    "ftrl l1": Optimizer(type="ftrl", step=0.05, linear_step=0.1, l1=0.3),
}
SHAPES = [("lr", 5, 4), ("fm", 7, 4), ("fm", 6, 7), ("fwfm", 7, 4), ("fwfm", 18, 8), ("ffm", 7, 4), ("ffm", 7, 8)]


def crossed(shapes):
    """Shapes by optimizers; each shape with two of them and each of them with a third of the shapes is in CI."""
    return [
        pytest.param(*shape, optimizer, marks=[] if (i + j) % 3 == 0 else [pytest.mark.slow])
        for i, shape in enumerate(shapes) for j, optimizer in enumerate(OPTIMIZERS)
    ]  # fmt: skip


def make_spec(family, F, k, optimizer, **model):
    if family == "lr":
        model.pop("normalize", None)
        optimizer = replace_struct(optimizer, l2=0.0)
    if family == "ffm" and optimizer.type == "sgd":  # its tiles have no l2 inside the gradient
        optimizer = replace_struct(optimizer, l2=0.0)
    return Spec(
        name="m", fields=tuple(Field(name=f"f{i}") for i in range(F)), optimizer=optimizer,
        model=ModelSpec(type=family, k=k, max_rows=1024, **model), lifetime=Lifetime(ttl_s=3600.0),
    )  # fmt: skip


def replace_struct(struct, **changes):
    import msgspec

    return msgspec.structs.replace(struct, **changes)


def events(rng, n, F, *, squared=False):
    out = []
    for i in range(n):
        features = [
            ((f + 1 << 56) + (int(rng.integers(9)) << 33), f, 1.0) for f in range(F) if rng.random() > 0.25
        ]
        y = float(np.float32(rng.normal(3, 1))) if squared else float(rng.integers(2))
        out.append(Event(features, y, float(rng.choice([0.0, 0.5, 1.0, 2.0])), 1.7e9 + 60.0 * i))
    return out


def weights_of(model):
    keys, rows = model._table.held()
    return RowBlock(keys, model._table.pack(rows)).data[:, 4:].view("<f4").astype(float)


@pytest.mark.parametrize(("family", "F", "k", "optimizer"), crossed(SHAPES))
def test_one_step_equals_that_of_plain_loops(family, F, k, optimizer):
    """From the same state: a move differs by twice rsqrt's error, a gradient by the rounding of its sums."""
    rng = np.random.default_rng(F * 100 + k)
    squared, opt = F % 2 == 0, OPTIMIZERS[optimizer]
    label = {"loss": "squared", "base_label": 3.0} if squared else {"base_rate": 0.3}
    spec = make_spec(family, F, k, opt, start=0.3, normalize=F % 3 == 0, **label)
    fast, plain = Model(spec), Model(spec)
    fast.learn_many(to_batch(events(rng, 200, F, squared=squared), F, dense=True))
    keys, rows = fast._table.held()
    plain.load(RowBlock(keys, fast._table.pack(rows)))
    if family == "ffm" and fast._dense is fast._pooled:
        pytest.skip("the tiles know neither l1 nor l2 inside the gradient")
    assert fast._dense is not fast._pooled
    later = [replace(event, time_s=event.time_s + 13_000) for event in events(rng, 20, F, squared=squared)]
    for event in later:
        p = fast.learn_many(to_batch([event], F, dense=True))
        q = plain.learn_many(to_batch([event], F, dense=False))
        # the float32 sums have F terms of size below 1 and cancel in fm: each within F U of the largest, F |v|^2
        np.testing.assert_allclose(p, q, atol=8 * F * F * U, rtol=8 * U)
        actual, expected = weights_of(fast), weights_of(plain)
        assert actual.shape == expected.shape
        # no step moves a weight by more than .1 |g|, |g| < 10: twice rsqrt's error of that, and the sums' rounding
        np.testing.assert_allclose(actual, expected, rtol=4 * RSQRT, atol=2 * RSQRT + 8 * F * F * U)
        keys, rows = fast._table.held()
        plain.load(RowBlock(keys, fast._table.pack(rows)))


@pytest.mark.parametrize(
    ("family", "F", "k", "optimizer"), crossed([("lr", 5, 4), ("fm", 7, 4), ("fwfm", 7, 8), ("ffm", 7, 4)])
)
def test_many_steps_follow_plain_loops(family, F, k, optimizer):
    rng = np.random.default_rng(7)
    stream = events(rng, 600, F)
    spec = make_spec(family, F, k, OPTIMIZERS[optimizer])
    fast, plain = Model(spec), Model(spec)
    p, q = fast.learn_many(to_batch(stream, F, dense=True)), plain.learn_many(to_batch(stream, F, dense=False))
    np.testing.assert_allclose(p, q, atol=1e-3)
    assert fast.counts == plain.counts
    assert fast.counts.rows_expired > 0
    test = to_batch(stream[-50:], F, dense=True)
    np.testing.assert_allclose(fast.predict_many(test), plain.predict_many(to_batch(stream[-50:], F, dense=False)),
                               atol=1e-3)  # fmt: skip


@pytest.mark.parametrize(
    ("family", "k"), [("lr", 4), ("fm", 4), ("fm", 8), ("fwfm", 4), ("fwfm", 8), ("ffm", 4), ("ffm", 8)]
)
def test_cuts_do_not_matter_and_prediction_is_pure(family, k):
    F = 7
    batch = to_batch(events(np.random.default_rng(2), 1500, F), F, dense=True)
    spec = make_spec(family, F, k, Optimizer())
    whole, cut = Model(spec), Model(spec)
    p = whole.learn_many(batch)
    parts = [cut.learn_many(batch.slice(a, b)) for a, b in ((0, 1), (1, 64), (64, 999), (999, 1500))]
    np.testing.assert_array_equal(p, np.concatenate(parts))
    assert whole.state_hash() == cut.state_hash()
    before = whole.state_hash()
    expected = whole.predict_many(batch.slice(0, 40))
    assert whole.state_hash() == before
    # a scorer that loaded the rows answers the same
    scorer = Model(spec, weights_only=True)
    keys, rows = whole._table.held()
    scorer.load(RowBlock(keys, whole._table.pack(rows)))
    np.testing.assert_array_equal(scorer.predict_many(batch.slice(0, 40)), expected)


@pytest.mark.parametrize(("family", "k"), [("lr", 4), ("fm", 8), ("ffm", 4)])  # fwfm's pair weights are the model's own
def test_what_a_row_held_for_its_last_owner_is_forgotten(family, k):
    """Rows that were freed and are given to other features: those are learned as in a model that was never used."""
    F = 7
    spec = make_spec(family, F, k, Optimizer(), start=0.3, bias=False)
    stream = to_batch(events(np.random.default_rng(5), 300, F), F, dense=True)
    used, fresh = Model(spec), Model(spec)
    before = replace(stream, keys=np.where(stream.keys != 0, stream.keys ^ np.uint64(1 << 50), stream.keys))
    used.learn_many(before)
    assert used.rows > 40
    used.forget(used._table.held()[0])
    assert used.rows == 0
    np.testing.assert_array_equal(used.learn_many(stream), fresh.learn_many(stream))


@pytest.mark.parametrize(("family", "k"), [("lr", 4), ("fm", 8), ("fwfm", 8)])
@pytest.mark.parametrize("dense", [True, False])
def test_a_margin_that_is_not_finite_is_refused_and_changes_no_result(family, k, dense):
    F = 7
    spec = make_spec(family, F, k, Optimizer())
    stream = events(np.random.default_rng(4), 60, F)
    bad_key = 999 << 40
    clean, hurt = Model(spec), Model(spec)
    size = hurt._table.shape.size
    broken = np.zeros((1, 4 + 8 * size), np.uint8)
    weights = np.zeros((1, 2 * size), "<f4")
    weights[0, 0], weights[0, 1], weights[0, size:] = np.inf, 1.0, 1.0
    weights[0, 2] = (1.7e9 - 1577836800) // 60
    broken[:, 4:] = weights.view("u1")
    hurt.load(RowBlock(np.array([bad_key], np.uint64), broken))
    bad = Event([(bad_key, 0, 1.0)], 1.0, 1.0, 1.7e9)
    clean.learn_many(to_batch(stream[:30], F, dense=dense))
    hurt.learn_many(to_batch(stream[:30], F, dense=dense))
    refused = hurt.counts.events_refused
    p = hurt.learn_many(to_batch([bad], F, dense=dense))
    assert np.isnan(p).all()
    assert hurt.counts.events_refused == refused + 1
    late = to_batch(stream[30:], F, dense=dense)
    np.testing.assert_array_equal(clean.learn_many(late), hurt.learn_many(late))


def test_pair_weights_come_back_to_their_rows():
    spec = make_spec("fwfm", 5, 4, Optimizer(step=0.2))
    model = Model(spec)
    model.learn_many(to_batch(events(np.random.default_rng(1), 300, 5), 5, dense=True))
    dirty = model.take_dirty()
    own = dirty.keys[(dirty.keys >= 16) & (dirty.keys < 65536)]
    assert own.tolist() == [16, 17, 18]  # ten pairs, four in a row
    weights = dirty.data[np.isin(dirty.keys, own)][:, 4:].view("<f4")[:, 4:8].ravel()
    assert (weights[:10] != 1).all()
    assert (weights[10:] == 0).all()
