"""A table, and what else every prediction reads -> one object that a call hands over as a single word.

As `ctr.kernels.scan.bound`: for a row or two it is the arguments that cost, and of 500 ads 10 us in 60.

The types are those of all modules that are made of `ctr.kernels.rank.ffm`: Numba keeps what makes a `Bound` on disk by
its types, and a process could not read that with the types of a module that it has not loaded.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba.core import types
from numba.experimental import structref


class Scratch(NamedTuple):
    """Room for a question of n candidates with A fields; `width` is n + 3."""

    M: Any  # (A P,) float32: what candidates meet
    base: Any  # (A width,) int64: where the candidates' rows begin, a field after the other
    sums: Any  # (width,) float32: their parts of the pair sum
    seen: Any  # (2^m >= 2 n,) uint64: rows by their hash, and which of the different ones each is
    met: Any  # (width,) int64: the different ones of a field
    dots: Any  # (width,) float32: their products with M
    spot_of: Any  # (n,) int64: which of them each candidate has


class Ads(NamedTuple):
    """The arrays of `ctr.model.prepared.PreparedAds`, which says what they are."""

    fields: Any
    keys: Any  # in one dimension
    features: Any
    rows: Any
    kept: Any
    keep: Any


NAMES = ("W", "stride", "index", "slots", "ttl_s", "normalize", "hyper", "counts", "out", "scratch", "ads")


@structref.register
class BoundType(types.StructRef):
    """Numba's type of `Bound`."""

    def preprocess_fields(self, fields: Any) -> Any:
        """As Numba wants it: types, not the literals that they may come from."""
        return tuple((name, types.unliteral(kind)) for name, kind in fields)  # type: ignore[no-untyped-call]  # numba


class Bound(structref.StructRefProxy):
    """What the kernels of `ctr.kernels.rank.ffm` read and write beside their arguments."""

    def __new__(cls, *parts: Any) -> Any:
        """Made of the parts, in the order of `NAMES`."""
        return structref.StructRefProxy.__new__(cls, *parts)  # type: ignore[no-untyped-call]  # numba


structref.define_proxy(Bound, BoundType, list(NAMES))  # type: ignore[no-untyped-call]  # numba
