"""Kernel modules: a name and its constants in, an imported and disk-cached Numba module out.

Numba's disk cache never hits for kernels made in closures, and hits stale code when a helper module changed. So a
kernel file is a template: its first lines are constants, between two marker comments. `load` writes a copy with other
constants into the cache directory, under a name with a hash of all kernel sources and of the instruction set, and
imports that: 0.2 s in a new process instead of seconds of compilation.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType

import numba

from ctr.kernels import simd

HERE = Path(__file__).parent
CONSTANTS = re.compile(r"^# constants\n.*?^# end of constants\n", re.MULTILINE | re.DOTALL)


@cache
def sources_hash() -> str:
    """Of all that decides the machine code, except the processor, which Numba's own cache looks at."""
    digest = hashlib.sha256(f"{numba.__version__} {sys.version_info[:2]}".encode())
    for path in sorted(HERE.glob("*.py")):
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


@cache
def load(name: str, **constants: int) -> ModuleType:
    """Kernel module `name`, for example ``load("ffm", F=39, KP=4)``; compiled at the first call of each function."""
    suffix = "".join(f"_{key.lower()}{value}" for key, value in sorted(constants.items()))
    module_name = f"ctr_{name}{suffix}_{simd.ISA}_{sources_hash()}"
    path = cache_directory() / f"{module_name}.py"
    if not path.exists():
        text = (HERE / f"{name}.py").read_text()
        if constants:
            block = "".join(f"{key} = {value}\n" for key, value in sorted(constants.items()))
            text, replaced = CONSTANTS.subn(f"# constants\n{block}# end of constants\n", text)
            if replaced != 1:
                raise ValueError(f"kernel file {name}.py has no block of constants")
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
