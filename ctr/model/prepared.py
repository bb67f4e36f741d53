"""A catalogue's ads in, what they alone decide kept until one of their rows changes: for ranking them by number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

_NEVER = np.float32(np.inf)
"""Since when nothing holds."""


class PreparedAds:
    """Keys of ads by place, and what was found of them when they were last ranked.

    An ad's rows, the sum of its linear weights and that of the pairs inside it are kept as long as none of its rows
    changes (`touched`). Weights themselves are not: 500 ads of 9 fields would be 3 MB of copies to stream where the
    rows that they share lie in the caches.

    Not for several threads at once, but that `keys_among` and `make_index` may run beside all but `put`.

    Parameters
    ----------
    fields : (A,) int64
        The ads' fields, ascending.
    max_ads : int
        Places. Memory is taken as they are used: 16 A + 22 bytes each, and 16 A for the index of keys.

    Attributes
    ----------
    keys : (max_ads, A) uint64
    features : (max_ads,) int64
        How many keys of each ad are not 0.
    rows : (max_ads, A) int64
        Where the rows begin, in a table's W.
    kept : (max_ads, 4) float32
        See `ctr.kernels.rank.ffm`.
    keep : (max_ads,) bool
        Whether an ad is in the index, so that `touched` finds it.
    """

    def __init__(self, fields: NDArray[np.int64], max_ads: int) -> None:
        A = len(fields)
        self.fields, self.max_ads = fields, max_ads
        self.keys = np.zeros((max_ads, A), np.uint64)
        self.features = np.zeros(max_ads, np.int64)
        self.rows = np.zeros((max_ads, A), np.int64)
        self.kept = np.zeros((max_ads, 4), np.float32)
        self.keep = np.zeros(max_ads, np.bool_)
        self._end = 0
        self._index: tuple[Keys, NDArray[np.int64]] = np.empty(0, np.uint64), np.empty(0, np.int64)

    @property
    def memory_bytes(self) -> int:
        """Memory of places in use and of the index."""
        a_place = sum(array[:1].nbytes for array in (self.keys, self.features, self.rows, self.kept, self.keep))
        return self._end * a_place + sum(array.nbytes for array in self._index)

    def put(self, places: NDArray[np.int64], keys: Keys) -> None:
        """Let ads have these (m, A) keys. Nothing is kept of them before they are in the index."""
        self.keys[places] = keys
        self.features[places] = np.count_nonzero(keys, axis=1)
        self.keep[places] = False
        self.kept[places, 2] = _NEVER
        self._end = max(self._end, int(places.max(initial=-1)) + 1)

    def make_index(self) -> tuple[Keys, NDArray[np.int64]]:
        """Keys of all places, ascending, and whose they are: for `use_index`."""
        flat = self.keys[: self._end].ravel()
        order = np.argsort(flat, kind="stable")
        order = order[np.searchsorted(flat[order], np.uint64(1)) :]
        return flat[order], order // max(1, len(self.fields))

    def use_index(self, index: tuple[Keys, NDArray[np.int64]]) -> None:
        """Let the ads that were put before `make_index` be found."""
        self._index = index
        self.keep[: self._end] = True

    def keys_among(self, keys: Keys) -> Keys:
        """Those of these keys that an ad in the index has."""
        held = self._index[0]
        if not len(held):
            return keys[:0]
        at = np.minimum(np.searchsorted(held, keys), len(held) - 1)
        found: Keys = keys[held[at] == keys]
        return found

    def touched(self, keys: Keys) -> None:
        """Rows of these keys have changed, come or gone: what is kept of their ads no longer holds."""
        held, ads = self._index
        keys = self.keys_among(keys)
        if not len(keys):  # as mostly
            return
        begin, end = np.searchsorted(held, keys, "left"), np.searchsorted(held, keys, "right")
        counts = end - begin
        # Ranges begin:end, one behind the other.
        at = np.arange(counts.sum()) + np.repeat(begin - (np.cumsum(counts) - counts), counts)
        self.kept[ads[at], 2] = _NEVER

    def forget_all(self) -> None:
        """Anything may have changed."""
        self.kept[: self._end, 2] = _NEVER

    @property
    def used(self) -> Keys:
        """Keys of all ads, ascending, each once."""
        return np.unique(self._index[0])
