"""One step of every ffm kernel against the float64 twin from the same float32 state, within a derived bound."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import Event, Naive, ffm_logit, logloss, start_value, to_batch, unpack_rows

from ctr.kernels import simd
from ctr.model import BIAS_KEY, Model, RowBlock
from ctr.spec import Field, Lifetime, Optimizer, Spec
from ctr.spec import Model as ModelSpec

U = 2.0**-24
RSQRT = {"avx512": 2.0**-14, "avx2": 1.5 * 2.0**-12, "portable": 2.0**-16}[simd.ISA]


def make_spec(F, k, *, dense=True, ttl_s=0.0, optimizer=None, **model):
    return Spec(
        name="m", fields=tuple(Field(name=f"f{i}", multi=not dense) for i in range(F)),
        model=ModelSpec(k=k, max_rows=1024, **model), optimizer=optimizer or Optimizer(),
        lifetime=Lifetime(ttl_s=ttl_s),
    )  # fmt: skip


def random_events(rng, n, F, *, dense, values=4, missing=0.2, weights=False):
    def features():
        for f in range(F):
            m = int(rng.random() > missing) if dense else int(rng.integers(0, 4))
            for j in sorted(rng.choice(values, m, replace=False).tolist()):
                key = (f + 1) * 0x9E3779B97F4A7C15 + j * 0x1234567 & 2**64 - 1
                yield key, f, 1.0 if dense else float(np.float32(rng.normal() * 2) or 1.0)

    def weight():
        return float(rng.choice([0.0, 0.5, 1.0, 3.0])) if weights else 1.0

    return [
        Event(list(features()), float(rng.integers(2)), weight(), 1.7e9 + float(rng.integers(0, 7200)))
        for _ in range(n)
    ]


def all_rows(model):
    keys, rows = model._table.held()
    return RowBlock(keys, model._table.pack(rows))


def unpacked(model):
    return unpack_rows(all_rows(model), len(model.spec.fields), model.spec.model.k)


def twin_of(model):
    """A twin in the model's state."""
    twin = Naive(model.spec)
    twin.rows = unpacked(model)
    twin.bias = twin.rows.pop(BIAS_KEY)
    return twin


def check_weight(old_w, old_n, g, dg, step, start, new_w, new_n, rho):
    """`new_w`, `new_n` (kernel) against one exact AdaGrad step with gradient g, itself known within dg.

    n' = n + g^2 rounded: error 2 |g| dg + dg^2 + 2 u n'. The step s g / sqrt(n + g^2) has slope at most s / sqrt(n)
    in g; its evaluation adds a relative rho; subtracting it and adding the start value round a result each.
    """
    n = old_n + g**2
    assert np.all(abs(new_n - n) <= 2 * abs(g) * dg + dg**2 + 3 * U * n)
    move = step * g / np.sqrt(n)
    bound = step * dg / np.sqrt(old_n) + abs(move) * rho + 2 * U * (abs(old_w) + abs(move) + abs(start))
    assert np.all(abs(new_w - (old_w - move + start)) <= bound)


SHAPES = [(1, 4), (2, 1), (3, 3), (5, 2), (5, 5), (6, 8), (39, 4), (22, 8), (4, 12)]


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize(("F", "k"), SHAPES)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32), normalize=st.booleans())
def test_one_step_agrees_with_the_twin(F, k, dense, seed, normalize):
    # each is a kernel of its own, compiled for seconds: by turns, so that all four of linear x bias come up
    linear, bias = divmod((SHAPES.index((F, k)) + 2 * dense) % 4, 2)
    rng = np.random.default_rng(seed)
    step, n0 = np.float32(rng.choice([0.02, 0.3])), np.float32(rng.choice([0.1, 1.0]))
    spec = make_spec(
        F, k, dense=dense, normalize=normalize, linear=bool(linear), bias=bool(bias), start=0.3, base_rate=0.2,
        optimizer=Optimizer(step=float(step), linear_step=0.05, n0=float(n0)),
    )  # fmt: skip
    model = Model(spec)
    model.learn_many(to_batch(random_events(rng, 12, F, dense=dense), F, dense=dense))
    for event in random_events(rng, 4, F, dense=dense, weights=True):
        twin = twin_of(model)
        before = twin_of(model)
        batch = to_batch([event], F, dense=dense)
        logit = float(model.logits_many(batch)[0])
        p = float(model.learn_many(batch)[0])
        done, after = twin.learn(event), unpacked(model)

        # Each float32 sum or product adds at most one relative U to every term below it, and no chain of them is
        # longer than all terms of the event together.
        terms = len(event.features) ** 2 * k + 3 * len(event.features) + 20
        dt = 2 * terms * U * done.absolute + U
        assert abs(logit - done.logit) <= dt
        assert abs(p - done.p) <= dt / 4 + U
        ddl = event.c * (dt / 4 + 2 * U) + 4 * U * abs(done.dl)

        new_bias = after.pop(BIAS_KEY)
        assert (new_bias.count, new_bias.seen) == (twin.bias.count, twin.bias.seen)
        if bias and event.c:
            check_weight(before.bias.w, before.bias.nw, done.dl, ddl, 0.05, 0, new_bias.w, new_bias.nw, 4 * U)
        else:
            assert (new_bias.w, new_bias.nw) == (before.bias.w, before.bias.nw)

        assert after.keys() == twin.rows.keys()
        for key, row in after.items():
            expected, old = twin.rows[key], before.rows.get(key) or twin.blank(row.field)
            assert (row.field, row.count, row.seen) == (expected.field, expected.count, expected.seen)
            others = np.arange(F) != row.field
            if key not in done.gw:
                assert (row.w, row.nw) == (old.w, old.nw)
                np.testing.assert_array_equal(row.v[others], old.v[others])
                np.testing.assert_array_equal(row.nv[others], old.nv[others])
                continue
            rho = 4 * U + (RSQRT if dense and k <= 8 else 0)
            x = abs(next(value for other, _, value in event.features if other == key))
            gw, gv = done.gw[key], done.gv[key][others]
            if linear:
                check_weight(old.w, old.nw, gw, ddl * x + 4 * U * abs(gw), 0.05, 0, row.w, row.nw, rho)
            else:
                assert (row.w, row.nw) == (0, old.nw)
            start = start_values(spec, key)[others] if key not in before.rows else 0.0
            partners = done.r * x * partner_sums(event, before.rows, row.field, F, k)[others]
            dg = (ddl + terms * U * abs(done.dl)) * partners
            check_weight(old.v[others], old.nv[others], gv, dg, step, start, row.v[others], row.nv[others], rho)


def start_values(spec, key):
    F, k = len(spec.fields), spec.model.k
    values = [start_value(spec.model.seed, key, c, spec.model.start) for c in range(F * k)]
    return np.array(values).reshape(F, k)


def partner_sums(event, rows, field, F, k):
    """(F, k) sum over the features of each field of |x v| towards `field`."""
    out = np.zeros((F, k))
    for key, g, x in event.features:
        if key in rows:
            out[g] += abs(x * rows[key].v[field])
    return out


@pytest.mark.parametrize(("F", "k", "dense"), [(6, 4, True), (6, 4, False), (5, 7, True), (3, 12, True)])
def test_the_kernels_gradient_agrees_with_finite_differences(F, k, dense):
    """(w - w') sqrt(n') / step is the gradient; n0 is large, so that n is known exactly."""
    rng = np.random.default_rng(F * k)
    spec = make_spec(F, k, dense=dense, start=0.5, optimizer=Optimizer(step=10.0, linear_step=10.0, n0=1e6))
    model = Model(spec)
    model.learn_many(to_batch(random_events(rng, 30, F, dense=dense, values=3, missing=0), F, dense=dense))
    (event,) = random_events(rng, 1, F, dense=dense, values=3, missing=0)
    event.y = 1.0
    twin = twin_of(model)
    x, f, b, w, v, r = twin.score(event)
    model.learn_many(to_batch([event], F, dense=dense))
    after, h = unpacked(model), 1e-5
    for i, (key, fi, _) in enumerate(event.features):
        for g in range(F):
            for d in range(k):
                if g == fi:
                    continue
                up, down = v.copy(), v.copy()
                up[i, g, d] += h
                down[i, g, d] -= h
                loss_up, loss_down = (logloss(ffm_logit(x, f, b, w, each, r), 1) for each in (up, down))
                moved = (v[i, g, d] - after[key].v[g, d]) * math.sqrt(after[key].nv[g, d]) / 10.0
                # a weight below 1 is rounded by 2^-25, times sqrt(n) / step = 100: 3e-6; rsqrt adds a relative error
                assert moved == pytest.approx((loss_up - loss_down) / (2 * h), abs=1e-5, rel=2 * RSQRT)


@pytest.mark.parametrize(("F", "k"), [(1, 4), (2, 3), (7, 4), (39, 4), (7, 8), (22, 6), (39, 8)])
@pytest.mark.parametrize("normalize", [False, True])
def test_tiles_equal_plain_loops(F, k, normalize):
    """The same one-hot events as a dense batch (tiles) and as compressed rows (pooled): the same learning."""
    rng = np.random.default_rng(7 * F + k)
    events = random_events(rng, 300, F, dense=True, values=6, missing=0.3, weights=True)
    tiled, pooled = Model(make_spec(F, k, normalize=normalize)), Model(make_spec(F, k, normalize=normalize))
    p = tiled.learn_many(to_batch(events, F, dense=True))
    q = pooled.learn_many(to_batch(events, F, dense=False))
    # Each of 300 steps moves a weight by at most .05 with a relative RSQRT; in a logit F linear weights do so.
    np.testing.assert_allclose(p, q, atol=300 * 0.05 * RSQRT * F / 4)
    np.testing.assert_allclose(p, q, atol=2e-4)
    assert tiled.rows == pooled.rows
    assert tiled.counts == pooled.counts


@pytest.mark.parametrize(("F", "k", "dense"), [(1, 4, True), (4, 4, True), (9, 8, True), (9, 3, False), (5, 12, True)])
def test_many_steps_follow_the_twin(F, k, dense):
    rng = np.random.default_rng(3)
    spec = make_spec(F, k, dense=dense, start=0.1, ttl_s=180.0, base_rate=0.3)
    model, twin = Model(spec), Naive(spec)
    events = random_events(rng, 400, F, dense=dense, weights=True)
    events = [replace(event, time_s=1.7e9 + 60 * i) for i, event in enumerate(events)]
    p = model.learn_many(to_batch(events, F, dense=dense))
    q = [twin.learn(event).p for event in events]
    np.testing.assert_allclose(p, q, atol=1e-3)
    assert unpacked(model).keys() - {BIAS_KEY} <= twin.rows.keys()  # expired ones may have been swept out
    assert model.counts.rows_expired > 0
    assert not np.isnan(p).any()


def test_expiry_is_exact_to_the_minute():
    """Seen at minute m, a row is alive while 60 (minute - m) <= ttl."""
    spec = make_spec(2, 4, ttl_s=600.0)
    base = 1577836800 + 60 * 1_000_000
    features = [(100_000, 0, 1.0), (200_000, 1, 1.0)]
    for dense in (True, False):
        for later_s, alive in ((600.0, True), (659.9, True), (660.0, False)):
            model = Model(spec)
            model.learn_many(to_batch([Event(features, 1.0, 1.0, base)], 2, dense=dense))
            unknown = model.logits_many(to_batch([Event([], 0.0, 1.0, base)], 2, dense=dense))
            logit = model.logits_many(to_batch([Event(features, 0.0, 1.0, base + later_s)], 2, dense=dense))
            assert (logit != unknown).all() == alive
            model.learn_many(to_batch([Event(features, 1.0, 1.0, base + later_s)], 2, dense=dense))
            rows = unpacked(model)
            assert rows[100_000].count == (2 if alive else 1)
            assert model.counts.rows_expired == (0 if alive else 2)
            assert rows[100_000].seen == 1_000_000 + int(later_s // 60)


def test_last_seen_is_a_maximum():
    model = Model(make_spec(1, 4))
    for dense in (True, False):
        for minute in (50, 70, 60):
            event = Event([(100_000, 0, 1.0)], 1.0, 1.0, 1577836800 + 60.0 * minute)
            model.learn_many(to_batch([event], 1, dense=dense))
        assert unpacked(model)[100_000].seen == 70
