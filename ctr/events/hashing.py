"""One value of one field in, its u64 key out: the same in JSON, in delimited text and in scoring requests.

    seed(field) = XXH64(UTF-8 of the field's name, seed 0)
    key         = XXH64(UTF-8 of the value's canonical text, seed(field))

The canonical text says which values are the same feature:

* text: itself, after unescaping and otherwise untouched: "007", "7", "7.0" and " 7" are four features, and Unicode
  is not normalised. A cell of a delimited file is text.
* true and false: ``true`` and ``false``, as the text of that spelling.
* a JSON integer literal (no '.', 'e' or 'E') from -2^63 to 2^64 - 1: its decimal digits, with -0 as ``0``.
* any other number: rounded to float64 and written as ECMAScript's Number::toString does (RFC 8785): 1.0 is ``1``,
  -0.0 ``0``, 1e21 ``1e+21``, 1e-7 ``1e-7``. One that overflows float64 is refused.
* null, "", and a key that is not there: missing, in every format. A field with ``missing = "feature"`` gives it the
  empty text; otherwise it is no feature at all.

A feature of a field that crosses two others has, for the keys a and b of theirs,

    key         = XXH64(a as 8 bytes, b as 8 bytes, little-endian; seed(field)).

Keys 0 to 65535 are reserved (0 no feature, 1 the bias, from 16 on pair weights; see `ctr.rows`). What hashes to one of
them gets ``SHIFT`` added. tests/vectors.json holds all this in examples, for other languages.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh64_intdigest

from ctr.errors import EventError
from ctr.spec import Spec

RESERVED_KEYS = 65536
"""Keys below this one belong to the model itself; no value hashes to them."""
BIAS = np.uint64(1)
"""Key of the row that holds the bias."""
SHIFT = 0x9E3779B97F4A7C15
"""Added to a key that would be a reserved one: odd, and far from wrapping around."""


def field_seed(name: str) -> int:
    """Seed of all keys of a field."""
    return xxh64_intdigest(name.encode(), 0)


def field_seeds(spec: Spec) -> list[int]:
    """Seed of each field's keys; in libffm's model a feature is the same in every field."""
    return [field_seed("" if spec.model.libffm else field.name) for field in spec.fields]


def partition_salts(names: Iterable[str]) -> NDArray[np.uint64]:
    """One salt a partition, of its name alone: with an offset it says where an event stands, in every run alike.

    Returns
    -------
    (partitions,) uint64
        ``Batch.partitions`` are indices into it.
    """
    return np.array([xxh64_intdigest(name.encode(), 0) for name in names], np.uint64)


def hash_text(text: str, seed: int) -> int:
    """Key of a canonical text.

    Raises
    ------
    UnicodeEncodeError
        The text holds half of a surrogate pair, which no UTF-8 can say.
    """
    return _unreserved(xxh64_intdigest(text.encode(), seed))


def cross_key(a: int, b: int, seed: int) -> int:
    """Key of a pair of features, in this order, whose keys are given."""
    return _unreserved(xxh64_intdigest(a.to_bytes(8, "little") + b.to_bytes(8, "little"), seed))


def _unreserved(key: int) -> int:
    return key if key >= RESERVED_KEYS else key + SHIFT


def canonical(value: Any) -> str:
    """Text that stands for a value in its key; "" where it is missing.

    NumPy scalars count as the Python value they hold.

    Raises
    ------
    EventError
        Reason "type" for anything but text, number, boolean and None; "value" for a number beyond float64, infinite
        or NaN. Its path is empty: the caller knows it.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return str(int(value))
    if isinstance(value, (int, float)):
        return number_text(finite(value))
    if isinstance(value, np.generic):
        plain = value.item()
        if not isinstance(plain, np.generic):
            return canonical(plain)
    raise EventError("type", "", f"expected text, a number, true, false or null, got {reprlib.repr(value)}")


def finite(value: float) -> float:
    """Round to float64.

    Raises
    ------
    EventError
        Reason "value": NaN, infinite or beyond float64.
    """
    try:
        x = float(value)
    except OverflowError:
        x = math.inf
    if not math.isfinite(x):
        raise EventError("value", "", "the number is not finite in float64")
    return x


def number_text(x: float) -> str:
    """Write a finite float64 as ECMAScript does (ECMA-262, Number::toString; RFC 8785, section 3.2.2.3).

    Both take the shortest digits that read back as the same number and, of those, the closest; Python's repr does too,
    and only lays them out differently.
    """
    if x == 0:
        return "0"
    text = repr(x)
    if "e" not in text:
        # ECMAScript begins exponents at 1e21 and 1e-7, Python at 1e16 and 1e-5: without one the two differ by ".0".
        return text.removesuffix(".0")
    mantissa, _, exponent = text.partition("e")
    sign = "-" if x < 0 else ""
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    digits, point = whole + fraction, int(exponent) + 1
    if 0 < point <= 21:
        return sign + digits.ljust(point, "0")
    if -6 < point <= 0:
        return sign + "0." + "0" * -point + digits
    return f"{sign}{whole}{'.' + fraction if fraction else ''}e{point - 1:+d}"


def feature_key(field_name: str, value: Any) -> int:
    """Key of a value in a field, as readers and scorers compute it.

    A missing value (None or "") gives the key that a field with ``missing = "feature"`` uses. For a field with a
    transform give the text that it makes of the value (see `ctr.events.transforms`).

    Parameters
    ----------
    field_name : str
        The field's name, not its source.
    value : str, bool, int, float or None

    Returns
    -------
    int
        65536 <= key < 2**64.

    Raises
    ------
    EventError
        The value can be no feature.

    Examples
    --------
    >>> feature_key("user", 7) == feature_key("user", "7") == feature_key("user", 7.0)
    True
    >>> feature_key("user", "7") == feature_key("user", "07")
    False
    """
    try:
        return hash_text(canonical(value), field_seed(field_name))
    except EventError as error:
        raise EventError(error.reason, field_name, error.message) from None
    except UnicodeEncodeError:
        raise EventError("encoding", field_name, "half of a surrogate pair is no character") from None
