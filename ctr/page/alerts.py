"""A worker's numbers in, what is wrong in plain words out: the page's list, for somebody who has just woken up.

Prometheus' rules in deploy/ decide who is woken; these judge the same numbers at this moment, in this process alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ctr.metrics import Value
from ctr.page.history import ALL, History

BEHIND_S = 60.0
"""What arrived so long ago should be learned and served: `ctr serve --stale-after` by default."""
COMMIT_S = 30.0
"""A writer commits at least every second; a cut of a large model takes some."""
IDLE_S = 20.0
"""Without an event for so long, while some wait, something is in the way."""
REFUSED_SHARE = 0.01
UNKNOWN_SHARE = 0.95
ASKED = 200
"""Features of a field, or events, that a share is judged by, at least."""
JUDGED = 10_000
"""Events in the window before quality is judged."""
CALIBRATED = (0.8, 1.25)
_WINDOWS = (("trainer", "events", ALL), ("served", "events", ALL))


@dataclass(frozen=True, slots=True)
class Alert:
    """One line of the list; `level` orders it."""

    level: Literal["bad", "warning"]
    what: str
    meaning: str


def alerts(
    numbers: Mapping[str, Value], history: History, reasons: Mapping[str, str | None], now_s: float
) -> list[Alert]:
    """What is not as it should be, the worst first.

    Parameters
    ----------
    numbers : mapping
        As ``/metrics`` shows them.
    history : History
        Of the same numbers.
    reasons : mapping
        ``live``, ``ready``, ``degraded`` -> None, or why not.
    now_s : float
        Seconds since 1970.
    """
    found = [*_health(reasons), *_services(numbers)]
    if _of(numbers, "ctr_role", "writer") == 1:
        found += _training(numbers, history, now_s)
    found += [*_quality(numbers), *_guard(numbers, history, now_s), *_scoring(numbers, history)]
    return sorted(found, key=lambda alert: alert.level)


def _of(numbers: Mapping[str, Value], name: str, *labels: str) -> float:
    """One number; NaN where there is none. With labels, the one with just these values."""
    value = numbers.get(name, math.nan)
    if isinstance(value, Mapping):
        return value.get(labels, math.nan) if labels else math.fsum(value.values())
    return value


def _health(reasons: Mapping[str, str | None]) -> Iterator[Alert]:
    if (why := reasons.get("live")) is not None:
        yield Alert("bad", "This process should be restarted", why)
    if (why := reasons.get("ready")) is not None:
        yield Alert("bad", "Not ready", why)
    elif (why := reasons.get("degraded")) is not None:
        yield Alert("warning", "Degraded", why)


def _services(numbers: Mapping[str, Value]) -> Iterator[Alert]:
    if _of(numbers, "ctr_source_up") == 0:
        yield Alert("bad", "The source of events does not answer",
                    "Nothing new is learned until it does. Nothing is lost: reading goes on where it stopped.")
    store = numbers.get("ctr_store_up", 1.0)
    if 0 in (store.values() if isinstance(store, Mapping) else (store,)):
        yield Alert("bad", "Redis does not answer",
                    "What was learned waits to be committed; scorers answer from the rows that they hold.")


def _training(numbers: Mapping[str, Value], history: History, now_s: float) -> Iterator[Alert]:
    last_s = _of(numbers, "ctr_commit_last_seconds")
    if last_s > 0 and now_s - last_s > COMMIT_S:
        yield Alert("bad", f"No commit for {_seconds(now_s - last_s)}",
                    "Scorers get nothing new: look at Redis, at the guard, and at the log's last warning.")
    behind_s = now_s - _of(numbers, "ctr_arrival_watermark_seconds")
    if BEHIND_S < behind_s < now_s:
        yield Alert("warning", f"Learning is {_seconds(behind_s)} behind what arrives",
                    "It catches up where the lag falls; where it rises, more arrives than is learned.")
    came = history.grown("ctr_events")
    refused, all_events = came.get(("refused",), 0.0), math.fsum(came.values())
    if history.seconds >= IDLE_S and all_events == 0 and (left := _of(numbers, "ctr_source_lag")) > 0:
        yield Alert("bad", f"Nothing is learned, and {left:,.0f} records or bytes wait",
                    "Kernels may still be compiling; else look at Redis, at the guard, and at the log's last warning.")
    if all_events >= ASKED and refused > REFUSED_SHARE * all_events:
        yield Alert("warning", f"{refused / all_events:.1%} of the last minute's events cannot be read",
                    "They are kept as dead letters, with the reason: `ctr check` shows what is wrong with one.")


def _quality(numbers: Mapping[str, Value]) -> Iterator[Alert]:
    if not _judged(numbers, "ctr_window_events") >= JUDGED:
        return
    entropy, calibration = (
        _judged(numbers, name) for name in ("ctr_normalized_entropy_ratio", "ctr_calibration_ratio")
    )
    if entropy >= 1:
        yield Alert("bad", f"Predictions are no better than the base rate (normalised entropy {entropy:.3f})",
                    "A young model needs some ten thousand events; an old one learns from something broken.")
    if math.isfinite(entropy) and not CALIBRATED[0] <= calibration <= CALIBRATED[1]:
        yield Alert("warning", f"Predictions add up to {calibration:.2f} times the clicks",
                    "Bids by them are off by as much: look for events or labels that are missing.")


def _judged(numbers: Mapping[str, Value], name: str) -> float:
    """Quality of all events of the window, as the trainer sees it, else as it was served."""
    value = numbers.get(name, math.nan)
    if not isinstance(value, Mapping):
        return value
    return next((value[labels] for labels in _WINDOWS if labels in value), math.nan)


def _guard(numbers: Mapping[str, Value], history: History, now_s: float) -> Iterator[Alert]:
    if _of(numbers, "ctr_guard_refusing") == 1:
        yield Alert("bad", "The guard holds a cut back: nothing is published",
                    "Scorers keep the last good parameters, learning has stopped. `ctr guard` shows why and takes "
                    "your decision.")
    if times := history.risen("ctr_drift_detections", direction="up"):
        last_s = now_s - _of(numbers, "ctr_drift_last_seconds")
        yield Alert("warning", f"The stream changed for the worse, {times:.0f} x in the last minutes",
                    f"Recent events are predicted worse than those before, found last {_seconds(last_s)} ago: look at "
                    "quality, and at what is new.")


def _scoring(numbers: Mapping[str, Value], history: History) -> Iterator[Alert]:
    broken = math.fsum(
        grown for labels, grown in history.grown("ctr_score_requests").items() if labels and labels[-1] == "500"
    )
    if broken:
        yield Alert("bad", f"{broken:.0f} requests ended in an internal error in the last minute", "The log says why.")
    prior = math.fsum(history.grown("ctr_score_fallbacks").values())
    if prior:
        yield Alert("warning", f"{prior:.0f} rows were given the prior in the last minute",
                    "Nothing was known of them in time: a cold cache, or Redis is slow.")
    asked, without = history.grown("ctr_field_features"), history.grown("ctr_field_features_without_row")
    unknown = [
        labels[-1]
        for labels, count in asked.items()
        if count >= ASKED and without.get(labels, 0.0) > UNKNOWN_SHARE * count
        and not math.isinf(_of(numbers, "ctr_staleness_seconds", labels[0]))  # a model that knows nothing yet
    ]
    if unknown:
        named = ", ".join(unknown[:4]) + (f" and {len(unknown) - 4} other fields" if len(unknown) > 4 else "")
        yield Alert("warning", f"The model knows nearly no value of {named}",
                    "Has what bidders send changed its form? `ctr check` shows what values become.")


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
