"""`ctr serve` against a real Redis: right, fresh, pure, and calm while the store breaks."""

import contextlib
import dataclasses
import hashlib
import http.client
import json
import signal
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest

from ctr import spec as specification
from ctr.errors import EventError, ModelMissingError, PortInUseError, SettingError, StoreUnavailableError
from ctr.events import encode_rows
from ctr.model import Model
from ctr.serving.http import ScorerApp
from ctr.serving.limits import Limits
from ctr.serving.scorer import Scorer
from ctr.serving.server import BackgroundServer, address_of, open_socket
from ctr.store import Cut, ShardKeys, ShardWriter, Watermarks, connect, create_model
from deploy.local.process import free_port
from workers import serve as serve_module
from workers.serve import ServeSettings, serve

pytestmark = pytest.mark.redis

ONE_HOT = """
name = "ads"
fields = [{name = "user"}, {name = "ad"}, {name = "price", transform = "log"}, {name = "site", missing = "feature"}]
model = {k = 4, start = 0.1, base_rate = 0.2}
optimizer = {step = 0.2}
store = {shards = 1}
"""
MULTI = ONE_HOT.replace('{name = "user"}', '{name = "user"}, {name = "tags", multi = true, scale = "sqrt"}')


class Publisher:
    """The trainer's side: a model that learns and commits to a real store."""

    def __init__(self, url, text=ONE_HOT):
        self.spec = specification.parse(text)
        self.client = connect(url)
        self.random = np.random.default_rng(3)
        self.model = Model(self.spec)
        self.publish_anew()

    def publish_anew(self):
        """Make the model in the store and write all that is known (none at first)."""
        stored = create_model(self.client, self.spec)
        self.writer = ShardWriter(
            self.client, ShardKeys(self.spec.model_id, 0), spec_digest=self.spec.digest, row_bytes=stored.row_bytes
        )
        self.writer.take_over()

    def rows(self, n):
        return [
            {
                "user": int(self.random.integers(300)),
                "ad": f"a{self.random.integers(40)}",
                "price": float(self.random.exponential(20)),
                "tags": [int(tag) for tag in self.random.integers(0, 30, self.random.integers(0, 4))],
                **({"site": "s1"} if self.random.random() < 0.7 else {}),
            }
            for _ in range(n)
        ]

    def learn(self, rows, at_s=None):
        """Learn with random labels and commit."""
        batch = encode_rows(self.spec, rows, time.time())
        labels = (self.random.random(len(rows)) < 0.3).astype(np.float32)
        self.model.learn_many(dataclasses.replace(batch, labels=labels))
        now = time.time() if at_s is None else at_s
        self.writer.commit(Cut(self.model.take_dirty(), {"t:0": self.model.rows}, Watermarks(now, now, now)))

    def predict(self, rows):
        return self.model.predict_many(encode_rows(self.spec, rows, time.time()))


class Served:
    """A scorer behind HTTP in this process."""

    def __init__(self, url, *, token=None, deadline_s=2.0, **limits):  # the machine is shared: what matters is said
        self.scorer = Scorer(url, "ads")
        self.scorer.start()
        self.scorer.wait_ready(60)
        self.app = ScorerApp(self.scorer, limits=Limits(deadline_s=deadline_s, **limits), token=token)
        bound = open_socket("127.0.0.1:0")
        self.http = httpx.Client(base_url=f"http://{address_of(bound)}", timeout=10)
        self.server = BackgroundServer(self.app, bound)
        self.server.start()

    def close(self):
        self.http.close()
        self.server.stop()
        self.app.close()
        self.scorer.close()

    def predict(self, rows):
        answer = self.http.post("/v1/models/ads:predict", json={"instances": rows})
        assert answer.status_code == 200, answer.text
        return np.array(answer.json()["predictions"]), answer.headers

    def metric(self, name):
        lines = self.http.get("/metrics").text.splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(name))

    def eventually(self, holds, within_s=10.0):
        until = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < until, "did not happen in time"
            time.sleep(0.02)


@pytest.fixture
def served():
    """served(url, **options) is a scorer behind HTTP."""
    with contextlib.ExitStack() as stack:

        def start(url, **options):
            made = Served(url, **options)
            stack.callback(made.close)
            return made

        yield start


def agree(served, publisher, rows):
    return np.allclose(served.predict(rows)[0], publisher.predict(rows), rtol=0, atol=1e-6)


@pytest.mark.parametrize("text", [ONE_HOT, MULTI], ids=["one-hot", "multi"])
def test_answers_equal_the_trained_table(redis_url, served, text):
    publisher = Publisher(redis_url, text)
    publisher.learn(publisher.rows(5000))
    served = served(redis_url)
    rows = [*publisher.rows(300), {}, {"user": "nobody"}, {"ad": None, "other": {"deep": 1}}]
    got, headers = served.predict(rows)
    np.testing.assert_allclose(got, publisher.predict(rows), rtol=0, atol=1e-6)
    assert np.ptp(got) > 0.05
    assert headers["x-ctr-model"] == "ads@1"
    assert 0 <= float(headers["x-ctr-staleness-seconds"]) < 30
    assert "x-ctr-stale" not in headers
    # the second time everything comes from memory
    misses = served.scorer.cache.counts["misses"]
    np.testing.assert_array_equal(served.predict(rows)[0], got)
    assert served.scorer.cache.counts["misses"] == misses
    # and in process it is the same
    np.testing.assert_allclose(served.scorer.predict(rows), got, rtol=0, atol=1e-7)


def test_a_commit_becomes_visible(redis_url, served):
    publisher = Publisher(redis_url)
    served = served(redis_url)
    rows = publisher.rows(50)
    assert served.predict(rows)[1]["x-ctr-staleness-seconds"] == "inf"  # nothing was ever committed
    np.testing.assert_allclose(served.predict(rows)[0], 0.2, atol=1e-6)  # the declared base rate
    for _ in range(5):
        publisher.learn(publisher.rows(200) + rows)
        served.eventually(lambda: agree(served, publisher, rows), within_s=2)
    assert float(served.predict(rows)[1]["x-ctr-staleness-seconds"]) < 3
    assert served.metric("ctr_chain_breaks_total") == 0


def test_staleness_is_that_of_the_arrivals_learned(redis_url, served):
    publisher = Publisher(redis_url)
    publisher.learn(publisher.rows(10), at_s=time.time() - 500)
    served = served(redis_url)
    _, headers = served.predict([{}])
    assert 500 <= float(headers["x-ctr-staleness-seconds"]) < 530
    assert headers["x-ctr-stale"] == "1"
    assert 500 <= served.metric("ctr_event_lag_seconds") < 530
    assert served.metric("ctr_commit_age_seconds") < 30  # the writer's own clock


def test_a_trimmed_change_stream_means_reading_all_again(redis_url, served):
    publisher = Publisher(redis_url)
    rows = publisher.rows(400)
    publisher.learn(rows)
    served = served(redis_url)
    assert agree(served, publisher, rows)
    for _ in range(3):
        publisher.learn(rows)
        publisher.client.xtrim(ShardKeys("ads@1", 0).changes, maxlen=0)
    served.eventually(lambda: agree(served, publisher, rows))
    served.eventually(lambda: served.metric("ctr_chain_breaks_total") >= 1)


def test_redis_hangs(breakable_redis, served):
    """Paused, Redis keeps its connections and answers nothing: no request waits beyond its deadline."""
    publisher = Publisher(breakable_redis.url)
    known = publisher.rows(20)
    publisher.learn(known)
    served = served(breakable_redis.url, deadline_s=0.05)
    before, headers = served.predict(known)
    assert "x-ctr-stale" not in headers
    breakable_redis.pause()
    took, until = [], time.monotonic() + 3
    while time.monotonic() < until:
        began = time.perf_counter()
        got, headers = served.predict([*known, {"user": f"new {time.time()}"}])
        took.append(time.perf_counter() - began)
        np.testing.assert_array_equal(got[:-1], before)
    # 50 ms, and what a shared machine adds; one that waited for Redis would take its time-out, 1 s, each of them
    assert np.percentile(took, 90) < 0.5
    assert headers["x-ctr-stale"] == "1"
    assert served.metric("ctr_store_up") == 0
    assert served.metric("ctr_score_unanswered_total") > 0
    began = time.perf_counter()
    served.scorer.predict([{"user": "new in process"}])
    assert time.perf_counter() - began < 0.5  # its time-out of 1 s was paid once, by the follower
    assert served.http.get("/readyz").status_code == 200  # it answers: taking it out would only make things worse
    breakable_redis.resume()
    served.eventually(lambda: served.metric("ctr_store_up") == 1)
    publisher.learn(known)
    served.eventually(lambda: agree(served, publisher, known))
    assert "x-ctr-stale" not in served.predict(known)[1]


def test_redis_dies_and_comes_back_empty(breakable_redis, served):
    publisher = Publisher(breakable_redis.url)
    known = publisher.rows(20)
    publisher.learn(known)
    served = served(breakable_redis.url)
    before, _ = served.predict(known)

    breakable_redis.kill()
    served.eventually(lambda: served.metric("ctr_store_up") == 0)
    got, headers = served.predict([*known, {"user": "never seen"}])
    np.testing.assert_array_equal(got[:-1], before)
    assert headers["x-ctr-stale"] == "1"

    breakable_redis.start()  # nothing was saved: it holds no model at all
    time.sleep(0.3)
    np.testing.assert_array_equal(served.predict(known)[0], before)
    assert served.metric("ctr_store_up") == 0

    # the trainer writes anew what it knows, and goes on
    publisher.model = Model(publisher.spec)
    publisher.publish_anew()
    publisher.learn(known[:10])
    served.eventually(lambda: agree(served, publisher, known))
    assert served.metric("ctr_store_up") == 1
    assert served.metric("ctr_chain_breaks_total") == 1
    assert "x-ctr-stale" not in served.predict(known)[1]


def test_wrong_type_of_answer_is_survived(redis_url, served):
    """Somebody replaces a row by something else: said, and healed with the next commit."""
    publisher = Publisher(redis_url)
    known = publisher.rows(5)
    publisher.learn(known)
    served = served(redis_url)
    key = encode_rows(publisher.spec, known[:1], 0.0).keys[0]
    publisher.client.hset(ShardKeys("ads@1", 0).rows, key.tobytes(), b"short")
    assert len(served.predict(known)[0]) == 5
    publisher.learn(known)
    served.eventually(lambda: agree(served, publisher, known))


@pytest.mark.parametrize(
    ("body", "status", "path"),
    [
        (b'{"instances": [{"user": 1}, {"user": {}}]}', 400, "$.instances[1].user"),
        (b'{"instances": [{"price": "cheap"}]}', 400, "$.instances[0].price"),
        (b'{"instances": [3]}', 400, "$.instances[0]"),
        (b'{"instances": ', 400, "$"),
        (b"", 400, "$"),
        (b'{"instances": [' + b"{}," * 1024 + b"{}]}", 400, "$.instances"),
        (b'{"instances": "' + b"x" * (4 << 20) + b'"}', 413, "the body has"),
    ],
)
def test_malformed_requests(redis_url, served, body, status, path):
    Publisher(redis_url)
    served = served(redis_url)
    answer = served.http.post("/v1/models/ads:predict", content=body, headers={"content-type": "text/html"})
    assert answer.status_code == status
    assert answer.json()["error"].startswith(path)
    assert served.predict([{}])[0].shape == (1,)


def test_chunked_body_over_the_limit(redis_url, served):
    Publisher(redis_url)
    served = served(redis_url)
    answer = served.http.post("/v1/models/ads:predict", content=(b" " * 65536 for _ in range(100)))
    assert answer.status_code == 413


def write_calls(client):
    reads = {"get", "hgetall", "hmget", "xrange", "ping", "info", "client|setinfo", "client|setname", "hello", "select",
             "client", "keys", "type", "auth", "command"}  # fmt: skip
    stats = client.info("commandstats")
    return {name: entry["calls"] for name, entry in stats.items() if name.removeprefix("cmdstat_") not in reads}


def content_hash(client):
    """Of what the keys hold, not of how: DUMP's order of a hash changes while Redis resizes it."""
    read = {b"string": client.get, b"hash": lambda key: sorted(client.hgetall(key).items()), b"stream": client.xrange}
    content = [(key, read[client.type(key)](key)) for key in sorted(client.keys("*"))]
    return hashlib.sha256(repr(content).encode()).hexdigest()


def test_scoring_changes_nothing(redis_url, served):
    publisher = Publisher(redis_url)
    publisher.learn(publisher.rows(500))
    served = served(redis_url)
    rows = [*publisher.rows(100), *({"user": f"new {i}"} for i in range(100))]
    calls, stored = write_calls(publisher.client), content_hash(publisher.client)
    assert calls["cmdstat_hset"] > 0
    first, _ = served.predict(rows)
    held = served.scorer.cache._model.state_hash()
    for _ in range(50):
        np.testing.assert_array_equal(served.predict(rows)[0], first)
    served.http.post("/v1/models/ads:predict", content=b"rubbish")
    for _ in range(1000):
        served.scorer.predict(rows[:10])
    assert served.scorer.cache._model.state_hash() == held
    assert write_calls(publisher.client) == calls
    assert content_hash(publisher.client) == stored


def test_scorer_in_process_without_a_thread(redis_url):
    """Nothing follows in the background: each call looks for itself."""
    publisher = Publisher(redis_url)
    rows = publisher.rows(30)
    scorer = Scorer(redis_url, "ads@1")
    for _ in range(3):
        publisher.learn(rows)
        np.testing.assert_allclose(scorer.predict(rows), publisher.predict(rows), rtol=0, atol=1e-6)
    with pytest.raises(EventError, match=r"^\$\[1\]\.user: "):
        scorer.predict([{}, {"user": {}}])
    scorer.close()


def test_scorer_refuses_at_once(redis_url):
    with pytest.raises(ModelMissingError):
        Scorer(redis_url, "nobody")
    with pytest.raises(SettingError, match="max_rows"):
        Scorer(redis_url, "nobody", max_rows=10)


# The process


@contextlib.contextmanager
def process(*arguments):
    child = subprocess.Popen(
        [sys.executable, "-m", "workers.cli", "serve", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def wait_ready(port, child, within_s=60):
    until, seen = time.monotonic() + within_s, set()
    while time.monotonic() < until and child.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            status = httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=30).status_code
            seen.add(status)
            if status == 200:
                return seen
        time.sleep(0.02)
    pytest.fail(f"not ready: {child.poll()}, {seen}")


def test_the_process_serves_and_ends_in_order(redis_url):
    publisher = Publisher(redis_url)
    rows = publisher.rows(100)
    publisher.learn(rows)
    port = free_port()
    with process("ads", "--redis", redis_url, "--listen", f"127.0.0.1:{port}") as child:
        assert wait_ready(port, child) <= {200, 503}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            got = client.post("/v1/models/ads:predict", json={"instances": rows}).json()["predictions"]
            np.testing.assert_allclose(got, publisher.predict(rows), rtol=0, atol=1e-6)
            assert client.get("/livez").status_code == 200
            assert 'ctr_store_up{model="ads"} 1.0' in client.get("/metrics").text

        # a request whose body is still on its way when the signal comes is answered all the same
        body = json.dumps({"instances": rows}).encode()
        slow = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        slow.putrequest("POST", "/v1/models/ads:predict")
        slow.putheader("content-length", str(len(body)))
        slow.endheaders(body[:100])
        time.sleep(0.2)
        child.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/livez")
        slow.send(body[100:])
        answer = slow.getresponse()
        assert answer.status == 200
        assert json.loads(answer.read())["predictions"] == got
        slow.close()
        assert child.wait(10) == 0
        errors = child.stderr.read().decode()
        assert "Traceback" not in errors
        assert all(json.loads(line) for line in errors.splitlines())


def test_a_second_signal_ends_at_once(redis_url):
    Publisher(redis_url)
    port = free_port()
    with process("ads", "--redis", redis_url, "--listen", f"127.0.0.1:{port}") as child:
        wait_ready(port, child)
        hanging = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        hanging.putrequest("POST", "/v1/models/ads:predict")
        hanging.putheader("content-length", "10")
        hanging.endheaders()
        time.sleep(0.2)
        child.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert child.poll() is None  # it waits for the request
        child.send_signal(signal.SIGINT)
        assert child.wait(2) == 130
        hanging.close()


def one_line(child, code):
    out, err = child.communicate(timeout=60)
    assert child.returncode == code, err
    assert out == b""
    told = [line for line in err.decode().splitlines() if line.startswith("ctr: ")]
    assert len(told) == 1
    assert b"Traceback" not in err
    return told[0]


def test_the_process_refuses_in_one_line(redis_url):
    with open_socket("127.0.0.1:0") as taken, process("ads", "--listen", address_of(taken)) as child:
        assert "in use" in one_line(child, 8)
    with process("nobody", "--redis", redis_url, "--listen", "127.0.0.1:0") as child:
        assert "nobody" in one_line(child, 5)
    with process("ads", "--redis", redis_url, "--listen", "8080") as child:
        assert "HOST:PORT" in one_line(child, 3)


def test_redis_away_at_start_is_waited_for_and_then_said(monkeypatch):
    monkeypatch.setattr(serve_module, "_STORE_LIMIT_S", 0.3)
    settings = ServeSettings(models=("ads",), redis=f"redis://:secret@127.0.0.1:{free_port()}/0", listen="127.0.0.1:0")
    assert "secret" not in repr(settings)
    began = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="does not answer") as failed:
        serve(settings, serve_module.Shutdown())
    assert "secret" not in str(failed.value)
    assert 0.3 <= time.monotonic() - began < 3


def test_port_comes_first():
    with open_socket("127.0.0.1:0") as taken, pytest.raises(PortInUseError):
        serve(ServeSettings(models=("ads",), redis="redis://nowhere.invalid", listen=address_of(taken)))
