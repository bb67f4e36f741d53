import contextlib
import copy
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr import spec as specification
from ctr.errors import SettingError
from ctr.spec import MUTABLE, Spec, differences, encode, flatten, from_builtins, parse

MINIMAL = 'name = "ads"\n[[fields]]\nname = "user"\n'
FULL = """
name = "ads"
generation = "2024-05"
[event]
format = "delimited"
columns = ["click", "at", "w", "u", "p", "uid"]
delimiter = ";"
label = "click"
time = "at"
time_format = "ms"
id = "uid"
weight = "w"
[[fields]]
name = "user"
source = "u"
missing = "feature"
[[fields]]
name = "price"
source = "p"
transform = "log"
bins_per_e = 2.5
[model]
k = 8
base_rate = 0.03
[optimizer]
step = 0.1
[lifetime]
ttl_s = 86400
[commit]
interval_ms = 500
"""


def refused(text):
    with pytest.raises(SettingError) as caught:
        parse(text, "ads.toml")
    error = caught.value
    assert str(error) == f"{error.key} = {error.value!r}: {error.allowed}"
    return error


def with_line(table, line, base=MINIMAL):
    return base + f"[{table}]\n{line}\n"


def test_defaults_fill_what_is_not_said():
    spec = parse(MINIMAL)
    assert spec == from_builtins({"name": "ads", "fields": [{"name": "user"}]})
    assert (spec.model_id, spec.event.format, spec.event.label, spec.model.k) == ("ads@1", "json", "label", 4)
    assert spec.fields[0].column == "user"


def test_all_that_is_said_is_kept():
    spec = parse(FULL)
    assert spec.model_id == "ads@2024-05"
    assert (spec.delimiter, spec.columns) == (";", ("click", "at", "w", "u", "p", "uid"))
    assert [(f.name, f.column) for f in spec.fields] == [("user", "u"), ("price", "p")]
    assert (spec.fields[1].transform, spec.fields[1].bins_per_e) == ("log", 2.5)
    assert (spec.event.time, spec.event.time_format, spec.event.weight) == ("at", "ms", "w")
    assert (spec.model.k, spec.optimizer.step, spec.lifetime.ttl_s, spec.commit.interval_ms) == (8, 0.1, 86400, 500)


def test_presets_know_their_columns():
    criteo = parse('name = "a"\nevent = {format = "criteo"}\nfields = [{name = "I1"}, {name = "C26"}]')
    assert (criteo.delimiter, len(criteo.columns), criteo.columns[:2]) == ("\t", 40, ("label", "I1"))
    avazu = parse('name = "a"\nevent = {format = "avazu", label = "click"}\nfields = [{name = "C21"}]')
    assert (avazu.delimiter, len(avazu.columns), avazu.columns[-1]) == (",", 24, "C21")
    assert parse(MINIMAL).columns == ()


def test_dense_means_no_multi_valued_field():
    assert parse(MINIMAL).dense
    assert not parse(MINIMAL + "multi = true\n").dense


# key, value, and words that the message must hold
WRONG = [
    ("name = 3\n[[fields]]\nname = 'x'", "name", 3, ["str"]),
    ("name = 'Big Ads'\n[[fields]]\nname = 'x'", "name", "Big Ads", ["a-z0-9_-"]),
    ("generation = 'A'\n" + MINIMAL, "generation", "A", ["a-z0-9_-"]),
    ("[[fields]]\nname = 'x'", "name", None, ["required"]),
    ("name = 'a'", "fields", None, ["required"]),
    ("name = 'a'\nfields = []", "fields", [], [">= 1"]),
    ("name = 'a'\nfields = 'x'", "fields", "x", ["array"]),
    ("name = 'a'\n[[fields]]\nsource = 'x'", "fields[0].name", None, ["required"]),
    ("name = 'a'\nfields = [" + "{name = 'x'}," * 65 + "]", "fields", [{"name": "x"}] * 65, ["<= 64"]),
    (MINIMAL + "[[fields]]\nname = ''", "fields[1].name", "", ["length >= 1"]),
    (MINIMAL + "[[fields]]\nname = 'user'", "fields[1].name", "user", ["name of its own"]),
    (MINIMAL + "hash = true", "fields[0].hash", True, ["unknown key", "source", "missing", "bins_per_e"]),
    ("nam = 'x'\n" + MINIMAL, "nam", "x", ["unknown key", "name", "generation", "fields", "optimizer"]),
    (with_line("event", "labl = 'x'"), "event.labl", "x", ["unknown key", "label", "max_skew_s"]),
    (with_line("event", "format = 'xml'"), "event.format", "xml", ["json", "delimited", "criteo", "avazu"]),
    (MINIMAL + "scale = 'cube'", "fields[0].scale", "cube", ["none", "mean", "sqrt"]),
    (MINIMAL + "missing = 'zero'", "fields[0].missing", "zero", ["skip", "feature"]),
    (MINIMAL + "transform = 'ln'", "fields[0].transform", "ln", ["log"]),
    (MINIMAL + "transform = 3", "fields[0].transform", 3, ["str"]),
    (MINIMAL + "bins_per_e = 0", "fields[0].bins_per_e", 0, ["> 0"]),
    (MINIMAL + "bins_per_e = 101", "fields[0].bins_per_e", 101, ["<= 100"]),
    (MINIMAL + "multi = 'yes'", "fields[0].multi", "yes", ["bool"]),
    (MINIMAL + "scale = 'mean'", "fields[0].scale", "mean", ["multi = true"]),
    (MINIMAL + "multi = true\nmissing = 'feature'", "fields[0].missing", "feature", ["always skipped"]),
    (with_line("model", "type = 'gbdt'"), "model.type", "gbdt", ["ffm", "fefm"]),
    (with_line("model", "k = 0"), "model.k", 0, [">= 1"]),
    (with_line("model", "k = 33"), "model.k", 33, ["<= 32"]),
    (with_line("model", "k = '4'"), "model.k", "4", ["int"]),
    (with_line("model", "base_rate = 1.0"), "model.base_rate", 1.0, ["< 1"]),
    (with_line("model", "loss = 'hinge'"), "model.loss", "hinge", ["logistic"]),
    (with_line("model", "max_rows = 10"), "model.max_rows", 10, [">= 1024"]),
    (with_line("optimizer", "step = -1"), "optimizer.step", -1, ["> 0"]),
    (with_line("optimizer", "type = 'adam'"), "optimizer.type", "adam", ["adagrad"]),
    (with_line("optimizer", "n0 = 0"), "optimizer.n0", 0, ["> 0"]),
    (with_line("lifetime", "ttl_s = -1"), "lifetime.ttl_s", -1, [">= 0"]),
    (with_line("lifetime", "admission = 0"), "lifetime.admission", 0, ["> 0"]),
    (with_line("lifetime", "admission = -0.1"), "lifetime.admission", -0.1, ["> 0"]),
    (with_line("lifetime", "admission = 1.01"), "lifetime.admission", 1.01, ["<= 1"]),
    (with_line("lifetime", "admission = '1'"), "lifetime.admission", "1", ["float"]),
    (with_line("commit", "interval_ms = 5"), "commit.interval_ms", 5, [">= 10"]),
    (with_line("commit", "interval_s = 5"), "commit.interval_s", 5, ["interval_ms"]),
    ("commit = 3\n" + MINIMAL, "commit", 3, ["object"]),
    (with_line("event", "max_bytes = 1"), "event.max_bytes", 1, [">= 64"]),
    (with_line("event", "time_format = 'unix'"), "event.time_format", "unix", ["s, ms, us, rfc3339", "strptime"]),
    (with_line("event", "format = 'delimited'"), "event.columns", (), ["names of its columns"]),
    (with_line("event", "columns = ['a']"), "event.columns", ("a",), ["delimited"]),
    (with_line("event", "delimiter = ';'"), "event.delimiter", ";", ["delimited"]),
    (with_line("event", "delimiter = ';;'"), "event.delimiter", ";;", ["<= 1"]),
    (FULL.replace('";"', "'\"'"), "event.delimiter", '"', ["quote", "line break"]),
    (FULL.replace('";"', '"\\n"'), "event.delimiter", "\n", ["quote", "line break"]),
    (FULL.replace('source = "p"', 'source = "q"'), "fields[1].source", "q", ["click, at, w, u, p, uid"]),
    (FULL.replace('label = "click"', 'label = "y"'), "event.label", "y", ["click, at, w, u, p, uid"]),
    (FULL.replace('time = "at"', 'time = "t"'), "event.time", "t", ["click, at"]),
    (FULL.replace('weight = "w"', 'weight = "x"'), "event.weight", "x", ["click, at"]),
    (FULL.replace('id = "uid"', 'id = "x"'), "event.id", "x", ["click, at"]),
    (FULL.replace('missing = "feature"', "multi = true"), "fields.multi", True, ["one value a field"]),
    (FULL.replace('"uid"]', '"w"]'), "event.columns", ("click", "at", "w", "u", "p", "w"), ["name of its own"]),
    (MINIMAL + "[quality]\nslices = ['user', 'site']", "quality.slices[1]", "site", ["the name of a field: user"]),
    (MINIMAL + "[quality]\nslices = ['user', 'user']", "quality.slices[1]", "user", ["each field once"]),
    (MINIMAL + "[guard]\nmax_calibration_factor = 1", "guard.max_calibration_factor", 1, ["> 1"]),
    ("name = 'a'\nevent = {format = 'avazu'}\nfields = [{name = 'C1'}]", "event.label", "label", ["click", "hour"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "key", "value", "words"), WRONG, ids=[f"{w[1]}={str(w[2])[:20]}" for w in WRONG])
def test_a_wrong_one_names_key_value_and_what_is_allowed(text, key, value, words):
    error = refused(text)
    assert (error.key, error.value) == (key, value)
    for word in words:
        assert word in error.allowed


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "key", ["optimizer.step", "lifetime.ttl_s", "lifetime.admission", "event.max_skew_s", "event.max_weight"]
)
def test_numbers_are_finite(key, number):
    table, name = key.split(".")
    assert refused(with_line(table, f"{name} = {number}")).key == key


def test_broken_toml_names_the_file_and_the_line():
    error = refused("name = \n")
    assert error.key == "ads.toml"
    assert "line 1" in error.allowed


def test_every_literal_lists_its_choices():
    # A choice that is added to a type, but not to the message, would be noticed here.
    for table, kind in (("event", specification.Event), ("model", specification.Model),
                        ("optimizer", specification.Optimizer)):  # fmt: skip
        for field in msgspec.structs.fields(kind):
            if "Literal" in str(field.type):
                choices = re.findall(r"'([^']*)'", str(field.type))
                assert choices
                raw = {"name": "a", "fields": [{"name": "x"}], table: {field.name: "never"}}
                with pytest.raises(SettingError) as caught:
                    from_builtins(raw)
                assert caught.value.allowed == "one of " + ", ".join(choices)


@pytest.mark.parametrize("text", [MINIMAL, FULL])
def test_what_is_stored_is_read_back(text):
    spec = parse(text)
    assert from_builtins(encode(spec)) == spec
    assert from_builtins(msgspec.json.decode(msgspec.json.encode(encode(spec)))) == spec
    assert from_builtins(encode(spec)).digest == spec.digest


def leaf_changes():
    """(key, changed spec) for every setting of FULL that can be changed alone."""
    other = {
        "name": "bids", "generation": "2", "event.label": "uid", "event.time": None, "event.time_format": "us",
        "event.id": None, "event.weight": None, "event.max_skew_s": 1.0, "event.max_bytes": 64, "event.max_weight": 1.0,
        "event.delimiter": ",", "fields[0].name": "u", "fields[0].source": "p", "fields[0].missing": "skip",
        "fields[0].transform": "log", "fields[0].bins_per_e": 1.0, "fields[1].transform": None, "model.k": 4,
        "model.bias": False, "model.linear": False, "model.base_rate": 0.5, "model.start": 0.5, "model.seed": 2,
        "model.normalize": True, "model.max_rows": 2048, "optimizer.step": 1.0, "optimizer.linear_step": 1.0,
        "optimizer.n0": 1.0, "lifetime.ttl_s": 0.0, "commit.interval_ms": 1000,
    }  # fmt: skip
    for key, value in other.items():
        raw = copy.deepcopy(encode(parse(FULL)))
        owner = raw
        *path, last = re.findall(r"[a-z_0-9]+", key)
        for part in path:
            owner = owner[int(part)] if part.isdigit() else owner[part]
        assert owner[last] != value
        owner[last] = value
        yield key, value, from_builtins(raw)


@pytest.mark.parametrize(("key", "value", "changed"), list(leaf_changes()), ids=[c[0] for c in leaf_changes()])
def test_a_change_is_shown_and_makes_another_digest_unless_it_may_change_in_place(key, value, changed):
    stored = parse(FULL)
    before = dict(flatten(stored))[key]
    if key in MUTABLE:
        assert differences(stored, changed) == []
        assert changed.digest == stored.digest
    else:
        assert differences(stored, changed) == [f"{key}: {before!r} -> {value!r}"]
        assert changed.digest != stored.digest


def test_what_may_change_in_place_is_named_in_the_specification():
    assert {key for key, _ in flatten(parse(FULL))} >= MUTABLE
    assert {"optimizer.step", "lifetime.ttl_s", "commit.interval_ms"} <= MUTABLE


def test_fields_added_moved_and_taken_away_are_shown():
    stored = parse(MINIMAL + '[[fields]]\nname = "ad"\n')
    assert "fields[1].name: 'ad' -> 'absent'" in differences(stored, parse(MINIMAL))
    assert "fields[1].name: 'absent' -> 'ad'" in differences(parse(MINIMAL), stored)
    moved = parse('name = "ads"\n[[fields]]\nname = "ad"\n[[fields]]\nname = "user"\n')
    assert differences(stored, moved) == ["fields[0].name: 'user' -> 'ad'", "fields[1].name: 'ad' -> 'user'"]
    assert len({spec.digest for spec in (stored, moved, parse(MINIMAL))}) == 3


def test_equal_specifications_do_not_differ():
    assert differences(parse(FULL), parse(FULL.replace("86400", "86400.0"))) == []
    assert re.fullmatch("[0-9a-f]{16}", parse(FULL).digest)


def test_specifications_are_frozen_and_hashable():
    spec = parse(FULL)
    with pytest.raises(AttributeError):
        spec.name = "other"
    assert len({spec, parse(FULL), parse(MINIMAL)}) == 2


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([field.name for field in msgspec.structs.fields(Spec)] + ["k", "format", "multi", "x"]),
            inner,
            max_size=4,
        ),
        max_leaves=12,
    )
)
def test_whatever_the_store_gives_is_a_specification_or_a_setting_error(raw):
    with contextlib.suppress(SettingError):
        assert isinstance(from_builtins(raw), Spec)
