"""Room that kernels write in while a call lasts, kept from call to call: a micro-batch does not pay for allocation."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from ctr.rows import RowShape
from ctr.spec import Spec

CHUNK = 1024
"""Events resolved at a time: their row numbers stay in L2 until they are learned. Results do not depend on it."""


class Scratch(threading.local):
    """Each thread has its own, made when it first looks.

    Attributes
    ----------
    rows : (entries,) uint32
        Row of each feature of a chunk.
    r, c : (CHUNK,) float32
        Factor of the pair sum and weight with which to learn, of each event of a chunk.
    sums : float32, here : bool or int64
        For plain loops: (2, F + 1, size) and (F,); in libffm mode (entries of an event, 2, F kp) and (entries,).
    """

    def __init__(self, spec: Spec, shape: RowShape) -> None:
        F = len(spec.fields)
        self._libffm, self._width = spec.model.libffm, F * shape.kp
        self.rows = np.zeros(CHUNK * F, np.uint32)
        self.r, self.c = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
        if self._libffm:
            self._make_room(F)
        else:
            self.sums, self.here = np.empty((2, F + 1, shape.size), np.float32), np.empty(F, np.bool_)

    def fit(self, start: NDArray[np.int64], n: int) -> None:
        """Make room for `n` events with entries from ``start``, as a dense batch always has."""
        entries = int(np.diff(start[[*range(0, n, CHUNK), n]]).max(initial=0))
        if entries > len(self.rows):
            self.rows = np.zeros(entries, np.uint32)
        if self._libffm and (longest := int(np.diff(start).max(initial=0))) > len(self.here):
            self._make_room(longest)

    def _make_room(self, entries: int) -> None:
        self.sums, self.here = np.empty((entries, 2, self._width), np.float32), np.empty(entries, np.int64)
