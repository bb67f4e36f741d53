"""A field's value in, what is hashed in its place out: bins, spline weights, parts of the event's time.

What counts as a number here is the same in JSON, where it may be a literal or a text, and in delimited files, where all
is text: an optional sign, decimal digits with an optional point, an optional exponent. No blanks, no underscores, no
hexadecimal, no "nan" or "inf".

=========  ============================================================================  =======================
transform  what a number x, or the time t, becomes                                       texts that are hashed
=========  ============================================================================  =======================
log        ``sign(x) floor(bins_per_e ln(1 + |x|))``                                     ``-3``, ``0``, ``13``
bins       the number of `edges` that are at most x: bins are closed below               ``0``, ``1``, ...
bspline    ``degree + 1`` B-splines over the knots `edges`, with their values at x       ``b0``, ``b1``, ...
hour       ``floor((t + 3600 utc_offset_h) / 3600) mod 24``                              ``0`` to ``23``
weekday    ``(floor((t + 3600 utc_offset_h) / 86400) + 3) mod 7``, Monday is 0           ``0`` to ``6``
=========  ============================================================================  =======================

All is float64 arithmetic in the order in which it is written here; `ctr.kernels.scan.transforms` repeats it.
"""

from __future__ import annotations

import math
import re
import reprlib
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import numpy as np

from ctr.errors import EventError
from ctr.events.hashing import canonical, finite
from ctr.spec import Field

NEGLIGIBLE = 2.0**-24
"""A B-spline whose value is below is left out: beside the others' sum of 1 it is lost in float32."""
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def number(value: Any) -> float:
    """Read a number or a text that spells one.

    Raises
    ------
    EventError
        Reason "type" where it is none (a boolean is none), "value" where it is not finite in float64.
    """
    if isinstance(value, str):
        if _NUMBER.fullmatch(value):
            return finite(float(value))
    elif isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        return finite(value)  # type: ignore[arg-type]  # NumPy's numbers convert as Python's do
    raise EventError("type", "", f"expected a number, got {reprlib.repr(value)}")


def log_bin(value: Any, bins_per_e: float) -> str:
    """Bin of a number x by its logarithm, ``sign(x) floor(bins_per_e ln(1 + |x|))``, as text; "" where it is missing.

    Bins are narrow near 0 and grow by e within every `bins_per_e` of them; 0 has bin 0, and so has all that is nearer
    to it than ``e^(1 / bins_per_e) - 1``. The logarithm is taken as log1p.

    Examples
    --------
    >>> [log_bin(x, 3.0) for x in (0, 1, 2, 100, -100, "1e3", "")]
    ['0', '2', '3', '13', '-13', '20', '']

    Raises
    ------
    EventError
        See `number`.
    """
    if value is None or value == "":
        return ""
    x = number(value)
    magnitude = math.floor(bins_per_e * math.log1p(abs(x)))
    return str(-magnitude if x < 0 else magnitude)


def edge_bin(value: Any, edges: tuple[float, ...]) -> str:
    """Bin of a number x between given edges, as text: how many edges are at most x; "" where it is missing.

    Bin 0 is all below the first edge, bin i is ``edges[i - 1] <= x < edges[i]``, the last one all from the last edge
    on.

    Examples
    --------
    >>> [edge_bin(x, (0.0, 10.0)) for x in (-1, 0, "9.99", 10, 1e9, None)]
    ['0', '1', '1', '2', '2', '']

    Raises
    ------
    EventError
        See `number`.
    """
    if value is None or value == "":
        return ""
    return str(bisect_right(edges, number(value)))


def spline_weights(value: Any, edges: tuple[float, ...], degree: int) -> dict[str, float]:
    """B-splines that are not 0 at a number x, as ``b<index>`` -> value; none where it is missing.

    Over the knots t, which are `edges` with the first and the last of them ``degree + 1`` times, B-spline i is

        B[i, 0](x) = 1 if t[i] <= x < t[i+1] else 0
        B[i, d](x) = (x - t[i]) / (t[i+d] - t[i]) B[i, d-1](x) + (t[i+d+1] - x) / (t[i+d+1] - t[i+1]) B[i+1, d-1](x)

    (Cox-de Boor; C. de Boor, A Practical Guide to Splines, 1978, chapter X; computed as algorithm A2.2 of Piegl and
    Tiller, The NURBS Book, 1997, which divides by no zero). There are ``len(edges) - 1 + degree`` of them; at most
    ``degree + 1`` differ from 0, and they sum to 1. An x outside of the knots counts as the nearest one. So a linear
    weight a B-spline is a response that is smooth: a piecewise polynomial with ``degree - 1`` continuous derivatives.

    Examples
    --------
    >>> spline_weights(5, (0.0, 10.0, 20.0), 1)
    {'b0': 0.5, 'b1': 0.5}
    >>> spline_weights("99", (0.0, 10.0, 20.0), 3)
    {'b4': 1.0}

    Raises
    ------
    EventError
        See `number`.
    """
    if value is None or value == "":
        return {}
    last = len(edges) - 1
    x = min(max(number(value), edges[0]), edges[last])
    interval = min(bisect_right(edges, x) - 1, last - 1)  # the last interval holds its end, too
    values, above, below = [1.0], [0.0], [0.0]
    for d in range(1, degree + 1):
        above.append(edges[min(interval + d, last)] - x)
        below.append(x - edges[max(interval + 1 - d, 0)])
        carried = 0.0
        for r in range(d):
            share = values[r] / (above[r + 1] + below[d - r])
            values[r] = carried + above[r + 1] * share
            carried = below[d - r] * share
        values.append(carried)
    return {f"b{interval + i}": value for i, value in enumerate(values) if value >= NEGLIGIBLE}


def hour(time_s: float, utc_offset_h: float) -> str:
    """Hour of the day, "0" to "23".

    Examples
    --------
    >>> hour(1714564800.0, 0.0), hour(1714564800.0, -12.5)  # 2024-05-01T12:00:00Z
    ('12', '23')
    """
    return str(math.floor((time_s + 3600.0 * utc_offset_h) / 3600.0) % 24)


def weekday(time_s: float, utc_offset_h: float) -> str:
    """Day of the week, from "0", a Monday, to "6".

    Examples
    --------
    >>> weekday(1714564800.0, 0.0), weekday(1714564800.0, -12.5)  # a Wednesday
    ('2', '1')
    """
    return str((math.floor((time_s + 3600.0 * utc_offset_h) / 86400.0) + 3) % 7)  # 1970 began on a Thursday


def to_text(field: Field) -> Callable[[Any], str]:
    """What turns a value of a field into its one text, "" where it is missing."""
    if field.transform == "log":
        bins_per_e = field.bins_per_e
        return lambda value: log_bin(value, bins_per_e)
    if field.transform == "bins":
        edges = field.edges
        return lambda value: edge_bin(value, edges)
    return canonical


def to_clock(field: Field) -> Callable[[float], str] | None:
    """What turns an event's time into a field's text; None for a field of another kind."""
    parts = {"hour": hour, "weekday": weekday}
    if field.transform not in parts:
        return None
    part, utc_offset_h = parts[field.transform], field.utc_offset_h
    return lambda time_s: part(time_s, utc_offset_h)
