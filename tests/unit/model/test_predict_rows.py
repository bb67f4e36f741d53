"""The short way to a few rows' probabilities is the long one's answer, or none."""

import msgspec
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
    counted, tally = Tally(model), Tally(model)
    ranker = Ranker(model, counted)
    for n in (1, 2, 16):
        keys = rows_of(n, seed=n, below=10)
        model.mark_absent(keys[keys != 0])  # what has no row is known to have none
        for time_s in (NOW, NOW + 2 * TTL):
            batch = batch_of(keys, F, time_s)
            expected = model.predict_many(batch)
            assert ranker.predict_few(keys, n, time_s) == np.count_nonzero(keys)
            np.testing.assert_allclose(ranker.few[:n], expected, rtol=0, atol=1e-6)
            tally.add_batch(batch)
        np.testing.assert_array_equal(counted.counts, tally.counts)


def test_a_row_is_taken_from_more_keys():
    model = learned(spec_of())
    keys, ranker = rows_of(2), Ranker(model)
    model.mark_absent(keys[keys != 0])
    ranker.predict_few(keys, 2, NOW)
    first = ranker.few[0]
    keys[F + 3] = key_of(3, 99)  # unknown, but of the second row
    assert ranker.predict_few(keys, 1, NOW) == np.count_nonzero(keys[:F])
    assert ranker.few[0] == first


def test_another_ttl_counts_at_once():
    model = learned(spec_of())
    keys, ranker = rows_of(1), Ranker(model)
    model.mark_absent(keys[keys != 0])
    later = NOW + 2 * TTL
    ranker.predict_few(keys, 1, later)
    expired = ranker.few[0]
    spec = model.spec
    model.set_spec(msgspec.structs.replace(spec, lifetime=msgspec.structs.replace(spec.lifetime, ttl_s=10 * TTL)))
    ranker.predict_few(keys, 1, later)
    assert ranker.few[0] != expired
    np.testing.assert_allclose(ranker.few[:1], model.predict_many(batch_of(keys, F, later)), rtol=0, atol=1e-6)


def test_nothing_is_counted_where_something_is_unknown():
    model = learned(spec_of())
    keys, tally = rows_of(3), Tally(model)
    model.mark_absent(keys[keys != 0])
    keys[9] = key_of(2, 9)
    ranker, counts = Ranker(model, tally), tally.counts
    assert ranker.predict_few(keys, 3, NOW) == -1
    assert not counts.any()
    model.mark_absent(keys[9:10])
    assert ranker.predict_few(keys, 3, NOW) == np.count_nonzero(keys)
    assert counts[0].sum() == np.count_nonzero(keys)
    assert counts[1].tolist()[2] > 0
