"""A scorer's series: as many as its models, fields and routes say, whoever asks for whatever."""

import re

import numpy as np
import pytest
from prometheus_client import generate_latest
from test_asgi import ask
from test_http import StubCache, StubScorer

from ctr import metrics
from ctr import spec as specification
from ctr.serving.http import ScorerApp

MODELS, FIELDS = 3, 64


def wide(name):
    """A scorer of a model of its own with as many fields as there may be."""
    fields = ", ".join(f'{{name = "f{i}"}}' for i in range(FIELDS))
    scorer = StubScorer()
    scorer.spec = specification.parse(f'name = "{name}"\nfields = [{fields}]')
    scorer.name, scorer.model_id = name, scorer.spec.model_id
    scorer.cache = StubCache()
    scorer.cache.by_field = np.ones((2, FIELDS), np.int64)
    return scorer


@pytest.fixture
def app():
    made = ScorerApp(*(wide(f"m{number}") for number in range(MODELS)))
    yield made
    made.close()


def scrape(app):
    return [line for line in generate_latest(app._registry).decode().splitlines() if line.startswith("ctr_")]


def bother(app, users):
    """Requests of many users for all there is, and for what there is not."""
    for user in range(users):
        for model in (*(f"m{number}" for number in range(MODELS)), f"nobody{user}"):
            for path in (":predict", ":rank", "/metadata", f"/versions/{user}:predict", f"/{user}"):
                ask(app, f"/v1/models/{model}{path}", "POST", body=b'{"instances": [{"f0": %d}]}' % user)
            ask(app, f"/v2/models/{model}/infer", "POST", body=b"{")
        ask(app, f"/user/{user}", "DELETE")


def test_series_are_bounded_and_do_not_grow_with_users(app):
    bother(app, 2)
    once = len(scrape(app))
    bother(app, 20)
    shown = scrape(app)
    assert len(shown) == once
    for metric in metrics.SCORER:
        names = "|".join(metric.exposed)
        assert sum(re.match(rf"({names})[{{ ]", line) is not None for line in shown) <= metric.most_series(MODELS)
    values = {label: set() for label in metrics.MOST}
    for line in shown:
        for label, value in re.findall(r'(\w+)="([^"]*)"', line):
            if label != "le":
                values[label].add(value)
    for label, found in values.items():
        per_model = label in ("model", "isa", "version")
        # a model is known by its name, and in build_info by name and generation
        assert len(found) <= (2 * MODELS if per_model else metrics.MOST[label]), label
    assert len(values["field"]) == FIELDS


def test_routes_fit_their_bound(app):
    assert len(app._routes) + 1 <= metrics.MOST["route"]
