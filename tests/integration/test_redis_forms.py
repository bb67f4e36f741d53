"""`ctr train` on every form of Redis, each of them real: TLS and an ACL user, a Cluster, Sentinels; and bad days.

Always the same oracle: each row's update count is the number of events that touch it.
"""

import json
import subprocess
import time
from collections import Counter
from contextlib import ExitStack

import pytest
import redis as redis_py
from kafka import TopicPartition
from redis_servers import Configured, Masters
from workbench import (
    FIELDS,
    ctr,
    learned_counts,
    logged,
    market_lines,
    metric,
    send,
    stored,
    touched,
    trainer,
    wait_for,
)

from ctr.serving.scorer import Scorer
from ctr.store import connect, read_model
from ctr.store.keys import SLOTS, shard_keys, slot_of
from deploy.local.process import HOST, Service
from workers.lifecycle import ExitCode


@pytest.fixture
def started():
    """Starts services, ends them after the test."""
    with ExitStack() as stack:

        def start(service):
            stack.callback(service.stop)
            if isinstance(service, Service):
                stack.callback(service.resume)
            service.start()
            return service

        yield start


def offset(client, name):
    return int(stored(client, "ads@1")[1].get(name.encode(), b"0"))


def counts(client):
    return learned_counts(stored(client, "ads@1")[0], len(FIELDS))


def test_an_acl_user_over_tls(started, spec, tmp_path):
    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=tmp_path)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", "key.pem", "-out", "cert.pem",
            "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")  # fmt: skip
    server = started(Configured(tmp_path / "redis", [
        "port 0", "tls-port {port}", f"tls-cert-file {tmp_path}/cert.pem", f"tls-key-file {tmp_path}/key.pem",
        f"tls-ca-cert-file {tmp_path}/cert.pem", "tls-auth-clients no",
        "user default off", "user ads on >tiger%lily ~ctr:* &* +@all -@dangerous +info",
    ]))  # fmt: skip
    url = f"rediss://ads:tiger%25lily@{HOST}:{server.port}/0?ssl_ca_certs={tmp_path}/cert.pem"
    data, lines = tmp_path / "events.jsonl", market_lines(500)
    data.write_bytes(b"\n".join(lines) + b"\n")
    done = ctr("train", spec, "--from", data, "--redis", url, "--create", "--names", "1")
    assert done.returncode == ExitCode.OK, done.stderr
    with connect(url) as client:
        assert counts(client) == touched(lines, FIELDS)
    with Scorer(url, "ads") as scorer:
        assert 0 < scorer.predict([json.loads(lines[0])])[0] < 1
    for bad, code, said in (
        (url.replace("lily", "lion"), ExitCode.SETTING, "refused the login"),
        (url.replace("rediss", "redis"), ExitCode.UNAVAILABLE, "does not answer"),
        (url.partition("?")[0], ExitCode.UNAVAILABLE, "certificate"),
    ):
        done = ctr("train", spec, "--from", data, "--redis", bad)
        assert done.returncode == code, done.stderr
        assert said in done.stderr
        assert "tiger" not in done.stderr
        assert "Traceback" not in done.stderr


def test_a_cluster_of_three_masters(started, kafka, topic, spec, tmp_path):
    cluster = started(Masters(tmp_path))
    nodes, url = cluster.nodes, cluster.url
    name, lines = topic(), market_lines(9000)
    worker = trainer(
        tmp_path, spec, "--kafka", kafka.bootstrap, "--topic", name, "--redis", url, "--create", "--lease", 0.5
    )
    at = f"offset:{name}:0"
    try:
        worker.start()
        with connect(url) as client:
            send(kafka, name, lines[:3000])
            wait_for(lambda: offset(client, at) == 3000)
            worker.kill()
            worker.start()
            send(kafka, name, lines[3000:6000])
            wait_for(lambda: offset(client, at) > 3000)
            nodes[2].kill()  # a third of the shards is away for a while
            send(kafka, name, lines[6000:])
            wait_for(lambda: metric(worker, "ctr_store_up") == 0.0)
            nodes[2].start()
            wait_for(lambda: metric(worker, "ctr_store_up") == 1.0)
            wait_for(lambda: offset(client, at) == 9000)
            assert counts(client) == touched(lines, FIELDS)
            model = read_model(client, "ads")
            assert (model.shards, model.spread) == (16, True)
        with Scorer(url, "ads") as scorer:
            assert 0 < scorer.predict([json.loads(lines[0])])[0] < 1
        found = {finding["name"] for finding in json.loads(ctr("doctor", "--redis", url, "--json").stdout)}
        assert {f"redis version ({HOST}:{node.port})" for node in nodes} <= found
        assert {metric(worker, "ctr_redis_memory_bytes", server=f"{HOST}:{node.port}") > 0 for node in nodes} == {True}
        worker.stop()
    finally:
        worker.kill()
    per_node = []
    for node in nodes:
        with redis_py.Redis(port=node.port) as raw:
            per_node.append(len(list(raw.scan_iter(match="ctr:*:meta"))))
    assert sorted(per_node) == [5, 5, 6]


@pytest.mark.parametrize("shards", [1, 7, 16, 64])
def test_tags_spread_shards_evenly_over_the_slots_of_a_cluster(shards):
    slots = [slot_of(keys.meta.partition("{")[2].partition("}")[0]) for keys in shard_keys("m@1", shards, spread=True)]
    ranges = Counter(slot * shards // SLOTS for slot in slots)
    assert ranges == dict.fromkeys(range(shards), 1)
    # the example of the Cluster specification
    assert slot_of("123456789") == 0x31C3 % SLOTS


def test_sentinels_promote_a_replica_that_lacks_the_last_commits(started, kafka, topic, spec, tmp_path):
    grant = "user repl on >replpw +psync +replconf +ping"
    master = started(Configured(tmp_path / "master", [grant]))
    replica = started(Configured(tmp_path / "replica", [
        grant, f"replicaof {HOST} {master.port}", "masteruser repl", "masterauth replpw",
    ]))  # fmt: skip
    watch = started(Configured(tmp_path / "sentinel", [
        f"sentinel monitor ads {HOST} {master.port} 1", "sentinel down-after-milliseconds ads 1000",
        "sentinel failover-timeout ads 5000",
    ], sentinel=True))  # fmt: skip
    name, lines = topic(), market_lines(6000)
    url = f"redis+sentinel://{HOST}:{watch.port}/ads/0"
    worker = trainer(tmp_path, spec, "--kafka", kafka.bootstrap, "--topic", name, "--redis", url, "--create")
    at = f"offset:{name}:0"
    try:
        with redis_py.Redis(port=master.port) as raw, redis_py.Redis(port=replica.port) as spare:
            wait_for(lambda: spare.info("replication")["master_link_status"] == "up")
            wait_for(lambda: raw.info("replication")["connected_slaves"] == 1)
            with redis_py.Redis(port=watch.port) as sentinel:  # it asks the master for its replicas every ten seconds
                wait_for(lambda: sentinel.execute_command("SENTINEL MASTER", "ads")["num-slaves"] == 1)
            worker.start()
            send(kafka, name, lines[:2000])
            with connect(url) as client:
                wait_for(lambda: offset(client, at) == 2000)
            copied = raw.info("replication")["master_repl_offset"]
            wait_for(lambda: spare.info("replication")["slave_repl_offset"] >= copied)
            raw.execute_command("ACL", "SETUSER", "repl", "off")
            raw.execute_command("CLIENT", "KILL", "USER", "repl")
            send(kafka, name, lines[2000:4000])
            with connect(url) as client:
                wait_for(lambda: offset(client, at) == 4000)
        master.kill()
        send(kafka, name, lines[4000:])
        wait_for(lambda: "server_went_back" in worker.log.read_text())
        with connect(f"redis://{HOST}:{replica.port}/0") as client:
            wait_for(lambda: offset(client, at) == 6000)
            assert counts(client) == touched(lines, FIELDS)
        worker.stop()
    finally:
        worker.kill()


def test_a_server_that_comes_back_empty_is_written_anew_from_memory(kafka, breakable_redis, topic, spec, tmp_path):
    name, lines = topic(), market_lines(4000)
    at = f"offset:{name}:0"
    worker = trainer(
        tmp_path, spec, "--kafka", kafka.bootstrap, "--topic", name, "--redis", breakable_redis.url, "--create"
    )
    worker.start()
    try:
        send(kafka, name, lines[:2000])
        with connect(breakable_redis.url) as client:
            wait_for(lambda: offset(client, at) == 2000)
        with kafka.admin() as admin:  # and the log has forgotten
            admin.delete_records({TopicPartition(name, 0): 1500})
        scorer = Scorer(breakable_redis.url, "ads")
        with scorer:
            known = scorer.predict([json.loads(lines[0])])[0]
            breakable_redis.kill()
            breakable_redis.start()
            wait_for(lambda: "store_lost" in worker.log.read_text(), within_s=30)
            send(kafka, name, lines[2000:])
            with connect(breakable_redis.url) as client:
                wait_for(lambda: len(client.keys("ctr:*:meta")) == 16 and offset(client, at) == 4000)
                assert counts(client) == touched(lines, FIELDS)
                assert client.get("ctr:{ads}:live") == b"1"
            wait_for(lambda: scorer.predict([json.loads(lines[0])])[0] != known, within_s=20)
        worker.stop()
        done = ctr("train", spec, "--from", tmp_path / "none.jsonl", "--redis", breakable_redis.url)
        assert done.returncode == ExitCode.SETTING
    finally:
        worker.kill()


def test_a_server_without_memory_pauses_reading_and_nothing_is_lost(kafka, breakable_redis, topic, spec, tmp_path):
    name, lines = topic(), market_lines(40_000)
    at = f"offset:{name}:0"
    worker = trainer(
        tmp_path, spec, "--kafka", kafka.bootstrap, "--topic", name, "--redis", breakable_redis.url, "--create"
    )
    worker.start()
    try:
        send(kafka, name, lines[:500])
        with connect(breakable_redis.url) as client:
            wait_for(lambda: offset(client, at) == 500)
            client.config_set("maxmemory", client.info("memory")["used_memory"] + 100_000)
            send(kafka, name, lines[500:])
            wait_for(lambda: metric(worker, "ctr_store_up") == 0.0)
            assert "maxmemory" in worker.log.read_text()
            retries = metric(worker, "ctr_commit_retries_total")
            wait_for(lambda: metric(worker, "ctr_commit_retries_total") > retries)
            wait_for(lambda: metric(worker, "ctr_stage_wait_seconds_total", stage="learn", why="blocked") > 1)
            learned = metric(worker, "ctr_events_total", result="learned")
            time.sleep(1)
            assert metric(worker, "ctr_events_total", result="learned") == learned, "reading pauses"
            assert offset(client, at) < 40_000
            client.config_set("maxmemory", 0)
            wait_for(lambda: offset(client, at) == 40_000)
            assert metric(worker, "ctr_store_up") == 1.0
            assert counts(client) == touched(lines, FIELDS)
        worker.stop()
        assert not [line for line in logged(worker) if line["event"] in ("fenced", "store_lost")]
    finally:
        worker.kill()


