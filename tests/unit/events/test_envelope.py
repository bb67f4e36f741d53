import math
import time
from datetime import UTC, datetime

import pytest

from ctr.errors import EventError
from ctr.events.envelope import Envelope, lookup
from ctr.spec import Event

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC).timestamp()


def read(record, arrival_s=NOON, **event):
    return Envelope(Event(**event)).read(record, arrival_s)


def refusal(record, arrival_s=NOON, **event):
    with pytest.raises(EventError) as caught:
        read(record, arrival_s, **event)
    return caught.value.reason, caught.value.path


@pytest.mark.parametrize(
    ("given", "label"),
    [(0, 0), (1, 1), (False, 0), (True, 1), ("0", 0), ("1", 1), (0.0, 0), (1.0, 1), (-0.0, 0)],
)
def test_labels(given, label):
    assert read({"label": given}) == (label, 1.0, NOON)


@pytest.mark.parametrize(
    "given", [-1, 2, 7, 0.5, "", "2", "-1", "true", "yes", " 1", "1.0", None, [], [1], {}, math.nan]
)
def test_labels_that_are_none(given):
    assert refusal({"label": given}) == ("label", "label")


def test_a_missing_label_is_refused_and_a_nested_one_found():
    assert refusal({"labels": 1}, label="click") == ("label", "click")
    assert read({"out": {"click": 1}}, label="out.click")[0] == 1
    assert refusal({"out": 3}, label="out.click") == ("label", "out")


@pytest.mark.parametrize(
    ("time_format", "given"),
    [
        ("s", NOON), ("s", int(NOON)), ("s", str(int(NOON))), ("ms", int(NOON) * 1000), ("us", int(NOON) * 10**6),
        ("rfc3339", "2024-05-01T12:00:00Z"), ("rfc3339", "2024-05-01T14:00:00.000+02:00"),
        ("rfc3339", "2024-05-01 12:00:00z"), ("%y%m%d%H", "24050112"), ("%y%m%d%H", 24050112),
        ("%Y-%m-%d %H:%M", "2024-05-01 12:00"), ("%Y-%m-%dT%H%z", "2024-05-01T14+0200"),
    ],
)  # fmt: skip
def test_time_formats(time_format, given):
    assert read({"label": 0, "at": given}, time="at", time_format=time_format)[2] == NOON


@pytest.fixture
def far_east(monkeypatch):
    monkeypatch.setenv("TZ", "XXX-9")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("far_east")
def test_the_machine_s_zone_is_no_matter():
    assert datetime.fromtimestamp(0).hour == 9  # noqa: DTZ006  the fixture works
    assert read({"label": 0, "at": "24050112"}, time="at", time_format="%y%m%d%H")[2] == NOON


def test_fractions_of_a_second_stay():
    assert read({"label": 0, "at": "2024-05-01T12:00:00.25Z"}, time="at", time_format="rfc3339")[2] == NOON + 0.25
    assert read({"label": 0, "at": 1714564800250}, time="at", time_format="ms")[2] == NOON + 0.25


@pytest.mark.parametrize(
    ("time_format", "given"),
    [
        *((f, g) for f in ("s", "ms", "us", "rfc3339", "%Y") for g in (None, "", True, [], {}, "soon", math.inf)),
        ("s", -1), ("s", "1e999"), ("s", 10**400), ("rfc3339", "2024-05-01T12:00:00"), ("rfc3339", "2024-05-01"),
        ("rfc3339", "2024-13-01T12:00:00Z"), ("rfc3339", 20240501), ("rfc3339", "0001-01-01T00:00:00+23:59"),
        ("rfc3339", "1969-12-31T23:59:59Z"), ("%Y", "24"), ("%Y", "1969"), ("%Y", 1.5), ("%Y %Q", "2024 x"),
    ],
)  # fmt: skip
def test_times_that_are_none(time_format, given):
    assert refusal({"label": 0, "at": given}, time="at", time_format=time_format) == ("time", "at")


def test_a_declared_time_must_be_there():
    assert refusal({"label": 0}, time="at") == ("time", "at")


def test_the_future_is_refused_and_the_past_is_not():
    event = {"time": "at", "max_skew_s": 60.0}
    assert read({"label": 0, "at": NOON + 60}, **event)[2] == NOON + 60
    assert refusal({"label": 0, "at": NOON + 61}, **event) == ("time", "at")
    assert read({"label": 0, "at": 0}, **event)[2] == 0


@pytest.mark.parametrize("given", [0, 0.5, 1, "2.5", 1e6, -0.0])
def test_weights(given):
    assert read({"label": 0, "w": given}, weight="w")[1] == float(given)


@pytest.mark.parametrize("given", [None, "", "x", True, -0.1, 1000001, math.inf, math.nan, "nan", [], 10**400])
def test_weights_that_are_none(given):
    assert refusal({"label": 0, "w": given}, weight="w") == ("weight", "w")


def test_the_weight_s_bound_is_the_specification_s():
    assert refusal({"label": 0, "w": 3}, weight="w", max_weight=2.0) == ("weight", "w")
    assert refusal({"label": 0}, weight="w") == ("weight", "w")


def test_label_weight_and_time_are_looked_at_in_this_order():
    event = {"weight": "w", "time": "at"}
    assert refusal({"label": 7, "w": -1, "at": -1}, **event)[0] == "label"
    assert refusal({"label": 1, "w": -1, "at": -1}, **event)[0] == "weight"
    assert refusal({"label": 1, "w": 1, "at": -1}, **event)[0] == "time"


def test_lookup_goes_one_level_down():
    record = {"a": {"b": 1, "c.d": 2, "n": None, "e": {"f": 3}}, "a.x": 4, "x.y": None, "x": {"y": 5}, "null": None}
    assert lookup(record, "a.b") == 1
    assert lookup(record, "a.c.d") == 2
    assert lookup(record, "a.x") == 4  # a key of that name comes first
    assert lookup(record, "x.y") is None
    for absent in ("a.n", "a.z", "z.b", "z", "null.b", "a.e.f"):
        assert lookup(record, absent) is None
    with pytest.raises(EventError) as caught:
        lookup({"a": 3}, "a.b")
    assert (caught.value.reason, caught.value.path) == ("type", "a")
