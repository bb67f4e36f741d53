"""What a template says of an event: the bytes between its values, and what becomes of each."""

import numpy as np
import pytest

from ctr import spec as specification
from ctr.events.plan import compile_plan
from ctr.events.template import NO_TEMPLATE, columns_of, learn
from ctr.kernels.scan.template import KEY, LOG_KEY, PLAIN_KEY, SKIP, SPAN

FIELDS = [
    {"name": "a"}, {"name": "n", "transform": "log"}, {"name": "e", "transform": "bins", "edges": [1.0]},
    {"name": "twice"}, {"name": "again", "source": "twice"}, {"name": "deep", "source": "o.b"},
    {"name": "x", "cross": ["a", "n"]},
]  # fmt: skip


def learned(line, fields=FIELDS, **event):
    spec = specification.from_builtins({"name": "t", "fields": fields, "event": event})
    return learn(line, spec, compile_plan(spec)), columns_of(spec)


def gaps(template):
    data = template.gaps.tobytes()
    return [data[step["gap"] :][: step["length"]] for step in template.steps]


def test_bytes_between_values_and_what_becomes_of_them():
    line = b'{"label": 1, "a":"x", "n":3,"e":2,"twice":"t", "o":{"z":null,"b":true},"u":"\xc3\xa9"}'
    template, columns = learned(line)
    assert gaps(template) == [
        b'{"label": ', b', "a":', b', "n":', b',"e":', b',"twice":', b', "o":{"z":', b',"b":', b'},"u":', b"}",
    ]  # fmt: skip
    actions = [SPAN, PLAIN_KEY, LOG_KEY, KEY, SPAN, SKIP, PLAIN_KEY, SKIP]
    assert template.steps["action"].tolist()[:-1] == actions
    assert template.steps["target"].tolist()[:5] == [columns.index("label"), 0, 1, 2, columns.index("twice")]
    assert template.steps["target"][6] == 5
    assert template.steps["free"].tolist() == [0, 1, 1, 1, 1, 0, 1, 0, 0]
    assert template.rest.tolist() == [3, 4, 6]
    assert sorted(columns[c] for c in template.spanned) == ["label", "twice"]


def test_a_field_on_the_envelopes_column_is_made_of_its_span():
    template, _ = learned(b'{"label":1,"w":2}', fields=[{"name": "w"}], weight="w")
    assert template.steps["action"].tolist()[:2] == [SPAN, SPAN]
    assert template.rest.tolist() == [0]


def test_absent_features_are_keys_from_the_start():
    fields = [{"name": "a", "missing": "feature"}, {"name": "b"}]
    template, _ = learned(b'{"label":1,"a":2,"b":3}', fields=fields)
    spec = specification.from_builtins({"name": "t", "fields": fields})
    assert template.absent.tolist() == [int(compile_plan(spec).fields["absent"][0]), 0]
    assert template.absent[0] != 0


@pytest.mark.parametrize("line", [
    b'{"label":1,"a":"\\n"}', b'{"label":1,"u":[1]}', b'{"label":1,"o":null}', b'{"label":1,"o":"x"}',
])  # fmt: skip
def test_what_gives_none(line):
    assert learned(line)[0] is None


def test_keys_of_unread_objects_are_no_columns():
    template, _ = learned(b'{"label":1,"q":{"a":1,"o":{"b":2}},"o":{"q":{"b":3},"b":4},"o.b.c":5}')
    assert template.steps["action"].tolist() == [SPAN, SKIP, SKIP, SKIP, PLAIN_KEY, SKIP, SKIP]


def test_no_template_has_the_types_of_one():
    template, _ = learned(b'{"label":1,"a":2}')
    for name, empty in NO_TEMPLATE._asdict().items():
        part = getattr(template, name)
        assert (part.dtype, part.ndim, part.flags.writeable) == (empty.dtype, empty.ndim, empty.flags.writeable)
    assert isinstance(template.steps, np.ndarray)
