"""Records in, a `Batch` out: the one place where training and serving turn values into features.

A reader parses an event's bytes into a record (column -> value); a scoring request is one already. From here on both
take the same way, so they cannot differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from xxhash import xxh64_intdigest

from ctr.errors import EventError
from ctr.events.batch import MISSING, Batch
from ctr.events.envelope import Envelope, Record, label_range, lookup
from ctr.events.hashing import RESERVED_KEYS, SHIFT, canonical, field_seed, hash_text
from ctr.events.transforms import log_bin, number
from ctr.spec import Field, Spec

_NOT_A_CHARACTER = "half of a surrogate pair is no character"
REAL_MAX = 1e9
"""Larger numbers are no value of a real field: kernels promise finite rows up to it."""


class Encoder:
    """Turns the fields of a record into keys.

    A value that may be no feature is refused with an `EventError` of reason "type" or "value" and the value's column as
    path (``tags[2]`` for an element).
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._singles = [
            (
                field.column, "." in field.column, field.bins_per_e if field.transform else None, seed,
                hash_text("", seed) if field.missing == "feature" else int(MISSING),
            )
            for field in spec.fields
            if not (field.multi or field.real)
            for seed in (field_seed("" if spec.model.libffm else field.name),)
        ]  # fmt: skip
        # In libffm's model a feature is the same in every field.
        self._seeds = [field_seed("" if spec.model.libffm else field.name) for field in spec.fields]

    def keys(self, record: Record) -> list[int]:
        """One key for each single-valued field but real ones, `MISSING` where it has none: a row of a dense batch."""
        keys = []
        get = record.get
        column = ""
        try:
            for column, nested, bins_per_e, seed, absent in self._singles:
                value = get(column)
                if nested and value is None:
                    value = lookup(record, column)
                if bins_per_e is not None:
                    text = log_bin(value, bins_per_e)
                else:
                    text = value if type(value) is str else canonical(value)
                if text:
                    # hash_text, written out: a call more for each of 39 values costs 2 us an event.
                    key = xxh64_intdigest(text.encode(), seed)
                    keys.append(key if key >= RESERVED_KEYS else key + SHIFT)
                else:
                    keys.append(absent)
        except EventError as error:
            raise EventError(error.reason, error.path or column, error.message) from None
        except UnicodeEncodeError:
            raise EventError("encoding", column, _NOT_A_CHARACTER) from None
        return keys

    def entries(self, record: Record) -> tuple[list[int], list[float], list[int]]:
        """Keys, values and field indices of all features, by field: equal keys of a field merged, none missing.

        Where a multi-valued field holds an object, its features are the keys and their values the numbers; m counts
        them. Otherwise an element of a multi-valued field has the value 1, 1/m or 1/sqrt(m), where m counts the field's
        elements without nulls and empty texts, before equal ones are merged by adding their values. A real field's
        feature has the key of the empty text and the number as its value; 0 is none. A single-valued categorical field
        that cannot be read is refused before any other.
        """
        keys: list[int] = []
        values: list[float] = []
        fields: list[int] = []
        singles, no_feature = iter(self.keys(record)), int(MISSING)
        for index, field in enumerate(self.spec.fields):
            if field.real:
                x = real_value(field, record)
                if x:
                    keys.append(hash_text("", self._seeds[index]))
                    values.append(x)
                    fields.append(index)
                continue
            if not field.multi:
                key = next(singles)
                if key != no_feature:
                    keys.append(key)
                    values.append(1.0)
                    fields.append(index)
                continue
            counts: dict[int, float] = {}
            weighted = weighted_values(field, record)
            for text in texts(field, record) if weighted is None else ():
                key = hash_text(text, self._seeds[index])
                counts[key] = counts.get(key, 0) + 1
            if weighted is not None:
                for text, x in weighted.items():
                    if x and text:
                        counts[hash_text(text, self._seeds[index])] = x
            m = len(counts) if weighted is not None else sum(counts.values())
            scale = 1.0 if field.scale == "none" else m if field.scale == "mean" else math.sqrt(m)
            keys += counts
            values += [count / scale for count in counts.values()]
            fields += [index] * len(counts)
        return keys, values, fields


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
            raise EventError("encoding", field.column, _NOT_A_CHARACTER) from None
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


def texts(field: Field, record: Record) -> list[str]:
    """Canonical texts of a field's features, before equal ones are merged; none where it is missing.

    A real field's is the empty text.

    Raises
    ------
    EventError
        As `Encoder`.
    """
    if field.real:
        return [""] if real_value(field, record) else []
    if (weighted := weighted_values(field, record) if field.multi else None) is not None:
        return [text for text, x in weighted.items() if x and text]
    given = lookup(record, field.column)
    several = field.multi and isinstance(given, (list, tuple))
    out, path = [], field.column
    try:
        for index, value in enumerate(given if several else (given,)):
            path = f"{field.column}[{index}]" if several else field.column
            text = log_bin(value, field.bins_per_e) if field.transform else canonical(value)
            text.encode()  # raises here, where the path is known
            if text:
                out.append(text)
    except EventError as error:
        raise EventError(error.reason, path, error.message) from None
    except UnicodeEncodeError:
        raise EventError("encoding", path, _NOT_A_CHARACTER) from None
    return out


class BatchBuilder:
    """Collects events and gives them out as one `Batch`. A refused event leaves nothing behind."""

    def __init__(self, encoder: Encoder, envelope: Envelope) -> None:
        self._encoder, self._envelope = encoder, envelope
        self._dense = encoder.spec.dense
        self._keys: list[int] = []
        self._values: list[float] = []
        self._fields: list[int] = []
        self._start: list[int] = [0]
        self._labels: list[float] = []
        self._weights: list[float] = []
        self._times_s: list[float] = []
        self._partitions: list[int] = []
        self._offsets: list[int] = []

    def add(self, record: Record, arrival_s: float, partition: int, offset: int) -> None:
        """Take one event to learn from.

        Raises
        ------
        EventError
            Label, weight, time and then the fields are looked at in this order; the first that cannot be read.
        """
        label, weight, time_s = self._envelope.read(record, arrival_s)
        self._add(record, label, weight, time_s, partition, offset)

    def add_row(self, record: Record, time_s: float, index: int) -> None:
        """Take one row to score: no label, no weight, no time of its own."""
        self._add(record, math.nan, 1.0, time_s, -1, index)

    def _add(self, record: Record, label: float, weight: float, time_s: float, partition: int, offset: int) -> None:
        if self._dense:
            self._keys += self._encoder.keys(record)
        else:
            keys, values, fields = self._encoder.entries(record)
            self._keys += keys
            self._values += values
            self._fields += fields
            self._start.append(len(self._keys))
        self._labels.append(label)
        self._weights.append(weight)
        self._times_s.append(time_s)
        self._partitions.append(partition)
        self._offsets.append(offset)

    def batch(self) -> Batch:
        """All events taken so far, in order."""
        n, F = len(self._labels), len(self._encoder.spec.fields)
        if self._dense:
            values = np.ones(n * F, np.float32)
            fields = np.tile(np.arange(F, dtype=np.uint8), n)
            start = np.arange(n + 1, dtype=np.int64) * F
        else:
            values = np.array(self._values, np.float32)
            fields = np.array(self._fields, np.uint8)
            start = np.array(self._start, np.int64)
        return Batch(
            keys=np.array(self._keys, np.uint64),
            values=values,
            fields=fields,
            start=start,
            labels=np.array(self._labels, np.float32),
            weights=np.array(self._weights, np.float32),
            times_s=np.array(self._times_s, np.float64),
            partitions=np.array(self._partitions, np.int32),
            offsets=np.array(self._offsets, np.int64),
            dense=self._dense,
        )


class RowEncoder:
    """Turns the rows of a scoring request into a `Batch`; made once a specification."""

    def __init__(self, spec: Spec) -> None:
        self._encoder, self._envelope = Encoder(spec), Envelope(spec.event, label_range(spec))

    def encode(self, rows: Sequence[Mapping[str, Any]], times_s: float, path: str) -> Batch:
        """See `ctr.events.encode_rows`."""
        builder = BatchBuilder(self._encoder, self._envelope)
        for index, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise EventError("type", f"{path}[{index}]", "expected an object of feature values")
            try:
                builder.add_row(row, times_s, index)
            except EventError as error:
                raise EventError(error.reason, f"{path}[{index}].{error.path}", error.message) from None
        return builder.batch()
