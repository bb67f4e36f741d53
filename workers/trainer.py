"""Batches in order go in, cuts for the store come out: the loop that learns, and decides when to publish.

A turn looks after the cut under way, makes the next one where it is due, and learns one chunk, or waits where the store
is too far behind. A commit carries rows, positions and watermarks in one transaction, so that each event counts exactly
once whatever is killed when.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import ctr
from ctr import log, metrics
from ctr.errors import CtrError, ServerWentBackError, SourceUnavailableError
from ctr.events import Batch, encode_rows, open_reader
from ctr.events.hashing import partition_salts
from ctr.events.messages import Refusal
from ctr.model import Model
from ctr.model.replay import Replay
from ctr.quality import Window
from ctr.spec import Spec
from ctr.store import Cut, ModelWriter, Watermarks, resume
from workers.committer import Committer, Pace
from workers.dead_letters import DeadLetters, RefusalLimit
from workers.lifecycle import Deadline, Shutdown, retry
from workers.names import NameTaker
from workers.pipeline import Chunk, Clocks, Pipeline, Standing
from workers.progress import Progress
from workers.sources import Source

T = TypeVar("T")

AHEAD_INTERVALS, AHEAD_S = 10, 0.25
"""While a cut is under way learning goes on for so many commit intervals, and so long at least; then it waits for the
store, and reading waits for it: a crash would have all that learned again."""
CUT_BYTES = 1 << 30
"""Rows that wait for a cut at most: they are copied when it is made. Learning waits where a cut may not be made yet."""
_STUCK_S = 60.0
"""A loop that did not turn for so long is not alive."""
_HEARTBEAT_S = 1.0
"""A shorter interval commits only what moved; at least so often something is committed, if only watermarks."""
_GRACE_S = 10.0
"""Budget of a graceful stop."""
_TURN_S = 0.1
"""A turn of the loop waits no longer than this for something to learn."""
_BLOCKED_S = 0.02
"""Between two looks whether the store has caught up."""
_SAY_S = 1.0
"""Least time between two log lines about refused events."""


def warm_up(spec: Spec) -> None:
    """Compile every kernel that learning takes, on a model that is thrown away."""
    encode_rows(spec, [{}], times_s=0.0)
    Model(spec, max_rows=1024).warm_up()


class Trainer:
    """One writer of one model.

    Parameters
    ----------
    spec : Spec
    source : Source
    writer : ModelWriter
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
    names : NameTaker, optional
        Offered every message that is learned.
    """

    def __init__(
        self, spec: Spec, source: Source, writer: ModelWriter, dead_letters: DeadLetters, shutdown: Shutdown, *,
        limit: RefusalLimit, outage_limit_s: float, window: int, scan_threads: int,
        names: NameTaker | None = None,
    ) -> None:  # fmt: skip
        self._spec, self._source, self._writer = spec, source, writer
        self._dead_letters, self._shutdown = dead_letters, shutdown
        self._limit, self._outage_limit_s = limit, outage_limit_s
        self._reader, self._scan_threads = open_reader(spec), scan_threads
        self._clocks, self._names = Clocks(), names
        self._pipeline: Pipeline | None = None
        self._source_is_ours = True
        self._committer = Committer(writer, self._send)
        interval_s = spec.commit.interval_ms / 1000
        self._pace = Pace(interval_s, spec.commit.rows_per_s)
        self._ahead_s = max(AHEAD_S, AHEAD_INTERVALS * interval_s)
        self._model = Model(spec)
        self._window = Window(window)
        self._log = log.get(worker="trainer", model=spec.model_id)
        self._standing = Standing((), {}, 0.0, {}, finished=False)
        self._origins: dict[str, int] = {}
        self._known: set[str] = set()
        self._replay: Replay | None = None
        self._salts = partition_salts(())
        self._event_s = self._arrival_s = 0.0
        self._committed: Mapping[str, int] = {}
        self._turned = time.monotonic()
        self._unsaid, self._say_due = 0, 0.0
        self._is_ready = False
        self._store_up = self._source_up = True
        self._counts: Counter[str] = Counter()
        self._last_commit_s = 0.0

    def run(self) -> None:
        """Until the source is finished or a stop was asked for."""
        self._recover()
        if self._names is not None:
            self._names.start()
        with Progress(self.summary, lambda: sum(self._standing.positions.values())) as progress:
            while not self._shutdown.requested and not self._standing.finished:
                self._turn()
                progress.update()
        self._log.info("stopping", reason="signal" if self._shutdown.requested else "all is read")
        self._stop()
        self._log.info("stopped", **self.summary())

    def _stop(self) -> None:
        """Stop reading, then publish what was learned; what was read ahead is dropped, the log still has it."""
        deadline = Deadline(_GRACE_S)
        source_is_ours = self.stop_reading()
        try:
            self._acknowledge(self._committer.wait(deadline.remaining))
            self._cut(deadline)
            self._acknowledge(self._committer.wait(deadline.remaining))
        except ServerWentBackError as error:
            self._log.warning("server_went_back", error=str(error), next="the next start reads the log again")
        else:
            if source_is_ours:
                self._source.committed(self._committed)
            if self._names is not None:  # the store answers
                self._names.stop()

    def stop_reading(self) -> bool:
        """End the pipeline. Whether its source may be used, and closed, by this thread now."""
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            self._source_is_ours = pipeline.stop()
        return self._source_is_ours

    def _recover(self) -> None:
        """Become the writer; again, should the store go back while we do."""
        while True:
            try:
                self._take_over()
                return
            except ServerWentBackError as error:
                # nothing of ours is lost: the log still has it, and the stored positions say from where
                self._log.warning("server_went_back", error=str(error))

    def _take_over(self) -> None:
        """Become the writer, once the source can be read from where the store is.

        In this order: a trainer that cannot run harms none that does, and a good table is not given up for nothing.
        """
        self._is_ready = False
        if not self.stop_reading():
            raise SourceUnavailableError("the source has not ended its last read: nothing can be asked of it")
        warm_up(self._spec)
        offsets = resume(self._patiently(self._writer.look)).offsets
        self._patiently(lambda: self._source.open(offsets))
        start = resume(self._patiently(self._writer.take_over))
        if start.offsets != offsets:
            self._patiently(lambda: self._source.open(start.offsets))
        self._model = Model(self._spec)
        self._patiently(self._load)
        self._replay = None if start.level else Replay(self._model, start.stored)
        self._salts = partition_salts(())
        self._event_s, self._arrival_s = start.watermarks.event_s, start.watermarks.arrival_s
        self._standing = Standing.of(self._source, self._source.lag())
        self._origins = {name: at for name, at in self._standing.positions.items() if name not in start.offsets}
        self._known = {*start.offsets, *self._origins}
        self._committed = {}
        self._log.info(
            "recovered", versions=[str(version) for version in self._writer.versions], rows=self._model.rows,
            partitions=len(self._standing.partitions), shards_level=start.level, isa=self._model.kernel_path,
        )  # fmt: skip
        self._cut()
        while self._committer.busy:
            self._turned = time.monotonic()
            self._acknowledge(self._committer.ended())
            time.sleep(_BLOCKED_S / 10)
        self._pipeline = Pipeline(
            self._source, self._reader, threads=self._scan_threads, outage_limit_s=self._outage_limit_s,
            clocks=self._clocks,
        )  # fmt: skip
        self._pipeline.start()
        self._is_ready = True

    def _load(self) -> None:
        for block in self._writer.load():
            self._model.load(block)
            self._turned = time.monotonic()

    def _turn(self) -> None:
        now = self._turned = time.monotonic()
        try:
            self._acknowledge(self._committer.ended())
        except ServerWentBackError as error:
            self._log.warning("server_went_back", error=str(error))
            self._recover()
            return
        moved = self._model.dirty_rows > 0 or self._standing.positions != self._committed
        beats = moved or self._pace.since_s(now) >= _HEARTBEAT_S
        if beats and not self._committer.busy and self._pace.is_due(now, self._model.dirty_rows):
            self._cut()
        if self._is_too_far_ahead():
            self._shutdown.wait(_BLOCKED_S)
            self._clocks.waited_s["learn", "blocked"] += time.monotonic() - now
            return
        assert self._pipeline is not None, "made by _recover"
        self._look_at_source(self._pipeline)
        until_cut_s = self._pace.wait_s(now) if moved else _TURN_S
        chunk = self._pipeline.take(min(_TURN_S, max(0.001, until_cut_s)))
        if chunk is not None:
            self._learn(chunk)

    def _is_too_far_ahead(self) -> bool:
        """Whether learning on would only make the next cut larger, or what a crash costs."""
        too_much = self._model.dirty_rows * self._model.row_bytes > CUT_BYTES
        return too_much or self._committer.under_way_s > self._ahead_s

    def _look_at_source(self, pipeline: Pipeline) -> None:
        if self._source_up and not pipeline.source_up:
            self._log.warning("source_down", error=pipeline.source_said or "no reply")
        elif pipeline.source_up and not self._source_up:
            self._log.info("source_up")
        self._source_up = pipeline.source_up

    def _learn(self, chunk: Chunk) -> None:
        """Learn a chunk; from here on the positions behind it are ours."""
        batch, refusals, standing = chunk.batch, chunk.refusals, chunk.standing
        began = time.perf_counter()
        if len(self._salts) < len(standing.partitions):
            self._salts = partition_salts(standing.partitions)
        if chunk.messages is not None and batch is not None:
            self._limit.count(len(batch), refusals)
            if self._names is not None:
                self._names.offer(chunk.messages)
            p = self._learn_batch(batch, standing.partitions)
            judged = np.isfinite(p)
            self._window.add(p[judged], batch.labels[judged])
            if len(batch):
                self._event_s = max(self._event_s, float(np.max(batch.times_s)))
            if refusals:
                self._dead_letters.put(refusals, chunk.messages, standing.partitions)
                self._say_refused(refusals, standing.partitions)
            held_out = int(np.count_nonzero(batch.weights == 0))
            self._counts.update(learned=len(batch) - held_out, held_out=held_out, refused=len(refusals))
        self._stand(standing)
        # until the source knows better, what the store says of the positions that we began at
        self._arrival_s = max(self._arrival_s, standing.arrival_s)
        self._clocks.busy_s["learn"] += time.perf_counter() - began

    def _learn_batch(self, batch: Batch, partitions: Sequence[str]) -> NDArray[np.float32]:
        """Predictions from before each event; NaN where they say nothing about quality."""
        if self._replay is None:
            return self._model.learn_many(batch, salts=self._salts)
        p, fresh = self._replay.learn_many(batch, partitions, salts=self._salts)
        return np.where(fresh, p, np.float32(np.nan))

    def _stand(self, standing: Standing) -> None:
        self._standing = standing
        for name in standing.positions.keys() - self._known:  # a partition that was born meanwhile
            self._origins[name] = 0
            self._known.add(name)
        if self._replay is not None and self._replay.over(standing.positions):
            self._replay = None
            self._log.info("shards_level")

    def _say_refused(self, refusals: Sequence[Refusal], partitions: Sequence[str]) -> None:
        """One line a second at most, with an example: a topic of nothing but rubbish must not fill the disk."""
        self._unsaid += len(refusals)
        if time.monotonic() < self._say_due:
            return
        example = refusals[-1]
        self._log.warning(
            "refused", events=self._unsaid, reason=example.reason, path=example.path, message=example.message,
            partition=partitions[example.partition], offset=example.offset,
        )  # fmt: skip
        self._unsaid, self._say_due = 0, time.monotonic() + _SAY_S

    def _cut(self, deadline: Deadline | None = None) -> None:
        """Freeze what was learned and begin to publish it.

        Dead letters first: an event must never be counted as done and be nowhere.
        """
        self._patiently(self._dead_letters.flush, deadline)
        began = time.perf_counter()
        cut = Cut(
            rows=self._model.take_dirty(),
            offsets=self._standing.positions,
            watermarks=Watermarks(self._event_s, self._arrival_s),
            gone=self._model.take_gone(),
            origins=dict(self._origins),
        )
        self._clocks.busy_s["pack"] += time.perf_counter() - began
        self._pace.made(time.monotonic())
        self._committer.send(cut)

    def _acknowledge(self, cut: Cut | None) -> None:
        """Take note of a cut that is in the store."""
        if cut is None:
            return
        self._committed = cut.offsets
        if self._pipeline is not None:
            self._pipeline.committed(cut.offsets)
        self._last_commit_s = time.time()
        self._counts.update(commits=1, commit_rows=len(cut.rows), commit_gone=len(cut.gone))

    def _send(self, action: Callable[[], None]) -> None:
        """Commit through outages; called by the committer's thread."""

        def failed(error: CtrError, pause_s: float) -> None:
            self._store_up = False
            self._said(error, pause_s)

        self._retried(action, failed, None)
        if not self._store_up:
            self._log.info("store_up")
        self._store_up = True

    def _patiently(self, action: Callable[[], T], deadline: Deadline | None = None) -> T:
        """Do it in this thread, through outages."""

        def failed(error: CtrError, pause_s: float) -> None:
            self._turned = time.monotonic()
            self._said(error, pause_s)

        return self._retried(action, failed, deadline)

    def _retried(self, action: Callable[[], T], failed: Callable[[CtrError, float], None], end: Deadline | None) -> T:
        grace_s = end.remaining if end else _GRACE_S
        return retry(action, limit_s=self._outage_limit_s, shutdown=self._shutdown, grace_s=grace_s, failed=failed)

    def _said(self, error: CtrError, pause_s: float) -> None:
        self._counts["retries"] += 1
        self._log.warning("retrying", error=str(error), pause_s=round(pause_s, 2))

    def live(self) -> str | None:
        """None while the loop turns, else what is wrong."""
        idle_s = time.monotonic() - self._turned
        return None if idle_s < _STUCK_S else f"the loop has not turned for {idle_s:.0f} s"

    def ready(self) -> str | None:
        """None once rows are loaded, kernels are warm and the first commit is acknowledged."""
        if not self._is_ready:
            return "loading"
        if self._shutdown.requested:
            return "stopping"
        return None if self._store_up else "the store does not answer"

    def summary(self) -> dict[str, Any]:
        """Where we stand, for progress and logs."""
        quality = self._window.measure()
        figures = {"logloss": quality.logloss, "normalized_entropy": quality.normalized_entropy, "auc": quality.auc}
        return {
            "events": self._counts["learned"],
            "refused": self._counts["refused"],
            "rows": self._model.rows,
            # JSON has no NaN
            **{name: round(value, 5) if np.isfinite(value) else None for name, value in figures.items()},
            "lag": sum(self._standing.lag.values()),
        }

    def numbers(self) -> Mapping[str, metrics.Value]:
        """Every metric of `ctr.metrics.TRAINER`, as it stands now."""
        quality, rows, counts, pipeline = self._window.measure(), self._model.counts, self._counts, self._pipeline
        busy_s = {**self._clocks.busy_s, "commit": self._committer.busy_s}
        queued, names = {} if pipeline is None else pipeline.queued_events(), self._names
        return {
            "ctr_build_info": {(ctr.__version__, self._spec.model_id, self._model.kernel_path): 1.0},
            "ctr_events": {(result,): float(counts[result]) for result in ("learned", "held_out", "refused")},
            "ctr_dead_letters": {(reason,): float(n) for reason, n in dict(self._dead_letters.counts).items()},
            "ctr_source_up": float(self._source_up),
            "ctr_source_lag": {(name,): float(left) for name, left in self._standing.lag.items()},
            "ctr_event_watermark_seconds": self._event_s,
            "ctr_arrival_watermark_seconds": self._arrival_s,
            "ctr_stage_seconds": {(stage,): seconds for stage, seconds in busy_s.items()},
            "ctr_stage_wait_seconds": dict(self._clocks.waited_s),
            "ctr_queue_events": {(stage,): float(events) for stage, events in queued.items()},
            "ctr_queue_bytes": 0.0 if pipeline is None else float(pipeline.queued_bytes),
            "ctr_commits": float(counts["commits"]),
            "ctr_commit_retries": float(counts["retries"]),
            "ctr_commit_rows": float(counts["commit_rows"]),
            "ctr_commit_gone": float(counts["commit_gone"]),
            "ctr_commit_last_seconds": self._last_commit_s,
            "ctr_commit_interval_seconds": self._pace.settled_s,
            "ctr_commit_under_way_seconds": self._committer.under_way_s,
            "ctr_store_up": float(self._store_up),
            "ctr_table_rows": float(self._model.rows),
            "ctr_table_bytes": float(self._model.memory_bytes),
            "ctr_table_created": float(rows.rows_created),
            "ctr_table_evicted": float(rows.rows_evicted),
            "ctr_table_expired": float(rows.rows_expired),
            "ctr_table_refused": float(rows.rows_refused),
            "ctr_dirty_rows": float(self._model.dirty_rows),
            "ctr_names": {(result,): float(n) for result, n in ({} if names is None else dict(names.counts)).items()},
            "ctr_window_events": float(quality.events),
            "ctr_logloss": quality.logloss,
            "ctr_normalized_entropy_ratio": quality.normalized_entropy,
            "ctr_auc_ratio": quality.auc,
            "ctr_calibration_ratio": quality.calibration,
            "ctr_base_rate_ratio": quality.base_rate,
        }
