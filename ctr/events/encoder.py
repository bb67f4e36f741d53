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
from ctr.events.fields import NOT_A_CHARACTER, features
from ctr.events.hashing import RESERVED_KEYS, SHIFT, cross_key, field_seeds, hash_text
from ctr.events.transforms import to_clock, to_text
from ctr.spec import Spec, require_learned


class Encoder:
    """Turns the fields of a record into keys.

    A value that may be no feature is refused with an `EventError` of reason "type" or "value" and the value's column as
    path (``tags[2]`` for an element).

    Raises
    ------
    SettingError
        A field whose quantiles were not learned yet.
    """

    def __init__(self, spec: Spec) -> None:
        require_learned(spec)
        self.spec = spec
        self._seeds = field_seeds(spec)
        self._singles, self._places, self._clocks, self._crosses = [], [], [], []
        self._positions = {field.name: index for index, field in enumerate(spec.fields)}
        for index, (field, seed) in enumerate(zip(spec.fields, self._seeds, strict=True)):
            if field.cross is not None:
                self._crosses.append((index, *(self._positions[name] for name in field.cross), seed))
            elif (clock := to_clock(field)) is not None:
                self._clocks.append((index, clock, seed))
            elif field.single:
                absent = hash_text("", seed) if field.missing == "feature" else int(MISSING)
                nested, verbatim = "." in field.column, field.transform is None
                self._singles.append((field.column, nested, verbatim, to_text(field), seed, absent))
                self._places.append(index)

    def keys(self, record: Record, time_s: float) -> list[int]:
        """A row of a dense batch: one key a field, `MISSING` where it has none."""
        keys = self._read(record)
        if len(keys) == len(self.spec.fields):
            return keys
        row = [int(MISSING)] * len(self.spec.fields)
        for index, key in zip(self._places, keys, strict=True):
            row[index] = key
        for index, clock, seed in self._clocks:
            row[index] = hash_text(clock(time_s), seed)
        for index, a, b, seed in self._crosses:
            if row[a] and row[b]:
                row[index] = cross_key(row[a], row[b], seed)
        return row

    def _read(self, record: Record) -> list[int]:
        """One key for each field that has one feature of value 1 and a column, `MISSING` where there is none."""
        keys = []
        get = record.get
        column = ""
        try:
            for column, nested, verbatim, text_of, seed, absent in self._singles:
                value = get(column)
                if nested and value is None:
                    value = lookup(record, column)
                if verbatim and type(value) is str:
                    text = value
                elif verbatim and type(value) is int and -(2**63) <= value < 2**64:
                    text = str(value)  # as `canonical` has it, in a third of the time
                else:
                    text = text_of(value)
                if text:
                    # hash_text, written out: a call more for each of 39 values costs 2 us an event.
                    key = xxh64_intdigest(text.encode(), seed)
                    keys.append(key if key >= RESERVED_KEYS else key + SHIFT)
                else:
                    keys.append(absent)
        except EventError as error:
            raise EventError(error.reason, error.path or column, error.message) from None
        except UnicodeEncodeError:
            raise EventError("encoding", column, NOT_A_CHARACTER) from None
        return keys

    def entries(self, record: Record, time_s: float) -> tuple[list[int], list[float], list[int]]:
        """Keys, values and field indices of all features, by field: equal keys of a field merged, none missing.

        See `fields.features` for the values. A cross has a feature for each pair of a feature of its first field and
        one of its second; its value is the product of theirs. A single-valued categorical field that cannot be read is
        refused before any other.
        """
        read, no_feature = iter(self._read(record)), int(MISSING)
        found: list[dict[int, float]] = []
        for field, seed in zip(self.spec.fields, self._seeds, strict=True):
            if field.cross is not None:
                one, two = (found[self._positions[name]] for name in field.cross)
                pairs = ((a, b) for a in one.items() for b in two.items())
                found.append({cross_key(a, b, seed): x * y for (a, x), (b, y) in pairs})
            elif field.single and not field.derived:
                key = next(read)
                found.append({key: 1.0} if key != no_feature else {})
            else:
                found.append({hash_text(text, seed): x for text, x in features(field, record, time_s).items()})
        keys = [key for held in found for key in held]
        values = [x for held in found for x in held.values()]
        return keys, values, [index for index, held in enumerate(found) for _ in held]


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
            self._keys += self._encoder.keys(record, time_s)
        else:
            keys, values, fields = self._encoder.entries(record, time_s)
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
