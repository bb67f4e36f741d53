"""Terms of a logit in, an explanation in words out: as JSON, and as a picture for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ctr.answers import Explanation, Feature, Pair
from ctr.events.names import named_features
from ctr.model.explanation import Excerpt

BAR_CELLS = 15
"""Width of a bar to either side."""


def explained(excerpt: Excerpt, prediction: float, row: Mapping[str, Any], names: Mapping[int, str]) -> Explanation:
    """Put an event's terms in words.

    Parameters
    ----------
    excerpt : Excerpt
        Of `row`.
    prediction : float
    row : mapping
        As it was asked; names what `names` does not.
    names : mapping of int to str
        Feature key -> name, from the dictionary that training fills.
    """
    terms, spec = excerpt.contributions(), excerpt.spec
    own = dict(named_features(spec, row, excerpt.time_s))
    words = [names.get(key) or own.get(key) or f"{key:016x}" for key in terms.keys.tolist()]
    features: list[Feature] = []
    for index, field in enumerate(spec.fields):
        entries = [e for e, f in enumerate(terms.fields.tolist()) if f == index]
        features += [
            Feature(
                field=field.name, name=words[e], key=f"{int(terms.keys[e]):016x}", value=float(terms.values[e]),
                known=bool(terms.known[e]), contribution=float(terms.linear[e]),
            )
            for e in entries
        ] or [Feature(field=field.name, name=f"{field.name} missing")]  # fmt: skip
    rows, columns = terms.pairs.nonzero()
    pairs = [
        Pair(features=(words[i], words[j]), contribution=float(terms.pairs[i, j]))
        for i, j in zip(rows.tolist(), columns.tolist(), strict=True)
    ]
    pairs.sort(key=lambda pair: -abs(pair.contribution))
    return Explanation(
        model=spec.model_id, prediction=prediction, logit=terms.logit, bias=terms.bias, features=tuple(features),
        pairs=tuple(pairs),
    )  # fmt: skip


def picture(explanation: Explanation, *, most: int = 20) -> RenderableType:
    """Bars to the left of a middle line for what lowers the logit, to the right for what raises it.

    Parameters
    ----------
    explanation : Explanation
    most : int
        Features and pairs shown, the weightiest; the others are summed up in one line.
    """
    terms = [(feature.name, feature.contribution) for feature in explanation.features if feature.known]
    terms += [(" x ".join(pair.features), pair.contribution) for pair in explanation.pairs]
    terms.sort(key=lambda term: -abs(term[1]))
    shown, rest = terms[:most], terms[most:]
    lines = [("bias", explanation.bias), *shown]
    if rest:
        lines.append((f"{len(rest)} others", math.fsum(term for _, term in rest)))
    longest = max(abs(term) for _, term in lines[1:]) if lines[1:] else 0.0
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(overflow="ellipsis", no_wrap=True, max_width=60)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    for index, (name, term) in enumerate(lines):
        table.add_row(Text(name), f"{term:+.4f}", _bar(term, longest) if index else Text())
    table.add_row("logit", f"{explanation.logit:+.4f}", style="bold")
    paired = {name for pair in explanation.pairs for name in pair.features}
    nothing = [feature.name for feature in explanation.features if not feature.known and feature.name not in paired]
    parts: list[RenderableType] = [
        Text(f"{explanation.model}: prediction {explanation.prediction:.6g}", style="bold"), table,
    ]  # fmt: skip
    if nothing:
        parts.append(Text(f"missing or unknown, contributing nothing: {', '.join(nothing)}", style="dim"))
    return Group(*parts)


def _bar(term: float, longest: float) -> Text:
    cells = round(abs(term) / longest * BAR_CELLS) if longest else 0
    left, right = ("█" * cells, "") if term < 0 else ("", "█" * cells)
    return Text.assemble((left.rjust(BAR_CELLS), "red"), "│", (right.ljust(BAR_CELLS), "green"))
