"""The predict route over a scorer that is as slow, stale or absent as a test wants."""

import json
import math
import threading
import time
from types import MappingProxyType

import numpy as np
import pytest
from prometheus_client import generate_latest
from test_asgi import ask

from ctr import spec as specification
from ctr.errors import SettingError, StoreUnavailableError
from ctr.events import encode_rows
from ctr.events.requests import RequestScanner
from ctr.serving.generation import Generation
from ctr.serving.http import ScorerApp
from ctr.serving.limits import Limits
from ctr.store import Version

SPEC = specification.parse('name = "ads"\ngeneration = "2"\nfields = [{name = "user"}, {name = "ad", source = "adId"}]')


VIDEO = specification.parse('name = "video"\nfields = [{name = "user"}, {name = "ad"}]')


class StubCache:
    rows = memory_bytes = due_rows = 0
    broken = False
    counts = MappingProxyType({"hits": 0, "misses": 0, "rereads": 0, "breaks": 0})
    by_field, version = np.zeros((2, 2), np.int64), Version(7, "ab")

    def unheard(self, batch):
        return np.arange(len(batch)) == 0


class StubCatalogue(list):
    error, refused, memory_bytes = None, 0, 0


SCANNER = RequestScanner(SPEC)
SCANNER.scan_rows(b'{"instances": [{}]}', max_rows=1)  # compiled now: requests in tests have deadlines


class StubScorer:
    """Predicts .25 for every row; `lacking` says whether the store must be asked, `fill` how that goes."""

    def __init__(self):
        self.spec, self.model_id, self.cache, self.error = SPEC, SPEC.model_id, StubCache(), None
        self.lacking, self.staleness, self.starting = False, 1.25, None
        self.name, self.current, self.dense = "ads", self, True
        self.catalogue = StubCatalogue()
        self.fill = lambda _batch: True

    def encode(self, rows, path="$.instances"):
        return encode_rows(SPEC, rows, 0.0, path)

    def score_known(self, _batch):
        return None

    def score_plain(self, _body, _max_rows):
        return None

    def scan_ranking(self, _body, _max_rows):
        return None

    def scan(self, body, max_rows):
        return SCANNER.scan_rows(body, max_rows=max_rows)

    def missing(self, _batch):
        return np.zeros(int(self.lacking), np.uint64)

    def score(self, batch):
        return np.full(len(batch), 0.25, np.float32)

    def staleness_s(self):
        return self.staleness

    event_lag_s = commit_age_s = staleness_s

    stale, is_stale = Generation.stale, Generation.is_stale

    def live(self):
        return None

    def ready(self):
        return self.starting


@pytest.fixture
def scorer():
    return StubScorer()


@pytest.fixture
def app(scorer):
    made = ScorerApp(scorer, limits=Limits(deadline_s=0.05, max_instances=3, max_body_bytes=400))
    yield made
    made.close()


def predict(app, body, path="/v1/models/ads:predict", **options):
    return ask(app, path, "POST", body=body if isinstance(body, bytes) else json.dumps(body).encode(), **options)


def metric(app, name):
    lines = generate_latest(app._registry).decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)}


def test_predict(app):
    status, headers, body = predict(app, {"instances": [{"user": 1}, {}]})
    assert (status, body) == (200, {"predictions": [0.25, 0.25]})
    assert headers[b"x-ctr-model"] == b"ads@2"
    assert headers[b"x-ctr-staleness-seconds"] == b"1.250"
    assert b"x-ctr-stale" not in headers


def test_empty_request_and_unknown_keys(app):
    assert predict(app, {"instances": []})[2] == {"predictions": []}
    assert predict(app, {"signature_name": "x", "instances": [{"nobody": [1, {}]}]})[0] == 200
    assert predict(app, b'{"instances": [{"user": 1, "nobody": 1e400}]}')[0] == 200  # as a trainer passes it over


def test_usual_requests_are_scanned(app, scorer):
    """Both ways give the same answers: the slow one must not be asked for what comes every day."""
    scorer.encode = None
    assert predict(app, {"instances": [{"user": 1, "adId": "x"}, {}]})[2] == {"predictions": [0.25, 0.25]}
    scorer.scan = lambda _body, _max_rows: None
    assert predict(app, {"instances": [{"user": 1}]})[0] == 500


def test_any_content_type(app):
    assert predict(app, {"instances": []}, headers=[(b"content-type", b"text/plain")])[0] == 200


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "$: Input data was truncated"),
        (b"[]", "$: expected `object`, got `array`"),
        (b"{}", "$: object missing required field `instances`"),
        (b'{"instances": 7}', "$.instances: expected `array`, got `int`"),
        (b'{"instances": [{}, 7]}', "$.instances[1]: expected `object`, got `int`"),
        (b'{"instances": [{"user": 1}, {"user": {"id": 1}}]}', "$.instances[1].user: "),
        (b'{"instances": [{"adId": [1]}]}', "$.instances[0].adId: "),
        (b'{"instances": [{"user": 1e999}]}', "$.instances[0].user: the number is not finite"),
        (b'{"instances": [{"user": "\xff"}]}', "$: "),
        (b'{"instances": [{"user": ' + b"[" * 180 + b"]" * 180 + b"}]}", "$.instances[0].user: "),
        (b'{"instances": [{}, {}, {}, {}]}', "$.instances: 4 rows, at most 3 are allowed"),
        (b'{"instances": [{}]} tail', "$: "),
    ],
)
def test_malformed_requests_name_the_path(app, body, error):
    status, _, answer = predict(app, body)
    assert status == 400
    assert answer["error"].startswith(error)


def test_nesting_deeper_than_the_stack(scorer):
    app = ScorerApp(scorer)
    status, _, answer = predict(app, b'{"instances": [{"user": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}")
    assert (status, answer) == (400, {"error": "$: nested too deeply"})
    app.close()


def test_other_refusals(app):
    assert predict(app, {"instances": []}, path="/v1/models/users:predict")[0] == 404
    assert predict(app, {"instances": []}, path="/v1/models/ads@1:predict")[0] == 404
    assert predict(app, {"instances": []}, path="/v1/models/ads@2:predict")[0] == 200
    assert ask(app, "/v1/models/ads:predict")[0] == 405
    assert predict(app, b" " * 401)[0] == 413


def test_not_before_it_is_ready(app, scorer):
    scorer.starting = "starting: kernels are being compiled"
    status, headers, body = predict(app, {"instances": [{}]})
    assert (status, headers[b"retry-after"], body) == (503, b"1", {"error": scorer.starting})
    assert ask(app, "/readyz")[::2] == (503, {"status": "unavailable", "reason": scorer.starting})


def test_further_reason_not_to_be_ready(scorer):
    app = ScorerApp(scorer, ready=lambda: "stopping")
    assert ask(app, "/readyz")[2]["reason"] == "stopping"
    assert predict(app, {"instances": [{}]})[0] == 200  # what is under way is still answered
    app.close()


def test_a_known_request_never_leaves_the_thread(app, scorer):
    scorer.fill = pytest.fail
    assert predict(app, {"instances": [{"user": 1}]})[0] == 200


def test_a_request_never_waits_longer_than_its_deadline(app, scorer):
    release = threading.Event()
    scorer.lacking = True
    scorer.fill = lambda _batch: release.wait(5)

    began = time.perf_counter()
    threading.Timer(1.0, release.set).start()  # asyncio.run waits for its threads; the answer must not
    seen = []
    app._observe = lambda _route, status, seconds: seen.append((status, seconds))
    assert predict(app, {"instances": [{"user": 1}]})[2] == {"predictions": [0.25]}
    (answered,) = seen
    assert answered[0] == 200
    assert 0.05 <= answered[1] < 0.5
    assert time.perf_counter() - began < 4
    assert metric(app, "ctr_score_unanswered_total") == {'ctr_score_unanswered_total{model="ads"}': 1.0}


def test_answered_in_time_counts_as_answered(app, scorer):
    scorer.lacking = True
    predict(app, {"instances": [{"user": 1}]})
    assert metric(app, "ctr_score_unanswered_total") == {'ctr_score_unanswered_total{model="ads"}': 0.0}


def test_store_away(app, scorer):
    """Nobody is asked, everything is answered, and the answer says so."""
    scorer.error, scorer.lacking, scorer.fill = StoreUnavailableError("gone"), True, pytest.fail
    status, headers, _ = predict(app, {"instances": [{"user": 1}]})
    assert (status, headers[b"x-ctr-stale"]) == (200, b"1")
    assert metric(app, "ctr_score_unanswered_total") == {'ctr_score_unanswered_total{model="ads"}': 1.0}
    assert metric(app, "ctr_store_up") == {'ctr_store_up{model="ads"}': 0.0}


@pytest.mark.parametrize("staleness", [61.0, math.inf])
def test_old_rows_are_said_to_be_stale(app, scorer, staleness):
    scorer.staleness = staleness
    _, headers, _ = predict(app, {"instances": [{}]})
    assert headers[b"x-ctr-stale"] == b"1"
    assert float(headers[b"x-ctr-staleness-seconds"]) == staleness


def test_broken_chain_is_said_to_be_stale(app, scorer):
    scorer.cache.broken = True
    assert predict(app, {"instances": [{}]})[1][b"x-ctr-stale"] == b"1"


def test_description(app):
    status, _, body = ask(app, "/v1/models/ads")
    assert status == 200
    assert body["model_version_status"][0] | {"status": None} == {"version": "2", "state": "AVAILABLE", "status": None}
    assert [feature["name"] for feature in body["metadata"]["features"]] == ["user", "adId"]


def test_metrics(app):
    predict(app, {"instances": [{}, {}]})
    predict(app, b"")
    ask(app, "/nothing")
    route = 'route="/v1/models/{model}:predict"'
    assert metric(app, "ctr_score_requests_total") == {
        f'ctr_score_requests_total{{code="200",{route}}}': 1.0,
        f'ctr_score_requests_total{{code="400",{route}}}': 1.0,
        'ctr_score_requests_total{code="404",route="none"}': 1.0,
    }
    assert metric(app, "ctr_score_rows_total") == {'ctr_score_rows_total{model="ads"}': 2.0}
    counts = metric(app, "ctr_score_request_duration_seconds_count")
    assert {count for name, count in counts.items() if route in name and 'code="400"' in name} == {1.0}
    assert sum(counts.values()) == 3


def with_prior(scorer, **limits):
    return ScorerApp(scorer, limits=Limits(prior=0.125, **limits))


def fallbacks(app):
    found = metric(app, "ctr_score_fallbacks_total").items()
    return {line.split('why="')[1].split('"')[0]: count for line, count in found if count}


def test_prior_while_starting(scorer):
    scorer.starting = "starting"
    app = with_prior(scorer)
    status, headers, body = predict(app, {"instances": [{}, {"user": 1}]})
    assert (status, body, headers[b"x-ctr-fallback"]) == (200, {"predictions": [0.125, 0.125]}, b"2")
    assert predict(app, {"instances": [{"user": {}}]})[0] == 400  # what is wrong is wrong all the same
    assert fallbacks(app) == {"starting": 2}
    app.close()


def test_prior_for_rows_of_which_nothing_is_known_in_time(scorer):
    app = with_prior(scorer, deadline_s=0.05)
    release = threading.Event()
    scorer.lacking = True
    scorer.fill = lambda _batch: release.wait(2)
    threading.Timer(0.5, release.set).start()
    _, headers, body = predict(app, {"instances": [{"user": 1}, {"user": 2}]})
    assert body == {"predictions": [0.125, 0.25]}  # the stub knows something of all but the first
    assert headers[b"x-ctr-fallback"] == b"1"
    assert fallbacks(app) == {"unknown": 1}
    app.close()


def test_prior_past_the_deadline(scorer):
    app = with_prior(scorer, deadline_s=0.05)
    encode = scorer.encode

    def slow(rows, path):
        time.sleep(0.1)
        return encode(rows, path)

    scorer.scan = lambda _body, _max_rows: None
    scorer.encode = slow
    _, headers, body = predict(app, {"instances": [{"user": 1}]})
    assert (body, headers[b"x-ctr-fallback"]) == ({"predictions": [0.125]}, b"1")
    assert fallbacks(app) == {"late": 1}
    app.close()


def test_no_prior_no_fallback(app, scorer):
    _, headers, body = predict(app, {"instances": [{"user": 1}]})
    assert body == {"predictions": [0.25]}
    assert b"x-ctr-fallback" not in headers
    assert fallbacks(app) == {}


def test_answers_say_which_commit_they_are_made_of(app):
    assert predict(app, {"instances": []})[1][b"x-ctr-version"] == b"7-ab"


def test_readyz_degrades_and_then_gives_up(scorer):
    app = ScorerApp(scorer, limits=Limits(stale_after_s=10.0, unready_after_s=100.0))
    for staleness, status, said in ((5.0, 200, "ok"), (50.0, 200, "degraded"), (500.0, 503, "unavailable")):
        scorer.staleness = staleness
        found = ask(app, "/readyz")
        assert (found[0], found[2]["status"]) == (status, said)
        assert ask(app, "/v2/health/ready")[0] == status
        assert predict(app, {"instances": [{}]})[0] == 200  # an answer there is in any case
    app.close()


@pytest.mark.parametrize("wrong", [{"prior": 1.5}, {"prior": -0.1}, {"deadline_s": 0.0}, {"max_instances": 0}])
def test_limits_that_cannot_be(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        Limits(**wrong)


def test_several_models():
    ads, video = StubScorer(), StubScorer()
    video.name, video.spec, video.model_id = "video", VIDEO, VIDEO.model_id
    app = ScorerApp(ads, video)
    assert predict(app, {"instances": [{}]})[1][b"x-ctr-model"] == b"ads@2"
    assert predict(app, {"instances": [{}]}, path="/v1/models/video:predict")[1][b"x-ctr-model"] == b"video@1"
    for path, status in (
        ("/v1/models/video@1:predict", 200), ("/v1/models/video/versions/1:predict", 200),
        ("/v1/models/video/versions/2:predict", 404), ("/v1/models/audio:predict", 404),
    ):  # fmt: skip
        assert predict(app, {"instances": [{}]}, path=path)[0] == status
    video.starting = "starting"
    assert ask(app, "/readyz")[0] == 503
    assert predict(app, {"instances": [{}]})[0] == 200
    assert metric(app, "ctr_score_rows_total") == {
        'ctr_score_rows_total{model="ads"}': 2.0, 'ctr_score_rows_total{model="video"}': 3.0,
    }  # fmt: skip
    app.close()
