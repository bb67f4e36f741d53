"""What a trainer tells of quality: declared metrics alone, and no more series than slices allow."""

import numpy as np
from prometheus_client import generate_latest

from ctr import metrics
from ctr import spec as specification
from ctr.events import Batch
from ctr.quality import Progressive

VALUES = 16
SPEC = specification.parse(f"""
name = "ads"
fields = [{", ".join(f'{{ name = "f{i}" }}' for i in range(5))}]
[quality]
slices = ["f0", "f1", "f2", "f3"]
slice_values = {VALUES}
""")
SLICES = 1 + 4 * (VALUES + 1)


def batch(n, seed):
    rng = np.random.default_rng(seed)
    keys = (rng.integers(0, 500, (n, 5)) + 1000 * (1 + np.arange(5))).astype(np.uint64)
    return Batch(
        keys.ravel(), np.ones(5 * n, np.float32), np.tile(np.arange(5, dtype=np.uint8), n), 5 * np.arange(n + 1),
        (rng.random(n) < 0.2).astype(np.float32), np.ones(n, np.float32), np.zeros(n), np.zeros(n, np.int32),
        np.arange(n), True,
    )  # fmt: skip


def test_series_are_bounded_whatever_values_a_field_has():
    quality = Progressive(SPEC)
    for seed in range(12):
        events = batch(2000, seed)
        quality.add(events, np.full(2000, 0.2, np.float32))
        quality.settle()
        quality.windows.slices.name({int(key): f"f={key}" for key in events.keys.tolist()})
    text = generate_latest(metrics.registry(metrics.QUALITY + metrics.GUARD, quality.numbers)).decode()
    lines = [line for line in text.splitlines() if line.startswith("ctr_")]
    by_slice = [line for line in lines if 'slice="' in line]
    assert len(by_slice) == 8 * 2 * SLICES, "eight figures, two windows"
    assert len(lines) - len(by_slice) <= 2 * 3 * 10 + 20, "calibration bins, drift and guard"
    assert 'ctr_guard_limit{check="entropy_rise"} 0.03' in lines
    assert 'ctr_window_events{slice="all",view="trainer",window="events"} 24000.0' in lines
