"""ffm for one-hot events and k <= 8: all pairs of fields, a tile of rows at a time. See `tile` and `step`.

Same arguments as `pooled`, whose twin it is; F, KP and OPT (`tile.ADAGRAD`, ...) are compile-time constants (`build`).
There is neither l1 nor, inside the gradient, l2.
"""

# ruff: noqa: ARG001  all kernels take the same arguments
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
    HALF_LIFE_MIN,
    HAS_BIAS,
    HAS_LINEAR,
    LEARNED,
    LINEAR_C0,
    LINEAR_C1,
    LINEAR_STEP,
    REFUSED_EVENTS,
    SCRATCH_ROWS,
    SEEN,
    STEP,
    row_floats,
)
from ctr.kernels.simd import add, hsum, prefetch, set16, store16
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
    step_bias,
)
from ctr.kernels.tile import DIAGONAL_DOT, DIAGONAL_STEP, DOT, FTRL, GROUP, masks
from ctr.kernels.tile import STEP as TILE_STEP

# constants
F = 39
KP = 4
OPT = 0
# end of constants

P_ = row_floats(F, KP)
GROUPS = P_ // 16
SLOTS = GROUPS * (16 // KP)  # fields, padded to whole groups
TILES = GROUPS * (GROUPS - 1) // 2
# The next event's rows are asked for in bursts of at most 10 lines: 1 or 2 lines at a time are slower.
LINES = 2 * P_ // 16
BURSTS = -(-LINES // 10)
BURST = -(-LINES // BURSTS)
PER_TILE = -(-F * BURSTS // TILES) if TILES else 0
MASKS = masks(KP)
group, dot, diagonal_dot, tile_step, diagonal_step = (
    visitors[KP] for visitors in (GROUP, DOT, DIAGONAL_DOT, TILE_STEP, DIAGONAL_STEP)
)


@inlined
def margin(W: Any, stride: int, base: Any, r: Any, hyper: Any) -> Any:
    """Logit of the event whose rows begin at ``base``; absent fields have a row of zeros."""
    s0 = set16(ZERO)
    s1 = s0
    lin = s0
    for I in range(GROUPS):
        s0, s1, lin = diagonal_dot(W, MASKS, base, I, s0, s1, lin)
        G = group(base, I)
        for J in range(I + 1, GROUPS):
            s0, s1 = dot(W, G, base, I, J, s0, s1)
    t = r * hsum(add(s0, s1))
    if hyper[HAS_LINEAR] != ZERO:
        t += hsum(lin)
    if hyper[HAS_BIAS] != ZERO:
        t += W[BIAS_ROW * stride]
    return clamp_logit(t, hyper)


@kernel
def predict(
    W: Any, stride: int, P: int, n_fields: int, kp: int, k: int, rows: Any, values: Any, fields: Any, start: Any,
    times_s: Any, begin: int, end: int, r: Any, ttl_s: float, hyper: Any, probabilities: bool,
    A: Any, here: Any, out: Any,
) -> None:  # fmt: skip
    """Probabilities or logits of events ``begin:end``; writes nothing else."""
    base = np.zeros(SLOTS, np.int64)
    predict_events(W, stride, rows, times_s, begin, end, r, ttl_s, hyper, probabilities, out, base)


@bare
def predict_events(
    W: Any, stride: int, rows: Any, times_s: Any, begin: int, end: int, r: Any, ttl_s: float, hyper: Any,
    probabilities: bool, out: Any, base: Any,
) -> None:  # fmt: skip
    """What `predict` does, with its scratch."""
    for i in range(begin, end):
        at, minute = (i - begin) * F, minute_of(times_s[i])
        for f in range(F):
            base[f] = np.int64(rows[at + f]) * stride
            if base[f] != 0 and not is_live(W, base[f] + f * KP, minute, ttl_s):
                base[f] = 0
            if i + 1 < end:
                ahead = np.int64(rows[at + F + f]) * stride
                for line in range(GROUPS):
                    prefetch(W, ahead + 16 * line)
        t = margin(W, stride, base, r[i - begin], hyper)
        out[i] = np.float32(prediction(t, hyper)) if probabilities else t


@kernel
def learn(
    W: Any, stride: int, P: int, n_fields: int, kp: int, k: int, rows: Any, values: Any, fields: Any, start: Any,
    labels: Any, times_s: Any, begin: int, end: int, r: Any, c: Any, ttl_s: float, seed: Any, hyper: Any,
    row_key: Any, counters: Any, A: Any, here: Any, out: Any,
) -> None:  # fmt: skip
    """Learn events ``begin:end`` in order; ``out`` gets each one's probability before its own update."""
    base = np.empty(SLOTS, np.int64)
    born, absent = np.empty(F, np.int64), np.empty(F, np.int64)
    learn_events(
        W, stride, P, rows, labels, times_s, begin, end, r, c, ttl_s, seed, hyper, row_key, counters, out, kp, k,
        base, born, absent,
    )  # fmt: skip


@bare
def learn_events(
    W: Any, stride: int, P: int, rows: Any, labels: Any, times_s: Any, begin: int, end: int, r: Any, c: Any,
    ttl_s: float, seed: Any, hyper: Any, row_key: Any, counters: Any, out: Any, kp: int, k: int,
    base: Any, born: Any, absent: Any,
) -> None:  # fmt: skip
    """What `learn` does, with its scratch."""
    if OPT == FTRL:
        rate = OPT, set16(hyper[C0]), set16(hyper[C1])
        more = set16(hyper[LINEAR_C0] - hyper[C0]), set16(hyper[LINEAR_C1] - hyper[C1])
    else:
        rate = OPT, set16(hyper[STEP]), set16(ZERO)
        more = set16(hyper[LINEAR_STEP] - hyper[STEP]), set16(ZERO)
    scratch = W.size - SCRATCH_ROWS * stride
    for f in range(SLOTS):
        base[f] = scratch + f * stride
    for i in range(begin, end):
        at, minute, ci = (i - begin) * F, minute_of(times_s[i]), c[i - begin]

        # rows: an absent field gets a scratch row of zeros, which takes what nobody owns
        n_born, n_absent = 0, 0
        for f in range(F):
            base[f] = np.int64(rows[at + f]) * stride
            if base[f] == 0:
                base[f] = scratch + f * stride
                absent[n_absent] = f
                n_absent += 1
            elif not is_live(W, base[f] + f * KP, minute, ttl_s):
                if ci == ZERO:
                    base[f] = 0
                else:
                    if W[base[f] + f * KP + COUNT] != ZERO:
                        counters[EXPIRED] += 1
                    give_birth(W, base[f], P_, 0, F, f, KP, k, minute, hyper)
                    born[n_born] = f
                    n_born += 1

        # score
        t = margin(W, stride, base, r[i - begin], hyper)
        out[i] = np.float32(prediction(t, hyper))
        if ci == ZERO:
            continue
        if np.isnan(t):
            counters[REFUSED_EVENTS] += 1
            W[BIAS_ROW * stride + SEEN] = max(W[BIAS_ROW * stride + SEEN], minute)  # `resolve` has counted it
            continue
        dl = derivative(t, labels[i], ci, hyper)
        if hyper[HALF_LIFE_MIN] > ZERO:
            for f in range(F):
                if base[f] < scratch:
                    decay(W, base[f], P_, 0, F, f, KP, k, minute, hyper)

        # gradient and step, and the next event's rows on their way to L2
        rdl, dl16, minute16 = set16(dl * r[i - begin]), set16(dl * hyper[HAS_LINEAR]), set16(minute)
        burst = 0
        bursts = F * BURSTS if i + 1 < end else 0
        for I in range(GROUPS):
            diagonal_step(W, MASKS, base, I, P_, rdl, dl16, rate, more, minute16)
            G = group(base, I)
            for J in range(I + 1, GROUPS):
                for _ in range(PER_TILE):
                    if burst < bursts:
                        ahead = np.int64(rows[at + F + burst // BURSTS]) * stride + burst % BURSTS * BURST * 16
                        for line in range(BURST):
                            prefetch(W, ahead + 16 * line)
                        burst += 1
                tile_step(W, G, base, I, J, P_, rdl, rate)
        step_bias(W, BIAS_ROW * stride, P_, dl, minute, hyper)

        # after their first event rows get their start values; scratch is zero again
        for j in range(n_born):
            f = born[j]
            add_start(W, base[f], 0, F, f, KP, k, row_key[rows[at + f]], seed, hyper)
        for j in range(n_absent):
            for line in range(GROUPS):
                store16(W, base[absent[j]] + 16 * line, set16(ZERO))
        for f in range(F, SLOTS):  # no partner has weights for a field that does not exist: only its head was written
            store16(W, base[f] + 16 * (GROUPS - 1), set16(ZERO))
        counters[LEARNED] += 1
