"""Events a second, fields, k and features go in; memory, rows a second, network and freshness come out.

Formulas, with F fields, D features held, r = 4 + 8 size bytes a packed row (`ctr.rows`), n events learned in a second:

====================  ==============================================================================================
figure                formula
====================  ==============================================================================================
rows a commit         d(t) = min(D, sum over fields of E(n t, D / F)): distinct features in t seconds, where E(m, V) is
                      the expected number of distinct values in m draws from V values with Zipf's frequencies,
                      sum over ranks i of 1 - (1 - p_i)^m, p_i ~ 1 / (i + .5)^1.25, i from 0
commit interval       the smallest t >= `interval_s` with d(t) <= ceiling x t; the ceiling is `rows_per_s`
freshness             t (an event waits t / 2 in the mean, t at most) + d(t) / 300,000 (packing, sending, applying) +
                      .05 (scorers look 20 times a second, and read again)
trainer memory        base + D x (padded row + 32) + 2 x d(t) x r (a cut, and its copy); base 350 MB: interpreter,
                      NumPy, Numba, LLVM, kernels; padded row: two halves of whole cache lines
Redis memory          base + D x (c(r + 6) + c(8 + 2) + 24 + 12) + 64 MiB of change streams: value and field as sds in
                      jemalloc's classes c, an entry, its share of the bucket array; base 3 MB
Redis, fork           twice that at worst: every page rewritten while a file is written or a replica is fed
network               in from Kafka n x event bytes; to Redis d / t x (r + 24); to each scorer at most d / t x (r + 24),
                      of what it holds
====================  ==============================================================================================

Shift and exponent were fitted to a stream of 39 fields and 10^6 features (46,000 distinct ones in 10,000 events,
219,000 in 100,000, 545,000 in 500,000: within 3 %). Another stream's are its own: where it matters, learn an hour of it
and look at `ctr_commit_rows_total`. Memory is compared with a real trainer's and a real Redis's in
`tests/integration/test_plan_measured.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from ctr.errors import SettingError
from ctr.kernels import layout
from ctr.rows import RowShape
from ctr.spec import Spec, from_builtins
from workers.lifecycle import ExitCode

TRAINER_BASE_BYTES = 350e6
REDIS_BASE_BYTES = 3e6
STREAM_BYTES = 64 << 20
APPLIED_ROWS_PER_S = 300_000
_LOOK_S = 0.05
_ZIPF_SHIFT, _ZIPF_EXPONENT = 0.5, 1.25
_COMMAND_BYTES = 24
_LONGEST_S = 3600.0


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """What a stream is like.

    Attributes
    ----------
    events_per_s : float
    features : int
        Distinct ones that the model holds: `model.max_rows`, or fewer.
    fields, k, type
        As in a specification.
    event_bytes : int
        Size of a message.
    interval_s, rows_per_s : float
        As `[commit]` says.
    scorers : int
    """

    events_per_s: float
    features: int
    fields: int = 39
    k: int = 4
    type: str = "ffm"
    event_bytes: int = 500
    interval_s: float = 0.5
    rows_per_s: float = 100_000.0
    scorers: int = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What it takes. Bytes, seconds, and rows or bytes a second."""

    row_bytes: int
    rows_a_commit: float
    interval_s: float
    freshness_s: float
    rows_per_s: float
    trainer_bytes: float
    redis_bytes: float
    redis_fork_bytes: float
    kafka_bytes_per_s: float
    redis_in_bytes_per_s: float
    redis_out_bytes_per_s: float


def plan(settings: PlanSettings) -> Plan:
    """Work the figures out.

    Raises
    ------
    SettingError
        No commit interval fits under the ceiling.
    """
    shape = RowShape.of(_spec(settings))
    row_bytes, features = shape.packed_bytes, settings.features
    interval_s = _interval_s(settings)
    rows = distinct(settings.events_per_s * interval_s, settings.fields, features)
    sent = rows / interval_s * (row_bytes + _COMMAND_BYTES)
    redis = redis_bytes(features, row_bytes)
    return Plan(
        row_bytes, rows, interval_s, interval_s + rows / APPLIED_ROWS_PER_S + _LOOK_S, rows / interval_s,
        TRAINER_BASE_BYTES + features * table_row_bytes(shape) + 2 * rows * row_bytes, redis, 2 * redis,
        settings.events_per_s * settings.event_bytes, sent, settings.scorers * sent,
    )  # fmt: skip


def _spec(settings: PlanSettings) -> Spec:
    fields = [{"name": f"f{i}"} for i in range(settings.fields)]
    return from_builtins({"name": "plan", "fields": fields, "model": {"type": settings.type, "k": settings.k}})


def distinct(events: float, fields: int, features: int) -> float:
    """Features that so many events touch, of `features` in all: the expectation."""
    ranks, weights = _ranks(max(1, features // fields))
    frequency = (ranks + _ZIPF_SHIFT) ** -_ZIPF_EXPONENT
    p = frequency / np.sum(frequency * weights)
    seen = -np.expm1(events * np.log1p(-np.minimum(p, 1 - 1e-12)))
    return float(min(features, fields * np.sum(weights * seen)))


def _ranks(values: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ranks of `values` values, and how many each stands for: the first thousand singly, then in growing groups."""
    grown = np.geomspace(1000, max(values, 1000), 2000).astype(int)
    edges = np.unique(np.concatenate([np.arange(min(values, 1000)), grown]))
    edges = np.append(edges[edges < values], values).astype(float)
    return (edges[:-1] + edges[1:] - 1) / 2, np.diff(edges)


def _interval_s(settings: PlanSettings) -> float:
    def fits(interval_s: float) -> bool:
        rows = distinct(settings.events_per_s * interval_s, settings.fields, settings.features)
        return not settings.rows_per_s or rows <= settings.rows_per_s * interval_s

    interval_s = settings.interval_s
    while not fits(interval_s):
        interval_s *= 1.02
        if interval_s > _LONGEST_S:
            raise SettingError("rows_per_s", settings.rows_per_s, "more: no commit of an hour fits under it")
    return interval_s


def table_row_bytes(shape: RowShape) -> float:
    """A feature in a trainer's table: weights and squared sums, padded; index, key, field, marks."""
    only_head = shape.size == layout.HEAD and not shape.head_step
    return 8 * (shape.size if only_head else layout.padded(shape.size)) + 32


def redis_bytes(rows: float, row_bytes: int) -> float:
    """A model in Redis, streams full."""
    return REDIS_BASE_BYTES + rows * redis_row_bytes(row_bytes) + STREAM_BYTES


def redis_row_bytes(row_bytes: int) -> float:
    """A row in Redis: value and field as strings, the entry, and its share of a bucket array, half full to full."""
    value = row_bytes + (6 if row_bytes < 1 << 16 else 10) - (2 if row_bytes < 1 << 8 else 0)
    return _class_bytes(value) + _class_bytes(8 + 2) + 24 + 12


def _class_bytes(size: int) -> int:
    """What jemalloc gives for so many bytes: multiples of 8 to 128, then four classes to each doubling."""
    if size <= 128:
        return 8 * math.ceil(size / 8)
    step = 1 << (math.ceil(math.log2(size)) - 3)
    return step * math.ceil(size / step)


def run(settings: PlanSettings, say: Callable[[str], object], *, as_json: bool = False) -> ExitCode:
    """Show a plan."""
    figures = plan(settings)
    if as_json:
        say(msgspec.json.encode({**asdict(settings), **asdict(figures)}).decode())
        return ExitCode.OK
    mb, gb = 1e6, 1e9
    for name, value, note in (
        ("row", f"{figures.row_bytes:,} bytes", f"{settings.type}, {settings.fields} fields, k = {settings.k}"),
        ("rows a commit", f"{figures.rows_a_commit:,.0f}", f"{figures.rows_per_s:,.0f} a second"),
        ("commit interval", f"{figures.interval_s:.2f} s", f"ceiling {settings.rows_per_s:,.0f} rows/s"),
        ("freshness", f"{figures.freshness_s:.2f} s", "from an event's arrival to its use, at most"),
        ("trainer memory", f"{figures.trainer_bytes / gb:,.2f} GB", f"{settings.features:,} features"),
        ("Redis memory", f"{figures.redis_bytes / gb:,.2f} GB", f"{figures.redis_fork_bytes / gb:,.2f} GB with a fork"),
        ("from Kafka", f"{figures.kafka_bytes_per_s / mb:,.1f} MB/s", f"{settings.event_bytes} bytes an event"),
        ("to Redis", f"{figures.redis_in_bytes_per_s / mb:,.1f} MB/s", ""),
        ("to scorers", f"{figures.redis_out_bytes_per_s / mb:,.1f} MB/s", f"{settings.scorers} of them, at most"),
    ):  # fmt: skip
        say(f"{name:<16}{value:>14}   {note}")
    return ExitCode.OK
