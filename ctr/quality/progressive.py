"""Progressive (prequential) validation: predictions made before learning, and their labels, over a window of events.

Clicks are judged by what judges probabilities, labels of squared loss by their error alone.

Logloss: Bickel (2010), proper scoring. Normalised entropy: He et al., Practical Lessons from Predicting Clicks on Ads
at Facebook (2014), section 3. AUC: the Mann-Whitney statistic, ties counted half.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_FLOOR = 1e-15
"""Probabilities are kept this far from 0 and 1 in logarithms."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Figures of one window; NaN where they are not defined (no events, one class alone, labels that are no clicks).

    Attributes
    ----------
    events : int
    base_rate : float
        Share of positive labels; their mean where they are no clicks.
    logloss : float
        Mean of -y ln p - (1 - y) ln(1 - p), nats.
    normalized_entropy : float
        `logloss` over the entropy of `base_rate`.
    auc : float
    calibration : float
        Sum of predictions over sum of labels.
    rmse : float
        Root of the mean squared error, of probabilities as of other predictions.
    """

    events: int
    base_rate: float
    logloss: float
    normalized_entropy: float
    auc: float
    calibration: float
    rmse: float


def measure(p: NDArray[np.float32], y: NDArray[np.float32]) -> Quality:
    """Figures of predictions `p` (n,) and labels `y` (n,) of 0 and 1."""
    n = len(p)
    if n == 0:
        return Quality(0, *(float("nan"),) * 6)
    q, z = np.clip(p.astype(np.float64), _FLOOR, 1 - _FLOOR), y.astype(np.float64)
    positives, rmse = z.sum(), _rmse(p, y)
    rate = positives / n
    logloss = float(-(z * np.log(q) + (1 - z) * np.log1p(-q)).mean())
    if positives in (0, n):
        calibration = float(q.sum() / positives) if positives else float("inf")
        return Quality(n, float(rate), logloss, float("nan"), float("nan"), calibration, rmse)
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    _, inverse, counts = np.unique(q, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # mean rank of each distinct value, from 1
    auc = (ranks[inverse][z > 0].sum() - positives * (positives + 1) / 2) / (positives * (n - positives))
    return Quality(n, float(rate), logloss, float(logloss / entropy), float(auc), float(q.sum() / positives), rmse)


def measure_errors(p: NDArray[np.float32], y: NDArray[np.float32]) -> Quality:
    """Figures of predictions `p` (n,) of labels `y` (n,) that are any numbers: `base_rate`, `calibration`, `rmse`."""
    nan = float("nan")
    if len(p) == 0:
        return Quality(0, *(nan,) * 6)
    mean = float(y.mean(dtype=np.float64))
    calibration = float(p.mean(dtype=np.float64)) / mean if mean else nan
    return Quality(len(p), mean, nan, nan, nan, calibration, _rmse(p, y))


def _rmse(p: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.square(p.astype(np.float64) - y).mean()))


class Window:
    """The last `size` predictions and labels; `loss`, of the specification, says what they are judged by."""

    def __init__(self, size: int = 100_000, loss: str = "logistic") -> None:
        self._judge = measure_errors if loss == "squared" else measure
        self._p = np.zeros(size, np.float32)
        self._y = np.zeros(size, np.float32)
        self._seen = 0

    def add(self, p: NDArray[np.float32], y: NDArray[np.float32]) -> None:
        """Append predictions (n,) and labels (n,); the oldest make room."""
        size = len(self._p)
        p, y = p[-size:], y[-size:]
        at = (self._seen + np.arange(len(p))) % size
        self._p[at], self._y[at] = p, y
        self._seen += len(p)

    def measure(self) -> Quality:
        """Figures of the events held now."""
        n = min(self._seen, len(self._p))
        return self._judge(self._p[:n].copy(), self._y[:n].copy())
