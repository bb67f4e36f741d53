import math

import numpy as np
import pytest

from ctr import spec as specification
from ctr.errors import EventError
from ctr.events import MISSING, RESERVED_KEYS, encode_rows, feature_key


def make(*fields):
    return specification.from_builtins({"name": "x", "fields": list(fields)})


def entries(batch, event=0):
    """{field index: {key: value}} of one event."""
    out = {}
    for at in range(int(batch.start[event]), int(batch.start[event + 1])):
        field = out.setdefault(int(batch.fields[at]), {})
        assert int(batch.keys[at]) not in field
        field[int(batch.keys[at])] = float(batch.values[at])
    return out


def keyed(name, **values):
    return {feature_key(name, text): pytest.approx(value, rel=1e-7) for text, value in values.items()}


def test_dense_layout():
    spec = make({"name": "a"}, {"name": "b", "missing": "feature"}, {"name": "c", "source": "u.c"})
    batch = encode_rows(spec, [{"a": 1, "u": {"c": "x"}}, {}, {"a": "", "b": True, "u": {"c": None}}], 5.0)
    absent = feature_key("b", None)
    assert batch.dense
    assert batch.keys.reshape(3, 3).tolist() == [
        [feature_key("a", "1"), absent, feature_key("c", "x")],
        [int(MISSING), absent, int(MISSING)],
        [int(MISSING), feature_key("b", "true"), int(MISSING)],
    ]
    assert batch.values.tolist() == [1.0] * 9
    assert batch.fields.tolist() == [0, 1, 2] * 3
    assert batch.start.tolist() == [0, 3, 6, 9]
    assert np.isnan(batch.labels).all()
    assert batch.weights.tolist() == [1.0] * 3
    assert batch.times_s.tolist() == [5.0] * 3
    assert batch.partitions.tolist() == [-1] * 3
    assert batch.offsets.tolist() == [0, 1, 2]


DTYPES = {
    "keys": np.uint64, "values": np.float32, "fields": np.uint8, "start": np.int64, "labels": np.float32,
    "weights": np.float32, "times_s": np.float64, "partitions": np.int32, "offsets": np.int64,
}  # fmt: skip


@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize("n", [0, 1, 3])
def test_dtypes_and_shapes(multi, n):
    batch = encode_rows(make({"name": "a"}, {"name": "b", "multi": multi}), [{"a": 1}] * n, 0.0)
    nnz = n if multi else 2 * n
    lengths = {"keys": nnz, "values": nnz, "fields": nnz, "start": n + 1}
    for name, dtype in DTYPES.items():
        array = getattr(batch, name)
        assert array.dtype == dtype
        assert array.shape == (lengths.get(name, n),)
    assert batch.dense is not multi


def test_multi_valued_fields_merge_and_scale():
    spec = make(
        {"name": "n", "multi": True, "source": "t"},
        {"name": "one"},
        {"name": "m", "multi": True, "source": "t", "scale": "mean"},
        {"name": "s", "multi": True, "source": "t", "scale": "sqrt"},
    )
    batch = encode_rows(spec, [{"one": "x", "t": ["b", None, 7, "b", "", 7.0, "7", True]}], 0.0)
    # six elements: b twice, 7 three times, true once
    for field, unit in ((0, 1.0), (2, 1 / 6), (3, 1 / math.sqrt(6))):
        name = spec.fields[field].name
        assert entries(batch)[field] == keyed(name, **{"b": 2 * unit, "7": 3 * unit, "true": unit})
    assert entries(batch)[1] == keyed("one", x=1.0)
    assert batch.fields.tolist() == sorted(batch.fields.tolist())
    assert batch.keys[:3].tolist() == [feature_key("n", text) for text in ("b", 7, True)]


@pytest.mark.parametrize("given", [{}, {"t": None}, {"t": ""}, {"t": []}, {"t": [None, ""]}])
def test_an_empty_multi_field_is_nothing(given):
    spec = make({"name": "t", "multi": True, "scale": "mean"}, {"name": "a"}, {"name": "b", "missing": "feature"})
    batch = encode_rows(spec, [given, {"a": 1} | given], 0.0)
    assert entries(batch, 0) == {2: {feature_key("b", ""): 1.0}}
    assert entries(batch, 1) == {1: keyed("a", **{"1": 1.0}), 2: {feature_key("b", ""): 1.0}}


def test_a_scalar_is_a_list_of_one():
    spec = make({"name": "t", "multi": True, "scale": "sqrt"})
    one, two, three = (entries(encode_rows(spec, [{"t": given}], 0.0)) for given in (5, [5], (5,)))
    assert one == two == three == {0: keyed("t", **{"5": 1.0})}


def test_log_bins_of_a_multi_valued_field():
    spec = make({"name": "t", "multi": True, "transform": "log", "bins_per_e": 1.0})
    # ln 2 = .69, ln 3 = 1.1, ln 8 = 2.08
    assert entries(encode_rows(spec, [{"t": [1, "2", -7.0]}], 0.0)) == {0: keyed("t", **{"0": 1, "1": 1, "-2": 1})}


def test_single_valued_fields_have_the_same_keys_in_both_layouts():
    fields = [{"name": "a"}, {"name": "b", "missing": "feature"}, {"name": "c", "transform": "log"}]
    rows = [{"a": "x", "b": 1, "c": 7}, {"a": None}, {"c": "12.5", "b": ""}]
    dense = encode_rows(make(*fields), rows, 0.0).keys.reshape(3, 3)
    sparse = encode_rows(make(*fields, {"name": "t", "multi": True}), rows, 0.0)
    for event, keys in enumerate(dense.tolist()):
        want = {index: {key: 1.0} for index, key in enumerate(keys) if key != MISSING}
        assert entries(sparse, event) == want
        assert all(key >= RESERVED_KEYS for key in keys if key != MISSING)


@pytest.mark.parametrize(
    ("row", "reason", "path"),
    [
        ({"a": []}, "type", "a"), ({"a": {"b": 1}}, "type", "a"), ({"a": math.nan}, "value", "a"),
        ({"a": "\ud800"}, "encoding", "a"), ({"u": 3}, "type", "u"), ({"u": {"b": [1]}}, "type", "u.b"),
        ({"l": "x"}, "type", "l"), ({"l": True}, "type", "l"), ({"l": math.inf}, "value", "l"),
        ({"t": {}}, "type", "t"), ({"t": [1, [2]]}, "type", "t[1]"), ({"t": [None, "\udc00"]}, "encoding", "t[1]"),
        ({"t": [1, 2, math.inf]}, "value", "t[2]"), (None, "type", None), ([], "type", None), ("row", "type", None),
    ],
)  # fmt: skip
def test_errors_name_the_path(row, reason, path):
    spec = make({"name": "a"}, {"name": "b", "source": "u.b"}, {"name": "l", "transform": "log"},
                {"name": "t", "multi": True})  # fmt: skip
    with pytest.raises(EventError) as caught:
        encode_rows(spec, [{}, {}, {"a": 1}, row], 0.0)
    assert caught.value.reason == reason
    assert caught.value.path == "$.instances[3]" + (f".{path}" if path else "")
    with pytest.raises(EventError, match=r"^\$\.rows\[0\]"):
        encode_rows(spec, [row], 0.0, path="$.rows")


def test_scoring_looks_at_features_only():
    spec = specification.from_builtins({
        "name": "x", "event": {"time": "at", "weight": "w"}, "fields": [{"name": "a"}],
    })  # fmt: skip
    batch = encode_rows(spec, [{"a": 1, "label": 7, "at": "never", "w": -1, "other": []}], 3.0)
    assert np.isnan(batch.labels).all()
    assert (batch.weights[0], batch.times_s[0]) == (1.0, 3.0)
