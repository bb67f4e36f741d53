"""A short piece of `make chaos` for every build, the long one behind `slow`."""

import pytest
from chaos import BITS, COUNTS, one_run


@pytest.mark.parametrize("plan", [COUNTS, BITS], ids=lambda plan: plan.name)
@pytest.mark.parametrize("seconds", [40.0, pytest.param(300.0, marks=pytest.mark.slow)])
@pytest.mark.timeout(900)
def test_every_event_counts_once(tmp_path, plan, seconds):
    figures = one_run(tmp_path / "run", plan, seconds, seed=11, rate=1000.0)
    print(figures)
    assert figures["recovered"] > 2
    assert figures["events"] > 5000
