"""An event's record in, its label, weight and time out: all that it says beside its features."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any

import msgspec

from ctr.errors import EventError
from ctr.events.transforms import number
from ctr.spec import Event, Spec

Record = Mapping[str, Any]
"""A parsed event: column or key -> text, number, boolean, None, list, or (one level) another such mapping."""

_LABELS = {0: 0.0, 1: 1.0, "0": 0.0, "1": 1.0}  # false, true, 0.0 and 1.0 are equal to 0 and 1
_UNITS_PER_S = {"s": 1.0, "ms": 1e3, "us": 1e6}
_WithZone = Annotated[datetime, msgspec.Meta(tz=True)]


def lookup(record: Record, column: str) -> Any:
    """Value at a key or, for ``outer.inner`` where there is no key of that name, one level down; None if absent.

    Raises
    ------
    EventError
        Reason "type": ``outer`` holds something else than an object.
    """
    if column in record:
        return record[column]
    outer, dot, inner = column.partition(".")
    inside = record.get(outer) if dot else None
    if inside is None:
        return None
    if not isinstance(inside, Mapping):
        raise EventError("type", outer, f"expected an object that holds {inner!r}, got {reprlib.repr(inside)}")
    return inside.get(inner)


def label_range(spec: Spec) -> tuple[float, float] | None:
    """Labels that squared loss takes; None for the logistic one, whose labels are classes."""
    return spec.model.label_range if spec.model.loss == "squared" else None


class Envelope:
    """Reads label, weight and time as a specification's ``[event]`` declares them.

    Parameters
    ----------
    event : Event
    labels : (float, float), optional
        Labels are numbers from the first to the second; without it 0, 1, true or false.

    Examples
    --------
    >>> Envelope(Event(time="at", time_format="rfc3339")).read({"label": 1, "at": "2024-05-01T12:00:00Z"}, 2e9)
    (1.0, 1.0, 1714564800.0)
    """

    def __init__(self, event: Event, labels: tuple[float, float] | None = None) -> None:
        self._event, self._labels = event, labels
        self._seconds = clock(event.time_format)

    def read(self, record: Record, arrival_s: float) -> tuple[float, float, float]:
        """Label, weight (1 where none is declared) and time in seconds since 1970.

        Raises
        ------
        EventError
            Reason "label", "weight" or "time", in this order, and the column as path: missing, unreadable, a weight
            that is negative or above ``max_weight``, a time before 1970 or more than ``max_skew_s`` after `arrival_s`.
        """
        event = self._event
        # The column itself is there in nearly every event: a plain get first.
        given = record.get(event.label)
        if given is None:
            given = _value(record, event.label, "label")
        if self._labels is not None:
            label = self._number(given, *self._labels)
        else:
            try:
                label = _LABELS[given]
            except (KeyError, TypeError):
                wanted = "0, 1, true or false"
                raise EventError("label", event.label, f"expected {wanted}, got {reprlib.repr(given)}") from None
        weight = 1.0 if event.weight is None else self._weight(record, event.weight)
        time_s = arrival_s if event.time is None else self._time(record, event.time, arrival_s)
        return label, weight, time_s

    def _number(self, given: Any, low: float, high: float) -> float:
        """Label of squared loss."""
        try:
            label = number(given)
        except EventError as error:
            raise EventError("label", self._event.label, error.message) from None
        if not low <= label <= high:
            raise EventError("label", self._event.label, f"expected {low:g} to {high:g}, got {label:g}")
        return label

    def _weight(self, record: Record, column: str) -> float:
        given = _value(record, column, "weight")
        try:
            weight = number(given)
        except EventError as error:
            raise EventError("weight", column, error.message) from None
        if not 0 <= weight <= self._event.max_weight:
            raise EventError("weight", column, f"expected 0 to {self._event.max_weight:g}, got {weight:g}")
        return weight

    def _time(self, record: Record, column: str, arrival_s: float) -> float:
        given = _value(record, column, "time")
        try:
            time_s = self._seconds(given)
        except (EventError, ValueError, OverflowError):  # msgspec's errors are ValueErrors
            wanted = f"a time as {self._event.time_format!r}"
            raise EventError("time", column, f"expected {wanted}, got {reprlib.repr(given)}") from None
        if time_s < 0:
            raise EventError("time", column, f"{reprlib.repr(given)} is before 1970")
        if time_s > arrival_s + self._event.max_skew_s:
            ahead_s = time_s - arrival_s
            raise EventError(
                "time", column,
                f"{reprlib.repr(given)} is {ahead_s:.6g} s after the event's arrival;"
                f" at most {self._event.max_skew_s:g} s are allowed",
            )  # fmt: skip
        return time_s


def _value(record: Record, column: str, reason: str) -> Any:
    try:
        return lookup(record, column)
    except EventError as error:
        raise EventError(reason, error.path, error.message) from None


def clock(time_format: str) -> Callable[[Any], float]:
    """Value -> seconds since 1970; raises ValueError, OverflowError or EventError for what it cannot read."""
    if time_format in _UNITS_PER_S:
        per_s = _UNITS_PER_S[time_format]
        return lambda value: number(value) / per_s
    if time_format == "rfc3339":
        return lambda value: msgspec.convert(value, _WithZone).timestamp()

    @lru_cache(maxsize=4096)  # strptime takes 5 us, and times that are coarse enough for a pattern repeat
    def parsed(text: str) -> float:
        moment = datetime.strptime(text, time_format)  # noqa: DTZ007 - a pattern without %z is in UTC
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

    def from_pattern(value: Any) -> float:
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)  # an hour such as 14102100 is a JSON number too
        if not isinstance(value, str):
            raise EventError("time", "", "expected text")
        return parsed(value)

    return from_pattern
