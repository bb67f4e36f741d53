"""Declarations become families; what is not declared is an error."""

import re

import pytest
from prometheus_client import generate_latest
from promql import promtool

from ctr import metrics
from ctr.events import REASONS
from ctr.serving.durations import Durations
from workers.pipeline import Clocks
from workers.trainer import ROLES


def test_numbers_become_families_with_help_and_labels():
    declared = (
        metrics.Metric("ctr_things", "counter", "Things by kind.", ("kind",)),
        metrics.Metric("ctr_level", "gauge", "A level."),
    )
    text = generate_latest(
        metrics.registry(declared, lambda: {"ctr_things": {("a",): 3.0, ("b",): 4.0}, "ctr_level": 0.5})
    ).decode()
    assert (
        '# HELP ctr_things_total Things by kind.\n# TYPE ctr_things_total counter\nctr_things_total{kind="a"} 3.0'
        in text
    )
    assert 'ctr_things_total{kind="b"} 4.0' in text
    assert "# TYPE ctr_level gauge\nctr_level 0.5" in text


def test_numbers_are_read_at_scrape_time():
    level = [1.0]
    made = metrics.registry((metrics.Metric("ctr_level", "gauge", "x"),), lambda: {"ctr_level": level[0]})
    level[0] = 2.0
    assert b"ctr_level 2.0" in generate_latest(made)


def test_an_undeclared_number_is_an_error():
    with pytest.raises(KeyError, match="ctr_surprise"):
        generate_latest(metrics.registry((), lambda: {"ctr_surprise": 1.0}))


@pytest.mark.parametrize("declared", [metrics.TRAINER, metrics.SCORER, metrics.JOIN], ids=["trainer", "scorer", "join"])
def test_names_are_unique_and_carry_prometheus_units(declared):
    names = [metric.name for metric in declared]
    assert len(set(names)) == len(names)
    for metric in declared:
        assert re.fullmatch("ctr(_[a-z0-9]+)+", metric.name)
        assert not metric.name.endswith("_total"), "the client appends it"
        assert metric.help.endswith(".")
        assert set(metric.labels) <= set(metrics.MOST)
        assert metric.measured_in, metric.name
        assert not re.search("(_ms|_us|_millis|_minutes|_percent|_mb|_kb)$", metric.name), "base units"
        if "seconds since 1970" in metric.help:
            assert metric.measured_in == "seconds"
            assert metric.kind == "gauge"


@pytest.mark.parametrize("declared", [metrics.TRAINER, metrics.SCORER], ids=["trainer", "scorer"])
def test_prometheus_own_linter_has_nothing_to_say(declared):
    made = metrics.registry(
        [metric for metric in declared if metric.kind != "histogram"],
        lambda: {metric.name: {("x",) * len(metric.labels): 1.0} for metric in declared if metric.kind != "histogram"},
    )
    for metric in declared:
        if metric.kind == "histogram":
            made.register(Durations(metric))
    assert promtool("check", "metrics", given=generate_latest(made).decode()) == ""


def test_units_and_names_of_series():
    counter = metrics.Metric("ctr_things", "counter", "Things.", ("route", "code"))
    assert (counter.measured_in, counter.exposed) == ("things", ("ctr_things_total",))
    assert counter.most_series() == metrics.MOST["route"] * metrics.MOST["code"]
    histogram = metrics.Metric("ctr_wait_seconds", "histogram", "Waiting.", ("model",))
    assert (histogram.measured_in, len(histogram.exposed)) == ("seconds", 3)
    assert histogram.most_series(models=5) == 5 * (len(metrics.DURATIONS_S) + 3)  # +Inf, sum, count
    assert metrics.Metric("ctr_up", "gauge", "1 while it is, 0 while not.").measured_in == "0 or 1"


def test_label_values_that_the_program_knows_fit_their_bounds():
    assert len(REASONS) <= metrics.MOST["reason"]
    assert len(ROLES) <= metrics.MOST["role"]
    clocks = Clocks()
    assert len(clocks.busy_s) + 1 <= metrics.MOST["stage"]  # commit
    assert len({why for _, why in clocks.waited_s}) <= metrics.MOST["why"]


def test_what_has_too_many_values_is_told_together():
    lag = {f"ads:{number}": number for number in range(5000)}
    shown = metrics.bounded(lag, "partition")
    assert len(shown) == metrics.MOST["partition"]
    assert sum(shown.values()) == 5000 * 4999 / 2, "nothing is left out"
    assert shown["ads:0",] == 0
    few = dict(list(lag.items())[: metrics.MOST["partition"]])
    assert metrics.bounded(few, "partition") == {(name,): float(number) for name, number in few.items()}


def test_the_process_itself_is_told_of():
    text = generate_latest(metrics.registry((), dict)).decode()
    assert "process_resident_memory_bytes " in text
