"""Ranking against a real Redis: what it finds is what full prediction finds, whatever is known beforehand."""

import json

import numpy as np
import pytest
from test_serve import MULTI, ONE_HOT, Publisher, served  # noqa: F401  a fixture

from ctr.serving.scorer import Scorer
from ctr.store import ads

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


def test_rankings_over_http(redis_url, served):  # noqa: F811
    """Ids and objects, by the kernels and by the long way: what predicting every row in full gives."""
    publisher = Publisher(redis_url)
    publisher.learn(publisher.rows(2000))
    known = {f"id-{i}": {"ad": row["ad"], "price": int(row["price"])} for i, row in enumerate(publisher.rows(40))}
    silent = {"silent": {"ad": "a1"}, "null": {"ad": "a2", "price": None}}
    stored = known | silent
    ads.put(publisher.client, "ads", ((name, json.dumps(ad).encode()) for name, ad in stored.items()))
    here = served(redis_url)
    here.eventually(lambda: len(here.scorer.current.catalogue) == len(stored))
    here.eventually(lambda: here.scorer.current._scans, within_s=120)

    def check(context, names, *, plain, objects=False):
        candidates = [stored[name] for name in names] if objects else names
        body = json.dumps({"context": context, "candidates": candidates}).encode()
        assert (here.scorer.current.scan_ranking(body, 1024) is not None) == plain
        answer = here.http.post("/v1/models/ads:rank", content=body)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        full = publisher.predict([{**context, **stored[name]} for name in names if name in stored])
        order = np.array(found["order"])
        places = [place for place, name in enumerate(names) if name in stored]
        assert sorted(order) == places
        want = dict(zip(places, full, strict=True))
        np.testing.assert_allclose(found["scores"], [want[place] for place in order], rtol=0, atol=1e-6)
        assert (np.diff(found["scores"]) <= 0).all()
        assert found["unknown"] == [name for name in names if name not in stored]

    names = list(known)
    for _ in range(2):
        check({"user": 7, "site": "s1"}, names, plain=True)
        check({"user": 7, "price": 3.0}, names, plain=True)  # all of these ads have a price of their own
        check({"user": 7}, [*names, *silent], plain=True)  # some have none, but neither has the context
        check({"user": 7, "price": 3.0}, [*names, *silent], plain=False)
        check({"user": 7}, [*names, "nobody"], plain=False)
        check({"user": 7, "price": 3.0}, names, plain=True, objects=True)
        check({"user": 7}, [*names, "silent"], plain=False, objects=True)  # not all name the same columns
        check({"user": "é\n"}, names, plain=False)  # an escape
        publisher.learn(publisher.rows(500))
        here.eventually(lambda: here.scorer.cache.due_rows == 0 and np.allclose(
            here.scorer.rank({"user": 7}, names).scores.max(),
            publisher.predict([{"user": 7, **known[name]} for name in names]).max(), rtol=0, atol=1e-6,
        ))  # fmt: skip
