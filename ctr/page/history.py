"""Numbers of every second in, curves of the last minutes out: a bounded ring, so that a reload shows what was.

What is kept is what ``/metrics`` shows, under the same names; labels that grow with partitions or fields are summed up.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from ctr.metrics import Metric, Value

POINTS = 600
"""Samples kept: ten minutes at one a second. 25 numbers each, about 2 MB of Python's objects."""

ALL = "all"
"""The slice that is no slice."""
_MARK_S, _MARKS = 10.0, 7
"""All numbers are kept so often, so many times: what has happened in the last minute, whatever the labels."""

KEPT: Mapping[str, tuple[str, ...]] = {
    "ctr_events": ("result",),
    "ctr_source_lag": (),
    "ctr_event_watermark_seconds": (),
    "ctr_arrival_watermark_seconds": (),
    "ctr_stage_seconds": ("stage",),
    "ctr_commits": (),
    "ctr_commit_retries": (),
    "ctr_commit_rows": (),
    "ctr_commit_last_seconds": (),
    "ctr_table_rows": (),
    "ctr_table_bytes": (),
    "ctr_table_created": (),
    "ctr_table_evicted": (),
    "ctr_table_expired": (),
    "ctr_logloss": ("view", "window"),
    "ctr_normalized_entropy_ratio": ("view", "window"),
    "ctr_auc_ratio": ("view", "window"),
    "ctr_calibration_ratio": ("view", "window"),
    "ctr_base_rate_ratio": ("view", "window"),
    "ctr_rmse": ("view", "window"),
    "ctr_guard_refusing": (),
    "ctr_drift_detections": ("direction",),
    "ctr_join_answers": ("result",),
    "ctr_join_waiting": (),
    "ctr_join_staleness_seconds": (),
    "ctr_score_requests": ("code",),
    "ctr_score_request_duration_seconds": ("le",),
    "ctr_score_rows": ("model",),
    "ctr_score_unanswered": ("model",),
    "ctr_score_fallbacks": ("model",),
    "ctr_cache_features": ("model", "result"),
    "ctr_cache_rows": ("model",),
    "ctr_cache_rereads": ("model",),
    "ctr_chain_breaks": ("model",),
    "ctr_staleness_seconds": ("model",),
    "ctr_commit_age_seconds": ("model",),
}
"""Metric -> the labels that are kept apart; over all others it is summed up. Of routes only those that score count, of
quality's slices the one of all events."""

Labels = tuple[tuple[str, str], ...]
Sample = dict[tuple[str, Labels], float]


def label_names(metric: Metric) -> tuple[str, ...]:
    """Labels of its numbers: a histogram's are by bucket, too."""
    return (*metric.labels, "le") if metric.kind == "histogram" else metric.labels


class History:
    """The last samples of a worker's numbers.

    Parameters
    ----------
    declared : sequence of Metric
        What the worker exposes: names the labels.
    """

    def __init__(self, declared: Sequence[Metric]) -> None:
        self._labels = {metric.name: label_names(metric) for metric in declared}
        self._points: deque[tuple[float, Sample]] = deque(maxlen=POINTS)
        self._seen = 0
        self._last: Mapping[str, Value] | None = None
        self._marks: deque[tuple[float, Mapping[str, Value]]] = deque(maxlen=_MARKS)

    def add(self, now_s: float, numbers: Mapping[str, Value]) -> None:
        """Keep a sample."""
        sample: Sample = {}
        for name, kept in KEPT.items():
            value = numbers.get(name)
            if isinstance(value, Mapping):
                labels = self._labels[name]
                at = [labels.index(label) for label in kept]
                for given, number in value.items():
                    named = dict(zip(labels, given, strict=True))
                    if named.get("slice", ALL) == ALL and named.get("route", "/v1/").startswith(("/v1/", "/v2/")):
                        key = name, tuple((labels[i], given[i]) for i in at)
                        sample[key] = sample.get(key, 0.0) + number
            elif value is not None:
                sample[name, ()] = float(value)
        self._points.append((now_s, sample))
        self._seen += 1
        self._last = numbers
        if not self._marks or now_s >= self._marks[-1][0] + _MARK_S:
            self._marks.append((now_s, numbers))

    @property
    def end(self) -> int:
        """Number of the sample that comes next."""
        return self._seen

    def since(self, begin: int) -> dict[str, Any]:
        """Samples from number `begin` on, as columns: ``t`` and, for each series, name, labels and values.

        A value that a sample does not have, or that is no number, is None.
        """
        points = list(self._points)
        points = points[max(0, len(points) - max(0, self._seen - begin)) :]
        names: dict[tuple[str, Labels], None] = {}
        for _, sample in points:
            names.update(dict.fromkeys(sample))
        return {
            "t": [round(now_s, 3) for now_s, _ in points],
            "series": [
                {"name": name, "labels": dict(labels), "values": [_plain(sample, name, labels) for _, sample in points]}
                for name, labels in names
            ],
        }

    def risen(self, name: str, **labels: str) -> float:
        """How much a counter of `KEPT` has grown over all samples, those with these labels; 0 for what began anew."""
        key = name, tuple(labels.items())
        values = [sample[key] for _, sample in self._points if key in sample]
        return max(0.0, values[-1] - values[0]) if values else 0.0

    @property
    def seconds(self) -> float:
        """Over how much time `grown` tells."""
        return self._points[-1][0] - self._marks[0][0] if self._marks else 0.0

    def grown(self, name: str) -> dict[tuple[str, ...], float]:
        """How much a counter has grown in about the last minute, by label values (none: the empty tuple).

        Nothing where there is nothing to compare with; 0 for what began anew.
        """
        if self._last is None:
            return {}
        first, last = (_by_labels(numbers.get(name, {})) for numbers in (self._marks[0][1], self._last))
        return {labels: max(0.0, number - first.get(labels, 0.0)) for labels, number in last.items()}


def _by_labels(value: Value) -> Mapping[tuple[str, ...], float]:
    return value if isinstance(value, Mapping) else {(): value}


def _plain(sample: Sample, name: str, labels: Labels) -> float | None:
    value = sample.get((name, labels))
    return value if value is not None and math.isfinite(value) else None

