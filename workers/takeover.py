"""A store and a source go in, a learner that stands where the store stands comes out; or the store is written anew.

Two sides can lose. A store that lost its last commits (a fail-over) is read again, and the log has the events that it
lacks. A store that lost more than the log still holds, up to all, is written anew from the rows in memory, which are
then the only good copy: so a learner is not given up before the source is open where the store stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from ctr.errors import PositionLostError, ShardLostError
from ctr.model import Model
from ctr.quality import Progressive
from ctr.spec import Spec
from ctr.store import ModelWriter, Resume, resume
from workers.follower import Follower
from workers.learner import Learner
from workers.pipeline import Standing
from workers.sources import Source

T = TypeVar("T")


class Patiently(Protocol):
    """Calls an action again, through outages."""

    def __call__(self, action: Callable[[], T], /) -> T:
        """Its result, at last."""


class TakeOver:
    """Becomes a model's writer.

    Parameters
    ----------
    spec : Spec
    source : Source
        Nobody else reads it meanwhile.
    writer : ModelWriter
    quality : Progressive
        For the learner.
    patiently : Patiently
    turned : callable
        Called whenever something has come forward.
    logger : structlog logger
    """

    def __init__(
        self, spec: Spec, source: Source, writer: ModelWriter, quality: Progressive, patiently: Patiently,
        turned: Callable[[], None], logger: Any,
    ) -> None:  # fmt: skip
        self._spec, self._source, self._writer, self._quality = spec, source, writer, quality
        self._patiently, self._turned, self._log = patiently, turned, logger

    def run(
        self, *, warm: Follower | None, memory: Learner | None, skip_to: Mapping[str, int] | None = None
    ) -> Learner:
        """Become the writer.

        Parameters
        ----------
        warm : Follower, optional
            Has the rows already.
        memory : Learner, optional
            What this process had learned as the writer; writes the store anew if there is no other way.
        skip_to : mapping of str to int, optional
            Positions before which the log is left out, where the store is behind them.

        Raises
        ------
        ShardLostError, PositionLostError
            Without `memory`: store and log do not have all events between them.
        """
        try:
            return self._from_store(warm, skip_to or {})
        except (ShardLostError, PositionLostError) as error:
            if memory is None:
                raise
            self._log.error("store_lost", error=str(error), next="it is written anew from memory")
            return self._from_memory(memory)

    def _from_store(self, warm: Follower | None, skip_to: Mapping[str, int]) -> Learner:
        """In this order: a trainer that cannot run harms none that does, and a good table is not given up."""
        seen = resume(self._patiently(self._writer.look))
        self._patiently(lambda: self._source.open(seen.offsets, seen.furthest))
        start = resume(self._patiently(self._writer.take_over))
        ahead = {name: max(at, skip_to.get(name, 0)) for name, at in start.offsets.items()}
        if ahead != seen.offsets:
            self._patiently(lambda: self._source.open(ahead, start.furthest))
        model = None if warm is None else self._patiently(lambda: warm.hand_over(self._writer.versions))
        learner = self._learner(model or self._loaded(), start, warm=model is not None)
        learner.left_out = {name: (at, ahead[name]) for name, at in start.offsets.items() if ahead[name] > at}
        return learner

    def _loaded(self) -> Model:
        model = Model(self._spec)

        def load() -> None:
            for block in self._writer.load():
                model.load(block)
                self._turned()

        self._patiently(load)
        return model

    def _learner(self, model: Model, start: Resume, *, warm: bool) -> Learner:
        standing = Standing.of(self._source, self._source.lag())
        self._log.info(
            "recovered", versions=sorted({str(version) for version in self._writer.versions}), rows=model.rows,
            partitions=len(standing.partitions), shards_level=start.level, warm=warm, isa=model.kernel_path,
        )  # fmt: skip
        return Learner(model, start, standing, self._quality)

    def _from_memory(self, memory: Learner) -> Learner:
        """Nothing is lost: rows in memory are ahead of all that was ever stored, and reading goes on behind them."""
        standing, gaps = memory.standing, memory.gaps
        furthest = {name: (at, standing.marks.get(name, "")) for name, at in standing.positions.items()}
        self._patiently(lambda: self._source.open(standing.positions, furthest))
        memory.model.settle()
        reached, model = memory.reached(), memory.model
        self._patiently(lambda: self._writer.rewrite(
            model.blocks, reached, memory.origins, memory.watermarks, marks=standing.marks, gaps=gaps
        ))  # fmt: skip
        start = Resume(dict(standing.positions), tuple(reached), memory.watermarks, furthest, gaps)
        return self._learner(model, start, warm=True)
