"""`ctr doctor` against a real Redis and a real Kafka: what is well, what is not, and what to do then."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from workbench import ctr, scorer, trainer, wait_for

from ctr.store import connect, health
from deploy.local.process import free_port
from deploy.local.redis import Redis
from workers.doctor import _holds, _requirement, judge_redis
from workers.lifecycle import ExitCode
from workers.market import Market
from workers.sinks import KafkaSink

SPEC = 'name = "ads"\nfields = [{ name = "user" }, { name = "ad" }]\n[event]\nlabel = "click"\n'


@pytest.fixture
def server(tmp_path):
    """A server whose settings may be changed."""
    made = Redis(tmp_path / "redis", free_port())
    made.start()
    yield made
    made.stop()


def examined(*arguments, code):
    done = ctr("doctor", "--json", *arguments)
    assert done.returncode == code, done.stderr + done.stdout
    return {finding["name"]: finding for finding in json.loads(done.stdout)}


def test_all_is_well(kafka, redis_url, topic, tmp_path):
    name = topic(2)
    sink = KafkaSink(kafka.bootstrap, name)
    sink.send([b"{}"] * 3, partition=1)
    sink.flush()
    sink.close()
    found = examined(
        "--redis", redis_url, "--kafka", kafka.bootstrap, "--topic", name, "--snapshots", tmp_path / "new", code=0
    )
    assert {"numba", "kafka-python", "redis version", "kernels", "memory", "disk for scratch files"} <= found.keys()
    for well in ("redis permissions", "redis maxmemory-policy", "redis role", "redis clock", "kafka topic",
                 "kafka records", "snapshots", "redis output buffers"):  # fmt: skip
        assert found[well]["status"] == "ok", found[well]
    assert "2 partitions, 3 records" in found["kafka topic"]["found"]
    assert all(finding["advice"] for finding in found.values() if finding["status"] != "ok")
    assert not list((tmp_path / "new").iterdir())
    with connect(redis_url) as client:
        assert client.dbsize() == 0, "what was tried is gone"
    said = ctr("doctor", "--redis", redis_url).stdout
    assert "ok   redis permissions: all commands" in said
    assert "\n     -> " in said


def test_what_is_missing_is_named(kafka, redis_url, tmp_path):
    (tmp_path / "file").touch()
    found = examined(
        "--redis", "redis://127.0.0.1:1/0", "--kafka", kafka.bootstrap, "--topic", "no-such-topic",
        "--snapshots", tmp_path / "file" / "below", code=1,
    )  # fmt: skip
    for ill in ("redis", "kafka topic", "snapshots"):
        assert found[ill]["status"] == "fail"
        assert found[ill]["advice"]
    assert examined("--redis", redis_url, "--kafka", "127.0.0.1:1", "--topic", "t", code=1)["kafka"]["status"] == "fail"


def test_a_policy_that_drops_rows_and_an_acl_that_forbids(server):
    with connect(server.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.acl_setuser(
            "narrow", enabled=True, passwords=["+pw"], keys=["ctr:*"], commands=["+@all", "-config", "-rename", "-xadd"]
        )
        client.acl_setuser("elsewhere", enabled=True, passwords=["+pw"], keys=["other:*"], commands=["+@all"])
    found = examined("--redis", f"redis://narrow:pw@127.0.0.1:{server.port}/0", code=1)
    assert found["redis maxmemory-policy"]["status"] == "fail"
    assert found["redis permissions"]["found"] == "forbidden: RENAME, XADD"
    assert found["redis permissions"]["advice"] == "ACL SETUSER <user> ~ctr:* +rename +xadd"
    assert found["redis output buffers"]["status"] == "warn", "CONFIG is forbidden, and this version does not count"
    found = examined("--redis", f"redis://elsewhere:pw@127.0.0.1:{server.port}/0", code=1)
    assert {"HSET", "WATCH", "GET", "UNLINK"} <= set(found["redis permissions"]["found"].replace(",", "").split())
    refused = ctr("doctor", "--redis", f"redis://narrow:wrong@127.0.0.1:{server.port}/0")
    assert refused.returncode == 1
    assert "refused the login" in refused.stdout
    assert "wrong" not in refused.stdout.replace("wrong password", "")


def test_a_replica_is_not_where_to_write(server, tmp_path):
    replica = Redis(tmp_path / "replica", free_port())
    replica.start()
    try:
        with replica.client() as client:
            client.replicaof("127.0.0.1", server.port)
            wait_for(lambda: client.info("replication")["master_link_status"] == "up")
        found = examined("--redis", replica.url, code=1)
        assert found["redis role"]["status"] == "fail"
        assert "READONLY" in found["redis commands"]["found"] or "read only" in found["redis commands"]["found"]
        assert examined("--redis", server.url, code=0)["redis replication backlog"]["status"] == "warn", "1 MB"
    finally:
        replica.stop()


def test_every_command_that_our_processes_send_is_tried(kafka, server, topic, tmp_path):
    (tmp_path / "ads.toml").write_text(SPEC)
    market, name = Market(seed=1), topic()
    sink = KafkaSink(kafka.bootstrap, name)
    sink.send(market.lines(market.events(500, time.time() + np.zeros(500))))
    sink.flush()
    sink.close()
    with connect(server.url) as client:
        client.config_resetstat()
        worker = trainer(tmp_path, tmp_path / "ads.toml", "--create", "--kafka", kafka.bootstrap, "--topic", name,
                         "--redis", server.url, "--names", 1)  # fmt: skip
        worker.start()
        answers = scorer(tmp_path, "ads", "--redis", server.url)
        answers.start()
        time.sleep(1)
        worker.stop()
        answers.stop()
        for arguments in (
            ("snapshot", "ads", tmp_path / "s"), ("restore", tmp_path / "s", "ads@2"), ("models", "list"),
            ("live", "ads@2"), ("models", "drop", "ads@1", "--force"),
        ):  # fmt: skip
            done = ctr(*arguments, "--redis", server.url)
            assert done.returncode == ExitCode.OK, done.stderr
        sent = {name.removeprefix("cmdstat_").partition("|")[0] for name in client.info("commandstats")}
    tried = {str(command[0]).lower() for command in health.commands("m@1")} | {"watch", "unwatch", "multi", "exec"}
    connecting = {"client", "hello", "auth", "select", "command", "config", "acl"}
    assert sent - connecting <= tried


@pytest.fixture
def facts(redis_url):
    with connect(redis_url) as client:
        [found] = health.look(client)
        return found


@pytest.mark.parametrize(
    ("name", "info", "status"),
    [
        ("redis version", {"redis_version": "6.0.16"}, "fail"),
        ("redis version", {"redis_version": "7.0.15"}, "ok"),
        ("redis memory", {"used_memory": 90, "maxmemory": 100}, "warn"),
        ("redis memory", {"used_memory": 70, "maxmemory": 100}, "ok"),
        ("redis fork head-room", {"used_memory": 5, "used_memory_rss": 5, "total_system_memory": 10}, "warn"),
        ("redis fork head-room", {"used_memory": 4, "used_memory_rss": 4, "total_system_memory": 10}, "ok"),
        ("redis persistence", {"rdb_last_bgsave_status": "err"}, "fail"),
        ("redis durability", {"aof_enabled": 0}, "warn"),
        ("redis replication backlog", {"connected_slaves": 1, "repl_backlog_size": 1 << 20}, "warn"),
        ("redis replication backlog", {"connected_slaves": 1, "repl_backlog_size": 256 << 20}, "ok"),
    ],
)
def test_what_a_server_says_is_judged(facts, name, info, status):
    findings = judge_redis(replace(facts, info=facts.info | info), is_local=False)
    assert {finding.name: finding.status for finding in findings}[name] == status


@pytest.mark.parametrize(("ahead_s", "status"), [(0.1, "ok"), (-2.0, "warn"), (90.0, "fail")])
def test_a_clock_that_is_off(facts, ahead_s, status):
    findings = judge_redis(replace(facts, clock_ahead_s=ahead_s, round_trip_s=0.001), is_local=False)
    assert {finding.name: finding.status for finding in findings}["redis clock"] == status


@pytest.mark.parametrize(("limits", "status"), [
    ("normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60", "ok"),
    ("normal 1000000 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60", "warn"),
])  # fmt: skip
def test_output_buffers(facts, limits, status):
    findings = judge_redis(replace(facts, output_buffer_limits=limits), is_local=False)
    assert {finding.name: finding.status for finding in findings}["redis output buffers"] == status


@pytest.mark.parametrize(("cut", "status"), [(None, "warn"), (0, "ok"), (3, "warn")])
def test_output_buffers_where_config_is_forbidden(facts, cut, status):
    """Redis 7.2 counts whom it cut off; an older one does not, and nothing is known."""
    said = {"client_recent_max_output_buffer": 20_504_000}
    info = facts.info | said | ({} if cut is None else {"client_output_buffer_limit_disconnections": cut})
    findings = judge_redis(replace(facts, info=info, output_buffer_limits=None), is_local=False)
    [found] = [finding for finding in findings if finding.name == "redis output buffers"]
    assert (found.status, "20.5 MB" in found.found) == (status, True)


def test_bounds_of_requirements():
    assert _requirement('numba<0.69,>=0.68 ; extra == "x"') == ("numba", [("<", "0.69"), (">=", "0.68")])
    assert _holds("0.68.1", ">=", "0.68")
    assert not _holds("0.69", "<", "0.69")
    assert _holds("2.9.post0", ">=", "2.7")
    assert not _holds("0.9", ">=", "0.19")
