"""What scorers answer beside numbers, as values: shared by those who make them and those who ask for them.

Light on purpose: a client needs neither NumPy nor Numba.
"""

from __future__ import annotations

import msgspec


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """A feature of the row, or a field that has none."""

    field: str
    name: str
    key: str | None = None
    """16 hexadecimal digits; None where the field has no feature."""
    value: float = 1.0
    known: bool = False
    """Whether the model has a living row for it. One that it does not know contributes nothing."""
    contribution: float = 0.0
    """To the logit, by itself: linear weight times value."""


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """Two features that add something together."""

    features: tuple[str, str]
    """Their names."""
    contribution: float


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Where a prediction comes from: ``logit = bias + contributions of features + contributions of pairs``.

    Attributes
    ----------
    model : str
        ``name@generation``.
    prediction : float
        What `Scorer.predict` says of the row; for the logistic loss sigmoid(logit), the logit held within +-50.
    logit, bias : float
    features : tuple of Feature
        By field, every field at least once.
    pairs : tuple of Pair
        All that contribute, the weightiest first.
    """

    model: str
    prediction: float
    logit: float
    bias: float
    features: tuple[Feature, ...]
    pairs: tuple[Pair, ...]
