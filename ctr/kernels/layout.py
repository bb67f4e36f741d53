"""Where everything stands: lanes of a row's head, special rows and keys, counters, hyper-parameters.

A row of P = 16 ceil(F kp / 16) weights is followed by its P accumulators (a weights-only table has no accumulators).
The head of a row of field f lies in the block of its own field, ``h = kp f``, which no pair uses.
"""

from __future__ import annotations

LINEAR, COUNT, SEEN = 0, 1, 2
"""Lanes of the head: linear weight, learned events (saturates at 2^24), minute last seen. Lane 3 is free."""

ZERO_ROW, BIAS_ROW, FIRST_ROW = 0, 1, 2
"""Row numbers: all unknown features share row 0, which is never written; the bias is the head of row 1."""

SCRATCH_ROWS = 68
"""Rows behind the last one, where a kernel may write what belongs to nobody: one a field, padded to a tile."""

BIAS_KEY = 1
RESERVED_KEYS = 16
"""Keys below this belong to the model as a whole, or to nothing (0)."""

EPOCH_S = 1_577_836_800
"""2020-01-01T00:00Z. Minutes since then are exact in float32 from 1988 to 2051."""

# int64 counters of a table
NEXT_ROW, FREE_ROW, ROWS, ABSENT, DIRTY, LEARNED, CREATED, REFUSED_ROWS, EXPIRED, REFUSED_EVENTS, N_COUNTERS = range(11)

# float32 hyper-parameters
STEP, LINEAR_STEP, N0, START, HAS_BIAS, HAS_LINEAR, N_HYPER = range(7)

BUCKET_SLOTS = 5
"""A bucket is a cache line of the index: 5 keys (uint64), 5 row numbers (uint32), the number of keys that passed by."""


def row_floats(n_fields: int, kp: int) -> int:
    """P: weights of a row, padded to whole cache lines."""
    return 16 * -(-n_fields * kp // 16)
