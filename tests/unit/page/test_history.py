"""Samples of numbers as curves: what is kept, what is summed up, what is left out, and for how long."""

import math

from ctr.metrics import SCORER, TRAINER, Metric
from ctr.page.history import KEPT, POINTS, History


def curve(points, name, **labels):
    (found,) = [one["values"] for one in points["series"] if one["name"] == name and one["labels"] == labels]
    return found


def test_every_kept_number_is_declared():
    declared = {metric.name: metric for metric in (*TRAINER, *SCORER)}
    for name, kept in KEPT.items():
        if name in declared and declared[name].labels:
            assert set(kept) - {"le"} <= set(declared[name].labels)


def test_partitions_are_summed_up_and_results_are_not():
    history = History(TRAINER)
    history.add(1.0, {
        "ctr_source_lag": {("0",): 2.0, ("1",): 5.0}, "ctr_events": {("learned",): 7.0, ("refused",): 1.0},
        "ctr_commits": 3.0, "ctr_queue_bytes": 9.0,
    })  # fmt: skip
    points = history.since(0)
    assert points["t"] == [1.0]
    assert curve(points, "ctr_source_lag") == [7.0]
    assert curve(points, "ctr_events", result="learned") == [7.0]
    assert curve(points, "ctr_events", result="refused") == [1.0]
    assert curve(points, "ctr_commits") == [3.0]
    assert not [one for one in points["series"] if one["name"] == "ctr_queue_bytes"]


def test_only_routes_that_score_count():
    history = History(SCORER)
    duration = "ctr_score_request_duration_seconds"
    history.add(1.0, {
        "ctr_score_requests": {("/v1/models/{model}:predict", "200"): 5.0, ("/v2/models/{model}/infer", "200"): 2.0,
                               ("/v1/models/{model}:predict", "400"): 1.0, ("/page/state", "200"): 100.0},
        duration: {("/v1/models/{model}:predict", "200", "0.001"): 4.0, ("/metrics", "200", "0.001"): 50.0,
                   ("/v1/models/{model}:rank", "200", "+Inf"): 1.0},
    })  # fmt: skip
    points = history.since(0)
    assert curve(points, "ctr_score_requests", code="200") == [7.0]
    assert curve(points, "ctr_score_requests", code="400") == [1.0]
    assert curve(points, duration, le="0.001") == [4.0]
    assert curve(points, duration, le="+Inf") == [1.0]


def test_quality_is_of_all_events_by_view_and_window():
    declared = [Metric("ctr_logloss", "gauge", "", ("view", "window", "slice")), Metric("ctr_auc_ratio", "gauge", "")]
    history = History(declared)
    history.add(1.0, {
        "ctr_logloss": {("trainer", "events", "all"): 0.1, ("trainer", "events", "site=a"): 0.9,
                        ("trainer", "time", "all"): 0.2},
        "ctr_auc_ratio": 0.7,
    })  # fmt: skip
    points = history.since(0)
    assert curve(points, "ctr_logloss", view="trainer", window="events") == [0.1]
    assert curve(points, "ctr_logloss", view="trainer", window="time") == [0.2]
    assert curve(points, "ctr_auc_ratio") == [0.7]
    assert len(points["series"]) == 3


def test_what_is_no_number_is_none():
    history = History(TRAINER)
    history.add(1.0, {"ctr_auc_ratio": math.nan, "ctr_logloss": math.inf})
    history.add(2.0, {"ctr_auc_ratio": 0.5})
    points = history.since(0)
    assert curve(points, "ctr_auc_ratio") == [None, 0.5]
    assert curve(points, "ctr_logloss") == [None, None]


def test_a_browser_gets_what_it_does_not_have():
    history = History(TRAINER)
    for second in range(5):
        history.add(float(second), {"ctr_commits": float(second)})
    assert history.end == 5
    assert history.since(3)["t"] == [3.0, 4.0]
    assert history.since(5) == {"t": [], "series": []}
    assert history.since(99)["t"] == []


def test_bounded():
    history = History(TRAINER)
    for second in range(POINTS + 50):
        history.add(float(second), {"ctr_commits": 1.0})
    assert len(history.since(0)["t"]) == POINTS
    assert history.since(POINTS + 47)["t"] == [POINTS + 47.0, POINTS + 48.0, POINTS + 49.0]


def test_growth_is_of_the_last_minute_and_by_label():
    history = History(SCORER)
    assert history.grown("ctr_field_features") == {}
    for second in range(301):  # field a is asked for twice a second, b not at all, c since second 290
        late = {("m", "c"): 3.0} if second >= 290 else {}
        history.add(float(second), {"ctr_field_features": {("m", "a"): 2.0 * second, ("m", "b"): 50.0, **late}})
    grown = history.grown("ctr_field_features")
    assert 2 * 60 <= grown["m", "a"] <= 2 * 70
    assert grown["m", "b"] == 0
    assert grown["m", "c"] == 3
    history.add(301.0, {"ctr_field_features": {("m", "a"): 1.0}})  # it began anew
    assert history.grown("ctr_field_features") == {("m", "a"): 0.0}
