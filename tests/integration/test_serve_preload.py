"""Before the first request: the rows written last are held, as many as were asked for, and /readyz waits for them."""

import time

import numpy as np
import pytest
from test_serve import Publisher

from ctr.errors import SettingError
from ctr.events import encode_rows
from ctr.serving.preload import Preload
from ctr.serving.scorer import Scorer

pytestmark = pytest.mark.redis


def keys_of(publisher, rows):
    keys = encode_rows(publisher.spec, rows, time.time()).keys
    return np.unique(keys[keys != 0])


def test_what_was_written_is_held_before_anybody_asks(redis_url):
    publisher = Publisher(redis_url)
    rows = publisher.rows(500)
    publisher.learn(rows)
    with Scorer(redis_url, "ads") as scorer:
        assert scorer.cache.rows == len(keys_of(publisher, rows))
        before = scorer.cache.counts["misses"]  # warming up asks for an empty row
        np.testing.assert_allclose(scorer.predict(rows), publisher.predict(rows), rtol=0, atol=1e-6)
        assert scorer.cache.counts["misses"] == before


def test_the_last_commits_come_first(redis_url):
    publisher = Publisher(redis_url)
    old, new = [{"user": f"old {i}"} for i in range(200)], [{"user": f"new {i}"} for i in range(50)]
    publisher.learn(old)
    for begin in range(0, 50, 10):
        publisher.learn(new[begin : begin + 10])
    wanted = keys_of(publisher, new)
    with Scorer(redis_url, "ads", preload=len(wanted)) as scorer:
        held = scorer.cache.held_keys()
        assert len(np.setdiff1d(held, wanted)) == 0
        assert len(held) >= len(wanted) - 1  # every commit writes the bias, which counts and is held anyway
    with Scorer(redis_url, "ads", preload=0) as scorer:
        assert scorer.cache.rows == 0
    with pytest.raises(SettingError, match="preload"):
        Scorer(redis_url, "ads", preload=-1)


def test_not_ready_before_they_are_there(redis_url):
    publisher = Publisher(redis_url)
    publisher.learn([{"user": f"u{i}", "ad": f"a{i}"} for i in range(2000)])
    scorer = Scorer(redis_url, "ads", reread_rows_per_s=2000)  # two seconds, at least
    scorer.start()
    try:
        while scorer.cache.rows == 0:
            time.sleep(0.01)
        assert "rows that will be asked for are being read" in scorer.ready()
        scorer.wait_ready(60)
        assert scorer.cache.rows >= 4000
    finally:
        scorer.close()


class Recent:
    """A shard whose last keys are given."""

    def __init__(self, *keys):
        self.keys = np.array(keys, np.uint64)

    def recent(self, limit):
        return self.keys[:limit]


class Room:
    max_rows = 100

    def __init__(self):
        self.read = []

    def preload(self, keys):
        self.read += keys.tolist()


def test_shards_take_turns():
    room = Room()
    preload = Preload([Recent(10, 11, 12, 13), Recent(20), Recent(30, 31)], room, 9)
    assert preload.due == 9
    assert preload.follow() == 6
    assert room.read == [10, 20, 30, 11, 31, 12]
    assert preload.due == preload.follow() == 0
    assert Preload([Recent()], room, 1000).due == 50
