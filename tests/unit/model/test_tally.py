"""Counts by field: known features, and those without a row; one of which nothing is known is neither."""

import numpy as np

from ctr.model import Model, RowBlock
from ctr.model.tally import Tally
from ctr.spec import Field, Spec


def test_counts_by_field():
    spec = Spec(name="m", fields=tuple(Field(name=f"f{i}") for i in range(3)))
    model = Model(spec, weights_only=True, max_rows=1024)
    held, absent, unheard = 1 << 20, 1 << 21, 1 << 22
    model.load(RowBlock(np.array([held], np.uint64), np.zeros((1, model.row_bytes), np.uint8)))
    model.mark_absent(np.array([absent], np.uint64))
    tally = Tally(model)
    keys = np.array([held, absent, 0, held, unheard, absent, 0, held, absent], np.uint64)
    tally.add(keys, np.tile(np.arange(3, dtype=np.uint8), 3))
    np.testing.assert_array_equal(tally.counts, [[2, 2, 2], [0, 1, 2]])
    before = model.state_hash()
    tally.add(keys[:3], np.arange(3, dtype=np.uint8))
    np.testing.assert_array_equal(tally.counts, [[3, 3, 2], [0, 2, 2]])
    assert model.state_hash() == before
