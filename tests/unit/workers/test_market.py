"""The market's truth is what it says: clicks follow p, the oracle is best, pairs matter, ads come and go."""

import json
import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from ctr.errors import SettingError
from ctr.spec import parse
from workers.market import AD, FIELDS, FORMATS, HOUR, POSITION, SEGMENTS, SITE, TOPICS, USER, Market

SPEC = Path(__file__).parents[3] / "deploy" / "local" / "ads.toml"
N = 200_000


@pytest.fixture(scope="module")
def events():
    return Market(1).events(N)


def logloss(click, p):
    return float(-np.where(click == 1, np.log(p), np.log(1 - p)).mean())


def test_seed_decides_all_and_block_sizes_nothing():
    whole, parts = Market(7), Market(7)
    expected = whole.events(3000)
    cut = [parts.events(n) for n in (1, 499, 0, 1, 999, 1500)]
    for name in ("ts", "p", "click"):
        assert np.array_equal(getattr(expected, name), np.concatenate([getattr(part, name) for part in cut]))
    assert np.array_equal(expected.values, np.concatenate([part.values for part in cut], axis=1))
    assert [part.first for part in cut] == [0, 1, 500, 500, 501, 1500]
    assert b"".join(whole.lines(expected)) == b"".join(b"".join(parts.lines(part)) for part in cut)
    assert not np.array_equal(expected.p, Market(8).events(3000).p)


def test_clicks_follow_their_probability(events):
    order = np.argsort(events.p)
    for p, click in zip(np.array_split(events.p[order], 20), np.array_split(events.click[order], 20), strict=True):
        # Binomial: one of 20 bins is 4.5 standard deviations off for one seed in 7,000.
        assert abs(click.sum() - p.sum()) < 4.5 * math.sqrt((p * (1 - p)).sum())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_base_rate_is_a_few_percent(seed):
    assert 0.028 < Market(seed).events(N).p.mean() < 0.042
    assert 0.08 < Market(seed, base_rate=0.1).events(N).p.mean() < 0.12


def test_nobody_beats_the_oracle(events):
    logit = np.log(events.p / (1 - events.p))
    best = logloss(events.click, events.p)
    noise = np.random.default_rng(0).standard_normal(N)
    wrong = [logit * 0.8, logit * 1.25, logit + 0.2, logit - 0.2, logit + 0.3 * noise, np.full(N, logit.mean())]
    for other in wrong:
        assert logloss(events.click, 1 / (1 + np.exp(-other))) > best
    rate = events.click.mean()
    assert best < 0.9 * -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))


def test_hidden_model_is_an_ffm(events):
    """Event by event in plain Python: bias, a weight for each value, a product for each pair of fields."""
    market = Market(1)
    for i in range(0, 500, 50):
        row = [int(value) for value in events.values[:, i]]
        row[AD] %= len(market._linear[AD])
        logit = market._bias + sum(weights[value] for weights, value in zip(market._linear, row, strict=True))
        factors = {(f, g): (left, right) for f, g, left, right in market._pairs}
        for f, g in combinations(range(len(FIELDS)), 2):
            left, right = factors.get((f, g)) or factors.get((g, f), (None, None))[::-1]
            if left is not None:
                logit += sum(a * b for a, b in zip(left[row[f]], right[row[g]], strict=True))
        assert events.p[i] == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-9)


def test_no_sum_of_single_values_comes_near_the_truth(events):
    """Least squares of the true logit on one-hot values (all but users, sites, ads) leaves most of the pairs' variance.

    The pairs' standard deviations, squared and summed, are 1.9; what is left over must be most of that.
    """
    logit = np.log(events.p / (1 - events.p))
    names = [f for f in range(len(FIELDS)) if f not in (USER, SITE, AD)]
    one_hot = np.concatenate([np.eye(int(events.values[f].max()) + 1)[events.values[f]] for f in names], axis=1)
    gram = one_hot.T @ one_hot + 1e-6 * np.eye(one_hot.shape[1])
    left_over = logit - one_hot @ np.linalg.solve(gram, one_hot.T @ logit)
    assert left_over.var() > 1.0


def test_the_top_of_the_page_is_clicked_most(events):
    rates = [events.p[events.values[POSITION] == place].mean() for place in range(5)]
    assert rates[0] > 1.2 * rates[4]


def test_ads_arrive_and_fade():
    market = Market(3, ads=50, new_ad_every=100)
    ads = market.events(20_000).values[AD]
    early, late = ads[:1000], ads[-1000:]
    assert early.max() < 50 + 10
    assert late.min() >= 20_000 // 100 - 10  # every ad of the beginning is gone
    for block in range(0, 20_000, 1000):  # live: one window of 50, moving by one each 100 events
        live = ads[block : block + 1000]
        assert block // 100 <= live.min() <= live.max() < (block + 1000) // 100 + 50
    counts = np.bincount(ads)
    popular = int(counts[50:150].argmax()) + 50  # born and dead within the run: born when it entered the window
    born = (popular - 49) * 100
    age = np.flatnonzero(ads == popular) - born
    assert age.min() >= 0
    assert age.max() < 5000
    assert (age < 2500).mean() > 0.6  # 0.75 for a linear fade


def test_popularity_is_skewed(events):
    for field, few, share in ((USER, 200, 0.15), (SITE, 10, 0.4)):
        counts = np.sort(np.bincount(events.values[field]))[::-1]
        assert counts[:few].sum() > share * N
    counts = np.sort(np.bincount(events.values[AD][:2000]))[::-1]
    assert counts[:40].sum() > 0.35 * 2000  # a tenth of the live ads


def test_attributes_belong_to_their_owner(events):
    for owner, *owned in (("user", "segment", "region"), ("site", "topic"), ("ad", "campaign", "format"),
                          ("campaign", "advertiser")):  # fmt: skip
        for name in owned:
            pairs = np.unique(events.values[[FIELDS.index(owner), FIELDS.index(name)]], axis=1)
            assert len(np.unique(pairs[0])) == pairs.shape[1]


def test_hour_is_of_the_events_time_utc():
    ts = np.array([0.0, 3599.9, 3600.0, 86_399.0, 86_400.0, 1_735_689_600.0 + 13.5 * 3600])
    events = Market(1).events(6, ts)
    assert events.values[HOUR].tolist() == [0, 0, 1, 23, 0, 13]
    assert events.ts.tolist() == ts.tolist()


def test_lines_agree_with_arrays():
    market = Market(5, users=300)
    events = market.events(400)
    columns = market.columns(events)
    for i, line in enumerate(market.lines(events, truth=True)):
        assert b"\n" not in line
        event = json.loads(line)
        assert event["id"] == f"5-{i}"
        assert event["ts"] == events.ts[i]
        assert event["click"] == events.click[i]
        assert event["p"] == events.p[i]
        assert [event[name] for name in FIELDS] == [column[i] for column in columns]
        assert event["user"] == f"u{events.values[USER][i]}"
        assert event["ad"] == f"ad{events.values[AD][i]}"
        assert event["position"] == events.values[POSITION][i] + 1
        assert event["segment"] == SEGMENTS[events.values[FIELDS.index("segment")][i]]
        assert event["topic"] == TOPICS[events.values[FIELDS.index("topic")][i]]
        assert event["format"] == FORMATS[events.values[FIELDS.index("format")][i]]
        assert market.users(events)[i] == event["user"].encode()
        assert market.rows(events)[i] == {name: event[name] for name in FIELDS}


def test_truth_is_told_only_when_asked():
    market = Market(5)
    assert set(json.loads(market.lines(market.events(1))[0])) == {"id", "ts", "click", *FIELDS}


def test_example_specification_covers_the_events():
    spec = parse(SPEC.read_text(), SPEC.name)
    market = Market(1)
    event = json.loads(market.lines(market.events(1))[0])
    assert spec.name == "ads"
    assert spec.event.format == "json"
    assert spec.event.time_format == "s"
    used = {spec.event.label, spec.event.time, spec.event.id, *(field.column for field in spec.fields)}
    assert used == set(event)
    assert tuple(field.name for field in spec.fields) == FIELDS
    assert spec.dense
    assert spec.model.base_rate == market.base_rate


@pytest.mark.parametrize(
    ("key", "value"), [("users", 0), ("ads", 0), ("new_ad_every", 0), ("base_rate", 0.0), ("base_rate", 1.0)]
)
def test_sizes_that_make_no_market(key, value):
    with pytest.raises(SettingError, match=key):
        Market(1, **{key: value})


def test_smallest_market():
    assert len(Market(1, users=1, ads=1, new_ad_every=1).events(100)) == 100
