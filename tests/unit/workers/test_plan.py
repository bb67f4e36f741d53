"""The plan's formulas against what they stand for: sampling, the table's own count, ceilings."""

import json

import numpy as np
import pytest

from ctr.errors import SettingError
from ctr.model import Model
from ctr.spec import Field, Spec
from ctr.spec import Model as ModelSpec
from workers import plan
from workers.plan import PlanSettings


def test_distinct_features_are_what_sampling_finds():
    fields, values, events = 5, 4000, 3000
    ranks = np.arange(values)
    p = (ranks + 0.5) ** -1.25
    rng = np.random.default_rng(1)
    found = [
        sum(len(np.unique(rng.choice(values, events, p=p / p.sum()))) for _ in range(fields)) for _ in range(10)
    ]  # fmt: skip
    assert plan.distinct(events, fields, fields * values) == pytest.approx(np.mean(found), rel=0.01)


@pytest.mark.parametrize(("events", "measured"), [(10_000, 46_000), (100_000, 219_000), (500_000, 545_000)])
def test_distinct_features_of_the_stream_it_was_fitted_to(events, measured):
    assert plan.distinct(events, 39, 10**6) == pytest.approx(measured, rel=0.03)


def test_never_more_than_there_are():
    assert plan.distinct(1e12, 39, 5000) == pytest.approx(5000, rel=0.01)
    assert plan.distinct(1, 39, 10**6) == pytest.approx(39)


@pytest.mark.parametrize("kind", ["lr", "fm", "ffm", "fwfm", "fefm"])
def test_a_feature_in_the_table(kind):
    settings = PlanSettings(1, 1, fields=9, k=4, type=kind)
    spec = Spec(name="m", fields=tuple(Field(name=f"f{i}") for i in range(9)), model=ModelSpec(type=kind, k=4))
    full = Model(spec, max_rows=200_000)
    per_row = (full.memory_bytes - full.rows) / 200_000 + full.table.stride * 4 + 9  # index and marks are all there
    assert plan.table_row_bytes(plan.RowShape.of(plan._spec(settings))) == pytest.approx(per_row, rel=0.02)


def test_the_interval_stretches_to_what_fits_under_the_ceiling():
    calm = plan.plan(PlanSettings(1000, 10**6))
    assert calm.interval_s == 0.5
    busy = plan.plan(PlanSettings(150_000, 10**6))
    assert busy.rows_per_s <= 100_000
    assert 2 < busy.interval_s < busy.freshness_s
    assert plan.plan(PlanSettings(150_000, 10**6, rows_per_s=0)).interval_s == 0.5
    with pytest.raises(SettingError, match="rows_per_s"):
        plan.plan(PlanSettings(150_000, 10**9, rows_per_s=10))
    with pytest.raises(SettingError, match="fefm"):
        plan.plan(PlanSettings(1, 1, type="fefm", k=32))


def test_it_is_shown_and_given_to_programs():
    said = []
    plan.run(PlanSettings(10_000, 10**6), said.append)
    assert any(line.startswith("Redis memory") for line in said)
    said.clear()
    plan.run(PlanSettings(10_000, 10**6), said.append, as_json=True)
    assert json.loads(said[0])["row_bytes"] == 4 + 8 * 39 * 4
