"""Predictions, labels and weights -> sums by slot: all that the figures of a window are made of.

A slot is the whole stream or one slice of it. Predictions are counted in fine bins of their logit, `PER_UNIT` to one
unit, with their sums by class: how far the two means in a bin lie apart says how well its events are ordered.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ctr.kernels.jit import helper, kernel

EVENTS, WEIGHT, LABELS, PREDICTIONS, LOSS, SQUARES = range(6)
"""Columns of sums: of 1, c, c y, c p, c logloss and c (p - y)^2, where c is an event's weight."""
N_SUMS = 6
NEGATIVE, POSITIVE, P_NEGATIVE, P_POSITIVE = range(4)
"""Columns of bins: of c (1 - y), c y, c (1 - y) p and c y p."""
PER_UNIT, SPAN = 64, 16
N_BINS = 2 * SPAN * PER_UNIT
"""Over logits from -16 to 16 (probabilities of 1e-7 and 1 - 1e-7); what lies beyond falls into the outermost bins."""
FLOOR = 1e-15
"""Probabilities are kept this far from 0 and 1 in logarithms."""


@helper
def counted(weight: Any) -> Any:
    """Weight in figures: a held-out event, of weight 0, counts as one."""
    return np.float64(weight) if weight > 0 else 1.0


@kernel
def add(
    p: Any, y: Any, weights: Any, slots: Any, begin: Any, end: Any, squared: Any,
    sums_1: Any, bins_1: Any, sums_2: Any, bins_2: Any, losses: Any,
) -> None:  # fmt: skip
    """Add events ``begin:end`` to two windows at once.

    In: ``p, y, weights`` (n,) float32, an event with p = NaN is left out; ``slots`` (n, J) int32, further slots of each
    event beside slot 0. In and out, of each window: ``sums`` (slots, N_SUMS), ``bins`` (slots, N_BINS, 4), not used
    where `squared`. Out: ``losses`` (n,) float64, logloss or squared error of each event, NaN where left out.
    """
    for i in range(begin, end):
        if math.isnan(p[i]):
            losses[i] = math.nan
            continue
        c, label, prediction = counted(weights[i]), np.float64(y[i]), np.float64(p[i])
        square, at = (prediction - label) * (prediction - label), 0
        loss = square
        if not squared:
            q = min(max(prediction, FLOOR), 1.0 - FLOOR)
            log_q, log_not = math.log(q), math.log1p(-q)
            loss = -(label * log_q + (1.0 - label) * log_not)
            at = min(max(math.floor((log_q - log_not + SPAN) * PER_UNIT), 0), N_BINS - 1)
        losses[i] = loss
        for j in range(-1, slots.shape[1]):
            slot = slots[i, j] if j >= 0 else 0
            for sums, bins in ((sums_1, bins_1), (sums_2, bins_2)):
                sums[slot, EVENTS] += 1.0
                sums[slot, WEIGHT] += c
                sums[slot, LABELS] += c * label
                sums[slot, PREDICTIONS] += c * prediction
                sums[slot, LOSS] += c * (loss if not squared else 0.0)
                sums[slot, SQUARES] += c * square
                if not squared:
                    bins[slot, at, NEGATIVE] += c * (1.0 - label)
                    bins[slot, at, POSITIVE] += c * label
                    bins[slot, at, P_NEGATIVE] += c * (1.0 - label) * prediction
                    bins[slot, at, P_POSITIVE] += c * label * prediction


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
