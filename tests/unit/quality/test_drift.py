"""ADWIN against a window that keeps every value; false alarms, and how soon a planted shift is found."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr.quality.drift import BLOCK_EVENTS, DELTA, Adwin, Drift

WITHIN_EVENTS = {0.005: 65_000, 0.035: 16_000, 0.25: 16_000, 0.5: 16_000}
"""What is promised of a mean loss that rises by a half, by click rate."""


def naive_cut(window, delta, bound):
    """Whether any split of these values, both parts of five at least, is beyond the formula's bound."""
    n, variance = len(window), np.var(window)
    doubt = math.log(2 * math.log(n) / delta)
    for k in range(5, n - 4):
        m = 1 / (1 / k + 1 / (n - k))
        epsilon = math.sqrt(2 / m * variance * doubt) + 2 * bound / (3 * m) * doubt
        if abs(np.mean(window[:k]) - np.mean(window[k:])) > epsilon:
            return True
    return False


@given(st.lists(st.floats(0, 1), min_size=1, max_size=300), st.integers(1, 20))
def test_the_window_is_the_last_values(values, clock):
    adwin = Adwin(clock=clock)
    for value in values:
        adwin.add(value)
    kept = values[-adwin.width :]
    assert adwin.mean == pytest.approx(np.mean(kept), rel=1e-9, abs=1e-12)
    held = [
        (2**i, adwin._buckets[i, j]) for i in range(len(adwin._held) - 1, -1, -1) for j in range(adwin._held[i])
    ]  # fmt: skip
    begin = 0
    for size, (total, deviations) in held:
        part = np.array(kept[begin : begin + size])
        assert total == pytest.approx(part.sum(), rel=1e-9, abs=1e-12)
        assert deviations == pytest.approx(((part - part.mean()) ** 2).sum(), rel=1e-7, abs=1e-9)
        begin += size
    assert begin == len(kept)


@given(st.integers(0, 10_000), st.floats(0.0, 0.6), st.integers(20, 200))
def test_a_cut_is_one_that_the_window_with_every_value_has(seed, shift, change):
    rng = np.random.default_rng(seed)
    values = np.clip(rng.normal(0.3, 0.05, 300) + shift * (np.arange(300) >= change), 0, 1)
    adwin, begin = Adwin(clock=1, value_range=1.0), 0
    for i, value in enumerate(values):
        kept = values[begin : i + 1]
        if adwin.add(value):
            assert naive_cut(kept, DELTA, 1.0)
            begin = i + 1 - adwin.width


def test_a_constant_is_no_change():
    adwin = Adwin(clock=1)
    assert not any(adwin.add(0.1) for _ in range(1000))


def click_losses(rng, n, rate, confusion=0.0):
    """Logloss of calibrated predictions around a click rate; `confusion` adds noise to their logits."""
    margin = rng.normal(math.log(rate / (1 - rate)), 0.8, n)
    y = rng.random(n) < 1 / (1 + np.exp(-margin))
    told = margin + confusion * rng.normal(size=n)
    return np.where(y, np.logaddexp(0, -told), np.logaddexp(0, told))


@pytest.mark.parametrize("rate", WITHIN_EVENTS)
def test_a_shift_is_found_within_the_promised_events_and_nothing_before(rate):
    rng = np.random.default_rng(1)
    drift, before = Drift(), 200 * BLOCK_EVENTS
    assert not any(drift.add(click_losses(rng, 1000, rate)) for _ in range(before // 1000))
    steady = drift.mean
    seen = 1000
    while not drift.add(1.5 * click_losses(rng, 1000, rate)):
        seen += 1000
        assert seen <= WITHIN_EVENTS[rate]
    assert drift.detections == {"up": 1, "down": 0}
    assert drift.last_s > 0
    for _ in range(100):
        drift.add(1.5 * click_losses(rng, 1000, rate))
    assert drift.mean == pytest.approx(1.5 * steady, rel=0.1), "the old mean is forgotten"


def test_false_alarms_are_rare_on_stationary_losses():
    rng = np.random.default_rng(7)
    alarms = 0
    for rate in (0.005, 0.035, 0.25, 0.5):
        drift = Drift()
        for _ in range(50):
            drift.add(click_losses(rng, 50_000, rate))
        alarms += sum(drift.detections.values())
    assert alarms <= 1, "10,000,000 events; see tests/benchmarks/drift.py for the rate"


def test_events_that_do_not_count_are_passed_over():
    rng = np.random.default_rng(3)
    losses = click_losses(rng, 20_000, 0.035)
    with_holes = np.full(40_000, np.nan)
    with_holes[::2] = losses
    one, other = Drift(), Drift()
    one.add(losses)
    for begin in range(0, 40_000, 777):
        other.add(with_holes[begin : begin + 777])
    assert one.window_events == other.window_events == 20_000 // BLOCK_EVENTS * BLOCK_EVENTS
    assert one.mean == pytest.approx(other.mean, rel=1e-12)
