"""Names of a sample of features: right ones, bounded work, and no harm when the store is away."""

import time

import numpy as np
import pytest

from ctr import spec as specification
from ctr.errors import StoreUnavailableError
from ctr.events import feature_key, open_reader
from ctr.events.messages import Messages
from workers.names import EVENTS, NameTaker

SPEC = specification.parse("""
name = "ads"
fields = [{ name = "user" }, { name = "ad", missing = "feature" }]
""")


def messages(lines, first_offset=1):
    end = np.cumsum([len(line) for line in lines]).astype(np.int64)
    n = len(lines)
    begin = np.concatenate(([0], end[:-1])).astype(np.int64)
    offsets = np.arange(first_offset, first_offset + n)
    return Messages(b"".join(lines), begin, end, np.zeros(n, np.int32), offsets, np.full(n, 1.7e9))


class Store:
    def __init__(self):
        self.names, self.writes, self.away = {}, 0, False

    def write(self, names):
        if self.away:
            raise StoreUnavailableError("away")
        self.names.update(names)
        self.writes += 1
        return 3


@pytest.fixture
def store():
    return Store()


def taker(store, share=1.0):
    return NameTaker(SPEC, open_reader(SPEC).parse, share, store.write)


LINES = [b'{"label": 1, "user": 7, "ad": "a"}', b'{"label": 0, "user": 8}', b'{"label": 1, "user": broken']


def test_names_are_those_of_the_keys_that_are_learned(store):
    names = taker(store)
    names.offer(messages(LINES))
    names.take()
    assert store.names == {
        feature_key("user", 7): "user=7",
        feature_key("user", 8): "user=8",
        feature_key("ad", "a"): "ad=a",
        feature_key("ad", ""): "ad missing",
    }
    assert names.counts == {"written": 4, "evicted": 3}
    names.offer(messages(LINES))
    names.take()
    assert store.writes == 1, "what was written lately is not written again"


def test_an_outage_is_counted_and_names_come_again(store):
    names, store.away = taker(store), True
    names.offer(messages(LINES))
    names.take()
    assert names.counts == {"failed": 4}
    store.away = False
    names.offer(messages(LINES))
    names.take()
    assert len(store.names) == 4


def test_only_a_share_and_only_so_many_a_second_are_looked_at(store):
    none, some, all_of_them = (taker(store, share) for share in (0.0, 0.1, 1.0))
    many = messages([b'{"label": 1, "user": %d}' % i for i in range(500)])
    for names in (none, some, all_of_them):
        names.offer(many)
        names.offer(many)
    assert len(none._waiting) == 0
    # binomial, 1000 trials of 0.1: mean 100, bounded there
    assert 60 <= len(some._waiting) <= EVENTS
    assert len(all_of_them._waiting) == EVENTS


def test_a_first_line_may_be_a_header_and_a_null_message_is_none(store):
    names = taker(store)
    given = messages(LINES[:1], first_offset=0)
    names.offer(given)
    null = messages(LINES[:1])
    null.end[0] = -1
    names.offer(null)
    assert names._waiting == []


def test_the_thread_takes_them_and_ends(store):
    names = taker(store)
    names.start()
    names.offer(messages(LINES))
    until = time.monotonic() + 10
    while not store.names:
        assert time.monotonic() < until
        time.sleep(0.02)
    names.stop()
    assert not names._thread.is_alive()
