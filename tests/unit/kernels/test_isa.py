"""The lesser instruction sets, each in a process of its own: they agree with the twin."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ctr.errors import SettingError
from ctr.kernels import build, simd

ROOT = Path(build.__file__).parents[2]
CODE = """
import sys
from ctr.kernels import build, simd
build.use(sys.argv[1])
import numpy as np
from naive import Event, Naive, to_batch
from ctr import spec as s
from ctr.model import Model
rng = np.random.default_rng(0)
for optimizer in ("adagrad", "ftrl"):
    spec = s.Spec(name="m", fields=tuple(s.Field(name=f"f{i}") for i in range(6)), model=s.Model(max_rows=1024),
                  optimizer=s.Optimizer(type=optimizer, step=0.05, linear_step=0.05))
    events = [Event([((f + 1 << 40) + int(rng.integers(4)) * 65537, f, 1.0) for f in range(6) if rng.random() > 0.2],
                    float(rng.integers(2))) for _ in range(200)]
    model, twin = Model(spec), Naive(spec)
    p = model.learn_many(to_batch(events, 6, dense=True))
    q = [twin.learn(event).p for event in events]
    assert model.kernel_path == sys.argv[1]
    print(float(np.abs(p - q).max()))
assembly = "".join(model._dense.learn.inspect_asm().values())
print("zmm" in assembly, "ymm" in assembly)
"""


@pytest.mark.parametrize("isa", simd.ISAS)
def test_each_instruction_set_follows_the_twin(isa, tmp_path):
    if simd.ISAS.index(isa) > simd.ISAS.index(simd.BEST_ISA):
        pytest.skip("not on this processor")
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    done = subprocess.run(
        [sys.executable, "-c", CODE, isa], capture_output=True, text=True, check=False,
        env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin", "NUMBA_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    adagrad, ftrl, registers = done.stdout.splitlines()
    # 200 steps move each of 6 linear weights by at most .05, with at most twice the error of rsqrt (1.5 2^-12)
    assert max(float(adagrad), float(ftrl)) < 200 * 6 * 0.05 * 2 * 1.5 * 2.0**-12 / 4
    if sys.platform == "linux" and simd.BEST_ISA != "portable":
        assert registers == {"avx512": "True True", "avx2": "False True", "portable": "False False"}[isa]


def test_an_instruction_set_is_chosen_before_the_first_kernel():
    build.use(simd.ISA)
    with pytest.raises(SettingError, match=f"isa = 'sse9': .*{simd.ISA}"):
        build.use("sse9")
    build.load("lookup")
    if simd.BEST_ISA != "portable":
        with pytest.raises(RuntimeError, match="before the first model"):
            build.use("portable")
