"""Real clicks the whole way: Criteo's log through Kafka into a trainer, out of a scorer over HTTP."""

import json
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import xxhash
from naive import Event, Naive, unpack_rows
from sklearn.metrics import log_loss
from workbench import ctr, metric, post, scorer, stored, trainer, wait_for

from ctr import spec as specification
from ctr.events import open_reader
from ctr.events.transforms import log_bin
from ctr.model import Model
from ctr.rows import RowBlock
from ctr.store import connect
from workers.sources.kafka import KafkaSource

SPEC = Path(__file__).parents[2] / "deploy" / "examples" / "criteo.toml"
LOG = "criteo/criteo_dac_train_first10k.txt"
EVENTS = 10_000

pytestmark = pytest.mark.data


def replay(shared_data, kafka, topic):
    done = ctr("replay", shared_data / LOG, "--kafka", kafka.bootstrap, "--topic", topic)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"{EVENTS:,} messages to {topic} ")


def features_of(spec, row):
    """Features of one request as the specification's words say: bins of counts, categories, missing ones too."""
    features = []
    for f, field in enumerate(spec.fields):
        cell = row.get(field.name, "")
        text = log_bin(cell, field.bins_per_e) if field.transform and cell else cell
        key = xxhash.xxh64_intdigest(text.encode(), xxhash.xxh64_intdigest(field.name.encode()))
        features.append((key, f, 1.0))
    return features


def test_http_answers_equal_the_trained_table(kafka, redis_url, topic, shared_data, tmp_path):
    name = topic(partitions=4)
    replay(shared_data, kafka, name)
    worker = trainer(
        tmp_path, SPEC, "--kafka", kafka.bootstrap, "--topic", name, "--redis", redis_url, "--create"
    )  # fmt: skip
    worker.start()
    wait_for(lambda: metric(worker, "ctr_events_total", result="learned") == EVENTS)
    # the next look at the broker says that there is no more
    wait_for(lambda: all(metric(worker, "ctr_source_lag", partition=f"{name}:{p}") == 0 for p in range(4)))
    worker.stop()

    lines = (shared_data / LOG).read_text().splitlines()[::97]
    spec = specification.read(SPEC)
    cells = [dict(zip(spec.columns, line.split("\t"), strict=True)) for line in lines]
    requests = [{name: cell for name, cell in row.items() if name != "label" and cell} for row in cells]
    requests[0]["C1"] = "never seen"
    with connect(redis_url) as client:
        table, _ = stored(client, "criteo@1")
    # a cold request for thousands of rows may take longer than 50 ms, and would be answered from what is held
    served = scorer(tmp_path, "criteo", "--redis", redis_url, "--deadline", 5)
    served.start()
    answers = post(f"{served.address}/v1/models/criteo:predict", {"instances": requests})["predictions"]
    served.stop()

    # by hand, from the bytes in Redis and the formula alone
    twin = Naive(spec)
    keys = np.frombuffer(b"".join(table), "<u8").astype(np.uint64)
    values = np.frombuffer(b"".join(table.values()), np.uint8).reshape(len(keys), -1)
    twin.rows = unpack_rows(RowBlock(keys, values), len(spec.fields), spec.model.k)
    twin.bias = twin.rows.pop(1)
    expected = [1 / (1 + np.exp(-twin.logit(Event(features_of(spec, row))))) for row in requests]
    assert np.abs(np.array(answers) - expected).max() < 1e-6
    assert np.std(answers) > 0.05, "the model tells events apart"


def test_progressive_logloss_in_the_order_of_the_file(kafka, topic, shared_data):
    name = topic()
    replay(shared_data, kafka, name)
    spec = specification.read(SPEC)
    source, reader, model = (
        KafkaSource(kafka.bootstrap, name, group="g", start="earliest"),
        open_reader(spec),
        Model(spec),
    )
    source.open({})
    p, y = [], []
    while sum(map(len, p)) < EVENTS:
        messages = source.poll(1.0)
        if messages is not None:
            batch, refusals = reader.read(messages)
            assert refusals == []
            p.append(model.learn_many(batch))
            y.append(batch.labels)
    source.close()
    p, y = np.concatenate(p)[-2000:], np.concatenate(y)[-2000:]
    assert log_loss(y, p.astype(float)) <= 0.468


def test_the_readmes_command_gives_the_same_figure(redis_url, shared_data, tmp_path):
    done = ctr(
        "train", SPEC, "--create", "--from", shared_data / LOG, "--window", 2000, "--redis", redis_url,
        "--dead-letters", tmp_path / "dlq",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    stopped = json.loads(done.stderr.splitlines()[-1])
    assert stopped["events"] == EVENTS
    assert stopped["logloss"] <= 0.468


def test_a_request_by_curl_needs_no_more_than_json(redis_url, shared_data, tmp_path):
    ctr(
        "train", SPEC, "--create", "--from", shared_data / LOG, "--redis", redis_url, "--dead-letters", tmp_path / "dlq"
    )
    # a cold request for thousands of rows may take longer than 50 ms, and would be answered from what is held
    served = scorer(tmp_path, "criteo", "--redis", redis_url, "--deadline", 5)
    served.start()
    request = urllib.request.Request(f"{served.address}/v1/models/criteo:predict", b'{"instances": [{"I1": 5}, {}]}')
    with urllib.request.urlopen(request, timeout=10) as reply:
        predictions = json.loads(reply.read())["predictions"]
    served.stop()
    assert len(predictions) == 2
    assert all(0 < p < 1 for p in predictions)
