"""The log of answers: what is kept, what is dropped, and that no request ever waits."""

import msgspec
import pytest

from ctr import spec as specification
from ctr.errors import SettingError
from ctr.serving.asgi import json_response
from workers import answers
from workers.answers import Answered, AnswerLog, Place, identity_of

SPEC = specification.parse('name = "ads"\nfields = [{name = "user"}]\n[event]\nid = "meta.id"')


def answer(*predictions, staleness="1.500"):
    """What the server says."""
    said = {"x-ctr-model": "ads@1", "x-ctr-version": "7-a", "x-ctr-staleness-seconds": staleness}
    headers = tuple((name.encode(), value.encode()) for name, value in said.items())
    return json_response({"predictions": predictions}, headers=headers)


def body(*rows):
    return msgspec.json.encode({"instances": rows})


def logged(path):
    return [msgspec.json.decode(line, type=Answered) for line in path.read_bytes().splitlines()]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("kafka://a:9092,b:9092/ads.answers", Place("a:9092,b:9092", "ads.answers")),
        ("/var/log/answers.jsonl", Place(path="/var/log/answers.jsonl")),
    ],
)
def test_a_place_is_a_topic_or_a_file(text, place):
    found = Place.read(text)
    assert (found.bootstrap, found.topic, found.path and str(found.path)) == (place.bootstrap, place.topic, place.path)


@pytest.mark.parametrize("text", ["kafka://a:9092", "kafka://a:9092/", "kafka:/a/b", "kafka://a:9092/to pic"])
def test_a_wrong_place_is_refused(text):
    with pytest.raises(SettingError, match=r"--answers = .*kafka://HOST:PORT"):
        Place.read(text)


def test_each_row_with_an_id_is_a_line(tmp_path):
    log = AnswerLog(Place(path=tmp_path / "a"), share=1.0)
    rows = {"user": 1, "meta": {"id": 17}}, {"user": 2}, {"user": 3, "meta": {"id": "x"}}
    log.offer(SPEC, body(*rows), answer(0.25, 0.5, 0.75))
    log.stop()
    found = logged(tmp_path / "a")
    assert [(one.id, one.p, one.row) for one in found] == [("17", 0.25, rows[0]), ("x", 0.75, rows[2])]
    assert {(one.model, one.version, one.staleness_s) for one in found} == {("ads@1", "7-a", 1.5)}
    assert log.counts == {"written": 2, "without_id": 1, "dropped": 0}


def test_a_sample_is_as_large_as_asked_for(tmp_path):
    log = AnswerLog(Place(path=tmp_path / "a"), share=0.25)
    for i in range(800):
        log.offer(SPEC, body({"meta": {"id": i}}), answer(0.5))
    log.stop()
    assert 130 < len(logged(tmp_path / "a")) < 280  # five standard deviations of 200


def test_what_does_not_fit_is_dropped_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "QUEUE", 3)
    log = AnswerLog(Place(path=tmp_path / "a"), share=1.0)
    for i in range(5):
        log.offer(SPEC, body({"meta": {"id": i}}), answer(0.5))
    log.stop()
    assert [one.id for one in logged(tmp_path / "a")] == ["0", "1", "2"]
    assert (log.counts["written"], log.counts["dropped"]) == (3, 2)


def test_an_infinite_staleness_can_be_written(tmp_path):
    log = AnswerLog(Place(path=tmp_path / "a"), share=1.0)
    log.offer(SPEC, body({"meta": {"id": 1}}), answer(0.5, staleness="inf"))
    log.stop()
    assert logged(tmp_path / "a")[0].staleness_s is None


def test_a_file_that_cannot_be_written_is_told_at_the_start(tmp_path):
    with pytest.raises(SettingError, match="a file that can be written"):
        AnswerLog(Place(path=tmp_path / "no" / "a"), share=1.0)


def test_an_id_may_be_nested_and_any_text_or_number():
    assert identity_of({"meta": {"id": 3}}, "meta.id") == identity_of({"meta.id": "3"}, "meta.id") == "3"
    assert identity_of({"meta": 3}, "meta.id") is None
    assert identity_of({"id": 3}, None) is None
