"""Texts of times in, a table out in which kernels find the seconds that a strptime pattern makes of them.

strptime takes 5 us; times that are coarse enough for a pattern repeat.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh64_intdigest

from ctr.errors import EventError
from ctr.events.envelope import clock
from ctr.kernels.scan.features import KNOWN_TIME

SLOTS = 4096
"""At most half of them are taken; then the table starts anew."""
LONGEST = 32
"""Bytes of a text that the table can hold."""


class KnownTimes:
    """The table, and how it learns.

    Attributes
    ----------
    memo : (SLOTS,) `KNOWN_TIME`
        Never written to once it stands here: kernels read it in other threads.
    """

    def __init__(self, time_format: str) -> None:
        self.memo = np.zeros(SLOTS, KNOWN_TIME)
        self._seconds = clock(time_format)
        self._known: dict[bytes, float] = {}
        self._lock = threading.Lock()

    def learn(self, data: NDArray[np.uint8], spans: NDArray[np.int64]) -> bool:
        """Add the texts that stand at (n, 2) `spans` of `data`; whether any was new and is a time."""
        texts = {data[a:b].tobytes() for a, b in spans.tolist() if 0 < b - a <= LONGEST}
        with self._lock:
            new = {}
            for text in texts - self._known.keys():
                try:
                    new[text] = self._seconds(text.decode())
                except (EventError, ValueError, OverflowError):
                    continue
            if len(self._known) + len(new) > SLOTS // 2:
                self._known = dict(list(new.items())[: SLOTS // 2])
                memo = self._table(self._known)
            else:
                self._known |= new
                memo = self._table(new, self.memo.copy())
            self.memo = memo
            return bool(new)

    @staticmethod
    def _table(known: dict[bytes, float], memo: NDArray[np.void] | None = None) -> NDArray[np.void]:
        memo = np.zeros(SLOTS, KNOWN_TIME) if memo is None else memo
        for text, seconds in known.items():
            slot = xxh64_intdigest(text, 0) % SLOTS
            while memo[slot]["length"]:
                slot = (slot + 1) % SLOTS
            memo[slot] = (*np.frombuffer(text.ljust(LONGEST, b"\0"), np.uint64).tolist(), len(text), seconds)
        return memo
