"""Online figures against scikit-learn's on the same window."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score, root_mean_squared_error

from ctr.quality.progressive import Window, measure


@given(
    st.lists(st.tuples(st.floats(2**-20, 1 - 2**-20, width=32), st.booleans()), min_size=2, max_size=300).filter(
        lambda events: len({y for _, y in events}) == 2
    )
)
def test_figures_equal_scikit_learns(events):
    p = np.array([p for p, _ in events], np.float32)
    y = np.array([y for _, y in events], np.float32)
    quality = measure(p, y)
    q = p.astype(np.float64)
    rate = y.mean(dtype=np.float64)
    assert quality.logloss == pytest.approx(log_loss(y, q), rel=1e-12, abs=1e-12)
    assert quality.auc == pytest.approx(roc_auc_score(y, q), abs=1e-12)
    assert quality.normalized_entropy == pytest.approx(log_loss(y, q) / log_loss(y, np.full(len(y), rate)), rel=1e-9)
    assert quality.calibration == pytest.approx(q.sum() / y.sum())
    assert quality.base_rate == pytest.approx(rate)
    assert quality.rmse == pytest.approx(root_mean_squared_error(y, q), rel=1e-12)


@given(st.lists(st.tuples(*[st.floats(-100, 100, width=32)] * 2), min_size=1, max_size=300))
def test_errors_of_squared_loss_equal_scikit_learns(events):
    p, y = np.array(events, np.float32).T
    window = Window(300, "squared")
    window.add(p, y)
    quality = window.measure()
    assert quality.rmse == pytest.approx(root_mean_squared_error(y.astype(np.float64), p), rel=1e-12)
    assert quality.base_rate == pytest.approx(y.mean(dtype=np.float64))
    assert math.isnan(quality.logloss)
    assert math.isnan(quality.auc)


def test_a_window_holds_the_last_events_however_they_came():
    rng = np.random.default_rng(0)
    p, y = rng.random(1000).astype(np.float32), (rng.random(1000) < 0.3).astype(np.float32)
    window = Window(256)
    for begin, end in ((0, 100), (100, 101), (101, 700), (700, 1000)):
        window.add(p[begin:end], y[begin:end])
    assert window.measure().events == 256
    assert window.measure().logloss == pytest.approx(measure(p[-256:], y[-256:]).logloss, rel=1e-12)


def test_nothing_and_one_class_are_not_numbers_but_not_errors():
    assert math.isnan(Window(8).measure().logloss)
    one = measure(np.array([0.2, 0.3], np.float32), np.zeros(2, np.float32))
    assert math.isnan(one.auc)
    assert one.logloss == pytest.approx(-(math.log(0.8) + math.log(0.7)) / 2, rel=1e-6)
    assert one.calibration == math.inf


def test_certainty_that_is_wrong_stays_finite():
    assert measure(np.array([0.0, 1.0], np.float32), np.array([1.0, 0.0], np.float32)).logloss == pytest.approx(
        -math.log(1e-15), rel=1e-3
    )
