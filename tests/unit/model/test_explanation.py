"""What features and pairs add to a logit: every family against the twin's own double loop, and against the kernels."""

from dataclasses import replace

import numpy as np
import pytest
from naive import Event, Naive, interaction, start_value, to_batch, unpack_pairs, unpack_rows

from ctr.model import BIAS_KEY, Model
from ctr.model.explanation import Excerpt
from ctr.rows import RowBlock
from ctr.spec import Field, Lifetime, Optimizer, Spec
from ctr.spec import Model as ModelSpec

NOW, TTL, F = 1.7e9, 3600.0, 5
U = 2.0**-24

CASES = [
    ("lr", 4, {}), ("fm", 3, {}), ("fm", 4, {"same_field_pairs": True}), ("ffm", 4, {}),
    ("ffm", 3, {"normalize": True}),
    ("ffm", 8, {"linear": False, "bias": False}), ("fwfm", 4, {}), ("fefm", 3, {"normalize": True}), ("fefm", 4, {}),
    ("ffm", 4, {"loss": "squared"}),
]  # fmt: skip


def spec_of(kind, k, *, multi, **options):
    return Spec(
        name="m", fields=tuple(Field(name=f"f{i}", multi=multi) for i in range(F)), lifetime=Lifetime(ttl_s=TTL),
        model=ModelSpec(type=kind, k=k, max_rows=1024, start=0.3, **options), optimizer=Optimizer(step=0.3),
    )  # fmt: skip


def key_of(f, value):
    """Values 1-4 are learned lately, 5 and 6 long ago, 7 and 8 never."""
    return 1_000_000 * (f + 1) + value


def event(random, low, high, time_s, *, multi):
    features = []
    for f in range(F):
        count = int(random.integers(0, 3)) if multi else int(random.random() < 0.8)
        values = sorted(random.choice(np.arange(low, high), count, replace=False).tolist())
        features += [(key_of(f, value), f, float(np.float32(random.normal())) if multi else 1.0) for value in values]
    return Event(features, float(random.integers(2)), 1.0, time_s)


def trained(spec, random, *, multi):
    """A scorer's model, and the twin in the same state."""
    model = Model(spec)
    events = [event(random, 5, 7, NOW - 3 * TTL, multi=multi) for _ in range(40)]
    events += [event(random, 1, 5, NOW - 60, multi=multi) for _ in range(80)]
    model.learn_many(to_batch(events, F, dense=not multi))
    keys, rows = model._table.held()
    block = RowBlock(keys, model._table.pack(rows))
    twin = Naive(spec)
    twin.rows = unpack_rows(block, F, spec.model.k, spec.model.type)
    twin.bias = twin.rows.pop(BIAS_KEY)
    if spec.model.type in ("fwfm", "fefm"):
        twin.s, twin.ns = unpack_pairs(block, F, spec.model.k, spec.model.type)
    scorer = Model(spec, weights_only=True)
    scorer.load(block)
    return scorer, twin


@pytest.mark.parametrize("multi", [False, True], ids=["one-hot", "multi"])
@pytest.mark.parametrize(("kind", "k", "options"), CASES, ids=str)
def test_terms_are_those_of_the_twin(kind, k, options, multi):
    random = np.random.default_rng(k)
    spec = spec_of(kind, k, multi=multi, **options)
    model, twin = trained(spec, random, multi=multi)
    seen_pair = seen_unknown = False
    for _ in range(40):
        asked = event(random, 1, 9, NOW, multi=multi)
        batch = to_batch([asked], F, dense=not multi)
        before = model.state_hash()
        got = Excerpt.of(model, batch).contributions()
        x, f, b, w, v, r = twin.score(asked)
        assert got.keys.tolist() == [key for key, _, _ in asked.features]
        live = [twin.live(key, np.floor((NOW - 1577836800) / 60)) is not None for key, _, _ in asked.features]
        assert got.known.tolist() == live
        assert got.bias == pytest.approx(b, abs=1e-12)
        np.testing.assert_allclose(got.linear, w * x, rtol=1e-12, atol=0)
        expected = np.zeros((len(x), len(x)))
        for i in range(len(x)):
            for j in range(i + 1, len(x)):
                if f[i] != f[j] or spec.model.same_field_pairs:
                    expected[i, j] = r * x[i] * x[j] * interaction(kind, v[i], v[j], f[i], f[j], twin.s)
        np.testing.assert_allclose(got.pairs, expected, rtol=1e-9, atol=1e-12)
        assert not got.linear[~got.known].any()
        assert not got.pairs[~got.known].any()
        assert not got.pairs[:, ~got.known].any()
        seen_pair, seen_unknown = seen_pair or got.pairs.any(), seen_unknown or not all(live)
        # the kernel sums in float32: each of its terms k products, each of these rounded a few times
        absolute = abs(b) + np.abs(w * x).sum() + np.abs(r * np.outer(x, x) * (np.abs(v).max(initial=0) ** 2 * k)).sum()
        assert abs(got.logit - model.logits_many(batch)[0]) <= 8 * U * (absolute + 1)
        assert model.state_hash() == before
    assert seen_pair or kind == "lr"
    assert seen_unknown


def test_libffm_counts_start_weights_and_pairs_inside_a_field():
    spec = Spec(
        name="m", fields=tuple(Field(name=f"f{i}", multi=True) for i in range(3)),
        model=ModelSpec(type="ffm", k=3, libffm=True, bias=False, linear=False, normalize=True, start=1.0,
                        max_rows=1024),
    )  # fmt: skip
    model = Model(spec)
    features = [(key_of(0, 1), 0, 1.0), (key_of(0, 2), 0, 2.0), (key_of(1, 1), 1, -1.5), (key_of(2, 1), 2, 1.0)]
    known = Event(features[:2], 1.0, 1.0, NOW)
    model.learn_many(to_batch([known], 3, dense=False))
    batch = to_batch([Event(features, 0.0, 1.0, NOW)], 3, dense=False)
    got = Excerpt.of(model, batch).contributions()
    assert got.known.tolist() == [True, True, False, False]
    assert got.logit == pytest.approx(float(model.logits_many(batch)[0]), abs=1e-6)
    assert got.pairs[0, 1] != 0
    x = np.array([x for _, _, x in features])

    def start(i, g):  # uniform in [0, 1/sqrt k), from the same draw as the other start's +-1
        return np.array([(start_value(1, features[i][0], g * 3 + d, 1.0) + 1) / 2 for d in range(3)]) / np.sqrt(3)

    expected = x[2] * x[3] / (x @ x) * start(2, 2) @ start(3, 1)  # both unknown: of fields 1 and 2
    assert got.pairs[2, 3] == pytest.approx(expected, rel=1e-5)


def test_an_event_without_features_is_its_bias():
    spec = spec_of("ffm", 4, multi=False, base_rate=0.2)
    got = Excerpt.of(Model(spec, weights_only=True), to_batch([Event([])], F, dense=True)).contributions()
    assert (len(got.keys), got.pairs.shape) == (0, (0, 0))
    assert got.logit == pytest.approx(np.log(0.2 / 0.8), rel=1e-6)


def test_no_ttl_means_for_ever():
    spec = replace_ttl(spec_of("fm", 4, multi=False), 0.0)
    model = Model(spec)
    model.learn_many(to_batch([Event([(key_of(0, 1), 0, 1.0)], 1.0, 1.0, 1.5e9)], F, dense=True))
    old = to_batch([Event([(key_of(0, 1), 0, 1.0)], time_s=NOW)], F, dense=True)
    assert Excerpt.of(model, old).contributions().known.tolist() == [True]
    excerpt = Excerpt.of(model, old)
    assert replace(excerpt, spec=replace_ttl(spec, 60.0)).contributions().known.tolist() == [False]


def replace_ttl(spec, ttl_s):
    import msgspec

    return msgspec.structs.replace(spec, lifetime=Lifetime(ttl_s=ttl_s))
