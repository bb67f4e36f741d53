"""fwfm for one-hot events and k <= 8: all pairs of fields at once, sixteen fields to a vector.

    U_f = sum_g s_fg v_g      pairs = 1/2 sum_f <v_f, U_f>      g(v_f) = dl r U_f      g(s_fg) = dl r <v_f, v_g>

A call works on a square copy of the pair weights (S with a zero diagonal, N their accumulators; both halves get the
same bits) and brings the upper half back into its rows at the end. In an event, Vt holds coordinate d of all fields
side by side: U is a product of S with it, and <v_f, v_g> for sixteen g at a time is one, too.

Same arguments as `pooled`, whose twin it is; compile-time constants (`build`): fields, kp, and PURE as in `fm`.
"""

# ruff: noqa: ARG001, SIM108  all kernels take the same arguments; a choice at compile time stands on lines of its own
from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import bare, helper, inlined, kernel
from ctr.kernels.layout import (
    BIAS_ROW,
    C0,
    C1,
    COUNT,
    EXPIRED,
    HALF_LIFE_MIN,
    HAS_BIAS,
    HAS_LINEAR,
    HEAD,
    L2,
    LEARNED,
    LINEAR,
    N0,
    PAIR_C0,
    PAIR_ROW,
    REFUSED_EVENTS,
    SEEN,
    STEP,
)
from ctr.kernels.simd import add, fma, hsum, load16, mul, prefetch, set16, store16
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
    step_head,
)

# constants
F = 39
KP = 8
PURE = 1
# end of constants

P_ = 16
FP = 16 * -(-F // 16)
GROUPS = FP // 16


@helper
def copy_pairs(W: Any, stride: int, at: int, S: Any) -> None:
    """Pair weights (`at` 0) or their accumulators (`at` P) from their rows to both halves of a square (F FP,)."""
    p = 0
    for f in range(F):
        for g in range(f + 1, F):
            s = W[(PAIR_ROW + p // KP) * stride + at + HEAD + p % KP]
            S[f * FP + g], S[g * FP + f] = s, s
            p += 1


@helper
def bring_back(W: Any, stride: int, at: int, S: Any) -> None:
    """The reverse of `copy_pairs`."""
    p = 0
    for f in range(F):
        for g in range(f + 1, F):
            W[(PAIR_ROW + p // KP) * stride + at + HEAD + p % KP] = S[f * FP + g]
            p += 1


@inlined
def ask(W: Any, stride: int, rows: Any, at: int) -> None:
    """Ask for the row of an event to come."""
    if at < rows.shape[0]:
        ahead = np.int64(rows[at]) * stride
        prefetch(W, ahead)
        if stride > P_:
            prefetch(W, ahead + P_)


@inlined
def multiply(S: Any, V: Any, Vt: Any, Ut: Any) -> Any:
    """Ut = Vt S, four coordinates and sixteen fields at a time.

    Returns sum_f <v_f, U_f>. V has sixteen floats a field.
    """
    both = set16(ZERO)
    for J in range(GROUPS):
        for d in range(0, KP, 4):
            u0 = set16(ZERO)
            u1, u2, u3 = u0, u0, u0
            for f in range(F):
                s = load16(S, f * FP + 16 * J)
                v = 16 * f + HEAD + d
                u0 = fma(set16(V[v]), s, u0)
                u1 = fma(set16(V[v + 1]), s, u1)
                u2 = fma(set16(V[v + 2]), s, u2)
                u3 = fma(set16(V[v + 3]), s, u3)
            at = d * FP + 16 * J
            both = fma(u0, load16(Vt, at), both)
            both = fma(u1, load16(Vt, at + FP), both)
            both = fma(u2, load16(Vt, at + 2 * FP), both)
            both = fma(u3, load16(Vt, at + 3 * FP), both)
            store16(Ut, at, u0)
            store16(Ut, at + FP, u1)
            store16(Ut, at + 2 * FP, u2)
            store16(Ut, at + 3 * FP, u3)
    return hsum(both)


@inlined
def gather(W: Any, base: int, f: int, V: Any, Vt: Any) -> None:
    """One field's row, to V and to column f of Vt."""
    store16(V, 16 * f, load16(W, base))
    for d in range(KP):
        Vt[d * FP + f] = W[base + HEAD + d]


@inlined
def step_pairs(S: Any, N: Any, V: Any, Vt: Any, rdl: Any, c0: Any, c1: Any, eta: Any) -> None:
    """Gradient and step of all pair weights; an absent field's v is 0, and so is the gradient of its pairs."""
    for J in range(GROUPS):
        t0, t1 = load16(Vt, 16 * J), load16(Vt, FP + 16 * J)
        t2, t3 = load16(Vt, 2 * FP + 16 * J), load16(Vt, 3 * FP + 16 * J)
        if KP == 8:
            t4, t5 = load16(Vt, 4 * FP + 16 * J), load16(Vt, 5 * FP + 16 * J)
            t6, t7 = load16(Vt, 6 * FP + 16 * J), load16(Vt, 7 * FP + 16 * J)
        for f in range(F):
            v, at = 16 * f + HEAD, f * FP + 16 * J
            a = fma(set16(V[v + 2]), t2, mul(set16(V[v]), t0))
            b = fma(set16(V[v + 3]), t3, mul(set16(V[v + 1]), t1))
            if KP == 8:
                a = fma(set16(V[v + 6]), t6, fma(set16(V[v + 4]), t4, a))
                b = fma(set16(V[v + 7]), t7, fma(set16(V[v + 5]), t5, b))
            # S and N are one array, N behind S
            g, s = mul(rdl, add(a, b)), load16(S, at)
            if PURE == 1:
                s = adagrad16(S, at, N, s, g, eta)
            else:
                s = step16(S, at, N, s, g, c0, c1)
            store16(S, at, s)
    for f in range(F):
        S[f * FP + f], S[N + f * FP + f] = ZERO, ONE


@bare
def score(
    W: Any, stride: int, rows: Any, times_s: Any, begin: int, end: int, r: Any, ttl_s: float, hyper: Any,
    probabilities: bool, S: Any, V: Any, Vt: Any, Ut: Any, out: Any,
) -> None:  # fmt: skip
    """The loop of `predict`."""
    for i in range(begin, end):
        at, minute = (i - begin) * F, minute_of(times_s[i])
        lin = np.float64(W[BIAS_ROW * stride]) if hyper[HAS_BIAS] != ZERO else 0.0
        for f in range(F):
            ask(W, stride, rows, at + F + f)
            base = np.int64(rows[at + f]) * stride
            if base != 0 and not is_live(W, base, minute, ttl_s):
                base = np.int64(0)
            gather(W, base, f, V, Vt)
            if hyper[HAS_LINEAR] != ZERO:
                lin += np.float64(W[base + LINEAR])
        pairs = np.float32(0.5) * multiply(S, V, Vt, Ut)
        t = clamp_logit(np.float32(lin + np.float64(r[i - begin]) * np.float64(pairs)), hyper)
        out[i] = np.float32(prediction(t, hyper)) if probabilities else t


@bare
def update(
    W: Any, stride: int, k: int, rows: Any, labels: Any, times_s: Any, begin: int, end: int, r: Any, c: Any,
    ttl_s: float, seed: Any, hyper: Any, row_key: Any, counters: Any, S: Any, V: Any, Vt: Any, Ut: Any, U: Any,
    x: Any, born: Any, out: Any,
) -> None:  # fmt: skip
    """The loop of `learn`."""
    N = F * FP  # where the accumulators begin in S
    eta, c0, c1, pair_c0 = set16(hyper[STEP]), set16(hyper[C0]), set16(hyper[C1]), set16(hyper[PAIR_C0])
    for d in range(KP):
        x[HEAD + d] = hyper[L2]
    l2 = load16(x, 0)
    for i in range(begin, end):
        at, minute, ci = (i - begin) * F, minute_of(times_s[i]), c[i - begin]

        # score
        n_born, present = 0, 0
        lin = np.float64(W[BIAS_ROW * stride]) if hyper[HAS_BIAS] != ZERO else 0.0
        for f in range(F):
            ask(W, stride, rows, at + F + f)
            base = np.int64(rows[at + f]) * stride
            present += base != 0
            if base != 0 and not is_live(W, base, minute, ttl_s):
                base = np.int64(0)
                born[n_born] = f
                n_born += 1
            gather(W, base, f, V, Vt)
            if hyper[HAS_LINEAR] != ZERO:
                lin += np.float64(W[base + LINEAR])
        pairs = np.float32(0.5) * multiply(S, V, Vt, Ut)
        t = clamp_logit(np.float32(lin + np.float64(r[i - begin]) * np.float64(pairs)), hyper)
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

        # gradient and step of the latent factors, then of the pairs
        for d in range(KP):
            for f in range(F):
                U[16 * f + HEAD + d] = Ut[d * FP + f]
        rdl = set16(dl * r[i - begin])
        pull = l2
        if present < 2:
            pull = set16(ZERO)
        for f in range(F):
            base = np.int64(rows[at + f]) * stride
            if base == 0:
                continue
            decay(W, base, P_, HEAD, 1, -1, KP, k, minute, hyper)
            v, g = load16(W, base), mul(rdl, load16(U, 16 * f))
            if PURE == 1:
                v = adagrad16(W, base, P_, v, g, eta)
            else:
                v = step16(W, base, P_, v, fma(pull, v, g), c0, c1)
            store16(W, base, v)
            step_head(W, base, P_, ONE, dl, minute, hyper)
        dt = minute - W[BIAS_ROW * stride + SEEN]
        if hyper[HALF_LIFE_MIN] > ZERO and dt > ZERO:
            left = np.float32(2.0 ** (-np.float64(dt) / np.float64(hyper[HALF_LIFE_MIN])))
            for j in range(N, 2 * N):
                S[j] = hyper[N0] + (S[j] - hyper[N0]) * left
        step_pairs(S, N, V, Vt, rdl, pair_c0, c1, eta)
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
    S, V = np.zeros(F * FP, np.float32), np.zeros(16 * F, np.float32)
    Vt, Ut = np.zeros(KP * FP, np.float32), np.zeros(KP * FP, np.float32)
    copy_pairs(W, stride, 0, S)
    score(W, stride, rows, times_s, begin, end, r, ttl_s, hyper, probabilities, S, V, Vt, Ut, out)


@kernel
def learn(
    W: Any, stride: int, P: int, n_fields: int, kp: int, k: int, rows: Any, values: Any, fields: Any, start: Any,
    labels: Any, times_s: Any, begin: int, end: int, r: Any, c: Any, ttl_s: float, seed: Any, hyper: Any,
    row_key: Any, counters: Any, scratch: Any, here: Any, out: Any,
) -> None:  # fmt: skip
    """Learn events ``begin:end`` in order; ``out`` gets each one's prediction before its own update."""
    N = F * FP  # where the accumulators begin in S
    S, V = np.zeros(2 * N, np.float32), np.zeros(16 * F, np.float32)
    Vt, Ut = np.zeros(KP * FP, np.float32), np.zeros(KP * FP, np.float32)
    U = np.zeros(16 * F, np.float32)
    S[N:] = ONE
    copy_pairs(W, stride, 0, S[:N])
    copy_pairs(W, stride, P_, S[N:])
    x, born = np.zeros(16, np.float32), np.empty(F, np.int64)
    update(
        W, stride, k, rows, labels, times_s, begin, end, r, c, ttl_s, seed, hyper, row_key, counters,
        S, V, Vt, Ut, U, x, born, out,
    )  # fmt: skip
    bring_back(W, stride, 0, S[:N])
    bring_back(W, stride, P_, S[N:])
