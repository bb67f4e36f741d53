"""The page's routes: safe files for everybody, data for those with the token, the same numbers as /metrics."""

import asyncio
import json
import re
import time

import httpx
import pytest
from prometheus_client import CollectorRegistry

from ctr import spec as specification
from ctr.metrics import TRAINER
from ctr.page import Page, Subject, assets
from ctr.serving.asgi import OpsApp

SPEC = specification.parse(
    'name = "ads"\nfields = [{name = "user"}, {name = "ad"}, {name = "both", cross = ["user", "ad"]}]'
)
NUMBERS = {
    "ctr_commits": 4.0,
    "ctr_auc_ratio": float("nan"),
    "ctr_source_lag": {(str(partition),): float(partition) for partition in range(1000)},
    "ctr_role": {("writer",): 1.0, ("standby",): 0.0},
}


def page_of(token=None, ready=None, read=lambda: NUMBERS):
    app = OpsApp(CollectorRegistry(), lambda: None, lambda: ready, role=lambda: "writer", token=token)
    subject = Subject("ads", lambda: SPEC, lambda: None, lambda _: {}, "page/explain")
    return app, Page(app, "trainer", TRAINER, read, [subject])


def get(app, path, **headers):
    async def asked():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://worker") as client:
            return await client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return asyncio.run(asked())


@pytest.mark.parametrize("path", ["/", *(f"/page/{name}" for name in assets.FILES)])
def test_files_are_public_and_safe(path):
    app, _ = page_of(token="sesame")
    reply = get(app, path)
    assert reply.status_code == 200
    policy = reply.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "sesame" not in reply.text
    again = get(app, path, if_none_match=reply.headers["etag"])
    assert (again.status_code, again.content) == (304, b"")


def test_nothing_comes_from_elsewhere_and_nothing_is_inline():
    app, _ = page_of()
    everything = {path: get(app, path).text for path in ("/", *(f"/page/{name}" for name in assets.FILES))}
    for path, text in everything.items():
        addresses = set(re.findall(r"https?://[^\"'\s)]+", text))
        assert addresses <= {"http://www.w3.org/2000/svg"}, path
        assert "innerHTML" not in text
    html = everything["/"]
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|<style", html)
    linked = set(re.findall(r'(?:src|href)="page/([^"]+)"', html))
    imported = {name for text in everything.values() for name in re.findall(r"from '\./([^']+)'", text)}
    assert linked | imported == set(assets.FILES)
    assert "{{" not in html


def test_the_html_says_what_the_worker_is_and_whether_a_token_is_needed():
    assert 'data-worker="trainer" data-token="no"' in get(page_of()[0], "/").text
    assert 'data-worker="trainer" data-token="yes"' in get(page_of(token="sesame")[0], "/").text


def test_data_needs_the_token_where_one_is_set():
    app, page = page_of(token="sesame")
    page.look()
    for path in ("/page/state", "/page/features"):
        assert get(app, path).status_code == 401
        assert get(app, path, authorization="Bearer wrong").status_code == 401
        assert get(app, path, authorization="Bearer sesame").status_code == 200


def test_state_is_what_metrics_say():
    app, page = page_of(ready="loading")
    page.look()
    reply = get(app, "/page/state")
    assert reply.headers["cache-control"] == "no-store"
    state = json.loads(reply.text)
    assert state["metrics"]["ctr_commits"] == 4
    assert state["metrics"]["ctr_auc_ratio"] is None
    lag = state["metrics"]["ctr_source_lag"]
    assert (lag["labels"], lag["sum"], lag["rest"]) == (["partition"], sum(range(1000)), 1000 - 256)
    assert lag["values"] == [[str(partition), partition] for partition in range(999, 999 - 256, -1)]
    assert state["metrics"]["ctr_role"] == {"labels": ["role"], "values": [["writer", 1], ["standby", 0]]}
    assert (state["role"], state["worker"]) == ("writer", "trainer")
    assert [alert["what"] for alert in state["alerts"]] == ["Not ready"]
    (model,) = state["models"]
    assert (model["id"], model["columns"]) == ("ads@1", ["user", "ad"])


def test_no_answer_is_empty_once_it_has_begun():
    def read():
        time.sleep(0.1)
        return NUMBERS

    app, page = page_of(read=read)
    page.start()
    try:
        assert get(app, "/page/state").json()["metrics"]["ctr_commits"] == 4
    finally:
        page.stop()


def test_it_begins_whatever_the_numbers_do():
    def read():
        raise OSError("no numbers")

    app, page = page_of(read=read)
    page.start()
    try:
        assert get(app, "/page/state").json()["metrics"] == {}
    finally:
        page.stop()


def test_only_new_samples_are_sent_unless_the_worker_is_another():
    app, page = page_of()
    page.look()
    first = get(app, "/page/state").json()
    page.look()
    page.look()
    assert len(first["points"]["t"]) == 1
    assert len(get(app, f"/page/state?after={first['next']}").json()["points"]["t"]) == 2
    assert len(get(app, "/page/state?after=another.1").json()["points"]["t"]) == 3
    assert len(get(app, "/page/state?after=%ff;rubbish.&&=").json()["points"]["t"]) == 3


def test_a_standby_has_no_features_and_an_unknown_model_is_404():
    app, _ = page_of()
    assert get(app, "/page/features").json()["weight"] == []
    assert get(app, "/page/features?model=ads").status_code == 200
    assert get(app, "/page/features?model=other").status_code == 404
