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

BLOCK_EVENTS = 512
DELTA = 0.002
MAX_BUCKETS = 5
"""Of one size, before two of them become one of twice that."""
SPREAD = 5.0
_LEAST = 5
"""Values that each part of a window must have."""
_ROUNDING = 1e-9
"""Share of the mean below which a difference is none."""


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
    >>> window = Adwin(clock=1)
    >>> [i for i in range(100) if window.add(0.1 if i < 50 else 0.9)]
    [54]
    >>> window.width, round(window.mean, 3)
    (50, 0.9)
    """

    def __init__(self, delta: float = DELTA, *, clock: int = 8, value_range: float | None = None) -> None:
        self._delta, self._clock, self._range = delta, clock, value_range
        self._rows: list[list[tuple[float, float]]] = [[]]  # row i: (total, sum of squared deviations) of 2^i values
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
        self._rows[0].append((value, 0.0))
        self.width += 1
        self.total += value
        self._added += 1
        for i, row in enumerate(self._rows):
            if len(row) <= MAX_BUCKETS:
                break
            (a, va), (b, vb) = row[0], row[1]
            del row[:2]
            if i + 1 == len(self._rows):
                self._rows.append([])
            self._rows[i + 1].append((a + b, va + vb + (a - b) ** 2 / 2 ** (i + 1)))
        return self._added % self._clock == 0 and self._cut()

    def _cut(self) -> bool:
        cut = False
        while self._differs():
            oldest = self._rows[-1].pop(0)
            self.width -= 1 << (len(self._rows) - 1)
            self.total -= oldest[0]
            while len(self._rows) > 1 and not self._rows[-1]:
                self._rows.pop()
            cut = True
        return cut

    def _differs(self) -> bool:
        """Whether any split, at the buckets' borders, has two parts of different means."""
        if self.width < 2 * _LEAST:
            return False
        older = range(len(self._rows) - 1, -1, -1)
        buckets = np.array([bucket for i in older for bucket in self._rows[i]])
        sizes = np.array([1 << i for i in older for _ in self._rows[i]])
        n, total = float(self.width), float(buckets[:, 0].sum())
        means = buckets[:, 0] / sizes
        variance = (buckets[:, 1].sum() + (sizes * (means - total / n) ** 2).sum()) / n
        n0, total0 = np.cumsum(sizes)[:-1], np.cumsum(buckets[:, 0])[:-1]
        n1 = n - n0
        m = 1 / (1 / n0 + 1 / n1)
        doubt = math.log(2 * math.log(n) / self._delta)
        reach = SPREAD * math.sqrt(variance) if self._range is None else self._range
        bound = np.sqrt(2 / m * variance * doubt) + 2 * reach / (3 * m) * doubt + _ROUNDING * abs(total / n)
        change = (total - total0) / n1 - total0 / n0
        beyond = np.where((n0 >= _LEAST) & (n1 >= _LEAST), np.abs(change) - bound, -1.0)
        at = int(np.argmax(beyond))
        if beyond[at] <= 0:
            return False
        self.change = float(change[at])
        return True


class Drift:
    """Watches the mean loss of a stream of events.

    One thread adds, any may read.
    """

    def __init__(self, delta: float = DELTA) -> None:
        self._adwin = Adwin(delta)
        self._sum, self._events = 0.0, 0
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
        losses = losses[~np.isnan(losses)]
        found, begin = False, 0
        while begin < len(losses):
            end = min(len(losses), begin + BLOCK_EVENTS - self._events)
            self._sum += float(losses[begin:end].sum())
            self._events += end - begin
            if self._events == BLOCK_EVENTS:
                found |= self._adwin.add(self._sum / BLOCK_EVENTS)
                self._sum, self._events = 0.0, 0
            begin = end
        if found:
            self.detections["up" if self._adwin.change > 0 else "down"] += 1
            self.last_s = time.time()
        return found
