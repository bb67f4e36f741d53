"""A plan and the scratch of its kernels -> one object that a call hands over as a single word.

To look at a plan's thirty arrays one by one takes Numba 20 us a call: nothing for a batch of events, most of what a
scoring request of one row costs (`python tests/benchmarks/serving_calls.py`).
"""

from __future__ import annotations

from typing import Any

from numba.core import types
from numba.experimental import structref

NAMES = ("plan", "spans", "elements", "named", "body", "keys")


@structref.register
class BoundType(types.StructRef):
    """Numba's type of `Bound`."""

    def preprocess_fields(self, fields: Any) -> Any:
        """As Numba wants it: types, not the literals that they may come from."""
        return tuple((name, types.unliteral(kind)) for name, kind in fields)  # type: ignore[no-untyped-call]  # numba


class Bound(structref.StructRefProxy):
    """What `ctr.kernels.scan.requests` reads and writes beside its arguments; not for two threads at once.

    `plan` as `features.Plan`; `spans` and `elements` as `ctr.events.scanner.scratch` makes them; `named` (fields,)
    int64, those that read a column of their own; `body` uint8, what is read; `keys` uint64, what is found.
    """

    def __new__(cls, *parts: Any) -> Any:
        """Made of the parts, in the order of `NAMES`."""
        return structref.StructRefProxy.__new__(cls, *parts)  # type: ignore[no-untyped-call]  # numba


structref.define_proxy(Bound, BoundType, list(NAMES))  # type: ignore[no-untyped-call]  # numba
