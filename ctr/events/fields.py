"""One field of a record in, its canonical texts and their values out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ctr.errors import EventError
from ctr.events.envelope import Record, lookup
from ctr.events.hashing import canonical
from ctr.events.transforms import number, spline_weights, to_clock, to_text
from ctr.spec import Field

NOT_A_CHARACTER = "half of a surrogate pair is no character"
REAL_MAX = 1e9
"""Larger numbers are no value of a real field: kernels promise finite rows up to it."""


def features(field: Field, record: Record, time_s: float) -> dict[str, float]:
    """Features of a field that is no cross: canonical text -> value. None of value 0; none where it is missing.

    Where a multi-valued field holds an object, its features are the keys and their values the numbers; m counts them.
    Otherwise an element of a multi-valued field has the value 1, 1/m or 1/sqrt(m), where m counts the field's elements
    without nulls and empty texts, before equal ones are merged by adding their values. A real field's feature has the
    empty text and the number as its value; 0 is none. With ``missing = "feature"`` absence is the empty text, too.

    Raises
    ------
    EventError
        Reason "type", "value" or "encoding", the value's column as path (``tags[2]`` for an element).
    """
    if (clock := to_clock(field)) is not None:
        return {clock(time_s): 1.0}
    if field.real:
        x = real_value(field, record)
        return {"": x} if x else {}
    if field.transform == "bspline":
        given = lookup(record, field.column)
        try:
            found = spline_weights(given, field.edges, field.degree)
        except EventError as error:
            raise EventError(error.reason, field.column, error.message) from None
    elif (weighted := weighted_values(field, record) if field.multi else None) is not None:
        found = {text: x for text, x in weighted.items() if x and text}
        return _scaled(field, found, len(found))
    else:
        texts, found = _texts(field, record), {}
        for text in texts:
            found[text] = found.get(text, 0.0) + 1.0
        if field.multi:
            return _scaled(field, found, len(texts))
    return found or ({"": 1.0} if field.missing == "feature" else {})


def _scaled(field: Field, found: dict[str, float], m: int) -> dict[str, float]:
    scale = 1.0 if field.scale == "none" else m if field.scale == "mean" else math.sqrt(m)
    return {text: value / scale for text, value in found.items()}


def _texts(field: Field, record: Record) -> list[str]:
    """Canonical texts of a field's values, before equal ones are merged."""
    given = lookup(record, field.column)
    several = field.multi and isinstance(given, (list, tuple))
    text_of = to_text(field)
    out, path = [], field.column
    try:
        for index, value in enumerate(given if several else (given,)):
            path = f"{field.column}[{index}]" if several else field.column
            text = text_of(value)
            text.encode()  # raises here, where the path is known
            if text:
                out.append(text)
    except EventError as error:
        raise EventError(error.reason, path, error.message) from None
    except UnicodeEncodeError:
        raise EventError("encoding", path, NOT_A_CHARACTER) from None
    return out


def weighted_values(field: Field, record: Record) -> Mapping[str, float] | None:
    """Features and values of a multi-valued field that holds an object of numbers; None where it holds something else.

    Raises
    ------
    EventError
        Reason "type" for what is no number, "value" for one beyond +-`REAL_MAX`, "encoding" for half a surrogate pair.
    """
    given = lookup(record, field.column)
    if not given or not isinstance(given, Mapping):
        return None
    out = {}
    for feature, value in given.items():
        path = f"{field.column}.{feature}"
        try:
            text = canonical(feature)
            text.encode()
        except UnicodeEncodeError:
            raise EventError("encoding", field.column, NOT_A_CHARACTER) from None
        except EventError as error:
            raise EventError(error.reason, field.column, error.message) from None
        out[text] = finite_value(value, path)
    return out


def real_value(field: Field, record: Record) -> float | None:
    """Value of a real field; None where it is missing.

    Raises
    ------
    EventError
        Reason "type" for what is no number, "value" for one beyond +-`REAL_MAX`; the field's column as path.
    """
    given = lookup(record, field.column)
    if given is None or given == "":
        return None
    return finite_value(given, field.column)


def finite_value(given: Any, path: str) -> float:
    """Value of a feature: a number, or a text that spells one, within +-`REAL_MAX`.

    Raises
    ------
    EventError
        Reason "type" or "value", with `path`.
    """
    try:
        x = number(given)
    except EventError as error:
        raise EventError(error.reason, path, error.message) from None
    if abs(x) > REAL_MAX:
        raise EventError("value", path, f"expected a number within +-{REAL_MAX:g}, got {x:g}")
    return x
