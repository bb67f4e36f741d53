import re

import pytest

from ctr.errors import SettingError
from ctr.events import feature_key
from workers import check as check_module
from workers.check import check
from workers.lifecycle import ExitCode

SPEC = """
name = "ads"
event = { time = "at", weight = "w" }
[[fields]]
name = "user"
source = "user.id"
[[fields]]
name = "price"
transform = "log"
[[fields]]
name = "tags"
multi = true
scale = "sqrt"
"""
GOOD = b'{"label":1,"at":86400,"w":0.5,"user":{"id":7},"price":100.5,"tags":["b","a","b",null]}\n'


@pytest.fixture
def run(tmp_path):
    def run(sample, spec=SPEC, events=5):
        (tmp_path / "spec.toml").write_text(spec)
        (tmp_path / "sample").write_bytes(sample)
        out = []
        code = check(tmp_path / "spec.toml", tmp_path / "sample", events, out.append)
        return code, "\n".join(out)

    return run


def cells(text, first):
    """Cells of the table row that begins with a word."""
    (line,) = [line for line in text.splitlines() if line.split()[:1] == [first]]
    return re.split(r"  +", line.strip())


def test_an_event_is_shown_as_it_is_learned(run):
    code, text = run(b"\n" + GOOD)
    assert code == ExitCode.OK
    assert "Line 2: label 1, weight 0.5, time 1970-01-02T00:00:00+00:00" in text
    shown = text.partition("Fields")[0]
    assert cells(shown, "user") == ["user", "7", "'7'", f"{feature_key('user', 7):016x}", "1"]
    price = ["price", "100.5", "'13'", f"{feature_key('price', 13):016x}", "1", "price in [75.2, 105.3)"]
    assert cells(shown, "price") == price  # e^(13/3) - 1 = 75.2, e^(14/3) - 1 = 105.3
    b, a = [re.split(r"  +", line.strip()) for line in shown.splitlines() if line.split()[:1] == ["tags"]]
    assert b[2:] == ["'b'", f"{feature_key('tags', 'b'):016x}", "1.1547"]  # 2 of 3 elements: 2 / sqrt 3
    assert a[2:] == ["'a'", f"{feature_key('tags', 'a'):016x}", "0.57735"]
    by_field = text.partition("Fields")[2]
    assert [cells(by_field, name)[2] for name in ("user", "price", "tags")] == ["1 (100.0 %)"] * 3
    assert "1 events, 0 refused. Positive labels: 1 (100.0 %)" in text


def test_refusals_are_counted_with_the_first_of_each(run):
    bad = [b'{"label":7}\n', b"{\n", b'{"label":9}\n', b"\xff\n", b'{"label":0,"at":1e12,"w":1}\n']
    code, text = run(GOOD * 6 + b"\r\n" + b"".join(bad), events=0)
    assert code == ExitCode.OK
    assert "12 lines read: 6 events, 5 refused" in text
    assert cells(text, "label")[:4] == ["label", "2", "line 8", "$.label"]
    assert cells(text, "syntax")[:4] == ["syntax", "1", "line 9", "$"]
    assert cells(text, "encoding")[:4] == ["encoding", "1", "line 11", "$"]
    assert cells(text, "time")[:4] == ["time", "1", "line 12", "$.at"]
    assert "Line 1:" not in text


def test_a_field_that_is_never_there_is_named(run):
    spec = SPEC + '[[fields]]\nname = "brand"\nsource = "brnd"\n[[fields]]\nname = "site"\nmissing = "feature"\n'
    _, text = run(GOOD, spec)
    assert "never present: brnd, site." in text
    assert cells(text.partition("Fields")[0], "brand")[2] == "(missing)"
    assert cells(text.partition("Fields")[0], "site")[3] == f"{feature_key('site', None):016x}"


def test_a_sample_that_does_not_fit_is_a_wrong_setting(run):
    assert run(b'{"clicked":1}\n' * 3)[0] == ExitCode.SETTING
    assert run(b"")[0] == ExitCode.SETTING
    assert run(GOOD + b"{}\n")[0] == ExitCode.SETTING  # as many refused as read
    assert run(GOOD * 2 + b"{}\n")[0] == ExitCode.OK


def test_line_numbers_go_on_over_blocks(run, monkeypatch):
    monkeypatch.setattr("workers.sources.files.BLOCK_BYTES", 256)
    _, text = run(GOOD * 20 + b"{}\n" + GOOD, events=22)
    assert cells(text, "label")[2] == "line 21"
    assert "Line 22: label 1" in text


def test_a_long_sample_is_not_read_to_its_end(run, monkeypatch):
    monkeypatch.setattr(check_module, "MAX_LINES", 10)
    monkeypatch.setattr("workers.sources.files.BLOCK_BYTES", 4 * len(GOOD))
    assert "12 lines read: 12 events" in run(GOOD * 50)[1]


def test_what_cannot_be_read_is_a_wrong_setting(run, tmp_path):
    (tmp_path / "spec.toml").write_text(SPEC)
    for sample in (tmp_path / "none", tmp_path):
        with pytest.raises(SettingError, match=re.escape(str(sample))):
            check(tmp_path / "spec.toml", sample, 1, print)
    with pytest.raises(SettingError, match="none"):
        check(tmp_path / "none", tmp_path / "spec.toml", 1, print)
    with pytest.raises(SettingError, match=r"event\.labl"):
        run(GOOD, SPEC.replace("time =", "labl ="))
