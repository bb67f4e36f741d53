"""Ranking equals full prediction: every family, missing fields, unknown features, expired rows."""


import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import Event, Naive

from ctr.events.batch import Batch
from ctr.kernels import build
from ctr.kernels.rank.bound import Scratch
from ctr.model import Model
from ctr.model.ranking import Question, Ranker
from ctr.model.tally import Tally
from ctr.spec import Field, Lifetime, Spec
from ctr.spec import Model as ModelSpec

NOW = 1.7e9
TTL = 3600.0


def spec_of(kind="ffm", F=7, k=4, **options):
    return Spec(
        name="m", fields=tuple(Field(name=f"f{i}") for i in range(F)), lifetime=Lifetime(ttl_s=TTL),
        model=ModelSpec(type=kind, k=k, max_rows=1024, start=0.3, **options),
    )  # fmt: skip


def batch_of(keys, F, time_s=NOW, labels=None):
    keys = np.asarray(keys, np.uint64).reshape(-1, F)
    n = len(keys)
    labels = np.zeros(n, np.float32) if labels is None else np.asarray(labels, np.float32)
    return Batch(
        keys.ravel(), np.ones(n * F, np.float32), np.tile(np.arange(F, dtype=np.uint8), n), np.arange(n + 1) * F,
        labels, np.ones(n, np.float32), np.full(n, time_s), np.zeros(n, np.int32), np.arange(n), True,
    )  # fmt: skip


def key_of(f, value):
    """Values 0: missing; 1-5 learned lately; 6, 7 learned long ago; 8, 9 never learned."""
    return 0 if value == 0 else 1_000_000 * (f + 1) + value


def learned(spec, seed=0, *, weights_only=True):
    """A scorer's model with recent and with expired rows."""
    F, random = len(spec.fields), np.random.default_rng(seed)
    trainer = Model(spec)
    for time_s, low, high in ((NOW - 3 * TTL, 6, 8), (NOW - 60, 1, 6)):
        values = random.integers(low, high, (60, F))
        keys = [[key_of(f, value) for f, value in enumerate(row)] for row in values]
        trainer.learn_many(batch_of(keys, F, time_s, random.random(60) < 0.4))
    if not weights_only:
        return trainer
    model = Model(spec, weights_only=True)
    model.load(trainer.take_dirty())
    return model


def questions(F, values):
    """A question and its rows in full, from (n + 1, F) values and the candidates' fields."""
    rows, fields = values
    keys = np.array([[key_of(f, value) for f, value in enumerate(row)] for row in rows], np.uint64).reshape(-1, F)
    full = np.tile(keys[0], (len(keys) - 1, 1))
    full[:, fields] = keys[1:][:, fields]
    own = np.ascontiguousarray(keys[1:][:, fields])
    return Question(keys[0], np.array(fields, np.int64), own, NOW), batch_of(full, F)


@st.composite
def asked(draw, F):
    n = draw(st.integers(0, 11))
    row = st.lists(st.integers(0, 9), min_size=F, max_size=F)
    fields = draw(st.lists(st.integers(0, F - 1), min_size=1, max_size=F, unique=True).map(sorted))
    return draw(st.lists(row, min_size=n + 1, max_size=n + 1)), fields


CASES = [
    ("lr", 4, {}), ("fm", 8, {}), ("fwfm", 4, {}), ("fefm", 3, {}), ("ffm", 3, {}), ("ffm", 8, {}), ("ffm", 12, {}),
    ("ffm", 4, {"normalize": True}), ("ffm", 4, {"linear": False, "bias": False}), ("ffm", 4, {"loss": "squared"}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "k", "options"), CASES, ids=str)
@pytest.mark.parametrize("F", [pytest.param(2, marks=pytest.mark.slow), 13])
def test_equals_full_prediction(kind, k, options, F):
    spec = spec_of(kind, F, k, **options)
    model = learned(spec)
    ranker = Ranker(model)
    assert ranker.has_kernel == (kind == "ffm" and k <= 8)

    @settings(max_examples=30, deadline=None)
    @given(asked(F))
    def check(values):
        question, full = questions(F, values)
        before = model.state_hash()
        scores, unknown, features = ranker.score(question)
        assert features == (question.features if len(question) else 0)
        np.testing.assert_allclose(scores, model.predict_many(full), rtol=0, atol=1e-6)
        logits, *_ = ranker.score(question, probabilities=False)
        np.testing.assert_allclose(logits, model.logits_many(full), rtol=0, atol=4e-6)
        assert (unknown > 0) == (len(model.missing_keys(question.batch)) > 0)
        np.testing.assert_array_equal(question.batch.keys, full.keys)
        assert model.state_hash() == before

    check()


def test_equals_the_twin():
    """The kernel against the maths itself, learned by both from the same events."""
    F, spec = 6, spec_of(F=6, normalize=True)
    model, naive, random = Model(spec), Naive(spec), np.random.default_rng(1)
    for at in range(80):
        values = random.integers(0, 6, F)
        keys, label = [key_of(f, value) for f, value in enumerate(values)], float(random.random() < 0.4)
        model.learn_many(batch_of(keys, F, NOW - 600 + at, [label]))
        naive.learn(Event([(int(key), f, 1.0) for f, key in enumerate(keys) if key], y=label, time_s=NOW - 600 + at))
    question, full = questions(F, (random.integers(0, 6, (50, F)), [1, 4, 5]))
    expected = [
        naive.predicted(naive.logit(Event([(int(key), f, 1.0) for f, key in enumerate(row) if key], time_s=NOW)))
        for row in full.keys.reshape(-1, F)
    ]
    scores, *_ = Ranker(model).score(question)
    assert np.ptp(scores) > 0.01
    np.testing.assert_allclose(scores, expected, rtol=0, atol=2e-4)  # 80 steps with a rough reciprocal square root


def test_unknown_is_counted_until_it_is_known_to_be_absent():
    spec = spec_of()
    model = learned(spec)
    question, full = questions(7, ([[8] * 7, [9] * 7, [9, 0, 0, 0, 0, 0, 1]], [0, 6]))
    ranker = Ranker(model)
    assert ranker.score(question)[1] == 5 + 3  # of the context all but the candidates' fields; three of the candidates'
    model.mark_absent(model.missing_keys(full))
    assert ranker.score(question)[1] == 0


def test_a_learning_model_ranks_too():
    spec = spec_of()
    model = learned(spec, weights_only=False)
    question, full = questions(7, ([[1] * 7, [2] * 7, [3] * 7], [2, 3]))
    np.testing.assert_allclose(Ranker(model).score(question)[0], model.predict_many(full), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["ffm", "fm"])
def test_of_a_ranking_the_context_and_one_candidate_are_tallied(kind):
    """By the kernel, where there is one; and nothing where a feature is unknown."""
    F, spec = 6, spec_of(kind, 6)
    model, random = learned(spec), np.random.default_rng(5)
    question, full = questions(F, (random.integers(0, 10, (9, F)), [1, 4]))
    found, expected = Tally(model), Tally(model)
    ranker = Ranker(model, found)
    assert ranker.score(question, sample=3).unknown > 0
    model.mark_absent(full.keys[full.keys != 0])
    ranker.score(question)
    assert not found.counts.any()
    for sample in (3, 0, 7):
        assert ranker.score(question, sample=sample).unknown == 0
        expected.add_batch(full.slice(sample, sample + 1))
    assert expected.counts[1].any()
    np.testing.assert_array_equal(found.counts, expected.counts)


@pytest.mark.parametrize("bits", [2, 5, 10])
def test_rows_are_told_apart(bits):
    """However often two want the same entry, each candidate's spot has its row; none is of the field before."""
    n, random = 200, np.random.default_rng(bits)
    apart = build.load("rank/ffm", F=7, KP=4).apart
    none = np.empty(0, np.float32)
    scratch = Scratch(
        M=none, base=np.empty(0, np.int64), sums=none, seen=np.zeros(1 << bits, np.uint64),
        met=np.full(n + 3, -1), dots=none, spot_of=np.full(n, -1),
    )  # fmt: skip
    begin = 1
    for _ in range(5):  # fields that have the same rows
        rows = random.integers(0, 60, n) * 32
        end = apart(rows, n, begin, np.uint64(64 - bits), scratch)
        different = len(np.unique(rows))
        assert different <= end - begin <= n
        assert bits < 10 or end - begin < 2 * different
        assert scratch.spot_of.min() >= 0
        assert scratch.spot_of.max() < end - begin
        np.testing.assert_array_equal(scratch.met[scratch.spot_of], rows)
        begin = end
