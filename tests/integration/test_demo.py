"""`make demo` as a user runs it: to its end, and interrupted at any moment; nothing is left behind either way."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from workbench import CLEAN, REPOSITORY


def left_running(directory):
    """Command lines of processes that work in a directory of the demo."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if str(directory) in line:
                found.append(line)
    return found


@pytest.fixture
def demo(tmp_path):
    def start():
        return subprocess.Popen(
            [sys.executable, "-m", "deploy.local.demo"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY,
            env={**CLEAN, "TMPDIR": str(tmp_path), "COLUMNS": "120"}, start_new_session=True,
        )  # fmt: skip

    return start


def test_it_learns_serves_and_leaves_with_0(demo, tmp_path):
    began = time.monotonic()
    with demo() as process:
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert err == ""
    last = out[out.rindex("learned") :]
    logloss, base, oracle = map(
        float, re.search(r"logloss +([\d.]+) \(base rate ([\d.]+), oracle ([\d.]+)", last).groups()
    )
    assert oracle < logloss < base
    assert (base - logloss) / (base - oracle) > 0.5, "most of the way to the oracle"
    sent, failed = map(int, re.search(r"requests +(\d+) of 50 rows each, (\d+) failed", last).groups())
    assert sent > 20
    assert failed == 0
    assert float(re.search(r"are ([\d.]+) s old", last)[1]) < 30
    assert list(tmp_path.iterdir()) == []
    assert left_running(tmp_path) == []
    assert time.monotonic() - began < 240


@pytest.mark.parametrize("after_s", [0.3, 2.0, 5.0, 12.0])
def test_ctrl_c_is_clean_at_any_moment(demo, tmp_path, after_s):
    with demo() as process:
        time.sleep(after_s)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
    assert left_running(tmp_path) == []
