"""A specification in, the arrays out that the scan kernels read: which columns, and what each field makes of its own.

What the kernels do not know gives no plan, and then the exact reader reads alone.
"""

from __future__ import annotations

from functools import cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from ctr.events import delimited, libffm
from ctr.events.batch import MISSING
from ctr.events.envelope import label_range
from ctr.events.hashing import field_seeds, hash_text
from ctr.events.template import NO_TEMPLATE, columns_of
from ctr.events.transforms import log_bin
from ctr.kernels.scan import features, jsonlines
from ctr.spec import Field, Spec

SMALL = 1 << 16
"""Bins of the whole numbers below are looked up."""
MAX_OBJECTS = 60
"""Objects in an event that hold columns; the scanner counts them in a word."""
LOG_BINS = 256
"""Keys of logarithmic bins from -LOG_BINS to LOG_BINS - 1 are looked up, those of all other transforms' bins anyway."""
_KNOWN = {
    "name", "source", "multi", "real", "scale", "missing", "transform", "bins_per_e", "edges", "quantiles", "degree",
    "utc_offset_h", "cross",
}  # fmt: skip
_TRANSFORMS = {
    None: features.PLAIN, "bspline": features.PLAIN, "log": features.LOG, "bins": features.EDGES,
    "hour": features.HOUR, "weekday": features.WEEKDAY,
}  # fmt: skip
_CLOCKS = {"s": 1.0, "ms": 1e3, "us": 1e6}
_DELIMITED = {"delimited", "criteo", "avazu"}
_SCALES = {"none": features.NONE, "mean": features.MEAN, "sqrt": features.SQRT}


def compile_plan(spec: Spec) -> features.Plan | None:
    """Plan of a specification's events and of its rows to score; None where it asks for what the kernels do not know.

    `memo`, `after` and `template` are the caller's to replace.
    """
    if not all(_is_known(field) for field in spec.fields):
        return None
    columns = columns_of(spec)
    many = np.zeros(len(columns), np.bool_)
    for field in spec.fields:
        if field.multi:
            many[columns.index(field.column)] = True
    params: list[float] = []
    bin_keys: list[int] = []
    bins_per_e = list(dict.fromkeys(field.bins_per_e for field in spec.fields if field.transform == "log"))
    fields = np.zeros(len(spec.fields), features.FIELD)
    positions = {field.name: index for index, field in enumerate(spec.fields)}
    for plan, field, seed in zip(fields, spec.fields, field_seeds(spec), strict=True):
        empty = hash_text("", seed)
        plan["kind"] = _kind(field)
        if field.cross is not None:
            plan["column"], plan["other"] = (positions[name] for name in field.cross)
        elif not field.derived:
            plan["column"] = columns.index(field.column)
        plan["seed"], plan["degree"] = seed, field.degree
        plan["absent"] = empty if field.real or field.missing == "feature" else MISSING
        plan["scale"], plan["transform"] = _SCALES[field.scale], _TRANSFORMS[field.transform]
        plan["first"], plan["table"] = len(params), len(bin_keys)
        given, low, texts = _bins(field)
        params += given
        bin_keys += [hash_text(text, seed) for text in texts]
        plan["last"], plan["low"], plan["high"] = len(params), low, low + len(texts)
        if field.transform == "log":
            plan["small"] = bins_per_e.index(field.bins_per_e)
    slots = _slots(spec, columns)
    keys, patterns, table, objects = _keys(columns if spec.event.format == "json" else ())
    if slots is None or objects > MAX_OBJECTS:
        return None
    return features.Plan(
        event=_event(spec, columns),
        fields=fields,
        params=np.array(params or [0.0]),
        small_bins=np.array([_small_bins(b) for b in bins_per_e], np.int16).reshape(-1, SMALL),
        bin_keys=np.array(bin_keys, np.uint64),
        many=many,
        memo=np.zeros(1, features.KNOWN_TIME),
        slots=slots,
        cells=delimited.scan_cells(spec, columns, fields) if spec.event.format in _DELIMITED else delimited.NO_CELLS,
        keys=keys,
        patterns=patterns,
        table=table,
        after=np.full(len(keys) + 2 + objects, -1, np.int64),
        every=np.arange(len(fields)),
        template=NO_TEMPLATE,
    )


def _slots(spec: Spec, columns: tuple[str, ...]) -> NDArray[np.int64] | None:
    """Which column a cell, or the field of a number, is: for formats without keys. None for "no plan"."""
    if spec.event.format == "json":
        return np.zeros(0, np.int64)
    return libffm.scan_slots(spec, columns) if spec.event.format == "libffm" else delimited.scan_slots(spec, columns)


def _keys(columns: tuple[str, ...]) -> tuple[NDArray[np.void], NDArray[np.uint64], NDArray[np.int64], int]:
    """Keys of JSON that hold columns or, for ``outer.inner``, objects: `jsonlines.KEY`, patterns, hash table, objects.

    A name that JSON cannot write without an escape is left out: the scanner sends all keys with escapes the exact way.
    """
    found: dict[tuple[int, str], list[int]] = {}  # (object or -1, name) -> column, object
    objects = 0
    for number, column in enumerate(columns):
        found.setdefault((-1, column), [-1, -1])[0] = number
        outer, dot, inner = column.partition(".")
        if dot:
            holder = found.setdefault((-1, outer), [-1, -1])
            if holder[1] < 0:
                holder[1], objects = objects, objects + 1
            found.setdefault((holder[1], inner), [-1, -1])[0] = number
    plain = {
        (within, name.encode()): holds
        for (within, name), holds in found.items()
        if not any(c < " " or c in '"\\' for c in name)
    }
    keys = np.zeros(len(plain), jsonlines.KEY)
    table = np.full(max(16, 1 << (4 * len(plain)).bit_length()), -1, np.int64)
    patterns: list[tuple[int, int]] = []
    for key, ((within, name), holds) in zip(keys, plain.items(), strict=True):
        key["within"], key["length"] = within, len(name)
        key["column"], key["outer"] = holds
        key["first"] = len(patterns)
        text = name + b'"'
        for at in range(0, len(text), 8):
            word = text[at : at + 8]
            patterns.append((int.from_bytes(word, "little"), (1 << 8 * len(word)) - 1))
        key["last"] = len(patterns)
    for index, (within, name) in enumerate(plain):
        slot = jsonlines.key_slot_of(name, within) & (len(table) - 1)
        while table[slot] >= 0:
            slot = (slot + 1) & (len(table) - 1)
        table[slot] = index
    return keys, np.array(patterns, np.uint64).reshape(-1, 2), table, objects


def _is_known(field: Field) -> bool:
    """Whether all of a field's settings that are not at their defaults are known here."""
    chosen = {part.name for part in msgspec.structs.fields(field) if getattr(field, part.name) != part.default}
    return chosen <= _KNOWN and field.transform in _TRANSFORMS


def _kind(field: Field) -> int:
    if field.cross is not None:
        return features.CROSS
    if field.transform == "bspline":
        return features.SPLINE
    return features.MULTI if field.multi else features.REAL if field.real else features.SINGLE


def _bins(field: Field) -> tuple[list[float], int, list[str]]:
    """Parameters of a field's transform, and the texts of its bins from a lowest one on."""
    if field.transform == "log":
        return [field.bins_per_e], -LOG_BINS, [str(i) for i in range(-LOG_BINS, LOG_BINS)]
    if field.transform == "bins":
        return list(field.edges), 0, [str(i) for i in range(len(field.edges) + 1)]
    if field.transform == "bspline":
        return list(field.edges), 0, [f"b{i}" for i in range(len(field.edges) - 1 + field.degree)]
    if field.transform in {"hour", "weekday"}:
        return [field.utc_offset_h], 0, [str(i) for i in range(24)]
    return [], 0, []


def _room(spec: Spec) -> tuple[int, int]:
    """Most entries of an event: so many, and so many more for each element of an array or object in it."""
    of: dict[str, tuple[int, int]] = {}
    for field in spec.fields:
        if field.cross is not None:
            (a, more_a), (b, more_b) = (of[name] for name in field.cross)
            of[field.name] = a * b, more_a * b + a * more_b  # only one of them is multi-valued
        else:
            of[field.name] = (field.degree + 1 if field.transform == "bspline" else 1), int(field.multi)
    return sum(room for room, _ in of.values()), sum(each for _, each in of.values())


def _event(spec: Spec, columns: tuple[str, ...]) -> NDArray[np.void]:
    event, labels = spec.event, label_range(spec)
    plan = np.zeros(1, features.EVENT)
    for key, column in (("label", event.label), ("weight", event.weight), ("time", event.time)):
        plan[key] = -1 if column is None else columns.index(column)
    plan["classes"] = labels is None
    plan["low"], plan["high"] = labels or (0.0, 1.0)
    plan["max_weight"], plan["max_skew_s"] = event.max_weight, event.max_skew_s
    plan["max_bytes"] = event.max_bytes
    plan["delimiter"], plan["quotes"] = spec.delimiter.encode()[0], event.format != "criteo"
    plan["room"], plan["room_each"] = _room(spec)
    plan["per_s"] = _CLOCKS.get(event.time_format, 1.0)
    plan["clock"] = (
        features.ARRIVAL if event.time is None
        else features.NUMBER if event.time_format in _CLOCKS
        else features.RFC3339 if event.time_format == "rfc3339"
        else features.MEMO
    )  # fmt: skip
    return plan


@cache
def _small_bins(bins_per_e: float) -> NDArray[np.int16]:
    return np.array([int(log_bin(x, bins_per_e)) for x in range(SMALL)], np.int16)
