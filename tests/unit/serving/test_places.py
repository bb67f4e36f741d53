"""Ids found in a request's bytes are those of a dictionary; answers written by hand are the JSON of their numbers."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr.events.requests import RequestScanner
from ctr.serving.places import PlaceIndex, RankingWriter
from ctr.serving.questions import Ranking
from ctr.spec import parse

SCANNER = RequestScanner(parse('name = "ads"\nfields = [{ name = "user" }]'))


def find(index, text):
    """Places of the ids in this JSON list; None where it is left to who decodes."""
    asked = SCANNER.scan_ranking(b'{"context":{},"candidates":%s}' % text, 0.0, max_rows=9, ids=index.table)
    if asked is not None:
        assert asked.known == (asked.places.min() >= 0)
    return None if asked is None else asked.places.tolist()


IDS = st.text(st.characters(exclude_categories=("Cs",)), max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(IDS, st.booleans()), max_size=60), st.lists(IDS, max_size=20), st.integers(0, 3))
def test_finds_what_a_dictionary_finds(steps, others, blanks):
    index, held = PlaceIndex(), {}
    for place, (identity, stays) in enumerate(steps):
        held.pop(identity, None)
        if stays:
            held[identity] = place
        index.put({identity: held.get(identity, -1)}, held)
    asked = [identity for identity, _ in steps] + others
    comma = "," + " " * blanks
    text = "[" + comma.join(json.dumps(one, ensure_ascii=False) for one in asked) + "]"
    found = find(index, text.encode())
    if not asked or "\\" in text or any(ord(c) < 32 for one in asked for c in one):
        assert found is None
    else:
        assert found == [held.get(identity, -1) for identity in asked]


@pytest.mark.parametrize("text", [
    "", "[", "[]", '["a"', '["a",', '["a",]', '["a" "b"]', '["a\\u0041"]', '["a\n"]', '["a', "[1]", '["a",{}]',
    '{"a":1}', '[["a"]]', '"a"', '["a",null]',
])  # fmt: skip
def test_what_is_not_plain_is_left_to_who_decodes(text):
    assert find(PlaceIndex(), text.encode()) is None


def test_grows_and_keeps_what_it_has():
    index, held = PlaceIndex(), {}
    for begin in range(0, 5000, 250):
        new = {f"ad-{i}": i for i in range(begin, begin + 250)}
        held |= new
        index.put(new, held)
    for turn in range(20000):  # one id that changes all the time takes no room
        held["ad-7"] = turn
        index.put({"ad-7": turn}, held)
    asked = [f"ad-{i}" for i in range(5200)]
    assert find(index, json.dumps(asked).encode()) == [held.get(identity, -1) for identity in asked]
    assert index.memory_bytes <= 16 << 15


@pytest.mark.parametrize("top", [None, 0, 1, 3, 5000])
def test_answers_are_the_json_of_a_ranking(top):
    scores = np.float32([0, 1, 0.5, 1e-7, 0.9999999, 1 / 3, 2e-12, 0.5, -0.0, 1 / 3])
    writer = RankingWriter()
    for part in (scores, scores[:1], scores[:0], np.random.default_rng(1).random(1200).astype(np.float32)):
        ranking, got = Ranking.of(part, top), json.loads(writer.body(part, top))
        assert got["order"] == ranking.order.tolist()
        assert got["unknown"] == []
        np.testing.assert_allclose(got["scores"], ranking.scores, rtol=0, atol=1e-12)


def test_many_places_are_written():
    scores = np.linspace(1, 0, 120_000, dtype=np.float32)
    got = json.loads(RankingWriter().body(scores, None))
    assert got["order"] == Ranking.of(scores, None).order.tolist()
