"""One-hot events whose rows begin with their head (lr, fm, fwfm): where rows begin, which are new, what is refused.

A kernel first takes all rows for live: it keeps the least count and the least last-seen minute of an event's rows, and
looks at each row only if these say that one of them is not (`all_live`, `set_aside`). Row 0, which stands for what is
missing, is live for ever and 0 everywhere else (`ctr.model.table`); a kernel steps it with the rest, then makes it what
it was (`blank`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import inlined
from ctr.kernels.layout import BIAS_ROW, COUNT, EXPIRED, FOREVER, REFUSED_EVENTS, SEEN
from ctr.kernels.simd import prefetch
from ctr.kernels.step import ONE, ZERO, add_start, give_birth, is_live

NEAR = 1 << 17
"""Floats of a table that stays in L2: nobody needs to ask for its rows ahead."""


@inlined
def begin_rows(rows: Any, at: int, F: int, stride: int, base: Any) -> None:
    """Where the rows of the event with entries ``rows[at : at + F]`` begin, to ``base``."""
    for f in range(F):
        base[f] = np.int64(rows[at + f]) * stride


@inlined
def ask(W: Any, stride: int, rows: Any, at: int, F: int) -> None:
    """Ask for the rows of an event to come."""
    for f in range(F):
        ahead = np.int64(rows[at + f]) * stride
        prefetch(W, ahead)
        if stride > 16:
            prefetch(W, ahead + 16)


@inlined
def all_live(count: Any, seen: Any, minute: Any, ttl_s: float) -> Any:
    """Whether rows are live of which these are the least count and last-seen minute: see `step.is_live`."""
    return count > ZERO and (ttl_s == 0.0 or (np.float64(minute) - np.float64(seen)) * 60.0 <= ttl_s)


@inlined
def set_aside(W: Any, base: Any, F: int, minute: Any, ttl_s: float, born: Any) -> Any:
    """Put row 0 in the place of rows that are not live; returns how many, their fields in ``born``."""
    n = 0
    for f in range(F):
        if not is_live(W, base[f], minute, ttl_s):
            base[f] = 0
            born[n] = f
            n += 1
    return n


@inlined
def bring_in(
    W: Any, stride: int, P: int, at_latent: int, factors: int, kp: int, k: int, rows: Any, at: int, base: Any,
    born: Any, n_born: int, minute: Any, hyper: Any, counters: Any,
) -> None:  # fmt: skip
    """The reverse of `set_aside` for an event that is learned: what was set aside begins anew."""
    for j in range(n_born):
        f = born[j]
        base[f] = np.int64(rows[at + f]) * stride
        if W[base[f] + COUNT] != ZERO:
            counters[EXPIRED] += 1
        give_birth(W, base[f], P, at_latent, factors, -1, kp, k, minute, hyper)


@inlined
def start_born(
    W: Any, stride: int, at_latent: int, kp: int, k: int, rows: Any, at: int, born: Any, n_born: int, row_key: Any,
    seed: Any, hyper: Any,
) -> None:  # fmt: skip
    """After their first event rows get their start values."""
    for j in range(n_born):
        row = np.int64(rows[at + born[j]])
        add_start(W, row * stride, at_latent, 1, -1, kp, k, row_key[row], seed, hyper)


@inlined
def refuse(W: Any, stride: int, counters: Any, minute: Any) -> None:
    """Count an event whose margin is not finite; `resolve` has counted its minute, so the bias has it."""
    counters[REFUSED_EVENTS] += 1
    W[BIAS_ROW * stride + SEEN] = max(W[BIAS_ROW * stride + SEEN], minute)


@inlined
def blank(W: Any, P: int) -> None:
    """Row 0 as it always is between two events."""
    for j in range(P):
        W[j] = ZERO
        W[P + j] = ONE
    W[COUNT], W[SEEN] = ONE, np.float32(FOREVER)
