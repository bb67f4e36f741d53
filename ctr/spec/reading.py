"""TOML, or what the store kept, in; a checked `Spec` out, or the one `SettingError` that says what to mend."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec

from ctr.errors import SettingError
from ctr.spec.checks import check
from ctr.spec.explain import explained
from ctr.spec.tables import Spec

LIBFFM_MODEL: dict[str, Any] = {"bias": False, "linear": False, "normalize": True, "start": 1.0}
LIBFFM_OPTIMIZER: dict[str, Any] = {"step": 0.2, "n0": 1.0, "l2": 2e-5}
"""Defaults with ``model.libffm``: those of libffm's own command line. A start of 1 is U(0, 1) / sqrt k."""


def parse(text: str, origin: str = "specification") -> Spec:
    """Read TOML.

    Raises
    ------
    SettingError
        Names the key, its value and what is allowed; `origin` is the file's name where the TOML itself is broken.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingError(origin, "(TOML)", f"cannot be read: {error}") from None
    return from_builtins(raw)


def read(path: Path) -> Spec:
    """Read a file of TOML.

    Raises
    ------
    SettingError
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError("SPEC", str(path), f"a readable TOML file ({error})") from None
    return parse(text, str(path))


def from_builtins(raw: Any) -> Spec:
    """Check what TOML or the store gave. With ``model.libffm`` what is not there is as libffm has it."""
    try:
        spec = msgspec.convert(_with_libffm_defaults(raw), Spec)
    except msgspec.ValidationError as error:
        raise explained(str(error), raw) from None
    check(spec)
    return spec


def _with_libffm_defaults(raw: Any) -> Any:
    if not (isinstance(raw, dict) and isinstance(raw.get("model"), dict) and raw["model"].get("libffm") is True):
        return raw
    given = raw.get("optimizer", {})
    optimizer = {**LIBFFM_OPTIMIZER, **given} if isinstance(given, dict) else given
    return {**raw, "model": {**LIBFFM_MODEL, **raw["model"]}, "optimizer": optimizer}


def encode(spec: Spec) -> dict[str, Any]:
    """The specification as plain values, defaults included: what the store keeps."""
    built: dict[str, Any] = msgspec.to_builtins(spec)
    return built
