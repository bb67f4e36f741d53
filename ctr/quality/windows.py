"""Predictions made before learning go in, figures of two sliding windows come out: the last events, the last seconds.

Progressive (prequential) validation: each event is predicted, and counted here, before it is learned. A window is a
ring of blocks of sums, the newest of them open: adding is a few additions an event, measuring adds the blocks up. It
slides by a block, so it holds up to `BLOCKS` - 1 of `BLOCKS` parts of its length and the open one.
"""

from __future__ import annotations

import threading
import time

import numpy as np
from numpy.typing import NDArray

from ctr.events.batch import Batch
from ctr.kernels import build
from ctr.kernels.quality.sums import EVENTS, N_BINS, N_SUMS
from ctr.quality.figures import Quality, of_clicks, of_errors
from ctr.quality.slices import Slices
from ctr.spec import Spec

BLOCKS = 10
WINDOWS = ("events", "time")


class _Ring:
    """Blocks of sums, (`BLOCKS`, slots, ...); one of them is open."""

    def __init__(self, slots: int, n_bins: int) -> None:
        self._sums = np.zeros((BLOCKS, slots, N_SUMS))
        self._bins = np.zeros((BLOCKS, slots, n_bins, 4))
        self._open = 0

    def open_block(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(slots, N_SUMS) sums and (slots, N_BINS, 4) bins that are added to."""
        return self._sums[self._open], self._bins[self._open]

    def advance(self) -> None:
        """Close the open block and drop the oldest."""
        self._open = (self._open + 1) % BLOCKS
        self._sums[self._open] = 0
        self._bins[self._open] = 0

    def total(self, slot: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sums of one slot over all blocks."""
        return self._sums[:, slot].sum(axis=0), self._bins[:, slot].sum(axis=0)


class Windows:
    """Quality of the last events and of the last seconds, of all of them and by slice.

    One thread adds, any may measure.

    Parameters
    ----------
    spec : Spec
        Its ``[quality]`` names the fields to slice by and the seconds.
    events : int
        Length of the window of events.
    """

    def __init__(self, spec: Spec, events: int = 100_000) -> None:
        index = {field.name: number for number, field in enumerate(spec.fields)}
        self.slices = Slices({name: index[name] for name in spec.quality.slices}, spec.quality.slice_values)
        self._squared = spec.model.loss == "squared"
        self._block_events = max(1, events // BLOCKS)
        self._block_s = spec.quality.window_s / BLOCKS
        n_bins = 1 if self._squared else N_BINS
        self._rings = {name: _Ring(self.slices.slots, n_bins) for name in WINDOWS}
        self._in_block = 0
        self._due_s: float | None = None
        self._add = build.load("quality/sums").add
        self._lock = threading.Lock()

    def add(self, batch: Batch, p: NDArray[np.float32], now_s: float | None = None) -> NDArray[np.float64]:
        """Count predictions.

        Parameters
        ----------
        batch : Batch
            `n` events with their labels.
        p : (n,) float32
            Each event's prediction from before it was learned; NaN leaves it out: it was refused, or had been learned
            before a crash, so that the prediction has seen the label.
        now_s : float, optional
            Time by a clock that never goes back; that of the process where not given.

        Returns
        -------
        (n,) float64
            Logloss of each event, or squared error; NaN where it was left out.
        """
        losses = np.empty(len(batch))
        labels, weights = np.ascontiguousarray(batch.labels), np.ascontiguousarray(batch.weights)
        with self._lock:
            self._pass_time(now_s)
            slots = self.slices.place(batch)
            of_events, of_time = self._rings.values()
            sums, bins = of_events.open_block()
            sums_t, bins_t = of_time.open_block()
            begin = 0
            while begin < len(batch):
                if self._in_block == self._block_events:
                    of_events.advance()
                    sums, bins = of_events.open_block()
                    self._in_block = 0
                end = min(len(batch), begin + self._block_events - self._in_block)
                self._add(
                    p, labels, weights, slots, begin, end, self._squared, sums, bins, sums_t, bins_t, losses
                )  # fmt: skip
                self._in_block = int(sums[0, EVENTS])
                begin = end
        return losses

    def _pass_time(self, now_s: float | None) -> None:
        now_s = time.monotonic() if now_s is None else now_s
        if self._due_s is None or now_s - self._due_s > 2 * BLOCKS * self._block_s:
            steps, self._due_s = BLOCKS, now_s + self._block_s
        else:
            steps = max(0, int(np.ceil((now_s - self._due_s) / self._block_s + 1e-9)))
            self._due_s += steps * self._block_s
        for _ in range(min(steps, BLOCKS)):
            self._rings["time"].advance()

    def measure(self, window: str = "events", slot: int = 0, now_s: float | None = None) -> Quality:
        """Figures of what a window (one of `WINDOWS`) holds now, for one slot of `slices`."""
        with self._lock:
            self._pass_time(now_s)
            sums, bins = self._rings[window].total(slot)
        return of_errors(sums) if self._squared else of_clicks(sums, bins)
