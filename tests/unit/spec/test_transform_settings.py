"""Settings of transforms and crosses: what is refused, and that a change makes another model."""

import copy
import re

import pytest

from ctr.errors import SettingError
from ctr.spec import differences, encode, flatten, from_builtins, parse

FIELDS = """
name = "ads"
[event]
time = "at"
[[fields]]
name = "user"
[[fields]]
name = "price"
transform = "bins"
edges = [1, 2.5]
[[fields]]
name = "age"
transform = "bspline"
edges = [18, 30, 60]
degree = 2
[[fields]]
name = "hour"
transform = "hour"
utc_offset_h = 1
[[fields]]
name = "user*price"
cross = ["user", "price"]
[[fields]]
name = "depth"
transform = "bins"
quantiles = 10
edges = [3, 4]
"""


def one(lines, before=""):
    return f'name = "ads"\nevent = {{time = "at"}}\n{before}[[fields]]\nname = "x"\n{lines}'


A, B = '[[fields]]\nname = "a"\n', '[[fields]]\nname = "b"\n'

# specification, key, value, a word of what is allowed
WRONG = [
    (one('transform = "bins"'), "fields[0].edges", (), "quantiles"),
    (one('transform = "bspline"'), "fields[0].edges", (), "quantiles"),
    (one('transform = "bspline"\nedges = [1]'), "fields[0].edges", (1.0,), "two knots"),
    (one('transform = "bins"\nedges = [1, 1]'), "fields[0].edges", 1.0, "increasing"),
    (one('transform = "bins"\nedges = [2, 1]'), "fields[0].edges", 1.0, "increasing"),
    (one('transform = "bins"\nedges = [nan]'), "fields[0].edges", "nan", "within"),
    (one('transform = "bins"\nedges = [0, inf]'), "fields[0].edges", float("inf"), "within"),
    (one('transform = "bins"\nquantiles = 1'), "fields[0].quantiles", 1, ">= 2"),
    (one('transform = "bins"\nquantiles = 257'), "fields[0].quantiles", 257, "<= 256"),
    (one("edges = [1]"), "fields[0].edges", (1.0,), "bspline"),
    (one('transform = "log"\nedges = [1]'), "fields[0].edges", (1.0,), "bspline"),
    (one("quantiles = 4"), "fields[0].quantiles", 4, "bspline"),
    (one('transform = "bins"\nedges = [1]\ndegree = 2'), "fields[0].degree", 2, "bspline"),
    (one('transform = "bspline"\nedges = [1, 2]\ndegree = 6'), "fields[0].degree", 6, "<= 5"),
    (one('transform = "bspline"\nedges = [1, 2]\nmulti = true'), "fields[0].multi", True, "one value"),
    (one('transform = "bins"\nedges = [1]\nreal = true'), "fields[0].transform", "bins", "number itself"),
    (one("utc_offset_h = 2"), "fields[0].utc_offset_h", 2.0, "weekday"),
    (one('transform = "hour"\nsource = "at"'), "fields[0].source", "at", "time"),
    (one('transform = "weekday"\nmissing = "feature"'), "fields[0].missing", "feature", "never missing"),
    (one('transform = "hour"').replace('event = {time = "at"}', ""), "event.time", None, "hour"),
    (one('cross = ["a", "b"]', A), "fields[1].cross", ("a", "b"), "stand before it"),
    (one('cross = ["a", "a"]', A), "fields[1].cross", ("a", "a"), "different"),
    (one('cross = ["a", "x"]', A), "fields[1].cross", ("a", "x"), "stand before it"),
    (one('cross = ["a", "b"]\ntransform = "log"', A + B), "fields[2].transform", "log", "no value of its own"),
    (one('cross = ["a", "b"]\nsource = "u"', A + B), "fields[2].source", "u", "no value of its own"),
    (one('cross = ["a", "b"]', A + "real = true\n" + B), "fields[2].cross", ("a", "b"), "real = true"),
    (one('cross = ["a", "b"]', A + "multi = true\n" + B + "multi = true\n"), "fields[2].cross", ("a", "b"), "only one"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "key", "value", "word"), WRONG, ids=[f"{n}-{w[1]}" for n, w in enumerate(WRONG)])
def test_a_wrong_one_names_key_value_and_what_is_allowed(text, key, value, word):
    with pytest.raises(SettingError) as caught:
        parse(text)
    error = caught.value
    assert error.key == key
    assert str(error.value) == value if value == "nan" else error.value == value
    assert word in error.allowed


OTHER = {
    "fields[1].edges": [1.0, 2.0], "fields[2].edges": [18.0, 30.0, 61.0], "fields[2].degree": 3,
    "fields[3].utc_offset_h": 2.0, "fields[3].transform": "weekday", "fields[4].cross": ["price", "user"],
    "fields[5].quantiles": 20,
}  # fmt: skip


@pytest.mark.parametrize("key", OTHER)
def test_a_change_makes_another_model_and_is_shown(key):
    stored = parse(FIELDS)
    raw = copy.deepcopy(encode(stored))
    index, name = re.fullmatch(r"fields\[(\d)\]\.(\w+)", key).groups()
    raw["fields"][int(index)][name] = OTHER[key]
    changed = from_builtins(raw)
    assert changed.digest != stored.digest
    (shown,) = differences(stored, changed)
    assert shown == f"{key}: {dict(flatten(stored))[key]!r} -> {dict(flatten(changed))[key]!r}"
    assert from_builtins(encode(changed)) == changed
