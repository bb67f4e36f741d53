"""On a terminal the trainer shows a progress bar; what it looks like in a pipe is in test_train."""

import os
import pty
import select
import subprocess
import sys
import time

from workbench import CLEAN, REPOSITORY

TOML = 'name = "ads"\nfields = [{ name = "user" }]\n'


def test_a_bar_is_drawn_and_gone_at_the_end(redis_url, tmp_path):
    (tmp_path / "ads.toml").write_text(TOML)
    (tmp_path / "events.jsonl").write_text('{"user": "u", "label": 1}\n{"user": "v", "label": 0}\n' * 60_000)
    leader, follower = pty.openpty()
    arguments = ["train", tmp_path / "ads.toml", "--from", tmp_path / "events.jsonl", "--redis", redis_url, "--create"]
    process = subprocess.Popen(
        [sys.executable, "-m", "workers.cli", *map(str, arguments)],
        stdin=subprocess.DEVNULL, stdout=follower, stderr=follower, cwd=REPOSITORY,
        env={**CLEAN, "TERM": "xterm", "COLUMNS": "120"},
    )  # fmt: skip
    os.close(follower)
    shown, until = b"", time.monotonic() + 120
    while time.monotonic() < until:
        if select.select([leader], [], [], 0.2)[0]:
            try:
                shown += os.read(leader, 1 << 16)
            except OSError:
                break  # the other end is closed: all is read
    os.close(leader)
    assert process.wait(30) == 0
    assert b"events" in shown
    assert b"logloss" in shown
    assert b"\x1b[" in shown, "drawn in place"
    assert b'{"' not in shown, "no JSON on a terminal"
