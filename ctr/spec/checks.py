"""A specification whose keys are right one by one in; refused where they do not go together."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

import msgspec

from ctr.errors import SettingError
from ctr.spec.compare import flatten
from ctr.spec.tables import Field, Spec

EDGE_MAX = 1e100
"""Edges, their differences and what splines multiply stay far within float64."""
EDGE_GAP = 1e-100
"""Least distance of two edges: a spline divides by it."""


def _is_pattern(text: str) -> bool:
    """Whether strptime reads what strftime writes with it: a bad directive would refuse every event."""
    moment = datetime(2020, 2, 29, 13, 14, 15, tzinfo=UTC)
    try:
        datetime.strptime(moment.strftime(text), text)  # noqa: DTZ007  only whether it can be read
    except ValueError:
        return False
    return "%" in text


def check(spec: Spec) -> None:
    """What types alone cannot say."""
    for key, value in flatten(spec):
        if isinstance(value, float) and not math.isfinite(value):  # TOML has inf, and not every bound refuses it
            raise SettingError(key, value, "a finite number")
    seen: set[str] = set()
    for index, field in enumerate(spec.fields):
        if field.name in seen:
            raise SettingError(f"fields[{index}].name", field.name, "each field needs a name of its own")
        seen.add(field.name)
    for index, field in enumerate(spec.fields):
        _check_field(f"fields[{index}]", field)
        _check_transform(f"fields[{index}]", field, spec)
        if field.cross is not None:
            _check_cross(f"fields[{index}]", field, spec.fields[:index])
    _check_model(spec)
    for index, name in enumerate(spec.quality.slices):
        if name not in seen:
            raise SettingError(f"quality.slices[{index}]", name, f"the name of a field: {', '.join(sorted(seen))}")
        if name in spec.quality.slices[:index]:
            raise SettingError(f"quality.slices[{index}]", name, "each field once")
    event = spec.event
    if event.format == "delimited" and not event.columns:
        raise SettingError("event.columns", event.columns, 'format = "delimited" needs the names of its columns')
    if len(set(event.columns)) < len(event.columns):
        raise SettingError("event.columns", event.columns, "each column needs a name of its own")
    if event.format != "delimited" and event.columns:
        raise SettingError("event.columns", event.columns, 'only format = "delimited" takes columns')
    if event.format != "delimited" and event.delimiter != ",":
        raise SettingError("event.delimiter", event.delimiter, 'only format = "delimited" takes a delimiter')
    if event.delimiter in '"\r\n':
        raise SettingError("event.delimiter", event.delimiter, "any character but a quote or a line break")
    if event.time_format not in ("s", "ms", "us", "rfc3339") and not _is_pattern(event.time_format):
        raise SettingError("event.time_format", event.time_format, "one of s, ms, us, rfc3339, or a strptime pattern")
    if event.format == "libffm":
        for key, column in (("time", event.time), ("id", event.id), ("weight", event.weight)):
            if column is not None:
                raise SettingError(f"event.{key}", column, 'a line of format = "libffm" has none')
        for index, field in enumerate(spec.fields):
            if not field.derived and not re.fullmatch("0|[1-9][0-9]*", field.column):
                raise SettingError(f"fields[{index}].source", field.column, "the number of one of libffm's fields")
            for key, given in (("real", field.real), ("transform", field.transform)):
                if given:
                    raise SettingError(f"fields[{index}].{key}", given, 'not for format = "libffm": it gives values')
    if spec.columns:
        wanted = [("event.label", event.label), ("event.time", event.time), ("event.id", event.id),
                  ("event.weight", event.weight)]  # fmt: skip
        wanted += [(f"fields[{index}].source", field.column) for index, field in enumerate(spec.fields)
                   if not field.derived]  # fmt: skip
        for key, column in wanted:
            if column is not None and column not in spec.columns:
                raise SettingError(key, column, f"not among the columns: {', '.join(spec.columns)}")
        if any(field.multi for field in spec.fields):
            raise SettingError("fields.multi", True, "a delimited format holds one value a field")


def require_learned(spec: Spec) -> None:
    """Refuse a specification that can be read and not yet be learned from.

    Raises
    ------
    SettingError
        A field's quantiles have not become edges yet.
    """
    for index, field in enumerate(spec.fields):
        if field.quantiles is not None and not field.edges:
            what = f"the quantiles of {field.name!r} are learned from a sample first: ctr quantiles SPEC SAMPLE --write"
            raise SettingError(f"fields[{index}].edges", field.edges, what)


def _check_field(key: str, field: Field) -> None:
    if field.scale != "none" and not field.multi:
        raise SettingError(f"{key}.scale", field.scale, "only a field with multi = true has a scale")
    if field.multi and field.missing == "feature":
        raise SettingError(f"{key}.missing", field.missing, "an empty multi field is always skipped")
    if field.real:
        for name, given in (("multi", field.multi), ("transform", field.transform)):
            if given:
                raise SettingError(f"{key}.{name}", given, "a field with real = true is its number itself")
        if field.missing == "feature":
            raise SettingError(f"{key}.missing", field.missing, "a missing number is always skipped")


def _check_transform(key: str, field: Field, spec: Spec) -> None:
    """What belongs to one transform is refused beside another: it would do nothing."""
    cut, clock = field.transform in ("bins", "bspline"), field.transform in ("hour", "weekday")
    for name, given, allowed, where in (
        ("edges", field.edges or None, cut, 'only with transform = "bins" or "bspline"'),
        ("quantiles", field.quantiles, cut, 'only with transform = "bins" or "bspline"'),
        ("degree", None if field.degree == 3 else field.degree, field.transform == "bspline",
         'only with transform = "bspline"'),
        ("utc_offset_h", field.utc_offset_h or None, clock, 'only with transform = "hour" or "weekday"'),
    ):  # fmt: skip
        if given is not None and not allowed:
            raise SettingError(f"{key}.{name}", given, where)
    if cut:
        _check_edges(key, field)
    if field.transform == "bspline" and field.multi:
        raise SettingError(f"{key}.multi", True, 'a field with transform = "bspline" has one value')
    if clock:
        _nothing_of_its_own(key, field, "the event's time has no source and is never missing")
        if spec.event.time is None:  # the time of arrival would make other features after each restart
            raise SettingError("event.time", None, f'fields with transform = "{field.transform}" need it')


def _check_edges(key: str, field: Field) -> None:
    edges = field.edges
    if not edges and field.quantiles is None:
        raise SettingError(f"{key}.edges", edges, f'transform = "{field.transform}" needs edges, or quantiles')
    if field.transform == "bspline" and len(edges) == 1:
        raise SettingError(f"{key}.edges", edges, "at least two knots: splines live between the first and the last")
    for before, edge in zip((None, *edges), edges, strict=False):
        if not abs(edge) <= EDGE_MAX:  # NaN too
            raise SettingError(f"{key}.edges", edge, f"numbers within +-{EDGE_MAX:g}")
        if before is not None and edge - before < EDGE_GAP:
            raise SettingError(f"{key}.edges", edge, f"increasing; the one before is {before!r}")


def _check_cross(key: str, field: Field, before: tuple[Field, ...]) -> None:
    _nothing_of_its_own(key, field, "a cross is the pair of two other fields and has no value of its own")
    if field.transform is not None:
        raise SettingError(f"{key}.transform", field.transform, "a cross has no value of its own: its fields have")
    named = {other.name: other for other in before if other.cross is None}  # one pass in their order makes all keys
    parts = []
    for name in field.cross or ():
        part = named.get(name)
        if part is None:
            known = ", ".join(named) or "none"
            raise SettingError(f"{key}.cross", field.cross, f"two fields that stand before it, no crosses: {known}")
        if part.real:
            raise SettingError(f"{key}.cross", field.cross, f"{name!r} has real = true: cross its bins or its bspline")
        parts.append(part)
    if parts[0] is parts[1]:
        raise SettingError(f"{key}.cross", field.cross, "two different fields")
    if all(part.multi for part in parts):  # a thousand elements each would be a million features
        raise SettingError(f"{key}.cross", field.cross, "only one of the two may have multi = true")


def _nothing_of_its_own(key: str, field: Field, why: str) -> None:
    for name, given in (("source", field.source), ("multi", field.multi), ("real", field.real)):
        if given:
            raise SettingError(f"{key}.{name}", given, why)
    if field.missing == "feature":
        raise SettingError(f"{key}.missing", field.missing, why)


def _check_model(spec: Spec) -> None:
    """Which settings of ``[model]`` and ``[optimizer]`` go together: what would do nothing is refused."""
    model, optimizer = spec.model, spec.optimizer
    squared, latent = model.loss == "squared", model.type != "lr"
    low, high = model.label_min, model.label_max

    def only(key: str, allowed: bool, where: str) -> None:
        table, _, name = key.partition(".")
        holder = getattr(spec, table)
        default = next(field.default for field in msgspec.structs.fields(holder) if field.name == name)
        if not allowed and (value := getattr(holder, name)) != default:
            raise SettingError(key, value, where)

    only("model.linear", latent, 'type = "lr" is its linear part')
    only("model.normalize", latent, 'type = "lr" has no pair sum')
    only("optimizer.l2", latent, 'type = "lr" has no latent factors: linear_l2')
    only("optimizer.linear_l2", model.linear, "only with linear = true")
    only("optimizer.l1", model.linear, "only with linear = true")
    only("model.same_field_pairs", model.type == "fm", 'only type = "fm" pairs features of one field')
    only("model.libffm", model.type == "ffm", 'only for type = "ffm"')
    only("model.base_rate", not squared, 'only loss = "logistic" has a base rate: base_label')
    for key in ("base_label", "label_min", "label_max"):
        only(f"model.{key}", squared, 'only for loss = "squared"')
    for key in ("n0", "half_life_s"):
        only(f"optimizer.{key}", optimizer.type == "adagrad", 'only for type = "adagrad"')
    for key in ("beta", "l1"):
        only(f"optimizer.{key}", optimizer.type == "ftrl", 'only for type = "ftrl"')
    if model.type == "fefm" and model.k > 8:
        raise SettingError("model.k", model.k, 'at most 8 for type = "fefm", which has k (k + 1) / 2 weights a pair')
    if low is not None and high is not None and not low < high:
        raise SettingError("model.label_max", high, f"more than label_min = {low:g}")
    if model.libffm:
        for index, field in enumerate(spec.fields):
            for name, value, nothing in (("real", field.real, False), ("missing", field.missing, "skip"),
                                         ("cross", field.cross, None)):  # fmt: skip
                if value != nothing:  # the first two are the empty text, which would be one feature of all fields
                    raise SettingError(f"fields[{index}].{name}", value, f"{nothing!r} with libffm = true")
        for key, given in (("bias", model.bias), ("linear", model.linear)):
            if given:
                raise SettingError(f"model.{key}", given, "false with libffm = true: libffm has none")
        if squared:
            raise SettingError("model.loss", model.loss, 'only "logistic" with libffm = true')
        if optimizer.type != "adagrad" or optimizer.half_life_s:
            raise SettingError("optimizer.type", optimizer.type, 'only "adagrad", without decay, with libffm = true')
