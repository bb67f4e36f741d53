"""A catalogue of ads against a real Redis: written by `ctr catalogue`, followed by scorers, ranked by id."""

import json

import numpy as np
import pytest
from test_serve import MULTI, ONE_HOT, Publisher, served  # noqa: F401  a fixture
from workbench import ctr

from ctr.errors import EventError, SettingError, ShardLostError
from ctr.serving.scorer import Scorer
from ctr.store import ads as store
from ctr.store import connect

pytestmark = pytest.mark.redis

CROSSED = 'event = {time = "at"}' + ONE_HOT.replace(
    '{name = "price"',
    '{name = "user_ad", cross = ["user", "ad"]}, {name = "hour", transform = "hour"}, {name = "price"',
)
DOTTED = ONE_HOT.replace('{name = "price"', '{name = "price", source = "offer.price"')
CONTEXT = {"user": 7, "site": "s1", "tags": [1, 5], "price": 3}


def raw(ads):
    return ((identity, json.dumps(features).encode()) for identity, features in ads.items())


def ads_of(publisher, n, seed=0):
    rows = publisher.rows(n)
    return {f"id-{seed}-{i}": {"ad": row["ad"], "price": row["price"]} for i, row in enumerate(rows)}


def check(scorer, publisher, ads, ids, context=CONTEXT):
    """Ranking by id is what predicting every row in full gives."""
    known = [identity for identity in ids if identity in ads]
    full = dict(zip(known, publisher.predict([{**context, **ads[identity]} for identity in known]), strict=True))
    ranking = scorer.rank(context, ids)
    named = [ids[index] for index in ranking.order]
    assert sorted(named) == sorted(known)
    np.testing.assert_allclose(ranking.scores, [full[identity] for identity in named], rtol=0, atol=1e-6)
    assert (np.diff(ranking.scores) <= 0).all()
    assert ranking.unknown == tuple(identity for identity in ids if identity not in ads)
    return ranking


@pytest.mark.parametrize("text", [
    ONE_HOT, MULTI, CROSSED, DOTTED, ONE_HOT.replace("{k = 4", '{type = "fwfm", k = 4'),
    ONE_HOT.replace("{k = 4", '{type = "fm", k = 8'), ONE_HOT.replace("{k = 4", '{type = "lr"'),
    ONE_HOT.replace("{k = 4", '{type = "fefm", k = 2'), ONE_HOT.replace("{k = 4", "{k = 12"),
], ids=["ffm", "multi", "crossed", "dotted", "fwfm", "fm", "lr", "fefm", "k12"])  # fmt: skip
def test_ranking_by_id_equals_predicting_every_row(redis_url, text):
    publisher = Publisher(redis_url, text)
    publisher.learn(publisher.rows(3000))
    ads = ads_of(publisher, 30)
    ads |= {"new": {"ad": "never seen", "price": 4}, "silent": {"ad": "a1"}, "null": {"ad": "a2", "price": None}}
    if text == DOTTED:
        ads = {identity: {"ad": ad["ad"], "offer": {"price": ad.get("price")}} for identity, ad in ads.items()}
    assert store.put(publisher.client, "ads", raw(ads)) == len(ads)
    scorer = Scorer(redis_url, "ads")
    ids = [*ads, "nobody"]
    for _ in range(2):
        check(scorer, publisher, ads, ids)
        check(scorer, publisher, ads, ids[::3], {"user": 8})
        publisher.learn(publisher.rows(400))
    check(scorer, publisher, ads, ids)
    assert scorer.rank(CONTEXT, ["nobody"]).order.tolist() == []
    assert scorer.rank(CONTEXT, ids, top=3).order.tolist() == scorer.rank(CONTEXT, ids).order[:3].tolist()
    scorer.close()


def test_ads_that_change_come_and_go(redis_url):
    publisher = Publisher(redis_url)
    publisher.learn(publisher.rows(3000))
    scorer = Scorer(redis_url, "ads")
    assert scorer.rank(CONTEXT, ["id-0-1"]).unknown == ("id-0-1",)
    ads = ads_of(publisher, 20)
    store.put(publisher.client, "ads", raw(ads))
    ids = list(ads)
    check(scorer, publisher, ads, ids)
    changed = dict(zip(ids[:5], ads_of(publisher, 5).values(), strict=True)) | ads_of(publisher, 3, seed=1)
    store.put(publisher.client, "ads", raw(changed))
    ads |= changed
    assert store.remove(publisher.client, "ads", [ids[7], "nobody"]) == 1
    left = ads.pop(ids[7])
    check(scorer, publisher, ads, [*ads, ids[7]])
    store.put(publisher.client, "ads", raw({ids[7]: left | {"site": "s1"}}))  # a column that was the context's alone
    ads[ids[7]] = left | {"site": "s1"}
    check(scorer, publisher, ads, list(ads), {"user": 9})
    for turn in range(store._STREAM_ENTRIES // store.CHUNK + 3):  # entries are kept by number
        store.put(publisher.client, "ads", raw({ids[3]: {"ad": f"a{turn}", "price": 1}}))
    ads[ids[3]] = {"ad": f"a{turn}", "price": 1}
    check(scorer, publisher, ads, list(ads))
    publisher.client.xtrim(store.AdKeys("ads").changes, maxlen=0)
    store.put(publisher.client, "ads", raw({ids[3]: {"ad": "a9", "price": 1}}))
    ads[ids[3]] = {"ad": "a9", "price": 1}
    publisher.client.xtrim(store.AdKeys("ads").changes, maxlen=0)  # a broken chain: everything is read again
    check(scorer, publisher, ads, list(ads))
    scorer.close()


def test_ads_that_cannot_be_used_are_unknown(redis_url):
    publisher = Publisher(redis_url)
    publisher.learn(publisher.rows(1000))
    ads = ads_of(publisher, 4)
    store.put(publisher.client, "ads", raw({**ads, "bad": {"ad": "a1", "price": "cheap"}}))
    publisher.client.hset(store.AdKeys("ads").ads, "broken", b"{")
    scorer = Scorer(redis_url, "ads")
    check(scorer, publisher, ads, [*ads, "bad", "broken"])
    assert scorer.current.catalogue.refused == 2
    with pytest.raises(EventError, match="all objects, or all ids"):
        scorer.rank(CONTEXT, ["bad", {"ad": 1}])
    scorer.close()


def test_no_more_ads_than_there_is_room_for(redis_url, monkeypatch):
    publisher = Publisher(redis_url)
    publisher.learn(publisher.rows(500))
    store.put(publisher.client, "ads", raw(ads_of(publisher, 12)))
    scorer = Scorer(redis_url, "ads")
    scorer.current.catalogue._max_ads = 8
    ranking = scorer.rank(CONTEXT, [f"id-0-{i}" for i in range(12)])
    assert len(ranking.order) == 8
    assert len(ranking.unknown) == scorer.current.catalogue.refused == 4
    scorer.close()


def test_an_emptied_server_leaves_the_ads_in_use(redis_url):
    publisher = Publisher(redis_url)
    publisher.learn(publisher.rows(500))
    ads = ads_of(publisher, 5)
    store.put(publisher.client, "ads", raw(ads))
    with Scorer(redis_url, "ads") as scorer:
        check(scorer, publisher, ads, list(ads))
        publisher.client.delete(*publisher.client.keys("ctr:{ads}:ads*"))
        catalogue = scorer.current.catalogue
        assert _until(lambda: catalogue.error is not None)
        assert isinstance(catalogue.error, ShardLostError)
        assert "ads are those read last" in scorer.current.stale(60)
        check(scorer, publisher, ads, list(ads))
        store.put(publisher.client, "ads", raw({"other": {"ad": "a1", "price": 2}}))
        assert _until(lambda: catalogue.error is None and len(catalogue) == 1)
        check(scorer, publisher, {"other": {"ad": "a1", "price": 2}}, ["other", *ads])


def test_another_generation_has_the_ads_from_its_first_answer(redis_url):
    publisher = Publisher(redis_url)
    publisher.learn(publisher.rows(500))
    ads = ads_of(publisher, 5)
    store.put(publisher.client, "ads", raw(ads))
    with Scorer(redis_url, "ads", look_s=0.05) as scorer:
        check(scorer, publisher, ads, list(ads))
        other = Publisher(redis_url, f'generation = "2"\n{ONE_HOT.replace("k = 4", "k = 8")}')
        other.learn(other.rows(2000))
        publisher.client.set("ctr:{ads}:live", "2")
        assert _until(lambda: scorer.model_id == "ads@2")
        check(scorer, other, ads, list(ads))


def _until(holds, within_s=20.0):
    import time

    until = time.monotonic() + within_s
    while not holds() and time.monotonic() < until:
        time.sleep(0.02)
    return holds()


def test_over_http(redis_url, served):  # noqa: F811
    publisher = Publisher(redis_url)
    publisher.learn(publisher.rows(2000))
    ads = ads_of(publisher, 40)
    store.put(publisher.client, "ads", raw(ads))
    running = served(redis_url)
    full = publisher.predict([{**CONTEXT, **ad} for ad in ads.values()])
    ids = [*ads]
    ids.insert(3, "nobody")
    for _ in range(2):
        got = running.http.post(
            "/v1/models/ads:rank", json={"context": CONTEXT, "candidates": ids, "top": 7}
        ).json()  # fmt: skip
        assert got["unknown"] == ["nobody"]
        by_id = dict(zip(ads, full, strict=True))
        np.testing.assert_allclose(got["scores"], [by_id[ids[at]] for at in got["order"]], rtol=0, atol=1e-6)
        np.testing.assert_allclose(got["scores"], np.sort(full)[::-1][:7], rtol=0, atol=1e-6)
    assert running.metric("ctr_catalogue_ads{") == 40
    for body, error in (
        ({"candidates": ["a", {}]}, "$.candidates: expected candidates that are all objects, or all ids"),
        ({"candidates": ["a"] * 1025}, "$.candidates: 1025 ids, at most 1024"),
        ({"candidates": ["id-0-1"], "context": {"user": []}}, "$.context.user: "),
    ):
        answer = running.http.post("/v1/models/ads:rank", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith(error)


def test_put_list_remove(redis_url, tmp_path):
    path = tmp_path / "ads.jsonl"
    lines = ['{"id": "a1", "features": {"ad": 1, "big": 12345678901234567890}}', "", '{"id": "ä", "features": {}}']
    path.write_text("\n".join(lines) + "\n")
    done = ctr("catalogue", "put", "shop", path, "--redis", redis_url)
    assert (done.returncode, done.stdout) == (0, "2 ads put into shop\n"), done.stderr
    done = ctr("catalogue", "list", "shop", "--redis", redis_url)
    held = {line["id"]: line["features"] for line in map(json.loads, done.stdout.splitlines())}
    assert held == {"a1": {"ad": 1, "big": 12345678901234567890}, "ä": {}}
    again = ctr("catalogue", "put", "shop2", "-", "--redis", redis_url, input=done.stdout)
    assert again.stdout == "2 ads put into shop2\n", again.stderr
    assert json.loads(ctr("catalogue", "list", "shop2", "ä", "--redis", redis_url).stdout) == json.loads(lines[2])
    assert ctr("catalogue", "list", "shop2", "b", "--redis", redis_url).returncode == 3
    done = ctr("catalogue", "remove", "shop", "b", "--from", path, "--redis", redis_url)
    assert done.stdout == "2 ads removed from shop of 3; the others were not there\n", done.stderr
    assert ctr("catalogue", "list", "shop", "--redis", redis_url).stdout == ""
    for bad in (
        '{"id": 7, "features": {}}', '{"id": "a"}', "no json", '{"id": "a", "features": [1]}',
        '{"id": "", "features": {}}',
    ):  # fmt: skip
        path.write_text(f"{lines[0]}\n{bad}\n")
        done = ctr("catalogue", "put", "shop", path, "--redis", redis_url)
        assert done.returncode == 3
        assert "line 2 = " in done.stderr


def test_writers_beside_each_other(redis_url, monkeypatch):
    """A write between another's WATCH and its EXEC makes that one begin again: no entry, and no link, is lost."""
    client, reader = connect(redis_url), store.AdReader(connect(redis_url), "shop")
    assert reader.poll().broken
    assert reader.poll() is None
    calls, between = store.Session.calls, [True]

    def interrupted(session, commands):
        replies = calls(session, commands)
        if between:
            between.clear()
            store.put(client, "shop", [("b", b"{}")])
        return replies

    monkeypatch.setattr(store.Session, "calls", interrupted)
    store.put(client, "shop", [("a", b'{"x": 1}')])
    changes = reader.poll()
    assert (changes.written, changes.gone, changes.broken) == ({"a", "b"}, set(), False)
    assert client.xlen(store.AdKeys("shop").changes) == 2
    store.remove(client, "shop", ["a"])
    store.put(client, "shop", [("c", b"{}")])
    changes = reader.poll()
    assert (changes.written, changes.gone, changes.broken) == ({"c"}, {"a"}, False)
    assert reader.fetch(["a", "b"]) == {"b": b"{}"}
    with pytest.raises(SettingError):
        store.put(client, "shop", [("x" * 257, b"{}")])
    with pytest.raises(SettingError):
        store.put(client, "shop", [("x", b" " * (store.MAX_AD_BYTES + 1))])
