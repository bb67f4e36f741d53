"""What a context and its candidates mean: as full rows, merged; and which of them are the best."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr import spec as specification
from ctr.errors import EventError
from ctr.events import encode_rows
from ctr.serving.questions import QuestionEncoder, Ranking

DENSE = specification.parse("""
name = "ads"
fields = [{name = "user"}, {name = "site", missing = "feature"}, {name = "ad"}, {name = "brand", missing = "feature"},
          {name = "price", transform = "log"}, {name = "again", source = "ad"}]
""")
NESTED = specification.parse('name = "ads"\nfields = [{name = "user"}, {name = "ad", source = "ad.id"}]')
CROSS = specification.parse(
    'name = "ads"\nfields = [{name = "user"}, {name = "ad"}, {name = "x", cross = ["user", "ad"]}]'
)
MULTI = specification.parse('name = "ads"\nfields = [{name = "user"}, {name = "tags", multi = true}, {name = "ad"}]')

values = st.none() | st.integers(0, 3) | st.sampled_from(["", "x", 2.5])
rows = st.dictionaries(st.sampled_from(["user", "site", "ad", "brand", "price", "other"]), values)
numbers = rows.map(lambda row: {k: 1 if k == "price" and v == "x" else v for k, v in row.items()})


@settings(max_examples=300)
@given(numbers, st.lists(numbers, max_size=6))
def test_a_candidates_row_is_the_context_with_its_own_values(context, candidates):
    question = QuestionEncoder(DENSE).question(context, candidates, 1.0)
    expected = encode_rows(DENSE, [{**context, **candidate} for candidate in candidates], 1.0)
    np.testing.assert_array_equal(question.batch.keys, expected.keys)
    assert question.whole is None


@pytest.mark.parametrize(
    ("spec", "context", "candidates"),
    [
        (NESTED, {"user": 1, "ad": {"id": 3}}, [{"ad": {"id": 4}}, {}, {"ad": None}, {"ad.id": 7}]),
        (CROSS, {"user": 1, "ad": 2}, [{"ad": 4}, {"ad": 2}, {}, {"user": 5}]),
        (MULTI, {"user": 1, "tags": [1, 2]}, [{"ad": 4}, {"tags": [3]}, {"tags": []}]),
    ],
)
def test_what_cannot_be_taken_apart_is_encoded_in_full(spec, context, candidates):
    question = QuestionEncoder(spec).question(context, candidates, 1.0)
    expected = encode_rows(spec, [{**context, **candidate} for candidate in candidates], 1.0)
    for part in ("keys", "values", "fields", "start"):
        np.testing.assert_array_equal(getattr(question.batch, part), getattr(expected, part))
    assert len(question) == len(candidates)


@pytest.mark.parametrize(
    ("context", "candidates", "path"),
    [
        ({"user": {}}, [{"ad": 1}], r"\$\.context\.user"),
        ({"user": 1}, [{"ad": 1}, {"ad": {}}], r"\$\.candidates\[1\]\.ad"),
        ({"user": 1}, [{"ad": 1}, 7], r"\$\.candidates\[1\]"),
        ({"price": "dear"}, [{"price": 1}, {}], r"\$\.context\.price"),
    ],
)
def test_errors_say_where(context, candidates, path):
    with pytest.raises(EventError, match=path):
        QuestionEncoder(DENSE).question(context, candidates, 1.0, ("$.context", "$.candidates"))


def test_a_value_that_every_candidate_replaces_is_not_looked_at():
    question = QuestionEncoder(DENSE).question({"price": "dear"}, [{"price": 1}], 1.0)
    np.testing.assert_array_equal(question.batch.keys, encode_rows(DENSE, [{"price": 1}], 1.0).keys)


@given(st.lists(st.integers(0, 5), max_size=30), st.none() | st.integers(0, 40))
def test_the_best_first_and_of_equals_the_first(scores, top):
    scores = np.array(scores, np.float32)
    expected = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:top]
    ranking = Ranking.of(scores, top)
    assert ranking.order.tolist() == expected
    assert ranking.scores.tolist() == scores[expected].tolist() if expected else not len(ranking.scores)


def test_parts_are_bounded():
    encoder = QuestionEncoder(DENSE)
    for mask in range(1, 64):
        encoder.part(tuple(i for i in range(6) if mask >> i & 1))
    for field in range(6):
        encoder.part((field, 0))
    assert len(encoder._parts) <= 64


def test_the_order_is_that_of_a_stable_sort():
    random = np.random.default_rng(4)
    for scores in (random.random(500), random.integers(-3, 3, 200), [0.0, -0.0, 1e-40, -1e-40, 3e38, -3e38], [], [0.5]):
        scores = np.asarray(scores, np.float32)
        np.testing.assert_array_equal(Ranking.of(scores, None).order, np.argsort(-scores, kind="stable"))


def test_remembered_keys_are_those_of_the_exact_way():
    """Column by column from memory or row by row: equal, whatever kinds of values meet; bad ones are refused alike."""
    spec = specification.parse('name = "m"\nfields = [{name = "u"}, {name = "a"}, {name = "b", transform = "log"}]')
    questions = QuestionEncoder(spec)
    for candidates in (
        [{"a": "1", "b": 3}, {"a": "x", "b": 40}], [{"a": 1, "b": 3}] * 3, [{"a": True, "b": 3}, {"a": 1, "b": 4}],
        [{"a": 1.0, "b": "3"}, {"a": "1", "b": None}], [{"a": "1"}, {"b": 2}], [{"a": ""}, {"a": "1"}],
        [{"a": 2**64}, {"a": 1}],
    ):  # fmt: skip
        expected = encode_rows(spec, [{"u": 1, **candidate} for candidate in candidates], 0.0).keys
        for _ in range(2):
            question = questions.question({"u": 1}, candidates, 0.0)
            np.testing.assert_array_equal(question.batch.keys, expected)
    for bad in ([{"a": "x"}, {"a": "\ud800"}], [{"a": 1, "b": "x"}, {"a": 2, "b": "3"}]):
        for _ in range(2):
            with pytest.raises(EventError) as told:
                questions.question({"u": 1}, bad, 0.0, ("$.context", "$.candidates"))
            assert told.value.path.startswith(("$.candidates[0].b", "$.candidates[1].a"))


def test_memory_of_keys_is_bounded(monkeypatch):
    monkeypatch.setattr("ctr.serving.questions._REMEMBERED", 8)
    spec = specification.parse('name = "m"\nfields = [{name = "u"}, {name = "a"}]')
    questions = QuestionEncoder(spec)
    for begin in range(0, 60, 3):
        questions.question({"u": 1}, [{"a": f"{begin + i}"} for i in range(3)] + [{"a": "z" * 300}], 0.0)
    assert max(map(len, questions._memos.values())) <= 8
    assert not any(len(value) > 256 for value in questions._memos[1, str])
