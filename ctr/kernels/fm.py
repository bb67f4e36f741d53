"""fm for one-hot events and k <= 12: a row is sixteen floats, head and latent factor, so all is one vector a feature.

    pairs = 1/2 (|S|^2 - sum |v|^2), S = sum v      g(v) = dl r (S - v)

Same arguments as `pooled`, whose twin it is; compile-time constants (`build`): fields, kp, and whether the optimizer is
AdaGrad with neither L2, which needs one reciprocal square root and no more (PURE).
"""

# ruff: noqa: ARG001, SIM108  all kernels take the same arguments; a choice at compile time stands on lines of its own
from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import bare, inlined, kernel
from ctr.kernels.layout import (
    BIAS_ROW,
    C0,
    C1,
    COUNT,
    EXPIRED,
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
    REFUSED_EVENTS,
    SEEN,
    STEP,
)
from ctr.kernels.simd import add, fma, hsum, load16, maximum, mul, prefetch, set16, store16, sub
from ctr.kernels.step import (
    ONE,
    ZERO,
    adagrad16,
    add_start,
    clamp_logit,
    decay,
    derivative,
    give_birth,
    is_live,
    minute_of,
    prediction,
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
def ask(W: Any, stride: int, rows: Any, at: int) -> None:
    """Ask for the row of an event to come."""
    if at < rows.shape[0]:
        ahead = np.int64(rows[at]) * stride
        prefetch(W, ahead)
        if stride > P_:
            prefetch(W, ahead + P_)


@inlined
def logit(W: Any, stride: int, S: Any, Q: Any, r: Any, linear: Any, latent: Any, hyper: Any) -> Any:
    """From the sum S and the sum of squares Q of all rows; `linear` and `latent` are 1 in their lanes, else 0."""
    half = set16(np.float32(0.5) * r)
    t = hsum(fma(S, linear, mul(mul(half, latent), sub(mul(S, S), Q))))
    if hyper[HAS_BIAS] != ZERO:
        t += W[BIAS_ROW * stride]
    return clamp_logit(t, hyper)


@bare
def score(
    W: Any, stride: int, rows: Any, times_s: Any, begin: int, end: int, r: Any, ttl_s: float, hyper: Any,
    probabilities: bool, x: Any, out: Any,
) -> None:  # fmt: skip
    """The loop of `predict`."""
    linear, latent = lanes(x, hyper[HAS_LINEAR], ZERO, ZERO), lanes(x, ZERO, ONE, ZERO)
    for i in range(begin, end):
        at, minute = (i - begin) * F, minute_of(times_s[i])
        S = set16(ZERO)
        Q = S
        for f in range(F):
            ask(W, stride, rows, at + AHEAD * F + f)
            base = np.int64(rows[at + f]) * stride
            if is_live(W, base, minute, ttl_s):  # row 0 never is
                v = load16(W, base)
                S = add(S, v)
                Q = fma(v, v, Q)
        t = logit(W, stride, S, Q, r[i - begin], linear, latent, hyper)
        out[i] = np.float32(prediction(t, hyper)) if probabilities else t


@bare
def update(
    W: Any, stride: int, k: int, rows: Any, labels: Any, times_s: Any, begin: int, end: int, r: Any, c: Any,
    ttl_s: float, seed: Any, hyper: Any, row_key: Any, counters: Any, x: Any, born: Any, out: Any,
) -> None:  # fmt: skip
    """The loop of `learn`."""
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
        at, minute, ci = (i - begin) * F, minute_of(times_s[i]), c[i - begin]

        # score
        n_born, present = 0, 0
        S = set16(ZERO)
        Q = S
        for f in range(F):
            ask(W, stride, rows, at + AHEAD * F + f)
            base = np.int64(rows[at + f]) * stride
            present += base != 0
            if is_live(W, base, minute, ttl_s):  # row 0 never is
                v = load16(W, base)
                S = add(S, v)
                Q = fma(v, v, Q)
            elif base != 0:
                born[n_born] = f
                n_born += 1
        t = logit(W, stride, S, Q, r[i - begin], linear, latent, hyper)
        out[i] = np.float32(prediction(t, hyper))
        if ci == ZERO:
            continue
        if np.isnan(t):
            counters[REFUSED_EVENTS] += 1
            W[BIAS_ROW * stride + SEEN] = max(W[BIAS_ROW * stride + SEEN], minute)  # `resolve` has counted it
            continue
        dl = derivative(t, labels[i], ci, hyper)
        for j in range(n_born):
            base = np.int64(rows[at + born[j]]) * stride
            if W[base + COUNT] != ZERO:
                counters[EXPIRED] += 1
            give_birth(W, base, P_, HEAD, 1, -1, KP, k, minute, hyper)

        # gradient and step
        rdl, dl16 = mul(set16(dl * r[i - begin]), latent), mul(set16(dl), stepped)
        since = add(set16(minute), timed)
        pull = l2
        if present < 2:
            pull = l2_alone
        for f in range(F):
            base = np.int64(rows[at + f]) * stride
            if base == 0:
                continue
            decay(W, base, P_, HEAD, 1, -1, KP, k, minute, hyper)
            v = load16(W, base)
            g = fma(rdl, sub(S, v), dl16)
            if PURE == 1:
                v = adagrad16(W, base, P_, v, g, eta)
            else:
                v = step16(W, base, P_, v, fma(pull, v, g), c0, c1)
            store16(W, base, maximum(since, add(v, counted)))
            if with_z:
                step_linear(W, base + LINEAR, P_, dl, hyper)
        step_bias(W, BIAS_ROW * stride, P_, dl, minute, hyper)

        # after their first event rows get their start values
        for j in range(n_born):
            row = np.int64(rows[at + born[j]])
            add_start(W, row * stride, HEAD, 1, -1, KP, k, row_key[row], seed, hyper)
        counters[LEARNED] += 1


@kernel
def predict(
    W: Any, stride: int, P: int, n_fields: int, kp: int, k: int, rows: Any, values: Any, fields: Any, start: Any,
    times_s: Any, begin: int, end: int, r: Any, ttl_s: float, hyper: Any, probabilities: bool,
    scratch: Any, here: Any, out: Any,
) -> None:  # fmt: skip
    """Predictions or logits of events ``begin:end``; writes nothing else."""
    x = np.empty(16, np.float32)
    score(W, stride, rows, times_s, begin, end, r, ttl_s, hyper, probabilities, x, out)


@kernel
def learn(
    W: Any, stride: int, P: int, n_fields: int, kp: int, k: int, rows: Any, values: Any, fields: Any, start: Any,
    labels: Any, times_s: Any, begin: int, end: int, r: Any, c: Any, ttl_s: float, seed: Any, hyper: Any,
    row_key: Any, counters: Any, scratch: Any, here: Any, out: Any,
) -> None:  # fmt: skip
    """Learn events ``begin:end`` in order; ``out`` gets each one's prediction before its own update."""
    x, born = np.empty(16, np.float32), np.empty(F, np.int64)
    update(
        W, stride, k, rows, labels, times_s, begin, end, r, c, ttl_s, seed, hyper, row_key, counters, x, born, out,
    )  # fmt: skip
