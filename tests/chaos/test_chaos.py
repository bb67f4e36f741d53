"""A short piece of `make chaos` for every build; ten minutes of it behind `slow`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("plan", ["counts", "bits"])
@pytest.mark.parametrize("minutes", [0.5, pytest.param(5.0, marks=pytest.mark.slow)])
@pytest.mark.timeout(1200)
def test_every_event_counts_once(plan, minutes):
    command = [sys.executable, str(Path(__file__).with_name("chaos.py")), "--only", plan, "--minutes", str(minutes)]
    done = subprocess.run([*command, "--seed", "11"], capture_output=True, text=True, timeout=1000, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout)
    assert figures["recovered"] > 2
    assert figures["events"] > 3000
