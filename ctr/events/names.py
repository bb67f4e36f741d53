"""A record in, its features in words out: what a key stood for, which the key itself cannot say.

A key is a hash, so a dictionary of names can only be filled from events. This is the exact path's slow and complete
answer for one record: a trainer asks it about a sample of its events, a scorer about a row that is to be explained.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ctr.events.envelope import Record
from ctr.events.fields import features
from ctr.events.hashing import cross_key, field_seeds, hash_text
from ctr.spec import Field, Spec

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class Feature(NamedTuple):
    """One feature of a record."""

    key: int
    field: str
    text: str | None
    """What is hashed; None for a cross, which hashes two keys."""
    name: str
    """In words, such as ``user=7``."""


def described(spec: Spec, record: Record, time_s: float) -> list[Feature]:
    """Features of a record, by field; see `named_features`."""
    found: dict[str, list[Feature]] = {}
    for field, seed in zip(spec.fields, field_seeds(spec), strict=True):
        if field.cross is None:
            texts = features(field, record, time_s)
            made = [Feature(hash_text(text, seed), field.name, text, in_words(field, text)) for text in texts]
        else:
            pairs = ((a, b) for a in found[field.cross[0]] for b in found[field.cross[1]])
            made = [Feature(cross_key(a.key, b.key, seed), field.name, None, f"{a.name} x {b.name}") for a, b in pairs]
        found[field.name] = made
    return [feature for held in found.values() for feature in held]


def named_features(spec: Spec, record: Record, time_s: float = 0.0) -> list[tuple[int, str]]:
    r"""Keys and names of a record's features, by field: each key once.

    A feature is named ``field=value`` after the text that is hashed, or ``field missing``; what a transform made of a
    number by the numbers that it stands for, ``price in [10, 20)`` or, for a B-spline, ``price about 12.5``; a real
    field's, whatever its number, ``field``; a cross' ``a=1 x b=2``.

    Parameters
    ----------
    spec : Spec
    record : mapping
        A parsed event, or a row of a scoring request.
    time_s : float
        The event's or the request's time, seconds since 1970.

    Returns
    -------
    list of (key, name)

    Raises
    ------
    EventError
        As the encoder: the record is one that would be refused.

    Examples
    --------
    >>> from ctr import spec
    >>> made = spec.parse('''
    ... name = "ads"
    ... fields = [{name = "user"}, {name = "ad", missing = "feature"}, {name = "both", cross = ["user", "ad"]},
    ...           {name = "price", transform = "bins", edges = [10, 20]}]''')
    >>> [name for key, name in named_features(made, {"user": 7.0, "price": 12})]
    ['user=7', 'ad missing', 'user=7 x ad missing', 'price in [10, 20)']
    """
    return list({feature.key: feature.name for feature in described(spec, record, time_s)}.items())


def in_words(field: Field, text: str) -> str:
    """Name of the feature that a field makes of a canonical text."""
    name, edges = field.name, field.edges
    if field.real:
        return name
    if not text:
        return f"{name} missing"
    if field.transform == "weekday":
        return f"{name}={_DAYS[int(text)]}"
    if field.transform == "bins":
        at = int(text)
        if 0 < at < len(edges):
            return f"{name} in [{edges[at - 1]:.6g}, {edges[at]:.6g})"
        return f"{name} >= {edges[-1]:.6g}" if at else f"{name} < {edges[0]:.6g}"
    if field.transform == "log":
        low, high = (math.expm1((abs(int(text)) + one) / field.bins_per_e) for one in (0, 1))
        if int(text) == 0:
            return f"{name} in (-{high:.4g}, {high:.4g})"
        return f"{name} in [{low:.4g}, {high:.4g})" if int(text) > 0 else f"{name} in (-{high:.4g}, -{low:.4g}]"
    if field.transform == "bspline":
        knots = (edges[0],) * field.degree + edges + (edges[-1],) * field.degree
        at = int(text[1:])
        return f"{name} about {sum(knots[at + 1 : at + 1 + field.degree]) / field.degree:.6g}"
    return f"{name}={text}"
