"""lr for one-hot events: b + sum w. Same arguments as `pooled`, whose twin it is; nothing is a compile-time constant.

A row is its head alone, so four of them are one vector (`heads`): an event of 39 features is ten steps of sixteen
lanes, in four of which something happens to weights. Fields beyond the last have row 0.
"""

# ruff: noqa: ARG001  all kernels take the same arguments
from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.heads import head_rates, lanes, score_heads, step_heads
from ctr.kernels.jit import bare, inlined, kernel
from ctr.kernels.layout import (
    BIAS_ROW,
    HALF_LIFE_MIN,
    HAS_BIAS,
    HAS_LINEAR,
    L1,
    LEARNED,
    LINEAR,
)
from ctr.kernels.onehot import NEAR, all_live, ask, begin_rows, blank, bring_in, refuse, set_aside
from ctr.kernels.step import (
    ZERO,
    clamp_logit,
    decay,
    minute_of,
    prediction,
    prediction_and_derivative,
    step_bias,
    step_linear,
)

AHEAD = 8
"""Events between asking for rows and reading them: this many are learned before a line from memory is here."""


@inlined
def margin(W: Any, stride: int, base: Any, linear: Any, hyper: Any, x: Any) -> Any:
    """Logit of the rows that begin at ``base``, their least count and last-seen minute."""
    t, count, seen = score_heads(W, base, base.shape[0], linear, x)
    if hyper[HAS_BIAS] != ZERO:
        t += W[BIAS_ROW * stride]
    return clamp_logit(t, hyper), count, seen


@bare
def score(
    W: Any, stride: int, F: int, rows: Any, times_s: Any, begin: int, end: int, ttl_s: float, hyper: Any,
    probabilities: bool, x: Any, base: Any, born: Any, out: Any,
) -> None:  # fmt: skip
    """The loop of `predict`."""
    linear = lanes(x, LINEAR, hyper[HAS_LINEAR], ZERO)
    for i in range(begin, end):
        at, minute = (i - begin) * F, minute_of(times_s[i])
        begin_rows(rows, at, F, stride, base)
        if W.size > NEAR and i + AHEAD < end:
            ask(W, stride, rows, at + AHEAD * F, F)
        t, count, seen = margin(W, stride, base, linear, hyper, x)
        if not all_live(count, seen, minute, ttl_s):
            set_aside(W, base, F, minute, ttl_s, born)
            t, count, seen = margin(W, stride, base, linear, hyper, x)
        out[i] = np.float32(prediction(t, hyper)) if probabilities else t


@bare
def update(
    W: Any, stride: int, P: int, F: int, rows: Any, labels: Any, times_s: Any, begin: int, end: int, c: Any,
    ttl_s: float, hyper: Any, counters: Any, x: Any, base: Any, born: Any, out: Any,
) -> None:  # fmt: skip
    """The loop of `learn`."""
    linear = lanes(x, LINEAR, hyper[HAS_LINEAR], ZERO)
    rates = head_rates(hyper, x)
    for i in range(begin, end):
        at, minute, ci = (i - begin) * F, minute_of(times_s[i]), c[i - begin]

        # score
        begin_rows(rows, at, F, stride, base)
        if W.size > NEAR and i + AHEAD < end:
            ask(W, stride, rows, at + AHEAD * F, F)
        t, count, seen = margin(W, stride, base, linear, hyper, x)
        n_born = 0
        if not all_live(count, seen, minute, ttl_s):
            n_born = set_aside(W, base, F, minute, ttl_s, born)
            t, count, seen = margin(W, stride, base, linear, hyper, x)
        p, dl = prediction_and_derivative(t, labels[i], ci, hyper)
        out[i] = p
        if ci == ZERO:
            continue
        if np.isnan(t):
            refuse(W, stride, counters, minute)
            continue

        # step
        bring_in(W, stride, P, 0, 0, 0, 0, rows, at, base, born, n_born, minute, hyper, counters)
        if hyper[HALF_LIFE_MIN] > ZERO:
            for f in range(F):
                decay(W, base[f], P, 0, 0, -1, 0, 0, minute, hyper)
        step_heads(W, base, base.shape[0], P, dl, minute, rates)
        if hyper[L1] != ZERO:
            for f in range(F):
                step_linear(W, base[f] + LINEAR, P, dl, hyper)
        step_bias(W, BIAS_ROW * stride, P, dl, minute, hyper)
        blank(W, P)
        counters[LEARNED] += 1


@kernel
def predict(
    W: Any, stride: int, P: int, F: int, kp: int, k: int, rows: Any, values: Any, fields: Any, start: Any,
    times_s: Any, begin: int, end: int, r: Any, ttl_s: float, hyper: Any, probabilities: bool,
    scratch: Any, here: Any, out: Any,
) -> None:  # fmt: skip
    """Predictions or logits of events ``begin:end``; writes nothing else."""
    x, base, born = np.empty(16, np.float32), np.zeros((F + 3) // 4 * 4, np.int64), np.empty(F, np.int64)
    score(W, stride, F, rows, times_s, begin, end, ttl_s, hyper, probabilities, x, base, born, out)


@kernel
def learn(
    W: Any, stride: int, P: int, F: int, kp: int, k: int, rows: Any, values: Any, fields: Any, start: Any,
    labels: Any, times_s: Any, begin: int, end: int, r: Any, c: Any, ttl_s: float, seed: Any, hyper: Any,
    row_key: Any, counters: Any, scratch: Any, here: Any, out: Any,
) -> None:  # fmt: skip
    """Learn events ``begin:end`` in order; ``out`` gets each one's prediction before its own update."""
    x, base, born = np.empty(16, np.float32), np.zeros((F + 3) // 4 * 4, np.int64), np.empty(F, np.int64)
    update(
        W, stride, P, F, rows, labels, times_s, begin, end, c, ttl_s, hyper, counters, x, base, born, out,
    )  # fmt: skip
