"""The table: address space for all rows and their index, reserved at start, filled as keys come.

Nothing ever grows or moves, so there is no pause and no rehash; pages cost memory from their first touch on. Beside
its padded row a feature costs 64 / (5 x .575) = 22.3 bytes of index, 8 of key, 1 of field and 2/8 of marks; a sweep
takes 8 bytes a row, and 16 for each that leaves, for as long as it lasts.
"""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

from ctr.kernels import build, layout
from ctr.rows import ALL_SHARDS, RowShape, shard_of

HUGE_PAGE = 2 << 20
LOAD = 0.575
"""Share of the index's slots in use when the table is full. A key for which its bucket has no room costs about 16 ns
more: at .65 those are 6.5 % of all, at .575 they are 4.3 %."""
_TOO_LARGE = 8
"""Memory of so many times the size that is needed is not used again: the next cut is seldom the largest."""


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
    shape : RowShape
    max_rows : int
    weights_only : bool
        Keep weights but no accumulators.

    Attributes
    ----------
    W : (all rows * stride,) float32
        ``stride`` is P or, with accumulators, 2 P.
    index : (8 * buckets,) uint64, slots : the same memory as uint32
    row_key : (all rows,) uint64
    own_keys : (1 + pair rows,) uint64
        Keys of the model itself: the bias and the rows of pair weights, which stand from `BIAS_ROW` on.
    row_field : (all rows,) uint8
    dirty, stored : uint64
        One bit a row: whether it changed since it was last taken; whether it was ever taken, or loaded.
    counters : (N_COUNTERS,) int64
    """

    def __init__(self, shape: RowShape, max_rows: int, *, weights_only: bool) -> None:
        self.shape, self.max_rows, self.row_bytes = shape, max_rows, shape.packed_bytes
        only_head = shape.size == layout.HEAD and not shape.head_step  # lr: two rows a cache line, weights and state
        self.P = shape.size if only_head else layout.padded(shape.size)
        self.stride = self.P if weights_only else 2 * self.P
        first_row = layout.FIRST_ROW + shape.pair_rows
        all_rows = max_rows + first_row + layout.SCRATCH_ROWS
        buckets = int((max_rows + shape.pair_rows) / (layout.BUCKET_SLOTS * LOAD)) + 2
        self.W = reserve(all_rows * self.stride * 4).view(np.float32)
        self.index = reserve(buckets * 64).view(np.uint64)
        self.slots = self.index.view(np.uint32)
        self.row_key = reserve(all_rows * 8).view(np.uint64)
        self.row_field = reserve(all_rows)
        self.dirty = reserve((all_rows + 63) // 64 * 8).view(np.uint64)
        self.stored = reserve((all_rows + 63) // 64 * 8).view(np.uint64)
        self._gone: list[NDArray[np.uint64]] = []
        self.counters = np.zeros(layout.N_COUNTERS, np.int64)
        self.counters[layout.NEXT_ROW] = first_row

        self._lookup, self._marks, self._sweep, self._packing = (
            build.load(name) for name in ("lookup", "marks", "sweep", "packing")
        )
        self._places = build.load("wire/places")
        if not weights_only:
            scratch = (max_rows + first_row) * self.stride
            for begin in (0, self.stride, *range(scratch, self.W.size, self.stride)):
                self.W[begin + self.P : begin + self.stride] = 1
        if not shape.head_step:
            self.W[layout.COUNT], self.W[layout.SEEN] = 1, layout.FOREVER
        self.own_keys = np.array(
            [layout.BIAS_KEY, *range(layout.FIRST_PAIR_KEY, layout.FIRST_PAIR_KEY + shape.pair_rows)], np.uint64,
        )  # fmt: skip
        for row, key in enumerate(self.own_keys, layout.BIAS_ROW):
            self.row_key[row] = key
            self._lookup.place(self.index, self.slots, key, row)

    @property
    def rows(self) -> int:
        """Features held."""
        return int(self.counters[layout.ROWS])

    @property
    def memory_bytes(self) -> int:
        """Bytes of rows and index in use; what the rest of the reservation may grow to is not counted."""
        used = int(self.counters[layout.NEXT_ROW]) + layout.SCRATCH_ROWS
        return used * (self.stride * 4 + 9) + self.index.nbytes + 2 * self.dirty.nbytes

    def mark_own_dirty(self) -> None:
        """The model's own rows differ from what was last taken."""
        end = layout.BIAS_ROW + len(self.own_keys)
        self._marks.mark_range_dirty(self.dirty, self.counters, layout.BIAS_ROW, end)

    def known(self, keys: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """(m,) 2 for a key with a row, 1 for one known to have none, 0 for an unknown one."""
        out = np.empty(len(keys), np.uint8)
        self._lookup.known(self.index, self.slots, keys, out)
        return out

    def weights_of(self, keys: NDArray[np.uint64]) -> NDArray[np.float32]:
        """(m, size) copy of the weights of each key's row, zeros where it has none."""
        rows = np.empty(len(keys), np.uint32)
        self._places.find_rows(self.index, self.slots, keys, rows)
        weights: NDArray[np.float32] = self.W.reshape(-1, self.stride)[rows, : self.shape.size]
        weights[rows == layout.ZERO_ROW] = 0  # it is no feature's, but counts as live
        return weights

    def remember_absent(self, keys: NDArray[np.uint64]) -> None:
        """Mark unknown keys as having no row; see `ctr.kernels.lookup`."""
        self._lookup.remember_absent(self.index, self.slots, self.counters, keys, self.max_rows)

    def forget(self, keys: NDArray[np.uint64]) -> None:
        """Make keys unknown and their rows free."""
        self._lookup.forget(
            self.index, self.slots, self.row_key, self.row_field, self.dirty, self.stored, self.counters, keys,
        )  # fmt: skip

    def sweep(self, time_s: float, ttl_s: float, needed: int) -> None:
        """Let rows go: the expired ones, then those seen longest ago until `needed` more fit and 1/64 is free.

        Of rows seen in the same minute the smaller keys go first.

        Parameters
        ----------
        time_s : float
            Of the event that is learned next.
        ttl_s : float
            0: nothing expires.
        needed : int
        """
        rows, seen = np.empty(self.rows, np.uint32), np.empty(self.rows, np.float32)
        live = self._sweep.ages(
            self.W, self.stride, self.shape.head_step, self.row_key, self.row_field, self.counters, time_s, ttl_s,
            rows, seen,
        )  # fmt: skip
        expired = rows[live:]
        parts = [expired]
        excess = live - max(0, min(self.max_rows * 63 // 64, self.max_rows - needed))
        if excess > 0:
            rows, seen = rows[:live], seen[:live]
            last = np.partition(seen, excess - 1)[excess - 1]
            parts.append(rows[seen < last])
            ties = rows[seen == last]
            keys = self.row_key[ties]
            left = excess - len(parts[1])
            parts.append(ties[keys <= np.partition(keys, left - 1)[left - 1]])
        leaving = np.concatenate(parts)
        bits, gone = np.zeros(self.dirty.size, np.uint64), np.empty(len(leaving), np.uint64)
        n = self._sweep.drop(
            self.index, self.slots, self.row_key, self.row_field, self.dirty, self.stored, self.counters,
            leaving, len(expired), bits, gone,
        )  # fmt: skip
        if n:
            self._gone.append(gone[:n].copy())

    def take_gone(self, chosen: NDArray[np.bool_] = ALL_SHARDS) -> NDArray[np.uint64]:
        """Keys that were swept out since the last call, had been stored and have no row again; ascending.

        Those of the chosen shards, as of `find_dirty`; the others are left for another call.
        """
        gone = np.unique(np.concatenate([np.empty(0, np.uint64), *self._gone]))
        mine = chosen[shard_of(gone, len(chosen))]
        self._gone = [] if mine.all() else [gone[~mine]]
        gone = gone[mine]
        left: NDArray[np.uint64] = gone[self.known(gone) != 2]
        return left

    def marks(self, rows: NDArray[np.uint32]) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
        """(m,) 1 for a dirty row plus 2 for a stored one; and the keys that `take_gone` will look at."""
        bit = (rows & 63).astype(np.uint64)
        dirty, stored = ((bits[rows >> 6] >> bit & np.uint64(1)).astype(np.uint8) for bits in (self.dirty, self.stored))
        return dirty + 2 * stored, np.unique(np.concatenate([np.empty(0, np.uint64), *self._gone]))

    def set_marks(self, rows: NDArray[np.uint32], marks: NDArray[np.uint8], gone: NDArray[np.uint64]) -> None:
        """Put back what `marks` gave; no other row has any."""
        words = int(self.counters[layout.NEXT_ROW]) // 64 + 1
        for bits, mark in ((self.dirty, 1), (self.stored, 2)):
            chosen = rows[marks & mark != 0]
            bits[:words] = 0
            np.bitwise_or.at(bits, chosen >> 6, np.uint64(1) << (chosen & 63).astype(np.uint64))
        self.counters[layout.DIRTY] = np.count_nonzero(marks & 1)
        self._gone = [gone] if len(gone) else []

    def find_dirty(self, chosen: NDArray[np.bool_] = ALL_SHARDS) -> NDArray[np.uint32]:
        """Numbers of the dirty rows, ascending, of those shards for which ``chosen`` (shards,) is true."""
        rows = np.empty(self.counters[layout.DIRTY], np.uint32)
        return rows[: self._marks.find_dirty(self.dirty, self.row_key, chosen, rows)]

    def settle(self, rows: NDArray[np.uint32]) -> None:
        """These rows, found dirty, are clean from now on, and count as stored."""
        self._marks.settle(self.dirty, self.stored, self.counters, rows)

    def held(self) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
        """Keys and row numbers of all rows, the model's own included, by ascending key."""
        n = self.rows + len(self.own_keys)
        keys, rows = np.empty(n, np.uint64), np.empty(n, np.uint32)
        self._lookup.held_rows(self.index, self.slots, keys, rows)
        order = np.argsort(keys)
        return keys[order], rows[order]

    def pack(self, rows: NDArray[np.uint32], room: NDArray[np.float32] | None = None) -> NDArray[np.uint8]:
        """(m, row_bytes) packed rows; of a weights-only table only headers and weights.

        In `room` (any,), where that is large enough for them and not far too large, and holds nothing that is needed.
        """
        size = self.shape.size
        words = self.row_bytes // 4 if self.stride > self.P else 1 + size
        needed = len(rows) * words
        if room is None or not needed <= len(room) <= _TOO_LARGE * needed:
            room = np.empty(needed + needed // 4, np.float32)  # pages that nobody writes to take no memory
        data = room[:needed].reshape(len(rows), words)
        self._packing.pack(
            self.W, self.stride, self.P, size, self.shape.head_step, layout.BIAS_ROW + len(self.own_keys),
            self.row_field, rows, data.view(np.uint32), data,
        )  # fmt: skip
        return data.view(np.uint8)

    def unpack(self, keys: NDArray[np.uint64], data: NDArray[np.uint8]) -> None:
        """Insert or overwrite rows, which are clean afterwards; those beyond the bound are refused and counted."""
        floats = np.require(data, np.uint8, ["C", "A", "W"]).view(np.float32)
        if not floats.flags.aligned:
            floats = floats.copy()
        rows = np.empty(len(keys), np.uint32)
        self._lookup.admit(
            self.index, self.slots, self.row_key, self.dirty, self.stored, self.counters, keys, self.max_rows, rows,
        )  # fmt: skip
        self._packing.unpack(
            self.W, self.stride, self.P, self.shape.size, self.row_field, rows, floats.view(np.uint32), floats,
        )  # fmt: skip
