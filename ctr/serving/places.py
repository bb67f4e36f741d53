"""Ids -> places for requests, and scores -> JSON: the arrays of the kernels for both."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ctr.kernels import build

_LEAST_SLOTS = 1 << 10
_SLACK = bytes(64)
"""Kernels read so many bytes beyond an id."""


class PlaceIndex:
    """Places by id, to be looked up by the ids' bytes in a request; changed by one thread, read by any.

    A dictionary takes 0.1 us an id, and making the texts that it is asked with as long again.
    """

    def __init__(self) -> None:
        self._add = build.load("scan/ids").add
        self._table = self._empty(_LEAST_SLOTS)
        self._used = 0

    @staticmethod
    def _empty(slots: int) -> NDArray[np.uint64]:
        return np.zeros((slots, 2), np.uint64)

    @property
    def table(self) -> NDArray[np.uint64]:
        """(2^m, 2) as `ctr.events.requests.RequestScanner.scan_ranking` takes it; another one where it had to grow."""
        return self._table

    @property
    def memory_bytes(self) -> int:
        """Memory of the table."""
        return self._table.nbytes

    def put(self, places: Mapping[str, int], every: Mapping[str, int]) -> None:
        """Add ids, or give them other places, -1 for those that leave; `every` holds all as they are then."""
        self._used += len(places)
        if 2 * self._used > len(self._table):
            table = self._empty(max(_LEAST_SLOTS, 1 << (4 * len(every)).bit_length()))
            self._fill(table, every)
            self._table, self._used = table, len(every)
        else:
            self._fill(self._table, places)

    def _fill(self, table: NDArray[np.uint64], places: Mapping[str, int]) -> None:
        raw = [identity.encode() for identity in places]
        ends = np.cumsum([len(identity) for identity in raw], dtype=np.int64)
        data = np.frombuffer(b"".join(raw) + _SLACK, np.uint8)
        self._add(data, ends, np.fromiter(places.values(), np.int64, len(places)), table)


class RankingWriter:
    """Puts probabilities in order and writes them as the body of an answer; not for several threads at once."""

    _PARTS = (b'{"order":[', b'],"scores":[', b'],"unknown":[]}')

    def __init__(self) -> None:
        kernels = build.load("serve/answer")
        self._write, self._bytes = kernels.write, kernels.PLACE_BYTES + kernels.SCORE_BYTES
        self._parts = np.frombuffer(b"".join(self._PARTS), np.uint8)
        self._ends = np.cumsum([len(part) for part in self._PARTS])
        self._out = np.empty(0, np.uint8)
        self.body(np.zeros(1, np.float32), None)  # compiles, or loads from the disk cache

    def body(self, scores: NDArray[np.float32], top: int | None) -> bytes:
        """Write the `top` best, all where it is not given: what `Ranking.of` says, as JSON."""
        n = len(scores) if top is None else min(top, len(scores))
        room = len(_SLACK) + len(self._parts) + n * self._bytes
        if len(self._out) < room:
            self._out = np.empty(room, np.uint8)
        written = self._write(scores, n, self._parts, self._ends, self._out)
        return self._out[:written].tobytes()
