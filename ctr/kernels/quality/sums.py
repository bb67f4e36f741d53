"""Predictions, labels and weights -> sums by slot: all that the figures of a window are made of.

A slot is the whole stream or one slice of it. Predictions are counted in fine bins of their odds, `PER_OCTAVE` to a
factor of two, with their sums by class: how far the two means in a bin lie apart says how well its events are ordered.
Bins are even between powers of two, so that finding one takes no logarithm.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ctr.kernels.jit import bare, helper, kernel

EVENTS, WEIGHT, LABELS, PREDICTIONS, LOSS, SQUARES = range(6)
"""Columns of sums: of 1, c, c y, c p, c logloss and c (p - y)^2, where c is an event's weight."""
N_SUMS = 6
WINDOWS = 2
"""Of events and of time: each has an open block."""
NEGATIVE, POSITIVE, P_NEGATIVE, P_POSITIVE = range(4)
"""Columns of bins: of c (1 - y), c y, c (1 - y) p and c y p."""
PER_OCTAVE, LEAST_OCTAVE, OCTAVES = 32, -23, 47
N_BINS = PER_OCTAVE * OCTAVES
"""Over odds from 2^-24 to 2^23 (probabilities of 6e-8 and 1 - 1e-7); what lies beyond falls into the outermost bins."""
FLOOR = 1e-15
"""Probabilities are kept this far from 0 and 1 in logarithms."""


@helper
def bin_of(q: Any) -> Any:
    """Bin of a probability."""
    m, octave = math.frexp(q / (1.0 - q))  # odds = m 2^octave, 1/2 <= m < 1
    at = (octave - LEAST_OCTAVE) * PER_OCTAVE + np.int64((m - 0.5) * (2 * PER_OCTAVE))
    return min(max(at, 0), N_BINS - 1)


@helper
def logloss(q: Any, label: Any) -> Any:
    """Loss of a probability, of a label that nearly always is 0 or 1."""
    if label == 0.0:
        return -math.log1p(-q)
    if label == 1.0:
        return -math.log(q)
    return -(label * math.log(q) + (1.0 - label) * math.log1p(-q))


@bare
def count(
    slot: Any, at: Any, c: Any, label: Any, prediction: Any, loss: Any, square: Any, sums: Any, bins: Any
) -> None:  # fmt: skip
    """Add one event to the open blocks of a slot; ``at`` is its bin, -1 for none."""
    for window in range(WINDOWS):
        sums[slot, window, EVENTS] += 1.0
        sums[slot, window, WEIGHT] += c
        sums[slot, window, LABELS] += c * label
        sums[slot, window, PREDICTIONS] += c * prediction
        sums[slot, window, LOSS] += c * loss
        sums[slot, window, SQUARES] += c * square
        if at >= 0 and label < 1.0:
            bins[slot, at, window, NEGATIVE] += c * (1.0 - label)
            bins[slot, at, window, P_NEGATIVE] += c * (1.0 - label) * prediction
        if at >= 0 and label > 0.0:
            bins[slot, at, window, POSITIVE] += c * label
            bins[slot, at, window, P_POSITIVE] += c * label * prediction


@helper
def counted(weight: Any) -> Any:
    """Weight in figures: a held-out event, of weight 0, counts as one."""
    return np.float64(weight) if weight > 0 else 1.0


@kernel
def add(
    p: Any, y: Any, weights: Any, slots: Any, begin: Any, end: Any, squared: Any,
    sums: Any, bins: Any, losses: Any,
) -> None:  # fmt: skip
    """Add events ``begin:end`` to the open blocks of all windows at once.

    In: ``p, y, weights`` (n,) float32, an event with p = NaN is left out; ``slots`` (n, J) int32, further slots of each
    event beside slot 0. In and out: ``sums`` (slots, WINDOWS, N_SUMS), ``bins`` (slots, N_BINS, WINDOWS, 4), not used
    where `squared`; a bin of all windows is one cache line. Out: ``losses`` (n,) float64, logloss or squared error of
    each event, NaN where left out.
    """
    for i in range(begin, end):
        if math.isnan(p[i]):
            losses[i] = math.nan
            continue
        c, label, prediction = counted(weights[i]), np.float64(y[i]), np.float64(p[i])
        square, at = (prediction - label) * (prediction - label), -1
        loss = square
        if not squared:
            q = min(max(prediction, FLOOR), 1.0 - FLOOR)
            loss, at = logloss(q, label), bin_of(q)
        losses[i] = loss
        count(0, at, c, label, prediction, loss, square, sums, bins)
        for j in range(slots.shape[1]):
            count(slots[i, j], at, c, label, prediction, loss, square, sums, bins)


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
