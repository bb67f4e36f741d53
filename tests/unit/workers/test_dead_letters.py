"""Refusals become letters: reason, origin, payload, cut where it is long."""

import base64
import json

import numpy as np
import pytest

from ctr.errors import SettingError, TooManyRefusedError
from ctr.events.messages import Messages, Refusal
from workers.dead_letters import PAYLOAD_BYTES, FileDeadLetters, RefusalLimit


def refusals_of(*payloads):
    data = b"".join(payloads)
    end = np.cumsum([len(payload) for payload in payloads])
    begin = end - [len(payload) for payload in payloads]
    n = len(payloads)
    messages = Messages(data, begin, end, np.zeros(n, np.int32), np.arange(n), np.zeros(n))
    found = [Refusal(0, 10 + i, "label", "$.click", "is 7", int(begin[i]), int(end[i])) for i in range(n)]
    return found, messages


def test_letters_are_lines_with_reason_origin_and_payload(tmp_path):
    letters = FileDeadLetters(tmp_path / "x.dlq")
    letters.put(*refusals_of(b'{"click": 7}', b"\xff\xfe"), ["/data/a"])
    assert (tmp_path / "x.dlq").read_bytes() == b"", "safe only after the flush"
    letters.flush()
    first, second = map(json.loads, (tmp_path / "x.dlq").read_text().splitlines())
    assert first == {
        "reason": "label", "path": "$.click", "message": "is 7", "file": "/data/a", "offset": 10, "bytes": 12,
        "payload": '{"click": 7}',
    }  # fmt: skip
    assert base64.b64decode(second["payload_base64"]) == b"\xff\xfe"
    assert letters.counts == {"label": 2}
    letters.flush()
    assert len((tmp_path / "x.dlq").read_text().splitlines()) == 2, "each once"


def test_a_long_payload_is_cut_and_its_size_kept(tmp_path):
    letters = FileDeadLetters(tmp_path / "x.dlq")
    letters.put(*refusals_of(b"y" * (PAYLOAD_BYTES + 5)), ["/data/a"])
    letters.flush()
    letter = json.loads((tmp_path / "x.dlq").read_text())
    assert (len(letter["payload"]), letter["bytes"]) == (PAYLOAD_BYTES, PAYLOAD_BYTES + 5)


def test_a_file_that_cannot_be_written_is_known_at_the_start(tmp_path):
    with pytest.raises(SettingError, match="--dead-letters"):
        FileDeadLetters(tmp_path / "nowhere" / "x.dlq")


def bad(n):
    return refusals_of(*[b"x"] * n)[0] if n else []


def test_a_run_without_a_good_event_ends_it():
    limit = RefusalLimit(run=100, share=1)
    limit.count(0, bad(99))
    limit.count(1, bad(99))
    limit.count(0, bad(99))
    with pytest.raises(TooManyRefusedError, match=r"the last 100 events.*label, \$\.click: is 7"):
        limit.count(0, bad(1))


def test_a_share_of_a_full_window_ends_it_and_a_smaller_one_does_not():
    limit = RefusalLimit(run=0, share=0.5)
    for _ in range(100):
        limit.count(600, bad(400))

    def a_bad_stretch():
        for _ in range(20):
            limit.count(100, bad(900))

    with pytest.raises(TooManyRefusedError, match=r"of the last 1\d,\d{3} events"):
        a_bad_stretch()


def test_a_good_stretch_never_ends_it():
    limit = RefusalLimit(run=0, share=0.5)
    limit.count(1, bad(6000))
    limit.count(4000, [])
    limit.count(100, [])


def test_limits_can_be_switched_off():
    limit = RefusalLimit(run=0, share=1)
    for _ in range(30):
        limit.count(0, bad(1000))
