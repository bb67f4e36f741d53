"""libffm's model, event by event and pair by pair: what `[model] libffm = true` learns with. Exact, not fast.

The formulas and their order are those of libffm (Juan et al., https://github.com/ycjuan/libffm, `wTx`), one thread:

    logit = r sum_{i<j} x_i x_j <w_{i,f_j}, w_{j,f_i}>              every pair, also of one field
    g     = l2 w + dl r x_i x_j w'                                  for both partners of a pair, from the weights before
    G    += g^2;  w -= step / sqrt(G) g                             at once, so the next pair sees the new weights

A row is the head in lanes 0 to 3, then the latent factor for field g in lanes 4 + kp g and on; features are not tied
to a field. A feature that was never learned has its start weights, for trainer and scorer alike: uniform in
[0, start / sqrt k), libffm's own with start = 1; its G begins at n0.

An event's rows are copied into scratch, where the pairs work, and copied back: an unknown feature, which has no row,
takes part like any other and is not kept. ``slot[e]`` is the place in scratch of entry e, the same for equal keys, -1
for an entry that stands for nothing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ctr.kernels.call import arguments
from ctr.kernels.jit import inlined, kernel
from ctr.kernels.layout import BIAS_ROW, COUNT, EXPIRED, HEAD, L2, LEARNED, N0, REFUSED_EVENTS, SEEN, START, STEP
from ctr.kernels.step import G_MAX, ONE, ZERO, clamp_logit, is_live, minute_of, mix64, sigmoid, step_bias


@inlined
def fill_start(S: Any, s: int, F: int, kp: int, k: int, key: Any, seed: Any, hyper: Any) -> None:
    """Start weights into place `s` of scratch: u24 2^-24 start / sqrt k, u24 as `step.add_start` draws it."""
    state = mix64(key ^ mix64(seed))
    scale = hyper[START] / np.float32(math.sqrt(k))
    for g in range(F):
        for d in range(kp):
            if d < k:
                z = mix64(state + np.uint64(g * k + d + 1) * np.uint64(0x9E3779B97F4A7C15))
                S[s, 0, g * kp + d] = scale * (np.float32(np.int64(z >> np.uint64(40))) * np.float32(2.0**-24))
                S[s, 1, g * kp + d] = hyper[N0]
            else:
                S[s, 0, g * kp + d] = ZERO
                S[s, 1, g * kp + d] = ONE


@inlined
def gather(
    W: Any, stride: int, P: int, F: int, kp: int, k: int, keys: Any, rows: Any, values: Any, a: int, b: int, o: int,
    minute: Any, ttl_s: float, seed: Any, hyper: Any, with_state: bool, S: Any, slot: Any,
) -> None:  # fmt: skip
    """Weights (and accumulators) of the entries ``a:b`` into scratch, one place a key."""
    for e in range(a, b):
        j = e - a
        slot[j] = -1
        if keys[e] == 0 or values[e] == ZERO:
            continue
        for i in range(j):
            if keys[a + i] == keys[e] and slot[i] >= 0:
                slot[j] = slot[i]
        if slot[j] >= 0:
            continue
        slot[j] = j
        base = np.int64(rows[e - o]) * stride
        if base == 0 or not is_live(W, base, minute, ttl_s):
            fill_start(S, j, F, kp, k, keys[e], seed, hyper)
            continue
        for lane in range(F * kp):
            S[j, 0, lane] = W[base + HEAD + lane]
            if with_state:
                S[j, 1, lane] = W[base + P + HEAD + lane]


@inlined
def margin(S: Any, slot: Any, kp: int, k: int, values: Any, fields: Any, a: int, b: int, r: Any, hyper: Any) -> Any:
    """Logit of the event with entries ``a:b``, whose weights are in scratch."""
    t = 0.0
    for e1 in range(a, b):
        s1, f1 = slot[e1 - a], np.int64(fields[e1])
        if s1 < 0:
            continue
        for e2 in range(e1 + 1, b):
            s2, f2 = slot[e2 - a], np.int64(fields[e2])
            if s2 < 0:
                continue
            v = np.float64(values[e1] * values[e2] * r)
            for d in range(k):
                t += np.float64(S[s1, 0, f2 * kp + d]) * np.float64(S[s2, 0, f1 * kp + d]) * v
    return clamp_logit(np.float32(t), hyper)


@kernel
def predict(call: int, begin: int, end: int, probabilities: bool) -> None:
    """Probabilities or logits of events ``begin:end``; writes nothing else (but scratch)."""
    given = arguments(call)
    W, stride, P, F, kp, k = given.W, given.stride, given.P, given.F, given.kp, given.k
    keys, rows, values, fields, start = given.keys, given.rows, given.values, given.fields, given.start
    times_s, r, ttl_s, seed, hyper = given.times_s, given.r, given.ttl_s, given.seed, given.hyper
    S, slot, out = given.sums, given.here, given.out
    o = start[begin]
    for i in range(begin, end):
        a, b = start[i], start[i + 1]
        gather(
            W, stride, P, F, kp, k, keys, rows, values, a, b, o, minute_of(times_s[i]), ttl_s, seed, hyper, False,
            S, slot,
        )  # fmt: skip
        t = margin(S, slot, kp, k, values, fields, a, b, r[i - begin], hyper)
        out[i] = np.float32(sigmoid(t)) if probabilities else t


@kernel
def learn(call: int, begin: int, end: int) -> None:
    """Learn events ``begin:end`` in order; ``out`` gets each one's probability before its own update."""
    given = arguments(call)
    W, stride, P, F, kp, k = given.W, given.stride, given.P, given.F, given.kp, given.k
    keys, rows, values, fields, start = given.keys, given.rows, given.values, given.fields, given.start
    labels, times_s, r, c = given.labels, given.times_s, given.r, given.c
    ttl_s, seed, hyper, counters = given.ttl_s, given.seed, given.hyper, given.counters
    S, slot, out = given.sums, given.here, given.out
    o, step, l2 = start[begin], hyper[STEP], hyper[L2]
    for i in range(begin, end):
        a, b, minute, ri, ci = start[i], start[i + 1], minute_of(times_s[i]), r[i - begin], c[i - begin]

        # score
        gather(
            W, stride, P, F, kp, k, keys, rows, values, a, b, o, minute, ttl_s, seed, hyper, True, S, slot,
        )  # fmt: skip
        t = margin(S, slot, kp, k, values, fields, a, b, ri, hyper)
        p = sigmoid(t)
        out[i] = np.float32(p)
        if ci == ZERO:
            continue
        if np.isnan(t):
            counters[REFUSED_EVENTS] += 1
            W[BIAS_ROW * stride + SEEN] = max(W[BIAS_ROW * stride + SEEN], minute)  # `resolve` has counted it
            continue
        dl = np.float32(np.float64(ci) * (p - np.float64(labels[i])))

        # gradient and step of each pair
        for e1 in range(a, b):
            s1, f1 = slot[e1 - a], np.int64(fields[e1])
            if s1 < 0:
                continue
            for e2 in range(e1 + 1, b):
                s2, f2 = slot[e2 - a], np.int64(fields[e2])
                if s2 < 0:
                    continue
                v = values[e1] * values[e2] * ri
                for d in range(k):
                    i1, i2 = f2 * kp + d, f1 * kp + d
                    w1, w2 = S[s1, 0, i1], S[s2, 0, i2]
                    g1 = min(max(l2 * w1 + dl * w2 * v, -G_MAX), G_MAX)
                    g2 = min(max(l2 * w2 + dl * w1 * v, -G_MAX), G_MAX)
                    S[s1, 1, i1] += g1 * g1
                    S[s2, 1, i2] += g2 * g2
                    S[s1, 0, i1] -= step / np.float32(math.sqrt(S[s1, 1, i1])) * g1
                    S[s2, 0, i2] -= step / np.float32(math.sqrt(S[s2, 1, i2])) * g2

        # back into the rows
        for e in range(a, b):
            base = np.int64(rows[e - o]) * stride
            if slot[e - a] != e - a or base == 0:
                continue
            if not is_live(W, base, minute, ttl_s):
                if W[base + COUNT] != ZERO:
                    counters[EXPIRED] += 1
                for lane in range(P):
                    W[base + lane] = ZERO
                    W[base + P + lane] = ONE
                W[base + SEEN] = minute
            for lane in range(F * kp):
                W[base + HEAD + lane] = S[e - a, 0, lane]
                W[base + P + HEAD + lane] = S[e - a, 1, lane]
            W[base + COUNT] += ONE
            W[base + SEEN] = max(W[base + SEEN], minute)
        step_bias(W, BIAS_ROW * stride, P, dl, minute, hyper)
        counters[LEARNED] += 1
