"""A table, and what else every prediction reads -> one object that a call hands over as a single word.

As `ctr.kernels.scan.bound`: for a row or two it is the arguments that cost, and of 500 ads 10 us in 60.
"""

from __future__ import annotations

from typing import Any

from numba.core import types
from numba.experimental import structref

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
