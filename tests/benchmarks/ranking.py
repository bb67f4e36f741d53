"""Speed of the ranking kernel on one core: `python tests/benchmarks/ranking.py`."""

from __future__ import annotations

import numpy as np
from engine import CRITEO, alone, cardinalities, events, filled_model, keys_of
from measure import main, report, taking_turns

from ctr.model.ranking import Question, Ranker

CONTEXT, CANDIDATES = 30, 500
"""Fields of the context, of Criteo's 39; the other 9 are the candidates'."""


def asked(cards, seed):
    """One context and its candidates, on ready keys."""
    ids, _ = events(cards, CANDIDATES + 1, seed)
    keys = keys_of(ids)
    fields = np.arange(CONTEXT, len(cards))
    return Question(keys[0].copy(), fields, np.ascontiguousarray(keys[1:, CONTEXT:]), 1.7e9)


def bench_ranking(k, bits):
    """500 candidates by the ranking kernel against full prediction of the same rows; look-up included in both."""
    cards = cardinalities(CRITEO, 1 << bits)
    model = filled_model(cards, k)
    ranker = Ranker(model)
    question, others = asked(cards, 1), [asked(cards, seed) for seed in range(2, 42)]
    question.batch  # noqa: B018  made before the clock starts
    np.testing.assert_allclose(ranker.score(question)[0], model.predict_many(question.batch), rtol=0, atol=1e-6)
    taken = taking_turns({
        "full": lambda _turn: [model.predict_many(question.batch) for _ in range(10)],
        "warm": lambda _turn: [ranker.score(question) for _ in range(10)],
    })  # fmt: skip
    cold = taking_turns({"cold": lambda _turn: [ranker.score(other) for other in others]})
    suite = f"rank criteo39 {CONTEXT} + {len(cards) - CONTEXT} fields k={k} 2^{bits}"
    full, warm = taken["full"] / 10, taken["warm"] / 10
    report(suite, f"{CANDIDATES} candidates, warm (baseline: predict_many)", warm * 1e6, "us", full * 1e6, full / warm)
    report(suite, f"{CANDIDATES} candidates, other ones each time", cold["cold"] / len(others) * 1e6, "us")


SUITES = [(f"rank k={k} 2^{bits}", alone, (bench_ranking, k, bits)) for k in (4, 8) for bits in (10, 16, 20)]

if __name__ == "__main__":
    main(SUITES, __doc__)
