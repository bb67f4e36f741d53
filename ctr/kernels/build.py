"""Kernel modules: a name and its constants in, an imported and disk-cached Numba module out.

Numba's disk cache never hits for kernels made in closures, and hits stale code when a helper module changed. So a
kernel file is a template: its first lines are constants, between two marker comments. `load` writes a copy with other
constants into the cache directory, under a name with a hash of all kernel sources and of the instruction set, and
imports that: 0.2 s in a new process instead of seconds of compilation. Modules that no process has loaded for a week
are removed when a new one is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from types import ModuleType

import numba

from ctr.errors import SettingError
from ctr.kernels import simd

HERE = Path(__file__).parent
CONSTANTS = re.compile(r"^# constants\n.*?^# end of constants\n", re.MULTILINE | re.DOTALL)
UNUSED_S = 7 * 86400.0

TARGETS = {"portable": "x86-64", "avx2": "x86-64-v3"}
"""What LLVM calls the processors of the lesser instruction sets (on x86)."""


def use(isa: str) -> None:
    """Compile all kernels of this process for a lesser instruction set than the processor has.

    To be called before the first kernel is loaded; a process has one instruction set. Results differ in the last bits,
    and by the error of the reciprocal square root.

    Parameters
    ----------
    isa : {"portable", "avx2", "avx512"}

    Raises
    ------
    SettingError
        No such instruction set, or not on this processor.
    RuntimeError
        Kernels have been loaded already.
    """
    allowed = simd.ISAS[: simd.ISAS.index(simd.BEST_ISA) + 1]
    if isa not in allowed:
        raise SettingError("isa", isa, f"this processor has {', '.join(allowed)}")
    if isa == simd.ISA:
        return
    if load.cache_info().currsize:
        raise RuntimeError(f"kernels are already compiled for {simd.ISA}: choose before the first model is made")
    if isa != simd.BEST_ISA:  # read when Numba's code generator is made, at the first compilation
        numba.config.CPU_NAME, numba.config.CPU_FEATURES = TARGETS[isa], ""  # type: ignore[attr-defined]
    simd.use(isa)


@cache
def sources_hash(folder: str = "") -> str:
    """Of all that decides the machine code, except the processor, which Numba's own cache looks at.

    All sources of this room; for a kernel of a `folder` in it, those of the folder too.
    """
    digest = hashlib.sha256(f"{numba.__version__} {sys.version_info[:2]}".encode())
    for path in sorted(HERE.glob("*.py")) + (sorted((HERE / folder).glob("*.py")) if folder else []):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def cache_directory() -> Path:
    """``NUMBA_CACHE_DIR`` if it is set, else ``~/.cache/ctr/kernels``, else a directory for this process only."""
    chosen = numba.config.CACHE_DIR  # type: ignore[attr-defined]  # set at run time
    base = Path(chosen) if chosen else Path.home() / ".cache" / "ctr" / "kernels"
    try:
        base.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=base):
            return base
    except OSError:
        return Path(tempfile.mkdtemp(prefix="ctr-kernels-"))


def remove_unused(directory: Path) -> None:
    """Delete modules, with their machine code, that were last loaded more than `UNUSED_S` ago."""
    for path in directory.glob("ctr_*.py"):
        if path.stat().st_atime < time.time() - UNUSED_S:
            for file in directory.rglob(f"{path.stem}.*"):
                file.unlink(missing_ok=True)


def with_constants(text: str, name: str, constants: dict[str, int]) -> str:
    """A kernel file with other values for some of its constants."""
    block = CONSTANTS.search(text)
    lines = block[0] if block else ""
    for key, value in constants.items():
        lines, replaced = re.subn(rf"^{key} = .*$", f"{key} = {value}", lines, flags=re.MULTILINE)
        if replaced != 1:
            raise ValueError(f"kernel file {name}.py has no constant {key}")
    return text.replace(block[0], lines) if block else text


@cache
def load(name: str, **constants: int) -> ModuleType:
    """Kernel module `name`, for example ``load("ffm", F=39, KP=4)``; compiled at the first call of each function.

    One of a folder is named ``folder/name``.
    """
    suffix = "".join(f"_{key.lower()}{value}" for key, value in sorted(constants.items()))
    folder = name.rpartition("/")[0]
    module_name = f"ctr_{name.replace('/', '_')}{suffix}_{simd.ISA}_{sources_hash(folder)}"
    path = cache_directory() / f"{module_name}.py"
    if path.exists():
        with contextlib.suppress(OSError):  # last use; the time of change is part of Numba's key
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
    else:
        text = with_constants((HERE / f"{name}.py").read_text(), name, constants)
        with contextlib.suppress(OSError):
            remove_unused(path.parent)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
            file.write(text)
        os.replace(file.name, path)  # noqa: PTH105  atomic: another process may be writing the same
    module_spec = importlib.util.spec_from_file_location(module_name, path)
    if module_spec is None or module_spec.loader is None:
        raise ImportError(f"cannot import {path}")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_name] = module
    module_spec.loader.exec_module(module)
    return module
