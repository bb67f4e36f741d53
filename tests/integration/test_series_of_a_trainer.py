"""A trainer of more partitions than a label may have values: a bounded number of series that leave nothing out."""

import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families
from workbench import SPEC, market_lines, metric, send, trainer, wait_for

from ctr.metrics import MOST, TRAINER

PARTITIONS = 300


@pytest.mark.kafka
@pytest.mark.redis
def test_series_do_not_grow_with_partitions(kafka, topic, redis_url, tmp_path):
    assert MOST["partition"] < PARTITIONS
    spec, name = tmp_path / "ads.toml", topic(partitions=PARTITIONS)
    spec.write_text(SPEC)
    send(kafka, name, market_lines(100), partition=PARTITIONS - 1)
    worker = trainer(
        tmp_path, spec, "--kafka", kafka.bootstrap, "--topic", name, "--redis", redis_url, "--create"
    )  # fmt: skip
    try:
        worker.start()
        wait_for(lambda: metric(worker, "ctr_events_total", result="learned") == 100)
        with urllib.request.urlopen(f"{worker.address}/metrics", timeout=10) as reply:
            families = {family.name: family for family in text_string_to_metric_families(reply.read().decode())}
    finally:
        worker.stop()
    for declared in TRAINER:
        samples = families[declared.name].samples if declared.name in families else []
        assert len(samples) <= declared.most_series(), declared.name
        for sample in samples:
            assert set(sample.labels) == set(declared.labels)
    partitions = {sample.labels["partition"] for sample in families["ctr_source_lag"].samples}
    assert len(partitions) == MOST["partition"]
    assert {f"{name}:0", "others"} < partitions
