"""The model specification: TOML in, a frozen and checked `Spec` out.

One file says what an event looks like and what learns from it. The store keeps it with the model, so that a scorer
needs only a Redis URL and a model name, and a trainer that comes with another one is refused.
"""

from __future__ import annotations

from ctr.spec.checks import require_learned
from ctr.spec.compare import differences, flatten
from ctr.spec.reading import encode, from_builtins, parse, read
from ctr.spec.tables import (
    AVAZU_COLUMNS,
    CRITEO_COLUMNS,
    LABEL_BOUND,
    MUTABLE,
    NAME_PATTERN,
    Commit,
    Event,
    Field,
    Guard,
    Lifetime,
    Model,
    Optimizer,
    Quality,
    Spec,
    Store,
)

__all__ = [
    "AVAZU_COLUMNS", "CRITEO_COLUMNS", "LABEL_BOUND", "MUTABLE", "NAME_PATTERN", "Commit", "Event", "Field", "Guard",
    "Lifetime", "Model", "Optimizer", "Quality", "Spec", "Store", "differences", "encode", "flatten", "from_builtins",
    "parse", "read", "require_learned",
]  # fmt: skip
