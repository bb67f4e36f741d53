"""Every route of `ctr serve` over a real Redis: right answers, documented ones, refusals with a reason."""

import json

import httpx
import numpy as np
import pytest
from openapi_spec_validator import validate
from test_serve import MULTI, Publisher, served  # noqa: F401  a fixture

import ctr

pytestmark = pytest.mark.redis

TOKEN = "open-sesame-0123456789"


@pytest.fixture
def publisher(redis_url):
    made = Publisher(redis_url)
    made.learn(made.rows(3000))
    return made


def test_rank(publisher, served, redis_url):  # noqa: F811
    http = served(redis_url).http
    context = {"user": 7, "site": "s1"}
    candidates = [{"ad": row["ad"], "price": row["price"]} for row in publisher.rows(50)] + [{"ad": "new"}, {}]
    full = publisher.predict([{**context, **candidate} for candidate in candidates])
    answer = http.post("/v1/models/ads:rank", json={"context": context, "candidates": candidates, "top": 7})
    assert answer.status_code == 200, answer.text
    got = answer.json()
    assert len(got["order"]) == len(got["scores"]) == 7
    np.testing.assert_allclose(got["scores"], np.sort(full)[::-1][:7], rtol=0, atol=1e-6)
    np.testing.assert_allclose(got["scores"], full[got["order"]], rtol=0, atol=1e-6)
    assert answer.headers["x-ctr-model"] == "ads@1"
    every = http.post("/v1/models/ads/versions/1:rank", json={"context": context, "candidates": candidates}).json()
    assert sorted(every["order"]) == list(range(len(candidates)))
    assert http.post("/v1/models/ads:rank", json={"candidates": []}).json() == {
        "order": [], "scores": [], "unknown": []
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"candidates": 7}, "$.candidates: "),
        ({}, "$: object missing required field `candidates`"),
        ({"candidates": [{}], "top": -1}, "$.top: "),
        ({"candidates": [{}, 7]}, "$.candidates[1]: "),
        ({"candidates": ["ad1", {}]}, "$.candidates: expected candidates that are all objects, or all ids"),
        ({"candidates": [{"price": "cheap"}]}, "$.candidates[0].price: "),
        ({"context": {"price": {}}, "candidates": [{"ad": 1}]}, "$.context.price: "),
        ({"candidates": [{}] * 1025}, "$.candidates: 1025 rows, at most 1024"),
    ],
)
def test_rank_refusals(publisher, served, redis_url, body, error):  # noqa: F811
    answer = served(redis_url).http.post("/v1/models/ads:rank", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(error)


def test_explain(publisher, served, redis_url):  # noqa: F811
    http = served(redis_url).http
    rows = [*publisher.rows(3), {}]
    answer = http.post("/v1/models/ads:explain", json={"instances": rows})
    assert answer.status_code == 200, answer.text
    predicted = http.post("/v1/models/ads:predict", json={"instances": rows}).json()["predictions"]
    for explained, prediction in zip(answer.json()["explanations"], predicted, strict=True):
        terms = [one["contribution"] for one in (*explained["features"], *explained["pairs"])]
        assert explained["prediction"] == prediction
        assert explained["bias"] + sum(terms) == pytest.approx(explained["logit"], abs=1e-12)
    assert http.post("/v1/models/ads:explain", json={"instances": [{}] * 17}).status_code == 400
    assert http.post("/v1/models/ads:explain", json={"instances": [{"user": []}]}).status_code == 400


def test_a_row_of_too_many_features_is_not_explained(redis_url, served):  # noqa: F811
    Publisher(redis_url, MULTI)
    answer = served(redis_url).http.post("/v1/models/ads:explain", json={"instances": [{"tags": list(range(600))}]})
    assert answer.status_code == 400
    assert "at most 512 can be explained" in answer.json()["error"]


def test_status_and_metadata(publisher, served, redis_url):  # noqa: F811
    http = served(redis_url).http
    (status,) = http.get("/v1/models/ads").json()["model_version_status"]
    assert status == {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert http.get("/v1/models/ads/versions/1").status_code == 200
    assert http.get("/v1/models/ads/versions/2").status_code == 404
    signature = http.get("/v1/models/ads/metadata").json()
    assert signature["model_spec"] == {"name": "ads", "signature_name": "", "version": "1"}
    inputs = signature["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]
    assert {name: one["dtype"] for name, one in inputs.items()} == {
        "user": "DT_STRING", "ad": "DT_STRING", "price": "DT_DOUBLE", "site": "DT_STRING"
    }  # fmt: skip


# Open Inference Protocol


def infer(http, inputs, **more):
    return http.post("/v2/models/ads/infer", json={"inputs": inputs, **more})


def tensor(name, data, datatype="BYTES", shape=None):
    return {"name": name, "shape": shape or [len(data)], "datatype": datatype, "data": data}


def test_v2_metadata_and_probes(publisher, served, redis_url):  # noqa: F811
    http = served(redis_url).http
    assert http.get("/v2").json().keys() == {"name", "version", "extensions"}
    assert http.get("/v2/health/live").json() == {"live": True}
    assert http.get("/v2/health/ready").json() == {"ready": True}
    assert http.get("/v2/models/ads/ready").json() == {"name": "ads", "ready": True}
    metadata = http.get("/v2/models/ads").json()
    assert (metadata["name"], metadata["versions"]) == ("ads", ["1"])
    assert {one["name"]: (one["datatype"], one["shape"]) for one in metadata["inputs"]} == {
        "user": ("BYTES", [-1]), "ad": ("BYTES", [-1]), "price": ("FP64", [-1]), "site": ("BYTES", [-1]),
    }  # fmt: skip
    for path in ("/v2/models/nobody", "/v2/models/nobody/ready", "/v2/models/ads/versions/9"):
        answer = http.get(path)
        assert (answer.status_code, list(answer.json())) == (404, ["error"])


def test_v2_infer_equals_predict(publisher, served, redis_url):  # noqa: F811
    http = served(redis_url).http
    rows = publisher.rows(20)
    inputs = [
        tensor("user", [row["user"] for row in rows], "INT64", [20, 1]),
        tensor("ad", [row["ad"] for row in rows]),
        tensor("price", [row["price"] for row in rows], "FP64"),
        tensor("site", [row.get("site") for row in rows]),
    ]
    answer = infer(http, inputs, id="abc", outputs=[{"name": "predictions"}])
    assert answer.status_code == 200, answer.text
    got = answer.json()
    assert (got["model_name"], got["model_version"], got["id"]) == ("ads", "1", "abc")
    (output,) = got["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("predictions", "FP32", [20])
    np.testing.assert_allclose(output["data"], publisher.predict(rows), rtol=0, atol=1e-6)
    assert answer.headers["x-ctr-model"] == "ads@1"
    # a user as text is the same feature as its number; a column left out is missing
    texts = [tensor("user", [str(row["user"]) for row in rows]), *inputs[1:]]
    np.testing.assert_array_equal(infer(http, texts).json()["outputs"][0]["data"], output["data"])
    alone = infer(http, inputs[1:2]).json()["outputs"][0]["data"]
    np.testing.assert_allclose(alone, publisher.predict([{"ad": row["ad"]} for row in rows]), rtol=0, atol=1e-6)


def test_v2_several_values_a_field(redis_url, served):  # noqa: F811
    publisher = Publisher(redis_url, MULTI)
    publisher.learn(publisher.rows(2000))
    http = served(redis_url).http
    rows = [{"tags": [1, 2]}, {"tags": [3, 3]}, {"tags": [4, 29]}]
    for data in ([1, 2, 3, 3, 4, 29], [[1, 2], [3, 3], [4, 29]]):
        got = infer(http, [tensor("tags", data, "INT32", [3, 2])]).json()["outputs"][0]["data"]
        np.testing.assert_allclose(got, publisher.predict(rows), rtol=0, atol=1e-6)
    one = infer(http, [tensor("tags", [5, None], "INT32", [2])]).json()["outputs"][0]["data"]
    np.testing.assert_allclose(one, publisher.predict([{"tags": [5]}, {}]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        ([], "$.inputs: at least one"),
        ([tensor("nobody", ["x"])], "$.inputs[0].name: "),
        ([tensor("user", ["x"]), tensor("user", ["x"])], "$.inputs[1].name: "),
        ([tensor("user", ["x"]), tensor("ad", ["x", "y"])], "$.inputs[1].shape: "),
        ([tensor("user", [], shape=[0]), tensor("ad", ["x"])], "$.inputs[1].shape: "),
        ([tensor("user", ["x"], "STRING")], "$.inputs[0].datatype: "),
        ([tensor("user", ["x"], "FP64")], "$.inputs[0].data[0]: not FP64"),
        ([tensor("user", [True], "INT8")], "$.inputs[0].data[0]: not INT8"),
        ([tensor("user", ["x"], shape=[2])], "$.inputs[0].data: 1 values"),
        ([tensor("user", ["x"], shape=[1, 1, 1])], "$.inputs[0].shape: "),
        ([tensor("user", ["x"], shape=[-1])], "$.inputs[0].shape: "),
        ([tensor("user", ["x", "y"], shape=[1, 2])], "$.rows[0].user: "),
        ([tensor("user", [[1], [2, 3]], "INT8", [2, 1])], "$.inputs[0].data: rows of 1"),
        ([tensor("user", ["x"] * 1025)], "$.inputs[0].shape: 1025 rows"),
        ([tensor("price", ["cheap"])], "$.rows[0].price: "),
    ],
)
def test_v2_refusals(publisher, served, redis_url, inputs, error):  # noqa: F811
    answer = infer(served(redis_url).http, inputs)
    assert (answer.status_code, list(answer.json())) == (400, ["error"])
    assert answer.json()["error"].startswith(error)


def test_v2_other_outputs_are_refused(publisher, served, redis_url):  # noqa: F811
    answer = infer(served(redis_url).http, [tensor("user", ["x"])], outputs=[{"name": "logits"}])
    assert answer.json()["error"].startswith("$.outputs[0].name: ")


# The document


def test_openapi_is_valid_and_says_what_there_is(publisher, served, redis_url):  # noqa: F811
    made = served(redis_url)
    document = made.http.get("/openapi.json").json()
    validate(document)
    there = {route.name: {method.lower() for method in route.methods} for route in made.app._routes}
    assert {path: set(item) - {"parameters"} for path, item in document["paths"].items()} == there
    names = [one["operationId"] for item in document["paths"].values() for one in item.values() if "operationId" in one]
    assert len(names) == len(set(names))
    public = {path for path, item in document["paths"].items() if item.get("get", {}).get("security") == []}
    assert public == {route.name for route in made.app._routes if route.public}


# Token, limits, headers


def test_token(publisher, served, redis_url, capfd):  # noqa: F811
    made = served(redis_url, token=TOKEN)
    for given in (None, "", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer"):
        headers = {} if given is None else {"authorization": given}
        answer = made.http.post("/v1/models/ads:predict", json={"instances": [{}]}, headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert TOKEN not in answer.text
    good = {"authorization": f"bearer {TOKEN}"}
    assert made.http.post("/v1/models/ads:predict", json={"instances": [{}]}, headers=good).status_code == 200
    for path in ("/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready", "/openapi.json"):
        assert made.http.get(path).status_code == 200, path
    assert made.http.get("/v2").status_code == made.http.get("/v1/models/ads").status_code == 401
    assert TOKEN not in "".join(capfd.readouterr())


def test_limits(publisher, served, redis_url):  # noqa: F811
    http = served(redis_url, max_elements=10, max_headers=12, max_header_bytes=2000).http
    assert http.post("/v1/models/ads:predict", json={"instances": [{"user": 1}] * 10}).status_code == 200
    answer = http.post("/v1/models/ads:predict", json={"instances": [{"user": 1}] * 11})
    assert answer.status_code == 400
    assert answer.json()["error"] == "$.instances: 11 values in all, at most 10 are allowed"
    assert http.get("/livez", headers={f"x-{i}": "1" for i in range(12)}).status_code == 431
    assert http.get("/livez", headers={"x": "y" * 2000}).status_code == 431


def test_an_endless_head_is_cut(publisher, served, redis_url):  # noqa: F811
    made = served(redis_url, max_header_bytes=20_000)
    try:
        status = made.http.get("/livez", headers={"x": "y" * 3_000_000}).status_code
    except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
        status = 431  # cut off while it was still being sent
    assert status == 431
    assert made.http.get("/livez").status_code == 200


def test_metrics_whatever_is_accepted(publisher, served, redis_url):  # noqa: F811
    http = served(redis_url).http
    for accept in ("application/openmetrics-text; version=x", "text/plain;version=1.0.0;escaping", ";;=", "\xff"):
        answer = http.get("/metrics", headers={"accept": accept.encode("latin-1")})
        assert answer.status_code == 200, accept
        assert "ctr_store_up" in answer.text


def test_headers_say_what_an_answer_is_made_of(publisher, served, redis_url):  # noqa: F811
    made = served(redis_url)
    _, headers = made.predict([{}])
    assert headers["x-ctr-version"] == publisher.client.hget("ctr:{ads@1:0}:meta", "ver").decode()
    publisher.learn(publisher.rows(10))
    made.eventually(
        lambda: made.predict([{}])[1]["x-ctr-version"] == publisher.client.hget("ctr:{ads@1:0}:meta", "ver").decode()
    )


def test_features_without_a_row_are_counted_by_field(publisher, served, redis_url):  # noqa: F811
    made = served(redis_url)
    made.predict([{"user": f"new {i}", "ad": "a1", "price": None} for i in range(20)])

    def share(field):
        label = f'{{field="{field}",model="ads"}}'
        return tuple(
            made.metric(f"ctr_field_features{kind}_total{label}") for kind in ("", "_without_row")
        )  # fmt: skip

    assert (share("user"), share("ad"), share("price")) == ((20, 20), (20, 0), (0, 0))
    assert share("site") == (20, 0)  # a missing site is a feature
    made.http.post("/v1/models/ads:rank", json={"context": {"user": "x"}, "candidates": [{"ad": "a1"}, {"ad": "a2"}]})
    assert (share("user"), share("ad")) == ((21, 21), (21, 0))


def test_degraded_and_unready(redis_url, served):  # noqa: F811
    publisher = Publisher(redis_url)
    publisher.learn(publisher.rows(10), at_s=1.7e9)
    ready = served(redis_url).http.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    assert "above 60 s" in ready.json()["reason"]
    unready = served(redis_url, unready_after_s=3600.0).http.get("/readyz")
    assert (unready.status_code, unready.json()["status"]) == (503, "unavailable")
    assert json.loads(unready.content)["reason"].startswith("ads@1: staleness is ")




def test_the_client(publisher, served, redis_url):  # noqa: F811
    made = served(redis_url)
    rows = publisher.rows(20)
    with ctr.Client(str(made.http.base_url), timeout_s=5.0) as client:
        answer = client.predict("ads", rows)
        np.testing.assert_allclose(answer.value, publisher.predict(rows), rtol=0, atol=1e-6)
        assert (answer.made.model, answer.made.stale) == ("ads@1", False)
        ranking = client.rank("ads", {"user": 7}, [{"ad": row["ad"]} for row in rows], top=3).value
        full = publisher.predict([{"user": 7, "ad": row["ad"]} for row in rows])
        np.testing.assert_allclose(ranking.scores, np.sort(full)[::-1][:3], rtol=0, atol=1e-6)
        (explanation,) = client.explain("ads", rows[:1]).value
        assert explanation == made.scorer.explain(rows[0])
