"""Online figures against scikit-learn's on the same events; which events a window holds; slices."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss, roc_auc_score, root_mean_squared_error

from ctr import spec as specification
from ctr.events import Batch
from ctr.events.hashing import feature_key
from ctr.quality.slices import ELECTION_EVENTS
from ctr.quality.windows import BLOCKS, Windows

SPEC = specification.parse('name = "ads"\nfields = [{ name = "site" }, { name = "ad" }]\n[quality]\nwindow_s = 100')
SQUARED = specification.parse('name = "ads"\nfields = [{ name = "site" }]\n[model]\nloss = "squared"')


def batch(y, weights=None, keys=None, n_fields=2):
    """A dense batch of these labels."""
    n = len(y)
    keys = np.ones((n, n_fields), np.uint64) if keys is None else keys
    return Batch(
        keys.ravel(), np.ones(keys.size, np.float32), np.tile(np.arange(keys.shape[1], dtype=np.uint8), n),
        np.arange(n + 1, dtype=np.int64) * keys.shape[1], np.asarray(y, np.float32),
        np.ones(n, np.float32) if weights is None else np.asarray(weights, np.float32),
        np.zeros(n), np.zeros(n, np.int32), np.arange(n), True,
    )  # fmt: skip


def stream(n, seed=1, logit=-3.3, sigma=1.0, slope=1.0):
    """Predictions and the clicks that they would be right about if `slope` were 1."""
    rng = np.random.default_rng(seed)
    margin = rng.normal(logit, sigma, n)
    p = (1 / (1 + np.exp(-margin))).astype(np.float32)
    truth = 1 / (1 + np.exp(-(logit + slope * (margin - logit))))
    return p, (rng.random(n) < truth).astype(np.float32)


def exact_calibration_error(p, y, w, curve):
    """From raw events, with the borders between the bins that were told."""
    order = np.argsort(p, kind="stable")
    p, y, w = p[order].astype(float), y[order].astype(float), w[order].astype(float)
    ends = np.searchsorted(np.cumsum(w), np.cumsum([weight for weight, _, _ in curve]) - 1e-6) + 1
    error, begin = 0.0, 0
    for end in ends:
        part = w[begin:end]
        error += abs(part @ p[begin:end] - part @ y[begin:end])
        begin = end
    assert begin == len(p)
    return error / w.sum()


@settings(max_examples=40)
@given(
    st.integers(0, 2**32 - 1), st.integers(30, 3000), st.sampled_from([0.0, -1.0, -3.3, -5.0]),
    st.sampled_from([0.02, 0.3, 1.0, 3.0]), st.booleans(),
)  # fmt: skip
def test_figures_equal_scikit_learns(seed, n, logit, sigma, weighted):
    p, y = stream(n, seed, logit, sigma)
    y[:2] = 0, 1
    rng = np.random.default_rng(seed)
    w = rng.integers(1, 9, n).astype(np.float32) if weighted else np.ones(n, np.float32)
    windows = Windows(SPEC, BLOCKS * n)
    windows.add(batch(y, w), p)
    found = windows.measure()
    q, z, c = p.astype(np.float64), y.astype(np.float64), w.astype(np.float64)
    rate = np.average(z, weights=c)
    constant = log_loss(z, np.full(n, rate), sample_weight=c)
    assert found.events == n
    assert found.base_rate == pytest.approx(rate, rel=1e-9)
    assert found.logloss == pytest.approx(log_loss(z, q, sample_weight=c), rel=1e-9)
    assert found.normalized_entropy == pytest.approx(log_loss(z, q, sample_weight=c) / constant, rel=1e-9)
    assert found.calibration == pytest.approx((c * q).sum() / (c * z).sum(), rel=1e-9)
    assert found.rmse == pytest.approx(root_mean_squared_error(z, q, sample_weight=c), rel=1e-9)
    assert found.calibration_error == pytest.approx(exact_calibration_error(p, y, w, found.curve), rel=1e-9)
    if n >= 2000 and sigma >= 0.3:  # else its own standard error is much larger, and few events stand for a bin
        assert found.auc == pytest.approx(roc_auc_score(z, q, sample_weight=c), abs=1e-3)


def test_the_auc_of_a_whole_window_is_within_a_thousandth_however_narrow_the_predictions():
    for sigma, slope in ((0.01, 1), (0.1, 2), (1.5, 1), (1.5, 0), (4, 1)):
        p, y = stream(100_000, logit=-2.0, sigma=sigma, slope=slope)
        windows = Windows(SPEC, 200_000)
        windows.add(batch(y), p)
        assert windows.measure().auc == pytest.approx(roc_auc_score(y, p), abs=1e-3), (sigma, slope)


def test_the_curve_is_scikit_learns_where_quantiles_fall_between_events():
    p, y = stream(50_000)
    windows = Windows(SPEC, 10**6)
    windows.add(batch(y), p)
    curve = windows.measure().curve
    labels, predictions = calibration_curve(y, p, n_bins=10, strategy="quantile")
    assert [part for part, _, _ in curve] == pytest.approx([5000] * 10, rel=0.06)
    assert [mean for _, mean, _ in curve] == pytest.approx(predictions, rel=0.02)
    assert [mean for _, _, mean in curve] == pytest.approx(labels, rel=0.1)


@given(st.lists(st.tuples(*[st.floats(-100, 100, width=32)] * 2), min_size=1, max_size=300))
def test_errors_of_squared_loss_equal_scikit_learns(events):
    p, y = np.array(events, np.float32).T
    windows = Windows(SQUARED, 10 * len(p))
    windows.add(batch(y, n_fields=1), np.ascontiguousarray(p))
    found = windows.measure()
    assert found.rmse == pytest.approx(root_mean_squared_error(y.astype(np.float64), p), rel=1e-9, abs=1e-12)
    assert found.base_rate == pytest.approx(y.mean(dtype=np.float64), rel=1e-9, abs=1e-12)
    assert math.isnan(found.logloss)
    assert math.isnan(found.auc)


@pytest.mark.parametrize("sizes", [[1000], [1] * 50 + [950], [333, 333, 334], [999, 1]])
def test_a_window_holds_the_last_events_however_they_came(sizes):
    p, y = stream(1000, logit=-1)
    windows, begin = Windows(SPEC, 300), 0
    for size in sizes:
        windows.add(batch(y[begin : begin + size]), p[begin : begin + size])
        begin += size
    found = windows.measure()
    assert found.events == 280, "blocks of 30: nine full ones, and the ten events since"
    assert found.logloss == pytest.approx(log_loss(y[-280:], p[-280:].astype(float)), rel=1e-9)


def test_a_window_of_time_holds_the_last_seconds():
    windows = Windows(SPEC, 10**6)
    p, y = stream(400, logit=-1)
    for second in range(400):
        windows.add(batch(y[second : second + 1]), p[second : second + 1], now_s=1000.0 + second)
    found = windows.measure("time", now_s=1399.0)
    assert 90 <= found.events <= 100
    assert found.logloss == pytest.approx(log_loss(y[-found.events :], p[-found.events :].astype(float)), rel=1e-9)
    assert 40 <= windows.measure("time", now_s=1449.0).events <= 50, "nothing came for 50 s"
    assert windows.measure("time", now_s=1600.0).events == 0
    assert windows.measure("time", now_s=10**9).events == 0
    assert windows.measure("events").events == 400


def test_what_must_not_be_counted_is_not():
    p, y = stream(100, logit=-1)
    p[::3] = np.nan
    windows = Windows(SPEC, 1000)
    losses = windows.add(batch(y), p)
    counted = ~np.isnan(p)
    assert np.array_equal(np.isnan(losses), ~counted)
    assert windows.measure().events == counted.sum()
    assert losses[counted].mean() == pytest.approx(log_loss(y[counted], p[counted].astype(float)), rel=1e-9)


def test_held_out_events_count_as_one():
    p, y = stream(200, logit=-1)
    w = np.where(np.arange(200) % 2, 0.0, 3.0)
    windows = Windows(SPEC, 10_000)
    windows.add(batch(y, w), p)
    as_counted = np.where(w == 0, 1.0, w)
    assert windows.measure().logloss == pytest.approx(log_loss(y, p.astype(float), sample_weight=as_counted), rel=1e-9)


def test_nothing_and_one_class_are_not_numbers_but_not_errors():
    windows = Windows(SPEC, 8)
    assert math.isnan(windows.measure().logloss)
    windows.add(batch([0, 0]), np.array([0.2, 0.3], np.float32))
    one = windows.measure()
    assert math.isnan(one.auc)
    assert one.logloss == pytest.approx(-(math.log(0.8) + math.log(0.7)) / 2, rel=1e-6)
    assert one.calibration == math.inf


def test_certainty_that_is_wrong_stays_finite():
    windows = Windows(SPEC, 8)
    windows.add(batch([1, 0]), np.array([0.0, 1.0], np.float32))
    assert windows.measure().logloss == pytest.approx(-math.log(1e-15), rel=1e-3)


SLICED = specification.parse(
    'name = "ads"\nfields = [{ name = "site" }, { name = "ad" }]\n[quality]\nslices = ["ad"]\nslice_values = 2'
)


def sliced_stream(n):
    """Ad 1 in half of the events, ad 2 in a third, ad 3 in the rest, with rates of their own; ad 3 comes first."""
    rng = np.random.default_rng(3)
    ad = np.where(np.arange(n) < 10, 3, rng.choice([1, 2, 3], n, p=[1 / 2, 1 / 3, 1 / 6]))
    p = np.choose(ad - 1, [0.1, 0.2, 0.3]).astype(np.float32)
    y = (rng.random(n) < p).astype(np.float32)
    keys = np.array([[feature_key("site", "s"), feature_key("ad", str(a))] for a in ad], np.uint64)
    return ad, p, y, keys


def test_slices_are_the_values_that_occur_most_and_the_rest():
    n = 3 * ELECTION_EVENTS
    ad, p, y, keys = sliced_stream(n)
    windows = Windows(SLICED, 10 * n)
    for begin in range(0, n, 1000):
        part = slice(begin, begin + 1000)
        windows.add(batch(y[part], keys=keys[part]), p[part])
    assert set(windows.slices.unnamed) == {feature_key("ad", "1"), feature_key("ad", "2")}
    assert set(windows.slices.labels()) == {"all", "ad=*"}, "a slice is not told of before its name is known"
    wanted = batch(y[:1000], keys=keys[:1000])
    assert sorted(ad[windows.slices.unnamed_in(wanted)]) == [1, 2]
    windows.slices.name({feature_key("ad", str(a)): f"ad={a}" for a in (1, 2, 3)})
    since = np.arange(n) >= ELECTION_EVENTS - 1000  # the last batch of the election is the first to be placed
    for label, chosen in (("all", ad > 0), ("ad=1", (ad == 1) & since), ("ad=2", (ad == 2) & since)):
        found = windows.measure("events", windows.slices.labels()[label])
        assert found.logloss == pytest.approx(log_loss(y[chosen], p[chosen].astype(float)), rel=1e-9), label
        assert found.events == chosen.sum()
    assert windows.measure("time", windows.slices.labels()["ad=*"]).events == n - sum(
        windows.measure("time", windows.slices.labels()[label]).events for label in ("ad=1", "ad=2")
    )


def test_a_value_that_nobody_names_is_told_by_its_key():
    _, p, y, keys = sliced_stream(ELECTION_EVENTS)
    windows = Windows(SLICED, 1000)
    windows.add(batch(y, keys=keys), p)
    windows.slices.name({feature_key("ad", "1"): "ad=1"})
    later = batch(y, keys=np.ones_like(keys))
    for _ in range(11):
        assert list(windows.slices.unnamed_in(later)) == []
    assert set(windows.slices.labels()) == {"all", "ad=1", f"ad=#{feature_key('ad', '2'):016x}", "ad=*"}


def test_an_event_of_several_values_belongs_to_the_first_elected_one():
    keys = np.array([5, 9, 7, 8], np.uint64)
    windows = Windows(SLICED, 1000)
    windows.slices._elected[0] = 7, 8
    slots = np.zeros((3, 1), np.int32)
    start, fields = np.array([0, 2, 3, 4]), np.array([0, 1, 1, 1], np.uint8)
    windows.slices._place(
        keys, fields, start, False, np.array([1]), windows.slices._elected, windows.slices._first, slots
    )
    assert slots.ravel().tolist() == [3, 1, 2]
