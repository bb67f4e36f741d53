"""Losses of events go in, the moments at which their mean has changed come out: ADWIN on means of blocks of events.

Bifet and Gavalda, Learning from Time-Changing Data with Adaptive Windowing (2007), ADWIN2: a window of all values since
the last change, kept as an exponential histogram. It is cut wherever two parts of it have means that differ by more
than

    eps = sqrt(2 / m s^2 ln(2 / d)) + 2 R / (3 m) ln(2 / d),   1 / m = 1 / n0 + 1 / n1,   d = delta / ln n

where n0 and n1 are the parts' lengths, s^2 is the window's variance and R bounds how far a value may lie from the mean.
Means of many losses have no bound worth the name, and are nearly normal: R is `SPREAD` s where no other is given.
"""

from __future__ import annotations

import math
import time

import numpy as np
from numpy.typing import NDArray

from ctr.kernels import build
from ctr.kernels.quality.adwin import MAX_BUCKETS, ROWS

BLOCK_EVENTS = 512
DELTA = 0.002
SPREAD = 5.0


class Adwin:
    """A window that shrinks when the mean of its values changes.

    Parameters
    ----------
    delta : float
        Bound on the probability of a false alarm at one look, as far as values are within R of their mean.
    clock : int
        Values from one look to the next.
    value_range : float, optional
        R; `SPREAD` standard deviations where not given.

    Examples
    --------
    >>> window = Adwin(clock=1, value_range=1.0)
    >>> next(i for i in range(200) if window.add(0.1 if i < 100 else 0.9))
    112
    """

    def __init__(self, delta: float = DELTA, *, clock: int = 8, value_range: float | None = None) -> None:
        self._delta, self._clock, self._bound = delta, clock, value_range or 0.0
        self._buckets, self._held = np.zeros((ROWS, MAX_BUCKETS + 1, 2)), np.zeros(ROWS, np.int64)
        loaded = build.load("quality/adwin")
        self._insert, self._difference, self._drop = loaded.insert, loaded.difference, loaded.drop
        self._added = 0
        self.width = 0
        """Values in the window."""
        self.total = 0.0
        self.change = 0.0
        """Of the last cut: by how much the newer part's mean was higher."""

    @property
    def mean(self) -> float:
        """Of the values in the window; NaN where there are none."""
        return self.total / self.width if self.width else math.nan

    def add(self, value: float) -> bool:
        """Take a value; whether the window was cut."""
        self._insert(value, self._buckets, self._held)
        self.width += 1
        self.total += value
        self._added += 1
        cut = False
        while self._added % self._clock == 0 and (change := self._look()):
            values, total = self._drop(self._buckets, self._held)
            self.width -= values
            self.total -= total
            self.change, cut = change, True
        return cut

    def _look(self) -> float:
        return float(self._difference(self._buckets, self._held, self._delta, SPREAD, self._bound))


class Drift:
    """Watches the mean loss of a stream of events.

    One thread adds, any may read.
    """

    def __init__(self, delta: float = DELTA) -> None:
        self._adwin, self._block = Adwin(delta), build.load("quality/adwin").block
        self._carry = np.zeros(2)
        self.detections = {"up": 0, "down": 0}
        """Changes so far: to a higher loss, which is worse, and to a lower one."""
        self.last_s = 0.0
        """When the last one was found, seconds since 1970; 0 before."""

    @property
    def window_events(self) -> int:
        """Events since the last change, as far as it can be told."""
        return self._adwin.width * BLOCK_EVENTS

    @property
    def mean(self) -> float:
        """Mean loss over these events; NaN before the first block."""
        return self._adwin.mean

    def add(self, losses: NDArray[np.float64]) -> bool:
        """Take the losses (n,) of events, NaN for one that does not count; whether a change was found."""
        means = np.empty(1 + len(losses) // BLOCK_EVENTS)
        full = self._block(losses, BLOCK_EVENTS, self._carry, means)
        found = False
        for mean in means[:full].tolist():
            found |= self._adwin.add(mean)
        if found:
            self.detections["up" if self._adwin.change > 0 else "down"] += 1
            self.last_s = time.time()
        return found
