"""Heads of an event's rows, four at a time as one vector: linear weight, count, last-seen minute, z (see `layout`).

For kernels that keep the head apart from the rest of the row; ``base`` has a multiple of four rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import inlined
from ctr.kernels.layout import (
    COUNT,
    HAS_LINEAR,
    L1,
    LINEAR,
    LINEAR_C0,
    LINEAR_C1,
    LINEAR_L2,
    SEEN,
)
from ctr.kernels.quarters import load4x4, quarter, store4x4
from ctr.kernels.simd import add, fma, hsum, load16, maximum, minimum, mul, set16, store16
from ctr.kernels.step import G_MAX, ONE, ZERO, move


@inlined
def lanes(x: Any, lane: int, value: Any, other: Any) -> Any:
    """`value` in one lane of each head, `other` in the rest. `x` is room for them."""
    for j in range(16):
        x[j] = value if j % 4 == lane else other
    return load16(x, 0)


@inlined
def score_heads(W: Any, base: Any, rows: int, linear: Any, x: Any) -> Any:
    """Sum of the linear weights of the first `rows` rows, their least count and last-seen minute.

    `linear` is 1 in the linear weight's lane, or 0 if there are none.
    """
    S, least = set16(ZERO), set16(np.float32(np.inf))
    for f in range(0, rows, 4):
        v = quarter(W, base, f, 0)
        S = add(S, v)
        least = minimum(least, v)
    store16(x, 0, least)
    count = min(x[COUNT], x[4 + COUNT], x[8 + COUNT], x[12 + COUNT])
    seen = min(x[SEEN], x[4 + SEEN], x[8 + SEEN], x[12 + SEEN])
    return hsum(mul(S, linear)), count, seen


@inlined
def head_rates(hyper: Any, x: Any) -> Any:
    """What `step_heads` needs to know of the optimizer. With l1 weights are stepped by themselves (`step_linear`)."""
    on = hyper[HAS_LINEAR] if hyper[L1] == ZERO else ZERO
    return (
        lanes(x, LINEAR, on, ZERO), lanes(x, LINEAR, on * hyper[LINEAR_L2], ZERO),
        lanes(x, LINEAR, hyper[LINEAR_C0], ONE), lanes(x, LINEAR, hyper[LINEAR_C1], ZERO),
        # added to a head: 1 to its count; and the least its lanes may be: the minute in last-seen
        lanes(x, COUNT, ONE, ZERO), lanes(x, SEEN, ZERO, np.float32(-np.inf)),
    )  # fmt: skip


@inlined
def step_heads(W: Any, base: Any, rows: int, P: int, dl: Any, minute: Any, rates: Any) -> None:
    """Linear weight, count and last-seen minute of the first `rows` rows."""
    stepped, pull, c0, c1, counted, timed = rates
    g0, since = mul(set16(dl), stepped), add(set16(minute), timed)
    low, high = set16(-G_MAX), set16(G_MAX)
    for f in range(0, rows, 4):
        b0, b1, b2, b3 = base[f], base[f + 1], base[f + 2], base[f + 3]
        v, n = load4x4(W, b0, b1, b2, b3), load4x4(W, b0 + P, b1 + P, b2 + P, b3 + P)
        g = minimum(maximum(fma(pull, v, g0), low), high)
        n = fma(g, g, n)
        store4x4(W, b0 + P, b1 + P, b2 + P, b3 + P, n)
        store4x4(W, b0, b1, b2, b3, maximum(since, add(move(v, n, g, c0, c1), counted)))
