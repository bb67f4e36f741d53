"""A run directory goes in, the whole system on loopback comes out: Kafka, Redis, Prometheus, trainer, scorer.

What runs is written down under the run directory, a record a process, so that another command can end exactly that.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctr.errors import SettingError
from deploy.local.kafka import Kafka
from deploy.local.process import HOST, Identity, Service, http_ok, signals_held
from deploy.local.prometheus import Prometheus
from deploy.local.redis import Redis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPOSITORY = Path(__file__).parents[2]
TOPIC, PARTITIONS = "ads", 4
STOP_WITHIN_S = 30.0    # a trainer drains and commits, a broker closes its logs


@dataclass(frozen=True)
class Settings:
    """Where the stack keeps its state and listens; each field can be set by CTR_LOCAL_<FIELD> in the environment.

    Parameters
    ----------
    run_dir : Path
        Records, logs and data.
    kafka_port, kafka_controller_port, redis_port, prometheus_port, trainer_port, scorer_port : int
    """

    run_dir: Path = REPOSITORY / ".run"
    kafka_port: int = 9092
    kafka_controller_port: int = 9093
    redis_port: int = 6379
    prometheus_port: int = 9090
    trainer_port: int = 9100
    scorer_port: int = 8080

    @classmethod
    def read(cls) -> Settings:
        """Read the environment; SettingError names a bad variable, its value, and what is allowed."""
        given: dict[str, int] = {}
        for field in cls.__dataclass_fields__:
            key = f"CTR_LOCAL_{field.upper()}"
            value = os.environ.get(key)
            if value is None or field == "run_dir":
                continue
            if not (value.isascii() and value.isdigit() and 0 < int(value) < 1 << 16):
                raise SettingError(key, value, "a port is a whole number from 1 to 65535")
            given[field] = int(value)
        return cls(run_dir=Path(os.environ.get("CTR_LOCAL_RUN_DIR", cls.run_dir)).resolve(), **given)


class Worker(Service):
    """One `ctr` process, ready when it says so.

    Parameters
    ----------
    name : str
    directory : Path
    port : int
        Serves /readyz and /metrics.
    arguments : list[str]
        What follows `ctr` on the command line.
    """

    ready_within_s = 120.0      # the first start on a machine compiles the kernels

    def __init__(self, name: str, directory: Path, port: int, arguments: list[str]) -> None:
        super().__init__(name, directory, port, tied=False)
        self.arguments = arguments

    @property
    def address(self) -> str:
        """URL of the worker."""
        return f"http://{HOST}:{self.port}"

    def command(self) -> list[str]:
        """Run the console script that stands beside this interpreter."""
        return [str(Path(sys.executable).with_name("ctr")), *self.arguments]

    def ready(self) -> bool:
        """Ask /readyz."""
        return http_ok(self.port, "/readyz")


def services(settings: Settings, *, workers: bool = True) -> list[Service]:
    """List what `up` starts, in this order (`down` ends it in the other)."""
    run = settings.run_dir
    trainer, scorer = f"{HOST}:{settings.trainer_port}", f"{HOST}:{settings.scorer_port}"
    kafka = Kafka(run / "kafka", settings.kafka_port, settings.kafka_controller_port, tied=False)
    redis = Redis(run / "redis", settings.redis_port, durable=True, tied=False)
    targets = {"trainer:9100": trainer, "scorer:8080": scorer}
    listed: list[Service] = [
        kafka,
        redis,
        Prometheus(run / "prometheus", settings.prometheus_port, targets, tied=False),
    ]
    if workers:
        train = ["train", str(Path(__file__).with_name("ads.toml")), "--kafka", kafka.bootstrap, "--topic", TOPIC]
        train += ["--redis", redis.url, "--create", "--names", "0.01", "--listen", trainer]
        serve = ["serve", TOPIC, "--redis", redis.url, "--listen", scorer]
        listed += [
            Worker("trainer", run / "trainer", settings.trainer_port, train),
            Worker("scorer", run / "scorer", settings.scorer_port, serve),
        ]
    return listed


@dataclass(frozen=True)
class Record:
    """What is written down about one process that `up` started: run_dir/<name>.json."""

    name: str
    pid: int
    started: str
    address: str
    log: str

    @property
    def identity(self) -> Identity:
        """The process itself."""
        return Identity(self.pid, self.started)


def up(settings: Settings, *, workers: bool = True, say: Callable[[str], None] = print) -> None:
    """Start what does not run yet and say where each is; on a failure end what this call started, and raise.

    Raises
    ------
    CtrError
        A port is in use, a program is missing, a server did not answer; the message says which.
    """
    with _only_one(settings.run_dir):
        running = {record.name: record for record in recorded(settings.run_dir)}
        listed = services(settings, workers=workers)
        # All ports before the first start: an occupied one is known at once, not after half a minute.
        for service in listed:
            if service.name not in running:
                service.check_ports_free()
        started: list[Service] = []
        try:
            for service in listed:
                if (record := running.get(service.name)) is not None:
                    say(_line(record, "already runs"))
                    continue
                started.append(service)
                identity = service.spawn()
                record = Record(service.name, identity.pid, identity.started, service.address, str(service.log))
                _record_path(settings.run_dir, service.name).write_text(json.dumps(asdict(record)) + "\n")
                service.wait_ready()
                if isinstance(service, Kafka):
                    service.create_topic(TOPIC, PARTITIONS)
                say(_line(record, "started"))
        except BaseException:
            with signals_held():  # a second Ctrl-C must not leave half of it running
                for service in reversed(started):
                    service.stop()
                    _record_path(settings.run_dir, service.name).unlink(missing_ok=True)
            raise


def down(settings: Settings, *, say: Callable[[str], None] = print) -> None:
    """End exactly what `up` started, the last first; what was started otherwise is left alone."""
    with _only_one(settings.run_dir):
        ended = 0
        for record in reversed(recorded(settings.run_dir)):
            in_order = record.identity.end(STOP_WITHIN_S)
            _record_path(settings.run_dir, record.name).unlink()
            say(_line(record, "ended" if in_order else "killed"))
            ended += 1
        if not ended:
            say("nothing runs")


def status(settings: Settings, *, say: Callable[[str], None] = print) -> bool:
    """Say what runs; True when all that `up` starts does."""
    running = {record.name: record for record in recorded(settings.run_dir)}
    names = [service.name for service in services(settings)]
    for name in names:
        say(_line(running[name], "runs") if name in running else f"{name:<11}does not run")
    return all(name in running for name in names)


def recorded(run_dir: Path) -> list[Record]:
    """Read the records of the processes that still run, oldest first; records of ended ones are dropped."""
    records = []
    for path in sorted(run_dir.glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
        record = Record(**json.loads(path.read_text()))
        if record.identity.alive():
            records.append(record)
        else:
            path.unlink()
    return records


def _record_path(run_dir: Path, name: str) -> Path:
    return run_dir / f"{name}.json"


def _line(record: Record, what: str) -> str:
    return f"{record.name:<11}{what:<13}{record.address:<28}pid {record.pid:<8}log {record.log}"


@contextmanager
def _only_one(run_dir: Path) -> Iterator[None]:
    """Keep a second `up` or `down` on the same run directory waiting."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
