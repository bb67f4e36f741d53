"""Two minutes of `make chaos` for every build; fifteen of it behind `slow`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SHORT, LONG = {"counts": 0.7, "cluster": 0.8, "bits": 0.5}, {"counts": 5.0, "cluster": 5.0, "bits": 5.0}


@pytest.mark.parametrize(
    ("plan", "minutes"), [*SHORT.items(), *(pytest.param(*run, marks=pytest.mark.slow) for run in LONG.items())]
)
@pytest.mark.timeout(1200)
def test_every_event_counts_once(plan, minutes):
    command = [sys.executable, str(Path(__file__).with_name("chaos.py")), "--only", plan, "--minutes", str(minutes)]
    done = subprocess.run([*command, "--seed", "11"], capture_output=True, text=True, timeout=1000, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout)
    assert figures["recovered"] > 2
    assert figures["events"] > 3000
