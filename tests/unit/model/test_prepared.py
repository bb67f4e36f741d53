"""Ads by place are ranked as their keys are, and what is kept of them never outlives a row that changed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ranking import NOW, TTL, batch_of, key_of, learned, spec_of

from ctr.model.prepared import PreparedAds
from ctr.model.ranking import AdQuestion, Ranker

F = 7
FIELDS = np.array([1, 4, 6])


def keys_of(rows, fields):
    return np.array([[key_of(f, value) for f, value in zip(fields, row, strict=True)] for row in rows], np.uint64)


def stocked(rows):
    ads = PreparedAds(FIELDS, 64)
    ads.put(np.arange(len(rows)), keys_of(rows, FIELDS))
    ads.use_index(ads.make_index())
    return ads


def asked(ads, places, context=(1, 0, 2, 8, 0, 3, 0), time_s=NOW):
    return AdQuestion(keys_of([context], range(F))[0], ads, np.array(places, np.int64), time_s)


@pytest.mark.parametrize(("kind", "k", "options"), [
    ("ffm", 4, {}), ("ffm", 8, {"normalize": True}), ("ffm", 4, {"linear": False}), ("ffm", 12, {}), ("fm", 8, {}),
    ("fwfm", 4, {}),
], ids=str)  # fmt: skip
def test_equals_full_prediction(kind, k, options):
    spec = spec_of(kind, F, k, **options)
    model = learned(spec)
    ranker = Ranker(model)
    row = st.lists(st.integers(0, 9), min_size=F, max_size=F)

    @settings(max_examples=30, deadline=None)
    @given(row, st.lists(row, min_size=1, max_size=9), st.data())
    def check(context, rows, data):
        ads = stocked([[row[f] for f in FIELDS] for row in rows])
        ranker.ads = ads
        places = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=12))
        question = asked(ads, places, context)
        full = [[rows[place][f] if f in FIELDS else context[f] for f in range(F)] for place in places]
        expected = batch_of(keys_of(full, range(F)), F)
        for _ in range(2):  # the first time it is found, then it is kept
            scores, unknown, features = ranker.score(question)
            np.testing.assert_allclose(scores, model.predict_many(expected), rtol=0, atol=1e-6)
            assert (unknown > 0) == (len(model.missing_keys(expected)) > 0)
            shared = np.count_nonzero(np.delete(question.context, FIELDS))
            assert features == (np.count_nonzero(expected.keys) - (len(places) - 1) * shared if places else 0)
        np.testing.assert_array_equal(question.batch.keys, expected.keys)

    check()


def test_a_row_that_changed_is_asked_for_again():
    """The kept sums are used, and only `touched` ends them: a change that is not told stays unseen."""
    spec = spec_of()
    trainer, model = learned(spec, weights_only=False), learned(spec)
    ads = stocked([(1, 2, 3), (4, 5, 1)])
    ranker = Ranker(model)
    ranker.ads = ads
    question = asked(ads, [0, 1])
    before, *_ = ranker.score(question)
    rows = np.tile(np.arange(1, F + 1), (5, 1))
    rows[:, FIELDS] = (1, 2, 3)  # the first ad alone
    rows[:, [0, 2, 3, 5]] = 0
    trainer.learn_many(batch_of(keys_of(rows, range(F)), F, NOW, np.ones(5)))
    block = trainer.take_dirty()
    model.load(block)
    expected = model.predict_many(question.batch)
    assert abs(expected[0] - before[0]) > 1e-3
    assert abs(ranker.score(question)[0][0] - expected[0]) > 1e-4  # its linear weights and own pairs are the old ones
    ads.touched(block.keys[:0])
    ads.touched(ads.keys_among(block.keys))
    np.testing.assert_allclose(ranker.score(question)[0], expected, rtol=0, atol=1e-6)
    assert set(ads.keys_among(block.keys)) <= set(ads.keys[0]) | set(ads.keys[1])


def test_rows_expire_without_being_touched():
    model = learned(spec_of())
    ads = stocked([(1, 2, 3), (4, 5, 1), (6, 7, 8)])
    model.mark_absent(ads.keys.ravel())
    ranker = Ranker(model)
    ranker.ads = ads
    for time_s in (NOW, NOW + TTL - 120, NOW + TTL + 120, NOW - 600, NOW):
        question = asked(ads, [0, 1, 2, 0], time_s=time_s)
        np.testing.assert_allclose(
            ranker.score(question)[0], model.predict_many(question.batch), rtol=0, atol=1e-6, err_msg=str(time_s)
        )


def test_what_is_not_in_the_index_or_in_use_is_not_kept():
    model = learned(spec_of())
    ads = PreparedAds(FIELDS, 8)
    ads.put(np.array([3]), keys_of([(1, 2, 3)], FIELDS))
    ranker = Ranker(model)
    ranker.ads = ads
    ranker.score(asked(ads, [3]))
    assert ads.kept[3, 2] == np.inf
    ads.use_index(ads.make_index())
    ranker.score(asked(ads, [3]))
    assert ads.kept[3, 2] < np.inf
    kept = ads.kept[3].copy()
    ads.kept[3] = 7.0  # nonsense, which must not be used by who is not told of changes
    ranker.ads = None
    question = asked(ads, [3])
    np.testing.assert_allclose(ranker.score(question)[0], model.predict_many(question.batch), rtol=0, atol=1e-6)
    ads.kept[3] = kept
    ads.forget_all()
    assert ads.kept[3, 2] == np.inf


def test_a_key_that_many_ads_share():
    ads = stocked([(1, 2, 3)] * 5 + [(2, 2, 3), (0, 0, 0)])
    ads.kept[:] = 1.0
    ads.touched(keys_of([(1, 9, 9)], FIELDS)[0])
    assert (ads.kept[:7, 2] == np.inf).tolist() == [True] * 5 + [False] * 2
    assert len(ads.used) == 4
    assert ads.memory_bytes > 0
