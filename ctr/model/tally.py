"""Features that were asked for in, counts by field out: a field whose features have no rows is a schema that broke."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ctr.events.batch import Batch
from ctr.kernels import build
from ctr.model.model import Model


class Tally:
    """Counts features by field, and those without a row; of any number of threads, one at a time.

    Attributes
    ----------
    counts : (2, F) int64
        Features asked for of which it is known whether they have a row; those of them without one.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._tally = build.load("serve/tally").tally
        self.counts: NDArray[np.int64] = np.zeros((2, len(model.spec.fields)), np.int64)

    def add(self, keys: NDArray[np.uint64], fields: NDArray[np.uint8]) -> None:
        """Count features; key 0 is none."""
        table = self._model.table
        self._tally(table.index, table.slots, keys, fields, self.counts)

    def add_batch(self, batch: Batch) -> None:
        """Count all features of a batch."""
        self.add(batch.keys, batch.fields)
