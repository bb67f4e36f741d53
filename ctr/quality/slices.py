"""Keys of events go in, the slice that each belongs to comes out: values of chosen fields, found online.

The values of a field that occur most in the first `ELECTION_EVENTS` events are its slices for the life of the process,
all other values together are one more. They are not elected again later: series that come and go are no use on a
dashboard, and their number is bounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ctr.events.batch import MISSING, Batch
from ctr.kernels import build

ELECTION_EVENTS = 10_000
ALL = "all"
"""Name of slot 0."""
_NAMING_EVENTS = 100_000
"""After so many events nobody looks for the name of a value any more: it is told by its key."""
_LABEL = 80
"""Characters of a label at most."""


class Slices:
    """Slots of a `ctr.quality.windows.Windows`: 0 for all events, then each field's values and the rest of them.

    Parameters
    ----------
    fields : mapping of str to int
        Names of the fields to slice by -> their indices.
    values : int
        Slices of each field, the rest not counted.
    """

    def __init__(self, fields: Mapping[str, int], values: int) -> None:
        self._names, self._values = tuple(fields), values
        self._sliced = np.array(list(fields.values()), np.int64)
        self._elected = np.zeros((len(fields), values), np.uint64)
        self._first = 1 + np.arange(len(fields), dtype=np.int64) * (values + 1)
        self._votes: list[Counter[int]] = [Counter() for _ in fields]
        self._seen = self._searched = 0
        self._labels: dict[int, str] = {}
        self._place = build.load("quality/sums").place
        self.unnamed: dict[int, int] = {}
        """Key -> slot of those elected whose name is not known yet."""

    @property
    def slots(self) -> int:
        """How many there are at most."""
        return 1 + len(self._names) * (self._values + 1)

    def place(self, batch: Batch) -> NDArray[np.int32]:
        """(n, fields) slot of each event in each field; counts votes until the election."""
        slots = np.zeros((len(batch), len(self._names)), np.int32)
        if not self._names:
            return slots
        if self._seen < ELECTION_EVENTS:
            self._vote(batch)
        self._place(
            np.ascontiguousarray(batch.keys), np.ascontiguousarray(batch.fields), np.ascontiguousarray(batch.start),
            batch.dense, self._sliced, self._elected, self._first, slots,
        )  # fmt: skip
        return slots

    def _vote(self, batch: Batch) -> None:
        taken = batch.slice(0, min(len(batch), ELECTION_EVENTS - self._seen))
        for votes, field in zip(self._votes, self._sliced.tolist(), strict=True):
            keys = taken.keys[taken.fields == field]
            votes.update(keys[keys != MISSING].tolist())
        self._seen += len(taken)
        if self._seen < ELECTION_EVENTS:
            return
        for j, (name, votes) in enumerate(zip(self._names, self._votes, strict=True)):
            first = int(self._first[j])
            for v, (key, _) in enumerate(votes.most_common(self._values)):
                self._elected[j, v] = key
                self.unnamed[key] = first + v
            self._labels[first + self._values] = f"{name}=*"
            votes.clear()

    def name(self, names: Mapping[int, str]) -> None:
        """Take what of these names (key -> name) was not known."""
        for key in self.unnamed.keys() & names.keys():
            self._labels[self.unnamed.pop(key)] = names[key][:_LABEL]

    def unnamed_in(self, batch: Batch) -> Sequence[int]:
        """Events of a batch, one for each key that has no name yet, as far as it is there."""
        events = []
        self._searched += len(batch)
        if self._searched > _NAMING_EVENTS:
            self._labels.update({slot: f"{self._field_of(slot)}=#{key:016x}" for key, slot in self.unnamed.items()})
            self.unnamed.clear()
        for key in self.unnamed:
            entries = np.flatnonzero(batch.keys == np.uint64(key))
            if len(entries):
                events.append(int(np.searchsorted(batch.start, entries[0], side="right")) - 1)
        return events

    def _field_of(self, slot: int) -> str:
        return self._names[(slot - 1) // (self._values + 1)]

    def labels(self) -> dict[str, int]:
        """Name -> slot, of those that can be told by now."""
        return {ALL: 0, **{label: slot for slot, label in dict(self._labels).items()}}
