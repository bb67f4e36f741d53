"""Predictions made before learning go in, and their labels: figures, drift and the guard's judgement come out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ctr import metrics
from ctr.events.batch import Batch
from ctr.quality.drift import BLOCK_EVENTS, Drift
from ctr.quality.figures import Quality
from ctr.quality.guard import Guard
from ctr.quality.windows import WINDOWS, Windows
from ctr.rows import RowBlock
from ctr.spec import Spec

_FIGURES = {
    "ctr_logloss": "logloss", "ctr_normalized_entropy_ratio": "normalized_entropy", "ctr_auc_ratio": "auc",
    "ctr_calibration_ratio": "calibration", "ctr_calibration_error_ratio": "calibration_error",
    "ctr_base_rate_ratio": "base_rate", "ctr_rmse": "rmse", "ctr_window_events": "events",
}  # fmt: skip
SETTLE_EVENTS, SETTLE_ENTRIES = 1 << 15, 1 << 20
"""Events are counted so many at a time, or so many features (14 MB): behind a learning kernel all of this is out of the
caches. 51 ns an event after each 8,192, 36 after each 32,768."""
_CURVE = ("ctr_calibration_bin_weight", "ctr_calibration_bin_prediction_ratio", "ctr_calibration_bin_label_ratio")


class Progressive:
    """All that is known of a stream's quality, from one look at each event.

    Parameters
    ----------
    spec : Spec
    events : int
        Length of the window of events.
    """

    def __init__(self, spec: Spec, events: int = 100_000) -> None:
        self.windows = Windows(spec, events)
        self.drift = Drift()
        self.guard = Guard(spec)
        self._waiting: list[tuple[Batch, NDArray[np.float32]]] = []
        self._events = self._entries = 0

    def add(self, batch: Batch, p: NDArray[np.float32]) -> bool:
        """Take events (n,) with their predictions, NaN to leave one out; as `settle` where that is due."""
        self._waiting.append((batch, p))
        self._events, self._entries = self._events + len(batch), self._entries + len(batch.keys)
        return (self._events >= SETTLE_EVENTS or self._entries >= SETTLE_ENTRIES) and self.settle()

    def settle(self) -> bool:
        """Count what was taken; whether the mean loss has changed. To be called before the guard judges."""
        waiting, self._waiting, self._events, self._entries = self._waiting, [], 0, 0
        changed = False
        for batch, p in waiting:
            losses = self.windows.add(batch, p)
            self.guard.observe(p, batch.labels, batch.weights, losses)
            changed |= self.drift.add(losses)
        return changed

    def warm_up(self, batch: Batch, rows: RowBlock) -> None:
        """Compile all kernels, on a batch of some event and a cut's rows; for one that is thrown away."""
        few = replace(batch, labels=np.zeros(len(batch), np.float32))
        self.add(few, np.full(len(batch), 0.5, np.float32))
        self.settle()
        self.drift.add(np.repeat([0.0, 1.0], 64 * BLOCK_EVENTS))  # a change: the window is cut
        self.guard.judge(rows)
        self.guard.accept()

    def numbers(self) -> dict[str, metrics.Value]:
        """Metrics of quality, drift and guard."""
        guard, drift = self.guard.figures(), self.drift
        return {
            **quality_numbers(self.windows, "trainer"),
            "ctr_drift_detections": {(way,): float(n) for way, n in drift.detections.items()},
            "ctr_drift_last_seconds": drift.last_s,
            "ctr_drift_window_events": float(drift.window_events),
            "ctr_drift_loss": drift.mean,
            "ctr_guard_armed": float(self.guard.armed),
            **{f"ctr_guard_{what}": {(check,): x for check, x in by.items()} for what, by in guard.items()},
        }


def quality_numbers(windows: Windows, view: str) -> dict[str, metrics.Value]:
    """Metrics of each window and slice, as one view of the stream has them."""
    measured: dict[tuple[str, ...], Quality] = {
        (view, window, label): windows.measure(window, slot)
        for window in WINDOWS
        for label, slot in windows.slices.labels().items()
    }
    numbers: dict[str, metrics.Value] = {
        name: {labels: float(getattr(quality, figure)) for labels, quality in measured.items()}
        for name, figure in _FIGURES.items()
    }
    points = {
        (view, window, str(number)): point
        for window in WINDOWS
        for number, point in enumerate(measured[view, window, "all"].curve)
    }
    for column, name in enumerate(_CURVE):
        numbers[name] = {labels: point[column] for labels, point in points.items()}
    return numbers
