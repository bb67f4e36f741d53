"""Speed of the ranking kernel on one core: `python tests/benchmarks/ranking.py`."""

from __future__ import annotations

import numpy as np
from engine import CRITEO, alone, cardinalities, events, filled_model, keys_of
from measure import main, report, taking_turns

from ctr.model.prepared import PreparedAds
from ctr.model.ranking import AdQuestion, Question, Ranker

CONTEXT, CANDIDATES = 30, 500
"""Fields of the context, of Criteo's 39; the other 9 are the candidates'."""


def asked(cards, seed):
    """One context and its candidates, on ready keys."""
    ids, _ = events(cards, CANDIDATES + 1, seed)
    keys = keys_of(ids)
    fields = np.arange(CONTEXT, len(cards))
    return Question(keys[0].copy(), fields, np.ascontiguousarray(keys[1:, CONTEXT:]), 1.7e9)


def bench_ranking(k, bits):
    """500 candidates by the ranking kernel against full prediction of the same rows; look-up included in both.

    Named by their keys, and as ads of a catalogue, of which what they alone decide is kept.
    """
    cards = cardinalities(CRITEO, 1 << bits)
    model = filled_model(cards, k)
    ranker = Ranker(model)
    question, others = asked(cards, 1), [asked(cards, seed) for seed in range(2, 42)]
    question.batch  # noqa: B018  made before the clock starts
    np.testing.assert_allclose(ranker.score(question)[0], model.predict_many(question.batch), rtol=0, atol=1e-6)
    ranker.ads = PreparedAds(question.fields, CANDIDATES)
    ranker.ads.put(np.arange(CANDIDATES), question.keys)
    ranker.ads.use_index(ranker.ads.make_index())
    by_id = AdQuestion(question.context, ranker.ads, np.arange(CANDIDATES), question.time_s)
    np.testing.assert_allclose(ranker.score(by_id)[0], model.predict_many(question.batch), rtol=0, atol=1e-6)
    taken = taking_turns({
        "full": lambda _turn: [model.predict_many(question.batch) for _ in range(10)],
        "warm": lambda _turn: [ranker.score(question) for _ in range(10)],
        "by id": lambda _turn: [ranker.score(by_id) for _ in range(10)],
    })  # fmt: skip
    cold = taking_turns({"cold": lambda _turn: [ranker.score(other) for other in others]})
    suite = f"rank criteo39 {CONTEXT} + {len(cards) - CONTEXT} fields k={k} 2^{bits}"
    full = taken["full"] / 10
    for name, what in (("warm", "candidates, warm"), ("by id", "ads of a catalogue, warm")):
        each = taken[name] / 10
        report(suite, f"{CANDIDATES} {what} (baseline: predict_many)", each * 1e6, "us", full * 1e6, full / each)
    report(suite, f"{CANDIDATES} candidates, other ones each time", cold["cold"] / len(others) * 1e6, "us")


SUITES = [(f"rank k={k} 2^{bits}", alone, (bench_ranking, k, bits)) for k in (4, 8) for bits in (10, 16, 20)]

if __name__ == "__main__":
    main(SUITES, __doc__)
