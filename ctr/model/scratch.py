"""Room that kernels write in while a call lasts, kept from call to call: a micro-batch does not pay for allocation."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from ctr.kernels.call import CALL, LINE, OF_TABLE, OF_THREAD
from ctr.model.table import Table
from ctr.spec import Spec

CHUNK = 1024
"""Events resolved at a time: their row numbers stay in L2 until they are learned. Results do not depend on it."""


class Scratch(threading.local):
    """Each thread has its own, made when it first looks.

    Parameters
    ----------
    spec : Spec
    table : Table
    hyper : (N_HYPER,) float32

    Attributes
    ----------
    address : int
        Of the record by which kernels find all this, the table and the settings: see `ctr.kernels.call`.
    rows : (entries,) uint32
        Row of each feature of a chunk.
    r, c : (CHUNK,) float32
        Factor of the pair sum and weight with which to learn, of each event of a chunk.
    sums : float32, here : int64
        For plain loops: (2, F + 1, size) and (F,); in libffm mode (entries of an event, 2, F kp) and (entries,).
    buckets : uint64, unknown : int64
        Of `resolve`.
    """

    def __init__(self, spec: Spec, table: Table, hyper: NDArray[np.float32]) -> None:
        F, shape, model = len(spec.fields), table.shape, spec.model
        self._table, self.hyper = table, hyper
        self._libffm, self._width = model.libffm, F * shape.kp
        self.rows, self.unknown = np.zeros(CHUNK * F, np.uint32), np.zeros(CHUNK * F + 1, np.int64)
        self.r, self.c = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
        self.buckets = np.empty(2 * LINE, np.uint64)
        if self._libffm:
            self._make_room(F)
        else:
            self.sums, self.here = np.empty((2, F + 1, shape.size), np.float32), np.empty(F, np.int64)
        self._call = np.zeros(1, CALL)
        self.address = self._call.ctypes.data
        (label_min, label_max), lifetime = model.label_range, spec.lifetime
        settings = {
            "stride": table.stride, "P": table.P, "F": F, "kp": shape.kp, "k": model.k, "head_step": shape.head_step,
            "max_rows": table.max_rows, "normalize": model.normalize, "ttl_s": lifetime.ttl_s,
            "admission": lifetime.admission, "label_min": label_min, "label_max": label_max, "seed": model.seed,
        }  # fmt: skip
        for name, value in settings.items():
            self._call[name] = value
        for name in OF_TABLE:
            self._note(name, hyper if name == "hyper" else getattr(table, name))
        self._note_all()

    def fit(self, start: NDArray[np.int64], n: int) -> None:
        """Make room for `n` events with entries from ``start``, as a dense batch always has."""
        entries = int(np.diff(start[[*range(0, n, CHUNK), n]]).max(initial=0))
        if entries > len(self.rows):
            self.rows, self.unknown = np.zeros(entries, np.uint32), np.zeros(entries + 1, np.int64)
            self._note_all()
        if self._libffm and (longest := int(np.diff(start).max(initial=0))) > len(self.here):
            self._make_room(longest)
            self._note_all()

    def _make_room(self, entries: int) -> None:
        self.sums, self.here = np.empty((entries, 2, self._width), np.float32), np.empty(entries, np.int64)

    def _note_all(self) -> None:
        """Where this thread's arrays are."""
        for name in OF_THREAD:
            self._note(name, getattr(self, name))
        self._call["sums_rows"], self._call["sums_width"] = self.sums.shape[1:]

    def _note(self, name: str, array: NDArray[np.generic]) -> None:
        self._call[name], self._call[f"n_{name}"] = array.ctypes.data, array.size
