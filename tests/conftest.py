"""What tests ask for: a real Kafka, Redis and Chromium, the shared click logs; and what is missing, said aloud.

Services are spawned on free ports once a session and end with it, however it ends. CTR_TEST_KAFKA (host:port) and
CTR_TEST_REDIS (URL; its database is flushed) name running ones instead. What cannot be had skips a test with the
reason; with CI=true it fails, so that a machine without Kafka is never green.
"""

from __future__ import annotations

import os
import re
import signal
import uuid
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
import redis as redis_py

with warnings.catch_warnings():
    # kafka-python 3.0.12 reads its schemas through importlib.resources.read_text, deprecated in Python 3.11 and 3.12.
    warnings.filterwarnings("ignore", "(read|open)_text is deprecated", DeprecationWarning)
    from deploy.local.kafka import Cluster, Kafka

from deploy.local.chromium import browser
from deploy.local.process import ServiceMissingError, free_port
from deploy.local.redis import Redis

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # begun in the background of a shell; children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

CI = os.environ.get("CI", "").lower() in {"1", "true"}

# No deadlines: a first example compiles kernels, and the machines are shared.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if CI else "default")


@contextmanager
def _service(service):
    """Start a service for a fixture and stop it at the end."""
    with _skipped_where_missing():
        service.start()
    try:
        yield service
    finally:
        service.stop()


@contextmanager
def _skipped_where_missing():
    """What this machine does not have skips a test; with CI=true it fails."""
    try:
        yield
    except ServiceMissingError as error:
        if CI:
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


def pytest_collection_modifyitems(items):
    """Integration tests first: trainers of other tests, up to four at once, then find their kernels compiled."""
    items.sort(key=lambda item: "integration" not in item.path.parts)


@pytest.fixture(scope="session")
def own_kafka(tmp_path_factory):
    """The session's own broker, even where CTR_TEST_KAFKA is set. To break it, ask for `breakable_kafka`."""
    with _service(Kafka(tmp_path_factory.mktemp("kafka") / "kafka", free_port(), free_port())) as broker:
        yield broker


@pytest.fixture(scope="session")
def kafka(request):
    """A broker to use, not to break: .bootstrap, .admin(), .create_topic(name, partitions, configs)."""
    if given := os.environ.get("CTR_TEST_KAFKA"):
        return Cluster(given)
    return request.getfixturevalue("own_kafka").cluster


@pytest.fixture
def breakable_kafka(own_kafka):
    """The session's broker, to kill, stop, pause and start; it runs again after the test."""
    yield own_kafka
    _heal(own_kafka)


@pytest.fixture
def topic(kafka, request):
    """topic(partitions=1, configs=None) makes a new topic, with a name of its own, and returns the name."""

    def make(partitions=1, configs=None):
        stem = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:60]
        name = f"{stem}-{uuid.uuid4().hex[:8]}"
        assert kafka.create_topic(name, partitions, configs)
        return name

    return make


@dataclass(frozen=True)
class GivenRedis:
    """The server that CTR_TEST_REDIS names."""

    url: str

    def client(self):
        return redis_py.Redis.from_url(self.url)


@pytest.fixture(scope="session")
def own_redis(tmp_path_factory):
    """The session's own server, even where CTR_TEST_REDIS is set. To break it, ask for `breakable_redis`."""
    with _service(Redis(tmp_path_factory.mktemp("redis") / "redis", free_port())) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(request):
    """A server to use, not to break: .url, .client(). What earlier tests wrote is still in it; see `redis_url`."""
    if given := os.environ.get("CTR_TEST_REDIS"):
        return GivenRedis(given)
    return request.getfixturevalue("own_redis")


@pytest.fixture
def redis_url(redis_server):
    """URL of an empty database."""
    with redis_server.client() as client:
        client.flushdb()
    return redis_server.url


@pytest.fixture
def breakable_redis(own_redis):
    """The session's server, empty, to kill, stop, pause and start; it runs again after the test."""
    with own_redis.client() as client:
        client.flushdb()
    yield own_redis
    _heal(own_redis)


@pytest.fixture(scope="module")
def chromium():
    """A real browser. Of one module: while Playwright runs, no other test of this thread can run an event loop."""
    with _skipped_where_missing(), browser() as running:
        yield running


def _heal(service):
    service.resume()
    if not service.alive():
        service.start()
    service.wait_ready()


@pytest.fixture(scope="session")
def shared_data():
    """Directory of the public click logs (CTR_TEST_DATA, else shared/data beside the repository)."""
    path = Path(os.environ.get("CTR_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no click logs at {path}: set CTR_TEST_DATA")
    return path


@pytest.fixture
def spec(tmp_path):
    """Specification of the simulated market's events, as a file; tests of other events have a `spec` of their own."""
    from workbench import SPEC

    path = tmp_path / "ads.toml"
    path.write_text(SPEC)
    return path
