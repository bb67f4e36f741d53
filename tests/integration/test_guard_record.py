"""The guard's record on a real Redis: only the lease's holder writes it, and an answer is bound to its refusal."""

import pytest

from ctr.store import GuardRecord, Lease, connect, guard_record


@pytest.fixture
def client(redis_url):
    with connect(redis_url) as made:
        yield made


@pytest.fixture
def sides(client):
    leases = [Lease(client, "ads@1", ttl_s=30) for _ in range(2)]
    records = [GuardRecord(client, "ads@1", lease.token) for lease in leases]
    yield leases, records
    for closed in (*leases, *records):
        closed.close()


def test_only_who_holds_the_lease_writes_it(client, sides):
    (mine, other), (record, others) = sides
    assert not record.write({"state": "watching"}), "nobody holds it"
    assert record.read() == {}
    assert mine.hold()
    assert record.write({"state": "refusing", "refusal": "a"})
    assert not others.write({"state": "watching"})
    assert others.read() == {"state": "refusing", "refusal": "a"} == guard_record.read(client, "ads@1")
    mine.release()
    assert other.hold()
    assert others.write({"state": "watching"})
    assert not record.write({"state": "refusing"}), "a trainer that has lost the model leaves it alone"
    assert record.read()["state"] == "watching"


def test_an_answer_is_for_the_refusal_that_was_looked_at(client, sides):
    (mine, _), (record, _) = sides
    assert mine.hold()
    assert not guard_record.decide(client, "ads@1", "a", {"decision": "resume"}), "nothing is held back"
    record.write({"state": "refusing", "refusal": "b", "decision": ""})
    assert not guard_record.decide(client, "ads@1", "a", {"decision": "resume"}), "another one is"
    assert record.read()["decision"] == ""
    assert guard_record.decide(client, "ads@1", "b", {"decision": "resume"})
    assert record.read()["decision"] == "resume"
    record.write({"state": "watching"})
    assert not guard_record.decide(client, "ads@1", "b", {"decision": "discard"}), "it was answered"
