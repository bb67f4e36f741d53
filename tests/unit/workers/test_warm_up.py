"""Once a trainer is warm, nothing that it does with events is compiled any more: a take-over must not wait for it."""

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher
from workbench import SPEC, market_lines

from ctr import spec as specification
from ctr.events import Messages, open_reader
from ctr.model import Model
from ctr.quality import Progressive
from workers.trainer import warm_up


def messages(lines):
    lengths = np.array([len(line) for line in lines], np.int64)
    end, n = np.cumsum(lengths), len(lines)
    return Messages(b"".join(lines), end - lengths, end, np.zeros(n, np.int32), np.arange(n), np.full(n, 1.8e9))


@pytest.mark.parametrize("multi", ["false", "true"])
def test_a_warm_trainer_compiles_nothing(monkeypatch, multi):
    text = SPEC.replace('{ name = "site" }', f'{{ name = "site", multi = {multi} }}')
    spec = specification.parse(text + '\n[quality]\nslices = ["device"]')
    warm_up(spec)

    def compiled(self, *_arguments, **_options):
        raise AssertionError(f"{self.py_func.__module__}.{self.py_func.__name__} is compiled when it is needed")

    monkeypatch.setattr(Dispatcher, "_compile_for_args", compiled)
    reader, model, quality = open_reader(spec), Model(spec), Progressive(spec)
    lines = market_lines(30_000)
    for begin in range(0, len(lines), 5000):
        batch, refused = reader.read(messages(lines[begin : begin + 5000]))
        assert not refused
        quality.add(batch, model.learn_many(batch))
        quality.settle()
        assert quality.guard.judge(model.take_dirty()) == ()
        quality.guard.accept()
    assert quality.drift.window_events > 0
    assert quality.guard.armed
