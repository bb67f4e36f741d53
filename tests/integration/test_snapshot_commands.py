"""Snapshots, restores and models by the command line, beside real trainers on a real Kafka and a real Redis."""

import json
import subprocess
import sys
import threading
import time
from collections import Counter

import numpy as np
import pytest
from workbench import CLEAN, REPOSITORY, ctr, logged, metric, trainer, wait_for

from ctr.events.hashing import feature_key
from ctr.rows import RowShape
from ctr.store import ShardKeys, ShardReader, connect, read_model
from workers.lifecycle import ExitCode
from workers.market import Market
from workers.sinks import KafkaSink

FIELDS = ("user", "ad", "site", "device")
NOW = 1_790_000_000.0
SPEC = """
name = "ads"
generation = "{generation}"
fields = [{{ name = "user" }}, {{ name = "ad" }}, {{ name = "site" }}, {{ name = "device" }}]
[event]
label = "click"
time = "ts"
[model]
type = "ffm"
[commit]
interval_ms = 100
[store]
shards = {shards}
"""


@pytest.fixture
def spec(tmp_path):
    def write(shards, generation="1"):
        path = tmp_path / f"ads-{generation}-{shards}.toml"
        path.write_text(SPEC.format(shards=shards, generation=generation))
        return path

    return write


class Stream:
    """Events that go on coming; what they are is kept."""

    def __init__(self, kafka, topic):
        self._market, self._sink, self._over = Market(seed=3), KafkaSink(kafka.bootstrap, topic), threading.Event()
        self.lines, self._thread = [], threading.Thread(target=self._run)

    def send(self, n):
        lines = self._market.lines(self._market.events(n, NOW + 0.001 * (len(self.lines) + np.arange(n))))
        self.lines += lines
        self._sink.send(lines)

    def _run(self):
        while not self._over.wait(0.02):
            self.send(200)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()
        self._sink.flush()
        self._sink.close()

    def touched(self):
        """How many events touch each feature, from the messages alone."""
        counts = Counter()
        for line in self.lines:
            event = json.loads(line)
            counts.update(feature_key(name, str(event[name])) for name in FIELDS if event.get(name) is not None)
        return {key: float(count) for key, count in counts.items()}


def learned(client, model_id):
    """Count of learned events in each row: the bias row's apart."""
    stored = read_model(client, model_id)
    shape, found = RowShape.of(stored.spec), {}
    for shard in range(stored.shards):
        for block in ShardReader(client, ShardKeys(model_id, shard), row_bytes=stored.row_bytes).scan():
            w = block.data[:, 4 : 4 + 4 * shape.size].copy().view("<f4")
            head = shape.head_step * block.data[:, 0].astype(int)
            counts = w[np.arange(len(w)), head + 1].tolist()
            for key, count in zip(block.keys.tolist(), counts, strict=True):
                assert key not in found
                found[key] = count
    return found, found.pop(1)


def all_learned(client, model_id, events):
    """Every shard has all events."""
    stored = read_model(client, model_id)
    metas = [client.hgetall(ShardKeys(model_id, shard).meta) for shard in range(stored.shards)]
    return all(
        sum(int(value) for name, value in meta.items() if name.startswith(b"offset:")) == events for meta in metas
    )


def done(process, code=ExitCode.OK):
    assert process.returncode == code, process.stderr + process.stdout
    return process.stdout


@pytest.mark.parametrize(("shards", "restored_to"), [(4, 3), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_restored_into_an_empty_redis_each_event_counts_once(
    kafka, redis_url, topic, spec, tmp_path, shards, restored_to
):
    name = topic(2)
    common = ("--kafka", kafka.bootstrap, "--topic", name, "--redis", redis_url)
    with connect(redis_url) as client:
        with Stream(kafka, name) as stream:
            worker = trainer(tmp_path, spec(shards), *common, "--create")
            worker.start()
            wait_for(lambda: metric(worker, "ctr_events_total", result="learned") > 2000)
            before = metric(worker, "ctr_commits_total")
            said = done(ctr("snapshot", "ads", tmp_path / "snapshots", "--redis", redis_url, "--rows-per-s", 5000))
            assert f"in {shards} shards, " in said, "and all at one cut"
            assert metric(worker, "ctr_commits_total") > before, "learning went on"
            worker.kill()
        client.flushdb()
        said = done(ctr("restore", tmp_path / "snapshots", "ads", "--shards", restored_to, "--redis", redis_url))
        assert "served as ads: ads@1" in said
        _, events = learned(client, "ads@1")
        assert 0 < events < len(stream.lines), "from the middle"
        again = trainer(tmp_path / "again", spec(restored_to), *common)
        again.start()
        wait_for(lambda: all_learned(client, "ads@1", len(stream.lines)))
        again.stop()
        assert learned(client, "ads@1") == (stream.touched(), float(len(stream.lines)))


def test_rolled_back_and_trained_on_from_there(kafka, redis_url, topic, spec, tmp_path):
    name = topic()
    common = ("--kafka", kafka.bootstrap, "--topic", name, "--redis", redis_url)
    with Stream(kafka, name) as stream:
        wait_for(lambda: len(stream.lines) > 4000)
    half = len(stream.lines)
    with connect(redis_url) as client:
        worker = trainer(tmp_path, spec(2), *common, "--create")
        worker.start()
        wait_for(lambda: all_learned(client, "ads@1", half))
        done(ctr("snapshot", "ads", tmp_path / "snapshots", "--redis", redis_url))
        assert "2 shards" in done(ctr("snapshot", "ads", tmp_path / "snapshots", "--list", "--redis", redis_url))
        with Stream(kafka, name) as later:
            wait_for(lambda: len(later.lines) > 2000)
        wait_for(lambda: all_learned(client, "ads@1", half + len(later.lines)))
        refused = ctr("models", "drop", "ads@1", "--redis", redis_url)
        assert (refused.returncode, "holds ads@1" in refused.stderr) == (ExitCode.FENCED, True)
        done(ctr("rollback", "ads", tmp_path / "snapshots", "--generation", "good", "--redis", redis_url))
        assert read_model(client, "ads").spec.model_id == "ads@good"
        assert learned(client, "ads@good") == (stream.touched(), float(half))
        worker.stop()
        written = done(ctr("models", "inspect", "ads", "--spec", "--redis", redis_url))
        (tmp_path / "good.toml").write_text(written)
        again = trainer(tmp_path / "again", tmp_path / "good.toml", *common)
        again.start()
        wait_for(lambda: all_learned(client, "ads@good", half + len(later.lines)))
        again.stop()
        assert learned(client, "ads@good")[0] == learned(client, "ads@1")[0]
        found = json.loads(done(ctr("models", "list", "--json", "--redis", redis_url)))
        assert [(one["model_id"], one["live"], one["damage"]) for one in found] == [
            ("ads@1", False, ""), ("ads@good", True, "")
        ]  # fmt: skip
        assert "ads@good" in done(ctr("models", "inspect", "ads", "--redis", redis_url))
        done(ctr("live", "ads@1", "--redis", redis_url))
        done(ctr("models", "clone", "ads@1", "ads@copy", "--shards", 5, "--redis", redis_url))
        assert learned(client, "ads@copy") == learned(client, "ads@1")
        done(ctr("models", "drop", "ads@good", "--force", "--redis", redis_url))
        assert not [*client.scan_iter(match="ctr:{ads@good*")]


def test_a_snapshot_that_is_killed_is_none(kafka, redis_url, spec, tmp_path):
    events = tmp_path / "events.jsonl"
    market = Market(seed=1)
    events.write_bytes(b"".join(line + b"\n" for line in market.lines(market.events(3000, NOW + np.arange(3000)))))
    done(ctr("train", spec(3), "--create", "--from", events, "--redis", redis_url))
    arguments = ["snapshot", "ads", str(tmp_path / "snapshots"), "--redis", redis_url]
    with subprocess.Popen(
        [sys.executable, "-m", "workers.cli", *arguments, "--rows-per-s", "300"],
        env=CLEAN, cwd=REPOSITORY, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        time.sleep(3)
        assert process.poll() is None
        process.kill()
    missing = ctr("restore", tmp_path / "snapshots", "ads@2", "--redis", redis_url)
    assert (missing.returncode, "no whole snapshot" in missing.stderr) == (ExitCode.MODEL, True)
    done(ctr(*arguments))
    victim = next((tmp_path / "snapshots").rglob("shard-00001.safetensors"))
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-3] + bytes([whole[-3] ^ 16]) + whole[-2:])
    damaged = ctr("restore", tmp_path / "snapshots", "ads@2", "--redis", redis_url)
    assert (damaged.returncode, "is damaged" in damaged.stderr) == (ExitCode.MODEL, True)
    with connect(redis_url) as client:
        assert not [*client.scan_iter(match="ctr:{ads@2*")], "nothing was written"
    victim.write_bytes(whole)
    done(ctr("restore", tmp_path / "snapshots", "ads@2", "--redis", redis_url))


def test_a_trainer_has_snapshots_taken(kafka, redis_url, topic, spec, tmp_path):
    name, folder = topic(), tmp_path / "snapshots"
    with Stream(kafka, name), connect(redis_url) as client:
        worker = trainer(
            tmp_path, spec(2), "--kafka", kafka.bootstrap, "--topic", name, "--redis", redis_url, "--create",
            "--snapshots", folder, "--snapshot-interval", 1, "--snapshot-keep", 1,
        )  # fmt: skip
        worker.start()
        wait_for(lambda: metric(worker, "ctr_snapshots_total", result="taken") >= 2)
        assert abs(metric(worker, "ctr_snapshot_last_seconds") - time.time()) < 30
        assert metric(worker, "ctr_snapshots_total", result="failed") == 0
        worker.stop()
        said = [line["said"] for line in logged(worker) if line["event"] == "snapshot"]
        assert len(said) >= 2
        kept = list(folder.rglob("manifest.json"))
        assert len(kept) == 1
        client.flushdb()
        done(ctr("restore", folder, "ads", "--redis", redis_url))
        assert learned(client, "ads@1")[1] > 0
