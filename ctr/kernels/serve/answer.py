"""A ranking -> its JSON: the numbers of an answer, as bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import helper, kernel

ZERO, COMMA, POINT = 48, 44, 46
DECIMALS = 12
"""Of a probability: 2 more than float32 has at 1 %."""
SCALE = 10**DECIMALS
PLACE_BYTES, SCORE_BYTES = 20, DECIMALS + 3
"""Room for a place and for a score, with the comma behind each."""


@helper
def write_digits(out: Any, at: int, value: int, digits: int) -> Any:
    """Write `digits` digits of an integer; returns where they end."""
    for d in range(at + digits - 1, at - 1, -1):
        out[d] = ZERO + value % 10
        value //= 10
    return at + digits


@kernel
def write_places(places: Any, out: Any) -> Any:
    """Write integers >= 0 with commas between; returns how many bytes."""
    at = 0
    for j in range(places.shape[0]):
        value, digits, above = places[j], 1, 10
        while value >= above and digits < 18:
            digits += 1
            above *= 10
        at = write_digits(out, at, value, digits)
        out[at] = COMMA
        at += 1
    return max(at - 1, 0)


@kernel
def write_scores(scores: Any, out: Any) -> Any:
    """Write probabilities with commas between, each with `DECIMALS` decimals; returns how many bytes."""
    at = 0
    for j in range(scores.shape[0]):
        value = np.int64(np.float64(scores[j]) * SCALE + 0.5)
        at = write_digits(out, at, value // SCALE, 1)
        out[at] = POINT
        at = write_digits(out, at + 1, value % SCALE, DECIMALS)
        out[at] = COMMA
        at += 1
    return max(at - 1, 0)
