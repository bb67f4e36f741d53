"""Predictions, labels and weights -> sums by slot: all that the figures of a window are made of.

A slot is the whole stream or one slice of it. Predictions are counted in fine bins of their odds, `PER_OCTAVE` to a
factor of two, with their sums by class: how far the two means in a bin lie apart says how well its events are ordered.
Bins are even between powers of two, so that finding one takes no logarithm.
"""

# ruff: noqa: ARG001  Numba's code generators have fixed signatures
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from ctr.kernels.jit import helper, inlined, kernel
from ctr.kernels.simd import prefetch

EVENTS, WEIGHT, LABELS, PREDICTIONS, LOSS, SQUARES = range(6)
"""Columns of sums: of 1, c, c y, c p, c logloss and c (p - y)^2, where c is an event's weight."""
N_SUMS = 6
NEGATIVE, POSITIVE, P_NEGATIVE, P_POSITIVE = range(4)
"""Columns of bins: of c (1 - y), c y, c (1 - y) p and c y p."""
OCTAVE_BITS, LEAST_OCTAVE, OCTAVES = 5, -23, 47
PER_OCTAVE = 1 << OCTAVE_BITS
N_BINS = PER_OCTAVE * OCTAVES
"""Over odds from 2^-24 to 2^23 (probabilities of 6e-8 and 1 - 1e-7); what lies beyond falls into the outermost bins."""
LINE = 8
"""Doubles of a cache line."""
FLOOR = 1e-15
"""Probabilities are kept this far from 0 and 1 in logarithms."""
_MANTISSA_BITS, _BIAS = 52, 1022
"""Of a double m 2^e, 1/2 <= m < 1, of which e + `_BIAS` is stored (IEEE 754)."""


def _bits_of(typing: Any, x: Any) -> Any:
    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.bitcast(args[0], context.get_value_type(signature.return_type))

    return types.int64(types.float64), generate


bits_of: Callable[..., Any] = intrinsic(_bits_of)
"""The 64 bits of a double, as an integer."""


@inlined
def bin_of(q: Any) -> Any:
    """Bin of a probability: exponent and first bits of the mantissa of its odds, as they stand in the double."""
    at = bits_of(q / (1.0 - q)) >> (_MANTISSA_BITS - OCTAVE_BITS)
    return min(max(at - ((_BIAS + LEAST_OCTAVE) << OCTAVE_BITS), 0), N_BINS - 1)


@inlined
def logloss(q: Any, label: Any) -> Any:
    """Loss of a probability, of a label that nearly always is 0 or 1.

    One logarithm without a branch for these two. 1 - q is exact but for 1e-16, and so is the loss.
    """
    loss = -math.log(q if label == 1.0 else 1.0 - q)
    if not (label == 0.0 or label == 1.0):  # noqa: PLR1714  Numba has no sets of floats
        loss = label * -math.log(q) + (1.0 - label) * loss
    return loss


@inlined
def count_bin(at: Any, c: Any, label: Any, prediction: Any, bins: Any) -> Any:
    """Add one event to its bin."""
    if label < 1.0:
        bins[at, NEGATIVE] += c * (1.0 - label)
        bins[at, P_NEGATIVE] += c * (1.0 - label) * prediction
    if label > 0.0:
        bins[at, POSITIVE] += c * label
        bins[at, P_POSITIVE] += c * label * prediction


@helper
def counted(weight: Any) -> Any:
    """Weight in figures: a held-out event, of weight 0, counts as one."""
    return np.float64(weight) if weight > 0 else 1.0


@inlined
def ask_for(bins: Any) -> None:
    """All bins in their order: learning has driven them out of the caches, and events come to them in none."""
    for at in range(0, bins.shape[0], LINE):
        prefetch(bins, at)


@kernel
def add(
    p: Any, y: Any, weights: Any, slots: Any, begin: Any, end: Any, squared: Any,
    sums: Any, bins: Any, losses: Any,
) -> None:  # fmt: skip
    """Add events ``begin:end``.

    In: ``p, y, weights`` (n,) float32, an event with p = NaN is left out; ``slots`` (n, J) int32, further slots of each
    event beside slot 0. In and out: ``sums`` (slots, N_SUMS), ``bins`` (slots, N_BINS, 4), not used where `squared`.
    Out: ``losses`` (n,) float64, logloss or squared error of each event, NaN where left out.
    """
    if not squared:
        ask_for(bins[0].reshape(-1))
    events, weight, label_sum, prediction_sum, loss_sum, square_sum = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0  # in registers
    for i in range(begin, end):
        if math.isnan(p[i]):
            losses[i] = math.nan
            continue
        c, label, prediction = counted(weights[i]), np.float64(y[i]), np.float64(p[i])
        square, at = (prediction - label) * (prediction - label), 0
        loss = square
        if not squared:
            q = min(max(prediction, FLOOR), 1.0 - FLOOR)
            loss, at = logloss(q, label), bin_of(q)
            count_bin(at, c, label, prediction, bins[0])
        losses[i] = loss
        events += 1.0
        weight += c
        label_sum += c * label
        prediction_sum += c * prediction
        loss_sum += c * loss
        square_sum += c * square
        for j in range(slots.shape[1]):
            s = sums[slots[i, j]]
            s[EVENTS] += 1.0
            s[WEIGHT] += c
            s[LABELS] += c * label
            s[PREDICTIONS] += c * prediction
            s[LOSS] += c * loss
            s[SQUARES] += c * square
            if not squared:
                count_bin(at, c, label, prediction, bins[slots[i, j]])
    s = sums[0]
    s[EVENTS] += events
    s[WEIGHT] += weight
    s[LABELS] += label_sum
    s[PREDICTIONS] += prediction_sum
    s[LOSS] += loss_sum
    s[SQUARES] += square_sum


@kernel
def place(keys: Any, fields: Any, start: Any, dense: Any, sliced: Any, elected: Any, first: Any, slots: Any) -> None:
    """Find the slot of each event in each sliced field: of its first value that is elected, else of all others.

    In: ``keys``, ``fields``, ``start`` of a batch; ``sliced`` (J,) int64, field indices; ``elected`` (J, V) uint64, 0
    for none; ``first`` (J,) int64, slot of a field's first value, the others follow, then that of all other values.
    Out: ``slots`` (n, J) int32.
    """
    J, V = elected.shape
    for i in range(start.shape[0] - 1):
        for j in range(J):
            field, found = sliced[j], V
            begin, end = start[i], start[i + 1]
            if dense:
                begin += field
                end = begin + 1
            for entry in range(begin, end):
                if not dense and fields[entry] != field:
                    continue
                for v in range(V):
                    if elected[j, v] == keys[entry] and keys[entry] != 0:
                        found = v
                if found < V:
                    break
            slots[i, j] = first[j] + found
