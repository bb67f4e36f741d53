"""Rows that expire or make room: gone from the model, from Redis and from a scorer, whatever is killed when."""

import json
import random
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from naive import Event, to_batch
from workbench import CLEAN, REPOSITORY, ctr, stored

from ctr import spec as specification
from ctr.events import open_reader
from ctr.events.hashing import partition_salts
from ctr.model import Model
from ctr.serving.cache import RowCache
from ctr.store import Cut, ShardKeys, ShardReader, ShardWriter, Watermarks, connect, create_model
from ctr.store.keys import shard_keys
from workers.sources.files import FileSource

SPEC = """
name = "ads"
generation = "{generation}"
fields = [{{ name = "user" }}, {{ name = "ad" }}, {{ name = "site" }}]
[event]
label = "click"
time = "ts"
[model]
max_rows = 1024
start = 0.1
[lifetime]
ttl_s = 2800
admission = 0.8
[commit]
interval_ms = 20
[store]
shards = 1
"""
F = 3


def spec_of(generation="1"):
    return specification.parse(SPEC.format(generation=generation))


def stream(n, seed=0):
    """Events 2 s apart whose users come and go; more than fit in the first half of 4,000, few in the second."""
    rng = np.random.default_rng(seed)
    events = []
    for i in range(n):
        of_now = i // 500 * 100 + int(rng.integers(3000 if i % 4000 < 2000 else 150))
        keys = [of_now, 10_000 + int(rng.integers(40)), 20_000 + int(rng.geometric(0.005))]
        features = [(((f + 1) << 56) + (key << 33) + 77, f, 1.0) for f, key in enumerate(keys)]
        events.append(Event(features, float(rng.random() < 0.3), float(rng.choice([1.0, 1.0, 0.0])), 1.7e9 + 2.0 * i))
    return events


class Store:
    """A model's one shard on a real Redis, with its writer."""

    def __init__(self, client, generation="1"):
        self.spec = spec_of(generation)
        self.keys = ShardKeys(self.spec.model_id, 0)
        self.row_bytes = create_model(client, self.spec).row_bytes
        self.client = client
        self.take_over()

    def take_over(self):
        self.writer = ShardWriter(self.client, self.keys, spec_digest=self.spec.digest, row_bytes=self.row_bytes)
        self.writer.take_over()
        model = Model(self.spec)
        for block in self.writer.load():
            model.load(block)
        return model

    def commit(self, model, offset):
        cut = Cut(model.take_dirty(), {"t:0": offset}, Watermarks(1.0, 1.0), gone=model.take_gone())
        self.writer.commit(cut)
        return cut

    def reader(self):
        return ShardReader(self.client, self.keys, row_bytes=self.row_bytes)

    def held(self):
        return {int.from_bytes(key, "little") for key in self.client.hkeys(self.keys.rows)}


@pytest.fixture
def client(redis_url):
    with connect(redis_url) as made:
        yield made


def test_what_leaves_the_model_leaves_redis_and_is_named(client):
    store, events = Store(client), stream(6000)
    model, reader = store.take_over(), store.reader()
    reader.poll()
    batch, before, named = to_batch(events, F, dense=True), set(), 0
    for begin in range(0, len(batch), 400):
        model.learn_many(batch.slice(begin, begin + 400))
        cut = store.commit(model, begin + 400)
        now = store.held()
        every = np.array(sorted(before | now), np.uint64)
        assert now == set(every[model.lookup(every)].tolist())
        assert len(now) == model.rows + 1  # and the bias
        changes = reader.poll()
        assert set(changes.gone.tolist()) == before - now == set(cut.gone.tolist())
        assert not set(cut.gone.tolist()) & set(cut.rows.keys.tolist())
        before, named = now, named + len(cut.gone)
    assert named > 500
    assert model.counts.rows_expired > 0
    assert model.counts.rows_evicted > 0
    assert model.counts.rows_refused == 0
    assert len(model.take_gone()) == 0


def test_a_scorer_forgets_what_left(client):
    store, events = Store(client), stream(4000)
    model, batch = store.take_over(), to_batch(events, F, dense=True)
    cache = RowCache(Model(store.spec, weights_only=True, max_rows=8192), [store.reader()], max_rows=8192)
    left = set()
    for begin in range(0, len(batch), 400):
        part = batch.slice(begin, begin + 400)
        model.learn_many(part)
        cut = store.commit(model, begin + 400)
        left |= set(cut.gone.tolist())
        cache.follow()
        while cache.due_rows:
            cache.follow()
        gone = batch_of_keys(cut.gone)
        assert cache.missing(gone).tolist() == cut.gone.tolist()  # nothing old is held
        seen = batch.slice(0, begin + 400)
        cache.fill(seen)
        np.testing.assert_array_equal(cache.predict(seen), model.predict_many(seen))
        assert cache.rows == model.lookup(np.unique(seen.keys)).sum()
    assert len(left) > 200


def batch_of_keys(keys):
    return to_batch([Event([(int(key), (int(key) >> 56) - 1, 1.0)]) for key in keys], F, dense=True)


def test_a_restart_between_any_commits_changes_nothing(client):
    calm, restarted = Store(client, "calm"), Store(client, "restarted")
    batch = to_batch(stream(6000), F, dense=True)
    one, other = calm.take_over(), restarted.take_over()
    rng, begin = np.random.default_rng(3), 0
    while begin < len(batch):
        end = min(begin + int(rng.integers(1, 500)), len(batch))
        one.learn_many(batch.slice(begin, end))
        other.learn_many(batch.slice(begin, end))
        if rng.random() < 0.2:  # killed before its commit: the store is where `begin` is, and the events come again
            other = restarted.take_over()
            other.learn_many(batch.slice(begin, end))
        calm.commit(one, end)
        restarted.commit(other, end)
        if rng.random() < 0.3:
            other = restarted.take_over()
        begin = end
        assert stored(client, "ads@calm") == stored(client, "ads@restarted")
    assert one.counts.rows_expired > 0
    assert one.counts.rows_evicted > 0


def test_partitions_may_be_numbered_in_any_order():
    """Which features are let in depends on where an event stands, by name and offset."""
    batch = to_batch(stream(3000), F, dense=True)
    numbers = np.random.default_rng(1).integers(0, 3, 3000, np.int32)
    names, models = ["t:0", "t:1", "t:2"], []
    for order in ([0, 1, 2], [2, 0, 1]):
        model = Model(spec_of())
        place = np.argsort(order).astype(np.int32)
        model.learn_many(replace(batch, partitions=place[numbers]), salts=partition_salts(names[i] for i in order))
        models.append(model.state_hash())
    other = Model(spec_of())
    other.learn_many(replace(batch, partitions=numbers), salts=partition_salts(["u:0", "u:1", "u:2"]))
    assert models[0] == models[1] != other.state_hash()


def write_lines(path, n, seed):
    lines = []
    for event in stream(n, seed):
        values = {name: f"{key:x}" for name, (key, _, _) in zip(("user", "ad", "site"), event.features, strict=True)}
        lines.append(json.dumps({"click": int(event.y), "ts": event.time_s, **values}) + "\n")
    path.write_text("".join(lines))


def learned_here(logs):
    """What a model makes of the files, by key, with nothing but the library."""
    spec, source = spec_of(), FileSource(logs, follow=False, max_line_bytes=1 << 20)
    model, reader = Model(spec), open_reader(spec)
    source.open({})
    while not source.finished:
        if messages := source.poll(0.0):
            model.learn_many(reader.read(messages)[0], salts=partition_salts(source.partitions))
    block = model.take_dirty()
    return {int(key).to_bytes(8, "little"): data.tobytes() for key, data in zip(block.keys, block.data, strict=True)}


def test_kill_9_at_random_moments_changes_nothing(client, redis_url, tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    for part in range(2):
        write_lines(logs / f"{part}.jsonl", 80_000, seed=part)
    [keys] = shard_keys("ads@killed", 1, spread=False)

    def command(generation):
        path = tmp_path / f"{generation}.toml"
        path.write_text(SPEC.format(generation=generation))
        return ["train", path, "--from", logs, "--redis", redis_url, "--create"]

    def offsets():
        return {key: value for key, value in client.hgetall(keys.meta).items() if key.startswith(b"offset:")}

    assert ctr(*command("calm")).returncode == 0
    calm = stored(client, "ads@calm")
    assert calm[0] == learned_here(logs)
    chance, cut_short = random.Random(5), 0
    while True:
        process = subprocess.Popen(
            [sys.executable, "-m", "workers.cli", *map(str, command("killed"))],
            env=CLEAN, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        if cut_short < 3:
            moved_from, until = offsets(), time.monotonic() + 60
            while offsets() == moved_from and time.monotonic() < until:
                time.sleep(0.002)  # not before it has learned something
            time.sleep(chance.uniform(0.0, 0.05))
            process.kill()
        process.wait(60)
        if stored(client, "ads@killed")[1] == calm[1]:
            break
        cut_short += 1
        assert cut_short < 20
    assert cut_short >= 2, cut_short
    killed = stored(client, "ads@killed")
    assert killed[1] == calm[1]
    assert killed[0] == calm[0]
    assert 500 < len(killed[0]) <= 1025
