"""What every model does with a row: its life (new, live, expired), its start values, the optimizer's step.

    n += g^2;   w -= g / (c0 + c1 sqrt n)

is every optimizer (DESIGN.md, section 3): sgd has c0 = 1 / eta and c1 = 0; AdaGrad c0 = 0 and c1 = 1 / eta, n from n0;
FTRL c0 = beta / alpha + l2 and c1 = 1 / alpha, n from 0. Only FTRL's linear weights with l1 take another way
(`step_linear`).

All functions are inlined into the kernels. Bounds, so that rows stay finite: c <= `C_MAX`, |x| <= `X_MAX`, |g| <=
`G_MAX` (its square leaves room for 10^8 more before float32 overflows), and a margin of at most hyper[LIMIT]. A step of
AdaGrad moves a weight by at most eta, one of FTRL by at most alpha, since n >= g^2.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ctr.kernels.jit import inlined
from ctr.kernels.layout import (
    BIAS_C0,
    COUNT,
    EPOCH_S,
    HALF_LIFE_MIN,
    HAS_BIAS,
    HAS_LINEAR,
    L1,
    LABEL_MAX,
    LABEL_MIN,
    LIMIT,
    LINEAR,
    LINEAR_C0,
    LINEAR_C1,
    LINEAR_L2,
    N0,
    SEEN,
    SQUARED,
    START,
    Z,
)
from ctr.kernels.simd import fma, fnma, load16, maximum, mul, rcp, rsqrt, set16, store16

C_MAX, X_MAX, G_MAX = np.float32(1e6), np.float32(1e9), np.float32(1e15)
TINY = np.float32(2.0**-100)
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
def give_birth(
    W: Any, base: int, P: int, at: int, blocks: int, own: int, kp: int, k: int, minute: Any, hyper: Any
) -> None:
    """A row as it is before its first event: weights 0, accumulators `n0` (1 where no weight is learned).

    It has `blocks` latent factors from lane `at` on, kp lanes each; block `own` (-1: none) holds the head instead.
    """
    for j in range(P):
        W[base + j] = ZERO
        W[base + P + j] = ONE
    for g in range(blocks):
        if g != own:
            for d in range(k):
                W[base + P + at + g * kp + d] = hyper[N0]
    head = base + max(own, 0) * kp
    W[head + P + LINEAR] = hyper[N0]
    W[head + SEEN] = minute


@inlined
def decay(
    W: Any, base: int, P: int, at: int, blocks: int, own: int, kp: int, k: int, minute: Any, hyper: Any
) -> None:
    """AdaGrad's decay on touch, before the step: n = n0 + (n - n0) 2^(-dt / H), dt since last seen if it is positive.

    For the latent factors (as in `give_birth`) and the linear weight. Nothing to do without a half-life H.
    """
    head = base + max(own, 0) * kp
    dt = minute - W[head + SEEN]
    if hyper[HALF_LIFE_MIN] > ZERO and dt > ZERO:
        left = np.float32(math.exp2(-np.float64(dt) / np.float64(hyper[HALF_LIFE_MIN])))
        n0 = hyper[N0]
        for g in range(blocks):
            if g != own:
                for j in range(base + P + at + g * kp, base + P + at + g * kp + k):
                    W[j] = n0 + (W[j] - n0) * left
        W[head + P + LINEAR] = n0 + (W[head + P + LINEAR] - n0) * left


@inlined
def mix64(z: Any) -> Any:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@inlined
def add_start(
    W: Any, base: int, at: int, blocks: int, own: int, kp: int, k: int, key: Any, seed: Any, hyper: Any
) -> None:
    """Add start values to a row after its first event: coordinate c = g k + d, for all its latent factors g.

    v += start (u24 2^-23 - 1), u24 the upper 24 bits of output c (from 0) of SplitMix64 seeded by
    mix64(key ^ mix64(seed)), that is of mix64(state + (c + 1) 0x9E3779B97F4A7C15). Blocks as in `give_birth`.
    """
    state = mix64(key ^ mix64(seed))
    for g in range(blocks):
        if g != own:
            for d in range(k):
                z = mix64(state + np.uint64(g * k + d + 1) * np.uint64(0x9E3779B97F4A7C15))
                u24 = np.float32(np.int64(z >> np.uint64(40)))
                W[base + at + g * kp + d] += hyper[START] * (u24 * np.float32(2.0**-23) - ONE)


@inlined
def clamp_logit(t: Any, hyper: Any) -> Any:
    """Within +-hyper[LIMIT] (50 for the logistic loss); NaN for one that is not finite."""
    if not abs(t) <= np.float32(3.4e38):
        return np.float32(np.nan)
    return min(max(t, -hyper[LIMIT]), hyper[LIMIT])


@inlined
def sigmoid(t: Any) -> Any:
    """In float64, so that 1 - p keeps its digits where p is near 1."""
    return 1.0 / (1.0 + math.exp(-np.float64(t)))


@inlined
def prediction(t: Any, hyper: Any) -> Any:
    """What a logit predicts (float64): a probability, or with squared loss itself, within the label range."""
    if hyper[SQUARED] != ZERO:
        return min(max(np.float64(t), np.float64(hyper[LABEL_MIN])), np.float64(hyper[LABEL_MAX]))
    return sigmoid(t)


@inlined
def derivative(t: Any, y: Any, c: Any, hyper: Any) -> Any:
    """Return dl = c dloss/dlogit, float32: c (sigmoid(t) - y), or with squared loss c (t - y), t not clipped."""
    guess = np.float64(t) if hyper[SQUARED] != ZERO else sigmoid(t)
    return np.float32(np.float64(c) * (guess - np.float64(y)))


@inlined
def prediction_and_derivative(t: Any, y: Any, c: Any, hyper: Any) -> Any:
    """`prediction` and `derivative` at once, float32: one exponential instead of two."""
    if hyper[SQUARED] != ZERO:
        return np.float32(prediction(t, hyper)), derivative(t, y, c, hyper)
    p = sigmoid(t)
    return np.float32(p), np.float32(np.float64(c) * (p - np.float64(y)))


@inlined
def step(W: Any, at: int, P: int, g: Any, c0: Any, c1: Any) -> None:
    """One weight, its accumulator P floats behind it."""
    g = min(max(g, -G_MAX), G_MAX)
    n = W[at + P] + g * g
    W[at + P] = n
    if g != ZERO:  # 0 / 0 where nothing has happened yet
        W[at] -= g / (c0 + c1 * np.float32(math.sqrt(n)))


@inlined
def move(w: Any, n: Any, g: Any, c0: Any, c1: Any) -> Any:
    """Sixteen weights after their step, n the sum with g^2 in it, c0 and c1 sixteen lanes each.

    1 / (c0 + c1 sqrt n) is y / (c0 y + c1) with y = 1 / sqrt n: within the errors of `rsqrt` and `rcp` together.
    """
    y = rsqrt(maximum(n, set16(TINY)))
    return fnma(mul(g, y), rcp(fma(c0, y, c1)), w)


@inlined
def step16(W: Any, at: int, P: int, w: Any, g: Any, c0: Any, c1: Any) -> Any:
    """Sixteen weights `w` that stand at ``W[at]``; returns them, the caller stores.

    No clipping: one-hot gradients are dl times another weight.
    """
    n = fma(g, g, load16(W, at + P))
    store16(W, at + P, n)
    return move(w, n, g, c0, c1)


@inlined
def adagrad16(W: Any, at: int, P: int, w: Any, g: Any, eta: Any) -> Any:
    """`step16` where c0 is 0 and 1 / c1 is `eta`, with one reciprocal square root and n > 0."""
    n = fma(g, g, load16(W, at + P))
    store16(W, at + P, n)
    return fnma(mul(eta, g), rsqrt(n), w)


@inlined
def step_linear(W: Any, at: int, P: int, g: Any, hyper: Any) -> None:
    """A linear weight. With l1 it is FTRL-Proximal's (McMahan et al. 2013), z three lanes behind it."""
    if hyper[L1] == ZERO:
        step(W, at, P, g + hyper[LINEAR_L2] * W[at], hyper[LINEAR_C0], hyper[LINEAR_C1])
        return
    g = min(max(g, -G_MAX), G_MAX)
    n = W[at + P] + g * g
    if n > ZERO:
        # (sqrt(n) - sqrt(n - g^2)) / alpha, as a difference it would lose all digits
        sigma = hyper[LINEAR_C1] * g * g / (np.float32(math.sqrt(n)) + np.float32(math.sqrt(W[at + P])))
        z = W[at + Z] + (g - sigma * W[at])
        W[at + P], W[at + Z] = n, z
        over = max(abs(z) - hyper[L1], ZERO)
        W[at] = -math.copysign(over, z) / (hyper[LINEAR_C0] + hyper[LINEAR_C1] * np.float32(math.sqrt(n)))


@inlined
def step_head(W: Any, head: int, P: int, x: Any, dl: Any, minute: Any, hyper: Any) -> None:
    """Linear weight, count and last-seen time of one touched row."""
    if hyper[HAS_LINEAR] != ZERO:
        step_linear(W, head + LINEAR, P, dl * x, hyper)
    W[head + COUNT] += ONE
    W[head + SEEN] = max(W[head + SEEN], minute)


@inlined
def step_bias(W: Any, base: int, P: int, dl: Any, minute: Any, hyper: Any) -> None:
    """The bias, in the head of its row: counted and timed like any other; it has neither l1 nor l2."""
    if hyper[HAS_BIAS] != ZERO:
        decay(W, base, P, 0, 0, -1, 0, 0, minute, hyper)
        step(W, base + LINEAR, P, dl, hyper[BIAS_C0], hyper[LINEAR_C1])
    W[base + COUNT] += ONE
    W[base + SEEN] = max(W[base + SEEN], minute)
