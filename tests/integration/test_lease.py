"""The lease on a real Redis: one holder, a renewal that needs no memory, an end by release or by silence."""

import time

import pytest
from workbench import wait_for

from ctr.store import Lease, connect
from workers.heartbeat import Heartbeat

KEY = "ctr:{ads@1}:lease"


@pytest.fixture
def client(redis_url):
    with connect(redis_url) as made:
        yield made


@pytest.fixture
def leases(client):
    made = [Lease(client, "ads@1", ttl_s=0.6) for _ in range(2)]
    yield made
    for lease in made:
        lease.close()


def test_one_holds_it_until_it_lets_go(leases):
    mine, other = leases
    assert mine.is_free() is None
    assert mine.hold()
    assert (other.hold(), other.is_free()) == (False, False)
    other.release()
    assert mine.hold(), "only its holder can release it"
    mine.release()
    assert other.is_free() is True
    assert other.hold()
    assert not mine.hold()


def test_silence_ends_it(leases):
    mine, other = leases
    assert mine.hold()
    time.sleep(0.4)
    assert mine.hold(), "a renewal"
    time.sleep(0.4)
    assert not other.hold()
    wait_for(lambda: other.is_free() is None, within_s=1)
    assert other.hold()
    assert not mine.hold()


def test_a_renewal_needs_no_memory_of_the_server(client, leases):
    mine, _ = leases
    assert mine.hold()
    client.config_set("maxmemory", 1)
    try:
        assert mine.hold()
    finally:
        client.config_set("maxmemory", 0)


def test_a_loop_that_hangs_loses_it(client, leases):
    mine, other = leases
    turns = [True]
    assert mine.hold()
    heart = Heartbeat(mine, lambda: turns[0])
    assert not heart.held
    heart.start()
    time.sleep(1.5)
    assert not other.hold(), "renewed while the loop turned"
    assert heart.held
    turns[0] = False
    wait_for(other.hold, within_s=2)
    assert not heart.held, "nobody may believe to hold what another has"
    turns[0] = True
    assert not heart.look()
    assert not heart.held
    client.delete(KEY)  # a server that came back empty
    assert heart.look()
    assert heart.held
    heart.stop()
    assert not heart.held
