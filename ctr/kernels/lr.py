"""lr for one-hot events: b + sum w. Same arguments as `pooled`, whose twin it is; nothing is a compile-time constant.

A row is its head alone, so an event is a sum, and one scalar step a feature; what costs is waiting for the rows. The
events behind this one are learned before a line from memory is here, so rows are asked for several events ahead.
"""

# ruff: noqa: ARG001  all kernels take the same arguments
from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import bare, inlined, kernel
from ctr.kernels.layout import (
    BIAS_ROW,
    COUNT,
    EXPIRED,
    HAS_BIAS,
    LEARNED,
    LINEAR,
    REFUSED_EVENTS,
    SEEN,
)
from ctr.kernels.simd import prefetch
from ctr.kernels.step import (
    ONE,
    ZERO,
    clamp_logit,
    decay,
    derivative,
    give_birth,
    is_live,
    minute_of,
    prediction,
    step_bias,
    step_head,
)

AHEAD = 8
"""Events between asking for rows and reading them."""


@inlined
def margin(
    W: Any, stride: int, F: int, rows: Any, at: int, minute: Any, ttl_s: float, hyper: Any
) -> Any:
    """Logit of the event whose rows are ``rows[at : at + F]``, and the same rows some events later on their way."""
    t = np.float64(W[BIAS_ROW * stride]) if hyper[HAS_BIAS] != ZERO else 0.0
    for f in range(F):
        if at + AHEAD * F + f < rows.shape[0]:
            prefetch(W, np.int64(rows[at + AHEAD * F + f]) * stride)
        base = np.int64(rows[at + f]) * stride
        if is_live(W, base, minute, ttl_s):  # row 0 never is
            t += np.float64(W[base + LINEAR])
    return clamp_logit(np.float32(t), hyper)


@bare
def score(
    W: Any, stride: int, F: int, rows: Any, times_s: Any, begin: int, end: int, ttl_s: float, hyper: Any,
    probabilities: bool, out: Any,
) -> None:  # fmt: skip
    """The loop of `predict`."""
    for i in range(begin, end):
        t = margin(W, stride, F, rows, (i - begin) * F, minute_of(times_s[i]), ttl_s, hyper)
        out[i] = np.float32(prediction(t, hyper)) if probabilities else t


@bare
def update(
    W: Any, stride: int, P: int, F: int, rows: Any, labels: Any, times_s: Any, begin: int, end: int, c: Any,
    ttl_s: float, hyper: Any, counters: Any, out: Any,
) -> None:  # fmt: skip
    """The loop of `learn`."""
    for i in range(begin, end):
        at, minute, ci = (i - begin) * F, minute_of(times_s[i]), c[i - begin]

        # score
        t = margin(W, stride, F, rows, at, minute, ttl_s, hyper)
        out[i] = np.float32(prediction(t, hyper))
        if ci == ZERO:
            continue
        if np.isnan(t):
            counters[REFUSED_EVENTS] += 1
            W[BIAS_ROW * stride + SEEN] = max(W[BIAS_ROW * stride + SEEN], minute)  # `resolve` has counted it
            continue
        dl = derivative(t, labels[i], ci, hyper)

        # step
        for f in range(F):
            base = np.int64(rows[at + f]) * stride
            if base == 0:
                continue
            if is_live(W, base, minute, ttl_s):
                decay(W, base, P, 0, 0, -1, 0, 0, minute, hyper)
            else:
                if W[base + COUNT] != ZERO:
                    counters[EXPIRED] += 1
                give_birth(W, base, P, 0, 0, -1, 0, 0, minute, hyper)
            step_head(W, base, P, ONE, dl, minute, hyper)
        step_bias(W, BIAS_ROW * stride, P, dl, minute, hyper)
        counters[LEARNED] += 1


@kernel
def predict(
    W: Any, stride: int, P: int, F: int, kp: int, k: int, rows: Any, values: Any, fields: Any, start: Any,
    times_s: Any, begin: int, end: int, r: Any, ttl_s: float, hyper: Any, probabilities: bool,
    scratch: Any, here: Any, out: Any,
) -> None:  # fmt: skip
    """Predictions or logits of events ``begin:end``; writes nothing else."""
    score(W, stride, F, rows, times_s, begin, end, ttl_s, hyper, probabilities, out)


@kernel
def learn(
    W: Any, stride: int, P: int, F: int, kp: int, k: int, rows: Any, values: Any, fields: Any, start: Any,
    labels: Any, times_s: Any, begin: int, end: int, r: Any, c: Any, ttl_s: float, seed: Any, hyper: Any,
    row_key: Any, counters: Any, scratch: Any, here: Any, out: Any,
) -> None:  # fmt: skip
    """Learn events ``begin:end`` in order; ``out`` gets each one's prediction before its own update."""
    update(W, stride, P, F, rows, labels, times_s, begin, end, c, ttl_s, hyper, counters, out)
