"""A context and candidates as a request names them in, a `Question` of keys out; scores in, the best candidates out.

Candidate i's row is ``{**context, **candidate}``: what a candidate names, be it null, stands in the context's place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ctr.errors import EventError
from ctr.events import Batch, encode_rows
from ctr.events.encoder import RowEncoder
from ctr.model.ranking import Question
from ctr.spec import Spec

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best candidates, best first; of equal ones the one named first.

    Attributes
    ----------
    order : (top,) int64
        Their places among the candidates.
    scores : (top,) float32
        Their predictions.
    unknown : tuple of str
        Candidates named by an id that the catalogue does not have; they are left out.
    """

    order: NDArray[np.int64]
    scores: NDArray[np.float32]
    unknown: tuple[str, ...] = ()

    @classmethod
    def of(cls, scores: NDArray[np.float32], top: int | None) -> Ranking:
        """Choose the `top` best, all where it is not given."""
        n = len(scores)
        if top is not None and top < n:
            # More than asked for where several are as good as the last, so that the order of the request decides.
            chosen = np.flatnonzero(scores >= np.partition(scores, n - top)[n - top]) if top else np.empty(0, np.int64)
            order = chosen[np.argsort(-scores[chosen], kind="stable")][:top]
        else:
            order = np.argsort(-scores, kind="stable")
        return cls(order, scores[order])


class QuestionEncoder:
    """Turns contexts and candidates into questions; made once a specification."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        # A nested value, and a field made of others, cannot be told from a candidate's own columns.
        self._in_parts = spec.dense and not any(field.derived or "." in field.column for field in spec.fields)
        self._whole = RowEncoder(spec)
        self._parts: dict[tuple[int, ...], RowEncoder] = {}

    def question(
        self, context: Row, candidates: Sequence[Row], time_s: float, paths: tuple[str, str] = ("$", "$")
    ) -> Question:
        """Keys of a context and its candidates.

        Raises
        ------
        EventError
            A value that cannot be a feature; `paths` are where context and candidates stand.
        """
        for index, candidate in enumerate(candidates):
            if not isinstance(candidate, Mapping):
                raise EventError("type", f"{paths[1]}[{index}]", "expected an object of feature values")
        if not self._in_parts:
            whole = encode_rows(self.spec, [{**context, **row} for row in candidates], time_s, paths[1])
            nothing = np.empty(0, np.uint64)
            return Question(nothing, np.empty(0, np.int64), nothing.reshape(0, 1), time_s, whole=whole)
        named: set[str] = set().union(*candidates)
        fields = tuple(index for index, field in enumerate(self.spec.fields) if field.column in named)
        # Values that candidates replace are not looked at: they would be refused where a full row would not.
        own = self.row({k: v for k, v in context.items() if k not in named}, time_s, paths[0]).keys
        keys = self.part(fields).encode(candidates, time_s, paths[1]).keys.reshape(len(candidates), len(fields))
        if any(len(candidate) < len(named) for candidate in candidates):
            keys = self._with_context(context, candidates, fields, keys, time_s, paths[0])
        return Question(own, np.array(fields, np.int64), keys, time_s)

    def row(self, row: Row, time_s: float, path: str) -> Batch:
        """One row that stands at `path` itself, in no list.

        Raises
        ------
        EventError
            A value that cannot be a feature.
        """
        return _alone(self._whole, row, time_s, path)

    def part(self, fields: tuple[int, ...]) -> RowEncoder:
        """An encoder of these fields alone."""
        made = self._parts.get(fields)
        if made is None:
            if len(self._parts) >= 64:  # requests decide which parts there are
                self._parts.clear()
            chosen = tuple(self.spec.fields[index] for index in fields)
            made = self._parts[fields] = RowEncoder(msgspec.structs.replace(self.spec, fields=chosen))
        return made

    def _with_context(
        self, context: Row, candidates: Sequence[Row], fields: tuple[int, ...], keys: NDArray[np.uint64],
        time_s: float, path: str,
    ) -> NDArray[np.uint64]:  # fmt: skip
        """Where a candidate does not name a field that others do, the context's feature stands."""
        for at, index in enumerate(fields):
            column = self.spec.fields[index].column
            silent = [i for i, candidate in enumerate(candidates) if column not in candidate]
            if silent and column in context:
                keys[silent, at] = _alone(self.part((index,)), {column: context[column]}, time_s, path).keys[0]
        return keys


def _alone(encoder: RowEncoder, row: Row, time_s: float, path: str) -> Batch:
    """One row that stands at `path` itself, in no list."""
    try:
        return encoder.encode([row], time_s, path)
    except EventError as error:
        raise EventError(error.reason, error.path.replace(f"{path}[0]", path, 1), error.message) from None
