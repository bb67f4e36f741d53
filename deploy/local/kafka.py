"""A directory and two ports go in, a real one-node Apache Kafka (KRaft) comes out.

The jars come by Maven (kafka/pom.xml, the versions stand there) into a cache that all brokers of a user share.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import uuid
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from deploy.local.process import HOST, Service, ServiceError, ServiceMissingError, listening

POM = Path(__file__).with_name("kafka") / "pom.xml"
PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin"
MESSAGE_MAX_BYTES = 8 << 20     # a topic may allow less, not more: events of 2 MB must be able to come in


def cache_directory() -> Path:
    """Where downloads are kept: CTR_CACHE_DIR, else ctr under XDG_CACHE_HOME, else ~/.cache/ctr."""
    if own := os.environ.get("CTR_CACHE_DIR"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ctr"


def kafka_version() -> str:
    """Read the broker's version from the pom, the only place where it stands."""
    space = {"m": "http://maven.apache.org/POM/4.0.0"}
    for dependency in ET.parse(POM).iterfind(".//m:dependency", space):  # noqa: S314 - our own file
        if dependency.findtext("m:groupId", namespaces=space) == "org.apache.kafka":
            return str(dependency.findtext("m:version", namespaces=space))
    raise ServiceError(f"{POM} names no org.apache.kafka dependency")


def kafka_jars() -> Path:
    """Return the directory of the broker's jars; the first call on a machine downloads 43 MB in 5 to 11 s.

    Safe when several processes call it at once: one downloads, beside the final place, the others wait.

    Raises
    ------
    ServiceMissingError
        Maven is not there, or could not download.
    """
    jars = cache_directory() / f"kafka-{kafka_version()}"
    if jars.is_dir():
        return jars
    maven = shutil.which("mvn")
    if maven is None:
        raise ServiceMissingError("no mvn, which downloads Apache Kafka: install it (`deploy/setup.sh services`)")
    jars.parent.mkdir(parents=True, exist_ok=True)
    with jars.with_name(jars.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if jars.is_dir():
            return jars
        with tempfile.TemporaryDirectory(prefix="kafka-", dir=jars.parent) as scratch:
            # A copy of the pom, because Maven may write beside it.
            pom, target = shutil.copy(POM, scratch), Path(scratch) / "jars"
            done = subprocess.run(
                # The goal's full name: a prefix that cannot be looked up hides that the network is what is missing.
                [maven, "-q", "-B", "-f", pom, f"{PLUGIN}:copy-dependencies", f"-DoutputDirectory={target}"],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode != 0:
                reason = done.stdout.partition("[ERROR] ")[2].partition("\n")[0] or "no reason given"
                raise ServiceMissingError(f"Maven could not download Apache Kafka: {reason}")
            target.rename(jars)
    return jars


@dataclass(frozen=True)
class Cluster:
    """A running Kafka, whoever started it.

    Parameters
    ----------
    bootstrap : str
        What clients take as bootstrap_servers.
    """

    bootstrap: str

    def admin(self) -> KafkaAdminClient:
        """Return a new admin client, to be closed by the caller."""
        return KafkaAdminClient(bootstrap_servers=self.bootstrap, reconnect_backoff_max_ms=1000)

    def ready(self) -> bool:
        """Ask for metadata: a live broker, and a leader for every partition it knows."""
        try:
            with self.admin() as admin:
                if not admin.describe_cluster()["brokers"]:
                    return False
                admin.wait_for_topics(admin.list_topics())
        except (KafkaError, OSError):
            return False
        return True

    def create_topic(self, name: str, partitions: int = 1, configs: dict[str, str] | None = None) -> bool:
        """Make a topic and wait until it can be used; False when it was there already, and is left as it is.

        Parameters
        ----------
        name : str
        partitions : int
        configs : dict[str, str] | None
            Topic settings, for example ``{"max.message.bytes": "4194304"}``.

        Raises
        ------
        ServiceError
            The broker refused, or did not answer.
        """
        made = True
        try:
            with self.admin() as admin:
                topic = {"num_partitions": partitions, "replication_factor": 1, "configs": configs or {}}
                try:
                    admin.create_topics({name: topic})
                except TopicAlreadyExistsError:
                    made = False
                admin.wait_for_topics([name])
        except KafkaError as error:
            raise ServiceError(f"Kafka at {self.bootstrap} did not make topic {name}: {error}") from error
        return made


class Kafka(Service):
    """One Apache Kafka node, broker and controller in one process, that keeps what it is given.

    Parameters
    ----------
    directory : Path
        server.properties and the logs of the topics.
    port, controller_port : int
        For clients, and for the node itself.
    """

    ready_within_s = 90.0   # 2 to 5 s on a free machine, 20 times that where tests share two cores

    def __init__(self, directory: Path, port: int, controller_port: int, *, tied: bool = True) -> None:
        super().__init__("kafka", directory, port, tied=tied)
        self.controller_port = controller_port
        self.cluster = Cluster(f"{HOST}:{port}")

    @property
    def ports(self) -> list[int]:
        """Every port the node listens on."""
        return [self.port, self.controller_port]

    @property
    def bootstrap(self) -> str:
        """What clients take as bootstrap_servers."""
        return self.cluster.bootstrap

    def prepare(self) -> None:
        """Write server.properties and, once, format the storage."""
        settings = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{HOST}:{self.controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{HOST}:{self.port},CONTROLLER://{HOST}:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{self.port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": self.directory / "data",
            "auto.create.topics.enable": "false",
            "message.max.bytes": MESSAGE_MAX_BYTES,
            # Replayed events carry old timestamps: with any other value the broker deletes them at once.
            "log.retention.ms": -1,
            "log.cleaner.backoff.ms": 1000,  # the default is to look for what to compact every 15 s
            "offsets.topic.num.partitions": 4,  # 50, the default, take seconds to make
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            # After SIGKILL the controller refuses the new broker until the old one's session is over (default 9 s).
            "broker.session.timeout.ms": 3000,
            "broker.heartbeat.interval.ms": 500,
        }
        self._properties.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        if not (self.directory / "data" / "meta.properties").exists():
            self._format()

    def command(self) -> list[str]:
        """Run the broker in the foreground."""
        return [*self._java("-Xmx512m"), "kafka.Kafka", str(self._properties)]

    def ready(self) -> bool:
        """Ask for metadata: a live broker, and a leader for every partition it knows."""
        # The port first: an admin client that finds none waits its whole bootstrap time-out.
        return listening(self.port) and self.cluster.ready()

    def create_topic(self, name: str, partitions: int = 1, configs: dict[str, str] | None = None) -> bool:
        """Make a topic: see `Cluster.create_topic`."""
        return self.cluster.create_topic(name, partitions, configs)

    @property
    def _properties(self) -> Path:
        return self.directory / "server.properties"

    def _java(self, *options: str) -> list[str]:
        java = shutil.which("java")
        if java is None:
            raise ServiceMissingError("no java, which runs Apache Kafka: install it (`deploy/setup.sh services`)")
        return [java, *options, "-XX:+UseSerialGC", "-cp", str(kafka_jars() / "*")]

    def _format(self) -> None:
        random = (uuid.uuid4().int >> 1).to_bytes(16, "big")  # below 2^127: an id of "-..." would be read as an option
        cluster = urlsafe_b64encode(random).decode().rstrip("=")
        done = subprocess.run(
            [
                *self._java("-XX:TieredStopAtLevel=1"),
                "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._properties),
            ],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self.directory / "data")
            raise ServiceError(f"Kafka's storage could not be formatted: {done.stderr.strip() or done.stdout.strip()}")
