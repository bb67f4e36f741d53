"""A trainer compiles before it takes the lease: nothing that it does with an event is compiled later."""

import numpy as np
import pytest

from ctr import spec as specification
from ctr.events import Messages, open_reader
from ctr.kernels import build
from ctr.model import Model
from ctr.quality import Progressive
from workers.trainer import warm_up

KERNELS = {
    "quality/sums": ("add", "place"), "quality/judge": ("observe", "sum_all", "norms"),
    "quality/adwin": ("insert", "difference", "drop", "block"),
}  # fmt: skip


def compiled():
    return {
        (name, function): len(getattr(build.load(name), function).signatures)
        for name, functions in KERNELS.items()
        for function in functions
    }


@pytest.mark.parametrize("multi", ["false", "true"])
def test_events_after_the_warm_up_compile_nothing(multi):
    fields = f'[{{ name = "u" }}, {{ name = "a", multi = {multi} }}]'
    spec = specification.parse(f'name = "ads"\nfields = {fields}\n[quality]\nslices = ["a"]')
    warm_up(spec)
    before = compiled()
    assert min(before.values()) >= 1
    lines = [b'{"label": %d, "u": %d, "a": "x"}' % (i % 5 == 0, i % 50) for i in range(30_000)]
    data, end = b"\n".join(lines), np.cumsum([len(line) + 1 for line in lines]) - 1
    begin, at = np.append(0, end[:-1] + 1), np.arange(len(lines))
    batch, _ = open_reader(spec).read(Messages(data, begin, end, np.zeros_like(at, np.int32), at, at + 1e9))
    model, quality = Model(spec), Progressive(spec)
    for first in range(0, len(lines), 1000):
        part = batch.slice(first, first + 1000)
        quality.add(part, model.learn_many(part))
        quality.guard.judge(model.take_dirty())
        quality.guard.accept()
    assert quality.guard.armed
    assert compiled() == before
