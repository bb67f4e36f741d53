"""A model written in format 1, kept as a file, is read by every later version: by scorer and trainer alike.

`python tests/integration/test_format.py REDIS_URL` wrote the fixture; it is never written anew for the same format.
"""

import base64
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from naive import Event, Naive, unpack_rows

from ctr import Scorer
from ctr import spec as specification
from ctr.events import encode_rows, feature_key, open_reader
from ctr.events.messages import Messages
from ctr.model import Model
from ctr.rows import RowBlock
from ctr.store import Cut, ShardKeys, ShardWriter, Watermarks, connect, create_model, open_model

FIXTURE = Path(__file__).parents[1] / "fixtures" / "format1.json"
MODEL = "kept@1"


def restore(client):
    """Put the fixture's keys into an empty Redis."""
    held = json.loads(FIXTURE.read_text())
    for name, value in held["strings"].items():
        client.set(name, value)
    for name, pairs in held["hashes"].items():
        client.hset(name, mapping={base64.b64decode(k): base64.b64decode(v) for k, v in pairs})
    for name, entries in held["streams"].items():
        for identity, pairs in entries:
            client.xadd(name, {base64.b64decode(k): base64.b64decode(v) for k, v in pairs}, id=identity)
    return held["rows"]


@pytest.fixture
def client(redis_url):
    with connect(redis_url) as made:
        yield made


def twin_of(client):
    """The naive model with the rows that are stored."""
    spec = specification.from_builtins(json.loads(client.get(f"ctr:{{{MODEL}}}:spec"))["spec"])
    table = client.hgetall(ShardKeys(MODEL, 0).rows)
    keys = np.frombuffer(b"".join(table), "<u8").astype(np.uint64)
    data = np.frombuffer(b"".join(table.values()), np.uint8).reshape(len(keys), -1)
    twin = Naive(spec)
    twin.rows = unpack_rows(RowBlock(keys, data), len(spec.fields), spec.model.k)
    twin.bias = twin.rows.pop(1)
    return twin


def test_a_scorer_reads_it(client, redis_url):
    requests = restore(client)
    twin = twin_of(client)
    expected = [
        1 / (1 + np.exp(-twin.logit(Event([
            (feature_key(field.name, row[field.name]), f, 1.0)
            for f, field in enumerate(twin.spec.fields) if field.name in row
        ]))))
        for row in requests
    ]  # fmt: skip
    with Scorer(redis_url, "kept") as scorer:
        served = scorer.predict(requests)
    assert np.abs(served - expected).max() < 1e-6
    assert np.ptp(served) > 0.05, "the rows were found"


def test_a_trainer_goes_on_with_it(client):
    requests = restore(client)
    twin = twin_of(client)
    stored = open_model(client, twin.spec, create=False)
    writer = ShardWriter(
        client, ShardKeys(MODEL, 0), spec_digest=stored.spec.digest, row_bytes=stored.row_bytes
    )  # fmt: skip
    meta = writer.take_over()
    assert meta.offsets == {"kept:0": 400}
    assert meta.watermarks.event_s == 1_700_000_399.0
    model = Model(stored.spec)
    for block in writer.load():
        model.load(block)
    assert model.rows == len(twin.rows)
    writer.commit(Cut(rows=model.take_dirty(), offsets={"kept:0": 401}, watermarks=Watermarks()))
    batch = encode_rows(stored.spec, requests, 1.7e9)
    assert np.isfinite(model.predict_many(batch)).all()


def make(url):
    """Write the fixture from a small trained model."""
    spec = specification.parse(
        f'name = "{MODEL.partition("@")[0]}"\nfields = [{{ name = "user" }}, {{ name = "ad" }}, {{ name = "site" }}]\n'
        '[event]\nlabel = "click"\ntime = "ts"\n[model]\nk = 3\nbase_rate = 0.3\n'
        "[optimizer]\nstep = 0.2\nlinear_step = 0.3\n[store]\nshards = 1\n"
    )
    rng = np.random.default_rng(3)
    rows = [
        {"user": f"u{rng.integers(9)}", "ad": int(rng.integers(5)), "site": "ab"[rng.integers(2)]} for _ in range(400)
    ]
    lines = [
        json.dumps({**row, "click": int((row["ad"] + (row["site"] == "a")) % 3 == 0), "ts": 1_700_000_000 + i}).encode()
        for i, row in enumerate(rows)
    ]
    end = np.cumsum([len(line) for line in lines])
    begin = end - [len(line) for line in lines]
    messages = Messages(
        b"".join(lines), begin, end, np.zeros(400, np.int32), np.arange(400), np.full(400, 1.8e9)
    )  # fmt: skip
    with connect(url) as client:
        client.flushdb()
        stored = create_model(client, spec)
        model = Model(spec)
        model.learn_many(open_reader(spec).read(messages)[0])
        keys = ShardKeys(spec.model_id, 0)
        writer = ShardWriter(client, keys, spec_digest=spec.digest, row_bytes=stored.row_bytes)
        writer.take_over()
        writer.commit(Cut(model.take_dirty(), {"kept:0": 400}, Watermarks(1_700_000_399.0, 1.8e9)))

        def coded(pairs):
            return [[base64.b64encode(k).decode(), base64.b64encode(v).decode()] for k, v in pairs]

        strings = [name for name in client.scan_iter() if client.type(name) == b"string"]
        FIXTURE.write_text(json.dumps({
            "format": 1,
            "rows": [*rows[:20], {"user": "u1"}, {"ad": 3, "site": "never seen"}],
            "strings": {name.decode(): client.get(name).decode() for name in strings},
            "hashes": {name: coded(client.hgetall(name).items()) for name in (keys.meta, keys.rows)},
            "streams": {keys.changes: [[i.decode(), coded(e.items())] for i, e in client.xrange(keys.changes)]},
        }, indent=1) + "\n")  # fmt: skip


if __name__ == "__main__":
    make(sys.argv[1])
