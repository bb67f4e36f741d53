"""Kernel modules: constants, names, and a cache that hits in a new process and misses when a source changed."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ctr.kernels import build

ROOT = Path(build.__file__).parents[2]


def test_constants_reach_the_module():
    module = build.load("ffm", F=5, KP=8)
    assert (module.F, module.KP, module.P_, module.SLOTS) == (5, 8, 48, 6)
    assert build.load("ffm", F=5, KP=8) is module
    assert build.load("ffm", F=6, KP=8) is not module


def test_a_file_without_constants_takes_none():
    with pytest.raises(ValueError, match="no constant F"):
        build.load("lookup", F=3)


def run(tree, cache):
    """Compile or load `place` in a new process; returns (cache hits, cache misses)."""
    code = (
        "from ctr.kernels import build; import numpy as np; m = build.load('lookup');"
        "i = np.zeros(16, np.uint64); m.place(i, i.view(np.uint32), np.uint64(7), 1);"
        "s = m.place.stats; print(sum(s.cache_hits.values()), sum(s.cache_misses.values()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, check=True, capture_output=True, text=True,
        env={"NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(tree), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    return tuple(map(int, done.stdout.split()))


def test_the_cache_hits_in_a_new_process_and_misses_when_any_source_changed(tmp_path):
    tree, cache = tmp_path / "tree", tmp_path / "cache"
    shutil.copytree(ROOT / "ctr", tree / "ctr", ignore=shutil.ignore_patterns("__pycache__"))
    assert run(tree, cache) == (0, 1)
    assert run(tree, cache) == (1, 0)
    helper = tree / "ctr" / "kernels" / "simd.py"
    helper.write_text(helper.read_text() + "\n# changed\n")
    assert run(tree, cache) == (0, 1)


def test_modules_that_nobody_loads_go_with_their_machine_code(monkeypatch, tmp_path):
    """When a new one is written, those not loaded for a week are removed; what is loaded from the cache stays."""
    monkeypatch.setattr(build, "cache_directory", lambda: tmp_path)
    kept = build.load.__wrapped__("marks")
    old = time.time() - build.UNUSED_S - 3600
    compiled = tmp_path / "room_1234"
    compiled.mkdir()
    names = ("ctr_lr_avx512_0123.py", "room_1234/ctr_lr_avx512_0123.learn-1.py312.nbi",
             "room_1234/ctr_lr_avx512_0123.learn-1.py312.1.nbc")  # fmt: skip
    for path in (*(tmp_path / name for name in names), tmp_path / "mine.py", Path(kept.__file__)):
        path.touch()
        os.utime(path, (old, old))
    build.load.__wrapped__("marks")  # from the cache: used now
    assert (tmp_path / names[0]).exists()
    build.load.__wrapped__("lookup")  # written
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left & {*names, "mine.py"} == {"mine.py"}
    assert Path(kept.__file__).name in left


def test_without_a_writable_cache_a_private_one_serves(monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setattr(build.numba.config, "CACHE_DIR", str(blocked / "cache"))
    directory = build.cache_directory.__wrapped__()
    assert directory.is_dir()
    assert directory.name.startswith("ctr-kernels-")
    directory.rmdir()
