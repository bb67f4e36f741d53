"""fm for one-hot events and k <= 12: a row is sixteen floats, head and latent factor, so all is one vector a feature.

    pairs = 1/2 (|S|^2 - sum |v|^2), S = sum v      g(v) = dl r (S - v)

Same arguments as `pooled`, whose twin it is; compile-time constants (`build`): fields, kp, and whether the optimizer is
AdaGrad with neither L2, which needs one reciprocal square root and no more (PURE).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.call import arguments
from ctr.kernels.jit import bare, inlined, kernel
from ctr.kernels.layout import (
    BIAS_ROW,
    C0,
    C1,
    COUNT,
    HALF_LIFE_MIN,
    HAS_BIAS,
    HAS_LINEAR,
    HEAD,
    L1,
    L2,
    LEARNED,
    LINEAR,
    LINEAR_C0,
    LINEAR_C1,
    LINEAR_L2,
    LINEAR_STEP,
    SEEN,
    STEP,
)
from ctr.kernels.onehot import NEAR, all_live, ask, begin_rows, blank, bring_in, refuse, set_aside, start_born
from ctr.kernels.simd import add, fma, hsum, load16, maximum, minimum, mul, set16, store16, sub
from ctr.kernels.step import (
    ONE,
    ZERO,
    adagrad16,
    clamp_logit,
    decay,
    minute_of,
    prediction,
    prediction_and_derivative,
    step16,
    step_bias,
    step_linear,
)

# constants
F = 39
KP = 8
PURE = 1
# end of constants

P_ = 16
ROOM = F + F % 2  # a field beyond the last has row 0
AHEAD = 6
"""Events between asking for rows and reading them: one event is over before a line from memory is here."""


@inlined
def lanes(x: Any, linear: Any, latent: Any, other: Any) -> Any:
    """Sixteen lanes: the linear weight's, those of the latent factor, and all else. `x` is room for them."""
    for j in range(16):
        x[j] = latent if HEAD <= j < HEAD + KP else other
    x[LINEAR] = linear
    return load16(x, 0)


@inlined
def margin(W: Any, stride: int, base: Any, r: Any, linear: Any, latent: Any, hyper: Any, x: Any) -> Any:
    """Logit of the rows that begin at ``base``, their sum, their least count and last-seen minute.

    `linear` and `latent` are 1 in their lanes, else 0. Two sums abreast: one addition alone waits for the one before.
    """
    S0 = set16(ZERO)
    S1, Q0, Q1 = S0, S0, S0
    least = set16(np.float32(np.inf))
    for f in range(0, ROOM, 2):
        v, u = load16(W, base[f]), load16(W, base[f + 1])
        S0, S1 = add(S0, v), add(S1, u)
        Q0, Q1 = fma(v, v, Q0), fma(u, u, Q1)
        least = minimum(least, minimum(v, u))
    S, half = add(S0, S1), set16(np.float32(0.5) * r)
    t = hsum(fma(S, linear, mul(mul(half, latent), sub(mul(S, S), add(Q0, Q1)))))
    if hyper[HAS_BIAS] != ZERO:
        t += W[BIAS_ROW * stride]
    store16(x, 0, least)
    return clamp_logit(t, hyper), S, x[COUNT], x[SEEN]


@bare
def score(given: Any, begin: int, end: int, probabilities: bool, x: Any, base: Any, born: Any) -> None:
    """The loop of `predict`."""
    W, stride, rows, times_s = given.W, given.stride, given.rows, given.times_s
    r, ttl_s, hyper, out = given.r, given.ttl_s, given.hyper, given.out
    linear, latent = lanes(x, hyper[HAS_LINEAR], ZERO, ZERO), lanes(x, ZERO, ONE, ZERO)
    for i in range(begin, end):
        at, minute, ri = (i - begin) * F, minute_of(times_s[i]), r[i - begin]
        begin_rows(rows, at, F, stride, base)
        if W.size > NEAR and i + AHEAD < end:
            ask(W, stride, rows, at + AHEAD * F, F)
        t, _, count, seen = margin(W, stride, base, ri, linear, latent, hyper, x)
        if not all_live(count, seen, minute, ttl_s):
            set_aside(W, base, F, minute, ttl_s, born)
            t, _, count, seen = margin(W, stride, base, ri, linear, latent, hyper, x)
        out[i] = np.float32(prediction(t, hyper)) if probabilities else t


@bare
def update(given: Any, begin: int, end: int, x: Any, base: Any, born: Any) -> None:
    """The loop of `learn`."""
    W, stride, k, rows = given.W, given.stride, given.k, given.rows
    labels, times_s, r = given.labels, given.times_s, given.r
    c, ttl_s, seed, hyper = given.c, given.ttl_s, given.seed, given.hyper
    row_key, counters, out = given.row_key, given.counters, given.out
    linear, latent = lanes(x, hyper[HAS_LINEAR], ZERO, ZERO), lanes(x, ZERO, ONE, ZERO)
    eta = lanes(x, hyper[LINEAR_STEP], hyper[STEP], ZERO)
    c0, c1 = lanes(x, hyper[LINEAR_C0], hyper[C0], ONE), lanes(x, hyper[LINEAR_C1], hyper[C1], ZERO)
    l2, l2_alone = lanes(x, hyper[LINEAR_L2], hyper[L2], ZERO), lanes(x, hyper[LINEAR_L2], ZERO, ZERO)
    with_z = hyper[L1] != ZERO  # then the linear weight is stepped by itself
    stepped = lanes(x, ZERO if with_z else hyper[HAS_LINEAR], ZERO, ZERO)
    # added to a row: 1 to its count; and the least its lanes may be: the minute in last-seen
    for j in range(16):
        x[j] = ZERO
    x[COUNT] = ONE
    counted = load16(x, 0)
    for j in range(16):
        x[j] = -np.inf
    x[SEEN] = ZERO
    timed = load16(x, 0)
    for i in range(begin, end):
        at, minute, ri, ci = (i - begin) * F, minute_of(times_s[i]), r[i - begin], c[i - begin]

        # score
        begin_rows(rows, at, F, stride, base)
        if W.size > NEAR and i + AHEAD < end:
            ask(W, stride, rows, at + AHEAD * F, F)
        t, S, count, seen = margin(W, stride, base, ri, linear, latent, hyper, x)
        n_born = 0
        if not all_live(count, seen, minute, ttl_s):
            n_born = set_aside(W, base, F, minute, ttl_s, born)
            t, S, count, seen = margin(W, stride, base, ri, linear, latent, hyper, x)
        p, dl = prediction_and_derivative(t, labels[i], ci, hyper)
        out[i] = p
        if ci == ZERO:
            continue
        if np.isnan(t):
            refuse(W, stride, counters, minute)
            continue

        # gradient and step
        bring_in(W, stride, P_, HEAD, 1, KP, k, rows, at, base, born, n_born, minute, hyper, counters)
        if hyper[HALF_LIFE_MIN] > ZERO:
            for f in range(F):
                decay(W, base[f], P_, HEAD, 1, -1, KP, k, minute, hyper)
        rdl, dl16 = mul(set16(dl * ri), latent), mul(set16(dl), stepped)
        since = add(set16(minute), timed)
        pull = l2
        if PURE != 1:
            present = 0
            for f in range(F):
                present += base[f] != 0
            if present < 2:
                pull = l2_alone
        for f in range(F):
            v = load16(W, base[f])
            g = fma(rdl, sub(S, v), dl16)
            if PURE == 1:
                v = adagrad16(W, base[f], P_, v, g, eta)
            else:
                v = step16(W, base[f], P_, v, fma(pull, v, g), c0, c1)
            store16(W, base[f], maximum(since, add(v, counted)))
        if with_z:
            for f in range(F):
                step_linear(W, base[f] + LINEAR, P_, dl, hyper)
        step_bias(W, BIAS_ROW * stride, P_, dl, minute, hyper)
        start_born(W, stride, HEAD, KP, k, rows, at, born, n_born, row_key, seed, hyper)
        blank(W, P_)
        counters[LEARNED] += 1


@kernel
def predict(call: int, begin: int, end: int, probabilities: bool) -> None:
    """Predictions or logits of events ``begin:end``; writes nothing else."""
    given = arguments(call)
    x, base, born = np.empty(16, np.float32), np.zeros(ROOM, np.int64), np.empty(F, np.int64)
    score(given, begin, end, probabilities, x, base, born)


@kernel
def learn(call: int, begin: int, end: int) -> None:
    """Learn events ``begin:end`` in order; ``out`` gets each one's prediction before its own update."""
    given = arguments(call)
    x, base, born = np.empty(16, np.float32), np.zeros(ROOM, np.int64), np.empty(F, np.int64)
    update(given, begin, end, x, base, born)
