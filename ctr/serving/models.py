"""A name, as a request gives it, in; the scorer that answers for it out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ctr.serving.asgi import HttpError
from ctr.serving.scorer import Scorer


class Models:
    """The models of one process, each followed by a scorer of its own.

    Parameters
    ----------
    scorers : sequence of Scorer
        Started by the caller.
    """

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        self._by_name = {scorer.name: scorer for scorer in scorers}

    def __iter__(self) -> Iterator[Scorer]:
        return iter(self._by_name.values())

    def find(self, params: Mapping[str, str]) -> Scorer:
        """Scorer of ``{model}``, by the name it was given, ``name@generation``, or ``name`` and ``{version}``.

        Raises
        ------
        HttpError
            404.
        """
        name = params["model"]
        if (version := params.get("version")) is not None:
            name = f"{name}@{version}"
        scorer = self._by_name.get(name)
        if scorer is None:
            scorer = next((one for one in self if name in (one.model_id, one.spec.name)), None)
        if scorer is None:
            served = ", ".join(scorer.model_id for scorer in self)
            raise HttpError(404, f"model {name[:200]!r} is not served here, {served} is")
        return scorer

    def live(self) -> str | None:
        """None, or why this process should be restarted."""
        return next(filter(None, (scorer.live() for scorer in self)), None)

    def ready(self) -> str | None:
        """None once requests to every model can be answered well, else what is still missing."""
        return next(filter(None, (scorer.ready() for scorer in self)), None)

    def stale(self, limit_s: float) -> str | None:
        """None, or which answers may be older than `limit_s`, and why."""
        return next(filter(None, (scorer.current.stale(limit_s) for scorer in self)), None)

    def too_old(self, limit_s: float) -> str | None:
        """None, or whose staleness is above `limit_s`, whatever the reason."""
        for scorer in self:
            if (staleness_s := scorer.staleness_s()) > limit_s:
                return f"{scorer.model_id}: staleness is {staleness_s:.1f} s, above {limit_s:g} s"
        return None
