"""`Scorer.rank` against a real Redis: what it finds is what full prediction finds, whatever is known beforehand."""

import numpy as np
import pytest
from test_serve import MULTI, ONE_HOT, Publisher

from ctr.serving.scorer import Scorer

pytestmark = pytest.mark.redis


@pytest.mark.parametrize("text", [ONE_HOT, MULTI, ONE_HOT.replace("{k = 4", '{type = "fwfm", k = 4')],
                         ids=["ffm", "multi", "fwfm"])  # fmt: skip
def test_ranking_equals_predicting_every_row(redis_url, text):
    publisher = Publisher(redis_url, text)
    publisher.learn(publisher.rows(4000))
    context = {"user": 7, "site": "s1", "tags": [1, 5]}
    candidates = [{"ad": row["ad"], "price": row["price"]} for row in publisher.rows(60)] + [{"ad": "new"}, {}]
    full = publisher.predict([{**context, **candidate} for candidate in candidates])
    scorer = Scorer(redis_url, "ads")
    for _ in range(2):  # first from the store, then from memory
        ranking = scorer.rank(context, candidates)
        np.testing.assert_allclose(ranking.scores, full[ranking.order], rtol=0, atol=1e-6)
        assert sorted(ranking.order) == list(range(len(candidates)))
        assert (np.diff(ranking.scores) <= 0).all()
        best = scorer.rank(context, candidates, top=5)
        np.testing.assert_array_equal(best.order, ranking.order[:5])
    misses = scorer.cache.counts["misses"]
    scorer.rank(context, candidates)
    assert scorer.cache.counts["misses"] == misses
    assert scorer.rank(context, []).order.tolist() == []
    publisher.learn(publisher.rows(500))
    full = publisher.predict([{**context, **candidate} for candidate in candidates])
    ranking = scorer.rank(context, candidates)
    np.testing.assert_allclose(ranking.scores, full[ranking.order], rtol=0, atol=1e-6)
    scorer.close()
