"""The table: address space for all rows and their index, reserved at start, filled as keys come.

Nothing ever grows or moves, so there is no pause and no rehash; pages cost memory from their first touch on. Beside
its padded row a feature costs 64 / (5 x .65) = 19.7 bytes of index, 8 of key, 1 of field and 1/8 of dirty mark.
"""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

from ctr.kernels import build, layout
from ctr.rows import packed_bytes, padded_k

HUGE_PAGE = 2 << 20
LOAD = 0.65
"""Share of the index's slots in use when the table is full: 7.5 ns a look-up at .40, the rest is memory."""


def reserve(n_bytes: int) -> NDArray[np.uint8]:
    """Zeroed memory that costs nothing until it is touched, aligned to huge pages and backed by them where there are.

    Huge pages alone give a table larger than the caches 17-25 % more speed.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    size = -(-n_bytes // HUGE_PAGE) * HUGE_PAGE + HUGE_PAGE
    mapping = mmap.mmap(-1, size, flags=flags)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        mapping.madvise(mmap.MADV_HUGEPAGE)
    data = np.frombuffer(mapping, np.uint8)
    begin = -data.ctypes.data % HUGE_PAGE
    return data[begin : begin + n_bytes]


class Table:
    """Rows of up to `max_rows` features, the bias, the zero row, and the index that finds them.

    Parameters
    ----------
    n_fields, k : int
    max_rows : int
    weights_only : bool
        Keep weights but no accumulators.

    Attributes
    ----------
    W : (all rows * stride,) float32
        ``stride`` is P or, with accumulators, 2 P.
    index : (8 * buckets,) uint64, slots : the same memory as uint32
    row_key : (all rows,) uint64
    row_field : (all rows,) uint8
    dirty : uint64
        One bit a row.
    counters : (N_COUNTERS,) int64
    """

    def __init__(self, n_fields: int, k: int, max_rows: int, *, weights_only: bool) -> None:
        self.n_fields, self.k, self.max_rows = n_fields, k, max_rows
        self.kp = padded_k(k)
        self.row_bytes = packed_bytes(n_fields, k)
        self.P = layout.row_floats(n_fields, self.kp)
        self.stride = self.P if weights_only else 2 * self.P
        all_rows = max_rows + layout.FIRST_ROW + layout.SCRATCH_ROWS
        buckets = int(max_rows / (layout.BUCKET_SLOTS * LOAD)) + 2
        self.W = reserve(all_rows * self.stride * 4).view(np.float32)
        self.index = reserve(buckets * 64).view(np.uint64)
        self.slots = self.index.view(np.uint32)
        self.row_key = reserve(all_rows * 8).view(np.uint64)
        self.row_field = reserve(all_rows)
        self.dirty = reserve((all_rows + 63) // 64 * 8).view(np.uint64)
        self.counters = np.zeros(layout.N_COUNTERS, np.int64)
        self.counters[layout.NEXT_ROW] = layout.FIRST_ROW

        self._lookup = build.load("lookup")
        self._packing = build.load("packing")
        if not weights_only:
            scratch = (max_rows + layout.FIRST_ROW) * self.stride
            for begin in (0, self.stride, *range(scratch, self.W.size, self.stride)):
                self.W[begin + self.P : begin + self.stride] = 1
        self.row_key[layout.BIAS_ROW] = layout.BIAS_KEY
        self._lookup.place(self.index, self.slots, np.uint64(layout.BIAS_KEY), layout.BIAS_ROW)

    @property
    def rows(self) -> int:
        """Features held."""
        return int(self.counters[layout.ROWS])

    @property
    def memory_bytes(self) -> int:
        """Bytes of rows and index in use; what the rest of the reservation may grow to is not counted."""
        used = int(self.counters[layout.NEXT_ROW]) + layout.SCRATCH_ROWS
        return used * (self.stride * 4 + 9) + self.index.nbytes + self.dirty.nbytes

    def known(self, keys: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """(m,) 2 for a key with a row, 1 for one known to have none, 0 for an unknown one."""
        out = np.empty(len(keys), np.uint8)
        self._lookup.known(self.index, self.slots, keys, out)
        return out

    def remember_absent(self, keys: NDArray[np.uint64]) -> None:
        """Mark unknown keys as having no row; see `ctr.kernels.lookup`."""
        self._lookup.remember_absent(self.index, self.slots, self.counters, keys, self.max_rows)

    def forget(self, keys: NDArray[np.uint64]) -> None:
        """Make keys unknown and their rows free."""
        self._lookup.forget(self.index, self.slots, self.row_key, self.dirty, self.counters, keys)

    def take_dirty(self) -> NDArray[np.uint32]:
        """Numbers of the rows changed since the last call."""
        rows = np.empty(self.counters[layout.DIRTY], np.uint32)
        self._lookup.take_dirty(self.dirty, self.counters, rows)
        return rows

    def held(self) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
        """Keys and row numbers of all rows, the bias included, by ascending key."""
        keys, rows = np.empty(self.rows + 1, np.uint64), np.empty(self.rows + 1, np.uint32)
        self._lookup.held_rows(self.index, self.slots, keys, rows)
        order = np.argsort(keys)
        return keys[order], rows[order]

    def pack(self, rows: NDArray[np.uint32]) -> NDArray[np.uint8]:
        """(m, row_bytes) packed rows; of a weights-only table only headers and weights."""
        size = self.n_fields * self.kp
        words = self.row_bytes // 4 if self.stride > self.P else 1 + size
        data = np.empty((len(rows), words), np.float32)
        self._packing.pack(
            self.W, self.stride, self.P, size, self.row_field, rows, data.view(np.uint32), data,
        )  # fmt: skip
        return data.view(np.uint8)

    def unpack(self, keys: NDArray[np.uint64], data: NDArray[np.uint8]) -> None:
        """Insert or overwrite rows, which are clean afterwards; those beyond the bound are refused and counted."""
        floats = np.require(data, np.uint8, ["C", "A", "W"]).view(np.float32)
        if not floats.flags.aligned:
            floats = floats.copy()
        rows = np.empty(len(keys), np.uint32)
        self._lookup.admit(
            self.index, self.slots, self.row_key, self.dirty, self.counters, keys, self.max_rows, rows,
        )  # fmt: skip
        self._packing.unpack(
            self.W, self.stride, self.P, self.n_fields * self.kp, self.row_field, rows, floats.view(np.uint32), floats,
        )  # fmt: skip
