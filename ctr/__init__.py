"""Online-learned click-through rates: factorization machines that learn from a stream, and scorers that follow them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctr.client import AsyncClient, Client
    from ctr.model import Model
    from ctr.serving.scorer import Scorer
    from ctr.spec import Spec

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "Model", "Scorer", "Spec", "__version__"]

_HOMES = {
    "AsyncClient": "ctr.client", "Client": "ctr.client", "Model": "ctr.model", "Scorer": "ctr.serving.scorer",
    "Spec": "ctr.spec",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import what is asked for only now: `ctr --help` need not wait for numba."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ctr' has no attribute {name!r}")
