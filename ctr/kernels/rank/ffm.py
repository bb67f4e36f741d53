"""One context, many candidates, one-hot ffm with k <= 8: what belongs to the context alone is computed once.

With fields split into the context's C and the candidates' own A, the pair sum of candidate i falls into three:

    sum_{c<c' in C} <v_{c,c'}, v_{c',c}>                      once a request
    sum_{a in A} <v_{i,a}, M_a>                               block c of M_a is the context's v_{c,a}
    sum_{a<a' in A} <v_{i,a,a'}, v_{i,a',a}>                  a block at a time, or kept of an ad

M_a is laid out as a row is, so the second is the product of whole rows, sixteen floats at a time, and only of lines
where the context has a field; once for all candidates that share a row. Four rows go abreast: M_a is loaded once for
them, and their sums do not wait for each other. F and KP are compile-time constants (`build`). Nothing is written but
the output and scratch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ctr.kernels.jit import bare, helper, inlined
from ctr.kernels.layout import BIAS_ROW, BUCKET_SLOTS, HAS_BIAS, HAS_LINEAR, LINEAR, SEEN, row_floats
from ctr.kernels.lookup import AHEAD, ROW_AT, find, home
from ctr.kernels.rank.narrow import block4, block8
from ctr.kernels.serve import brief
from ctr.kernels.simd import find5, fma, hsum, load16, prefetch, set16, store16
from ctr.kernels.step import ONE, ZERO, clamp_logit, is_live, minute_of, prediction

# constants
F = 39
KP = 4
# end of constants

P_ = row_floats(F, KP)
GROUPS = P_ // 16
ABREAST = 4
LINEAR_SUM, PAIR_SUM, SINCE, UNTIL = range(4)
"""What is kept of an ad: its sums, and the first and the last minute for which they are known to hold."""
LAST_MINUTE = 16777216.0
HASH, SPOT = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xFFFFFFFF)
block = {4: block4, 8: block8}[KP]


@helper
def seek(index: Any, slots: Any, W: Any, stride: int, key: Any, f: int, minute: Any, ttl_s: float) -> Any:
    """Where the row of field f's feature begins, 0 if it has none that lives; -1 if it was never heard of."""
    if key == 0:
        return np.int64(0)
    row = find(index, slots, key)
    if row > 0 and not is_live(W, row * stride + f * KP, minute, ttl_s):
        row = np.int64(0)
    return row * stride if row > 0 else row


@bare
def look_up(
    W: Any, stride: int, index: Any, slots: Any, fields: Any, keys: Any, minute: Any, ttl_s: float, base: Any,
    linear: Any,
) -> Any:  # fmt: skip
    """Rows of all candidates' features into ``base``, their linear weights' sums to ``linear``; how many are unknown.

    Nearly all keys stand in the bucket they are looked for first: no branch for those.
    """
    A, n, last, at = fields.shape[0], linear.shape[0], keys.shape[0] - 1, 0
    width, unknown = n + ABREAST - 1, 0
    for i in range(n):
        linear[i] = ZERO
        for a in range(A):
            prefetch(index, home(keys[min(at + AHEAD, last)], index) * 8)
            key = keys[at]
            bucket = home(key, index)
            s = find5(index, bucket * 8, key)
            row = np.int64(slots[np.uint64(bucket * 16 + ROW_AT + s)])
            if s >= BUCKET_SLOTS or key == 0:
                row = find(index, slots, key) if key != 0 else np.int64(0)
                unknown += 1 if row < 0 else 0
                row = max(row, np.int64(0))
            base[a * width + i] = row * stride
            at += 1
    for a in range(A):
        first = a * width
        for i in range(n):
            prefetch(W, base[first + min(i + AHEAD, n - 1)] + fields[a] * KP)
            head = base[first + i] + fields[a] * KP
            if is_live(W, head, minute, ttl_s):
                linear[i] += W[head + LINEAR]
            else:
                base[first + i] = 0
        base[first + n : first + width] = 0
    return unknown


@inlined
def pair_of(W: Any, b: Any, f: Any, b2: Any, f2: Any, s: Any) -> Any:
    """S + <v_{f,f2}, v_{f2,f}> of the features whose rows begin at b and b2, lane by lane."""
    return fma(block(W, b + f2 * KP), block(W, b2 + f * KP), s)


@bare
def own_pairs(W: Any, fields: Any, base: Any, n: int, sums: Any) -> None:
    """``sums[i]`` is the pair sum among the features of candidate i alone; up to a whole four there are rows of 0."""
    A, width = fields.shape[0], n + ABREAST - 1
    for first in range(0, n, ABREAST):
        s0 = set16(ZERO)
        s1, s2, s3 = s0, s0, s0
        for a in range(A):
            f, i = fields[a], a * width + first
            for e in range(a + 1, A):
                g, j = fields[e], e * width + first
                s0 = pair_of(W, base[i], f, base[j], g, s0)
                s1 = pair_of(W, base[i + 1], f, base[j + 1], g, s1)
                s2 = pair_of(W, base[i + 2], f, base[j + 2], g, s2)
                s3 = pair_of(W, base[i + 3], f, base[j + 3], g, s3)
        sums[first], sums[first + 1], sums[first + 2], sums[first + 3] = hsum(s0), hsum(s1), hsum(s2), hsum(s3)


@bare
def apart(rows: Any, n: int, begin: Any, shift: Any, scratch: Any) -> Any:
    """Different ones of n candidates' rows in a field: into ``scratch.met``; `begin` plus how many there are.

    ``scratch.spot_of[i]`` is where candidate i's row stands among them. An entry of ``scratch.seen`` is a row, and
    `begin` plus its spot: one of another field is below `begin`. Where two rows want the same entry the later one has
    it, and the other, if it comes again, counts as another row: no branch depends on what was met before, which nobody
    could foresee (2 ns a row, and 5 with a probe for the next free entry).
    """
    seen, met, spot_of = scratch.seen, scratch.met, scratch.spot_of
    end = begin
    for i in range(n):
        row = rows[i]
        word = np.uint64(row) << np.uint64(28)  # a row begins at a multiple of 16: above the spot's 32 bits
        at = np.uint64(row) * HASH >> shift
        entry = seen[at]
        spot = np.int64(entry & SPOT)
        known = (entry ^ word <= SPOT) & (spot >= begin)
        spot = spot if known else end
        seen[at], met[end - begin], spot_of[i] = word | np.uint64(spot), row, spot - begin
        end += np.int64(not known)
    return end


@bare
def stream(W: Any, A: int, lines: Any, n_lines: int, n: int, scratch: Any) -> None:
    """``scratch.sums[i]`` is added candidate i's pairs with the context.

    Candidates share rows, of few advertisers and formats: a row meets the context once, whoever has it. Of 500 ads of
    9 fields of Criteo's shape a third of the rows are different ones.
    """
    M, met, dots, sums, spot_of = scratch.M, scratch.met, scratch.dots, scratch.sums, scratch.spot_of
    bits, width, begin = 2, n + ABREAST - 1, np.int64(1)
    while 1 << bits < 2 * n:
        bits += 1
    scratch.seen[: 1 << bits] = 0
    for a in range(A):
        end = apart(scratch.base[a * width :], n, begin, np.uint64(64 - bits), scratch)
        count, begin = end - begin, end
        met[count : count + ABREAST - 1] = 0
        m = a * P_
        for first in range(0, count, ABREAST):
            for at in range(min(first + 2 * ABREAST, count), min(first + 3 * ABREAST, count)):
                for j in range(n_lines):
                    prefetch(W, met[at] + lines[j])
            b0, b1, b2, b3 = met[first], met[first + 1], met[first + 2], met[first + 3]
            s0 = set16(ZERO)
            s1, s2, s3 = s0, s0, s0
            for j in range(n_lines):
                o = lines[j]
                c = load16(M, m + o)
                s0 = fma(load16(W, b0 + o), c, s0)
                s1 = fma(load16(W, b1 + o), c, s1)
                s2 = fma(load16(W, b2 + o), c, s2)
                s3 = fma(load16(W, b3 + o), c, s3)
            dots[first], dots[first + 1], dots[first + 2], dots[first + 3] = hsum(s0), hsum(s1), hsum(s2), hsum(s3)
        for i in range(n):
            sums[i] += dots[spot_of[i]]


@bare
def meet(
    W: Any, stride: int, index: Any, slots: Any, context: Any, fields: Any, minute: Any, ttl_s: float, own: Any,
    lines: Any, M: Any,
) -> Any:  # fmt: skip
    """The context: its rows into ``own`` (F,), lines where it has a field into ``lines``, what candidates meet to M.

    Returns how many lines, features unknown and features present there are, its linear weights' sum, its pair sum.
    """
    n_lines, unknown, present = 0, 0, 0
    lin, pairs = ZERO, set16(ZERO)
    for c in range(F):
        own[c] = 0
        present += context[c] != 0
        b = seek(index, slots, W, stride, context[c], c, minute, ttl_s)
        if b < 0:
            unknown += 1
        elif b > 0:
            own[c] = b
            lin += W[b + c * KP + LINEAR]
            line = c * KP // 16 * 16
            if n_lines == 0 or lines[n_lines - 1] != line:
                lines[n_lines] = line
                n_lines += 1
    for c in range(F):
        if own[c] != 0:
            for g in range(c + 1, F):
                pairs = pair_of(W, own[c], c, own[g], g, pairs)  # an absent one has the row of zeros
    for a in range(fields.shape[0]):
        for line in range(GROUPS):
            store16(M, a * P_ + 16 * line, set16(ZERO))
        for c in range(F):
            if own[c] != 0:
                for d in range(KP):
                    M[a * P_ + c * KP + d] = W[own[c] + fields[a] * KP + d]
    return n_lines, unknown, present, lin, hsum(pairs)


@inlined
def score_of(lin: Any, pairs: Any, features: int, bias: Any, normalize: bool, hyper: Any, probabilities: bool) -> Any:
    """Prediction or logit from its parts; `lin` is the sum of linear weights."""
    r = ONE / np.float32(max(features, 1)) if normalize else ONE
    t = lin if hyper[HAS_LINEAR] != ZERO else ZERO
    t = clamp_logit(t + r * pairs + bias, hyper)
    return np.float32(prediction(t, hyper)) if probabilities else t


@bare
def without(context: Any, fields: Any, own: Any) -> None:
    """The context's keys into ``own`` (F,), 0 in the candidates' fields."""
    for f in range(F):
        own[f] = context[f]
    for f in fields:
        own[f] = 0


@bare
def tally(index: Any, slots: Any, context: Any, fields: Any, keys: Any, first: int, counts: Any) -> None:
    """What `ctr.kernels.serve.tally` does for a context and a candidate whose keys begin at ``keys[first]``."""
    for f in range(F):
        if context[f] != 0:
            counts[0, f] += 1
            counts[1, f] += find(index, slots, context[f]) == 0
    for a in range(fields.shape[0]):
        if keys[first + a] != 0:
            counts[0, fields[a]] += 1
            counts[1, fields[a]] += find(index, slots, keys[first + a]) == 0


@brief
def rank(
    context: Any, fields: Any, keys: Any, time_s: float, probabilities: bool, sample: int, bound: Any, out: Any
) -> Any:
    """Score n candidates; returns how many of all features were never heard of, and how many features there are.

    In: ``context`` (F,) keys, whatever stands in the candidates' fields; ``fields`` (A,) these, ascending; ``keys``
    (n A,). Where all is known the context and the candidate `sample`, if it is not below 0, are tallied.
    """
    W, stride, index, slots, ttl_s, scratch = (
        bound.W, bound.stride, bound.index, bound.slots, bound.ttl_s, bound.scratch
    )  # fmt: skip
    n, A, minute, base, sums = out.shape[0], fields.shape[0], minute_of(time_s), scratch.base, scratch.sums
    own, lines, shown = np.empty(F, np.int64), np.empty(GROUPS, np.int64), np.empty(F, np.uint64)
    without(context, fields, shown)
    n_lines, unknown, present, lin, shared = meet(
        W, stride, index, slots, shown, fields, minute, ttl_s, own, lines, scratch.M,
    )  # fmt: skip
    unknown += look_up(W, stride, index, slots, fields, keys, minute, ttl_s, base, out)
    own_pairs(W, fields, base, n, sums)
    stream(W, A, lines, n_lines, n, scratch)
    bias, features = W[BIAS_ROW * stride] if bound.hyper[HAS_BIAS] != ZERO else ZERO, present
    for i in range(n):
        mine = 0
        for a in range(A):
            mine += keys[i * A + a] != 0
        features += mine
        out[i] = score_of(
            lin + out[i], shared + sums[i], present + mine, bias, bound.normalize, bound.hyper, probabilities
        )
    if unknown == 0 and sample >= 0:
        tally(index, slots, shown, fields, keys, sample * A, bound.counts)
    return unknown, features


@bare
def study(
    W: Any, stride: int, index: Any, slots: Any, fields: Any, keys: Any, first: int, minute: Any, ttl_s: float,
    base: Any, at: int, width: int, found: Any,
) -> Any:  # fmt: skip
    """One ad whose keys begin at `first`: rows to ``base[at::width]``; to ``found`` sums, since and until they hold.

    Returns how many of its features were never heard of.
    """
    A = fields.shape[0]
    unknown, lin, until = 0, ZERO, LAST_MINUTE
    for a in range(A):
        key = keys[first + a]
        row = find(index, slots, key) if key != 0 else np.int64(0)
        unknown += 1 if row < 0 else 0
        row = max(row, np.int64(0)) * stride
        head = row + fields[a] * KP
        if is_live(W, head, minute, ttl_s):
            lin += W[head + LINEAR]
            if ttl_s > 0.0:
                until = min(until, math.floor(np.float64(W[head + SEEN]) + ttl_s / 60.0))
        else:
            row = np.int64(0)
        base[at + a * width] = row
    s = set16(ZERO)
    for a in range(A):
        for e in range(a + 1, A):
            s = pair_of(W, base[at + a * width], fields[a], base[at + e * width], fields[e], s)
    found[LINEAR_SUM], found[PAIR_SUM], found[SINCE], found[UNTIL] = lin, hsum(s), minute, np.float32(until)
    return unknown


@bare
def recall(
    W: Any, stride: int, index: Any, slots: Any, ads: Any, places: Any, minute: Any, ttl_s: float, base: Any,
    partial: Any, linear: Any, found: Any,
) -> Any:  # fmt: skip
    """What `rank` needs of the ads at ``places``: what is kept of them or, where that does not hold, found and kept."""
    rows, kept, A, n = ads.rows, ads.kept, ads.fields.shape[0], places.shape[0]
    width, unknown = n + ABREAST - 1, 0
    for i in range(n):
        ad, later = places[i], places[min(i + AHEAD, n - 1)]
        prefetch(kept, later * found.shape[0])
        prefetch(rows, later * A)
        prefetch(rows, later * A + A - 1)
        if kept[ad, SINCE] <= minute <= kept[ad, UNTIL]:
            for a in range(A):
                base[a * width + i] = rows[ad, a]
            linear[i], partial[i] = kept[ad, LINEAR_SUM], kept[ad, PAIR_SUM]
            continue
        new = study(W, stride, index, slots, ads.fields, ads.keys, ad * A, minute, ttl_s, base, i, width, found)
        linear[i], partial[i] = found[LINEAR_SUM], found[PAIR_SUM]
        unknown += new
        if new == 0 and ads.keep[ad]:
            for a in range(A):
                rows[ad, a] = base[a * width + i]
            for part in range(found.shape[0]):
                kept[ad, part] = found[part]
    return unknown


@brief
def rank_kept(context: Any, places: Any, time_s: float, probabilities: bool, sample: int, bound: Any, out: Any) -> Any:
    """What `rank` does, for the ads of ``bound.ads`` at ``places`` (n,): what they alone decide is kept of them."""
    W, stride, index, slots, ttl_s, scratch, ads = (
        bound.W, bound.stride, bound.index, bound.slots, bound.ttl_s, bound.scratch, bound.ads
    )  # fmt: skip
    n, A, minute, sums = out.shape[0], ads.fields.shape[0], minute_of(time_s), scratch.sums
    own, lines, shown = np.empty(F, np.int64), np.empty(GROUPS, np.int64), np.empty(F, np.uint64)
    found = np.empty(4, np.float32)
    without(context, ads.fields, shown)
    n_lines, unknown, present, lin, shared = meet(
        W, stride, index, slots, shown, ads.fields, minute, ttl_s, own, lines, scratch.M,
    )  # fmt: skip
    unknown += recall(W, stride, index, slots, ads, places, minute, ttl_s, scratch.base, sums, out, found)
    stream(W, A, lines, n_lines, n, scratch)
    bias, features = W[BIAS_ROW * stride] if bound.hyper[HAS_BIAS] != ZERO else ZERO, present
    for i in range(n):
        mine = ads.features[places[i]]
        features += mine
        out[i] = score_of(
            lin + out[i], shared + sums[i], present + mine, bias, bound.normalize, bound.hyper, probabilities
        )
    if unknown == 0 and sample >= 0:
        tally(index, slots, shown, ads.fields, ads.keys, places[sample] * A, bound.counts)
    return unknown, features


@bare
def find_all(W: Any, stride: int, index: Any, slots: Any, keys: Any, rows: Any) -> Any:
    """Row numbers of all keys, 0 for what has none; returns how many were never heard of."""
    n, unknown = rows.shape[0], 0
    for j in range(min(AHEAD, n)):
        prefetch(index, home(keys[j], index) * 8)
    for j in range(n):
        if j + AHEAD < n:
            prefetch(index, home(keys[j + AHEAD], index) * 8)
        row = find(index, slots, keys[j]) if keys[j] != 0 else np.int64(0)
        unknown += 1 if row < 0 else 0
        rows[j] = row
        if row > 0:
            prefetch(W, row * stride + j % F * KP)  # its head
    return unknown


@bare
def predict_each(
    W: Any, stride: int, keys: Any, rows: Any, minute: Any, ttl_s: float, normalize: bool, hyper: Any,
    probabilities: bool, counts: Any, base: Any, out: Any,
) -> None:  # fmt: skip
    """What `predict_rows` does once the rows are known; ``base`` (F,) is scratch."""
    bias = W[BIAS_ROW * stride] if hyper[HAS_BIAS] != ZERO else ZERO
    for i in range(out.shape[0]):
        features, lin, pairs = 0, ZERO, set16(ZERO)
        for f in range(F):
            base[f] = 0
            row = rows[i * F + f]
            if keys[i * F + f] != 0:
                features += 1
                counts[0, f] += 1
                counts[1, f] += row == 0
            head = row * stride + f * KP
            if is_live(W, head, minute, ttl_s):
                base[f] = row * stride
                lin += W[head + LINEAR]
                for line in range(GROUPS):  # all of it is wanted, and in an order that no processor foresees
                    prefetch(W, row * stride + 16 * line)
        for f in range(F):
            if base[f] != 0:
                for g in range(f + 1, F):
                    pairs = pair_of(W, base[f], f, base[g], g, pairs)  # an absent one has the row of zeros
        out[i] = score_of(lin, hsum(pairs), features, bias, normalize, hyper, probabilities)


@brief
def predict_few(keys: Any, n: int, time_s: float, bound: Any) -> Any:
    """Score n rows in full, ``keys`` (n F or more,), if all their features are known; how many these are, else -1.

    For a request's few rows: one call, and of two arguments. Only then ``bound.counts`` (2, F) is added to, as
    `serve.tally` does, and ``bound.out`` is filled.
    """
    rows = np.empty(n * F, np.int64)
    if find_all(bound.W, bound.stride, bound.index, bound.slots, keys, rows) > 0:
        return -1
    base, features = np.empty(F, np.int64), 0
    for j in range(n * F):
        features += keys[j] != 0
    predict_each(
        bound.W, bound.stride, keys, rows, minute_of(time_s), bound.ttl_s, bound.normalize, bound.hyper, True,
        bound.counts, base, bound.out[:n],
    )  # fmt: skip
    return features
