"""fwfm for one-hot events and k <= 8: all pairs of fields at once, sixteen fields to a vector.

    U_f = sum_g s_fg v_g      pairs = 1/2 sum_f <v_f, U_f>      g(v_f) = dl r U_f      g(s_fg) = dl r <v_f, v_g>

A call works on a square copy of the pair weights (S with a zero diagonal, equal halves; its accumulators behind it, of
which only the lower half is kept up) and brings the lower half back into its rows at the end. In an event, Vt holds
coordinate d of all fields side by side: U is a product of S with it, and <v_f, v_g> for sixteen g at a time is one,
too. Fields beyond the last have row 0.

Same arguments as `pooled`, whose twin it is; compile-time constants (`build`): fields, kp, and PURE as in `fm`.
"""

# ruff: noqa: SIM108  a choice at compile time stands on lines of its own
from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.call import arguments
from ctr.kernels.heads import head_rates, lanes, score_heads, step_heads
from ctr.kernels.jit import bare, helper, inlined, kernel
from ctr.kernels.layout import (
    BIAS_ROW,
    C0,
    C1,
    HALF_LIFE_MIN,
    HAS_BIAS,
    HAS_LINEAR,
    HEAD,
    L1,
    L2,
    LEARNED,
    LINEAR,
    N0,
    PAIR_C0,
    PAIR_ROW,
    SEEN,
    STEP,
)
from ctr.kernels.onehot import NEAR, all_live, ask, begin_rows, blank, bring_in, refuse, set_aside, start_born
from ctr.kernels.quarters import columns, load4x4, quarter, quarters, store4x4
from ctr.kernels.simd import add, fma, fnma, hsum, load16, mul, rsqrt, set16, store16
from ctr.kernels.step import (
    ONE,
    ZERO,
    adagrad16,
    clamp_logit,
    decay,
    minute_of,
    move,
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
FP = 16 * -(-F // 16)
GROUPS = FP // 16
HEADS = 4 * -(-F // 4)
N = FP * FP
"""Where the accumulators of the pair weights begin in S."""


@helper
def copy_pairs(W: Any, stride: int, at: int, S: Any) -> None:
    """Pair weights (`at` 0) or their accumulators (`at` P) from their rows to both halves of a square (FP FP,)."""
    p = 0
    for f in range(F):
        for g in range(f + 1, F):
            s = W[(PAIR_ROW + p // KP) * stride + at + HEAD + p % KP]
            S[f * FP + g], S[g * FP + f] = s, s
            p += 1


@helper
def bring_back(W: Any, stride: int, at: int, S: Any) -> None:
    """The reverse of `copy_pairs`, from the half below the diagonal."""
    p = 0
    for f in range(F):
        for g in range(f + 1, F):
            W[(PAIR_ROW + p // KP) * stride + at + HEAD + p % KP] = S[g * FP + f]
            p += 1


@inlined
def side_by_side(W: Any, base: Any, Vt: Any) -> None:
    """Latent factors of the rows that begin at ``base``, to Vt: coordinate d of field f at ``d FP + f``."""
    for f in range(0, FP, 16):
        for d in range(0, KP, 4):
            at, o = HEAD + d, d * FP + f
            a, b, c, e = columns(
                quarter(W, base, f, at), quarter(W, base, f + 4, at), quarter(W, base, f + 8, at),
                quarter(W, base, f + 12, at),
            )  # fmt: skip
            store16(Vt, o, a)
            store16(Vt, o + FP, b)
            store16(Vt, o + 2 * FP, c)
            store16(Vt, o + 3 * FP, e)


@inlined
def multiply(S: Any, W: Any, base: Any, Vt: Any, Ut: Any) -> Any:
    """Ut = Vt S, all coordinates of sixteen fields at a time; returns sum_f <v_f, U_f>."""
    both = set16(ZERO)
    for J in range(GROUPS):
        u0 = set16(ZERO)
        u1, u2, u3, u4, u5, u6, u7 = u0, u0, u0, u0, u0, u0, u0
        for f in range(F):
            s, v = load16(S, f * FP + 16 * J), base[f] + HEAD
            u0, u1 = fma(set16(W[v]), s, u0), fma(set16(W[v + 1]), s, u1)
            u2, u3 = fma(set16(W[v + 2]), s, u2), fma(set16(W[v + 3]), s, u3)
            if KP == 8:
                u4, u5 = fma(set16(W[v + 4]), s, u4), fma(set16(W[v + 5]), s, u5)
                u6, u7 = fma(set16(W[v + 6]), s, u6), fma(set16(W[v + 7]), s, u7)
        at = 16 * J
        both = keep(Vt, Ut, at, u0, u1, u2, u3, both)
        if KP == 8:
            both = keep(Vt, Ut, at + 4 * FP, u4, u5, u6, u7, both)
    return hsum(both)


@inlined
def keep(Vt: Any, Ut: Any, at: int, a: Any, b: Any, c: Any, d: Any, both: Any) -> Any:
    """Four coordinates of sixteen fields to Ut; returns `both` and their products with those of Vt."""
    store16(Ut, at, a)
    store16(Ut, at + FP, b)
    store16(Ut, at + 2 * FP, c)
    store16(Ut, at + 3 * FP, d)
    both = fma(b, load16(Vt, at + FP), fma(a, load16(Vt, at), both))
    return fma(d, load16(Vt, at + 3 * FP), fma(c, load16(Vt, at + 2 * FP), both))


@inlined
def step_latent(W: Any, base: Any, Ut: Any, rdl: Any, pull: Any, rate: Any) -> None:
    """Gradient and step of all latent factors, four coordinates of four fields at a time."""
    for f in range(0, FP, 16):
        for d in range(0, KP, 4):
            at, o = HEAD + d, d * FP + f
            a, b, c, e = quarters(
                load16(Ut, o), load16(Ut, o + FP), load16(Ut, o + 2 * FP), load16(Ut, o + 3 * FP)
            )
            step_quarter(W, base, f, at, mul(rdl, a), pull, rate)
            step_quarter(W, base, f + 4, at, mul(rdl, b), pull, rate)
            step_quarter(W, base, f + 8, at, mul(rdl, c), pull, rate)
            step_quarter(W, base, f + 12, at, mul(rdl, e), pull, rate)


@inlined
def step_quarter(W: Any, base: Any, f: int, at: int, g: Any, pull: Any, rate: Any) -> None:
    """Floats ``at:at + 4`` of the rows of fields f to f + 3; what is padding has row 0."""
    b0, b1, b2, b3 = base[f] + at, base[f + 1] + at, base[f + 2] + at, base[f + 3] + at
    v, n = load4x4(W, b0, b1, b2, b3), load4x4(W, b0 + P_, b1 + P_, b2 + P_, b3 + P_)
    if PURE == 1:
        n = fma(g, g, n)
        v = fnma(mul(rate[0], g), rsqrt(n), v)
    else:
        g = fma(pull, v, g)
        n = fma(g, g, n)
        v = move(v, n, g, rate[1], rate[2])
    store4x4(W, b0 + P_, b1 + P_, b2 + P_, b3 + P_, n)
    store4x4(W, b0, b1, b2, b3, v)


@inlined
def step_pairs(S: Any, W: Any, base: Any, Vt: Any, rdl: Any, c0: Any, c1: Any, eta: Any) -> None:
    """Gradient and step of all pair weights; before those of the rows, whose latent factors they read.

    An absent field's v is 0, and so is the gradient of its pairs. Of sixteen fields by sixteen others only those below
    the diagonal are computed; `mirror` brings them above it.
    """
    for J in range(GROUPS):
        at = 16 * J
        t0, t1 = load16(Vt, at), load16(Vt, FP + at)
        t2, t3 = load16(Vt, 2 * FP + at), load16(Vt, 3 * FP + at)
        if KP == 8:
            t4, t5 = load16(Vt, 4 * FP + at), load16(Vt, 5 * FP + at)
            t6, t7 = load16(Vt, 6 * FP + at), load16(Vt, 7 * FP + at)
        for f in range(at, F):
            v, o = base[f] + HEAD, f * FP + at
            a = fma(set16(W[v + 2]), t2, mul(set16(W[v]), t0))
            b = fma(set16(W[v + 3]), t3, mul(set16(W[v + 1]), t1))
            if KP == 8:
                a = fma(set16(W[v + 6]), t6, fma(set16(W[v + 4]), t4, a))
                b = fma(set16(W[v + 7]), t7, fma(set16(W[v + 5]), t5, b))
            # S and N are one array, N behind S
            g, s = mul(rdl, add(a, b)), load16(S, o)
            if PURE == 1:
                s = adagrad16(S, o, N, s, g, eta)
            else:
                s = step16(S, o, N, s, g, c0, c1)
            store16(S, o, s)
    for f in range(F):
        S[f * FP + f], S[N + f * FP + f] = ZERO, ONE
    mirror(S)


@inlined
def mirror(S: Any) -> None:
    """Bring pair weights of fields 16 I + .. by 16 J + .., I > J, to where those of J by I stand."""
    for I in range(1, GROUPS):
        for J in range(I):
            for g in range(16 * J, 16 * J + 16, 4):
                o = 16 * I * FP + g
                a, b, c, d = columns(
                    block(S, o), block(S, o + 4 * FP), block(S, o + 8 * FP), block(S, o + 12 * FP)
                )
                at = g * FP + 16 * I
                store16(S, at, a)
                store16(S, at + FP, b)
                store16(S, at + 2 * FP, c)
                store16(S, at + 3 * FP, d)


@inlined
def block(S: Any, o: int) -> Any:
    """Four fields by four, from pair weight `o` on."""
    return load4x4(S, o, o + FP, o + 2 * FP, o + 3 * FP)


@inlined
def margin(
    W: Any, stride: int, base: Any, r: Any, linear: Any, hyper: Any, S: Any, Vt: Any, Ut: Any, x: Any
) -> Any:
    """Logit of the rows that begin at ``base``, their least count and last-seen minute; fills Vt and Ut."""
    lin, count, seen = score_heads(W, base, HEADS, linear, x)
    if hyper[HAS_BIAS] != ZERO:
        lin += W[BIAS_ROW * stride]
    side_by_side(W, base, Vt)
    pairs = np.float32(0.5) * multiply(S, W, base, Vt, Ut)
    return clamp_logit(np.float32(np.float64(lin) + np.float64(r) * np.float64(pairs)), hyper), count, seen


@bare
def score(
    given: Any, begin: int, end: int, probabilities: bool, S: Any, Vt: Any, Ut: Any, x: Any, base: Any, born: Any
) -> None:
    """The loop of `predict`."""
    W, stride, rows, times_s = given.W, given.stride, given.rows, given.times_s
    r, ttl_s, hyper, out = given.r, given.ttl_s, given.hyper, given.out
    linear = lanes(x, LINEAR, hyper[HAS_LINEAR], ZERO)
    for i in range(begin, end):
        at, minute, ri = (i - begin) * F, minute_of(times_s[i]), r[i - begin]
        begin_rows(rows, at, F, stride, base)
        if W.size > NEAR and i + 1 < end:
            ask(W, stride, rows, at + F, F)
        t, count, seen = margin(W, stride, base, ri, linear, hyper, S, Vt, Ut, x)
        if not all_live(count, seen, minute, ttl_s):
            set_aside(W, base, F, minute, ttl_s, born)
            t, count, seen = margin(W, stride, base, ri, linear, hyper, S, Vt, Ut, x)
        out[i] = np.float32(prediction(t, hyper)) if probabilities else t


@bare
def update(given: Any, begin: int, end: int, S: Any, Vt: Any, Ut: Any, x: Any, base: Any, born: Any) -> None:
    """The loop of `learn`."""
    W, stride, k, rows = given.W, given.stride, given.k, given.rows
    labels, times_s, r = given.labels, given.times_s, given.r
    c, ttl_s, seed, hyper = given.c, given.ttl_s, given.seed, given.hyper
    row_key, counters, out = given.row_key, given.counters, given.out
    linear, heads = lanes(x, LINEAR, hyper[HAS_LINEAR], ZERO), head_rates(hyper, x)
    rate = set16(hyper[STEP]), set16(hyper[C0]), set16(hyper[C1])
    pair_c0 = set16(hyper[PAIR_C0])
    for i in range(begin, end):
        at, minute, ri, ci = (i - begin) * F, minute_of(times_s[i]), r[i - begin], c[i - begin]

        # score
        begin_rows(rows, at, F, stride, base)
        if W.size > NEAR and i + 1 < end:
            ask(W, stride, rows, at + F, F)
        t, count, seen = margin(W, stride, base, ri, linear, hyper, S, Vt, Ut, x)
        n_born = 0
        if not all_live(count, seen, minute, ttl_s):
            n_born = set_aside(W, base, F, minute, ttl_s, born)
            t, count, seen = margin(W, stride, base, ri, linear, hyper, S, Vt, Ut, x)
        p, dl = prediction_and_derivative(t, labels[i], ci, hyper)
        out[i] = p
        if ci == ZERO:
            continue
        if np.isnan(t):
            refuse(W, stride, counters, minute)
            continue

        # gradient and step of the pairs, then of the rows
        bring_in(W, stride, P_, HEAD, 1, KP, k, rows, at, base, born, n_born, minute, hyper, counters)
        dt = minute - W[BIAS_ROW * stride + SEEN]
        if hyper[HALF_LIFE_MIN] > ZERO:
            for f in range(F):
                decay(W, base[f], P_, HEAD, 1, -1, KP, k, minute, hyper)
            if dt > ZERO:
                left = np.float32(2.0 ** (-np.float64(dt) / np.float64(hyper[HALF_LIFE_MIN])))
                for j in range(N, 2 * N):
                    S[j] = hyper[N0] + (S[j] - hyper[N0]) * left
        rdl, present = set16(dl * ri), 2
        if PURE != 1:
            present = 0
            for f in range(F):
                present += base[f] != 0
        step_pairs(S, W, base, Vt, rdl, pair_c0, rate[2], rate[0])
        step_latent(W, base, Ut, rdl, set16(hyper[L2] if present > 1 else ZERO), rate)
        step_heads(W, base, HEADS, P_, dl, minute, heads)
        if hyper[L1] != ZERO:
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
    S, Vt, Ut = np.zeros(N, np.float32), np.empty(KP * FP, np.float32), np.empty(KP * FP, np.float32)
    copy_pairs(given.W, given.stride, 0, S)
    x, base, born = np.empty(16, np.float32), np.zeros(FP, np.int64), np.empty(F, np.int64)
    score(given, begin, end, probabilities, S, Vt, Ut, x, base, born)


@kernel
def learn(call: int, begin: int, end: int) -> None:
    """Learn events ``begin:end`` in order; ``out`` gets each one's prediction before its own update."""
    given = arguments(call)
    S, Vt, Ut = np.zeros(2 * N, np.float32), np.empty(KP * FP, np.float32), np.empty(KP * FP, np.float32)
    S[N:] = ONE
    copy_pairs(given.W, given.stride, 0, S[:N])
    copy_pairs(given.W, given.stride, P_, S[N:])
    x, base, born = np.empty(16, np.float32), np.zeros(FP, np.int64), np.empty(F, np.int64)
    update(given, begin, end, S, Vt, Ut, x, base, born)
    bring_back(given.W, given.stride, 0, S[:N])
    bring_back(given.W, given.stride, P_, S[N:])
