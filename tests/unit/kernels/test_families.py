"""Every model x optimizer x loss x event shape: one step from the same float32 state against the float64 twin.

CI takes every model x optimizer at k = 4 and a pairwise cover of the rest; `slow` marks the full product.
"""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import (
    FLOAT_MAX,
    Event,
    Naive,
    both_ways,
    ftrl_proximal,
    ftrl_weight,
    logloss,
    one_step,
    pair_gradient,
    pair_sum,
    start_value,
    to_batch,
    unpack_pairs,
    unpack_rows,
)

from ctr.kernels import simd
from ctr.model import BIAS_KEY, Model, RowBlock
from ctr.spec import Field, Lifetime, Optimizer, Spec
from ctr.spec import Model as ModelSpec

U = 2.0**-24
RSQRT = {"avx512": 2.0**-14, "avx2": 1.5 * 2.0**-12, "portable": 2.0**-16}[simd.ISA]
KINDS = ("lr", "fm", "ffm", "fwfm", "fefm")
OPTIMIZERS = {
    "sgd": {"type": "sgd", "step": 0.05},
    "sgd l2": {"type": "sgd", "step": 0.05, "l2": 0.1, "linear_l2": 0.2},
    "adagrad": {"type": "adagrad", "step": 0.3},
    "adagrad l2": {"type": "adagrad", "l2": 0.01, "linear_l2": 0.1},
    "adagrad decay": {"type": "adagrad", "step": 0.1, "half_life_s": 1800.0},
    "ftrl": {"type": "ftrl", "step": 0.1, "beta": 0.5, "l2": 0.2, "linear_l2": 0.3},
    "ftrl l1": {"type": "ftrl", "step": 0.1, "linear_step": 0.2, "l1": 0.3, "linear_l2": 0.1},
}
SHAPES = ("dense", "multi", "real", "same_field")
LOSSES = ("logistic", "squared")


@dataclass(frozen=True)
class Case:
    kind: str
    optimizer: str
    loss: str = "logistic"
    shape: str = "multi"
    k: int = 4
    F: int = 5
    normalize: bool = False
    linear: bool = True
    bias: bool = True

    def possible(self):
        if self.kind == "lr" and (self.normalize or self.k != 4 or not self.linear):
            return False
        return (self.kind == "fm" or self.shape != "same_field") and (self.linear or "l1" not in self.optimizer)

    @property
    def spec(self):
        optimizer = dict(OPTIMIZERS[self.optimizer])
        if self.kind == "lr":
            optimizer.pop("l2", None)
        if not self.linear:
            optimizer.pop("linear_l2", None)
        squared = {"label_min": 0.0, "label_max": 1.0, "base_label": 0.25} if self.loss == "squared" else {}
        return Spec(
            name="m",
            fields=tuple(Field(name=f"f{i}", multi=self.shape in ("multi", "same_field"), real=self.shape == "real")
                         for i in range(self.F)),
            model=ModelSpec(type=self.kind, k=self.k, max_rows=1024, start=0.3, loss=self.loss,
                            normalize=self.normalize, linear=self.linear, bias=self.bias,
                            same_field_pairs=self.shape == "same_field", **squared),
            optimizer=Optimizer(**optimizer), lifetime=Lifetime(ttl_s=5400.0),
        )  # fmt: skip


def random_events(rng, n, F, shape, values=3, missing=0.25):
    def features():
        for f in range(F):
            m = int(rng.random() > missing) if shape in ("dense", "real") else int(rng.integers(0, 3))
            for j in sorted(rng.choice(1 if shape == "real" else values, m, replace=False).tolist()):
                x = 1.0 if shape == "dense" else float(np.float32(rng.normal() * 1.5) or 1.0)
                yield (f + 1) * 0x9E3779B97F4A7C15 + j * 0x1234567 & 2**64 - 1, f, x

    return [
        Event(list(features()), float(rng.integers(2)), float(rng.choice([0.0, 0.5, 1.0, 2.0])),
              1.7e9 + 60.0 * float(rng.integers(0, 180)))
        for _ in range(n)
    ]  # fmt: skip


def state(model):
    """Twin in the model's state."""
    twin, (keys, rows) = Naive(model.spec), model._table.held()
    block = RowBlock(keys, model._table.pack(rows))
    shape = len(model.spec.fields), model.spec.model.k, model.spec.model.type
    twin.rows = unpack_rows(block, *shape)
    twin.bias = twin.rows.pop(BIAS_KEY)
    twin.s, twin.ns = unpack_pairs(block, *shape) if twin.kind in ("fwfm", "fefm") else (twin.s, twin.ns)
    return twin


def check_step(old_w, old_n, g, dg, c0, c1, start, new_w, new_n, rho):
    """`new_w`, `new_n` (kernel) against one exact step with gradient g, itself known within dg.

    n' = n + g^2 rounded (n may have been decayed, two roundings). g / (c0 + c1 sqrt(n + g^2)) has a slope of at most
    1 / (c0 + c1 sqrt n) in g, and as it never exceeds 1 / c1, a change of dg moves it by at most 2 / c1, too. Its
    evaluation adds a relative rho, subtracting it and adding the start round a result each.
    """
    n = old_n + g**2
    assert np.all(abs(new_n - n) <= 2 * abs(g) * dg + dg**2 + 6 * U * n)
    move = one_step(0.0, old_n, g, c0, c1)[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.minimum(np.where(dg > 0, dg / (c0 + c1 * np.sqrt(old_n)), 0), 2 / c1 if c1 else np.inf)
    bound = slope + abs(move) * rho + 3 * U * (abs(old_w) + abs(move) + abs(start))
    assert np.all(abs(new_w - (old_w + move + start)) <= bound)


def check_one_step(case, seed):
    rng, spec, F, k = np.random.default_rng(seed), case.spec, case.F, case.k
    dense, opt = case.shape == "dense", spec.optimizer
    fast = 4 * RSQRT if dense else 0  # sqrt n once, 1 / d by its square: three times, and a product of such
    model = Model(spec)
    model.learn_many(to_batch(random_events(rng, 12, F, case.shape), F, dense=dense))
    for event in random_events(rng, 3, F, case.shape):
        twin, before = state(model), state(model)
        batch = to_batch([event], F, dense=dense)
        logit, p = float(model.logits_many(batch)[0]), float(model.learn_many(batch)[0])
        x, f, _, _, v, r = before.score(event)
        done, after = twin.learn(event), state(model)

        # Each float32 sum or product adds at most one relative U to every term below it, and no chain of them is
        # longer than all terms of the event together. FM subtracts its own factor from a sum that holds it: as if a
        # feature paired with itself, too.
        m = len(event.features)
        terms = m**2 * k**2 + 3 * m + 20
        own = spec.model.same_field_pairs or spec.model.type == "fm"
        self_pairs = r * sum((x[i] ** 2) * np.sum(v[i] ** 2) for i in range(m)) if own else 0.0
        if own:
            self_pairs += r * pair_sum("fm", abs(x), f, abs(v), None, same_field=True)
        dt = 2 * terms * U * (done.absolute + self_pairs) + U
        slope = 1.0 if case.loss == "squared" else 0.25
        if math.isnan(logit):  # squared loss without AdaGrad may diverge until a sum of its terms overflows
            assert math.isnan(p)
            assert done.absolute > FLOAT_MAX
            check_refused(before, after, event)
            continue
        assert abs(logit - done.logit) <= dt
        assert abs(p - done.p) <= dt * slope + U
        ddl = event.c * (dt * slope + 2 * U) + 4 * U * abs(done.dl)

        latent, linear = twin.c0_c1(opt.step, opt.l2), twin.c0_c1(opt.linear_step, opt.linear_l2)
        bias, minute = twin.c0_c1(opt.linear_step, 0.0), twin.bias.seen
        assert (after.bias.count, after.bias.seen) == (twin.bias.count, twin.bias.seen)
        if case.bias and event.c:
            n = before.decayed(before.bias.nw, before.bias.seen, minute)
            check_step(before.bias.w, n, done.dl, ddl, *bias, 0, after.bias.w, after.bias.nw, 6 * U)
        else:
            assert after.bias.w == before.bias.w

        if event.c and twin.kind in ("fwfm", "fefm"):
            _, size = pair_gradient(twin.kind, abs(x), f, abs(v), abs(before.s))
            ds = both_ways(r * size) * (ddl + terms * U * abs(done.dl))
            n = before.decayed(before.ns, before.bias.seen, minute)
            check = np.triu(np.ones((F, F), bool), 1)
            check_step(before.s[check], n[check], both_ways(done.gs)[check], ds[check], *twin.c0_c1(opt.step, 0.0), 0,
                       after.s[check], after.ns[check], 6 * U + fast)  # fmt: skip
        else:
            np.testing.assert_array_equal(after.s, before.s)

        places = {key: i for i, (key, _, _) in enumerate(event.features)} if event.c else {}
        assert places.keys() <= after.rows.keys() <= twin.rows.keys()  # expired ones may have been swept out
        size, _ = pair_gradient(twin.kind, abs(x), f, abs(v), abs(before.s), spec.model.same_field_pairs)
        if twin.kind == "fm":  # the sum it is subtracted from holds all, its own included
            size = abs(x)[:, None, None] * np.sum(abs(x)[:, None, None] * abs(v), axis=0) if m else size
        for key, row in after.rows.items():
            expected, old = twin.rows[key], before.rows.get(key)
            assert (row.field, row.count, row.seen) == (expected.field, expected.count, expected.seen)
            if key not in places:
                assert (row.w, row.nw, row.z) == (old.w, old.nw, old.z)
                np.testing.assert_array_equal(row.v, old.v)
                np.testing.assert_array_equal(row.nv, old.nv)
                continue
            i = places[key]
            # the event's own time is what the row was touched at
            now = math.floor((event.time_s - 1577836800) / 60)
            new = before.live(key, now) is None
            old = twin.blank(row.field) if new else old
            nv, nw = (n if new else before.decayed(n, old.seen, now) for n in (old.nv, old.nw))
            gw = done.gw[key]
            dgw = ddl * abs(x[i]) + 4 * U * (abs(gw) + abs(opt.linear_l2 * old.w))
            if case.linear and opt.l1:
                w, n, z = ftrl_proximal(old.w, nw, old.z, gw, opt.linear_step, opt.beta, opt.l1, opt.linear_l2)
                assert abs(row.nw - n) <= 2 * abs(gw) * dgw + dgw**2 + 6 * U * n
                # z moves by (1 + slope of sigma) dg <= (1 + 2 |w| / alpha) dg; w by that over beta / alpha + l2
                dz = dgw * (1 + 2 * abs(old.w) / opt.linear_step) + 8 * U * (abs(z) + abs(old.z) + abs(gw))
                dz += 8 * U * math.sqrt(n) * abs(old.w) / opt.linear_step
                assert abs(row.z - z) <= dz
                assert abs(row.w - w) <= (dz + abs(w) * dgw / opt.linear_step) / linear[0] + 8 * U * abs(w)
            elif case.linear:
                check_step(old.w, nw, gw, dgw, *linear, 0, row.w, row.nw, 6 * U + fast)
            else:
                assert row.w == 0
            used = np.arange(len(row.v)) != row.field if twin.kind == "ffm" else np.ones(len(row.v), bool)
            gv, v0 = done.gv[key][used], old.v[used]
            dg = (ddl + terms * U * abs(done.dl)) * r * size[i][used] + 4 * U * abs(opt.l2 * v0)
            start = starts(spec, key, twin.blocks)[used] if new else np.zeros_like(v0)
            check_step(v0, nv[used], gv, dg, *latent, start, row.v[used], row.nv[used], 6 * U + fast)


def check_refused(before, after, event):
    """Nothing was learned; new features of an event with weight have an empty row, never learned."""
    new = {key for key, _, _ in event.features if event.c} - before.rows.keys()
    assert after.rows.keys() <= before.rows.keys() | new
    for key, row in after.rows.items():
        old = before.rows.get(key) or before.blank(row.field)
        for name in ("w", "z", "count", "v"):
            np.testing.assert_array_equal(getattr(row, name), getattr(old, name))
    assert (after.bias.w, after.bias.nw, after.bias.count) == (before.bias.w, before.bias.nw, before.bias.count)
    np.testing.assert_array_equal(after.s, before.s)
    np.testing.assert_array_equal(after.ns, before.ns)


def starts(spec, key, blocks):
    values = [start_value(spec.model.seed, key, c, spec.model.start) for c in range(blocks * spec.model.k)]
    return np.array(values).reshape(blocks, spec.model.k)


@pytest.mark.parametrize("shape", ["dense", "multi"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_one_step_agrees_with_the_twin(kind, optimizer, shape, seed):
    check_one_step(Case(kind, optimizer, shape=shape), seed)


AXES = {
    "kind": KINDS, "optimizer": tuple(OPTIMIZERS), "loss": LOSSES, "shape": SHAPES, "k": (1, 3, 4, 8), "F": (1, 2, 9),
    "normalize": (False, True), "linear": (True, False), "bias": (True, False),
}  # fmt: skip
PRODUCT = [case for values in itertools.product(*AXES.values()) if (case := Case(*values)).possible()]


def pairwise(cases, rng):
    """Few cases in which every possible pair of two axes' values occurs: greedy."""
    def pairs(case):
        return set(itertools.combinations([(axis, getattr(case, axis)) for axis in AXES], 2))

    left = set().union(*map(pairs, cases))
    while left:
        few = [cases[i] for i in rng.integers(0, len(cases), 60)]
        best = max(few, key=lambda case: len(pairs(case) & left))
        if not pairs(best) & left:
            best = next(case for case in cases if pairs(case) & left)
        left -= pairs(best)
        yield best


@pytest.mark.parametrize("case", list(pairwise(PRODUCT, np.random.default_rng(0))), ids=str)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_one_step_of_a_pairwise_cover(case, seed):
    check_one_step(case, seed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_one_step_of_the_full_product(kind):
    for seed, case in enumerate(PRODUCT):
        if case.kind == kind:
            check_one_step(case, seed)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_many_steps_follow_the_twin(kind, optimizer):
    case = Case(kind, optimizer, shape="multi", normalize=kind != "lr")
    model, twin = Model(case.spec), Naive(case.spec)
    events = random_events(np.random.default_rng(4), 200, case.F, case.shape)
    events = [replace(event, time_s=1.7e9 + 1800.0 * i) for i, event in enumerate(events)]
    p = model.learn_many(to_batch(events, case.F, dense=False))
    np.testing.assert_allclose(p, [twin.learn(event).p for event in events], atol=2e-4)
    assert model.counts.rows_expired > 0


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_agrees_with_finite_differences(kind, loss):
    """With sgd, (w - w') / step is the kernel's gradient: of every weight that an event can touch."""
    case = Case(kind, "sgd", loss=loss, k=3 if kind != "lr" else 4, F=4)
    model, h = Model(case.spec), 1e-5
    rng = np.random.default_rng(11)
    model.learn_many(to_batch(random_events(rng, 60, 4, "multi"), 4, dense=False))
    (event,) = random_events(rng, 1, 4, "multi", missing=0)
    event.c, event.y, event.time_s = 1.0, 1.0, 1.7e9 + 60.0 * 179
    before = state(model)
    x, f, b, w, v, r = before.score(event)
    model.learn_many(to_batch([event], 4, dense=False))
    after = state(model)

    def loss_of(b=b, w=w, v=v, s=before.s):
        t = before.sum_up(x, f, b, w, v, r, s)
        return logloss(t, 1) if loss == "logistic" else 0.5 * (t - 1.0) ** 2

    def numeric(name, array, *places):
        up, down = (array.copy() for _ in range(2))
        for at in places:
            up[at] += h
            down[at] -= h
        return (loss_of(**{name: up}) - loss_of(**{name: down})) / (2 * h)

    # a weight below 4 is rounded by 2^-23, and by 2^-24 in other places on the way
    close = {"abs": 4 * 2.0**-22 / 0.05, "rel": 1e-4}
    by_bias = (loss_of(b=b + h) - loss_of(b=b - h)) / (2 * h)
    assert (before.bias.w - after.bias.w) / case.spec.optimizer.linear_step == pytest.approx(by_bias, **close)
    for i, (key, fi, _) in enumerate(event.features):
        if before.live(key, after.rows[key].seen) is None:
            continue
        old, new = before.rows[key], after.rows[key]
        assert (old.w - new.w) / 0.05 == pytest.approx(numeric("w", w, (i,)), **close)
        for g, d in np.ndindex(old.v.shape):
            if kind != "ffm" or g != fi:
                assert (old.v[g, d] - new.v[g, d]) / 0.05 == pytest.approx(numeric("v", v, (i, g, d)), **close)
    if kind in ("fwfm", "fefm"):
        for place in np.ndindex(before.s.shape):
            if place[0] < place[1] and (kind == "fwfm" or place[2] <= place[3]):
                twins = {place, (place[1], place[0], *place[2:]), (*place[:2], *place[:1:-1]),
                         (place[1], place[0], *place[:1:-1])}  # fmt: skip
                moved = (before.s[place] - after.s[place]) / 0.05
                assert moved == pytest.approx(numeric("s", before.s, *twins), **close)


@pytest.mark.parametrize("l1", [0.0, 0.4])
def test_ftrl_is_ftrl_proximal(l1):
    """3,000 steps of the one step (no l1) and of the form with z, from a start that is not zero."""
    rng, alpha, beta, l2, start = np.random.default_rng(0), 0.1, 0.7, 0.3, 0.02
    w, n = (0.0 if l1 else start), 0.0
    z = -w * (beta / alpha + l2)
    w2, n2, z2 = w, n, z
    for _ in range(3000):
        g = rng.normal() * 0.5 + 0.1
        if l1:
            sigma = g * g / (alpha * (math.sqrt(n + g * g) + math.sqrt(n)))
            z, n = z + g - sigma * w, n + g * g
            w = ftrl_weight(z, n, alpha, beta, l1, l2)
        else:
            w, n = one_step(w, n, g, beta / alpha + l2, 1 / alpha)
        w2, n2, z2 = ftrl_proximal(w2, n2, z2, g, alpha, beta, l1, l2)
        assert w == pytest.approx(w2, rel=1e-12, abs=1e-12)
    assert n == n2
    assert w != 0
