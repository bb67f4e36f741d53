"""Answers meet their events by id: each once, in bounded memory, judged by the formulas."""

import msgspec
import numpy as np
import pytest
from sklearn.metrics import log_loss

from ctr import spec as specification
from ctr.errors import SettingError
from ctr.events import Messages
from workers.answers import Answered
from workers.join import Joiner

SPEC = specification.parse('name = "ads"\nfields = [{name = "user"}, {name = "ad"}]\n[event]\nid = "id"')


def messages(*lines):
    """Lines as messages; several events in one where a line has line breaks."""
    lengths = np.array([len(line) for line in lines], np.int64)
    end, n = np.cumsum(lengths), len(lines)
    return Messages(b"".join(lines), end - lengths, end, np.zeros(n, np.int32), np.arange(n), np.full(n, 2e9))


def answer(identity, p=0.5, time_s=1000.0, **row):
    return msgspec.json.encode(Answered(
        id=str(identity), time_s=time_s, model="ads@1", version="1-a", staleness_s=2.0, p=p, row=row,
    ))  # fmt: skip


def event(identity, label, **row):
    return msgspec.json.encode({"id": identity, "label": label, **row})


def joiner(**options):
    return Joiner(SPEC, **{"wait_s": 60.0, "max_waiting": 1000, "window": 1000, **options})


def test_what_was_served_is_judged_by_the_labels_that_came():
    rng = np.random.default_rng(1)
    p, y = rng.uniform(0.05, 0.6, 200), rng.integers(0, 2, 200)
    found = joiner()
    found.answered(messages(*(answer(i, float(p[i]), user=i) for i in range(0, 200, 2))))  # every other one was sampled
    found.happened(messages(b"\n".join(event(i, int(y[i]), user=i) for i in range(100)), b"no event",
                            *(event(i, int(y[i]), user=i) for i in range(100, 200))))  # fmt: skip
    quality = found.windows.measure()
    assert (quality.events, found.counts["joined"], found.waiting) == (100, 100, 0)
    assert quality.logloss == pytest.approx(log_loss(y[::2], p[::2].astype(np.float32).astype(float)), abs=1e-9)
    assert found.staleness_s == 2.0


def test_an_event_counts_once():
    found = joiner()
    found.answered(messages(answer(1, 0.2), answer(1, 0.9)))  # asked twice: the later one is what was shown
    for _ in range(2):
        found.happened(messages(event(1, 1)))
    assert found.counts["joined"] == 1
    assert found.windows.measure().logloss == pytest.approx(-np.log(0.9), rel=1e-6)


def test_a_refused_event_is_not_judged_and_shifts_no_other():
    found = joiner()
    found.answered(messages(*(answer(i, 0.1 * (i + 1)) for i in range(3))))
    found.happened(messages(event(0, 1), event(1, "maybe"), event(2, 1)))
    assert found.counts["joined"] == 2
    assert found.windows.measure().logloss == pytest.approx(-np.log([0.1, 0.3]).mean(), rel=1e-6)


def test_answers_wait_in_bounded_room_and_time():
    found = joiner(max_waiting=3, wait_s=10.0)
    found.answered(messages(*(answer(i, time_s=1000.0 + i) for i in range(5))))
    assert (found.waiting, found.counts["evicted"]) == (3, 2)  # 0 and 1
    found.expire(1012.5)
    assert (found.waiting, found.counts["expired"]) == (2, 1)  # 2 is 10.5 s old
    found.happened(messages(*(event(i, 0) for i in range(5))))
    assert found.counts["joined"] == 2


def test_a_row_that_was_asked_otherwise_than_it_is_learned_is_skew():
    found = joiner()
    found.answered(messages(answer(1, user=7, ad="a"), answer(2, user=7, ad="a"), answer(3, ad="a")))
    found.happened(messages(event(1, 0, user="7", ad="a"), event(2, 0, user=7, ad="b"), event(3, 0, user=7, ad="a")))
    assert dict(found.skew.fields) == {"ad": 1, "user": 1}
    assert found.skew.events == 3
    numbers = found.numbers()
    assert numbers["ctr_skew_fields"] == {("user",): 1.0, ("ad",): 1.0}
    assert numbers["ctr_skew_compared"] == 3.0


def test_rubbish_among_the_answers_is_counted():
    found = joiner()
    found.answered(messages(b"{", b'{"id":1}', answer(1)))
    assert (found.counts["unreadable"], found.waiting) == (2, 1)


def test_without_an_id_there_is_nothing_to_join_by():
    spec = specification.parse('name = "ads"\nfields = [{name = "user"}]')
    with pytest.raises(SettingError, match=r"event\.id"):
        Joiner(spec, wait_s=1, max_waiting=1, window=10)
