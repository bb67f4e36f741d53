"""`ctr train`: settings in, a trainer with its source, store, dead letters and HTTP endpoints out, and its end."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ctr import log, metrics
from ctr import spec as specification
from ctr.errors import SettingError
from ctr.events import open_reader
from ctr.serving.asgi import OpsApp
from ctr.serving.server import BackgroundServer, open_socket
from ctr.spec import Spec
from ctr.store import Client, GuardRecord, Lease, ModelWriter, connect, names, open_model, watch
from workers import kafka_login
from workers.dead_letters import DeadLetters, FileDeadLetters, KafkaDeadLetters, RefusalLimit
from workers.follower import Follower
from workers.lifecycle import ExitCode, Shutdown
from workers.names import NameTaker
from workers.page import trainer_page
from workers.snapshot import Periodic
from workers.sources import Source
from workers.sources.files import FileSource
from workers.sources.kafka import KafkaSource
from workers.store_watch import StoreWatch
from workers.trainer import Trainer


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """What the command line and the environment say."""

    spec: Path
    redis: str = field(repr=False)  # may hold a password
    kafka: str | None = None
    topic: str | None = None
    kafka_config: Path | None = None
    accept_gap: bool = False
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
    scan_threads: int | None = None
    names: float = 0.0
    max_names: int = 100_000
    lease_s: float = 3.0
    when_fenced: str = "end"
    snapshots: str | None = None
    snapshot_interval_s: float = 3600.0
    snapshot_keep: int = 24
    timeout_s: float = 5.0
    token: str | None = field(default=None, repr=False)


def default_scan_threads() -> int:
    """None on a single core, one beside the learner, two from four cores on: scanning takes a fifth of learning."""
    return min(2, len(os.sched_getaffinity(0)) // 2)


def train(settings: TrainSettings) -> ExitCode:
    """Run a trainer until its source is finished or a signal comes.

    Shut-down, in this order and under one deadline: stop reading, and drop what was read ahead; commit what was learned
    (the store may be slow: first the cut under way, then the last one); release the lease, so that a stand-by goes on;
    tell Kafka the positions; close source and dead letters; stop the HTTP server last, so that the end can be watched.

    Raises
    ------
    CtrError
        Whatever ends it but a signal or the end of the files.
    """
    shutdown = Shutdown()
    shutdown.install()
    spec = specification.read(settings.spec)
    specification.require_learned(spec)
    log.bind(model=spec.model_id)
    # the port first: it is what most often is wrong, and nothing else has been touched yet
    listening = open_socket(settings.listen) if settings.listen else None
    client = connect(settings.redis, timeout_s=settings.timeout_s)
    stored = open_model(client, spec, create=settings.create)
    source, dead_letters = _open_source(settings, spec)
    writer = ModelWriter(client, stored)
    threads = default_scan_threads() if settings.scan_threads is None else settings.scan_threads
    lease = Lease(client, spec.model_id, ttl_s=settings.lease_s)
    record = GuardRecord(client, spec.model_id, lease.token)
    trainer = Trainer(
        spec, source, writer, lease, lambda: Follower(client, stored, spec), dead_letters, shutdown,
        limit=RefusalLimit(settings.refused_run, settings.refused_share), outage_limit_s=settings.outage_limit_s,
        window=settings.window, scan_threads=threads, names=_name_taker(settings, spec, client),
        stand_by_when_fenced=settings.when_fenced == "stand-by", record=record,
        end_when_refused=settings.path is not None and not settings.follow,
    )  # fmt: skip
    store_watch = StoreWatch(lambda: watch.look(client))
    snapshots = _snapshots(settings, spec, lambda: trainer.role == "writer" and trainer.ready() is None)
    server = page = None
    try:
        if listening is not None:
            def numbers() -> Mapping[str, metrics.Value]:
                return {**trainer.numbers(), **store_watch.numbers(), **_numbers_of(snapshots)}

            registry = metrics.registry(metrics.TRAINER, numbers)
            app = OpsApp(
                registry, live=trainer.live, ready=trainer.ready, role=lambda: trainer.role, token=settings.token
            )
            page = trainer_page(app, trainer, numbers, spec, settings.redis)
            server = BackgroundServer(app, listening)
            page.start()
            server.start()
        if snapshots is not None:
            snapshots.start()
        store_watch.start()
        trainer.run()
    finally:
        store_watch.stop()
        if trainer.stop_reading():
            source.close()
        trainer.release()
        lease.close()
        record.close()
        dead_letters.close()
        writer.close()
        if snapshots is not None:
            snapshots.stop()
        if page is not None:
            page.stop()
        if server is not None:
            server.stop()
    return ExitCode.OK


def _snapshots(settings: TrainSettings, spec: Spec, ready: Callable[[], bool]) -> Periodic | None:
    if settings.snapshots is None:
        return None
    return Periodic(
        settings.redis, spec.model_id, settings.snapshots, interval_s=settings.snapshot_interval_s,
        keep=settings.snapshot_keep, ready=ready,
    )  # fmt: skip


def _numbers_of(snapshots: Periodic | None) -> Mapping[str, metrics.Value]:
    return {} if snapshots is None else snapshots.numbers()


def _name_taker(settings: TrainSettings, spec: Spec, client: Client) -> NameTaker | None:
    if not settings.names:
        return None
    return NameTaker(
        spec, open_reader(spec).parse, settings.names,
        lambda found: names.write(client, spec.model_id, found, max_names=settings.max_names),
    )  # fmt: skip


def _open_source(settings: TrainSettings, spec: Spec) -> tuple[Source, DeadLetters]:
    if settings.kafka is not None:
        if settings.topic is None:
            raise SettingError("--topic", None, "is required with --kafka")
        for key, value in (("--from", settings.path), ("--dead-letters", settings.dead_letters)):
            if value is not None:
                raise SettingError(key, str(value), "is for files; with --kafka events and dead letters are in topics")
        if settings.follow:
            raise SettingError("--follow", True, "is for files; a topic is always followed")
        login = kafka_login.read(settings.kafka_config)
        source = KafkaSource(
            settings.kafka, settings.topic, group=f"ctr-{spec.name}-{spec.generation}", start=settings.start,
            timeout_s=settings.timeout_s, accept_gap=settings.accept_gap, login=login,
        )  # fmt: skip
        return source, KafkaDeadLetters(settings.kafka, settings.topic, login=login)
    for flag, given in (("--accept-gap", settings.accept_gap), ("--kafka-config", settings.kafka_config)):
        if given:
            raise SettingError(flag, given, "is for Kafka; with --from a file that lost lines is refused")
    if settings.path is None:
        raise SettingError("--from", None, "one of --from PATH or --kafka HOST:PORT --topic NAME is required")
    if settings.start != "earliest":
        raise SettingError("--start", settings.start, "files are always read from their beginning")
    letters = settings.dead_letters or settings.path.resolve().with_name(settings.path.resolve().name + ".dlq")
    files = FileSource(settings.path, follow=settings.follow, max_line_bytes=spec.event.max_bytes)
    return files, FileDeadLetters(letters)
