"""A field's value in, the text that is hashed in its place out.

What counts as a number here is the same in JSON, where it may be a literal or a text, and in delimited files, where all
is text: an optional sign, decimal digits with an optional point, an optional exponent. No blanks, no underscores, no
hexadecimal, no "nan" or "inf".
"""

from __future__ import annotations

import math
import re
import reprlib
from typing import Any

import numpy as np

from ctr.errors import EventError
from ctr.events.hashing import finite

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
