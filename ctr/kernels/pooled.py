"""ffm for any batch and any k: each field's rows are summed into scratch, then plain loops. Exact, not fast."""

# ruff: noqa: ARG001  all kernels take the same arguments
from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import inlined, kernel
from ctr.kernels.layout import (
    BIAS_ROW,
    COUNT,
    EXPIRED,
    HAS_BIAS,
    HAS_LINEAR,
    LEARNED,
    LINEAR,
    STEP,
)
from ctr.kernels.step import (
    ZERO,
    adagrad,
    add_start,
    clamp_logit,
    give_birth,
    is_live,
    minute_of,
    sigmoid,
    step_bias,
    step_head,
)


@inlined
def margin(
    W: Any, stride: int, F: int, kp: int, k: int, rows: Any, values: Any, fields: Any, a: int, b: int, o: int,
    r: Any, minute: Any, ttl_s: float, hyper: Any, A: Any, here: Any,
) -> Any:  # fmt: skip
    """Logit of the event with entries ``a:b``, whose rows begin at ``rows[a - o]``.

    Leaves the pooled latent factors in ``A`` (F, P) and the fields that have any in ``here`` (F,).
    """
    here[:F] = False
    t = np.float64(W[BIAS_ROW * stride]) if hyper[HAS_BIAS] != ZERO else 0.0
    for e in range(a, b):
        row, f, x = np.int64(rows[e - o]), np.int64(fields[e]), values[e]
        if row == 0 or not is_live(W, row * stride + f * kp, minute, ttl_s):
            continue
        base = row * stride
        if not here[f]:
            here[f] = True
            for j in range(F * kp):
                A[f, j] = ZERO
        for j in range(F * kp):
            A[f, j] += x * W[base + j]
        if hyper[HAS_LINEAR] != ZERO:
            t += np.float64(x) * np.float64(W[base + f * kp + LINEAR])
    pairs = 0.0
    for g in range(F):
        if here[g]:
            for h in range(g + 1, F):
                if here[h]:
                    for d in range(k):
                        pairs += np.float64(A[g, h * kp + d]) * np.float64(A[h, g * kp + d])
    return clamp_logit(np.float32(t + np.float64(r) * pairs))


@kernel
def predict(
    W: Any, stride: int, P: int, F: int, kp: int, k: int, rows: Any, values: Any, fields: Any, start: Any,
    times_s: Any, begin: int, end: int, r: Any, ttl_s: float, hyper: Any, probabilities: bool,
    A: Any, here: Any, out: Any,
) -> None:  # fmt: skip
    """Probabilities or logits of events ``begin:end``; writes nothing else (but scratch)."""
    for i in range(begin, end):
        t = margin(
            W, stride, F, kp, k, rows, values, fields, start[i], start[i + 1], start[begin],
            r[i - begin], minute_of(times_s[i]), ttl_s, hyper, A, here,
        )  # fmt: skip
        out[i] = np.float32(sigmoid(t)) if probabilities else t


@kernel
def learn(
    W: Any, stride: int, P: int, F: int, kp: int, k: int, rows: Any, values: Any, fields: Any, start: Any,
    labels: Any, times_s: Any, begin: int, end: int, r: Any, c: Any, ttl_s: float, seed: Any, hyper: Any,
    row_key: Any, counters: Any, A: Any, here: Any, out: Any,
) -> None:  # fmt: skip
    """Learn events ``begin:end`` in order; ``out`` gets each one's probability before its own update."""
    o = start[begin]
    for i in range(begin, end):
        a, b, minute = start[i], start[i + 1], minute_of(times_s[i])
        ri, ci = r[i - begin], c[i - begin]

        # score
        p = sigmoid(margin(W, stride, F, kp, k, rows, values, fields, a, b, o, ri, minute, ttl_s, hyper, A, here))
        out[i] = np.float32(p)
        if ci == ZERO:
            continue
        dl = np.float32(np.float64(ci) * (p - np.float64(labels[i])))

        # gradient and step, each row from the weights before the event, which `A` holds
        for e in range(a, b):
            row, f, x = np.int64(rows[e - o]), np.int64(fields[e]), values[e]
            if row == 0:
                continue
            base = row * stride
            new = not is_live(W, base + f * kp, minute, ttl_s)
            if new:
                if W[base + f * kp + COUNT] != ZERO:
                    counters[EXPIRED] += 1
                give_birth(W, base, P, F, kp, k, f, minute, hyper)
            rdlx = dl * ri * x
            for g in range(F):
                if here[g] and g != f:
                    for d in range(k):
                        adagrad(W, base + g * kp + d, P, rdlx * A[g, f * kp + d], hyper[STEP])
            step_head(W, base + f * kp, P, x, dl, minute, hyper)
            if new:
                add_start(W, base, F, kp, k, f, row_key[row], seed, hyper)

        step_bias(W, BIAS_ROW * stride, P, dl, minute, hyper)
        counters[LEARNED] += 1
