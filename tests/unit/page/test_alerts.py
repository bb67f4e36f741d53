"""What is wrong, in words: nothing on a good day, and each trouble once."""

import math

import pytest

from ctr.metrics import SCORER, TRAINER, Metric
from ctr.page.alerts import ASKED, alerts
from ctr.page.history import History

NOW_S = 1_790_000_000.0
FINE = {"live": None, "ready": None, "degraded": None}
TRAINING = {
    "ctr_role": {("writer",): 1.0, ("standby",): 0.0},
    "ctr_source_up": 1.0,
    "ctr_store_up": 1.0,
    "ctr_commit_last_seconds": NOW_S - 1.0,
    "ctr_arrival_watermark_seconds": NOW_S - 2.0,
    "ctr_events": {("learned",): 90_000.0, ("held_out",): 0.0, ("refused",): 3.0},
    "ctr_window_events": 50_000.0,
    "ctr_normalized_entropy_ratio": 0.91,
    "ctr_calibration_ratio": 1.02,
    "ctr_guard_refusing": 0.0,
    "ctr_drift_last_seconds": 0.0,
}
SERVING = {
    "ctr_store_up": {("ads",): 1.0},
    "ctr_score_requests": {("/v1/models/{model}:predict", "200"): 10.0},
    "ctr_score_fallbacks": {("ads", "late"): 0.0},
    "ctr_field_features": {("ads", "user"): 1000.0, ("ads", "site"): 1000.0},
    "ctr_field_features_without_row": {("ads", "user"): 100.0, ("ads", "site"): 0.0},
}


def found(numbers, before=None, reasons=FINE, declared=TRAINER):
    history = History(declared)
    if before is not None:
        history.add(NOW_S - 60, before)
    history.add(NOW_S, numbers)
    return alerts(numbers, history, reasons, NOW_S)


def test_nothing_on_a_good_day():
    assert found(TRAINING, TRAINING) == []
    assert found(SERVING, SERVING, declared=SCORER) == []
    assert found({}) == []


@pytest.mark.parametrize(("changed", "level", "words"), [
    ({"ctr_source_up": 0.0}, "bad", "source"),
    ({"ctr_store_up": 0.0}, "bad", "Redis"),
    ({"ctr_commit_last_seconds": NOW_S - 100.0}, "bad", "No commit for 100 s"),
    ({"ctr_arrival_watermark_seconds": NOW_S - 600.0}, "warning", "10 min behind"),
    ({"ctr_normalized_entropy_ratio": 1.01}, "bad", "no better than the base rate"),
    ({"ctr_calibration_ratio": 1.5}, "warning", "1.50 times the clicks"),
    ({"ctr_guard_refusing": 1.0}, "bad", "guard"),
])  # fmt: skip
def test_each_trouble_of_a_trainer(changed, level, words):
    (alert,) = found(TRAINING | changed, TRAINING)
    assert alert.level == level
    assert words in alert.what


def test_quality_is_that_of_all_events():
    whole, part = ("trainer", "events", "all"), ("trainer", "events", "site=a")
    names = ("ctr_window_events", "ctr_normalized_entropy_ratio", "ctr_calibration_ratio")
    values = ({whole: 50_000.0, part: 9.0}, {whole: 1.02, part: 0.5}, {whole: 1.0, part: 9.0})
    declared = [Metric(name, "gauge", "", ("view", "window", "slice")) for name in names]
    (alert,) = found(dict(zip(names, values, strict=True)), declared=declared)
    assert "(normalised entropy 1.020)" in alert.what


def test_a_change_for_the_worse_is_news_one_for_the_better_is_not():
    declared = [Metric("ctr_drift_detections", "counter", "", ("direction",))]
    before, better, worse = (
        {"ctr_drift_detections": {("up",): up, ("down",): down}, "ctr_drift_last_seconds": NOW_S - 30.0}
        for up, down in ((1.0, 1.0), (1.0, 4.0), (3.0, 4.0))
    )
    assert found(before, declared=declared) == found(better, before, declared=declared) == []
    (alert,) = found(worse, before, declared=declared)
    assert "for the worse, 2 x" in alert.what
    assert "last 30 s ago" in alert.meaning


def test_a_standby_need_not_commit_nor_be_up_to_date():
    standby = {"ctr_role": {("writer",): 0.0, ("standby",): 1.0}, "ctr_commit_last_seconds": NOW_S - 9999.0}
    assert found(TRAINING | standby) == []


def test_a_model_that_has_seen_little_is_not_judged():
    assert found(TRAINING | {"ctr_window_events": 500.0, "ctr_normalized_entropy_ratio": 1.3}) == []
    assert found(TRAINING | {"ctr_normalized_entropy_ratio": math.nan, "ctr_calibration_ratio": 9.0}) == []


def test_nothing_is_learned_while_events_wait():
    waiting = TRAINING | {"ctr_source_lag": {("0",): 70.0, ("1",): 5.0}}
    (alert,) = found(waiting, waiting)
    assert alert.what.startswith("Nothing is learned, and 75 ")
    assert found(waiting) == []  # it was not looked at for long enough
    assert found(waiting, TRAINING | {"ctr_events": {("learned",): 80_000.0}}) == []
    assert found(TRAINING | {"ctr_source_lag": {("0",): 0.0}}, TRAINING) == []


def test_many_fields_are_one_line():
    fields = {("ads", f"f{i}"): 1000.0 for i in range(6)}
    before = {"ctr_field_features": dict.fromkeys(fields, 0.0), "ctr_field_features_without_row": {}}
    numbers = {"ctr_field_features": fields, "ctr_field_features_without_row": fields}
    (alert,) = found(numbers, before, declared=SCORER)
    assert alert.what.endswith("f0, f1, f2, f3 and 2 other fields")
    empty = {"ctr_staleness_seconds": {("ads",): math.inf}}
    assert found(numbers | empty, before, declared=SCORER) == []


def test_a_share_of_events_that_cannot_be_read():
    before = TRAINING | {"ctr_events": {("learned",): 90_000.0 - ASKED, ("held_out",): 0.0, ("refused",): 0.0}}
    (alert,) = found(TRAINING, before)
    assert alert.what.startswith(f"{3 / (ASKED + 3):.1%}")


@pytest.mark.parametrize(("changed", "level", "words"), [
    ({"ctr_store_up": {("ads",): 0.0}}, "bad", "Redis"),
    ({"ctr_score_requests": {("/v1/models/{model}:predict", "500"): 2.0}}, "bad", "2 requests"),
    ({"ctr_score_fallbacks": {("ads", "late"): 4.0}}, "warning", "4 rows were given the prior"),
    ({"ctr_field_features": {("ads", "user"): 2000.0, ("ads", "site"): 2000.0},
      "ctr_field_features_without_row": {("ads", "user"): 300.0, ("ads", "site"): 990.0}}, "warning", "value of site"),
])  # fmt: skip
def test_each_trouble_of_a_scorer(changed, level, words):
    (alert,) = found(SERVING | changed, SERVING, declared=SCORER)
    assert alert.level == level
    assert words in alert.what


def test_what_probes_say_comes_first():
    stale = FINE | {"degraded": "ads@1: staleness is 90.0 s, above 60 s"}
    assert [alert.meaning for alert in found(TRAINING, reasons=stale)] == [stale["degraded"]]
    loading = FINE | {"ready": "loading", "degraded": "never said beside it"}
    bad, warning = found(TRAINING | {"ctr_calibration_ratio": 2.0}, reasons=loading)
    assert (bad.what, bad.meaning, warning.level) == ("Not ready", "loading", "warning")
