"""Sums of predictions and labels go in, the figures that models are judged by come out.

Clicks are judged by what judges probabilities, labels of squared loss by their error alone. An event counts with its
sample weight, so that a stream of sampled negatives that carry theirs is judged as the whole one; a held-out event, of
weight 0, counts as 1.

Logloss: Bickel (2010), proper scoring. Normalised entropy: He et al., Practical Lessons from Predicting Clicks on Ads
at Facebook (2014), section 3. AUC: the Mann-Whitney statistic, ties counted half. Expected calibration error: Naeini et
al., Obtaining Well Calibrated Probabilities Using Bayesian Binning (2015), with bins of equal weight, since rates are
near 1 %.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctr.kernels.quality.sums import (
    EVENTS,
    LABELS,
    LEAST_OCTAVE,
    LOSS,
    NEGATIVE,
    OCTAVES,
    P_NEGATIVE,
    P_POSITIVE,
    PER_OCTAVE,
    POSITIVE,
    PREDICTIONS,
    SQUARES,
    WEIGHT,
)

GROUPS = 10
"""Bins of the calibration curve, of equal weight as far as the fine bins of the logit allow."""
_NAN = float("nan")
_STEPS = (0.5 + np.arange(PER_OCTAVE) / (2 * PER_OCTAVE)) * 2.0 ** (LEAST_OCTAVE + np.arange(OCTAVES))[:, None]
_ODDS = np.append(_STEPS, 2.0 ** (LEAST_OCTAVE + OCTAVES - 1))
_WIDTHS = np.diff(_ODDS / (1 + _ODDS))
"""(N_BINS,) of the bins, as probabilities."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Figures of one window; NaN where they are not defined (no events, one class alone, labels that are no clicks).

    Attributes
    ----------
    events : int
        Not weighted; all others are.
    base_rate : float
        Share of positive labels; their mean where they are no clicks.
    logloss : float
        Mean of -y ln p - (1 - y) ln(1 - p), nats.
    normalized_entropy : float
        `logloss` over the entropy of `base_rate`.
    auc : float
        From bins: within 0.001 of the exact one.
    calibration : float
        Sum of predictions over sum of labels.
    calibration_error : float
        Mean over the bins of `curve` of the distance between mean prediction and mean label, by their weight.
    rmse : float
        Root of the mean squared error, of probabilities as of other predictions.
    curve : tuple of (float, float, float)
        Weight, mean prediction and mean label of up to `GROUPS` bins, by rising prediction.
    """

    events: int = 0
    base_rate: float = _NAN
    logloss: float = _NAN
    normalized_entropy: float = _NAN
    auc: float = _NAN
    calibration: float = _NAN
    calibration_error: float = _NAN
    rmse: float = _NAN
    curve: tuple[tuple[float, float, float], ...] = ()


def entropy(rate: float) -> float:
    """Of a coin that falls so, nats: the logloss of who knows the base rate alone."""
    return 0.0 if rate in (0.0, 1.0) else float(-(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)))


def of_errors(sums: NDArray[np.float64]) -> Quality:
    """Figures of squared loss from (N_SUMS,) sums of `ctr.kernels.quality.sums`."""
    weight = sums[WEIGHT]
    if weight == 0:
        return Quality()
    calibration = float(sums[PREDICTIONS] / sums[LABELS]) if sums[LABELS] else _NAN
    return Quality(
        int(sums[EVENTS]), base_rate=float(sums[LABELS] / weight), calibration=calibration,
        rmse=float(np.sqrt(sums[SQUARES] / weight)),
    )  # fmt: skip


def of_clicks(sums: NDArray[np.float64], bins: NDArray[np.float64]) -> Quality:
    """Figures of the logistic loss from (N_SUMS,) sums and (N_BINS, 4) bins of `ctr.kernels.quality.sums`."""
    weight, positives = float(sums[WEIGHT]), float(sums[LABELS])
    if weight == 0:
        return Quality()
    rate, logloss = positives / weight, float(sums[LOSS] / weight)
    calibration = float(sums[PREDICTIONS] / positives) if positives else float("inf")
    points = curve(bins)
    error = sum(part * abs(mean_p - mean_y) for part, mean_p, mean_y in points) / weight
    both = 0 < positives < weight
    return Quality(
        int(sums[EVENTS]), rate, logloss, logloss / entropy(rate) if both else _NAN, auc(bins) if both else _NAN,
        calibration, error, float(np.sqrt(sums[SQUARES] / weight)), points,
    )  # fmt: skip


def auc(bins: NDArray[np.float64]) -> float:
    """Probability that a positive event is predicted higher than a negative one.

    Of two in different bins that is known. In one bin of width h it is taken to be 1/2 + (m1 - m0) / h, where m1 and m0
    are the mean predictions of its positive and negative events: exact for predictions that lie evenly in the bin.
    """
    negative, positive = bins[:, NEGATIVE], bins[:, POSITIVE]
    below = np.cumsum(negative) - negative
    both = (negative > 0) & (positive > 0)
    apart = np.zeros(len(bins))
    apart[both] = bins[both, P_POSITIVE] / positive[both] - bins[both, P_NEGATIVE] / negative[both]
    within = 0.5 + np.clip(apart / _WIDTHS, -0.5, 0.5)
    return float(positive @ (below + negative * within) / (positive.sum() * negative.sum()))


def curve(bins: NDArray[np.float64]) -> tuple[tuple[float, float, float], ...]:
    """Weight, mean prediction and mean label of each of `GROUPS` bins; empty ones are left out.

    A fine bin belongs to the bin into which the middle of its weight falls.
    """
    weight = bins[:, NEGATIVE] + bins[:, POSITIVE]
    held = np.flatnonzero(weight)
    weight, bins = weight[held], bins[held]
    middle = (np.cumsum(weight) - weight / 2) / weight.sum()
    group = np.minimum((middle * GROUPS).astype(np.int64), GROUPS - 1)
    columns = weight, bins[:, P_NEGATIVE] + bins[:, P_POSITIVE], bins[:, POSITIVE]
    parts = [np.bincount(group, column, GROUPS) for column in columns]
    return tuple(
        (float(part), float(p / part), float(y / part)) for part, p, y in zip(*parts, strict=True) if part > 0
    )
