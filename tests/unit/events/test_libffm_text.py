"""libffm text: labels, fields, values, and what is refused."""

import numpy as np
import pytest

from ctr.errors import EventError, SettingError
from ctr.events import Messages, encode_rows, feature_key, open_reader
from ctr.spec import from_builtins


def make(*fields, event=None, **model):
    return from_builtins({
        "name": "m", "fields": list(fields), "event": {"format": "libffm", **(event or {})}, "model": model,
    })  # fmt: skip


def read(spec, *lines):
    data = b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines)
    at = np.array([0])
    return open_reader(spec).read(Messages(data, at, at + len(data), at, at, at + 1.7e9))


USER = {"name": "user", "source": "0", "multi": True}
TAGS = {"name": "tags", "source": "17", "multi": True}


def test_features_values_and_labels():
    batch, refusals = read(
        make(USER, TAGS), "-1 0:7:1 17:a:.5 17:b:-2", "0 17:a:1e-3\t0:07:1\r", "+1 3:x:1 0:7:0 17:a:1 17:a:.25", "1",
    )  # fmt: skip
    assert not refusals
    assert batch.labels.tolist() == [0, 0, 1, 1]
    key = {name: feature_key(*name) for name in (("user", "7"), ("user", "07"), ("tags", "a"), ("tags", "b"))}
    expected = [
        [(key["user", "7"], 1.0, 0), (key["tags", "a"], 0.5, 1), (key["tags", "b"], -2.0, 1)],
        [(key["user", "07"], 1.0, 0), (key["tags", "a"], np.float32(1e-3), 1)],
        [(key["tags", "a"], 1.25, 1)],  # a zero is no feature, an unknown field is passed over, equal ones add up
        [],
    ]
    flat = list(zip(batch.keys.tolist(), batch.values.tolist(), batch.fields.tolist(), strict=True))
    assert [flat[a:b] for a, b in zip(batch.start, batch.start[1:], strict=False)] == expected


def test_values_are_scaled_where_a_field_says_so():
    batch, _ = read(make({**TAGS, "scale": "sqrt"}), "1 17:a:1 17:b:3 17:c:-1 17:d:2")
    assert batch.values.tolist() == [0.5, 1.5, -0.5, 1.0]


def test_in_libffms_model_a_feature_is_the_same_in_every_field():
    batch, _ = read(make(USER, TAGS, libffm=True), "1 0:7:1 17:7:2")
    assert batch.keys.tolist() == [feature_key("", "7")] * 2
    assert batch.fields.tolist() == [0, 1]


def test_one_hot_fields_make_a_dense_batch():
    spec = make({"name": "a", "source": "0"}, {"name": "b", "source": "1"})
    batch, refusals = read(spec, "1 1:x:1", "0 0:y:1.0 1:x:1", "0 0:y:.5", "0 0:y:1 0:z:1")
    assert batch.dense
    assert batch.keys.tolist() == [0, feature_key("b", "x"), feature_key("a", "y"), feature_key("b", "x")]
    assert [(refusal.reason, refusal.path) for refusal in refusals] == [("value", "0"), ("value", "0")]


def test_a_scoring_request_names_values_too():
    spec = make(USER, TAGS)
    line, _ = read(spec, "1 0:7:1 17:a:.5 17:b:-2")
    row = encode_rows(spec, [{"0": "7", "17": {"a": 0.5, "b": "-2"}}], 1.7e9)
    for name in ("keys", "values", "fields", "start"):
        np.testing.assert_array_equal(getattr(line, name), getattr(row, name))


@pytest.mark.parametrize(
    ("given", "reason", "path"),
    [({"a": "x"}, "type", "17.a"), ({"a": None}, "type", "17.a"), ({"a": 1e30}, "value", "17.a"), ({}, "type", "17"),
     ({"\udc00": 1}, "encoding", "17")],
)  # fmt: skip
def test_a_scoring_request_with_bad_values_names_them(given, reason, path):
    with pytest.raises(EventError) as caught:
        encode_rows(make(TAGS), [{"17": given}], 1.7e9)
    assert (caught.value.reason, caught.value.args[0].partition(": ")[0]) == (reason, f"$.instances[0].{path}")


@pytest.mark.parametrize(
    ("line", "reason", "path"),
    [
        ("1 0:7", "syntax", "$"), ("1 0:7:1:2", "syntax", "$"), ("1 :7:1", "syntax", "$"), ("1 0::1", "syntax", "$"),
        ("1 0:7:x", "type", "0"), ("1 0:7:nan", "type", "0"), ("1 0:7:1e999", "value", "0"),
        ("1 0:7:1e30", "value", "0"), ("1 0:7:6e8 0:7:6e8", "value", "0.7"), ("2 0:7:1", "label", "label"),
        ("-1.5 0:7:1", "label", "label"), ("x", "label", "label"), (b"1 0:\xff:1", "encoding", "$"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_alone(line, reason, path):
    batch, refusals = read(make(USER, TAGS), "1 0:7:1", line, "0 0:8:1")
    assert batch.labels.tolist() == [1, 0]
    assert [(refusal.reason, refusal.path) for refusal in refusals] == [(reason, path)]


@pytest.mark.parametrize(
    ("fields", "event", "key"),
    [
        ([{"name": "user", "multi": True}], {}, "fields[0].source"),
        ([USER, {"name": "b", "source": "01"}], {}, "fields[1].source"),
        ([{**USER, "transform": "log"}], {}, "fields[0].transform"), ([USER], {"time": "t"}, "event.time"),
        ([USER], {"id": "t"}, "event.id"), ([USER], {"weight": "t"}, "event.weight"),
        ([USER], {"columns": ["a"]}, "event.columns"), ([USER], {"delimiter": ";"}, "event.delimiter"),
        ([{"name": "user", "source": "0", "real": True}], {}, "fields[0].real"),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_here_are_refused(fields, event, key):
    with pytest.raises(SettingError) as caught:
        make(*fields, event=event)
    assert caught.value.key == key


@pytest.mark.parametrize(("key", "value"), [("missing", "feature"), ("real", True)])
def test_the_empty_text_is_no_feature_of_libffms_model(key, value):
    with pytest.raises(SettingError) as caught:
        from_builtins({"name": "m", "fields": [{"name": "a", key: value}], "model": {"libffm": True}})
    assert caught.value.key == f"fields[0].{key}"
