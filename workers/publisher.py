"""What a learner has learned goes in, its cuts come into the store: when to cut, what the guard says, who sends it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from ctr import metrics
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
"""Rows that wait for a cut at most: they are copied when it is made. Learning waits where a cut may not be made yet."""
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
        return learner.waiting_bytes > CUT_BYTES or self._committer.under_way_s > self._ahead_s

    def cut(self, learner: Learner, deadline: Deadline | None = None) -> None:
        """Freeze what was learned and begin to publish it, unless the guard speaks against it.

        Dead letters first: an event must never be counted as done and be nowhere.
        """
        self._patience(self._dead_letters.flush, deadline)
        began = time.perf_counter()
        cut, self._of = learner.cut(), learner
        passes = self._gate.passes(cut)
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
        return self._noted(self._committer.wait(timeout_s))

    def _noted(self, cut: Cut | None) -> Cut | None:
        if cut is not None:
            self.committed = cut.offsets
            self._last_s = time.time()
            self._counts.update(commits=1, rows=len(cut.rows), gone=len(cut.gone))
            self._gate.remember()
            if self._of is not None:
                self._of.model.reuse(cut.rows)
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
