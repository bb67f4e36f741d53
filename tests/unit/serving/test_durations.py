"""Our histogram says what prometheus_client's own would."""

import numpy as np
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from ctr.metrics import Metric
from ctr.serving.durations import BUCKETS, Durations


def test_equals_the_clients_own():
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    made = Durations(Metric("d_seconds", "histogram", "Help.", ("route",)))
    ours.register(made)
    known = Histogram("d_seconds", "Help.", ("route",), buckets=BUCKETS, registry=theirs)
    seconds = [*BUCKETS, 0.0, 5.0, *np.random.default_rng(1).exponential(0.01, 500).tolist()]
    for route in ("/a", "/b{x}"):
        for second in seconds[:: 1 if route == "/a" else 3]:
            made.observe(route, second)
            known.labels(route).observe(second)

    def lines(registry):
        text = generate_latest(registry).decode()
        return sorted(line for line in text.splitlines() if not line.startswith("#") and "_created" not in line)

    assert len(lines(ours)) == 2 * (len(BUCKETS) + 3)
    assert lines(ours) == lines(theirs)
