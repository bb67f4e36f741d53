"""Seconds that requests took in, a Prometheus histogram out: two additions a request, all else at scrape time.

prometheus_client's own costs 3 us a request here (a lock a bucket, a child looked up by its labels), a twelfth of an
echo.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from ctr.metrics import Metric

BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
"""Upper bounds, seconds."""


class Durations(Collector):
    """A histogram by route.

    Parameters
    ----------
    metric : Metric
        Its declaration; one label.
    """

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def observe(self, route: str, seconds: float) -> None:
        """Count a request; by one thread."""
        counts = self._counts.get(route)
        if counts is None:
            self._sums[route] = 0.0
            counts = self._counts[route] = [0] * (len(BUCKETS) + 1)
        counts[bisect_left(BUCKETS, seconds)] += 1
        self._sums[route] += seconds

    def describe(self) -> Iterable[HistogramMetricFamily]:
        """Its name, so that nobody else takes it."""
        return [HistogramMetricFamily(self._metric.name, self._metric.help, labels=self._metric.labels)]

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The one family."""
        (family,) = self.describe()
        for route, counts in list(self._counts.items()):
            below = zip([*map(repr, BUCKETS), "+Inf"], map(float, accumulate(counts)), strict=True)
            family.add_metric([route], list(below), self._sums[route])
        yield family

    def numbers(self) -> dict[tuple[str, ...], float]:
        """Requests by label values and a bucket's upper bound, cumulated as Prometheus has them."""
        (family,) = self.collect()
        return {
            (*(sample.labels[name] for name in self._metric.labels), sample.labels["le"]): sample.value
            for sample in family.samples
            if "le" in sample.labels
        }
