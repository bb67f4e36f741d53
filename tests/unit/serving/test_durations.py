"""Our histogram says what prometheus_client's own would."""

import numpy as np
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from ctr.metrics import DURATIONS_S, Metric
from ctr.serving.durations import Durations


def test_equals_the_clients_own():
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    made = Durations(Metric("d_seconds", "histogram", "Help.", ("route", "code")))
    ours.register(made)
    known = Histogram("d_seconds", "Help.", ("route", "code"), buckets=DURATIONS_S, registry=theirs)
    seconds = [*DURATIONS_S, 0.0, 5.0, *np.random.default_rng(1).exponential(0.01, 500).tolist()]
    for labels in (("/a", "200"), ("/b{x}", "503")):
        for second in seconds[:: 1 if labels[0] == "/a" else 3]:
            made.observe(labels, second)
            known.labels(*labels).observe(second)

    def lines(registry):
        text = generate_latest(registry).decode()
        return sorted(line for line in text.splitlines() if not line.startswith("#") and "_created" not in line)

    assert len(lines(ours)) == 2 * (len(DURATIONS_S) + 3)
    assert lines(ours) == lines(theirs)
