"""lr for one-hot events: b + sum w. Same arguments as `pooled`, whose twin it is; nothing is a compile-time constant.

A row is its head alone, so four of them are one vector (`heads`): an event of 39 features is ten steps of sixteen
lanes, in four of which something happens to weights. Fields beyond the last have row 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.call import arguments
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
def score(given: Any, begin: int, end: int, probabilities: bool, x: Any, base: Any, born: Any) -> None:
    """The loop of `predict`."""
    W, stride, F, rows = given.W, given.stride, given.F, given.rows
    times_s, ttl_s, hyper, out = given.times_s, given.ttl_s, given.hyper, given.out
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
def update(given: Any, begin: int, end: int, x: Any, base: Any, born: Any) -> None:
    """The loop of `learn`."""
    W, stride, P, F, rows, labels = given.W, given.stride, given.P, given.F, given.rows, given.labels
    times_s, c, ttl_s = given.times_s, given.c, given.ttl_s
    hyper, counters, out = given.hyper, given.counters, given.out
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
def predict(call: int, begin: int, end: int, probabilities: bool) -> None:
    """Predictions or logits of events ``begin:end``; writes nothing else."""
    given = arguments(call)
    x, base, born = np.empty(16, np.float32), np.zeros((given.F + 3) // 4 * 4, np.int64), np.empty(given.F, np.int64)
    score(given, begin, end, probabilities, x, base, born)


@kernel
def learn(call: int, begin: int, end: int) -> None:
    """Learn events ``begin:end`` in order; ``out`` gets each one's prediction before its own update."""
    given = arguments(call)
    x, base, born = np.empty(16, np.float32), np.zeros((given.F + 3) // 4 * 4, np.int64), np.empty(given.F, np.int64)
    update(given, begin, end, x, base, born)
