"""Two trainers of one model as processes: one writes, one stands by, warm, and takes over when the first goes."""

import itertools
import json
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from workbench import (
    FIELDS,
    SPEC,
    START_S,
    exit_code,
    learned_counts,
    logged,
    metric,
    stored,
    touched,
    trainer,
    wait_for,
)

from ctr.store import connect
from workers.lifecycle import ExitCode
from workers.market import Market
from workers.sinks import KafkaSink


@pytest.fixture
def pair(kafka, redis_url, topic, tmp_path):
    """Makes two trainers of a new topic; the second one stands by."""
    name, made = topic(), []

    def make(*options):
        spec = tmp_path / "ads.toml"
        spec.write_text(SPEC)
        for number in (1, 2):
            made.append(trainer(
                tmp_path / str(number), spec, "--kafka", kafka.bootstrap, "--topic", name, "--redis", redis_url,
                "--create", *options,
            ))  # fmt: skip
            made[-1].start()
        return name, *made

    yield make
    for worker in made:
        worker.resume()
        worker.kill()


class Stream(threading.Thread):
    """Sends events all the time, and keeps what it sent."""

    def __init__(self, kafka, topic):
        super().__init__(daemon=True)
        self._sink, self._ended, self.lines = KafkaSink(kafka.bootstrap, topic), threading.Event(), []
        self.start()

    def run(self):
        market = Market(seed=5)
        for at in itertools.count():
            if self._ended.wait(0.01):
                return
            lines = market.lines(market.events(20, START_S + at + np.zeros(20)))
            self._sink.send(lines, partition=0)
            self._sink.flush()
            self.lines += lines

    def end(self):
        self._ended.set()
        self.join()
        self._sink.close()


def offset(client, topic):
    return int(stored(client, "ads@1")[1].get(f"offset:{topic}:0".encode(), b"0"))


def role(worker):
    """As /metrics and /readyz have it; None between the two."""
    try:
        with urllib.request.urlopen(f"{worker.address}/readyz", timeout=10) as reply:
            named = json.loads(reply.read())["role"]
    except urllib.error.HTTPError:  # 503: it is taking over
        return None
    return named if metric(worker, "ctr_role", role=named) == 1.0 else None


def seconds_until_learning(client, topic):
    """From now until an event is learned and stored that was sent after now."""
    began, at = time.monotonic(), offset(client, topic)
    wait_for(lambda: offset(client, topic) > at + 40, every_s=0.01)
    return time.monotonic() - began


@pytest.mark.parametrize(("how", "within_s"), [("kill", 5.0), ("stop", 1.0)])
def test_a_stand_by_goes_on(kafka, redis_url, pair, how, within_s):
    name, first, second = pair()
    assert (role(first), role(second)) == ("writer", "standby")
    assert (metric(first, "ctr_lease_held"), metric(second, "ctr_lease_held")) == (1, 0)
    stream = Stream(kafka, name)
    with connect(redis_url) as client:
        wait_for(lambda: offset(client, name) > 1000)
        assert role(second) == "standby"
        (first.kill if how == "kill" else lambda: first.identity.send(15))()
        assert seconds_until_learning(client, name) < within_s
        stream.end()
        wait_for(lambda: role(second) == "writer")  # what the first one stored at its end may have been seen before
        wait_for(lambda: offset(client, name) == len(stream.lines))
        second.stop()
        rows, _ = stored(client, "ads@1")
    [recovered] = [line for line in logged(second) if line["event"] == "recovered"]
    assert recovered["warm"]
    assert learned_counts(rows, len(FIELDS)) == touched(stream.lines, FIELDS)


@pytest.mark.parametrize("when_fenced", ["end", "stand-by"])
def test_a_paused_trainer_wakes_up_and_gives_way(kafka, redis_url, pair, when_fenced):
    name, first, second = pair("--lease", "0.5", "--when-fenced", when_fenced)
    stream = Stream(kafka, name)
    with connect(redis_url) as client:
        wait_for(lambda: offset(client, name) > 500)
        first.pause()
        wait_for(lambda: role(second) == "writer", within_s=20)
        first.resume()
        if when_fenced == "end":
            assert wait_for(lambda: exit_code(first), within_s=30) == ExitCode.FENCED
            assert "another writer" in first.log.read_text()
        else:
            wait_for(lambda: role(first) == "standby", within_s=30)
            assert "this trainer stands by" in first.log.read_text()
            assert metric(first, "ctr_fenced_total") == 1
            second.stop()
            wait_for(lambda: role(first) == "writer", within_s=30)
            second = first
        stream.end()
        wait_for(lambda: offset(client, name) == len(stream.lines))
        second.stop()
        rows, _ = stored(client, "ads@1")
    assert learned_counts(rows, len(FIELDS)) == touched(stream.lines, FIELDS)


def test_a_stand_by_stops_when_it_is_told(pair):
    _, first, second = pair()
    began = time.monotonic()
    second.stop()
    assert time.monotonic() - began < 5
    assert logged(second)[-1]["event"] == "stopped"
    assert role(first) == "writer"
