"""What a real scorer answered, joined through a real Kafka with the events that came of it, by `ctr join`."""

import json

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score
from workbench import SPEC as MARKET
from workbench import ctr, logged, market_lines, metric, post, scorer, send, trainer, wait_for

from deploy.local.process import free_port
from deploy.local.stack import Worker

SPEC = MARKET.replace('label = "click"', 'label = "click"\nid = "id"')
LEARNED, SERVED = 2000, 400

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


def events():
    """Events of the market that know their id."""
    found = [json.loads(line) for line in market_lines(LEARNED + SERVED)]
    return [{**event, "id": f"e{i}"} for i, event in enumerate(found)]


def rows_of(some):
    """What a bidder knows when it asks."""
    return [{name: value for name, value in event.items() if name not in ("click", "ts")} for event in some]


def joiner(directory, *arguments):
    port = free_port()
    return Worker("join", directory / "join", port, ["join", *map(str, arguments), "--listen", f"127.0.0.1:{port}"])


def ask(worker, some):
    return np.array([
        p for begin in range(0, len(some), 50)
        for p in post(f"{worker.address}/v1/models/ads:predict", {"instances": rows_of(some[begin : begin + 50])})[
            "predictions"]
    ])  # fmt: skip


def test_served_predictions_meet_their_labels(kafka, redis_url, topic, tmp_path):
    name = topic(partitions=2)
    answers = f"{name}-answers"
    spec = tmp_path / "ads.toml"
    spec.write_text(SPEC)
    all_events = events()
    lines = [json.dumps(event).encode() for event in all_events]
    send(kafka, name, lines[:LEARNED])
    learner = trainer(tmp_path, spec, "--kafka", kafka.bootstrap, "--topic", name, "--redis", redis_url, "--create")
    learner.start()
    wait_for(lambda: metric(learner, "ctr_events_total", result="learned") == LEARNED)
    learner.stop()

    place = f"kafka://{kafka.bootstrap}/{answers}"
    served = scorer(tmp_path, "ads", "--redis", redis_url, "--deadline", 5, "--answers", place, "--answers-share", 1)
    served.start()
    with kafka.admin() as admin:
        wait_for(lambda: answers in admin.list_topics())  # made before anything is asked
    of_events = "--kafka", kafka.bootstrap, "--topic", name, "--start", "earliest"
    join = joiner(tmp_path, "ads", "--redis", redis_url, "--answers", place, *of_events)
    join.start()
    later = all_events[LEARNED:]
    p = ask(served, later)
    wait_for(lambda: metric(join, "ctr_join_waiting") == SERVED)
    assert metric(served, "ctr_score_answers_total", result="written") == SERVED

    # a bidder's schema broke for some: they were asked with another site than the event then had
    broken = [{**event, "site": "elsewhere"} if i < 7 else event for i, event in enumerate(later)]
    send(kafka, name, [json.dumps(event).encode() for event in broken], partition=1)
    wait_for(lambda: metric(join, "ctr_join_answers_total", result="joined") == SERVED)
    y = np.array([event["click"] for event in later])
    labels = {"view": "served", "window": "events", "slice": "all"}
    assert metric(join, "ctr_window_events", **labels) == SERVED
    assert metric(join, "ctr_logloss", **labels) == pytest.approx(log_loss(y, p), abs=1e-6)  # p was text in between
    assert metric(join, "ctr_auc_ratio", **labels) == pytest.approx(roc_auc_score(y, p), abs=5e-3)  # bins: few events
    assert metric(join, "ctr_skew_fields_total", field="site") == 7
    assert metric(join, "ctr_skew_fields_total", field="user") == 0
    assert metric(join, "ctr_join_staleness_seconds") > 0
    for worker in (join, served):
        worker.stop()
    assert logged(join)[-1]["joined"] == SERVED


def test_files_are_joined_to_their_ends(redis_url, tmp_path):
    all_events = events()
    learned, log = tmp_path / "learned.jsonl", tmp_path / "answers.jsonl"
    learned.write_text("".join(json.dumps(event) + "\n" for event in all_events[:LEARNED]))
    spec = tmp_path / "ads.toml"
    spec.write_text(SPEC)
    assert ctr("train", spec, "--create", "--from", learned, "--redis", redis_url).returncode == 0
    served = scorer(tmp_path, "ads", "--redis", redis_url, "--deadline", 5, "--answers", log, "--answers-share", 1)
    served.start()
    ask(served, all_events[LEARNED:])
    served.stop()  # writes what waits
    shown = tmp_path / "shown.jsonl"
    shown.write_text("".join(json.dumps(event) + "\n" for event in all_events[LEARNED : LEARNED + 300]))
    done = ctr("join", "ads", "--redis", redis_url, "--answers", log, "--from", shown)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stderr.splitlines()[-1])
    assert (summary["joined"], summary["waiting"], summary["compared"]) == (300, SERVED - 300, 200)
    assert not any(name.startswith("skew_") for name in summary)


def test_a_model_whose_events_have_no_id_cannot_be_joined(redis_url, tmp_path):
    spec, log = tmp_path / "ads.toml", tmp_path / "events.jsonl"
    spec.write_text(MARKET)
    log.write_bytes(b"\n".join([*market_lines(10), b""]))
    assert ctr("train", spec, "--create", "--from", log, "--redis", redis_url).returncode == 0
    done = ctr("join", "ads", "--redis", redis_url, "--answers", tmp_path / "a", "--from", log)
    assert done.returncode == 3
    assert "event.id" in done.stderr
