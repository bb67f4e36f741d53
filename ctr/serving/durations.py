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

from ctr.metrics import DURATIONS_S, Metric


class Durations(Collector):
    """A histogram for each combination of label values.

    Parameters
    ----------
    metric : Metric
        Its declaration.
    """

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}

    def observe(self, labels: tuple[str, ...], seconds: float) -> None:
        """Count a request; by one thread."""
        counts = self._counts.get(labels)
        if counts is None:
            self._sums[labels] = 0.0
            counts = self._counts[labels] = [0] * (len(DURATIONS_S) + 1)
        counts[bisect_left(DURATIONS_S, seconds)] += 1
        self._sums[labels] += seconds

    def describe(self) -> Iterable[HistogramMetricFamily]:
        """Its name, so that nobody else takes it."""
        return [HistogramMetricFamily(self._metric.name, self._metric.help, labels=self._metric.labels)]

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The one family."""
        (family,) = self.describe()
        for labels, counts in list(self._counts.items()):
            below = zip([*map(repr, DURATIONS_S), "+Inf"], map(float, accumulate(counts)), strict=True)
            family.add_metric(labels, list(below), self._sums[labels])
        yield family

    def numbers(self) -> dict[tuple[str, ...], float]:
        """Requests by label values and a bucket's upper bound, cumulated as Prometheus has them."""
        (family,) = self.collect()
        return {
            (*(sample.labels[name] for name in self._metric.labels), sample.labels["le"]): sample.value
            for sample in family.samples
            if "le" in sample.labels
        }
