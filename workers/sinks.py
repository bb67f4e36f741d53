"""Where events go out: a Kafka topic. Used by replay, simulation and dead letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

from ctr.errors import SourceUnavailableError
from workers import kafka_login


class KafkaSink:
    """Sends messages to one topic, in order within a partition, each acknowledged by all replicas.

    Parameters
    ----------
    bootstrap : str
        ``HOST:PORT[,HOST:PORT...]``.
    topic : str
        Made with the broker's defaults (and `partitions`) where it does not exist.
    partitions : int
    timeout_s : float
        To reach the broker, and for one message to be acknowledged.
    login : mapping of str to object, optional
        How to be let in: see `workers.kafka_login`.
    """

    MAX_BYTES = 8 << 20
    """Largest message; a broker's own limit may be lower."""

    def __init__(
        self, bootstrap: str, topic: str, *, partitions: int = 1, timeout_s: float = 10.0,
        login: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self._bootstrap, self._topic, self._timeout_s = bootstrap, topic, timeout_s
        servers, patience_ms = bootstrap.split(","), int(timeout_s * 1000)
        with kafka_login.connecting(bootstrap):
            admin = KafkaAdminClient(bootstrap_servers=servers, bootstrap_timeout_ms=patience_ms, **(login or {}))
            try:
                if topic not in admin.list_topics():
                    admin.create_topics([NewTopic(topic, num_partitions=partitions, replication_factor=-1)])
            except TopicAlreadyExistsError:
                pass  # somebody else made it between the two calls
            finally:
                admin.close()
            self._producer = KafkaProducer(
                bootstrap_servers=servers,
                bootstrap_timeout_ms=patience_ms,
                linger_ms=20,
                batch_size=256 << 10,
                max_request_size=self.MAX_BYTES,
                max_block_ms=min(patience_ms, 5000),
                compression_type="lz4",
                reconnect_backoff_max_ms=2000,
                metrics_enabled=False,
                **(login or {}),
            )
        self._failed: BaseException | None = None

    def send(
        self,
        values: Sequence[bytes],
        keys: Sequence[bytes | None] | None = None,
        headers: Sequence[list[tuple[str, bytes]]] | None = None,
        partition: int | None = None,
    ) -> None:
        """Hand messages over; `flush` tells whether they arrived."""
        try:
            for i, value in enumerate(values):
                self._producer.send(
                    self._topic,
                    value=value,
                    key=keys[i] if keys else None,
                    headers=headers[i] if headers else [],
                    partition=partition,
                ).add_errback(self._note)
        except KafkaError as error:
            raise SourceUnavailableError(f"Kafka at {self._bootstrap}: {error}") from error

    def _note(self, error: BaseException) -> Any:
        self._failed = self._failed or error

    def flush(self) -> None:
        """Wait until everything handed over is acknowledged.

        Raises
        ------
        SourceUnavailableError
            Something was not; what it was is unknown.
        """
        try:
            self._producer.flush(timeout=self._timeout_s)
        except KafkaError as error:
            raise SourceUnavailableError(f"Kafka at {self._bootstrap}: {error}") from error
        failed, self._failed = self._failed, None
        if failed is not None:
            raise SourceUnavailableError(f"Kafka at {self._bootstrap} refused a message for {self._topic}: {failed}")

    def close(self) -> None:
        """Let the connection go; what is not flushed may be lost."""
        self._producer.close(timeout=1)
