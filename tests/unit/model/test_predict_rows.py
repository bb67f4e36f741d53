"""The short way to a few rows' probabilities is the long one's answer, or none."""

import numpy as np
import pytest
from test_ranking import NOW, TTL, batch_of, key_of, learned, spec_of

from ctr.model.ranking import Ranker
from ctr.model.tally import Tally

F = 7


def rows_of(n, seed=0, below=8):
    values = np.random.default_rng(seed).integers(0, below, (n, F))
    return np.array([[key_of(f, value) for f, value in enumerate(row)] for row in values], np.uint64).ravel()


@pytest.mark.parametrize("options", [{}, {"normalize": True}, {"linear": False, "bias": False}, {"loss": "squared"}],
                         ids=str)  # fmt: skip
def test_equals_full_prediction_and_its_tally(options):
    model = learned(spec_of(**options))
    ranker, tally = Ranker(model), Tally(model)
    for n in (1, 2, 16):
        keys = rows_of(n, seed=n, below=10)
        model.mark_absent(keys[keys != 0])  # what has no row is known to have none
        counts = np.zeros((2, F), np.int64)
        for time_s in (NOW, NOW + 2 * TTL):
            batch = batch_of(keys, F, time_s)
            expected = model.predict_many(batch)
            np.testing.assert_allclose(ranker.predict(keys, time_s, counts), expected, rtol=0, atol=1e-6)
            tally.add_batch(batch)
        np.testing.assert_array_equal(counts, tally.counts)
        tally.counts[:] = 0


def test_nothing_is_counted_where_something_is_unknown():
    model = learned(spec_of())
    keys, counts = rows_of(3), np.zeros((2, F), np.int64)
    model.mark_absent(keys[keys != 0])
    keys[9] = key_of(2, 9)
    assert Ranker(model).predict(keys, NOW, counts) is None
    assert not counts.any()
    model.mark_absent(keys[9:10])
    assert Ranker(model).predict(keys, NOW, counts) is not None
    assert counts[0].sum() == np.count_nonzero(keys)
    assert counts[1].tolist()[2] > 0
