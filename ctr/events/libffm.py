"""A line of libffm text, ``label field:feature:value ...``, in; a record out: field -> {feature: value}.

Fields are named by their numbers, as text; features are text, whatever they look like. Fields that the specification
does not name are passed over. With the logistic loss a label of -1 is read as 0. A field with ``multi = true`` may hold
any number of features of any value; of one that repeats the values are added. Other fields are for one-hot data: one
feature of value 1, which becomes plain text as in any other format.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ctr.errors import EventError
from ctr.events.envelope import Record
from ctr.events.fields import finite_value
from ctr.spec import Spec

MOST_FIELD = 9999
"""Field numbers up to this one are looked up by the scanner."""


def parser(spec: Spec) -> Callable[[bytes], Record]:
    """Make the function that reads one line.

    It raises EventError with path ``$`` and reason "encoding" (no UTF-8) or "syntax" (an entry is no
    ``field:feature:value``), and with the field as path and reason "type" or "value" for values that cannot be used.
    """
    multi = {field.column: field.multi for field in spec.fields if not field.derived}
    label = spec.event.label
    classes = {"-1": "0", "+1": "1"} if spec.model.loss == "logistic" else {}

    def parse(line: bytes) -> Record:
        try:
            given, *entries = line.decode().split()
        except UnicodeDecodeError as error:
            raise EventError("encoding", "$", f"no UTF-8 at byte {error.start}: {error.reason}") from None
        features: dict[str, dict[str, float]] = {}
        for entry in entries:
            parts = entry.split(":")
            if len(parts) != 3 or not (parts[0] and parts[1]):
                raise EventError("syntax", "$", f"expected field:feature:value, got {entry[:60]!r}")
            field, feature, value = parts
            if field in multi:
                held = features.setdefault(field, {})
                held[feature] = held.get(feature, 0.0) + finite_value(value, field)
        record: dict[str, object] = {
            field: held if multi[field] else _only(field, held) for field, held in features.items()
        }
        record[label] = classes.get(given, given)
        return record

    return parse


def _only(field: str, held: dict[str, float]) -> str:
    if list(held.values()) != [1.0]:
        raise EventError("value", field, f"expected one feature of value 1 (multi = false), got {str(held)[:60]}")
    return next(iter(held))


def scan_slots(spec: Spec, columns: Sequence[str]) -> NDArray[np.int64] | None:
    """Where the field of a number stands among the columns that are read; -1 for those that nobody reads.

    For `ctr.kernels.scan.libffm_text`; None where that cannot read the fields: by their numbers, or because two that
    share one, or one that is the label too, differ in what it may hold.
    """
    kinds = {(field.column, field.multi) for field in spec.fields if not field.derived}
    fields = {column for column, _ in kinds}
    if len(kinds) > len(fields) or spec.event.label in fields or max(map(int, fields)) > MOST_FIELD:
        return None
    slots = np.full(max(map(int, fields)) + 1, -1, np.int64)
    for slot, column in enumerate(columns):
        if column in fields:
            slots[int(column)] = slot
    return slots
