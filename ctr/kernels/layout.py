"""Where everything stands: lanes of a row's head, special rows and keys, counters, hyper-parameters.

A row of P weights is followed by its P accumulators (a weights-only table has no accumulators). An ffm row has a block
of kp weights for each field; its head lies in the block of its own field, ``h = kp f``, which no pair uses. Rows of all
other families begin with their head, ``h = 0``, and their one latent factor stands behind it, at lane 4.
"""

from __future__ import annotations

LR, FM, FFM, FWFM, FEFM = range(5)
"""Model families; a constant of the kernels that know more than one."""

LINEAR, COUNT, SEEN, Z, HEAD = 0, 1, 2, 3, 4
"""Lanes of the head: linear weight, learned events (saturates at 2^24), minute last seen, FTRL's z (only with l1); and
how many there are."""

ZERO_ROW, BIAS_ROW, FIRST_ROW = 0, 1, 2
"""Row numbers: all unknown features share row 0, which is the same before and after each event; the bias is the head of
row 1."""

FOREVER = 2.0**24
"""Last-seen minute of row 0 where rows begin with their head: it never expires. Its count is 1 there."""

SCRATCH_ROWS = 68
"""Rows behind the last one, where a kernel may write what belongs to nobody: one a field, padded to a tile."""

PAIR_ROW = 2
"""First of the rows with pair weights, where there are any; `FIRST_ROW` and what follows come behind them. Pair weight
p stands in row ``PAIR_ROW + p // kp`` at lane ``HEAD + p % kp``."""

BIAS_KEY, FIRST_PAIR_KEY = 1, 16
RESERVED_KEYS = 65536
"""Keys below this belong to the model as a whole (the bias, from 16 on rows of pair weights), or to nothing (0)."""

EPOCH_S = 1_577_836_800
"""2020-01-01T00:00Z. Minutes since then are exact in float32 from 1988 to 2051."""

FREE_FIELD = 255
"""Field number of a row that nobody owns."""

SWEEPS_A_TTL = 10
"""How often rows that were not seen for their ttl are looked for, within one."""

# int64 counters of a table
(
    NEXT_ROW, FREE_ROW, ROWS, ABSENT, DIRTY, LEARNED, CREATED, REFUSED_ROWS, EXPIRED, REFUSED_EVENTS, EVICTED,
    N_COUNTERS,
) = range(12)  # fmt: skip

# float32 hyper-parameters. C0 and C1 are those of the one step, n += g^2 and w -= g / (C0 + C1 sqrt n), for each kind
# of weight; STEP and LINEAR_STEP are AdaGrad's 1 / C1 for kernels that know no other. L2 and LINEAR_L2 are what goes
# into the gradient: 0 for FTRL, which has them in C0. LIMIT bounds the margin.
(
    STEP, LINEAR_STEP, N0, START, HAS_BIAS, HAS_LINEAR, C0, C1, LINEAR_C0, LINEAR_C1, BIAS_C0, PAIR_C0, L2, LINEAR_L2,
    L1, HALF_LIFE_MIN, SQUARED, LABEL_MIN, LABEL_MAX, LIMIT, SAME_FIELD_PAIRS, N_HYPER,
) = range(22)  # fmt: skip

BUCKET_SLOTS = 5
"""A bucket is a cache line of the index: 5 keys (uint64), 5 row numbers (uint32), the number of keys that passed by."""


def row_floats(n_fields: int, kp: int) -> int:
    """P: weights of a row, padded to whole cache lines."""
    return 16 * -(-n_fields * kp // 16)


def padded(size: int) -> int:
    """P of a row of `size` weights: whole cache lines."""
    return 16 * -(-size // 16)
