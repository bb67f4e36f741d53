"""The model specification: TOML in, a frozen and checked `Spec` out.

One file says what an event looks like and what learns from it. The store keeps it with the model, so that a scorer
needs only a Redis URL and a model name, and a trainer that comes with another one is refused.
"""

from __future__ import annotations

import hashlib
import math
import re
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from ctr.errors import SettingError

NAME_PATTERN = r"^[a-z0-9_-]{1,64}$"
CRITEO_COLUMNS = ("label", *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27)))
AVAZU_COLUMNS = (
    "id", "click", "hour", "C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain",
    "app_category", "device_id", "device_ip", "device_model", "device_type", "device_conn_type",
    *(f"C{i}" for i in range(14, 22)),
)  # fmt: skip

LABEL_BOUND = 1e6
"""No label may be further from 0."""

Name = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class Field(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One field of the event: where its value stands and how it becomes features.

    A categorical value is hashed as it is. With ``transform = "log"`` a number x becomes the bin
    ``sign(x) floor(bins_per_e ln(1 + |x|))``. ``missing = "feature"`` makes the absence of a value a feature of its
    own; ``"skip"`` lets it contribute nothing. In a `multi` field each element is a feature of value 1, 1/m or
    1/sqrt(m) for m elements (``scale = "none" | "mean" | "sqrt"``). A `real` field is one feature, always the same,
    and its value is the number x itself; 0 and a missing number contribute nothing.
    """

    name: Text
    source: Text | None = None
    """Key or column of the event; `name` where it is not given."""
    multi: bool = False
    real: bool = False
    scale: Literal["none", "mean", "sqrt"] = "none"
    missing: Literal["skip", "feature"] = "skip"
    transform: Literal["log"] | None = None
    bins_per_e: Annotated[float, msgspec.Meta(gt=0, le=100)] = 3.0

    @property
    def column(self) -> str:
        """Key or column of the event where the value stands."""
        return self.source or self.name


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a message or a line holds: its format, and where label, time, id and weight stand."""

    format: Literal["json", "delimited", "criteo", "avazu", "libffm"] = "json"
    columns: tuple[Text, ...] = ()
    """For ``delimited``: the names of the columns, in order. A first line that repeats them is a header."""
    delimiter: Annotated[str, msgspec.Meta(min_length=1, max_length=1)] = ","
    label: Text = "label"
    time: Text | None = None
    time_format: Text = "s"
    """``s``, ``ms``, ``us`` since 1970, ``rfc3339``, or a strptime pattern (UTC)."""
    id: Text | None = None
    weight: Text | None = None
    max_skew_s: Annotated[float, msgspec.Meta(ge=0)] = 3600.0
    """An event dated further ahead of its arrival is refused: one dated 2099 would expire the whole model."""
    max_bytes: Annotated[int, msgspec.Meta(ge=64, le=64 << 20)] = 1 << 20
    """A longer message is refused unread."""
    max_weight: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 1e6


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What learns. See `ctr.kernels` for the formulas."""

    type: Literal["lr", "fm", "ffm", "fwfm", "fefm"] = "ffm"
    k: Annotated[int, msgspec.Meta(ge=1, le=32)] = 4
    """Latent factors; fefm takes at most 8, lr none."""
    bias: bool = True
    linear: bool = True
    base_rate: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5
    """Share of positive labels to expect: with the logistic loss the bias starts at its log-odds."""
    base_label: Annotated[float, msgspec.Meta(ge=-LABEL_BOUND, le=LABEL_BOUND)] = 0.0
    """Mean label to expect: with squared loss the bias starts there."""
    loss: Literal["logistic", "squared"] = "logistic"
    label_min: Annotated[float, msgspec.Meta(ge=-LABEL_BOUND, le=LABEL_BOUND)] | None = None
    label_max: Annotated[float, msgspec.Meta(ge=-LABEL_BOUND, le=LABEL_BOUND)] | None = None
    """Squared loss: a label outside is refused, a prediction is clipped. Without them labels lie within +-1e6."""
    start: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.02
    """Latent factors start uniformly in +-start, as a hash of (seed, key, coordinate)."""
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 1
    normalize: bool = False
    """Multiply the pair sum by 1 / sum x^2 of the event."""
    same_field_pairs: bool = False
    """fm only: features of one field pair, too."""
    libffm: bool = False
    """ffm only: libffm's model exactly. The key is the feature alone, each entry names its field."""
    max_rows: Annotated[int, msgspec.Meta(ge=1024, le=1 << 30)] = 1 << 20
    """Hard bound on features held; those seen longest ago make room for new ones."""

    @property
    def label_range(self) -> tuple[float, float]:
        """Labels that can be learned from."""
        if self.loss == "logistic":
            return 0.0, 1.0
        low, high = self.label_min, self.label_max
        return (-LABEL_BOUND if low is None else low), (LABEL_BOUND if high is None else high)


class Optimizer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """n += g^2, w -= g / (c0 + c1 sqrt n): all of sgd, AdaGrad and FTRL-Proximal. See `ctr.kernels.step`."""

    type: Literal["sgd", "adagrad", "ftrl"] = "adagrad"
    step: Annotated[float, msgspec.Meta(gt=0, le=10)] = 0.02
    """Step of the latent factors and of pair weights; FTRL's alpha."""
    linear_step: Annotated[float, msgspec.Meta(gt=0, le=10)] = 0.05
    """Step of the bias and the linear weights; FTRL's alpha for them."""
    n0: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 0.1
    """AdaGrad only: start of n."""
    half_life_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """AdaGrad: time in which what n has beyond n0 halves; 0 is never."""
    beta: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 1.0
    """FTRL only."""
    l2: Annotated[float, msgspec.Meta(ge=0, le=1e3)] = 0.0
    linear_l2: Annotated[float, msgspec.Meta(ge=0, le=1e3)] = 0.0
    """Neither bias nor pair weights have any."""
    l1: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0
    """FTRL, linear weights only."""


LIBFFM_MODEL: dict[str, Any] = {"bias": False, "linear": False, "normalize": True, "start": 1.0}
LIBFFM_OPTIMIZER: dict[str, Any] = {"step": 0.2, "n0": 1.0, "l2": 2e-5}
"""Defaults with ``model.libffm``: those of libffm's own command line. A start of 1 is U(0, 1) / sqrt k."""


class Lifetime(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long a row that is no longer seen is believed."""

    ttl_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """0: for ever. A row last seen longer ago starts anew when it is touched, and a scorer counts it as unknown."""
    admission: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    """Probability with which a feature that has no row gets one at an event. Until then it counts as unknown."""


class Commit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When what was learned is published."""

    interval_ms: Annotated[int, msgspec.Meta(ge=10, le=3_600_000)] = 1000
    """Time between two commits."""


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A checked specification; equal ones have equal `digest`."""

    name: Name
    generation: Name = "1"
    event: Event = Event()
    fields: Annotated[tuple[Field, ...], msgspec.Meta(min_length=1, max_length=64)]
    model: Model = Model()
    optimizer: Optimizer = Optimizer()
    lifetime: Lifetime = Lifetime()
    commit: Commit = Commit()

    @property
    def model_id(self) -> str:
        """``name@generation``."""
        return f"{self.name}@{self.generation}"

    @property
    def dense(self) -> bool:
        """Whether every event has at most one feature a field, of value 1: the fast layout of a `Batch`."""
        return not any(field.multi or field.real for field in self.fields)

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names of a delimited format; empty for JSON."""
        return {"criteo": CRITEO_COLUMNS, "avazu": AVAZU_COLUMNS}.get(self.event.format, self.event.columns)

    @property
    def delimiter(self) -> str:
        """Separator of a delimited format."""
        return "\t" if self.event.format == "criteo" else self.event.delimiter

    @property
    def digest(self) -> str:
        """Hash of all that decides what a row means: not of what may change in place, nor of what is at its default.

        A key that a later version adds, with the old behaviour as its default, leaves it as it is.
        """
        fixed = [(key, value) for key, value in _chosen("", self) if key not in MUTABLE]
        return hashlib.sha256(msgspec.json.encode(fixed)).hexdigest()[:16]


MUTABLE = frozenset({
    "optimizer.step", "optimizer.linear_step", "lifetime.ttl_s", "lifetime.admission", "commit.interval_ms",
    "event.max_skew_s", "event.max_bytes", "event.max_weight",
})  # fmt: skip
"""Keys that may change under a living model. Any other change makes a new generation."""


def flatten(spec: Spec) -> list[tuple[str, Any]]:
    """All settings of a specification as (dotted key, value), defaults included, in a fixed order."""
    out: list[tuple[str, Any]] = []

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], dict):
            for index, inner in enumerate(value):
                walk(f"{prefix}[{index}]", inner)
        else:
            out.append((prefix, value))

    walk("", msgspec.to_builtins(spec))
    return out


def _chosen(prefix: str, part: msgspec.Struct) -> Iterator[tuple[str, Any]]:
    """Settings that are not at their defaults, as (dotted key, value)."""
    for field in msgspec.structs.fields(part):
        value, key = getattr(part, field.name), f"{prefix}{field.name}"
        if isinstance(value, msgspec.Struct):
            yield from _chosen(f"{key}.", value)
        elif isinstance(value, tuple) and value and isinstance(value[0], msgspec.Struct):
            for index, inner in enumerate(value):
                yield from _chosen(f"{key}[{index}].", inner)
        elif value != field.default:
            yield key, value


def differences(stored: Spec, given: Spec) -> list[str]:
    """Settings that differ and may not, as ``key: stored -> given``; empty where `given` may train what is stored."""
    old, new = dict(flatten(stored)), dict(flatten(given))
    return [
        f"{key}: {old.get(key, 'absent')!r} -> {new.get(key, 'absent')!r}"
        for key in [*old, *(key for key in new if key not in old)]
        if key not in MUTABLE and old.get(key, "absent") != new.get(key, "absent")
    ]


def parse(text: str, origin: str = "specification") -> Spec:
    """Read TOML.

    Raises
    ------
    SettingError
        Names the key, its value and what is allowed; `origin` is the file's name where the TOML itself is broken.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingError(origin, "(TOML)", f"cannot be read: {error}") from None
    return from_builtins(raw)


def read(path: Path) -> Spec:
    """Read a file of TOML.

    Raises
    ------
    SettingError
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError("SPEC", str(path), f"a readable TOML file ({error})") from None
    return parse(text, str(path))


def from_builtins(raw: Any) -> Spec:
    """Check what TOML or the store gave. With ``model.libffm`` what is not there is as libffm has it."""
    try:
        spec = msgspec.convert(_with_libffm_defaults(raw), Spec)
    except msgspec.ValidationError as error:
        raise _explained(str(error), raw) from None
    _check(spec)
    return spec


def _with_libffm_defaults(raw: Any) -> Any:
    if not (isinstance(raw, dict) and isinstance(raw.get("model"), dict) and raw["model"].get("libffm") is True):
        return raw
    given = raw.get("optimizer", {})
    optimizer = {**LIBFFM_OPTIMIZER, **given} if isinstance(given, dict) else given
    return {**raw, "model": {**LIBFFM_MODEL, **raw["model"]}, "optimizer": optimizer}


def encode(spec: Spec) -> dict[str, Any]:
    """The specification as plain values, defaults included: what the store keeps."""
    built: dict[str, Any] = msgspec.to_builtins(spec)
    return built


def _explained(message: str, raw: Any) -> SettingError:
    """Turn msgspec's 'Expected ... - at `$.model.k`' into key, value, allowed."""
    text, _, path = message.partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    unknown = re.search(r"unknown field `([^`]*)`", text)
    missing = re.search(r"missing required field `([^`]*)`", text)
    if unknown:
        key = ".".join(part for part in (path, unknown[1]) if part)
        known = ", ".join(_known_keys(path))
        return SettingError(key, _at(raw, key), f"unknown key; known here: {known}")
    if missing:
        key = ".".join(part for part in (path, missing[1]) if part)
        return SettingError(key, None, "is required")
    if text.startswith("Invalid enum value"):
        text = f"one of {', '.join(_choices(path))}"
    return SettingError(path or "specification", _at(raw, path), text[:1].lower() + text[1:])


def _known_keys(path: str) -> list[str]:
    return [field.name for field in msgspec.structs.fields(_owner(path))]


def _choices(path: str) -> list[str]:
    """Names that may stand at a path of type Literal."""
    table, _, key = path.rpartition(".")
    kind = next(field.type for field in msgspec.structs.fields(_owner(table)) if field.name == key)
    literals = [kind, *get_args(kind)]  # itself, or one side of a union with None
    return [str(name) for literal in literals if get_origin(literal) is Literal for name in get_args(literal)]


def _owner(path: str) -> Any:
    """Class of the table at a path."""
    owner: Any = Spec
    for part in filter(None, re.sub(r"\[.*?\]", "", path).split(".")):
        owner = {"event": Event, "fields": Field, "model": Model, "optimizer": Optimizer,
                 "lifetime": Lifetime, "commit": Commit}[part]  # fmt: skip
    return owner


def _at(raw: Any, path: str) -> Any:
    value = raw
    for key, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        try:
            value = value[key] if key else value[int(index)]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _is_pattern(text: str) -> bool:
    """Whether strptime reads what strftime writes with it: a bad directive would refuse every event."""
    moment = datetime(2020, 2, 29, 13, 14, 15, tzinfo=UTC)
    try:
        datetime.strptime(moment.strftime(text), text)  # noqa: DTZ007  only whether it can be read
    except ValueError:
        return False
    return "%" in text


def _check(spec: Spec) -> None:
    """What types alone cannot say."""
    for key, value in flatten(spec):
        if isinstance(value, float) and not math.isfinite(value):  # TOML has inf, and not every bound refuses it
            raise SettingError(key, value, "a finite number")
    seen: set[str] = set()
    for index, field in enumerate(spec.fields):
        if field.name in seen:
            raise SettingError(f"fields[{index}].name", field.name, "each field needs a name of its own")
        seen.add(field.name)
        if field.scale != "none" and not field.multi:
            raise SettingError(f"fields[{index}].scale", field.scale, "only a field with multi = true has a scale")
        if field.multi and field.missing == "feature":
            raise SettingError(f"fields[{index}].missing", field.missing, "an empty multi field is always skipped")
        if field.real:
            for key, given in (("multi", field.multi), ("transform", field.transform)):
                if given:
                    raise SettingError(f"fields[{index}].{key}", given, "a field with real = true is its number itself")
            if field.missing == "feature":
                raise SettingError(f"fields[{index}].missing", field.missing, "a missing number is always skipped")
    _check_model(spec)
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
            if not re.fullmatch("0|[1-9][0-9]*", field.column):
                raise SettingError(f"fields[{index}].source", field.column, "the number of one of libffm's fields")
            for key, given in (("real", field.real), ("transform", field.transform)):
                if given:
                    raise SettingError(f"fields[{index}].{key}", given, 'not for format = "libffm": it gives values')
    if spec.columns:
        wanted = [("event.label", event.label), ("event.time", event.time), ("event.id", event.id),
                  ("event.weight", event.weight)]  # fmt: skip
        wanted += [(f"fields[{index}].source", field.column) for index, field in enumerate(spec.fields)]
        for key, column in wanted:
            if column is not None and column not in spec.columns:
                raise SettingError(key, column, f"not among the columns: {', '.join(spec.columns)}")
        if any(field.multi for field in spec.fields):
            raise SettingError("fields.multi", True, "a delimited format holds one value a field")


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
            for name, value, nothing in (("real", field.real, False), ("missing", field.missing, "skip")):
                if value != nothing:  # both are the empty text, which would be one feature of all fields
                    raise SettingError(f"fields[{index}].{name}", value, f"{nothing!r} with libffm = true")
        for key, given in (("bias", model.bias), ("linear", model.linear)):
            if given:
                raise SettingError(f"model.{key}", given, "false with libffm = true: libffm has none")
        if squared:
            raise SettingError("model.loss", model.loss, 'only "logistic" with libffm = true')
        if optimizer.type != "adagrad" or optimizer.half_life_s:
            raise SettingError("optimizer.type", optimizer.type, 'only "adagrad", without decay, with libffm = true')
