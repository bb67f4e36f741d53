"""`Scorer.explain` and `ctr explain` against a real Redis: what they add up is what is predicted."""

import json

import numpy as np
import pytest
from test_serve import MULTI, ONE_HOT, Publisher
from workbench import ctr

from ctr.events import feature_key
from ctr.serving.scorer import Scorer
from ctr.store import names

pytestmark = pytest.mark.redis


def total(explanation):
    return explanation.bias + sum(one.contribution for one in (*explanation.features, *explanation.pairs))


@pytest.mark.parametrize("text", [ONE_HOT, MULTI, ONE_HOT.replace("{k = 4", '{type = "fefm", k = 4')],
                         ids=["ffm", "multi", "fefm"])  # fmt: skip
def test_terms_sum_to_the_logit(redis_url, text):
    publisher = Publisher(redis_url, text)
    publisher.learn(publisher.rows(3000))
    scorer = Scorer(redis_url, "ads")
    for row in [*publisher.rows(10), {}, {"user": "nobody", "ad": "a1"}]:
        got = scorer.explain(row)
        predicted = float(scorer.predict([row])[0])
        assert got.prediction == predicted
        assert total(got) == pytest.approx(got.logit, abs=1e-12)
        assert 1 / (1 + np.exp(-got.logit)) == pytest.approx(predicted, abs=1e-6)
        assert {feature.field for feature in got.features} == {field.name for field in publisher.spec.fields}
        assert [abs(pair.contribution) for pair in got.pairs] == sorted(
            (abs(pair.contribution) for pair in got.pairs), reverse=True
        )
    # of an unknown user and no price nothing comes; a missing site is a feature of its own
    assert [pair.features for pair in got.pairs] == [("ad=a1", "site missing")]
    scorer.close()


def test_names_come_from_the_dictionary_or_from_the_row(redis_url):
    publisher = Publisher(redis_url)
    publisher.learn([{"user": 1, "ad": "a1"}] * 3)
    names.write(publisher.client, "ads@1", {feature_key("ad", "a1"): "ad=a1 (shoes)"}, max_names=100)
    scorer = Scorer(redis_url, "ads")
    got = {feature.field: feature for feature in scorer.explain({"user": 1, "ad": "a1", "price": 7.0}).features}
    assert got["ad"].name == "ad=a1 (shoes)"
    assert got["ad"].key == f"{feature_key('ad', 'a1'):016x}"
    assert got["user"].name == "user=1"
    assert got["site"].name == "site missing"
    assert (got["site"].known, got["price"].known) == (True, False)  # missing is a feature there; this price is new
    assert got["price"].contribution == 0
    empty = {feature.field: feature for feature in scorer.explain({}).features}
    assert (empty["user"].name, empty["user"].key, empty["user"].contribution) == ("user missing", None, 0.0)
    scorer.close()


def test_the_command(redis_url, tmp_path):
    publisher = Publisher(redis_url)
    rows = publisher.rows(500)
    publisher.learn(rows)
    row = {**rows[0], "user": "never seen"}
    shown = ctr("explain", "ads", json.dumps(row), "--redis", redis_url)
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("ads@1: prediction 0.")
    assert any(line.startswith("bias") for line in lines)
    assert any("│" in line and "█" in line for line in lines)
    assert any(f"ad={row['ad']}" in line for line in lines)
    assert lines[-1] == "missing or unknown, contributing nothing: user=never seen"

    events = tmp_path / "events.jsonl"
    events.write_text("\n".join(json.dumps(row) for row in rows))
    told = ctr("explain", "ads", events, "--line", "3", "--json", "--redis", redis_url)
    assert told.returncode == 0, told.stderr
    answer = json.loads(told.stdout)
    assert answer["prediction"] == pytest.approx(float(publisher.predict(rows[2:3])[0]), abs=1e-6)
    assert len(answer["features"]) == 4

    wrong = ctr("explain", "ads", '{"price": "cheap"}', "--redis", redis_url)
    assert wrong.returncode == 3
    assert "$.price" in wrong.stderr
    assert ctr("explain", "ads", tmp_path / "none.jsonl", "--redis", redis_url).returncode == 3
    assert ctr("explain", "ads", events, "--line", "501", "--redis", redis_url).returncode == 3
    assert ctr("explain", "nobody", "{}", "--redis", redis_url).returncode == 5
