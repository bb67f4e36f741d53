"""`python -m deploy.local up | down | status`: says where everything is, and ends exactly what it started."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from deploy.local import stack
from deploy.local.kafka import Cluster
from deploy.local.process import Identity, ServiceError, free_port, listening
from deploy.local.prometheus import Prometheus

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def environment(tmp_path):
    """Environment of a stack that is nobody else's; it is taken down after the test."""
    ports = {name: free_port() for name in stack.Settings.__dataclass_fields__ if name.endswith("_port")}
    ours = {f"CTR_LOCAL_{name.upper()}": str(port) for name, port in ports.items()}
    ours["CTR_LOCAL_RUN_DIR"] = str(tmp_path / "run")
    yield {**os.environ, **ours}
    run("down", {**os.environ, **ours})


def run(command, environment):
    return subprocess.run(
        [sys.executable, "-m", "deploy.local", *command.split()],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip


def listeners(environment):
    ports = {key: int(value) for key, value in environment.items() if re.fullmatch(r"CTR_LOCAL_\w+_PORT", key)}
    return {key for key, port in ports.items() if listening(port)}


def need(*programs):
    """Skip, or fail in CI, where a service of the stack cannot be had."""
    for program in programs:
        if not any((Path(folder) / program).exists() for folder in os.environ["PATH"].split(":")):
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no {program}: deploy/setup.sh services")


@pytest.mark.kafka
@pytest.mark.redis
def test_up_says_where_everything_is_and_down_ends_it(environment, own_kafka):
    need("prometheus")
    first = run("up --no-workers", environment)
    assert (first.returncode, first.stderr) == (0, "")
    started = {line.split()[0]: line for line in first.stdout.splitlines()}
    assert list(started) == ["kafka", "redis", "prometheus"]
    for name, line in started.items():
        assert f":{environment[f'CTR_LOCAL_{name.upper()}_PORT']}" in line
        assert Path(line.split()[-1]).is_file()
    pids = {name: int(re.search(r"pid (\d+)", line)[1]) for name, line in started.items()}

    again = run("up --no-workers", environment)
    assert again.returncode == 0
    assert [line.split()[:3] for line in again.stdout.splitlines()] == [[n, "already", "runs"] for n in started]
    assert [int(re.search(r"pid (\d+)", line)[1]) for line in again.stdout.splitlines()] == list(pids.values())

    with Cluster(f"127.0.0.1:{environment['CTR_LOCAL_KAFKA_PORT']}").admin() as admin:
        (ads,) = admin.describe_topics(["ads"])
    assert len(ads["partitions"]) == 4
    config = f"http://127.0.0.1:{environment['CTR_LOCAL_PROMETHEUS_PORT']}/api/v1/status/config"
    with urllib.request.urlopen(config) as answer:
        loaded = json.load(answer)["data"]["yaml"]
    assert re.findall(r"- (127\.0\.0\.1:\d+)", loaded) == [
        f"127.0.0.1:{environment['CTR_LOCAL_TRAINER_PORT']}",
        f"127.0.0.1:{environment['CTR_LOCAL_SCORER_PORT']}",
    ]
    assert run("status", environment).returncode == 1  # no workers

    identities = [Identity.of(pid) for pid in pids.values()]
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        # A record whose process ended, and whose pid went to somebody else.
        stale = {"name": "trainer", "pid": bystander.pid, "started": "earlier", "address": "", "log": ""}
        (Path(environment["CTR_LOCAL_RUN_DIR"]) / "trainer.json").write_text(json.dumps(stale))
        ended = run("down", environment)
        assert [line.split()[:2] for line in ended.stdout.splitlines()] == [
            ["prometheus", "ended"], ["redis", "ended"], ["kafka", "ended"],
        ]  # fmt: skip
        assert not any(identity.alive() for identity in identities)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
    assert run("down", environment).stdout == "nothing runs\n"


@pytest.mark.parametrize("service", ["KAFKA", "KAFKA_CONTROLLER", "REDIS", "PROMETHEUS"])
def test_up_with_an_occupied_port_is_one_line_and_starts_nothing(environment, service):
    port = int(environment[f"CTR_LOCAL_{service}_PORT"])
    with socket.create_server(("127.0.0.1", port)):
        answer = run("up --no-workers", environment)
    name = service.split("_")[0].lower()
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert answer.stderr == f"error: port {port}, which {name} wants, is in use: end what has it\n"
    assert listeners(environment) == set()
    assert list(Path(environment["CTR_LOCAL_RUN_DIR"]).glob("*.json")) == []


@pytest.mark.kafka
@pytest.mark.redis
def test_up_that_fails_half_way_ends_what_it_started(environment, own_kafka):
    need("prometheus")
    directory = Path(environment["CTR_LOCAL_RUN_DIR"]) / "prometheus"
    directory.mkdir(parents=True)
    (directory / "series").write_text("a file where prometheus wants a directory")
    answer = run("up --no-workers", environment)
    assert answer.returncode == 1
    assert [line.split()[:2] for line in answer.stdout.splitlines()] == [["kafka", "started"], ["redis", "started"]]
    assert re.fullmatch(r"error: prometheus ended with code \d+ before it answered, saying .*\n", answer.stderr)
    assert listeners(environment) == set()
    assert list(Path(environment["CTR_LOCAL_RUN_DIR"]).glob("*.json")) == []


@pytest.mark.kafka
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_up_ends_what_it_started(environment, own_kafka, number):
    record = Path(environment["CTR_LOCAL_RUN_DIR"]) / "kafka.json"
    command = [sys.executable, "-m", "deploy.local", "up", "--no-workers"]
    up = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until = time.monotonic() + 60
    while not (record.exists() and record.read_text()):  # Kafka runs now, and needs 2 s more before it answers
        assert up.poll() is None, up.communicate()
        if time.monotonic() > until:
            up.kill()
            pytest.fail(f"no broker within 60 s: {up.communicate()}")
        time.sleep(0.02)
    broker = Identity.of(json.loads(record.read_text())["pid"])
    assert broker.alive()
    up.send_signal(number)
    stdout, stderr = up.communicate(timeout=60)
    assert (up.returncode, stdout) == (130, b"")
    assert stderr.strip() == b"interrupted; what this call started is ended"
    assert not broker.alive()
    assert listeners(environment) == set()
    assert not record.exists()


@pytest.mark.parametrize("value", ["", "http", "0", "65536", "-1"])
def test_a_bad_port_setting_names_variable_and_value(environment, value):
    answer = run("up", {**environment, "CTR_LOCAL_REDIS_PORT": value})
    assert answer.returncode == 1
    assert answer.stderr == f"error: CTR_LOCAL_REDIS_PORT = {value!r}: a port is a whole number from 1 to 65535\n"


def test_prometheus_configuration_has_only_known_targets(tmp_path):
    service = Prometheus(tmp_path, 9090, {"trainer:9100": "127.0.0.1:1", "scorer:8080": "127.0.0.1:2"})
    service.prepare()
    written = (tmp_path / "prometheus.yml").read_text()
    assert re.findall(r'targets: \["(.*)"\]', written) == ["127.0.0.1:1", "127.0.0.1:2"]
    with pytest.raises(ServiceError, match="has no target joiner:9101"):
        Prometheus(tmp_path, 9090, {"joiner:9101": "x"}).prepare()
