"""A context and candidates as a request names them in, a `Question` of keys out; scores in, the best candidates out.

Candidate i's row is ``{**context, **candidate}``: what a candidate names, be it null, stands in the context's place.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, TypeGuard

import msgspec
import numpy as np
from numpy.typing import NDArray

from ctr.errors import EventError
from ctr.events import MISSING, Batch, encode_rows
from ctr.events.encoder import Encoder, RowEncoder
from ctr.events.hashing import cross_key, field_seeds
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
            order = _descending(scores)
        return cls(order, scores[order])

    @classmethod
    def of_ads(
        cls, scores: NDArray[np.float32], top: int | None, ids: Sequence[str], known: NDArray[np.int64]
    ) -> Ranking:
        """The same for ads, of whose `ids` only the `known` ones have a score."""
        found = cls.of(scores, top)
        if len(known) == len(ids):
            return found
        unknown = np.setdiff1d(np.arange(len(ids)), known, assume_unique=True)
        return cls(known[found.order], found.scores, tuple(ids[index] for index in unknown.tolist()))


def by_id(candidates: Sequence[Any], path: str = "$") -> TypeGuard[Sequence[str]]:
    """Whether candidates are named by ids of a catalogue; none at all are not.

    Raises
    ------
    EventError
        Some are and some are not; `path` is where they stand.
    """
    ids = list(map(type, candidates)).count(str)
    if 0 < ids < len(candidates):
        raise EventError("type", path, "expected candidates that are all objects, or all ids")
    return ids > 0


def _descending(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """(n,) order of scores, the greatest first, of equal ones the first first.

    Scores and places as one integer each: sorting 500 of these takes 3 us, a stable argsort of floats 25.
    """
    bits = (scores + np.float32(0)).view(np.int32)  # -0 is 0
    ascending = np.where(bits < 0, ~bits, bits | np.int32(-(2**31))).view(np.uint32)
    keys = (~ascending).astype(np.uint64) << np.uint64(32) | np.arange(len(scores), dtype=np.uint64)
    keys.sort()
    order: NDArray[np.int64] = (keys & np.uint64(0xFFFFFFFF)).view(np.int64)
    return order


_REMEMBERED, _LONGEST = 1 << 14, 256
"""Values of a field whose keys are remembered, and how long they may be: some 2 MB a field."""


class _Memo(dict[Any, int]):
    """Value of one kind -> key of one field: a third of the time that hashing it again takes."""

    def __init__(self, questions: QuestionEncoder, index: int, column: str) -> None:
        super().__init__()
        self._questions, self._index, self._column = questions, index, column

    def __missing__(self, value: Any) -> int:
        key = int(self._questions.part_row((self._index,), {self._column: value}, 0.0, "$").keys[0])
        if len(self) >= _REMEMBERED:  # clients decide what is asked for
            self.clear()
        if not isinstance(value, str) or len(value) <= _LONGEST:
            self[value] = key
        return key


class QuestionEncoder:
    """Turns contexts and candidates into questions; made once a specification.

    Attributes
    ----------
    in_parts : bool
        Whether a question is put together from the context's keys and the candidates'; else all rows are encoded.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        # A nested value cannot be told from a candidate's own columns.
        self.in_parts = spec.dense and not any("." in field.column for field in spec.fields)
        position, seeds = {field.name: index for index, field in enumerate(spec.fields)}, field_seeds(spec)
        self._crosses = [
            (index, position[field.cross[0]], position[field.cross[1]], seeds[index])
            for index, field in enumerate(spec.fields) if field.cross is not None
        ]  # fmt: skip
        self._whole, self._encoder = RowEncoder(spec), Encoder(spec)
        self._parts: dict[tuple[int, ...], RowEncoder] = {}
        self._memos: dict[tuple[int, type], _Memo] = {
            (index, kind): _Memo(self, index, field.column)
            for index, field in enumerate(spec.fields) if field.single and not field.derived for kind in (str, int)
        }  # fmt: skip

    def question(
        self, context: Row, candidates: Sequence[Row], time_s: float, paths: tuple[str, str] = ("$", "$")
    ) -> Question:
        """Keys of a context and its candidates.

        Raises
        ------
        EventError
            A value that cannot be a feature; `paths` are where context and candidates stand.
        """
        others = {kind for kind in set(map(type, candidates)) if not issubclass(kind, Mapping)}
        if others:
            index = next(index for index, candidate in enumerate(candidates) if type(candidate) in others)
            raise EventError("type", f"{paths[1]}[{index}]", "expected an object of feature values")
        if not self.in_parts:
            whole = encode_rows(self.spec, [{**context, **row} for row in candidates], time_s, paths[1])
            nothing = np.empty(0, np.uint64)
            return Question(nothing, np.empty(0, np.int64), nothing.reshape(0, 1), time_s, whole=whole)
        named: set[str] = set().union(*candidates)
        fields = self.fields_of(named)
        # Values that candidates replace are not looked at: they would be refused where a full row would not.
        own = self.row_keys({k: v for k, v in context.items() if k not in named}, time_s, paths[0])
        keys = self._remembered(fields, candidates)
        if keys is None:
            keys = self.part(fields).encode(candidates, time_s, paths[1]).keys.reshape(len(candidates), len(fields))
        if min(map(len, candidates), default=0) < len(named):
            keys = self._with_context(context, candidates, fields, keys, time_s, paths[0])
        return self.crossed(Question(own, np.array(fields, np.int64), keys, time_s))

    def fields_of(self, columns: AbstractSet[str]) -> tuple[int, ...]:
        """Fields that read any of these columns themselves."""
        fields = enumerate(self.spec.fields)
        return tuple(index for index, field in fields if field.column in columns and not field.derived)

    def crosses(self, fields: tuple[int, ...]) -> bool:
        """Whether any of these fields is part of a cross."""
        return any(a in fields or b in fields for _, a, b, _ in self._crosses)

    def crossed(self, question: Question) -> Question:
        """The question with the crosses of its candidates' fields, be it with one another or with the context's."""
        columns = {int(index): question.keys[:, at] for at, index in enumerate(question.fields)}
        for index, a, b, seed in self._crosses:
            if a in columns or b in columns:
                ones, twos = (
                    columns[part].tolist() if part in columns else [int(question.context[part])] * len(question)
                    for part in (a, b)
                )
                pairs = zip(ones, twos, strict=True)
                made = [cross_key(one, two, seed) if one and two else int(MISSING) for one, two in pairs]
                columns[index] = np.array(made, np.uint64)
        if len(columns) == len(question.fields):
            return question
        fields = sorted(columns)
        keys = np.stack([columns[index] for index in fields], axis=1)
        return Question(question.context, np.array(fields, np.int64), keys, question.time_s)

    def _remembered(self, fields: tuple[int, ...], candidates: Sequence[Row]) -> NDArray[np.uint64] | None:
        """(n, A) keys, column by column: ads come again and again. None where that is not the way."""
        keys = np.empty((len(candidates), len(fields)), np.uint64)
        try:
            for at, index in enumerate(fields):
                column = self.spec.fields[index].column
                values = [candidate[column] for candidate in candidates]
                (kind,) = set(map(type, values))
                keys[:, at] = array("Q", map(self._memos[index, kind].__getitem__, values))
        except (KeyError, ValueError, EventError):  # a column or a kind of value that not all have; a bad value
            return None
        return keys

    def row_keys(self, row: Row, time_s: float, path: str) -> NDArray[np.uint64]:
        """(F,) keys of a row that stands at `path` itself, in no list; only for a dense specification.

        Raises
        ------
        EventError
            A value that cannot be a feature.
        """
        try:
            return np.array(self._encoder.keys(row, time_s), np.uint64)
        except EventError as error:
            raise EventError(error.reason, f"{path}.{error.path}", error.message) from None

    def row(self, row: Row, time_s: float, path: str) -> Batch:
        """One row that stands at `path` itself, in no list.

        Raises
        ------
        EventError
            A value that cannot be a feature.
        """
        return _alone(self._whole, row, time_s, path)

    def part_row(self, fields: tuple[int, ...], row: Row, time_s: float, path: str) -> Batch:
        """The same with these fields alone."""
        return _alone(self.part(fields), row, time_s, path)

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
                keys[silent, at] = self.part_row((index,), {column: context[column]}, time_s, path).keys[0]
        return keys


def _alone(encoder: RowEncoder, row: Row, time_s: float, path: str) -> Batch:
    """One row that stands at `path` itself, in no list."""
    try:
        return encoder.encode([row], time_s, path)
    except EventError as error:
        raise EventError(error.reason, error.path.replace(f"{path}[0]", path, 1), error.message) from None
