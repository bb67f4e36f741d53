"""`ctr train`: source -> events -> model -> store, one loop, one writer.

A turn of the loop takes what the source has, learns it, and commits when the interval is over. A commit carries rows,
positions and watermarks in one transaction, so that each event counts exactly once whatever is killed when.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import ctr
from ctr import log, metrics
from ctr import spec as specification
from ctr.errors import CtrError, ServerWentBackError, SettingError, SourceUnavailableError
from ctr.events import encode_rows, open_reader
from ctr.events.hashing import partition_salts
from ctr.events.messages import Messages, Refusal
from ctr.kernels import simd
from ctr.model import Model
from ctr.quality import Window
from ctr.serving.asgi import OpsApp
from ctr.serving.server import BackgroundServer, open_socket
from ctr.spec import Spec
from ctr.store import Cut, ShardKeys, ShardWriter, Watermarks, connect, open_model
from workers.dead_letters import DeadLetters, FileDeadLetters, KafkaDeadLetters, RefusalLimit
from workers.lifecycle import Deadline, ExitCode, Shutdown, retry
from workers.progress import Progress
from workers.sources import Source
from workers.sources.files import FileSource
from workers.sources.kafka import KafkaSource

_STUCK_S = 60.0
"""A loop that did not turn for so long is not alive."""
_HEARTBEAT_S = 1.0
"""A shorter interval commits only what moved; at least so often something is committed, if only watermarks."""
_GRACE_S = 10.0
"""Budget of a graceful stop."""
_POLL_S = 0.1
_SAY_S = 1.0
"""Least time between two log lines about refused events."""


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """What the command line and the environment say."""

    spec: Path
    redis: str = field(repr=False)  # may hold a password
    kafka: str | None = None
    topic: str | None = None
    path: Path | None = None
    follow: bool = False
    start: str = "earliest"
    create: bool = False
    listen: str | None = None
    dead_letters: Path | None = None
    outage_limit_s: float = 600.0
    window: int = 100_000
    refused_run: int = 1000
    refused_share: float = 0.5
    timeout_s: float = 5.0


def train(settings: TrainSettings) -> ExitCode:
    """Run a trainer until its source is finished or a signal comes.

    Shut-down, in this order and under one deadline: stop reading; commit what was learned (the store may be slow);
    tell Kafka the positions; close source and dead letters; stop the HTTP server last, so that the end can be watched.

    Raises
    ------
    CtrError
        Whatever ends it but a signal or the end of the files.
    """
    shutdown = Shutdown()
    shutdown.install()
    spec = specification.read(settings.spec)
    # the port first: it is what most often is wrong, and nothing else has been touched yet
    listening = open_socket(settings.listen) if settings.listen else None
    client = connect(settings.redis, timeout_s=settings.timeout_s)
    stored = open_model(client, spec, create=settings.create)
    source, dead_letters = _open_source(settings, spec)
    writer = ShardWriter(
        client, ShardKeys(spec.model_id, 0), spec_digest=spec.digest, row_bytes=stored.row_bytes
    )
    trainer = Trainer(
        spec, source, writer, dead_letters, shutdown,
        outage_limit_s=settings.outage_limit_s, window=settings.window,
        limit=RefusalLimit(settings.refused_run, settings.refused_share),
    )  # fmt: skip
    server = None
    try:
        if listening is not None:
            registry = metrics.registry(metrics.TRAINER, trainer.numbers)
            server = BackgroundServer(OpsApp(registry, live=trainer.live, ready=trainer.ready), listening)
            server.start()
        trainer.run()
    finally:
        source.close()
        dead_letters.close()
        writer.close()
        if server is not None:
            server.stop()
    return ExitCode.OK


def _open_source(settings: TrainSettings, spec: Spec) -> tuple[Source, DeadLetters]:
    if settings.kafka is not None:
        if settings.topic is None:
            raise SettingError("--topic", None, "is required with --kafka")
        for key, value in (("--from", settings.path), ("--dead-letters", settings.dead_letters)):
            if value is not None:
                raise SettingError(key, str(value), "is for files; with --kafka events and dead letters are in topics")
        if settings.follow:
            raise SettingError("--follow", True, "is for files; a topic is always followed")
        source = KafkaSource(
            settings.kafka, settings.topic, group=f"ctr-{spec.name}-{spec.generation}", start=settings.start,
            timeout_s=settings.timeout_s,
        )  # fmt: skip
        return source, KafkaDeadLetters(settings.kafka, settings.topic)
    if settings.path is None:
        raise SettingError("--from", None, "one of --from PATH or --kafka HOST:PORT --topic NAME is required")
    if settings.start != "earliest":
        raise SettingError("--start", settings.start, "files are always read from their beginning")
    letters = settings.dead_letters or settings.path.resolve().with_name(settings.path.resolve().name + ".dlq")
    files = FileSource(settings.path, follow=settings.follow, max_line_bytes=spec.event.max_bytes)
    return files, FileDeadLetters(letters)


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
    writer : ShardWriter
    dead_letters : DeadLetters
    shutdown : Shutdown
    outage_limit_s : float
        How long a service may be away before the worker gives up.
    window : int
        Events over which quality is measured.
    limit : RefusalLimit
        When so many events cannot be read that learning on makes no sense.
    """

    def __init__(
        self, spec: Spec, source: Source, writer: ShardWriter, dead_letters: DeadLetters, shutdown: Shutdown, *,
        outage_limit_s: float, window: int, limit: RefusalLimit,
    ) -> None:  # fmt: skip
        self._spec, self._source, self._writer = spec, source, writer
        self._dead_letters, self._shutdown, self._outage_limit_s = dead_letters, shutdown, outage_limit_s
        self._reader, self._limit = open_reader(spec), limit
        self._model = Model(spec)
        self._window = Window(window)
        self._log = log.get(worker="trainer", model=spec.model_id)
        self._interval_s = spec.commit.interval_ms / 1000
        self._salts = partition_salts(())
        self._event_s = self._arrival_s = 0.0
        self._committed: dict[str, int] = {}
        self._commit_due = 0.0
        self._heartbeat_due = 0.0
        self._turned = self._answered = time.monotonic()
        self._unsaid, self._say_due = 0, 0.0
        self._is_ready = False
        self._store_up = True
        self._source_up = True
        self._stages = dict.fromkeys(("fetch", "read", "learn", "commit"), 0.0)
        self._counts: Counter[str] = Counter()
        self._last_commit_s = 0.0

    def run(self) -> None:
        """Until the source is finished or a stop was asked for."""
        self._recover()
        with Progress(self._source, self.summary) as progress:
            while not self._shutdown.requested and not self._source.finished:
                self._turn()
                progress.update()
        self._log.info("stopping", reason="signal" if self._shutdown.requested else "all is read")
        self._commit(Deadline(_GRACE_S))
        self._log.info("stopped", **self.summary())

    def _recover(self) -> None:
        """Become the writer, once the source can be read from where the store is.

        In this order: a trainer that cannot run harms none that does, and a good table is not given up for nothing.
        """
        self._is_ready = False
        warm_up(self._spec)
        offsets = self._patiently(self._writer.look).offsets
        self._patiently(lambda: self._source.open(offsets))
        meta = self._patiently(self._writer.take_over)
        if meta.offsets != offsets:
            self._patiently(lambda: self._source.open(meta.offsets))
        self._model = Model(self._spec)
        self._patiently(self._load)
        self._salts = partition_salts(())
        self._event_s, self._arrival_s = meta.watermarks.event_s, meta.watermarks.arrival_s
        self._committed = {}
        self._log.info(
            "recovered", version=str(meta.version), rows=self._model.rows, partitions=len(self._source.partitions),
            isa=simd.ISA,
        )  # fmt: skip
        self._commit()
        self._is_ready = True

    def _load(self) -> None:
        for block in self._writer.load():
            self._model.load(block)
            self._turned = time.monotonic()

    def _turn(self) -> None:
        self._turned = time.monotonic()
        began = time.perf_counter()
        try:
            messages = self._source.poll(_POLL_S)
            self._answered = self._turned
        except SourceUnavailableError as error:
            if self._turned - self._answered > self._outage_limit_s:
                raise
            messages, said = None, str(error)
            self._shutdown.wait(0.5)
        else:
            said = "no reply"
        if self._source_up and not self._source.up:
            self._log.warning("source_down", error=said)
        elif self._source.up and not self._source_up:
            self._log.info("source_up")
        self._source_up = self._source.up
        self._stages["fetch"] += time.perf_counter() - began
        if messages is not None:
            self._learn(messages)
        now = time.monotonic()
        moved = self._model.dirty_rows > 0 or self._source.positions() != self._committed
        if now >= self._commit_due and (moved or now >= self._heartbeat_due):
            self._commit()

    def _learn(self, messages: Messages) -> None:
        began = time.perf_counter()
        batch, refusals = self._reader.read(messages)
        refusals = [*messages.refused, *refusals]
        self._limit.count(len(batch), refusals)
        read = time.perf_counter()
        if len(self._salts) < len(self._source.partitions):
            self._salts = partition_salts(self._source.partitions)
        p = self._model.learn_many(batch, salts=self._salts)
        judged = np.isfinite(p)
        self._window.add(p[judged], batch.labels[judged])
        if len(batch):
            self._event_s = max(self._event_s, float(np.max(batch.times_s)))
        learned = time.perf_counter()
        if refusals:
            self._dead_letters.put(refusals, messages, self._source.partitions)
            self._say_refused(refusals)
        held_out = int(np.count_nonzero(batch.weights == 0))
        self._counts.update(learned=len(batch) - held_out, held_out=held_out, refused=len(refusals))
        self._stages["read"] += read - began
        self._stages["learn"] += learned - read

    def _say_refused(self, refusals: Sequence[Refusal]) -> None:
        """One line a second at most, with an example: a topic of nothing but rubbish must not fill the disk."""
        self._unsaid += len(refusals)
        if time.monotonic() < self._say_due:
            return
        example = refusals[-1]
        self._log.warning(
            "refused", events=self._unsaid, reason=example.reason, path=example.path, message=example.message,
            partition=self._source.partitions[example.partition], offset=example.offset,
        )  # fmt: skip
        self._unsaid, self._say_due = 0, time.monotonic() + _SAY_S

    def _commit(self, deadline: Deadline | None = None) -> None:
        """Publish what was learned. Dead letters first: an event must never be counted as done and be nowhere."""
        began = time.perf_counter()
        self._patiently(self._dead_letters.flush, deadline)
        cut = Cut(
            rows=self._model.take_dirty(),
            offsets=self._source.positions(),
            watermarks=Watermarks(self._event_s, self._arrived()),
            gone=self._model.take_gone(),
        )
        try:
            self._patiently(lambda: self._writer.commit(cut), deadline)
        except ServerWentBackError as error:
            # nothing of ours is lost: the log still has it, and the stored positions say from where
            self._log.warning("server_went_back", error=str(error))
            self._recover()
            return
        self._committed = dict(cut.offsets)
        self._source.committed(cut.offsets)
        self._last_commit_s = time.time()
        self._counts.update(commits=1, commit_rows=len(cut.rows), commit_gone=len(cut.gone))
        now = time.monotonic()
        self._commit_due, self._heartbeat_due = now + self._interval_s, now + max(self._interval_s, _HEARTBEAT_S)
        self._stages["commit"] += time.perf_counter() - began

    def _arrived(self) -> float:
        """The arrival watermark: what the store says of the positions we began at, until the source knows better."""
        self._arrival_s = max(self._arrival_s, self._source.arrival_watermark_s())
        return self._arrival_s

    def _patiently(self, action: Any, deadline: Deadline | None = None) -> Any:
        """Do it, through outages up to the limit."""

        def failed(error: CtrError, pause: float) -> None:
            self._turned = time.monotonic()
            self._counts["retries"] += 1
            if not isinstance(error, SourceUnavailableError):
                self._store_up = False
            self._log.warning("retrying", error=str(error), pause_s=round(pause, 2))

        result = retry(
            action,
            limit_s=self._outage_limit_s,
            shutdown=self._shutdown,
            grace_s=deadline.remaining if deadline else _GRACE_S,
            failed=failed,
        )
        if not self._store_up:
            self._log.info("store_up")
        self._store_up = True
        return result

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
            "lag": sum(self._source.lag().values()),
        }

    def numbers(self) -> Mapping[str, metrics.Value]:
        """Every metric of `ctr.metrics.TRAINER`, as it stands now."""
        quality, rows, counts = self._window.measure(), self._model.counts, self._counts
        return {
            "ctr_build_info": {(ctr.__version__, self._spec.model_id, simd.ISA): 1.0},
            "ctr_events": {(result,): float(counts[result]) for result in ("learned", "held_out", "refused")},
            "ctr_dead_letters": {(reason,): float(n) for reason, n in dict(self._dead_letters.counts).items()},
            "ctr_source_up": float(self._source.up),
            "ctr_source_lag": {(name,): float(lag) for name, lag in self._source.lag().items()},
            "ctr_event_watermark_seconds": self._event_s,
            "ctr_arrival_watermark_seconds": self._arrived(),
            "ctr_stage_seconds": {(stage,): seconds for stage, seconds in self._stages.items()},
            "ctr_commits": float(counts["commits"]),
            "ctr_commit_retries": float(counts["retries"]),
            "ctr_commit_rows": float(counts["commit_rows"]),
            "ctr_commit_gone": float(counts["commit_gone"]),
            "ctr_commit_last_seconds": self._last_commit_s,
            "ctr_store_up": float(self._store_up),
            "ctr_table_rows": float(self._model.rows),
            "ctr_table_bytes": float(self._model.memory_bytes),
            "ctr_table_created": float(rows.rows_created),
            "ctr_table_evicted": float(rows.rows_evicted),
            "ctr_table_expired": float(rows.rows_expired),
            "ctr_table_refused": float(rows.rows_refused),
            "ctr_dirty_rows": float(self._model.dirty_rows),
            "ctr_window_events": float(quality.events),
            "ctr_logloss": quality.logloss,
            "ctr_normalized_entropy_ratio": quality.normalized_entropy,
            "ctr_auc_ratio": quality.auc,
            "ctr_calibration_ratio": quality.calibration,
            "ctr_base_rate_ratio": quality.base_rate,
        }
