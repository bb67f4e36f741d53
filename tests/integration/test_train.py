"""The trainer as a process, on a real Kafka and a real Redis: exactly once, dead letters, outages, positions."""

import gzip
import json
import random
import time

import pytest
import redis as redis_py
from workbench import committed, ctr, logged, market_lines, metric, read_topic, send, stored, trainer, wait_for

from ctr.store import connect
from workers.lifecycle import ExitCode

SPEC = """
name = "ads"
generation = "{generation}"
fields = [{{ name = "user" }}, {{ name = "ad" }}, {{ name = "site" }}, {{ name = "device" }}]
[event]
label = "click"
time = "ts"
max_bytes = 1048576
[model]
base_rate = 0.035
[commit]
interval_ms = {interval_ms}
[store]
shards = 1
"""


@pytest.fixture
def spec(tmp_path):
    def write(generation="1", interval_ms=50):
        path = tmp_path / f"ads-{generation}.toml"
        path.write_text(SPEC.format(generation=generation, interval_ms=interval_ms))
        return path

    return write


def caught_up(worker, events):
    """Everything learned and committed."""

    def done():
        learned = metric(worker, "ctr_events_total", result="learned")
        return learned is not None and learned + metric(worker, "ctr_events_total", result="refused") >= events

    wait_for(done, within_s=120)
    committed = metric(worker, "ctr_commits_total")
    wait_for(lambda: metric(worker, "ctr_commits_total") > committed)


def learn(worker_of, events):
    """Run a trainer until it has seen `events`, then stop it."""
    worker = worker_of
    worker.start()
    caught_up(worker, events)
    worker.stop()


def test_kill_9_at_random_moments_changes_nothing(kafka, redis_url, topic, spec, tmp_path):
    name, events = topic(), 60_000
    send(kafka, name, market_lines(events))
    common = ("--kafka", kafka.bootstrap, "--topic", name, "--redis", redis_url, "--create", "--lease", "0.5")
    learn(trainer(tmp_path / "calm", spec("calm"), *common), events)
    with connect(redis_url) as client:
        calm = stored(client, "ads@calm")
        chance, killed_at = random.Random(7), []
        worker = trainer(tmp_path / "killed", spec("killed", interval_ms=10), *common)
        at = f"offset:{name}:0".encode()

        def learned():
            return int(stored(client, "ads@killed")[1].get(at, b"0")) if client.exists("ctr:{ads@killed}:spec") else 0

        while True:
            worker.start()
            if len(killed_at) == 6 or learned() == events:
                break
            before = max(killed_at, default=0)
            wait_for(lambda before=before: learned() > before, every_s=0.001)
            time.sleep(chance.uniform(0.0, 0.05))
            worker.kill()
            killed_at.append(learned())
        wait_for(lambda: stored(client, "ads@killed")[1] == calm[1], within_s=60)
        worker.stop()
        recovered = [line for line in logged(worker) if line["event"] == "recovered"]
        assert len({line["rows"] for line in recovered}) >= 3, (
            "the kills fell into the learning, not before or after it"
        )
        killed = stored(client, "ads@killed")
    assert killed[1] == calm[1]
    assert killed[0] == calm[0]


BROKEN = [
    (b'{"user": "u1", "click": 1, "ts": 1790000000', "syntax"),
    (b"[1, 2]", "type"),
    (b'{"user": {"a": 1}, "click": 1, "ts": 1790000000}', "type"),
    (b'{"user": "u1", "click": 7, "ts": 1790000000}', "label"),
    (b'{"user": "u1", "click": 1, "ts": 4070908800}', "time"),
    (b'{"user": "\xff\xfe", "click": 1, "ts": 1790000000}', "encoding"),
    (b"", "empty"),
    (b'{"user": "' + b"x" * (2 << 20) + b'", "click": 1, "ts": 1790000000}', "too_large"),
]


def test_broken_messages_land_in_the_dead_letter_topic_and_nowhere_else(kafka, redis_url, topic, spec, tmp_path):
    clean, dirty = topic(), topic(configs={"max.message.bytes": str(4 << 20)})
    good = market_lines(2400)
    send(kafka, clean, good)
    mixed, expected = [], {}
    for i, line in enumerate(good):
        if i % 100 == 50:
            payload, reason = BROKEN[(i // 100) % len(BROKEN)]
            expected[len(mixed)] = (payload, reason)
            mixed.append(payload)
        mixed.append(line)
    send(kafka, dirty, mixed)
    common = ("--kafka", kafka.bootstrap, "--redis", redis_url, "--create")
    learn(trainer(tmp_path / "clean", spec("clean"), "--topic", clean, *common), len(good))
    worker = trainer(tmp_path / "dirty", spec("dirty"), "--topic", dirty, *common)
    worker.start()
    caught_up(worker, len(mixed))
    counted = {reason: metric(worker, "ctr_dead_letters_total", reason=reason) for _, reason in BROKEN}
    worker.stop()

    with connect(redis_url) as client:
        assert stored(client, "ads@dirty")[0] == stored(client, "ads@clean")[0]
        assert stored(client, "ads@dirty")[1] == {f"offset:{dirty}:0".encode(): str(len(mixed)).encode()}
    reasons = [reason for _, reason in expected.values()]
    assert counted == {reason: reasons.count(reason) for _, reason in BROKEN}
    letters = {}
    for record in read_topic(kafka.bootstrap, f"{dirty}.dlq", len(expected)):
        headers = {key.removeprefix("__ctr.errors."): value.decode() for key, value in record.headers}
        assert record.key == f"{dirty}:0:{headers['offset']}".encode()
        assert headers["topic"] == dirty
        letters[int(headers["offset"])] = (record.value, headers["reason"], int(headers["bytes"]))
    assert letters == {
        offset: (payload[: 64 << 10], reason, len(payload)) for offset, (payload, reason) in expected.items()
    }


def test_a_graceful_stop_commits_all_and_says_so(kafka, redis_url, topic, spec, tmp_path):
    name = topic()
    send(kafka, name, market_lines(500))
    # an interval that never comes: what is stored, the stop has stored
    worker = trainer(
        tmp_path,
        spec(interval_ms=3_600_000),
        "--kafka",
        kafka.bootstrap,
        "--topic",
        name,
        "--redis",
        redis_url,
        "--create",
    )
    worker.start()
    wait_for(lambda: metric(worker, "ctr_events_total", result="learned") == 500)
    with connect(redis_url) as client:
        assert stored(client, "ads@1")[1] == {f"offset:{name}:0".encode(): b"0"}
        worker.stop()
        assert stored(client, "ads@1")[1] == {f"offset:{name}:0".encode(): b"500"}
    assert [line["event"] for line in logged(worker)][-2:] == ["stopping", "stopped"]
    wait_for(lambda: committed(kafka.bootstrap, "ctr-ads-1", name) == 500, within_s=10)


def test_redis_away_is_waited_for_and_nothing_is_lost(kafka, breakable_redis, topic, spec, tmp_path):
    name = topic()
    send(kafka, name, market_lines(300))
    worker = trainer(
        tmp_path, spec(), "--kafka", kafka.bootstrap, "--topic", name, "--redis", breakable_redis.url, "--create"
    )
    worker.start()
    caught_up(worker, 300)
    breakable_redis.pause()
    send(kafka, name, market_lines(300, seed=2))
    wait_for(lambda: metric(worker, "ctr_store_up") == 0.0, within_s=30)
    breakable_redis.resume()
    wait_for(lambda: metric(worker, "ctr_store_up") == 1.0, within_s=30)
    caught_up(worker, 600)
    worker.stop()
    with connect(breakable_redis.url) as client:
        assert stored(client, "ads@1")[1] == {f"offset:{name}:0".encode(): b"600"}
    assert "retrying" in {line["event"] for line in logged(worker)}


def test_start_decides_for_a_new_model_and_is_ignored_afterwards(kafka, redis_url, topic, spec, tmp_path):
    name = topic()
    send(kafka, name, market_lines(100))
    common = ("--kafka", kafka.bootstrap, "--topic", name, "--redis", redis_url, "--create")
    worker = trainer(tmp_path / "1", spec(), *common, "--start", "latest")
    worker.start()
    send(kafka, name, market_lines(50, seed=2))
    caught_up(worker, 50)
    worker.stop()
    with connect(redis_url) as client:
        assert stored(client, "ads@1")[1] == {f"offset:{name}:0".encode(): b"150"}
    again = trainer(tmp_path / "2", spec(), *common, "--start", "earliest")
    again.start()
    send(kafka, name, market_lines(1, seed=3))
    caught_up(again, 1)
    again.stop()
    later = trainer(tmp_path / "3", spec(), *common, "--start", "latest")
    later.start()
    later.stop()
    assert "start_ignored" in {line["event"] for line in logged(later)}


def test_start_takes_a_time(kafka, redis_url, topic, spec, tmp_path):
    name = topic()
    send(kafka, name, market_lines(40))
    time.sleep(1.1)
    moment = time.time()
    send(kafka, name, market_lines(7, seed=2))
    worker = trainer(
        tmp_path,
        spec(),
        "--kafka",
        kafka.bootstrap,
        "--topic",
        name,
        "--redis",
        redis_url,
        "--create",
        "--start",
        moment,
    )
    worker.start()
    caught_up(worker, 7)
    assert metric(worker, "ctr_events_total", result="learned") == 7
    worker.stop()


def test_a_topic_made_anew_stops_the_trainer(kafka, redis_url, topic, spec, tmp_path):
    name = topic()
    send(kafka, name, market_lines(500))
    arguments = (spec(), "--kafka", kafka.bootstrap, "--topic", name, "--redis", redis_url, "--create")
    learn(trainer(tmp_path, *arguments), 500)
    with kafka.admin() as admin:
        admin.delete_topics([name])
    wait_for(lambda: kafka.create_topic(name, 1))
    send(kafka, name, market_lines(700, seed=2))
    done = ctr("train", *arguments)
    assert done.returncode == ExitCode.POSITION, done.stderr
    assert f"{name} was deleted and made anew" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_files_are_learned_once_and_read_on(redis_url, spec, tmp_path):
    data = tmp_path / "events.jsonl"
    lines = market_lines(600)
    data.write_bytes(b"\n".join([*lines[:400], b'{"click": 3}']) + b"\n")
    arguments = ("train", spec(), "--from", data, "--redis", redis_url, "--create")
    assert ctr(*arguments).returncode == ExitCode.OK
    with connect(redis_url) as client:
        once = stored(client, "ads@1")
        assert ctr(*arguments).returncode == ExitCode.OK
        assert stored(client, "ads@1") == once, "a second run finds nothing new"
        with data.open("ab") as file:
            file.write(b"\n".join(lines[400:]) + b"\n")
        assert ctr(*arguments).returncode == ExitCode.OK
        in_two = stored(client, "ads@1")
    letters = [json.loads(line) for line in data.with_name("events.jsonl.dlq").read_text().splitlines()]
    assert [(letter["reason"], letter["payload"]) for letter in letters] == [("label", '{"click": 3}')]
    whole = tmp_path / "whole.jsonl"
    whole.write_bytes(b"\n".join(lines) + b"\n")
    assert ctr("train", spec("whole"), "--from", whole, "--redis", redis_url, "--create").returncode == ExitCode.OK
    with connect(redis_url) as client:
        assert stored(client, "ads@whole")[0] == in_two[0]


def test_a_file_that_stays_damaged_ends_the_worker_with_what_was_learned(redis_url, spec, tmp_path):
    data, lines = tmp_path / "events.jsonl.gz", market_lines(20_000)
    data.write_bytes(gzip.compress(b"\n".join(lines) + b"\n")[:-1000])
    done = ctr("train", spec(), "--from", data, "--redis", redis_url, "--create", "--outage-limit", 1)
    assert done.returncode == ExitCode.UNAVAILABLE
    assert "events.jsonl.gz cannot be read: damaged or cut" in done.stderr.splitlines()[-1]
    with connect(redis_url) as client:
        [offset] = stored(client, "ads@1")[1].values()
    assert 0 < int(offset) < sum(len(line) + 1 for line in lines)


def test_no_bar_in_a_pipe_and_every_line_is_json(redis_url, spec, tmp_path):
    data = tmp_path / "events.jsonl"
    data.write_bytes(b"\n".join(market_lines(50)) + b"\n")
    done = ctr("train", spec(), "--from", data, "--redis", redis_url, "--create")
    assert done.stdout == ""
    assert all(json.loads(line)["event"] for line in done.stderr.splitlines())


def test_redis_forgetting_a_commit_is_repaired_from_the_log(kafka, redis_url, topic, spec, tmp_path):
    name, events = topic(), 3000
    send(kafka, name, market_lines(events))
    common = ("--kafka", kafka.bootstrap, "--topic", name, "--redis", redis_url, "--create")
    learn(trainer(tmp_path / "calm", spec("calm"), *common), events)
    worker = trainer(tmp_path / "back", spec("back"), *common)
    worker.start()
    caught_up(worker, events)
    with connect(redis_url) as client, redis_py.Redis.from_url(redis_url) as raw:
        keys = [f"ctr:{{ads@back:0}}:{part}" for part in ("meta", "rows", "changes")]
        saved = [(key, raw.dump(key)) for key in keys]
        more = market_lines(events, seed=2)
        send(kafka, name, more)
        caught_up(worker, 2 * events)
        pipeline = raw.pipeline(transaction=True)
        for key, value in saved:
            pipeline.restore(key, 0, value, replace=True)
        pipeline.execute()
        wait_for(lambda: "server_went_back" in worker.log.read_text(), within_s=30)
        wait_for(lambda: stored(client, "ads@back")[1] == {f"offset:{name}:0".encode(): str(2 * events).encode()})
        worker.stop()
        learn(trainer(tmp_path / "calm2", spec("calm2"), *common), 2 * events)
        assert stored(client, "ads@back")[0] == stored(client, "ads@calm2")[0]
