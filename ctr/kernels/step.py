"""What every model does with a row: its life (new, live, expired), its start values, the optimizer's step.

All functions are inlined into the kernels. Bounds, so that no row can become infinite: |dl| <= c <= `C_MAX`,
|x| <= `X_MAX`, |g| <= `G_MAX` (its square leaves room for 10^8 more before float32 overflows), |logit| <= 50.
One AdaGrad step moves a weight by at most its step size, since n >= g^2.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ctr.kernels.jit import inlined
from ctr.kernels.layout import COUNT, EPOCH_S, HAS_BIAS, HAS_LINEAR, LINEAR, LINEAR_STEP, N0, SEEN, START
from ctr.kernels.simd import fma, fnma, load16, mul, rsqrt, store16

C_MAX, X_MAX, G_MAX, LOGIT_MAX = np.float32(1e6), np.float32(1e9), np.float32(1e15), np.float32(50)
ZERO, ONE = np.float32(0), np.float32(1)


@inlined
def minute_of(time_s: float) -> Any:
    """Whole minutes since 2020, as float32, held within +-2^24 where they are exact."""
    minute = float(math.floor((time_s - EPOCH_S) / 60.0))
    if not minute > -16777216.0:  # also NaN
        minute = -16777216.0
    return np.float32(min(minute, 16777216.0))


@inlined
def is_live(W: Any, head: int, minute: Any, ttl_s: float) -> Any:
    """Whether the row with its head at `head` has been learned, and not longer than `ttl_s` (0: ever) ago."""
    if W[head + COUNT] == ZERO:
        return False
    return ttl_s == 0.0 or (np.float64(minute) - np.float64(W[head + SEEN])) * 60.0 <= ttl_s


@inlined
def give_birth(W: Any, base: int, P: int, F: int, kp: int, k: int, field: int, minute: Any, hyper: Any) -> None:
    """A row as it is before its first event: weights 0, accumulators `n0` (1 where no weight is learned)."""
    for j in range(P):
        W[base + j] = ZERO
        W[base + P + j] = ONE
    for g in range(F):
        if g != field:
            for d in range(k):
                W[base + P + g * kp + d] = hyper[N0]
    head = base + field * kp
    W[head + P + LINEAR] = hyper[N0]
    W[head + SEEN] = minute


@inlined
def mix64(z: Any) -> Any:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@inlined
def add_start(W: Any, base: int, F: int, kp: int, k: int, field: int, key: Any, seed: Any, hyper: Any) -> None:
    """Add start values to a row after its first event: coordinate c = g k + d, for all partner fields g.

    v += start (u24 2^-23 - 1), u24 the upper 24 bits of output c (from 0) of SplitMix64 seeded by
    mix64(key ^ mix64(seed)), that is of mix64(state + (c + 1) 0x9E3779B97F4A7C15).
    """
    state = mix64(key ^ mix64(seed))
    for g in range(F):
        if g != field:
            for d in range(k):
                z = mix64(state + np.uint64(g * k + d + 1) * np.uint64(0x9E3779B97F4A7C15))
                u24 = np.float32(np.int64(z >> np.uint64(40)))
                W[base + g * kp + d] += hyper[START] * (u24 * np.float32(2.0**-23) - ONE)


@inlined
def clamp_logit(t: Any) -> Any:
    """Within +-50; NaN stays NaN."""
    return min(max(t, -LOGIT_MAX), LOGIT_MAX)


@inlined
def sigmoid(t: Any) -> Any:
    """In float64, so that 1 - p keeps its digits where p is near 1."""
    return 1.0 / (1.0 + math.exp(-np.float64(t)))


@inlined
def adagrad(W: Any, at: int, P: int, g: Any, step: Any) -> None:
    """One weight, its accumulator P floats behind it: n += g^2, w -= step g / sqrt(n)."""
    g = min(max(g, -G_MAX), G_MAX)
    n = W[at + P] + g * g
    W[at + P] = n
    W[at] -= step * g / np.float32(math.sqrt(n))


@inlined
def adagrad16(W: Any, at: int, P: int, w: Any, g: Any, step: Any) -> Any:
    """The same for sixteen weights `w` that stand at ``W[at]``; returns them, the caller stores.

    No clipping: one-hot gradients are dl times another weight, and no weight comes near G_MAX / C_MAX = 1e9.
    """
    n = fma(g, g, load16(W, at + P))
    store16(W, at + P, n)
    return fnma(mul(step, g), rsqrt(n), w)


@inlined
def step_head(W: Any, head: int, P: int, x: Any, dl: Any, minute: Any, hyper: Any) -> None:
    """Linear weight, count and last-seen time of one touched row."""
    if hyper[HAS_LINEAR] != ZERO:
        adagrad(W, head + LINEAR, P, dl * x, hyper[LINEAR_STEP])
    W[head + COUNT] += ONE
    W[head + SEEN] = max(W[head + SEEN], minute)

@inlined
def step_bias(W: Any, base: int, P: int, dl: Any, minute: Any, hyper: Any) -> None:
    """The bias, in the head of its row: counted and timed like any other."""
    if hyper[HAS_BIAS] != ZERO:
        adagrad(W, base + LINEAR, P, dl, hyper[LINEAR_STEP])
    W[base + COUNT] += ONE
    W[base + SEEN] = max(W[base + SEEN], minute)
