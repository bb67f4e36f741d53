"""msgspec's complaint about a specification in, the key, its value and what may stand there out."""

from __future__ import annotations

import re
from typing import Any, Literal, get_args, get_origin

import msgspec

from ctr.errors import SettingError
from ctr.spec.tables import Commit, Event, Field, Guard, Lifetime, Model, Optimizer, Quality, Spec, Store


def explained(message: str, raw: Any) -> SettingError:
    """Turn msgspec's 'Expected ... - at `$.model.k`' into key, value, allowed."""
    text, _, path = message.partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    unknown = re.search(r"unknown field `([^`]*)`", text)
    missing = re.search(r"missing required field `([^`]*)`", text)
    if unknown:
        key = ".".join(part for part in (path, unknown[1]) if part)
        known = ", ".join(_known_keys(path))
        return SettingError(key, _at(raw, key), f"unknown key; known here: {known}")
    if missing:
        key = ".".join(part for part in (path, missing[1]) if part)
        return SettingError(key, None, "is required")
    if text.startswith("Invalid enum value"):
        text = f"one of {', '.join(_choices(path))}"
    return SettingError(path or "specification", _at(raw, path), text[:1].lower() + text[1:])


def _known_keys(path: str) -> list[str]:
    return [field.name for field in msgspec.structs.fields(_owner(path))]


def _choices(path: str) -> list[str]:
    """Names that may stand at a path of type Literal."""
    table, _, key = path.rpartition(".")
    kind = next(field.type for field in msgspec.structs.fields(_owner(table)) if field.name == key)
    literals = [kind, *get_args(kind)]  # itself, or one side of a union with None
    return [str(name) for literal in literals if get_origin(literal) is Literal for name in get_args(literal)]


def _owner(path: str) -> Any:
    """Class of the table at a path."""
    owner: Any = Spec
    for part in filter(None, re.sub(r"\[.*?\]", "", path).split(".")):
        owner = {"event": Event, "fields": Field, "model": Model, "optimizer": Optimizer,
                 "lifetime": Lifetime, "commit": Commit, "quality": Quality, "guard": Guard,
                 "store": Store}[part]  # fmt: skip
    return owner


def _at(raw: Any, path: str) -> Any:
    value = raw
    for key, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        try:
            value = value[key] if key else value[int(index)]
        except (KeyError, IndexError, TypeError):
            return None
    return value
