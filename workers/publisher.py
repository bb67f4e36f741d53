"""What a learner has learned goes in, its cuts come into the store: when to cut, what the guard says, who sends it."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from ctr import metrics
from ctr.rows import ALL_SHARDS
from ctr.spec import Spec
from ctr.store import Cut, ModelWriter
from workers.committer import Committer, Pace
from workers.dead_letters import DeadLetters
from workers.guard import Gate
from workers.learner import Learner
from workers.lifecycle import Deadline
from workers.patience import Patience
from workers.pipeline import Clocks

AHEAD_INTERVALS, AHEAD_S = 10, 0.25
"""While a cut is under way learning goes on for so many commit intervals, and so long at least; then it waits for the
store, and reading waits for it: a crash would have all that learned again."""
CUT_BYTES = 1 << 30
"""Rows that are copied for the store at a time. Of more a cut is made in parts, over fewer shards at a time, and
learning waits until the last part is made; what one shard gets is never parted, so that learning waits before it is
more than this."""
_HEARTBEAT_S = 1.0
"""A shorter interval commits only what moved; at least so often something is committed, if only watermarks."""


class Publisher:
    """Makes cuts and has them sent, one at a time.

    Parameters
    ----------
    spec : Spec
    writer : ModelWriter
        Called by the committer's thread while a cut is under way.
    gate : Gate
    dead_letters : DeadLetters
    patience : Patience
    clocks : Clocks

    Attributes
    ----------
    committed : mapping of str to int
        Positions that the store is known to have.
    """

    def __init__(
        self, spec: Spec, writer: ModelWriter, gate: Gate, dead_letters: DeadLetters, patience: Patience, clocks: Clocks
    ) -> None:
        self._gate, self._dead_letters, self._patience, self._clocks = gate, dead_letters, patience, clocks
        self._committer = Committer(writer, patience.commit)
        interval_s = spec.commit.interval_ms / 1000
        self._pace = Pace(interval_s, spec.commit.rows_per_s)
        self._ahead_s = max(AHEAD_S, AHEAD_INTERVALS * interval_s)
        self.committed: Mapping[str, int] = {}
        self._of: Learner | None = None
        self._parts: deque[NDArray[np.bool_]] = deque()  # of the cut under way, those still to be made
        self._counts: Counter[str] = Counter()
        self._last_s = 0.0

    @property
    def busy(self) -> bool:
        """Whether a cut is under way, or its end has not been looked at."""
        return self._committer.busy

    @property
    def busy_s(self) -> float:
        """Seconds with a cut under way, in all."""
        return self._committer.busy_s

    def forget(self) -> None:
        """Nothing is known of what the store has, and what was learned is let go: a stand-by loads it anew."""
        self.committed, self._of = {}, None
        self._parts.clear()

    def has_moved(self, learner: Learner) -> bool:
        """Whether there is anything that the store does not have."""
        return learner.model.dirty_rows > 0 or learner.positions != self.committed

    def is_due(self, learner: Learner, now: float) -> bool:
        """Whether a cut may be made now, by the monotonic clock, and has something to say."""
        beats = self.has_moved(learner) or self._pace.since_s(now) >= _HEARTBEAT_S
        return beats and not self.busy and self._pace.is_due(now, learner.model.dirty_rows)

    def wait_s(self, now: float) -> float:
        """Time until the interval is over."""
        return self._pace.wait_s(now)

    def is_behind(self, learner: Learner) -> bool:
        """Whether learning on would only make the next cut larger, or what a crash costs."""
        too_many = learner.waiting_bytes > CUT_BYTES * learner.shards
        return too_many or bool(self._parts) or self._committer.under_way_s > self._ahead_s

    def cut(self, learner: Learner, deadline: Deadline | None = None) -> None:
        """Freeze what was learned and begin to publish it, unless the guard speaks against it.

        Dead letters first: an event must never be counted as done and be nowhere.
        """
        self._patience(self._dead_letters.flush, deadline)
        began = time.perf_counter()
        first, *others = parts(learner.waiting_bytes, learner.shards)
        self._of, self._parts = learner, deque(others)
        cut = learner.cut(first)
        passes = self._gate.passes(cut, chain.from_iterable(map(learner.model.dirty_blocks, others)))
        self._clocks.busy_s["pack"] += time.perf_counter() - began
        if passes:
            self.publish(cut)

    def publish(self, cut: Cut) -> None:
        """Begin to send a cut that the guard, or an operator, lets pass."""
        self._pace.made(time.monotonic())
        self._committer.send(cut)

    def ended(self) -> Cut | None:
        """The cut that was acknowledged since the last call, if one was; errors are those of `Committer.ended`."""
        return self._noted(self._committer.ended())

    def wait(self, timeout_s: float) -> Cut | None:
        """Wait for the cut under way; errors are those of `Committer.wait`."""
        deadline = Deadline(timeout_s)
        while (cut := self._noted(self._committer.wait(deadline.remaining))) is None and self.busy:
            pass
        return cut

    def _noted(self, cut: Cut | None) -> Cut | None:
        """The cut, if this was all of it; else its next part is made and sent."""
        if cut is None:
            return None
        self._counts.update(rows=len(cut.rows), gone=len(cut.gone))
        if self._of is not None:
            self._of.model.reuse(cut.rows)
            if self._parts:
                began = time.perf_counter()
                self._committer.send(self._of.cut(self._parts.popleft()))
                self._clocks.busy_s["pack"] += time.perf_counter() - began
                return None
        self.committed = cut.offsets
        self._last_s = time.time()
        self._counts["commits"] += 1
        self._gate.remember()
        return cut

    def numbers(self) -> dict[str, metrics.Value]:
        """Its metrics."""
        return {
            "ctr_commits": float(self._counts["commits"]),
            "ctr_commit_retries": float(self._patience.failures),
            "ctr_commit_rows": float(self._counts["rows"]),
            "ctr_commit_gone": float(self._counts["gone"]),
            "ctr_commit_last_seconds": self._last_s,
            "ctr_commit_interval_seconds": self._pace.settled_s,
            "ctr_commit_under_way_seconds": self._committer.under_way_s,
            "ctr_store_up": float(self._patience.store_up),
        }


def parts(waiting_bytes: int, shards: int) -> list[NDArray[np.bool_]]:
    """Which shards get their rows at a time, (shards,) bool each: as many as share `CUT_BYTES`, and one at least.

    In ascending order: shard 0 has to know a partition first.

    Examples
    --------
    >>> [np.flatnonzero(chosen).tolist() for chosen in parts(3 * CUT_BYTES, 8)]
    [[0, 1], [2, 3], [4, 5], [6, 7]]
    >>> parts(CUT_BYTES, 8) == [ALL_SHARDS]
    True
    """
    if waiting_bytes <= CUT_BYTES:
        return [ALL_SHARDS]
    at_once = max(1, shards * CUT_BYTES // waiting_bytes)
    part_of = np.arange(shards) // at_once
    return [part_of == part for part in range(part_of[-1] + 1)]
