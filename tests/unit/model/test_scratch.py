"""Room that is kept between calls: it grows with what comes, and what an earlier call left there does not matter."""

import numpy as np
import pytest
from naive import Event, to_batch

from ctr.model import Model
from ctr.model.scratch import CHUNK
from ctr.spec import Field, Spec
from ctr.spec import Model as ModelSpec


def make(**model):
    return Model(Spec(name="m", fields=(Field(name="a", multi=True), Field(name="b", multi=True)),
                      model=ModelSpec(max_rows=8192, **model)))  # fmt: skip


def event(n, f=0):
    return Event([(((f + 1) << 56) + i, f, 1.0) for i in range(n)] + [((9 << 56), 1, 1.0)], 1.0)


@pytest.mark.parametrize("libffm", [False, True])
def test_a_longer_event_than_ever_finds_room(libffm):
    longest = 2 * CHUNK + 100  # more entries than a chunk of one-hot events has
    settings = {"libffm": True, "bias": False, "linear": False} if libffm else {}
    model = make(**settings)
    assert len(model._scratch.rows) == 2 * CHUNK
    batches = [to_batch([event(n)], 2, dense=False) for n in (3, longest, 3)]
    kept = [model.learn_many(batch) for batch in batches]
    assert len(model._scratch.rows) >= longest
    whole = make(**settings)
    np.testing.assert_array_equal(whole.learn_many(to_batch([event(n) for n in (3, longest, 3)], 2, dense=False)),
                                  np.concatenate(kept))  # fmt: skip
    assert model.state_hash() == whole.state_hash()
    assert model.rows == longest + 1
