"""Declarations become families; what is not declared is an error."""

import pytest
from prometheus_client import generate_latest

from ctr import metrics


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


def test_names_are_unique_and_carry_prometheus_units():
    names = [metric.name for metric in metrics.TRAINER]
    assert len(set(names)) == len(names)
    for metric in metrics.TRAINER:
        assert metric.name.startswith("ctr_")
        assert not metric.name.endswith("_total"), "the client appends it"
        assert metric.help.endswith(".")
