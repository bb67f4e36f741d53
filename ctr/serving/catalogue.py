"""Ids of ads in, a question of keys out: a bounded copy of a catalogue that follows the store, made ready for ranking.

Places are given for good: an ad that changes gets another place, and one that was left is used again only after a time
that no request lives for. So a request looks its ids up without a lock, and its places stay what they were.
"""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr import log
from ctr.errors import CtrError, EventError
from ctr.events import jsonlines
from ctr.model.prepared import PreparedAds
from ctr.model.ranking import AdQuestion, Question
from ctr.serving.cache import RowCache
from ctr.serving.places import PlaceIndex
from ctr.serving.questions import QuestionEncoder
from ctr.store.ads import AdReader

Row = Mapping[str, Any]

MAX_ADS = 200_000
"""Ads held at most: 9 fields take about 0.6 KB each in all, dictionary and index included."""
_AT_ONCE = 64
"""Ads that become keys before others get the interpreter again: half a millisecond."""
_PRELOAD = 1000
_ROWS_PER_S = 100_000
"""Pace of `settle`: see `ctr.serving.scorer`."""
_LEFT_FOR_S = 30.0
"""How long a place stays as it was after its ad has left."""
_INDEX_SHARE = 0.05
"""Part of the follower's time that may go into the index; until it is made, nothing is kept of ads that are new."""


@dataclass
class Shelf:
    """All ads, read by one and the same set of columns."""

    columns: frozenset[str]
    """Columns that any of them names."""
    fields: tuple[int, ...]
    """Fields that read these."""
    prepared: PreparedAds
    places: dict[str, int] = field(default_factory=dict)
    silent: dict[str, set[int]] = field(default_factory=dict)
    """Column -> places of the ads that do not name it: there the context's value stands."""
    rows: dict[int, Row] = field(default_factory=dict)
    """Place -> features, where a question cannot be put together from keys."""
    left: deque[tuple[float, int]] = field(default_factory=deque)
    index: PlaceIndex = field(default_factory=PlaceIndex)
    end: int = 0

    def room(self) -> int | None:
        """A free place."""
        if self.left and self.left[0][0] < time.monotonic() - _LEFT_FOR_S:
            place = self.left.popleft()[1]
            for places in self.silent.values():
                places.discard(place)
            self.rows.pop(place, None)
            return place
        if self.end < self.prepared.max_ads:
            self.end += 1
            return self.end - 1
        return None

    def leave(self, identity: str) -> None:
        """Forget an id."""
        place = self.places.pop(identity, None)
        if place is not None:
            self.left.append((time.monotonic(), place))
            self.index.put({identity: -1}, self.places)


class Catalogue:
    """Ads by id for one generation of a model.

    `question` may be called from an event loop; `follow` waits for the store and is for one thread at a time.

    Parameters
    ----------
    reader : AdReader
    questions : QuestionEncoder
        Of the model's specification.
    cache : RowCache
        Its rows: told which of them the ads have.
    max_ads : int
        What goes beyond is left out, counted and logged.

    Attributes
    ----------
    error : CtrError or None
        Why the ads held may not be those of the store.
    refused : int
        Ads with a value that can be no feature, or for which there was no room; their ids are unknown.
    """

    def __init__(
        self, reader: AdReader, questions: QuestionEncoder, cache: RowCache, *, max_ads: int = MAX_ADS
    ) -> None:
        self._reader, self._questions, self._cache, self._max_ads = reader, questions, cache, max_ads
        self._shelf = self._new_shelf(frozenset())
        self._wanted = np.empty(0, np.uint64)
        self._due: deque[str] = deque()
        self._index_at: float | None = None
        self._index_s = 0.0
        self.error: CtrError | None = None
        self.refused = 0
        self._log = log.get(component="catalogue", model=questions.spec.model_id)

    def __len__(self) -> int:
        return len(self._shelf.places)

    @property
    def memory_bytes(self) -> int:
        """Memory of the ads' keys, of what is kept of them and of their index."""
        return self._shelf.prepared.memory_bytes + self._shelf.index.memory_bytes

    # What requests ask for

    def question(
        self, context: Row, ids: Sequence[str], time_s: float, path: str = "$.context"
    ) -> tuple[Question | AdQuestion, NDArray[np.int64]]:
        """Context and ads as keys.

        Returns
        -------
        question : Question or AdQuestion
            Of the ads that are known.
        known : (m,) int64
            Their indices among `ids`, ascending.

        Raises
        ------
        EventError
            A value of the context that can be no feature.
        """
        return self._question(self._shelf, context, *self._placed(self._shelf, ids), time_s, path)

    @property
    def shelf(self) -> Shelf:
        """All ads as they are now; one that is new may stand in its place at any time."""
        return self._shelf

    def question_of_keys(
        self, shelf: Shelf, context: NDArray[np.uint64], places: NDArray[np.int64], time_s: float
    ) -> AdQuestion | None:
        """The same for (F,) keys of a context and (n,) places of ads on a shelf.

        None where `question` is to be asked with all of it decoded: for ads that leave something to the context.
        """
        if self._questions.crosses(shelf.fields):
            return None
        for column, silent in shelf.silent.items():
            fields = self._questions.fields_of({column})
            if silent and context[list(fields)].any() and not silent.isdisjoint(places.tolist()):
                return None
        return AdQuestion(context, shelf.prepared, places, time_s)

    def _placed(self, shelf: Shelf, ids: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places of those of the ids that are known, and which these are."""
        try:
            # An array first: NumPy takes 25 us to look at 500 numbers in a list.
            places = np.frombuffer(array("q", map(shelf.places.__getitem__, ids)), np.int64)
            known = np.arange(len(ids))
        except KeyError:
            placed = [shelf.places.get(identity, -1) for identity in ids]
            known = np.array([i for i, place in enumerate(placed) if place >= 0], np.int64)
            places = np.array([place for place in placed if place >= 0], np.int64)
        return places, known

    def _question(
        self, shelf: Shelf, context: Row, places: NDArray[np.int64], known: NDArray[np.int64], time_s: float, path: str
    ) -> tuple[Question | AdQuestion, NDArray[np.int64]]:
        if not self._questions.in_parts:
            rows = [shelf.rows[place] for place in places.tolist()]
            return self._questions.question(context, rows, time_s, (path, "$")), known
        own = self._questions.row_keys({k: v for k, v in context.items() if k not in shelf.columns}, time_s, path)
        question = AdQuestion(own, shelf.prepared, places, time_s)
        if self._questions.crosses(shelf.fields):  # with the context's fields: nothing that an ad alone decides
            return self._questions.crossed(self._with_context(context, shelf, question, path)), known
        for column, silent in shelf.silent.items():
            if silent and column in context and not silent.isdisjoint(places.tolist()):
                return self._with_context(context, shelf, question, path), known
        return question, known

    def _with_context(self, context: Row, shelf: Shelf, question: AdQuestion, path: str) -> Question:
        """Where an ad does not name a field that others do, the context's feature stands."""
        plain = question.plain
        for at, index in enumerate(shelf.fields):
            column = self._questions.spec.fields[index].column
            silent = shelf.silent.get(column)
            if silent and column in context:
                key = self._questions.part_row((index,), {column: context[column]}, question.time_s, path).keys[0]
                plain.keys[[place in silent for place in question.places.tolist()], at] = key
        return plain

    # What the follower does

    def follow(self) -> int:
        """One step: look for changes, take some of them over, read some of the new ads' rows.

        A store that cannot be read is told by `error`; what is held stays.

        Returns
        -------
        int
            Ads and rows read. Where `due` is not 0, call again after a pause that suits the store.
        """
        try:
            read = self._follow()
            if self.error is not None:
                self._log.info("the catalogue is back")
            self.error = None
        except CtrError as error:
            if self.error is None:
                self._log.warning("the catalogue cannot be read; ranking by the ads held", error=str(error))
            self.error = error
            return 0
        return read

    @property
    def due(self) -> int:
        """Ads that changed and are not taken over yet, and rows of theirs still to be read."""
        return len(self._due) + len(self._wanted)

    def _follow(self) -> int:
        changes = self._reader.poll()
        if changes is not None and changes.broken:
            try:
                self._read_all()
            except BaseException:
                self._reader.forget()
                raise
        elif changes is not None:
            for identity in changes.gone:
                self._shelf.leave(identity)
            self._due.extend(changes.written)
        read = self._take_some()
        self._make_index()
        part, rest = self._wanted[:_PRELOAD], self._wanted[_PRELOAD:]
        if len(part):
            self._cache.preload(part)
            self._wanted = rest
        return read + len(part)

    def _take_some(self) -> int:
        """Read the next ads that are due."""
        part = [self._due[i] for i in range(min(_PRELOAD, len(self._due)))]
        if not part:
            return 0
        ads = self._parsed(self._reader.fetch(part))
        columns = self._columns_of(ads.values())
        if not columns <= self._shelf.columns:
            self._read_all()  # a column that was the context's alone is an ad's now
            return len(part)
        for identity in part:  # also those that can no longer be read, or have gone meanwhile
            self._shelf.leave(identity)
        self._place(self._shelf, ads)
        for _ in part:
            self._due.popleft()
        return len(part)

    def _read_all(self) -> None:
        """Read the whole catalogue; requests go by what was held before, until all of it is there."""
        ads: dict[str, Row] = {}
        self.refused = 0
        for block in self._reader.scan():
            if len(ads) < self._max_ads:
                ads.update(self._parsed(block))
            else:
                self.refused += len(block)
        shelf = self._new_shelf(self._columns_of(ads.values()))
        self._place(shelf, ads)
        shelf.prepared.use_index(shelf.prepared.make_index())
        self._cache.use_ads(shelf.prepared)
        self._shelf, self._index_at = shelf, None
        self._due.clear()
        self._want(shelf.prepared.used)
        if self.refused:
            self._log.warning("ads left out", ads=self.refused, max_ads=self._max_ads)

    def _new_shelf(self, columns: frozenset[str]) -> Shelf:
        fields = self._questions.fields_of(columns) if self._questions.in_parts else ()
        return Shelf(columns, fields, PreparedAds(np.array(fields, np.int64), self._max_ads))

    def _columns_of(self, ads: Any) -> frozenset[str]:
        """Columns of the model that any of these names."""
        mine = {field.column for field in self._questions.spec.fields}
        return frozenset(mine.intersection(*[set().union(*ads)]))

    def _parsed(self, raw: Mapping[str, bytes]) -> dict[str, Row]:
        """Ads as rows; what cannot be read is left out."""
        ads: dict[str, Row] = {}
        for identity, features in raw.items():
            try:
                ads[identity] = jsonlines.parse(features)
            except EventError as error:
                self._refuse(identity, error)
        return ads

    def _refuse(self, identity: str, why: object) -> None:
        self.refused += 1
        if self.refused & (self.refused - 1) == 0:  # the 1st, 2nd, 4th, 8th ...: a catalogue may be wrong as a whole
            self._log.warning("an ad cannot be used", id=identity, why=str(why), refused=self.refused)

    def _place(self, shelf: Shelf, ads: Mapping[str, Row]) -> None:
        """Give ads their places. With pauses: values become keys in the interpreter, which requests need."""
        ids = list(ads)
        for begin in range(0, len(ids), _AT_ONCE):
            began = time.perf_counter()
            self._place_some(shelf, {identity: ads[identity] for identity in ids[begin : begin + _AT_ONCE]})
            if len(shelf.places) >= _AT_ONCE:
                time.sleep(min(0.01, time.perf_counter() - began))

    def _place_some(self, shelf: Shelf, ads: Mapping[str, Row]) -> None:
        placed: list[tuple[str, int]] = []
        keys: list[NDArray[np.uint64]] = []
        for identity, row in ads.items():
            try:
                batch = self._questions.part_row(shelf.fields, row, 0.0, "$") if self._questions.in_parts else (
                    self._questions.row(row, 0.0, "$")
                )  # fmt: skip
            except EventError as error:
                self._refuse(identity, error)
                continue
            place = shelf.room()
            if place is None:
                self._refuse(identity, f"more than {self._max_ads} ads")
                continue
            for column in shelf.columns - row.keys():
                shelf.silent.setdefault(column, set()).add(place)
            if self._questions.in_parts:
                keys.append(batch.keys)
            else:
                shelf.rows[place] = row
            placed.append((identity, place))
        if keys:
            made = np.stack(keys)
            self._cache.put_ads(shelf.prepared, np.array([place for _, place in placed]), made)
            if shelf is self._shelf:
                self._want(np.unique(made))
                self._index_at = self._index_at or time.monotonic()
        shelf.places.update(placed)
        shelf.index.put(dict(placed), shelf.places)

    def _want(self, keys: NDArray[np.uint64]) -> None:
        """Rows to be read before somebody asks, as many as leave room for those of the contexts."""
        keys = np.union1d(self._wanted, keys[keys != 0])
        self._wanted = keys[: max(0, self._cache.max_rows // 2)]

    def _make_index(self) -> None:
        """Make the index anew, where ads have come; the longer it takes, the less often."""
        began = time.monotonic()
        if self._index_at is None or began - self._index_at < self._index_s / _INDEX_SHARE:
            return
        self._cache.index_ads(self._shelf.prepared)
        self._index_s, self._index_at = time.monotonic() - began, None


def settle(catalogue: Catalogue, pause: Callable[[float], object] = time.sleep) -> None:
    """Follow until nothing is due, or the store cannot be read."""
    read = catalogue.follow()
    while catalogue.due and catalogue.error is None:
        pause(read / _ROWS_PER_S)
        read = catalogue.follow()
