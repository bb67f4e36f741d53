"""At its bound a table's resident memory is flat, however many features come and go. In a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import json, os, sys
import numpy as np
from ctr.events.batch import Batch
from ctr.model import Model
from ctr.spec import Field, Lifetime, Spec
from ctr.spec import Model as ModelSpec

max_rows, fills = int(sys.argv[1]), int(sys.argv[2])
F, n = 39, 256

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

spec = Spec(name="m", fields=tuple(Field(name=str(f)) for f in range(F)), model=ModelSpec(max_rows=max_rows),
            lifetime=Lifetime(ttl_s=86400.0))
model, rng = Model(spec), np.random.default_rng(0)
at, created, most = [resident()], 0, 0
for i in range(2 * fills * max_rows // (F * n)):  # half of the features are new
    few, new = rng.integers(0, 200, (n, F)), rng.integers(2**40, 2**62, (n, F))
    keys = np.where(rng.random((n, F)) < 0.5, few, new).astype(np.uint64)
    keys = keys * np.uint64(0x9E3779B97F4A7C15) | np.uint64(1 << 20)
    batch = Batch(keys.ravel(), np.ones(n * F, np.float32), np.tile(np.arange(F, dtype=np.uint8), n),
                  np.arange(n + 1, dtype=np.int64) * F, (rng.random(n) < 0.1).astype(np.float32),
                  np.ones(n, np.float32),
                  1.7e9 + 60.0 * i + np.zeros(n), np.zeros(n, np.int32), i * n + np.arange(n), True)
    model.learn_many(batch)
    if i % 4 == 0:
        model.take_dirty(), model.take_gone()
    most = max(most, model.rows)
    if model.counts.rows_created > (created + 1) * max_rows:
        created += 1
        at.append(resident())
print(json.dumps({"resident": at, "rows": model.rows, "most": most, **{
    name: getattr(model.counts, name) for name in ("rows_created", "rows_evicted", "rows_refused")}}))
"""


def run(max_rows, fills):
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc")
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(max_rows), str(fills)],
        cwd=root, capture_output=True, text=True, timeout=1200, check=False,
        # A cut's arrays go back to the system when they are freed: else glibc keeps them, or not, as the heap happens
        # to lie, and one cut is half the size of this table.
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 20)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(max_rows, fills):
    seen = run(max_rows, fills)
    assert seen["most"] <= max_rows
    assert seen["rows_evicted"] > (fills - 3) * max_rows
    assert seen["rows_refused"] == 0
    resident, table = seen["resident"], max_rows * (2 * 160 * 4 + 32)  # 39 fields of k = 4 are 160 floats, padded
    assert resident[1] - resident[0] > table / 2, "it was filled"
    # from the fifth fill on all rows are touched and every kernel is loaded: no growth but the allocator's noise
    assert max(resident[5:]) - resident[5] < 0.02 * table + (2 << 20)
    return seen


def test_resident_memory_is_flat_at_the_bound():
    check(1 << 15, 12)


@pytest.mark.slow
def test_resident_memory_is_flat_over_a_long_run():
    check(1 << 18, 100)
