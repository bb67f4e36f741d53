"""Two specifications in, the settings that differ and may not out."""

from __future__ import annotations

from typing import Any

import msgspec

from ctr.spec.tables import MUTABLE, PLACEMENT, Spec


def flatten(spec: Spec) -> list[tuple[str, Any]]:
    """All settings of a specification as (dotted key, value), defaults included, in a fixed order."""
    out: list[tuple[str, Any]] = []

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], dict):
            for index, inner in enumerate(value):
                walk(f"{prefix}[{index}]", inner)
        else:
            out.append((prefix, value))

    walk("", msgspec.to_builtins(spec))
    return out


def differences(stored: Spec, given: Spec) -> list[str]:
    """Settings that differ and may not, as ``key: stored -> given``; empty where `given` may train what is stored."""
    old, new = dict(flatten(stored)), dict(flatten(given))
    return [
        f"{key}: {old.get(key, 'absent')!r} -> {new.get(key, 'absent')!r}"
        for key in [*old, *(key for key in new if key not in old)]
        if key not in MUTABLE | PLACEMENT and old.get(key, "absent") != new.get(key, "absent")
    ]
