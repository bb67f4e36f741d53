"""Refusals become letters: reason, origin, payload, cut where it is long."""

import base64
import json

import numpy as np
import pytest

from ctr.errors import SettingError
from ctr.events.messages import Messages, Refusal
from workers.dead_letters import PAYLOAD_BYTES, FileDeadLetters


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
