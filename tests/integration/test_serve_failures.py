"""A running `ctr serve` under load while Redis and the model break: calm, honest, and well again by itself.

One process for all tests: that it is never restarted is what they show. Each leaves things as it found them.
"""

import dataclasses
import json
import statistics
import threading
import time

import httpx
import numpy as np
import pytest
from test_serve import ONE_HOT, Publisher
from workbench import metric, scorer, wait_for

from ctr.errors import StoreUnavailableError
from ctr.events import encode_rows
from ctr.store.catalog import live_key, spec_key
from deploy.local.process import free_port
from deploy.local.redis import Redis

pytestmark = pytest.mark.redis

DEADLINE_S = 0.15
PATIENCE_S = 0.9
"""No answer may take longer, on a machine that is shared. Redis's own time-out, 1 s, would show."""


class Bidder:
    """A `ctr serve` process, its Redis, the trainer's side, and a request every few milliseconds."""

    def __init__(self, directory):
        self.redis = Redis(directory / "redis", free_port(), password="sesame")
        self.redis.start()
        self.publisher = Publisher(self.redis.url)
        self.known = self.publisher.rows(20)
        self.publisher.learn(self.known)
        self.server = scorer(directory, "ads", "--redis", self.redis.url, "--deadline", DEADLINE_S)
        self.server.start()
        self.http = httpx.Client(base_url=self.server.address, timeout=10)

    def close(self):
        self.http.close()
        self.server.stop()
        self.redis.stop()

    def ask(self, rows):
        return self.http.post("/v1/models/ads:predict", json={"instances": rows})

    def answers_well(self, model="ads@1"):
        answer = self.ask([{}])
        return "x-ctr-stale" not in answer.headers and answer.headers["x-ctr-model"] == model

    def predictions(self, rows=None):
        return np.array(self.ask(rows or self.known).json()["predictions"])

    def agrees(self, publisher):
        return np.allclose(self.predictions(), publisher.predict(self.known), rtol=0, atol=1e-6)


class Load:
    """Requests from a thread, each with a feature that the server has never heard of; all are judged at the end."""

    def __init__(self, bidder):
        self._bidder, self._stop, self.answers = bidder, threading.Event(), []
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        with httpx.Client(base_url=self._bidder.server.address, timeout=10) as http:
            while not self._stop.wait(0.005):
                rows = [*self._bidder.known[:3], {"user": f"new {time.monotonic()}"}]
                began = time.perf_counter()
                answer = http.post("/v1/models/ads:predict", json={"instances": rows})
                self.answers.append((answer.status_code, time.perf_counter() - began, dict(answer.headers)))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        assert self.answers
        assert {status for status, _, _ in self.answers} == {200}
        taken = [seconds for _, seconds, _ in self.answers]
        assert max(taken) < PATIENCE_S
        assert statistics.median(taken) < DEADLINE_S + 0.1

    @property
    def stale(self):
        return any("x-ctr-stale" in headers for _, _, headers in self.answers)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    made = Bidder(tmp_path_factory.mktemp("bidder"))
    yield made
    made.close()


@pytest.fixture
def bidder(running):
    wait_for(running.answers_well, within_s=10)
    pid = running.server.identity.pid
    yield running
    wait_for(running.answers_well, within_s=10)
    try:
        running.publisher.learn(running.known)  # what is committed from now on is seen
    except StoreUnavailableError:  # the trainer's connection was broken, too
        running.publisher.learn(running.known)
    wait_for(lambda: running.agrees(running.publisher), within_s=10)
    assert running.server.alive()
    assert running.server.identity.pid == pid


def test_redis_is_stopped(bidder):
    """SIGSTOP: connections stay, nothing answers."""
    before = bidder.predictions()
    with Load(bidder) as load:
        bidder.redis.pause()
        try:
            wait_for(lambda: load.stale, within_s=5)
            np.testing.assert_array_equal(bidder.predictions(), before)
            assert metric(bidder.server, "ctr_store_up", model="ads") == 0
            assert bidder.http.get("/readyz").json()["status"] == "degraded"
            assert metric(bidder.server, "ctr_score_unanswered_total", model="ads") > 0
        finally:
            bidder.redis.resume()
        wait_for(bidder.answers_well, within_s=5)


def test_clients_are_paused(bidder):
    before = bidder.predictions()
    with Load(bidder) as load:
        with bidder.redis.client() as client:
            client.execute_command("CLIENT", "PAUSE", "1800", "ALL")
        wait_for(lambda: load.stale, within_s=5)
        np.testing.assert_array_equal(bidder.predictions(), before)
        wait_for(bidder.answers_well, within_s=5)


def test_redis_is_killed_and_comes_back_empty(bidder):
    before = bidder.predictions()
    with Load(bidder) as load:
        bidder.redis.kill()
        wait_for(lambda: load.stale, within_s=5)
        bidder.redis.start()
        time.sleep(0.5)
        np.testing.assert_array_equal(bidder.predictions(), before)
        assert not bidder.answers_well()
        bidder.publisher.publish_anew()  # the trainer writes all it knows
        bidder.publisher.learn(bidder.known)
        wait_for(bidder.answers_well, within_s=10)


def test_the_password_is_another_one(bidder):
    with bidder.redis.client() as client, Load(bidder) as load:
        client.config_set("requirepass", "other")
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        wait_for(lambda: load.stale, within_s=5)
        assert "sesame" not in bidder.http.get("/readyz").text
        client.config_set("requirepass", "sesame")
        wait_for(bidder.answers_well, within_s=10)
    assert "sesame" not in bidder.server.log.read_text()


def test_another_generation_goes_live_and_back(bidder):
    before = bidder.predictions()
    other = Publisher(bidder.redis.url, ONE_HOT.replace('"ads"', '"ads"\ngeneration = "2"'))
    other.learn(other.rows(300) + bidder.known)
    with Load(bidder) as load, bidder.redis.client() as client:
        client.set(live_key("ads"), "2")
        wait_for(lambda: bidder.answers_well("ads@2"), within_s=10)
        assert bidder.agrees(other)
        other.learn(bidder.known)
        wait_for(lambda: bidder.agrees(other), within_s=5)  # and it is followed
        client.set(live_key("ads"), "1")
        wait_for(bidder.answers_well, within_s=10)
        np.testing.assert_array_equal(bidder.predictions(), before)
    assert not load.stale  # the old one answers until the new one is loaded
    assert {headers["x-ctr-model"] for _, _, headers in load.answers} == {"ads@1", "ads@2"}


def test_live_names_a_generation_that_is_not_there(bidder):
    """Half-written: the specification comes last."""
    before = bidder.predictions()
    with Load(bidder) as load, bidder.redis.client() as client:
        client.set(live_key("ads"), "9")
        wait_for(lambda: load.stale, within_s=5)
        np.testing.assert_array_equal(bidder.predictions(), before)
        assert "ads@9" in bidder.http.get("/readyz").json()["reason"]
        client.set(live_key("ads"), "1")
        wait_for(bidder.answers_well, within_s=5)


def drop(client):
    client.delete(*client.keys("ctr:{ads@1*"), live_key("ads"), spec_key("ads@1"))


def test_the_model_is_dropped_and_made_again(bidder):
    before = bidder.predictions()
    with Load(bidder) as load, bidder.redis.client() as client:
        drop(client)
        wait_for(lambda: load.stale, within_s=5)
        np.testing.assert_array_equal(bidder.predictions(), before)
        bidder.publisher = Publisher(bidder.redis.url)
        bidder.publisher.learn(bidder.known)
        wait_for(bidder.answers_well, within_s=10)
        wait_for(lambda: bidder.agrees(bidder.publisher), within_s=10)


@pytest.mark.parametrize("text", [ONE_HOT.replace('"user"', '"uid"'), ONE_HOT], ids=["other", "first"])
def test_the_model_is_retrained_with_another_specification(bidder, text):
    """The same name and generation, another meaning: no row of the one is ever read as one of the other."""
    with Load(bidder) as load, bidder.redis.client() as client:
        drop(client)
        bidder.publisher = Publisher(bidder.redis.url, text)
        bidder.known = [{**row, "uid": row["user"]} for row in bidder.known]
        bidder.publisher.learn(bidder.known)
        wait_for(lambda: bidder.agrees(bidder.publisher), within_s=10)
        wait_for(bidder.answers_well, within_s=5)
    assert load.stale


def test_the_ttl_is_changed_in_place(bidder):
    """Rows older than it count as unseen from then on, and as seen again when it is taken back."""
    rows = [{"user": f"old {i}"} for i in range(20)]
    publisher = bidder.publisher
    batch = encode_rows(publisher.spec, rows, time.time() - 7200)
    publisher.model.learn_many(dataclasses.replace(batch, labels=np.ones(20, np.float32)))
    publisher.learn(bidder.known)
    wait_for(lambda: np.allclose(bidder.predictions(rows), publisher.predict(rows), rtol=0, atol=1e-6), within_s=5)
    learned, unknown = bidder.predictions(rows), bidder.predictions([{"user": "nobody"}] * 20)
    assert (learned > unknown + 0.005).all()
    with bidder.redis.client() as client:
        raw = client.get(spec_key("ads@1"))
        stored = json.loads(raw)
        stored["spec"]["lifetime"]["ttl_s"] = 3600
        client.set(spec_key("ads@1"), json.dumps(stored))
        wait_for(lambda: np.allclose(bidder.predictions(rows), unknown, rtol=0, atol=1e-6), within_s=5)
        client.set(spec_key("ads@1"), raw)
        wait_for(lambda: np.allclose(bidder.predictions(rows), learned, rtol=0, atol=1e-6), within_s=5)
