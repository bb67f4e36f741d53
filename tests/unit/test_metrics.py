"""Declarations become families; what is not declared is an error."""

import re

import pytest
from prometheus_client import generate_latest

from ctr import metrics
from ctr import spec as specification
from ctr.events import REASONS
from ctr.model import Model
from ctr.quality import Progressive
from ctr.store import Resume, Watermarks
from workers.learner import Learner
from workers.pipeline import Clocks, Standing
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


def series(made):
    """Lines of a scrape that are ours: no comments, nothing of the process."""
    lines = generate_latest(made).decode().splitlines()
    return [line for line in lines if line.startswith("ctr_")]


@pytest.mark.parametrize("partitions", [1, 256, 257, 5000])
def test_a_trainer_of_many_partitions_and_fields_has_a_bounded_number_of_series(partitions):
    spec = specification.parse(
        f'name = "ads"\nfields = [{", ".join(f"{{name = {chr(34)}f{i}{chr(34)}}}" for i in range(64))}]'
        '\n[model]\ntype = "lr"\nmax_rows = 1024'
    )
    lag = {f"ads:{number}": number for number in range(partitions)}
    standing = Standing(tuple(lag), dict.fromkeys(lag, 0), 1.0, lag, finished=False)
    start = Resume({}, ({},), Watermarks(0.0, 0.0))
    learner = Learner(Model(spec), start, standing, Progressive(spec, 1000))
    shown = series(metrics.registry(metrics.TRAINER, learner.numbers))
    lags = [float(line.rpartition(" ")[2]) for line in shown if line.startswith("ctr_source_lag{")]
    assert len(lags) == min(partitions, metrics.MOST["partition"])
    assert sum(lags) == partitions * (partitions - 1) / 2, "nothing is left out"
    most = {name: metric.most_series() for metric in metrics.TRAINER for name in metric.exposed}
    for name, bound in most.items():
        assert sum(re.match(rf"{name}[{{ ]", line) is not None for line in shown) <= bound


def test_the_process_itself_is_told_of():
    text = generate_latest(metrics.registry((), dict)).decode()
    assert "process_resident_memory_bytes " in text
