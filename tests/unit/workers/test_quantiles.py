import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from workbench import ctr

from ctr import spec as specification
from workers.quantiles import quantile_edges

SPEC = """# our model
name = "ads"
[event]
label = "click"

[[fields]]
name = "user"

[[fields]]           # cents
name = "price"
source = "ad.price"
transform = "bins"
quantiles = 4

[[fields]]
name = "age"
transform = "bspline"
quantiles = 2

[[fields]]
name = "depth"
transform = "bins"
quantiles = 5
edges = [1, 2]
"""
numbers = st.lists(st.integers(-20, 20).map(float) | st.floats(-1e6, 1e6), min_size=1, max_size=60)


def naive_quantile(values, share):
    """The smallest of the numbers such that at least this share of all is at most it."""
    return min(x for x in values if Fraction(sum(y <= x for y in values), len(values)) >= share)


@given(numbers, st.integers(2, 12))
def test_edges_are_the_sample_quantiles(values, n):
    inner = {naive_quantile(values, Fraction(j, n)) for j in range(1, n)}
    assert quantile_edges(np.array(values), n, ends=False) == sorted(inner - {min(values)})
    assert quantile_edges(np.array(values), n, ends=True) == sorted(inner | {min(values), max(values)})


def test_bins_of_distinct_numbers_are_equally_full():
    values = np.random.default_rng(1).permutation(1000).astype(float)
    edges = quantile_edges(values, 8, ends=False)
    counts = np.bincount(np.searchsorted(edges, values, side="right"))
    assert len(counts) == 8
    assert max(counts) - min(counts) <= 2


@pytest.fixture
def files(tmp_path):
    (tmp_path / "ads.toml").write_text(SPEC)
    events = [{"click": 0, "user": "u", "ad": {"price": i}, "age": str(20 + i / 2)} for i in range(8)]
    events += [{"click": 0, "ad": {"price": None}}, {"click": 1, "ad": {"price": "dear"}, "age": 24}]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return tmp_path


def test_they_are_frozen_into_the_file_and_nothing_else_changes(files):
    shown = ctr("quantiles", files / "ads.toml", files / "events.jsonl")
    assert shown.returncode == 0, shown.stderr
    assert (files / "ads.toml").read_text() == SPEC
    written = ctr("quantiles", files / "ads.toml", files / "events.jsonl", "--write")
    assert (written.returncode, written.stdout) == (0, "")
    text = (files / "ads.toml").read_text()
    assert text == shown.stdout
    # prices 0 ... 7: a quarter is at most 1, a half at most 3, three quarters at most 5
    assert [line for line in text.splitlines() if line not in SPEC.splitlines()] == [
        "edges = [1, 3, 5]", "edges = [20, 22, 24]",
    ]  # fmt: skip
    assert [field.edges for field in specification.read(files / "ads.toml").fields] == [
        (), (1, 3, 5), (20, 22, 24), (1, 2),
    ]  # fmt: skip
    assert "price: 3 edges from 1 to 5, of 8 numbers in 10 events (1 are none)" in written.stderr
    again = ctr("quantiles", files / "ads.toml", files / "events.jsonl", "--write")
    assert again.returncode == 0
    assert "nothing to learn" in again.stderr
    assert (files / "ads.toml").read_text() == text


def test_only_so_many_events_are_looked_at(files):
    run = ctr("quantiles", files / "ads.toml", files / "events.jsonl", "--events", "4")
    assert "edges = [1, 2]\n" in run.stdout.split("quantiles = 4\n")[1]  # of prices 0 ... 3; 0 itself is no edge
    assert "in 4 events" in run.stderr


def test_a_sample_with_too_few_numbers_is_refused(files):
    (files / "events.jsonl").write_text('{"click": 0, "ad": {"price": 3}}\n' * 5)
    run = ctr("quantiles", files / "ads.toml", files / "events.jsonl", "--write")
    assert run.returncode == 3
    assert "fields[1].quantiles = 4" in run.stderr
    assert "field 'price' has 1 different numbers in 5 events" in run.stderr
    assert (files / "ads.toml").read_text() == SPEC


def test_a_sample_that_is_not_there_is_refused(files):
    run = ctr("quantiles", files / "ads.toml", files / "none.jsonl")
    assert run.returncode == 3
    assert "none.jsonl" in run.stderr
