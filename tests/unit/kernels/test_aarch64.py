"""Kernels of the portable path as aarch64 assembly: they can be compiled for it, and no more than that is said.

Numba compiles for the machine it runs on; its optimised LLVM IR is taken as it was before this processor's own code was
made of it, and given to LLVM's AArch64 back end.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import pytest

from ctr.kernels import build

ROOT = Path(build.__file__).parents[2]
TRIPLE = "aarch64-unknown-linux-gnu"
LIBM = {"exp", "exp2"}
"""Of the sigmoid, in float64, and of AdaGrad's half-life: once an event."""
RUNTIME = ("Py", "NRT_", "numba_", "_ZN", "x86_atomic_", "mem")
"""What else is called: Python's and Numba's run time, and kernels."""

CODE = """
import json, re, sys
from ctr.kernels import build, simd
build.use("portable")
simd.FMA = True  # as on aarch64
from numba.core import codegen
texts, finalize = {}, codegen.CPUCodeLibrary._finalize_final_module
def keep(self):
    texts[self.name] = str(self._final_module)
    finalize(self)
codegen.CPUCodeLibrary._finalize_final_module = keep
from naive import Event, to_batch
from ctr import spec as s
from ctr.model import Model
family, k, optimizer, triple = sys.argv[1:]
spec = s.Spec(name="m", fields=tuple(s.Field(name=f"f{i}") for i in range(6)),
              model=s.Model(max_rows=1024, type=family, k=int(k)), optimizer=s.Optimizer(type=optimizer))
model = Model(spec)
model.warm_up()

import llvmlite.binding as llvm
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
machine = llvm.Target.from_triple(triple).create_target_machine(cpu="generic", opt=3)
found = {}
for name in ("learn", "predict", "resolve"):
    # Numba's reference counts come compiled for this processor already: to LLVM they are calls of some function
    text = texts[name].replace("@llvm.x86.atomic.", "@x86_atomic_").replace(" immarg", "")
    module = llvm.parse_assembly(re.sub("(?m)^target (datalayout|triple).*$", "", text))
    module.triple, module.data_layout = triple, str(machine.target_data)
    assembly = machine.emit_assembly(module)
    found[name] = [assembly.count("fmla\\tv"), sorted(set(re.findall(r"\\tbl\\t(\\S+)", assembly)))]
print(json.dumps(found))
"""


def has_target():
    try:
        llvm.initialize_all_targets()
        llvm.Target.from_triple(TRIPLE)
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize(
    ("family", "k", "optimizer"),
    [("ffm", 4, "adagrad"), *(pytest.param(*case, marks=pytest.mark.slow)
                              for case in (("ffm", 8, "ftrl"), ("fwfm", 8, "sgd"), ("fm", 8, "adagrad")))],
)  # fmt: skip
def test_kernels_become_neon_without_calls_of_libm(family, k, optimizer, tmp_path):
    if not has_target():
        pytest.skip(f"this llvmlite was built without {TRIPLE}")
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    done = subprocess.run(
        [sys.executable, "-c", CODE, family, str(k), optimizer, TRIPLE], capture_output=True, text=True, check=False,
        env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin", "NUMBA_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, (fused, calls) in found.items():
        assert {call for call in calls if not call.startswith(RUNTIME)} <= LIBM, (name, calls)
        if name != "resolve":
            assert fused >= 8, "a vector of sixteen floats is four of NEON's registers, and no kernel has but one"
