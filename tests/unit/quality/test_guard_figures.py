"""What the guard speaks against, and what it lets pass; its figures against the formulas on raw events."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr import spec as specification
from ctr.kernels.quality.judge import BLOCK_EVENTS, RECENT, REFERENCE
from ctr.model import Model
from ctr.quality import Guard
from ctr.rows import RowBlock

FFM = 'name = "ads"\nfields = [{ name = "user" }, { name = "ad" }, { name = "site" }]\n'
NO_ROWS = RowBlock(np.zeros(0, np.uint64), np.zeros((0, 4), np.uint8))


def guard(more="", head=FFM):
    return Guard(specification.parse(f"{head}\n[guard]\nmin_events = 5000\n{more}"))


def clicks(n, seed=1, rate=0.035, sigma=1.0, flipped=0.0, level=1.0):
    """Calibrated predictions and their labels, some turned round; `level` multiplies the odds that are not foreseen."""
    rng = np.random.default_rng(seed)
    margin = rng.normal(math.log(rate / (1 - rate)), sigma, n)
    y = rng.random(n) < 1 / (1 + np.exp(-margin) / level)
    y ^= rng.random(n) < flipped
    return (1 / (1 + np.exp(-margin))).astype(np.float32), y.astype(np.float32)


def losses(p, y):
    q = p.astype(np.float64)
    return np.where(y > 0, -np.log(q), -np.log1p(-q))


def observe(to, p, y, weights=None, step=1000):
    """As the learner does, some at a time."""
    weights = np.ones(len(p), np.float32) if weights is None else weights
    for begin in range(0, len(p), step):
        part = slice(begin, begin + step)
        to.observe(p[part], y[part], weights[part], losses(p[part], y[part]))


def test_rows_that_come_in_several_blocks_are_judged_as_one():
    model = Model(specification.parse(FFM))
    rows = model.take_dirty()
    spoilt = RowBlock(rows.keys, np.ascontiguousarray(rows.data).copy())
    spoilt.data[:, 4:].view(np.float32)[0, 0] = np.nan
    made = guard()
    (finding,) = made.judge(rows, iter([spoilt, rows]))
    assert (finding.check, finding.value) == ("finite", 1)
    assert "1 of 3 rows" in finding.text
    assert made.judge(rows, iter([rows])) == ()


def checks(of, rows=NO_ROWS):
    return [finding.check for finding in of.judge(rows)]


@pytest.mark.parametrize(("rate", "sigma"), [(0.005, 1.0), (0.035, 0.6), (0.25, 1.0), (0.5, 0.8)])
def test_flipped_labels_are_spoken_against_and_healthy_ones_are_not(rate, sigma):
    made = guard()
    observe(made, *clicks(200_000, rate=rate, sigma=sigma))
    assert checks(made) == []
    made.accept()
    observe(made, *clicks(6_000, seed=2, rate=rate, sigma=sigma, flipped=0.2))
    assert "entropy_rise" in checks(made)
    text = made.judge(NO_ROWS)[0].text
    assert text.endswith("at most 0.03")


def test_one_poisoned_stretch_in_a_large_cut_is_found():
    made = guard()
    observe(made, *clicks(100_000))
    made.accept()
    observe(made, *clicks(1_000, seed=2, flipped=0.2))
    observe(made, *clicks(50_000, seed=3))
    assert "entropy_rise" in checks(made)


def test_a_new_model_is_bad_without_being_broken():
    made = guard()
    p, y = clicks(4_000)
    observe(made, np.full_like(p, 0.5), y)
    assert checks(made) == []
    assert not made.armed
    observe(made, p, y)
    assert made.armed


@pytest.mark.parametrize("rate", [0.01, 0.2])
def test_a_start_from_a_wrong_base_rate_is_healthy(rate):
    made, n = guard(), 100_000
    p, y = clicks(n, rate=rate)
    far = math.log((1 - rate) / rate) * np.exp(-np.arange(n) / 4000)  # from 50 % on, as the bias learns
    p = (1 / (1 + np.exp(-(np.log(p / (1 - p)) + far)))).astype(np.float32)
    for begin in range(0, n, 500):
        observe(made, p[begin : begin + 500], y[begin : begin + 500])
        assert checks(made) == []
        made.accept()


@pytest.mark.parametrize("level", [0.6, 1.6])
def test_a_click_rate_that_moves_is_no_poison(level):
    made = guard()
    observe(made, *clicks(100_000))
    made.accept()
    observe(made, *clicks(50_000, seed=2, level=level))
    assert checks(made) == []


def test_a_click_rate_beyond_the_factor_is_spoken_against():
    made = guard()
    observe(made, *clicks(100_000, sigma=0.1))
    made.accept()
    observe(made, *clicks(20_000, seed=2, sigma=0.1, level=4.0))
    assert "calibration" in checks(made)
    limit = next(finding for finding in made.judge(NO_ROWS) if finding.check == "calibration")
    assert 3.0 < limit.value < 5.5


def test_an_absolute_bound_finds_what_comes_slowly():
    made = guard("max_normalized_entropy = 1.05")
    observe(made, *clicks(50_000))
    assert checks(made) == []
    made.accept()
    for share in np.linspace(0, 0.2, 150):  # each step is learned from by the reference
        observe(made, *clicks(5_000, seed=int(1e6 * share), flipped=float(share)))
        if found := checks(made):
            break
        made.accept()
    assert found == ["normalized_entropy"]
    assert made.judge(NO_ROWS)[0].value > 1.05


def test_it_may_be_switched_off():
    made = guard("enabled = false")
    observe(made, *clicks(50_000))
    observe(made, *clicks(20_000, seed=2, flipped=0.5))
    assert checks(made) == []


def normalized_entropy(p, y, w):
    p, y, w = (array.astype(np.float64) for array in (p, y, w))
    rate = np.average(y, weights=w)
    return np.average(losses(p, y), weights=w) / -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(20, 900), st.booleans(), st.integers(50, 3000))
def test_the_figures_are_those_of_the_raw_events(seed, blocks, weighted, step):
    made, n = guard(), blocks * BLOCK_EVENTS + 17
    p, y = clicks(n, seed=seed, rate=0.2)
    w = np.random.default_rng(seed).integers(0, 4, n).astype(np.float32) if weighted else np.ones(n, np.float32)
    observe(made, p, y, w, step)
    counted = np.where(w == 0, 1, w)
    end = n - 17
    recent = slice(end - RECENT * BLOCK_EVENTS, end)
    before = slice(max(0, end - (RECENT + REFERENCE) * BLOCK_EVENTS), end - RECENT * BLOCK_EVENTS)
    now = normalized_entropy(p[recent], y[recent], counted[recent])
    then = normalized_entropy(p[before], y[before], counted[before])
    value = made.figures()["value"]
    assert value["normalized_entropy"] == pytest.approx(now, rel=1e-9)
    assert value["entropy_rise"] == pytest.approx(now - then, rel=1e-6, abs=1e-9)


def test_chance_is_measured_as_it_is():
    """The delta method's standard error of normalised entropy against that of many windows."""
    n, windows = 4096, 400
    found = [normalized_entropy(*clicks(n, seed=seed), np.ones(n)) for seed in range(windows)]
    from ctr.kernels.quality import judge

    p, y = clicks(400_000, seed=999)
    loss, y = losses(p, y), y.astype(np.float64)
    ones = np.ones(len(y))
    s = np.array([len(y), len(y), len(y), y.sum(), y.sum(), p.sum(), loss.sum(), loss @ loss, loss @ y])
    assert len(ones) == s[0]
    _, variance = judge.normalized(s, False)
    assert math.sqrt(variance * len(y) / n) == pytest.approx(np.std(found), rel=0.12)


def test_another_process_judges_as_this_one_would():
    made, other = guard(), guard()
    observe(made, *clicks(100_000))
    made.accept()
    other.remember(json.loads(json.dumps(made.memory())))
    assert other.armed
    observe(other, *clicks(2_000, seed=2, flipped=0.2))
    assert "entropy_rise" in checks(other)
    other.forget()
    assert checks(other) == []
    observe(other, *clicks(20_000, seed=3))
    assert checks(other) == [], "what was forgotten left nothing behind"
    fresh = guard()
    fresh.remember({"sums": [1.0], "events": 10**9, "norm": 1.0})
    assert not fresh.armed, "a memory of another version is none"


def test_what_was_forgotten_is_in_no_reference():
    made = guard()
    observe(made, *clicks(100_000))
    made.accept()
    for _ in range(3):
        observe(made, *clicks(3_000, seed=2, flipped=0.2))
        assert "entropy_rise" in checks(made)
        made.forget()


def test_what_an_operator_publishes_is_the_new_measure():
    made = guard()
    observe(made, *clicks(100_000))
    made.accept()
    observe(made, *clicks(10_000, seed=2, flipped=0.2))
    assert checks(made)
    made.begin_anew()
    observe(made, *clicks(50_000, seed=3, flipped=0.2))
    assert checks(made) == []
    made.accept()
    observe(made, *clicks(10_000, seed=4, flipped=0.5))
    assert checks(made), "and is held against what comes after it"


def packed(spec, m, seed=1):
    """Rows of a model, with counts and minutes in their heads, and what their weights are."""
    model, rng = Model(spec), np.random.default_rng(seed)
    size = (model.row_bytes - 4) // 8
    kp = 4
    data = np.zeros((m, model.row_bytes), np.uint8)
    fields = rng.integers(0, 3, m)
    data[:, 0] = fields
    numbers = rng.normal(0, 0.3, (m, 2 * size)).astype(np.float32)
    weights = np.ones((m, size), bool)
    for row, field in enumerate(fields):
        head = kp * field if spec.model.type == "ffm" else 0
        numbers[row, head + 1 : head + 4] = 12_345_678, 3_000_000, -7
        weights[row, head + 1 : head + 4] = False
    return data, numbers, weights


@pytest.mark.parametrize("kind", ["ffm", "fm", "lr"])
def test_norms_are_those_of_the_weights_alone(kind):
    head = FFM + f'[model]\ntype = "{kind}"'
    made = guard(head=head)
    spec = specification.parse(head)
    data, numbers, weights = packed(spec, 200)
    size = weights.shape[1]
    numbers[17, :size] *= np.where(weights[17], 7, 1)
    data[:, 4:] = numbers.view(np.uint8)
    assert checks(made, RowBlock(np.arange(200, dtype=np.uint64), data)) == []
    wanted = np.sqrt((np.where(weights, numbers[:, :size], 0).astype(np.float64) ** 2).sum(axis=1)).max()
    assert made.figures()["value"]["norm"] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 5, 11, 12, 20])
def test_no_row_may_hold_what_is_no_number(value, place):
    made, spec = guard(), specification.parse(FFM)
    data, numbers, _ = packed(spec, 50)
    numbers[3, place] = value
    data[:, 4:] = numbers.view(np.uint8)
    assert checks(made, RowBlock(np.arange(50, dtype=np.uint64), data)) == ["finite"]


@pytest.mark.parametrize(("value", "said"), [(1e30, ["norm"]), (60.0, ["norm"]), (40.0, [])])
def test_exploding_weights_are_spoken_against(value, said):
    made, spec = guard(), specification.parse(FFM)
    data, numbers, _ = packed(spec, 50)
    data[:, 4:] = numbers.view(np.uint8)
    healthy = RowBlock(np.arange(50, dtype=np.uint64), data.copy())
    assert checks(made, healthy) == []
    made.accept()
    numbers[7, 8] = value  # coordinate 0 for the third field
    data[:, 4:] = numbers.view(np.uint8)
    assert checks(made, RowBlock(np.arange(50, dtype=np.uint64), data)) == said


def test_rows_may_be_as_large_as_ten_times_what_was_published():
    made, spec = guard(), specification.parse(FFM)
    data, numbers, _ = packed(spec, 50)

    def with_largest(value):
        numbers[7, 8] = value
        data[:, 4:] = numbers.view(np.uint8)
        return RowBlock(np.arange(50, dtype=np.uint64), data.copy())

    for value, said in ((45.0, []), (400.0, []), (3900.0, []), (40_000.0, ["norm"])):
        assert checks(made, with_largest(value)) == said
        if not said:
            made.accept()
