"""Predictions and packed rows go in, what speaks against publishing them comes out: a commit is a publication.

*finite*: no row may hold what is no finite number. *norm*: no row's weights may be so much larger than any that were
published before. *entropy_rise*: the normalised entropy of the last events must not have risen above that of those
before them; *normalized_entropy*: nor be above a bound. *calibration*: nor may the ratio of predictions and labels have
moved away from 1.

Quality is judged by events that were predicted before they were learned, over the last 256, 1,024 and 4,096 at each
256th, and a figure counts where it is beyond its limit by more than chance (`ctr.kernels.quality.judge`). Normalised
entropy is compared rather than logloss because it hardly changes when the click rate does.

Poison that comes slowly becomes what later events are compared with: that is what `max_normalized_entropy` is for.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.kernels import build
from ctr.kernels.quality import judge as kernel
from ctr.rows import RowBlock, RowShape
from ctr.spec import Spec

CHECKS = ("finite", "norm", "entropy_rise", "normalized_entropy", "calibration")
REFERENCE_EVENTS = 8192
"""So many at least are needed to compare with."""
FIRST_NORM = {"logistic": 50.0, "squared": 1e9}
"""A norm below it is not held against a cut: a logit is clamped at 50, and labels of squared loss may be 1e6."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Why a cut is held back.

    Attributes
    ----------
    check : str
        One of `CHECKS`.
    value, limit : float
    text : str
        For people.
    """

    check: str
    value: float
    limit: float
    text: str


class Guard:
    """What was learned and accepted, and whether what was learned since fits to it. Knows no store, decides nothing.

    Parameters
    ----------
    spec : Spec
        Its ``[guard]`` has the limits.
    """

    def __init__(self, spec: Spec) -> None:
        self._limits, self._squared, shape = spec.guard, spec.model.loss == "squared", RowShape.of(spec)
        self._size, self._head_step = shape.size, shape.head_step
        self._first_norm = FIRST_NORM[spec.model.loss]
        loaded = build.load("quality/judge")
        self._observe, self._sum_all, self._norms = loaded.observe, loaded.sum_all, loaded.norms
        self._ring = np.zeros((kernel.RING + 1, kernel.N_SUMS))
        self._state = np.zeros(2, np.int64)
        self._base = np.zeros(kernel.N_SUMS)
        self._scratch = np.zeros((2, kernel.N_SUMS))
        self._found = np.zeros(kernel.N_FOUND)
        self._told = np.full(kernel.N_TOLD, np.nan)
        self._accepted, self._accepted_events = np.zeros(kernel.N_SUMS), 0
        self._events = 0
        self._spoilt, self._norm, self._largest_norm = 0, 0.0, 0.0

    @property
    def armed(self) -> bool:
        """Whether so much was learned that quality is judged."""
        return self._events >= self._limits.min_events

    def observe(
        self, p: NDArray[np.float32], labels: NDArray[np.float32], weights: NDArray[np.float32],
        losses: NDArray[np.float64],
    ) -> None:  # fmt: skip
        """Take events (n,) that were predicted, then learned; one with a loss of NaN does not count."""
        bound = self._limits.max_normalized_entropy
        self._observe(
            p, np.ascontiguousarray(labels), np.ascontiguousarray(weights), losses, self._squared,
            float(REFERENCE_EVENTS) if self.armed else np.inf, bound if bound is not None and self.armed else np.inf,
            self._ring, self._state, self._base, self._scratch, self._found, self._told,
        )  # fmt: skip
        self._events += int(np.count_nonzero(losses == losses))  # noqa: PLR0124  NaN is not

    def judge(self, rows: RowBlock, more: Iterable[RowBlock] = ()) -> tuple[Finding, ...]:
        """What speaks against publishing these rows and the events since the last `accept`; nothing where all is well.

        Parameters
        ----------
        rows, more : RowBlock, iterable of RowBlock
            All that were learned since.
        """
        self._spoilt, norm, judged = 0, 0.0, 0
        for block in itertools.chain([rows], more):
            if len(block):
                data = np.ascontiguousarray(block.data)
                spoilt, largest = self._norms(data.view(np.float32), data[:, 0].copy(), self._size, self._head_step)
                self._spoilt, norm, judged = self._spoilt + spoilt, max(norm, largest), judged + len(block)
        self._norm = norm
        limits = self._limits
        if not limits.enabled:
            return ()
        rise, entropy, factor = self._found.tolist()
        before = self._told[kernel.BEFORE]
        found = [
            ("finite", self._spoilt > 0, self._spoilt, f"{self._spoilt:,} of {judged:,} rows hold no finite number"),
            ("norm", norm > self._limit_of_norm, norm,
             f"a row with weights of norm {norm:g}, where {self._largest_norm:g} was the largest that was published"),
            ("entropy_rise", rise > limits.max_entropy_rise, rise,
             f"normalised entropy rose by {rise:.3f}, from {before:.3f} of the events before (guard.max_entropy_rise)"),
            ("normalized_entropy", entropy > 0, entropy,
             f"a normalised entropy of {entropy:.3f} (guard.max_normalized_entropy)"),
            ("calibration", factor > limits.max_calibration_factor, factor,
             f"predictions over labels moved by a factor of {factor:.1f} (guard.max_calibration_factor)"),
        ]  # fmt: skip
        bounds = self._bounds()
        return tuple(
            Finding(check, float(value), bounds[check], f"{text}; at most {bounds[check]:g}")
            for check, beyond, value, text in found
            if beyond
        )

    @property
    def _limit_of_norm(self) -> float:
        return max(self._first_norm, self._limits.max_norm_factor * self._largest_norm)

    def _bounds(self) -> dict[str, float]:
        limits = self._limits
        bound = limits.max_normalized_entropy
        return {
            "finite": 0.0, "norm": self._limit_of_norm, "entropy_rise": limits.max_entropy_rise,
            "normalized_entropy": math.inf if bound is None else bound, "calibration": limits.max_calibration_factor,
        }  # fmt: skip

    def accept(self) -> None:
        """What was judged last is published: from here on it is what later cuts are compared with."""
        self._found[:] = 0
        self._largest_norm = max(self._largest_norm, self._norm)
        self._sum_all(self._ring, self._state, self._base, self._accepted)
        self._accepted_events = self._events

    def forget(self) -> None:
        """What was learned since the last `accept` is thrown away: be as then."""
        self._start_from(self._accepted.copy())
        self._events = self._accepted_events

    def begin_anew(self) -> None:
        """What was judged last is published although it was spoken against: judge later cuts by what comes now."""
        self._largest_norm = self._norm
        self._start_from(np.zeros(kernel.N_SUMS))
        self.accept()

    def _start_from(self, base: NDArray[np.float64]) -> None:
        self._ring[:], self._state[:], self._found[:], self._told[:] = 0, 0, 0, np.nan
        self._base[:] = base

    def memory(self) -> dict[str, Any]:
        """What another process needs to judge as this one does: of what was accepted, a few numbers."""
        return {"sums": self._accepted.tolist(), "events": self._accepted_events, "norm": self._largest_norm}

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Go on from the `memory` of another process; one that cannot be read is none."""
        sums = memory.get("sums", ())
        if len(sums) != kernel.N_SUMS:
            return
        self._accepted[:] = sums
        self._accepted_events, self._largest_norm = int(memory["events"]), float(memory["norm"])
        self.forget()

    def figures(self) -> dict[str, dict[str, float]]:
        """By check what was measured last ("value") and what is allowed ("limit")."""
        latest, before = self._told.tolist()
        values = {
            "finite": float(self._spoilt), "norm": self._norm, "entropy_rise": latest - before,
            "normalized_entropy": latest, "calibration": max(1.0, float(self._found[kernel.CALIBRATION])),
        }  # fmt: skip
        return {"value": values, "limit": self._bounds()}
