"""Every family for any batch and any k: each field's rows are summed into scratch, then plain loops. Exact, not fast.

With A_f what the rows of field f sum to (of all k F coordinates for ffm, of k for the others), a family is the partner
B_f = d pairs / d A_f, since all pair sums are quadratic:

    pairs = 1/2 sum_f <A_f, B_f>      g(v_i) = dl r x_i B_{f_i}

    fm      B_f = sum_g A_g - A_f                     (same_field_pairs: B_i = sum_j x_j v_j - x_i v_i for each feature)
    ffm     B_{f,g} = A_{g,f}
    fwfm    B_f = sum_{g != f} s_fg A_g               g(s_fg) = dl r <A_f, A_g>
    fefm    B_f = sum_{g != f} S_fg A_g               g(S_fg) = dl r (A_f A_g' + A_g A_f'), once on the diagonal

A field is present if the event has a feature of it that has a row, be it new. FAMILY is a compile-time constant.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.call import arguments
from ctr.kernels.jit import helper, inlined, kernel
from ctr.kernels.layout import (
    BIAS_ROW,
    C0,
    C1,
    COUNT,
    EXPIRED,
    FEFM,
    FFM,
    FM,
    FWFM,
    HALF_LIFE_MIN,
    HAS_BIAS,
    HAS_LINEAR,
    HEAD,
    L2,
    LEARNED,
    LINEAR,
    LR,
    N0,
    PAIR_C0,
    PAIR_ROW,
    REFUSED_EVENTS,
    SAME_FIELD_PAIRS,
    SEEN,
)
from ctr.kernels.step import (
    ZERO,
    add_start,
    clamp_logit,
    decay,
    derivative,
    give_birth,
    is_live,
    minute_of,
    prediction,
    step,
    step_bias,
    step_head,
)

# constants
FAMILY = 2
# end of constants

LATENT = 0 if FAMILY == FFM else HEAD


@inlined
def head_of(f: Any, kp: int) -> Any:
    """Where the head of a row of field f stands in it."""
    return f * kp if FAMILY == FFM else f * 0


@inlined
def width(F: int, kp: int) -> Any:
    """Lanes of the latent factors."""
    return F * kp if FAMILY == FFM else 0 if FAMILY == LR else kp


@inlined
def blocks_of(F: int) -> Any:
    """Latent factors of a row."""
    return F if FAMILY == FFM else 0 if FAMILY == LR else 1


@inlined
def own_block(f: Any) -> Any:
    """Block of a row of field f in which its head stands; -1 where the head has a place of its own."""
    return f if FAMILY == FFM else f * 0 - 1


@inlined
def weights_a_pair(k: int) -> Any:
    """Pair weights that the model has for each pair of fields."""
    return k * (k + 1) // 2 if FAMILY == FEFM else 1 if FAMILY == FWFM else 0


@inlined
def pair_weight(p: Any, stride: int, kp: int) -> Any:
    """Where pair weight p stands."""
    return (PAIR_ROW + p // kp) * stride + HEAD + p % kp


@helper
def partners(W: Any, stride: int, F: int, kp: int, k: int, here: Any, A: Any, B: Any) -> None:
    """Fill B (F, width) for the fields that are present; row F of A is free for the sum of all."""
    D = width(F, kp)
    for f in range(F):
        if here[f]:
            for j in range(D):
                B[f, j] = ZERO
    if FAMILY == FM:
        for d in range(k):
            total = ZERO
            for f in range(F):
                if here[f]:
                    total += A[f, d]
            A[F, d] = total
            for f in range(F):
                if here[f]:
                    B[f, d] = total - A[f, d]
    elif FAMILY != LR:
        p = 0
        for f in range(F):
            for g in range(f + 1, F):
                if here[f] and here[g]:
                    if FAMILY == FFM:
                        for d in range(k):
                            B[f, g * kp + d] = A[g, f * kp + d]
                            B[g, f * kp + d] = A[f, g * kp + d]
                    elif FAMILY == FWFM:
                        s = W[pair_weight(p, stride, kp)]
                        for d in range(k):
                            B[f, d] += s * A[g, d]
                            B[g, d] += s * A[f, d]
                    else:
                        t = p * weights_a_pair(k)
                        for a in range(k):
                            for b in range(a, k):
                                s = W[pair_weight(t, stride, kp)]
                                t += 1
                                B[f, a] += s * A[g, b]
                                B[g, b] += s * A[f, a]
                                if b > a:
                                    B[f, b] += s * A[g, a]
                                    B[g, a] += s * A[f, b]
                p += 1


@helper
def margin(
    W: Any, stride: int, F: int, kp: int, k: int, rows: Any, values: Any, fields: Any, a: int, b: int, o: int,
    r: Any, minute: Any, ttl_s: float, hyper: Any, scratch: Any, here: Any,
) -> Any:  # fmt: skip
    """Logit of the event with entries ``a:b``, whose rows begin at ``rows[a - o]``; NaN if it is not finite.

    Leaves A and B in ``scratch`` (2, F + 1, width) and the fields that are present in ``here`` (F,).
    """
    A, B, D = scratch[0], scratch[1], width(F, kp)
    here[:F] = False
    t = np.float64(W[BIAS_ROW * stride]) if hyper[HAS_BIAS] != ZERO else 0.0
    squares = 0.0
    for e in range(a, b):
        row, f, x = np.int64(rows[e - o]), np.int64(fields[e]), values[e]
        if row == 0:
            continue
        base = row * stride
        if not here[f]:
            here[f] = True
            for j in range(D):
                A[f, j] = ZERO
        if not is_live(W, base + head_of(f, kp), minute, ttl_s):
            continue
        for j in range(D):
            A[f, j] += x * W[base + LATENT + j]
        if FAMILY == FM and hyper[SAME_FIELD_PAIRS] != ZERO:
            for d in range(k):
                squares += (np.float64(x) * np.float64(W[base + HEAD + d])) ** 2
        if hyper[HAS_LINEAR] != ZERO:
            t += np.float64(x) * np.float64(W[base + head_of(f, kp) + LINEAR])
    partners(W, stride, F, kp, k, here, A, B)
    pairs = np.float64(0)
    if FAMILY == FM and hyper[SAME_FIELD_PAIRS] != ZERO:
        for d in range(k):
            pairs += np.float64(A[F, d]) ** 2
        pairs -= squares
    else:
        for f in range(F):  # type: ignore[assignment]  # to Numba all are int64
            if here[f]:
                own = own_block(f)
                for g in range(blocks_of(F)):
                    if g != own and (FAMILY != FFM or here[g]):
                        for j in range(g * kp, g * kp + k):
                            pairs += np.float64(A[f, j]) * np.float64(B[f, j])
    return clamp_logit(np.float32(t + np.float64(r) * 0.5 * pairs), hyper)


@helper
def step_pairs(W: Any, stride: int, P: int, F: int, kp: int, k: int, here: Any, A: Any, rdl: Any, hyper: Any) -> None:
    """Pair weights of all fields that are present."""
    p = 0
    for f in range(F):
        for g in range(f + 1, F):
            if here[f] and here[g]:
                t = p * weights_a_pair(k)
                if FAMILY == FWFM:
                    dot = ZERO
                    for d in range(k):
                        dot += A[f, d] * A[g, d]
                    step(W, pair_weight(t, stride, kp), P, rdl * dot, hyper[PAIR_C0], hyper[C1])
                else:
                    for a in range(k):
                        for b in range(a, k):
                            product = A[f, a] * A[g, b]
                            if b > a:
                                product += A[f, b] * A[g, a]
                            step(W, pair_weight(t, stride, kp), P, rdl * product, hyper[PAIR_C0], hyper[C1])
                            t += 1
            p += 1


@helper
def decay_pairs(W: Any, stride: int, P: int, F: int, kp: int, k: int, minute: Any, hyper: Any) -> None:
    """As `decay`, for all pair weights, by the time since the last event, which the bias knows."""
    dt = minute - W[BIAS_ROW * stride + SEEN]
    if hyper[HALF_LIFE_MIN] > ZERO and dt > ZERO:
        left = np.float32(2.0 ** (-np.float64(dt) / np.float64(hyper[HALF_LIFE_MIN])))
        for t in range(F * (F - 1) // 2 * weights_a_pair(k)):
            at = pair_weight(t, stride, kp) + P
            W[at] = hyper[N0] + (W[at] - hyper[N0]) * left


@kernel
def predict(call: int, begin: int, end: int, probabilities: bool) -> None:
    """Predictions or logits of events ``begin:end``; writes nothing else (but scratch)."""
    given = arguments(call)
    W, stride, F, kp, k = given.W, given.stride, given.F, given.kp, given.k
    rows, values, fields, start, times_s = given.rows, given.values, given.fields, given.start, given.times_s
    r, ttl_s, hyper, scratch, here, out = given.r, given.ttl_s, given.hyper, given.sums, given.here, given.out
    for i in range(begin, end):
        t = margin(
            W, stride, F, kp, k, rows, values, fields, start[i], start[i + 1], start[begin],
            r[i - begin], minute_of(times_s[i]), ttl_s, hyper, scratch, here,
        )  # fmt: skip
        out[i] = np.float32(prediction(t, hyper)) if probabilities else t


@kernel
def learn(call: int, begin: int, end: int) -> None:
    """Learn events ``begin:end`` in order; ``out`` gets each one's prediction before its own update."""
    given = arguments(call)
    W, stride, P, F, kp, k = given.W, given.stride, given.P, given.F, given.kp, given.k
    rows, values, fields, start = given.rows, given.values, given.fields, given.start
    labels, times_s, r, c = given.labels, given.times_s, given.r, given.c
    ttl_s, seed, hyper = given.ttl_s, given.seed, given.hyper
    row_key, counters, scratch, here, out = given.row_key, given.counters, given.sums, given.here, given.out
    o, A, B = start[begin], scratch[0], scratch[1]
    blocks = blocks_of(F)
    for i in range(begin, end):
        a, b, minute = start[i], start[i + 1], minute_of(times_s[i])
        ri, ci = r[i - begin], c[i - begin]

        # score
        t = margin(W, stride, F, kp, k, rows, values, fields, a, b, o, ri, minute, ttl_s, hyper, scratch, here)
        out[i] = np.float32(prediction(t, hyper))
        if ci == ZERO:
            continue
        if np.isnan(t):
            counters[REFUSED_EVENTS] += 1
            W[BIAS_ROW * stride + SEEN] = max(W[BIAS_ROW * stride + SEEN], minute)  # `resolve` has counted it
            continue
        dl = derivative(t, labels[i], ci, hyper)
        by_feature = FAMILY == FM and hyper[SAME_FIELD_PAIRS] != ZERO
        present = 0  # fields, or features where they pair inside a field
        for f in range(F):
            present += here[f]
        if by_feature:
            present = 0
            for e in range(a, b):
                present += rows[e - o] != 0

        # gradient and step, each row from the weights before the event, which A and B hold
        for e in range(a, b):
            row, f, x = np.int64(rows[e - o]), np.int64(fields[e]), values[e]  # type: ignore[assignment]  # to Numba all are int64
            if row == 0:
                continue
            base, own = row * stride, own_block(f)
            head = base + head_of(f, kp)
            new = not is_live(W, head, minute, ttl_s)
            if new:
                if W[head + COUNT] != ZERO:
                    counters[EXPIRED] += 1
                give_birth(W, base, P, LATENT, blocks, own, kp, k, minute, hyper)
            else:
                decay(W, base, P, LATENT, blocks, own, kp, k, minute, hyper)
            rdlx = dl * ri * x
            for g in range(blocks):
                if (here[g] and g != own) if FAMILY == FFM else present > 1:
                    for d in range(k):
                        at = base + LATENT + g * kp + d
                        partner = A[F, d] - x * W[at] if by_feature else B[f, g * kp + d]
                        step(W, at, P, rdlx * partner + hyper[L2] * W[at], hyper[C0], hyper[C1])
            step_head(W, head, P, x, dl, minute, hyper)
            if new:
                add_start(W, base, LATENT, blocks, own, kp, k, row_key[row], seed, hyper)

        if FAMILY in (FWFM, FEFM):
            decay_pairs(W, stride, P, F, kp, k, minute, hyper)
            step_pairs(W, stride, P, F, kp, k, here, A, dl * ri, hyper)
        step_bias(W, BIAS_ROW * stride, P, dl, minute, hyper)
        counters[LEARNED] += 1
