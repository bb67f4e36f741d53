import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr import spec as specification
from ctr.events import encode_rows, named_features

FIELDS = [
    {"name": "user"}, {"name": "ad", "missing": "feature"}, {"name": "tags", "multi": True},
    {"name": "price", "transform": "log"}, {"name": "age", "transform": "bins", "edges": [10, 20.5]},
    {"name": "size", "transform": "bspline", "edges": [0, 30, 60]}, {"name": "n", "real": True},
    {"name": "h", "transform": "hour"}, {"name": "d", "transform": "weekday"},
    {"name": "ua", "cross": ["user", "ad"]}, {"name": "td", "cross": ["tags", "d"]},
]  # fmt: skip
SPEC = specification.from_builtins({"name": "x", "event": {"time": "at"}, "fields": FIELDS})
NOON = 1714564800.0  # a Wednesday


def names(row, time_s=NOON):
    return [name for _, name in named_features(SPEC, row, time_s)]


def test_every_kind_of_feature_has_a_name():
    row = {"user": 7.0, "tags": ["b", "a", "b"], "price": 100, "age": "20.5", "size": 15, "n": 3}
    assert names(row) == [
        "user=7", "ad missing", "tags=b", "tags=a", "price in [75.2, 105.3)", "age >= 20.5",
        "size about 0", "size about 10", "size about 30", "size about 50", "n", "h=12", "d=Wednesday",
        "user=7 x ad missing", "tags=b x d=Wednesday", "tags=a x d=Wednesday",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"age": 9}, "age < 10"), ({"age": 10}, "age in [10, 20.5)"), ({"price": 0}, "price in (-0.3956, 0.3956)"),
        ({"price": -100}, "price in (-105.3, -75.2]"), ({"user": True}, "user=true"), ({"ad": "a=b"}, "ad=a=b"),
        ({"tags": {"x": 0.5, "y": 0}}, "tags=x"),
    ],
)  # fmt: skip
def test_names_say_what_the_key_stands_for(row, name):
    assert name in names(row)
    assert not [said for said in names(row) if said.startswith("tags=y")]


value = st.none() | st.integers(-100, 100) | st.floats(-1e3, 1e3)
text = st.none() | st.booleans() | st.integers() | st.text(max_size=3)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "user": text, "ad": text, "price": value, "age": value, "size": value, "n": value,
            "tags": st.lists(text, max_size=4) | st.dictionaries(st.text(max_size=2), value.filter(bool), min_size=1),
        },
    ),
    st.floats(0, 4e9),
)  # fmt: skip
def test_the_keys_are_those_that_are_learned(row, time_s):
    named = named_features(SPEC, row, time_s)
    assert sorted(key for key, _ in named) == sorted(encode_rows(SPEC, [row], time_s).keys.tolist())
    assert len({name for _, name in named}) == len(named)
