"""ffm for one-hot events and k <= 8: all pairs of fields, a tile of rows at a time. See `tile` and `step`.

Same arguments as `pooled`, whose twin it is; F, KP and OPT (`tile.ADAGRAD`, ...) are compile-time constants (`build`).
There is neither l1 nor, inside the gradient, l2.
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
from ctr.kernels.simd import add, hsum, maximum, mul, prefetch, set16, store16
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
from ctr.kernels.tile import (
    DIAGONAL_DOT,
    DIAGONAL_STEP,
    DOT,
    FTRL,
    GROUP,
    LINEARS,
    TIMES,
    UNLEARNED,
    mask,
    masks,
)
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
LINES = 2 * GROUPS
BURSTS = -(-LINES // 10)
BURST = -(-LINES // BURSTS)
PER_TILE = -(-F * BURSTS // TILES) if TILES else 0
MASKS = masks(KP)
group, dot, diagonal_dot, tile_step, diagonal_step = (
    visitors[KP] for visitors in (GROUP, DOT, DIAGONAL_DOT, TILE_STEP, DIAGONAL_STEP)
)


@inlined
def lifetime(ttl_s: float) -> Any:
    """Whole minutes for which a row is live after it was last seen; infinite without a ttl."""
    if ttl_s == 0.0:
        return np.inf
    minutes = float(np.floor(ttl_s / 60.0))
    return minutes if minutes * 60.0 <= ttl_s else minutes - 1.0


@inlined
def margin(
    W: Any, stride: int, base: Any, r: Any, hyper: Any, minute: Any, live_min: Any, n_absent: Any
) -> Any:  # fmt: skip
    """Logit of the event whose rows begin at ``base``, and whether all of them that are there are live.

    The heads pass by on the diagonal: to look at them there costs nothing, to read them first costs 4-7 % of an
    event. Absent fields have a row of zeros.
    """
    oldest = np.float32(max(np.float64(minute) - live_min, -16777216.0))
    oldest16 = maximum(add(set16(oldest), mask(MASKS, TIMES)), mask(MASKS, UNLEARNED))
    s0 = set16(ZERO)
    s1, heads, stale = s0, s0, s0
    for I in range(GROUPS):
        s0, s1, heads, stale = diagonal_dot(W, MASKS, base, I, s0, s1, heads, stale, oldest16)
        G = group(base, I)
        for J in range(I + 1, GROUPS):
            s0, s1 = dot(W, G, base, I, J, s0, s1)
    t = r * hsum(add(s0, s1))
    if hyper[HAS_LINEAR] != ZERO:
        t += hsum(mul(heads, mask(MASKS, LINEARS)))
    if hyper[HAS_BIAS] != ZERO:
        t += W[BIAS_ROW * stride]
    # rows of zeros have no count, and their time may be long ago
    expected = np.float32((n_absent + SLOTS - F) * (2 if oldest > ZERO else 1))
    return clamp_logit(t, hyper), hsum(stale) == expected


@kernel
def predict(call: int, begin: int, end: int, probabilities: bool) -> None:
    """Probabilities or logits of events ``begin:end``; writes nothing else."""
    given = arguments(call)
    base = np.zeros(SLOTS, np.int64)
    predict_events(given, begin, end, probabilities, base)


@bare
def predict_events(given: Any, begin: int, end: int, probabilities: bool, base: Any) -> None:
    """What `predict` does, with its scratch."""
    W, stride, rows, times_s = given.W, given.stride, given.rows, given.times_s
    r, ttl_s, hyper, out = given.r, given.ttl_s, given.hyper, given.out
    live_min = lifetime(ttl_s)
    for i in range(begin, end):
        at, minute, ri = np.uint64((i - begin) * F), minute_of(times_s[i]), r[i - begin]
        n_absent = np.int64(0)
        for f in range(F):
            row = np.int64(rows[at + np.uint64(f)])
            base[f] = row * stride
            n_absent += np.int64(row == 0)
            if i + 1 < end:
                ahead = np.int64(rows[at + np.uint64(F + f)]) * stride
                for line in range(GROUPS):
                    prefetch(W, ahead + 16 * line)
        t, all_live = margin(W, stride, base, ri, hyper, minute, live_min, n_absent)
        if not all_live:
            for f in range(F):
                if base[f] != 0 and not is_live(W, base[f] + f * KP, minute, ttl_s):
                    base[f] = 0
            t, _ = margin(W, stride, base, ri, hyper, minute, live_min, n_absent)
        out[i] = np.float32(prediction(t, hyper)) if probabilities else t


@kernel
def learn(call: int, begin: int, end: int) -> None:
    """Learn events ``begin:end`` in order; ``out`` gets each one's probability before its own update."""
    given = arguments(call)
    base = np.empty(SLOTS, np.int64)
    born = np.empty(F, np.int64)
    learn_events(given, begin, end, base, born)


@bare
def learn_events(given: Any, begin: int, end: int, base: Any, born: Any) -> None:
    """What `learn` does, with its scratch."""
    W, stride, k, rows, labels, times_s = given.W, given.stride, given.k, given.rows, given.labels, given.times_s
    r, c, ttl_s, seed, hyper = given.r, given.c, given.ttl_s, given.seed, given.hyper
    row_key, counters, out = given.row_key, given.counters, given.out
    if OPT == FTRL:
        rate = OPT, set16(hyper[C0]), set16(hyper[C1])
        own = set16(hyper[LINEAR_C0]), set16(hyper[LINEAR_C1])
    else:
        rate = OPT, set16(hyper[STEP]), set16(ZERO)
        own = set16(hyper[LINEAR_STEP]), set16(ZERO)
    scratch = W.size - SCRATCH_ROWS * stride
    for f in range(SLOTS):
        base[f] = scratch + f * stride
    live_min = lifetime(ttl_s)
    for i in range(begin, end):
        at, minute, ri, ci = np.uint64((i - begin) * F), minute_of(times_s[i]), r[i - begin], c[i - begin]

        # rows and score: an absent field gets a scratch row of zeros, which takes what nobody owns
        n_absent, n_born, used = np.int64(0), 0, np.int64(0)
        for f in range(F):  # no branch: which fields are absent changes from event to event
            row = np.int64(rows[at + np.uint64(f)])
            absent = np.int64(row == 0)
            base[f] = row * stride + absent * (scratch + f * stride)
            n_absent += absent
        t, all_live = margin(W, stride, base, ri, hyper, minute, live_min, n_absent)
        if not all_live:
            for f in range(F):
                head = base[f] + f * KP
                if base[f] >= scratch or is_live(W, head, minute, ttl_s):
                    continue
                # a row that was never used is zero already, but for the time: its event's score stands
                for j in range(P_):
                    used += np.int64(W[base[f] + j] != ZERO)
                used -= np.int64(W[head + SEEN] != ZERO)
                if ci == ZERO:
                    base[f] = 0
                else:
                    if W[head + COUNT] != ZERO:
                        counters[EXPIRED] += 1
                    give_birth(W, base[f], P_, 0, F, f, KP, k, minute, hyper)
                    born[n_born] = f
                    n_born += 1
            if used > 0:
                t, _ = margin(W, stride, base, ri, hyper, minute, live_min, n_absent)
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
        rdl, seen = set16(dl * ri), add(set16(minute), mask(MASKS, TIMES))
        linear = mul(set16(dl * hyper[HAS_LINEAR]), mask(MASKS, LINEARS)), own[0], own[1]
        burst, bursts = 0, F * BURSTS if i + 1 < end else 0
        for I in range(GROUPS):
            diagonal_step(W, MASKS, base, I, P_, rdl, rate, linear, seen)
            G = group(base, I)
            for J in range(I + 1, GROUPS):
                for _ in range(PER_TILE):
                    if burst < bursts:
                        ahead = np.int64(rows[at + np.uint64(F + burst // BURSTS)]) * stride
                        for line in range(BURST):
                            prefetch(W, ahead + (burst % BURSTS * BURST + line) * 16)
                        burst += 1
                tile_step(W, G, base, I, J, P_, rdl, rate)
        step_bias(W, BIAS_ROW * stride, P_, dl, minute, hyper)

        # after their first event rows get their start values; scratch is zero again
        for j in range(n_born):
            f = born[j]
            add_start(W, base[f], 0, F, f, KP, k, row_key[rows[at + np.uint64(f)]], seed, hyper)
        if n_absent > 0:
            for f in range(F):
                if base[f] >= scratch:
                    for line in range(GROUPS):
                        store16(W, base[f] + 16 * line, set16(ZERO))
        for f in range(F, SLOTS):  # no partner has weights for a field that does not exist: only its head was written
            store16(W, base[f] + 16 * (GROUPS - 1), set16(ZERO))
        counters[LEARNED] += 1
