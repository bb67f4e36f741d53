"""The tile: 16 floats of each of R rows, and the transposes that turn "what rows I hold for fields J" into the reverse.

R = 16 / kp rows form a group, and 16 floats of a row are what it holds for the R fields of a group: for kp = 4 a tile
is 4 rows of 4 blocks, for kp = 8 it is 2 rows of 2. Tile (I, J) is rows of group I, floats of group J. Its transpose
stands lane by lane against tile (J, I): that is a dot product of 16 pairs of latent factors at once, and each of the
two is the other's gradient. So each cache line is touched once on the way forward and once on the way back.

A visitor exists for each kp: `DOT[kp]` and `STEP[kp]` for a tile off the diagonal, `DIAGONAL_DOT[kp]` and
`DIAGONAL_STEP[kp]` for one on it, where the heads of the rows are: all R of them fit into one vector, their own blocks
side by side. ``base`` holds where each field's row begins, `GROUP[kp]` reads it for group I.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import inlined
from ctr.kernels.layout import COUNT, LINEAR, SEEN
from ctr.kernels.simd import (
    add,
    below,
    blend,
    fma,
    fnma,
    load16,
    maximum,
    minimum,
    mul,
    set16,
    shuffle,
    store16,
)
from ctr.kernels.step import G_MAX, adagrad16, step16


def _groups(width: int, *which: int) -> list[int]:
    return [lane for group in which for lane in range(width * group, width * (group + 1))]


quarters_0145, quarters_2367 = shuffle(_groups(4, 0, 1, 4, 5)), shuffle(_groups(4, 2, 3, 6, 7))
quarters_0246, quarters_1357 = shuffle(_groups(4, 0, 2, 4, 6)), shuffle(_groups(4, 1, 3, 5, 7))
halves_02, halves_13 = shuffle(_groups(8, 0, 2)), shuffle(_groups(8, 1, 3))
in_quarter0, in_quarter1, in_quarter2, in_quarter3 = blend(4, 0), blend(4, 1), blend(4, 2), blend(4, 3)
in_half0, in_half1 = blend(8, 0), blend(8, 1)

ADAGRAD, SGD, FTRL = range(3)
"""The optimizer's step: a compile-time constant of the kernels, the first element of a ``rate``."""

LINEARS, COUNTS, UNLEARNED, TIMES, BEFORE = range(5)


def masks(kp: int) -> Any:
    """What to do where in a vector of heads, and on the diagonal: (4 + R, 16) float32, flat.

    1 in the linear weights; 1 in the counts; .5 in the counts and -inf elsewhere; 0 in the last-seen times and -inf
    elsewhere; then, for each row l of a group, 1 in the blocks of the fields before l.
    """
    R = 16 // kp
    m = np.zeros((BEFORE + R, 16), np.float32)
    m[LINEARS, LINEAR::kp] = 1
    m[COUNTS, COUNT::kp] = 1
    m[UNLEARNED] = m[TIMES] = -np.inf
    m[UNLEARNED, COUNT::kp] = 0.5
    m[TIMES, SEEN::kp] = 0
    for l in range(R):
        m[BEFORE + l, : l * kp] = 1
    return m.ravel()


@inlined
def mask(M: Any, which: int) -> Any:
    """One of `masks`."""
    return load16(M, 16 * which)


@inlined
def transpose4(a: Any, b: Any, c: Any, d: Any) -> Any:
    """4 x 4 blocks of 4 floats: a = a0 a1 a2 a3 ... -> a0 b0 c0 d0, a1 b1 c1 d1, ..."""
    x, y, z, w = quarters_0145(a, b), quarters_0145(c, d), quarters_2367(a, b), quarters_2367(c, d)
    return quarters_0246(x, y), quarters_1357(x, y), quarters_0246(z, w), quarters_1357(z, w)


@inlined
def group4(base: Any, I: int) -> Any:
    """Where the rows of group I begin: read once, not for each tile (stores to W keep LLVM from seeing that)."""
    return base[4 * I], base[4 * I + 1], base[4 * I + 2], base[4 * I + 3]


@inlined
def group2(base: Any, I: int) -> Any:
    """As `group4`, for two rows."""
    return base[2 * I], base[2 * I + 1]


@inlined
def dot4(W: Any, G: Any, base: Any, I: int, J: int, s0: Any, s1: Any) -> Any:
    """Pairs of a field of group I and one of group J, added to two running sums."""
    j, o, q = 4 * J, 16 * J, 16 * I
    t0, t1, t2, t3 = transpose4(
        load16(W, G[0] + o), load16(W, G[1] + o), load16(W, G[2] + o), load16(W, G[3] + o)
    )
    s0 = fma(t0, load16(W, base[j] + q), s0)
    s1 = fma(t1, load16(W, base[j + 1] + q), s1)
    s0 = fma(t2, load16(W, base[j + 2] + q), s0)
    s1 = fma(t3, load16(W, base[j + 3] + q), s1)
    return s0, s1


@inlined
def dot2(W: Any, G: Any, base: Any, I: int, J: int, s0: Any, s1: Any) -> Any:
    """As `dot4`, for two rows of two blocks."""
    a0, a1 = load16(W, G[0] + 16 * J), load16(W, G[1] + 16 * J)
    s0 = fma(halves_02(a0, a1), load16(W, base[2 * J] + 16 * I), s0)
    s1 = fma(halves_13(a0, a1), load16(W, base[2 * J + 1] + 16 * I), s1)
    return s0, s1


@inlined
def heads4(a: Any, b: Any, c: Any, d: Any) -> Any:
    """Heads of the four rows of a group, from its tile on the diagonal."""
    return in_half1(in_quarter1(a, b), in_quarter3(c, d))


@inlined
def diagonal_dot4(
    W: Any, M: Any, base: Any, I: int, s0: Any, s1: Any, heads: Any, stale: Any, oldest: Any
) -> Any:  # fmt: skip
    """Pairs inside group I (each once: `BEFORE`); sum of all heads; how many lanes of them are below `oldest`."""
    i, o = 4 * I, 16 * I
    a0, a1 = load16(W, base[i] + o), load16(W, base[i + 1] + o)
    a2, a3 = load16(W, base[i + 2] + o), load16(W, base[i + 3] + o)
    _, t1, t2, t3 = transpose4(a0, a1, a2, a3)
    s0 = fma(t1, mul(a1, mask(M, BEFORE + 1)), s0)
    s1 = fma(t2, mul(a2, mask(M, BEFORE + 2)), s1)
    s0 = fma(t3, mul(a3, mask(M, BEFORE + 3)), s0)
    h = heads4(a0, a1, a2, a3)
    return s0, s1, add(heads, h), add(stale, below(h, oldest))


@inlined
def diagonal_dot2(
    W: Any, M: Any, base: Any, I: int, s0: Any, s1: Any, heads: Any, stale: Any, oldest: Any
) -> Any:  # fmt: skip
    """As `diagonal_dot4`, for two rows of two blocks."""
    a0, a1 = load16(W, base[2 * I] + 16 * I), load16(W, base[2 * I + 1] + 16 * I)
    s0 = fma(halves_13(a0, a1), mul(a1, mask(M, BEFORE + 1)), s0)
    h = in_half1(a0, a1)
    return s0, s1, add(heads, h), add(stale, below(h, oldest))


@inlined
def move16(W: Any, at: Any, P: int, w: Any, g: Any, rate: Any) -> Any:
    """Sixteen weights w after their step. ``rate``: (ADAGRAD or SGD, step size, unused) or (FTRL, c0, c1)."""
    if rate[0] == ADAGRAD:
        w = adagrad16(W, at, P, w, g, rate[1])
    elif rate[0] == SGD:  # nothing else bounds its weights
        g = minimum(maximum(g, set16(-G_MAX)), set16(G_MAX))
        store16(W, at + P, fma(g, g, load16(W, at + P)))
        w = fnma(rate[1], g, w)
    else:
        w = step16(W, at, P, w, g, rate[1], rate[2])
    return w


@inlined
def step(W: Any, at: Any, P: int, w: Any, partner: Any, rdl: Any, rate: Any) -> None:
    """Sixteen latent coordinates whose partners are `partner`."""
    store16(W, at, move16(W, at, P, w, mul(rdl, partner), rate))


@inlined
def step4(W: Any, G: Any, base: Any, I: int, J: int, P: int, rdl: Any, rate: Any) -> None:
    """Gradient and step of tiles (I, J) and (J, I), each from the other as it was."""
    j = 4 * J
    i0, i1, i2, i3 = G[0] + 16 * J, G[1] + 16 * J, G[2] + 16 * J, G[3] + 16 * J
    j0, j1, j2, j3 = base[j] + 16 * I, base[j + 1] + 16 * I, base[j + 2] + 16 * I, base[j + 3] + 16 * I
    a0, a1, a2, a3 = load16(W, i0), load16(W, i1), load16(W, i2), load16(W, i3)
    b0, b1, b2, b3 = load16(W, j0), load16(W, j1), load16(W, j2), load16(W, j3)
    t0, t1, t2, t3 = transpose4(b0, b1, b2, b3)
    step(W, i0, P, a0, t0, rdl, rate)
    step(W, i1, P, a1, t1, rdl, rate)
    step(W, i2, P, a2, t2, rdl, rate)
    step(W, i3, P, a3, t3, rdl, rate)
    u0, u1, u2, u3 = transpose4(a0, a1, a2, a3)
    step(W, j0, P, b0, u0, rdl, rate)
    step(W, j1, P, b1, u1, rdl, rate)
    step(W, j2, P, b2, u2, rdl, rate)
    step(W, j3, P, b3, u3, rdl, rate)


@inlined
def step2(W: Any, G: Any, base: Any, I: int, J: int, P: int, rdl: Any, rate: Any) -> None:
    """As `step4`, for two rows of two blocks."""
    i0, i1 = G[0] + 16 * J, G[1] + 16 * J
    j0, j1 = base[2 * J] + 16 * I, base[2 * J + 1] + 16 * I
    a0, a1, b0, b1 = load16(W, i0), load16(W, i1), load16(W, j0), load16(W, j1)
    step(W, i0, P, a0, halves_02(b0, b1), rdl, rate)
    step(W, i1, P, a1, halves_13(b0, b1), rdl, rate)
    step(W, j0, P, b0, halves_02(a0, a1), rdl, rate)
    step(W, j1, P, b1, halves_13(a0, a1), rdl, rate)


@inlined
def step_own(W: Any, at: Any, P: int, w: Any, partner: Any, own: Any, rdl: Any, rate: Any, linear: Any) -> Any:
    """As `step`, but ``own(x, y)`` has the row's own block from y; the caller stores what is returned.

    ``linear`` has the linear weights' gradient, 0 elsewhere, and the rest of their rate.
    """
    return move16(
        W, at, P, w, own(mul(rdl, partner), linear[0]), (rate[0], own(rate[1], linear[1]), own(rate[2], linear[2]))
    )


@inlined
def diagonal_step4(
    W: Any, M: Any, base: Any, I: int, P: int, rdl: Any, rate: Any, linear: Any, seen: Any
) -> None:  # fmt: skip
    """Tile (I, I): pairs inside the group; linear weight, count and last-seen time (``seen``) of its rows."""
    i, o = 4 * I, 16 * I
    i0, i1, i2, i3 = base[i] + o, base[i + 1] + o, base[i + 2] + o, base[i + 3] + o
    a0, a1, a2, a3 = load16(W, i0), load16(W, i1), load16(W, i2), load16(W, i3)
    t0, t1, t2, t3 = transpose4(a0, a1, a2, a3)
    a0 = step_own(W, i0, P, a0, t0, in_quarter0, rdl, rate, linear)
    a1 = step_own(W, i1, P, a1, t1, in_quarter1, rdl, rate, linear)
    a2 = step_own(W, i2, P, a2, t2, in_quarter2, rdl, rate, linear)
    a3 = step_own(W, i3, P, a3, t3, in_quarter3, rdl, rate, linear)
    h = maximum(seen, add(heads4(a0, a1, a2, a3), mask(M, COUNTS)))
    store16(W, i0, in_quarter0(a0, h))
    store16(W, i1, in_quarter1(a1, h))
    store16(W, i2, in_quarter2(a2, h))
    store16(W, i3, in_quarter3(a3, h))


@inlined
def diagonal_step2(
    W: Any, M: Any, base: Any, I: int, P: int, rdl: Any, rate: Any, linear: Any, seen: Any
) -> None:  # fmt: skip
    """As `diagonal_step4`, for two rows of two blocks."""
    i0, i1 = base[2 * I] + 16 * I, base[2 * I + 1] + 16 * I
    a0, a1 = load16(W, i0), load16(W, i1)
    t0, t1 = halves_02(a0, a1), halves_13(a0, a1)
    a0 = step_own(W, i0, P, a0, t0, in_half0, rdl, rate, linear)
    a1 = step_own(W, i1, P, a1, t1, in_half1, rdl, rate, linear)
    h = maximum(seen, add(in_half1(a0, a1), mask(M, COUNTS)))
    store16(W, i0, in_half0(a0, h))
    store16(W, i1, in_half1(a1, h))


GROUP = {4: group4, 8: group2}
DOT = {4: dot4, 8: dot2}
DIAGONAL_DOT = {4: diagonal_dot4, 8: diagonal_dot2}
STEP = {4: step4, 8: step2}
DIAGONAL_STEP = {4: diagonal_step4, 8: diagonal_step2}
