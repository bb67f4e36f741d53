"""What a specification says, table by table: frozen structs whose types check each key by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec

MUTABLE = frozenset({
    "optimizer.step", "optimizer.linear_step", "lifetime.ttl_s", "lifetime.admission", "commit.interval_ms",
    "commit.rows_per_s",
    "event.max_skew_s", "event.max_bytes", "event.max_weight",
    "quality.slices", "quality.slice_values", "quality.window_s",
    "guard.enabled", "guard.min_events", "guard.max_entropy_rise", "guard.max_normalized_entropy",
    "guard.max_calibration_factor", "guard.max_norm_factor",
})  # fmt: skip
"""Keys that may change under a living model. Any other change makes a new generation."""

PLACEMENT = frozenset({"store.shards"})
"""Keys that say where rows lie, not what they mean: the store itself knows (`ctr.store.catalog`)."""

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
    """One field: where its value stands and how it becomes features.

    A categorical value is hashed as it is, unless a `transform` (see `ctr.events.transforms`) makes something else of
    it. ``missing = "feature"`` makes the absence of a value a feature of its own; ``"skip"`` lets it contribute
    nothing. In a `multi` field each element is a feature of value 1, 1/m or 1/sqrt(m) for m elements
    (``scale = "none" | "mean" | "sqrt"``). A `real` field is one feature, always the same, and its value is the number
    x itself; 0 and a missing number contribute nothing. A `cross` has no value of its own: it is the pair of what two
    other fields have.
    """

    name: Text
    source: Text | None = None
    """Key or column of the event; `name` where it is not given."""
    multi: bool = False
    real: bool = False
    scale: Literal["none", "mean", "sqrt"] = "none"
    missing: Literal["skip", "feature"] = "skip"
    transform: Literal["log", "bins", "bspline", "hour", "weekday"] | None = None
    bins_per_e: Annotated[float, msgspec.Meta(gt=0, le=100)] = 3.0
    """log only."""
    edges: Annotated[tuple[float, ...], msgspec.Meta(max_length=1024)] = ()
    """bins: where the next bin begins. bspline: the knots."""
    quantiles: Annotated[int, msgspec.Meta(ge=2, le=256)] | None = None
    """bins, bspline: into how many equal parts of a sample `ctr quantiles` shall lay the `edges`."""
    degree: Annotated[int, msgspec.Meta(ge=1, le=5)] = 3
    """bspline only."""
    utc_offset_h: Annotated[float, msgspec.Meta(ge=-14, le=14)] = 0.0
    """hour, weekday: what local time is ahead of UTC; summer time is not known."""
    cross: tuple[Text, Text] | None = None
    """Names of two fields that stand before this one."""

    @property
    def column(self) -> str:
        """Key or column of the event where the value stands."""
        return self.source or self.name

    @property
    def derived(self) -> bool:
        """Whether it reads no column of its own: a cross, or a part of the event's time."""
        return self.cross is not None or self.transform in ("hour", "weekday")

    @property
    def single(self) -> bool:
        """Whether it has at most one feature, of value 1, as far as itself says: a cross is what its two fields are."""
        return not (self.multi or self.real or self.transform == "bspline")


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
    step: Annotated[float, msgspec.Meta(gt=0, le=10)] = 0.05
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


class Lifetime(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long a row that is no longer seen is believed."""

    ttl_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """0: for ever. A row last seen longer ago starts anew when it is touched, and a scorer counts it as unknown."""
    admission: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    """Probability with which a feature that has no row gets one at an event. Until then it counts as unknown."""


class Commit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When what was learned is published."""

    interval_ms: Annotated[int, msgspec.Meta(ge=10, le=3_600_000)] = 500
    """Time between two commits."""
    rows_per_s: Annotated[int, msgspec.Meta(ge=0)] = 100_000
    """Ceiling on rows written a second: the interval stretches until what changed fits under it. 0: none."""


class Quality(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of what quality is told, beside that of all events together."""

    slices: Annotated[tuple[Text, ...], msgspec.Meta(max_length=4)] = ()
    """Names of fields: figures for the values of each that occur most."""
    slice_values: Annotated[int, msgspec.Meta(ge=1, le=16)] = 8
    """Values of a field with figures of their own; all others are one slice more."""
    window_s: Annotated[float, msgspec.Meta(ge=10, le=86_400)] = 300.0
    """Length of the window of time."""


class Guard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What keeps a cut from being published. See `ctr.quality.guard`."""

    enabled: bool = True
    min_events: Annotated[int, msgspec.Meta(ge=1000, le=10**9)] = 20_000
    """Quality is not judged before so many events were learned: a new model is bad without being broken."""
    max_entropy_rise: Annotated[float, msgspec.Meta(gt=0)] = 0.03
    """Of the last events' normalised entropy above that of those before them."""
    max_normalized_entropy: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Of the last events, whatever it was before; no bound where not given."""
    max_calibration_factor: Annotated[float, msgspec.Meta(gt=1)] = 3.0
    """By which predictions over labels of the last events may differ, either way, from 1 and from those before them."""
    max_norm_factor: Annotated[float, msgspec.Meta(gt=1)] = 10.0
    """By which a row's norm may exceed the largest one published before."""


class Store(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where rows lie."""

    shards: Annotated[int, msgspec.Meta(ge=1, le=1024)] | None = None
    """Parts in which a model is stored and committed; cannot change under a living model. Not given: as it is stored,
    and `ctr.store.catalog` decides for a new one."""


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
    quality: Quality = Quality()
    guard: Guard = Guard()
    store: Store = Store()

    @property
    def model_id(self) -> str:
        """``name@generation``."""
        return f"{self.name}@{self.generation}"

    @property
    def dense(self) -> bool:
        """Whether every event has at most one feature a field, of value 1: the fast layout of a `Batch`."""
        return all(field.single for field in self.fields)

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
        fixed = [(key, value) for key, value in _chosen("", self) if key not in MUTABLE | PLACEMENT]
        return hashlib.sha256(msgspec.json.encode(fixed)).hexdigest()[:16]


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
