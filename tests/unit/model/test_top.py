"""Top features of a table against a plain look at every packed row."""

import numpy as np
import pytest
from numpy.random import default_rng

from ctr import spec as specification
from ctr.events import encode_rows
from ctr.model import Model
from ctr.model import top as top_module
from ctr.model.top import Top
from ctr.rows import HEADER_BYTES, RowShape

FAMILIES = ("ffm", "fm", "lr")


def model_of(kind, seed=1, events=400):
    spec = specification.parse(f"""
        name = "ads"
        fields = [{{name = "user"}}, {{name = "ad"}}, {{name = "site"}}]
        [model]
        type = "{kind}"
        [event]
        label = "click"
    """)
    random = default_rng(seed)
    rows = [
        {"user": int(random.zipf(1.3)) % 1000, "ad": int(random.integers(40)), "site": int(random.integers(5))}
        for _ in range(events)
    ]
    batch = encode_rows(spec, rows, times_s=0.0)
    batch.labels[:] = random.random(events) < 0.3
    model = Model(spec)
    model.learn_many(batch)
    return model


def heads(model):
    """{key: (field, linear weight, updates)} of all features, from packed rows by their documented format."""
    found, shape = {}, RowShape.of(model.spec)
    for block in model.blocks():
        for key, data in zip(block.keys.tolist(), block.data, strict=True):
            if key >= 65536:
                floats, field = data[HEADER_BYTES:].view(np.float32), int(data[0])
                head = shape.head_step * field
                found[key] = field, float(floats[head]), int(floats[head + 1])
    return found


def listed(features):
    columns = features.keys, features.fields, features.weights, features.updates
    return {key: rest for key, *rest in zip(*(column.tolist() for column in columns), strict=True)}


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_largest_of_all_rows(kind, monkeypatch):
    monkeypatch.setattr(top_module, "_CHUNK", 64)
    model = model_of(kind)
    truth = heads(model)
    heavy, frequent, typical = Top(model.table, most=9).look()
    for features, by in ((heavy, lambda head: abs(head[1])), (frequent, lambda head: head[2])):
        assert {key: tuple(rest) for key, rest in listed(features).items()}.items() <= truth.items()
        sizes = [by(truth[key]) for key in features.keys.tolist()]
        assert sizes == sorted(map(by, truth.values()), reverse=True)[:9]
    most = {field: max(head[2] for head in truth.values() if head[0] == field) for field in range(3)}
    assert dict(zip(typical.fields.tolist(), typical.updates.tolist(), strict=True)) == most


def test_a_large_table_takes_several_looks(monkeypatch):
    model = model_of("ffm")
    whole = [set(features.keys.tolist()) for features in Top(model.table, most=5).look()]
    monkeypatch.setattr(top_module, "LOOK_ROWS", model.rows // 40)
    top = Top(model.table, most=5)
    looks = [[set(features.keys.tolist()) for features in top.look()] for _ in range(42)]
    assert looks[0] != whole
    assert looks[-1][0] == whole[0]
    # which of those learned equally often come last is a matter of chance
    truth = heads(model)
    assert sorted(truth[key][2] for key in looks[-1][1]) == sorted(truth[key][2] for key in whole[1])


def test_rows_that_left_are_not_shown():
    model = model_of("ffm")
    top = Top(model.table, most=5)
    heavy, *_ = top.look()
    model.forget(heavy.keys)
    again, *_ = top.look()
    assert not set(again.keys.tolist()) & set(heavy.keys.tolist())
    assert len(again.keys) == 5


def test_an_empty_table_has_none():
    spec = specification.parse('name = "ads"\nfields = [{name = "user"}]')
    assert [len(features.keys) for features in Top(Model(spec).table).look()] == [0, 0, 0]
