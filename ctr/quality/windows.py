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
    """Sums of one window in blocks, of which the current one is open."""

    def __init__(self, sums: NDArray[np.float64], bins: NDArray[np.float64]) -> None:
        self._sums, self._bins = np.zeros((BLOCKS, *sums.shape)), np.zeros((BLOCKS, *bins.shape))
        self._at = 0

    def take(self, sums: NDArray[np.float64], bins: NDArray[np.float64]) -> None:
        """Add to the open block."""
        self._sums[self._at] += sums
        self._bins[self._at] += bins

    def advance(self) -> None:
        """Close the open block; the next one takes the place of the oldest."""
        self._at = (self._at + 1) % BLOCKS
        self._sums[self._at], self._bins[self._at] = 0, 0

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
        slots, n_bins = self.slices.slots, 1 if self._squared else N_BINS
        self._sums, self._bins = np.zeros((slots, N_SUMS)), np.zeros((slots, n_bins, 4))
        self._rings = {name: _Ring(self._sums, self._bins) for name in WINDOWS}
        self._holds_sums = False
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
            begin = 0
            while begin < len(batch):
                if self._in_block == self._block_events:
                    self._hand_over()
                    self._rings["events"].advance()
                    self._in_block = 0
                end, before = min(len(batch), begin + self._block_events - self._in_block), self._sums[0, EVENTS]
                self._add(p, labels, weights, slots, begin, end, self._squared, self._sums, self._bins, losses)
                self._in_block += int(self._sums[0, EVENTS] - before)
                begin, self._holds_sums = end, True
        return losses

    def _hand_over(self) -> None:
        """Events are counted once; before a block is closed, or measured, all windows get what was counted."""
        if self._holds_sums:
            for ring in self._rings.values():
                ring.take(self._sums, self._bins)
            self._sums[:], self._bins[:], self._holds_sums = 0, 0, False

    def _pass_time(self, now_s: float | None) -> None:
        now_s = time.monotonic() if now_s is None else now_s
        if self._due_s is None or now_s - self._due_s > 2 * BLOCKS * self._block_s:
            steps, self._due_s = BLOCKS, now_s + self._block_s
        else:
            steps = max(0, int(np.ceil((now_s - self._due_s) / self._block_s + 1e-9)))
            self._due_s += steps * self._block_s
        if steps:
            self._hand_over()
        for _ in range(min(steps, BLOCKS)):
            self._rings["time"].advance()

    def measure(self, window: str = "events", slot: int = 0, now_s: float | None = None) -> Quality:
        """Figures of what a window (one of `WINDOWS`) holds now, for one slot of `slices`."""
        with self._lock:
            self._pass_time(now_s)
            self._hand_over()
            sums, bins = self._rings[window].total(slot)
        return of_errors(sums) if self._squared else of_clicks(sums, bins)
