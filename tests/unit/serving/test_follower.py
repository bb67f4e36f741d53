"""The pace at which rows are read again: as long a rest as it asks for, and little made up for after a pause."""

import pytest

from ctr.serving.follower import Follower


class Waits:
    def __init__(self):
        self.seconds = []

    def wait(self, seconds):
        self.seconds.append(seconds)


@pytest.fixture
def follower():
    made = object.__new__(Follower)  # without a store
    made._thread, made._stop, made._paced_s, made._reread_rows_per_s = object(), Waits(), 0.0, 1000.0
    return made


def test_rests_add_up_to_the_pace(follower):
    for rows in (500, 500, 0):
        follower._rest(rows)
    assert follower._stop.seconds == pytest.approx([0.49, 0.99, 0.99], abs=0.1)  # none of them was waited for


def test_others_get_the_core_however_late_it_is(follower):
    follower._rest(0)
    assert follower._stop.seconds == [0.0005]


def test_without_a_thread_of_its_own_there_is_no_rest(follower):
    follower._thread = None
    follower._rest(500)
    assert follower._stop.seconds == []
