"""Batches in order go in, cuts for the store come out: the loop that learns, and decides when to publish.

A turn looks after the cut under way, makes the next one where it is due, and learns one chunk, or waits where the store
is too far behind. A commit carries rows, positions and watermarks in one transaction, so that each event counts exactly
once whatever is killed when. Before all that, and after it where another took the model over, it stands by.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

import ctr
from ctr import log, metrics
from ctr.errors import (
    CtrError,
    FencedError,
    GuardRefusedError,
    ServerWentBackError,
    ShardLostError,
    SourceUnavailableError,
)
from ctr.events import encode_rows, open_reader
from ctr.events.messages import Messages, Refusal
from ctr.kernels import simd
from ctr.model import Model
from ctr.model.table import Table
from ctr.quality import Progressive
from ctr.spec import Spec
from ctr.store import GuardRecord, Lease, ModelWriter
from workers.dead_letters import DeadLetters, RefusalLimit
from workers.follower import Follower
from workers.guard import Gate
from workers.heartbeat import Heartbeat
from workers.learner import Learner
from workers.lifecycle import Deadline, Shutdown
from workers.names import NameTaker, SliceNamer
from workers.patience import GRACE_S, Patience
from workers.pipeline import Chunk, Clocks, Pipeline
from workers.progress import Progress
from workers.publisher import Publisher
from workers.sources import Source
from workers.standby import Standby
from workers.takeover import TakeOver

ROLES = ("standby", "writer")
_STUCK_S = 60.0
"""A loop that did not turn for so long is not alive."""
_HUNG_S = 15.0
"""A loop that did not turn for so long gives its lease up: longer than any step of it takes."""
_TURN_S = 0.1
"""A turn of the loop waits no longer than this for something to learn."""
_BLOCKED_S = 0.02
"""Between two looks whether the store has caught up."""


def warm_up(spec: Spec) -> None:
    """Compile every kernel that reading, learning and judging take, on what is thrown away.

    Once a trainer is the writer it learns at once: a stand-by would else compile while nobody learns.
    """
    at, line = np.zeros(1, np.int64), b"{}"
    open_reader(spec).read(Messages(line, at, at + len(line), at.astype(np.int32), at + 1, np.zeros(1)))
    model = Model(spec, max_rows=1024)
    model.warm_up()
    Progressive(spec, 1000).warm_up(encode_rows(spec, [{}], times_s=0.0), model.take_dirty())


class Trainer:
    """One writer of one model, or a stand-by of it.

    Parameters
    ----------
    spec : Spec
    source : Source
    writer : ModelWriter
    lease : Lease
    open_follower : callable
        Makes what keeps a stand-by warm.
    dead_letters : DeadLetters
    shutdown : Shutdown
    limit : RefusalLimit
        When so many events cannot be read that learning on makes no sense.
    outage_limit_s : float
        How long a service may be away before the worker gives up.
    window : int
        Events over which quality is measured.
    scan_threads : int
        Threads that read events ahead of the learner; 0: it reads them itself.
    stand_by_when_fenced : bool
        Stand by when another writer has taken the model over, instead of ending.
    names : NameTaker, optional
        Offered every message that is learned.
    record : GuardRecord
        Where the guard says why it holds a cut back, and is told what to do.
    end_when_refused : bool
        End when the guard holds a cut back, instead of waiting for an operator: where the source ends by itself.
    """

    def __init__(
        self, spec: Spec, source: Source, writer: ModelWriter, lease: Lease, open_follower: Callable[[], Follower],
        dead_letters: DeadLetters, shutdown: Shutdown, *, limit: RefusalLimit, outage_limit_s: float, window: int,
        scan_threads: int, record: GuardRecord, stand_by_when_fenced: bool = False, names: NameTaker | None = None,
        end_when_refused: bool = False,
    ) -> None:  # fmt: skip
        self._spec, self._source = spec, source
        self._dead_letters, self._shutdown = dead_letters, shutdown
        self._limit, self._outage_limit_s = limit, outage_limit_s
        self._stand_by_when_fenced = stand_by_when_fenced
        self._reader, self._scan_threads = open_reader(spec), scan_threads
        self._clocks, self._names = Clocks(), names
        self._log = log.get(worker="trainer", model=spec.model_id)
        self._pipeline: Pipeline | None = None
        self._source_is_ours = True
        self._patiently = Patience(shutdown, outage_limit_s, self._turn_over, self._log)
        self._lease, self._heartbeat = lease, Heartbeat(lease, lambda: self._idle_s < _HUNG_S)
        self._standby = Standby(lease, open_follower, shutdown, self._turn_over, self._log)
        self._quality = Progressive(spec, window)
        self._gate, self._end_when_refused = Gate(self._quality.guard, record, self._log), end_when_refused
        self._name_slices = SliceNamer(spec, self._reader.parse, self._quality.windows.slices)
        self._take_over = TakeOver(
            spec, source, writer, self._quality, self._patiently, self._turn_over, self._log
        )  # fmt: skip
        self._publisher = Publisher(spec, writer, self._gate, dead_letters, self._patiently, self._clocks)
        self._role = "standby"
        self._is_warmed_up = False
        self._learner: Learner | None = None
        self._turned = time.monotonic()
        self._is_ready = False
        self._source_up = True
        self._counts: Counter[str] = Counter()

    def run(self) -> None:
        """Until the source is finished or a stop was asked for."""
        if self._names is not None:
            self._names.start()
        with Progress(self.summary, self._done) as bar:
            while not self._shutdown.requested and not self._finished:
                try:
                    if self._role == "standby":
                        self._stand_by()
                    else:
                        self._turn()
                except FencedError as error:
                    self._give_way(error)
                bar.update()
        self._log.info("stopping", reason="signal" if self._shutdown.requested else "all is read")
        if self._role == "writer":
            self._stop()
        self._log.info("stopped", **self.summary())

    def _done(self) -> int:
        return 0 if self._learner is None else sum(self._learner.positions.values())

    @property
    def _finished(self) -> bool:
        return self._learner is not None and self._learner.standing.finished

    # ---- roles ------------------------------------------------------------------------------------------------------

    def _stand_by(self) -> None:
        """Wait until the model is ours to write, then become its writer."""
        if not self._is_warmed_up:  # before the lease: compiling takes longer than a lease lasts
            warm_up(self._spec)
            self._is_warmed_up = True
        warm = self._patiently(self._standby.wait)
        if not self._shutdown.requested:
            self._heartbeat.start()
            self._recover(warm=warm)

    def _give_way(self, error: FencedError) -> None:
        """Another writer has the model. Nothing of ours may be written any more.

        Raises
        ------
        FencedError
            Where a fenced trainer is to end.
        """
        self._end_pipeline()
        if self._patiently(self._heartbeat.look):
            # the lease says that it is our turn: a server that lost its last commits has an old owner's token, too
            self._log.warning("server_went_back", error=str(error))
            self._recover()
            return
        self._counts["fenced"] += 1
        self._gate.let_go()
        self._is_ready = False
        if not self._stand_by_when_fenced:
            raise error
        self._log.warning("fenced", error=str(error), next="this trainer stands by")
        self._publisher.forget()
        self._role, self._learner = "standby", None

    def _recover(self, *, warm: Follower | None = None, skip_to: Mapping[str, int] | None = None) -> None:
        """Become the writer, and again, should the store go back while we do.

        What was learned and is not in the store is learned again: the log still has it. With `skip_to` what lies before
        these positions is forgotten and left out.
        """
        self._is_ready = False
        self._end_pipeline()
        while True:
            try:
                self._quality.settle()
                self._patiently(partial(self._gate.begin, again=self._role == "writer"))
                memory = self._learner if skip_to is None else None
                self._learner = self._take_over.run(warm=warm, memory=memory, skip_to=skip_to)
                self._role = "writer"
                self._publisher.forget()
                self._publisher.cut(self._learner)
                while self._publisher.busy:
                    self._turn_over()
                    self._publisher.ended()
                    time.sleep(_BLOCKED_S / 10)
                break
            except ServerWentBackError as error:
                self._log.warning("server_went_back", error=str(error))
                warm = None
        self._pipeline = Pipeline(
            self._source, self._reader, threads=self._scan_threads, outage_limit_s=self._outage_limit_s,
            clocks=self._clocks,
        )  # fmt: skip
        self._pipeline.start()
        self._is_ready = True

    def _end_pipeline(self) -> None:
        if not self.stop_reading():
            raise SourceUnavailableError("the source has not ended its last read: nothing can be asked of it")

    def stop_reading(self) -> bool:
        """End the pipeline. Whether its source may be used, and closed, by this thread now."""
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            self._source_is_ours = pipeline.stop()
        return self._source_is_ours

    def _stop(self) -> None:
        """Stop reading, then publish what was learned; what was read ahead is dropped, the log still has it."""
        deadline = Deadline(GRACE_S)
        source_is_ours = self.stop_reading()
        try:
            self._publisher.wait(deadline.remaining)
            if self._learner is not None and not self._gate.refusing:
                self._publisher.cut(self._learner, deadline)
            self._publisher.wait(deadline.remaining)
        except ServerWentBackError as error:
            self._log.warning("server_went_back", error=str(error), next="the next start reads the log again")
        else:
            self._gate.remember(at_once=True)
            self.release()  # a stand-by goes on at once
            if source_is_ours:
                self._source.committed(self._publisher.committed)
            if self._names is not None:  # the store answers
                self._names.stop()
        if self._gate.refusing and self._end_when_refused:
            raise self._refused()

    def release(self) -> None:
        """Let another have the lease, if it is ours and the store answers; else it is over by itself."""
        self._heartbeat.stop()
        with contextlib.suppress(CtrError):
            self._lease.release()

    # ---- learning ---------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._turn_over()
        now, learner = self._turned, self._learner
        assert learner is not None, "a writer has one"
        try:
            acknowledged = self._publisher.ended()
        except (ServerWentBackError, ShardLostError) as error:
            if not self._patiently(self._heartbeat.look):
                raise FencedError(f"{error}; and another trainer holds the lease") from error
            self._log.warning("server_went_back", error=str(error))
            self._recover()
            return
        assert self._pipeline is not None, "made by _recover"
        if acknowledged is not None:
            self._pipeline.committed(acknowledged.offsets)
        if self._gate.refusing:
            self._await_decision()
            return
        moved = self._publisher.has_moved(learner)
        if self._publisher.is_due(learner, now):
            self._publisher.cut(learner)
        if self._publisher.is_behind(learner):
            self._shutdown.wait(_BLOCKED_S)
            self._clocks.waited_s["learn", "blocked"] += time.monotonic() - now
            return
        self._look_at_source(self._pipeline)
        until_cut_s = self._publisher.wait_s(now) if moved else _TURN_S
        chunk = self._pipeline.take(min(_TURN_S, max(0.001, until_cut_s)))
        if chunk is not None:
            self._learn(learner, chunk)

    def _await_decision(self) -> None:
        """A cut is held back: nothing is learned, so that reading stops too, until an operator says what to do."""
        if self._end_when_refused:
            raise self._refused()
        began = time.monotonic()
        decision = self._patiently(self._gate.decision)
        if decision is None:
            self._shutdown.wait(_TURN_S)
        elif not self._patiently(self._heartbeat.look):
            raise FencedError("another trainer holds the lease: the decision about a cut is not ours to act on")
        elif decision.what == "discard":
            self._recover(skip_to=self._patiently(lambda: self._gate.discard(decision, self._publisher.committed)))
        else:
            self._publisher.publish(self._patiently(self._gate.resume))
        self._clocks.waited_s["learn", "blocked"] += time.monotonic() - began

    def _refused(self) -> GuardRefusedError:
        return GuardRefusedError(
            "the guard holds back what was learned last, and nothing of it was written: the log line cut_refused says "
            "why; mend the events, or set guard.enabled = false"
        )

    def _turn_over(self) -> None:
        self._turned = time.monotonic()

    def _look_at_source(self, pipeline: Pipeline) -> None:
        if self._source_up and not pipeline.source_up:
            self._log.warning("source_down", error=pipeline.source_said or "no reply")
        elif pipeline.source_up and not self._source_up:
            self._log.info("source_up")
        self._source_up = pipeline.source_up

    def _learn(self, learner: Learner, chunk: Chunk) -> None:
        """Learn a chunk, and keep what cannot be."""
        batch, refusals, partitions = chunk.batch, chunk.refusals, chunk.standing.partitions
        began = time.perf_counter()
        if chunk.messages is not None and batch is not None:
            self._limit.count(len(batch), refusals)
            if self._names is not None:
                self._names.offer(chunk.messages)
            if refusals:
                self._dead_letters.put(refusals, chunk.messages, partitions)
            held_out = int(np.count_nonzero(batch.weights == 0))
            self._counts.update(learned=len(batch) - held_out, held_out=held_out, refused=len(refusals))
            if refusals:
                self._say_refused(refusals[-1], partitions)
        learner.learn(chunk)
        if self._quality.windows.slices.unnamed and chunk.messages is not None and batch is not None:
            self._name_slices(batch, chunk.messages)
        self._clocks.busy_s["learn"] += time.perf_counter() - began

    def _say_refused(self, example: Refusal, partitions: Sequence[str]) -> None:
        self._log.warning(
            "refused", reason=example.reason, path=example.path, message=example.message,
            partition=partitions[example.partition], offset=example.offset, so_far=self._counts["refused"],
        )  # fmt: skip

    # ---- what others ask --------------------------------------------------------------------------------------------

    @property
    def _idle_s(self) -> float:
        return time.monotonic() - self._turned

    @property
    def role(self) -> str:
        """One of `ROLES`."""
        return self._role

    @property
    def table(self) -> Table | None:
        """What a writer has learned, to be looked at while it learns on; None of a stand-by."""
        return None if self._learner is None else self._learner.model.table

    def live(self) -> str | None:
        """None while the loop turns, else what is wrong."""
        return None if self._idle_s < _STUCK_S else f"the loop has not turned for {self._idle_s:.0f} s"

    def ready(self) -> str | None:
        """None once rows are loaded, kernels are warm and the first commit is acknowledged; of a stand-by: its rows."""
        if self._shutdown.requested:
            return "stopping"
        if not (self._is_ready or self._standby.warm):
            return "loading"
        if self._gate.refusing:
            return f"the guard holds a cut back and nothing is learned: ctr guard {self._spec.model_id}"
        return None if self._patiently.store_up else "the store does not answer"

    def summary(self) -> dict[str, Any]:
        """Where we stand, for progress and logs."""
        quality, learner = self._quality.windows.measure(), self._learner
        figures = {"logloss": quality.logloss, "normalized_entropy": quality.normalized_entropy, "auc": quality.auc}
        if self._spec.model.loss == "squared":
            figures = {"rmse": quality.rmse, "mean_label": quality.base_rate}
        return {
            "events": self._counts["learned"],
            "refused": self._counts["refused"],
            "rows": self._standby.rows if learner is None else learner.model.rows,
            # JSON has no NaN
            **{name: round(value, 5) if np.isfinite(value) else None for name, value in figures.items()},
            "lag": 0 if learner is None else sum(learner.standing.lag.values()),
        }

    def numbers(self) -> Mapping[str, metrics.Value]:
        """Every metric of `ctr.metrics.TRAINER`, as it stands now."""
        counts, pipeline, learner = self._counts, self._pipeline, self._learner
        busy_s = {**self._clocks.busy_s, "commit": self._publisher.busy_s}
        queued, names = {} if pipeline is None else pipeline.queued_events(), self._names
        return {
            "ctr_build_info": {(ctr.__version__, self._spec.model_id, simd.ISA): 1.0},
            "ctr_role": {(role,): float(role == self._role) for role in ROLES},
            "ctr_lease_held": float(self._heartbeat.held),
            "ctr_ready": float(self.ready() is None),
            "ctr_fenced": float(counts["fenced"]),
            "ctr_events": {(result,): float(counts[result]) for result in ("learned", "held_out", "refused")},
            "ctr_dead_letters": {(reason,): float(n) for reason, n in dict(self._dead_letters.counts).items()},
            "ctr_source_up": float(self._source_up),
            "ctr_stage_seconds": {(stage,): seconds for stage, seconds in busy_s.items()},
            "ctr_stage_wait_seconds": dict(self._clocks.waited_s),
            "ctr_queue_events": {(stage,): float(events) for stage, events in queued.items()},
            "ctr_queue_bytes": 0.0 if pipeline is None else float(pipeline.queued_bytes),
            "ctr_names": {(result,): float(n) for result, n in ({} if names is None else dict(names.counts)).items()},
            **self._publisher.numbers(),
            **self._gate.numbers(),
            **({} if learner is None else learner.numbers()),
        }
