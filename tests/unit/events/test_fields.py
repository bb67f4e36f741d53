"""Fields that are not one value's one key: splines, parts of the time, crosses, in the arrays of a batch."""

import json
import math

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from ctr import spec as specification
from ctr.errors import EventError, SettingError
from ctr.events import MISSING, Messages, encode_rows, feature_key, open_reader

USER, AD, TAGS = {"name": "user"}, {"name": "ad", "missing": "feature"}, {"name": "tags", "multi": True}
PRICE = {"name": "price", "transform": "bins", "edges": [1, 10]}
AGE = {"name": "age", "transform": "bspline", "edges": [0, 10, 20], "degree": 1}
HOUR, DAY = {"name": "h", "transform": "hour", "utc_offset_h": 2}, {"name": "d", "transform": "weekday"}
NOON = 1714564800.0  # Wednesday 2024-05-01 12:00 UTC


def make(*fields, **event):
    return specification.from_builtins({"name": "x", "event": {"time": "at"} | event, "fields": list(fields)})


def pair(name, a, b):
    key = xxhash.xxh64_intdigest(
        a.to_bytes(8, "little") + b.to_bytes(8, "little"), xxhash.xxh64_intdigest(name.encode())
    )
    assert key > 65535
    return key


def features(batch, event=0):
    """{field index: {key: value}} of one event; each key once."""
    out = {}
    for at in range(int(batch.start[event]), int(batch.start[event + 1])):
        if batch.keys[at] != MISSING:
            field = out.setdefault(int(batch.fields[at]), {})
            assert int(batch.keys[at]) not in field
            field[int(batch.keys[at])] = float(batch.values[at])
    return out


def test_a_spline_makes_the_batch_sparse_and_its_values_sum_to_one():
    spec = make(USER, AGE)
    batch = encode_rows(spec, [{"user": 1, "age": "2.5"}, {"age": 10}, {"user": 1, "age": None}], 0.0)
    assert not batch.dense
    user = feature_key("user", 1)
    assert features(batch, 0) == {0: {user: 1.0}, 1: {feature_key("age", "b0"): 0.75, feature_key("age", "b1"): 0.25}}
    assert features(batch, 1) == {1: {feature_key("age", "b1"): 1.0}}  # on a knot no spline of value 0
    assert features(batch, 2) == {0: {user: 1.0}}


def test_a_missing_number_may_be_a_feature_beside_the_splines():
    batch = encode_rows(make(AGE | {"missing": "feature"}), [{"age": ""}], 0.0)
    assert features(batch) == {0: {feature_key("age", ""): 1.0}}


def test_the_time_of_an_event_and_of_a_request():
    spec = make(HOUR, USER, DAY)
    line = json.dumps({"label": 1, "at": NOON, "user": 7}).encode()
    at = np.zeros(1, np.int64)
    batch, _ = open_reader(spec).read(Messages(line, at, at + len(line), at.astype(np.int32), at, at + 2e9))
    want = [feature_key("h", "14"), feature_key("user", 7), feature_key("d", "2")]
    assert batch.keys.tolist() == want
    assert batch.dense
    later = encode_rows(spec, [{"user": 7, "at": 0, "h": 3}], NOON + 11 * 3600)
    assert later.keys.tolist() == [feature_key("h", "1"), feature_key("user", 7), feature_key("d", "2")]


def test_a_cross_of_single_fields_stays_dense():
    both = {"name": "both", "cross": ["user", "ad"]}
    batch = encode_rows(make(USER, AD, both), [{"user": 1, "ad": 2}, {"user": 1}, {"ad": 2}], 0.0)
    user, ad, none = feature_key("user", 1), feature_key("ad", 2), feature_key("ad", "")
    assert batch.dense
    assert batch.keys.reshape(3, 3).tolist() == [
        [user, ad, pair("both", user, ad)], [user, none, pair("both", user, none)], [0, ad, 0],
    ]  # fmt: skip


def test_the_order_of_a_cross_counts():
    ab, ba = ({"name": "c", "cross": order} for order in (["user", "ad"], ["ad", "user"]))
    one, two = (encode_rows(make(USER, AD, c), [{"user": 1, "ad": 2}], 0.0).keys[2] for c in (ab, ba))
    assert one != two


def test_a_cross_multiplies_values():
    crosses = [{"name": "ut", "cross": ["user", "tags"]}, {"name": "ta", "cross": ["tags", "age"]}]
    spec = make(USER, TAGS | {"scale": "mean"}, AGE, *crosses)
    row = {"user": 7, "tags": ["a", "b", "a", None], "age": 4}
    found = features(encode_rows(spec, [row], 0.0))
    user, a, b = feature_key("user", 7), feature_key("tags", "a"), feature_key("tags", "b")
    third, low, high = 1 / 3, feature_key("age", "b0"), feature_key("age", "b1")
    assert found[3] == {pair("ut", user, a): pytest.approx(2 * third), pair("ut", user, b): pytest.approx(third)}
    assert found[4] == {
        pair("ta", a, low): pytest.approx(2 * third * 0.6), pair("ta", a, high): pytest.approx(2 * third * 0.4),
        pair("ta", b, low): pytest.approx(third * 0.6), pair("ta", b, high): pytest.approx(third * 0.4),
    }  # fmt: skip
    assert features(encode_rows(spec, [{"user": 7, "age": 4}], 0.0)).keys() == {0, 2}


def test_a_cross_with_the_hour():
    spec = make(HOUR, USER, {"name": "c", "cross": ["h", "user"]})
    keys = encode_rows(spec, [{"user": 7}], NOON).keys.tolist()
    assert keys[2] == pair("c", feature_key("h", "14"), feature_key("user", 7))


@given(
    st.none() | st.integers(-5, 25) | st.floats(-5, 25), st.none() | st.text("ab", max_size=2), st.floats(0, 4e9)
)
def test_dense_and_sparse_layouts_agree(price, user, time_s):
    crosses = [{"name": "pu", "cross": ["price", "user"]}, {"name": "ud", "cross": ["user", "d"]}]
    fields = [PRICE, HOUR, USER, DAY, *crosses]
    rows = [{"price": price, "user": user}]
    dense, sparse = (encode_rows(make(*more), rows, time_s) for more in (fields, [*fields, TAGS]))
    assert (dense.dense, sparse.dense) == (True, False)
    assert features(dense) == features(sparse)


@pytest.mark.parametrize(
    ("row", "reason", "path"),
    [
        ({"price": "x"}, "type", "price"), ({"price": math.inf}, "value", "price"), ({"price": True}, "type", "price"),
        ({"age": "1,5"}, "type", "age"), ({"age": [1]}, "type", "age"), ({"age": math.nan}, "value", "age"),
    ],
)  # fmt: skip
def test_what_is_no_number_is_refused_with_its_path(row, reason, path):
    with pytest.raises(EventError) as caught:
        encode_rows(make(PRICE, AGE), [row], 0.0)
    assert (caught.value.reason, caught.value.path) == (reason, f"$.instances[0].{path}")


def test_elements_of_a_multi_valued_field_have_bins():
    spec = make({"name": "t", "multi": True, "transform": "bins", "edges": [1, 10]})
    found = features(encode_rows(spec, [{"t": [0, "5", 7.0, 10]}], 0.0))
    assert found == {0: {feature_key("t", "0"): 1.0, feature_key("t", "1"): 2.0, feature_key("t", "2"): 1.0}}


def test_quantiles_that_were_not_learned_are_refused_with_the_command():
    spec = make(USER, {"name": "p", "transform": "bins", "quantiles": 10})
    for door in (open_reader, lambda spec: encode_rows(spec, [{}], 0.0)):
        with pytest.raises(SettingError, match="ctr quantiles SPEC SAMPLE --write") as caught:
            door(spec)
        assert caught.value.key == "fields[1].edges"
    learned = make(USER, {"name": "p", "transform": "bins", "quantiles": 10, "edges": [3]})
    assert encode_rows(learned, [{"p": 3}], 0.0).keys[1] == feature_key("p", "1")
