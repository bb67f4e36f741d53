"""False alarms of drift detection, and how soon a shift is found: `python tests/benchmarks/drift.py`.

On losses of calibrated predictions at several click rates, stationary for millions of events; then of a mean loss that
rises by a fifth, a half, and to the double.
"""

from __future__ import annotations

import math

import numpy as np
from rich.console import Console
from rich.table import Table

from ctr.quality.drift import BLOCK_EVENTS, Drift

RATES, FACTORS = (0.005, 0.035, 0.25, 0.5), (1.2, 1.5, 2.0)
STATIONARY, BEFORE, TRIALS = 20_000_000, 200_000, 15


def losses(rng, n, rate):
    """Logloss of calibrated predictions whose logits spread by 0.8 around a click rate."""
    margin = rng.normal(math.log(rate / (1 - rate)), 0.8, n)
    y = rng.random(n) < 1 / (1 + np.exp(-margin))
    return np.where(y, np.logaddexp(0, -margin), np.logaddexp(0, margin))


def delay(rng, rate, factor):
    """Events from a shift to its detection; infinite where it takes more than 500,000."""
    drift, step = Drift(), BLOCK_EVENTS
    drift.add(losses(rng, BEFORE, rate))
    for seen in range(step, 500_000, step):
        if drift.add(factor * losses(rng, step, rate)):
            return seen
    return math.inf


def main():
    """Print one line for each click rate."""
    rng = np.random.default_rng(1)
    grid = Table("click rate", "false alarms", "in events", *(f"loss x {factor}: median, 90 %" for factor in FACTORS))
    for rate in RATES:
        drift = Drift()
        for _ in range(STATIONARY // 100_000):
            drift.add(losses(rng, 100_000, rate))
        delays = [[delay(rng, rate, factor) for _ in range(TRIALS)] for factor in FACTORS]
        found = [f"{np.median(each):,.0f}, {np.quantile(each, 0.9, method='higher'):,.0f}" for each in delays]
        grid.add_row(f"{rate:.1%}", str(sum(drift.detections.values())), f"{STATIONARY:,}", *found)
    Console(width=130).print(grid)


if __name__ == "__main__":
    main()
