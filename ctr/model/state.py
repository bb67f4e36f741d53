"""A table's content and what happened to it, as one value: what a snapshot keeps and a new model is given."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ctr.kernels import layout
from ctr.model.table import Table
from ctr.rows import RowBlock


@dataclass(frozen=True, slots=True)
class Counts:
    """What happened to a model since it was made.

    Attributes
    ----------
    events_learned : int
    events_refused : int
        Predicted but not learned, because label, weight, a value or the margin is not finite or beyond bounds. What
        was new in an event with such a margin keeps an empty row.
    rows_created : int
    rows_refused : int
        Times a feature of an event with more new ones than the table has rows counted as unknown.
    rows_expired : int
        Rows not seen for their ttl: touched and begun anew, or swept out.
    rows_evicted : int
        Rows that made room for new ones.
    """

    events_learned: int
    events_refused: int
    rows_created: int
    rows_refused: int
    rows_expired: int
    rows_evicted: int


@dataclass(frozen=True, slots=True)
class State:
    """All that a model knows beside its specification: what a snapshot keeps.

    Attributes
    ----------
    block : RowBlock
        All rows, the model's own included, by ascending key.
    marks : (m,) uint8
        1 where a row changed since it was last taken, 2 where it was ever taken or loaded.
    gone : (g,) uint64
        Keys that `Model.take_gone` has still to look at.
    counts : Counts
    """

    block: RowBlock
    marks: NDArray[np.uint8]
    gone: NDArray[np.uint64]
    counts: Counts


_COUNTERS = (layout.LEARNED, layout.REFUSED_EVENTS, layout.CREATED, layout.REFUSED_ROWS, layout.EXPIRED, layout.EVICTED)
"""In the order of the fields of `Counts`."""


def counts_of(table: Table) -> Counts:
    """What happened to a table."""
    return Counts(*(int(table.counters[at]) for at in _COUNTERS))


def state_of(table: Table) -> State:
    """Copy of all that a table holds."""
    keys, rows = table.held()
    marks, gone = table.marks(rows)
    return State(RowBlock(keys, table.pack(rows)), marks, gone, counts_of(table))


def put_back(table: Table, state: State) -> None:
    """Marks and counts of a table that holds the rows already."""
    table.set_marks(table.held()[1], state.marks, state.gone)
    for at, field in zip(_COUNTERS, fields(Counts), strict=True):
        table.counters[at] = getattr(state.counts, field.name)
