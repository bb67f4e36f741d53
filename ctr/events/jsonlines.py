"""A line of JSON in, a record out, with every literal as exact as it was written.

What the JSON standard leaves open: of equal keys in an object the last one counts; objects and arrays nest at most 64
deep, whatever the interpreter's stack would hold; half a surrogate pair, NaN and Infinity are broken syntax.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ctr.errors import EventError
from ctr.events.envelope import Record

MAX_DEPTH = 64

_decode = msgspec.json.Decoder().decode
_decode_wide = msgspec.json.Decoder(float_hook=float).decode


def parse(line: bytes) -> Record:
    """Read one event.

    Raises
    ------
    EventError
        Path ``$`` and reason "encoding" (no UTF-8), "syntax" (no JSON, or nested too deep), "value" (an integer of more
        than 4,300 digits) or "type" (no object).
    """
    try:
        record = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        record = _again(line, error)
    # Counting brackets costs 0.1 us; only a line that has many is walked.
    if line.count(b"[") + line.count(b"{") > MAX_DEPTH and _deeper(record, MAX_DEPTH):
        raise EventError("syntax", "$", f"nested deeper than {MAX_DEPTH} levels")
    if not isinstance(record, dict):
        shown = msgspec.json.encode(record)[:60].decode(errors="ignore")  # the cut may fall into a character
        raise EventError("type", "$", f"expected an object, got {shown}")
    return record


def _again(line: bytes, error: Exception) -> Any:
    """Read a line that the plain decoder gave up, or say why it cannot be read."""
    try:
        line.decode()
    except UnicodeDecodeError as bad:
        raise EventError("encoding", "$", f"no UTF-8 at byte {bad.start}: {bad.reason}") from None
    if isinstance(error, RecursionError):
        raise EventError("syntax", "$", f"nested deeper than {MAX_DEPTH} levels") from None
    if not isinstance(error, msgspec.ValidationError):
        raise EventError("syntax", "$", str(error)) from None
    # A number beyond float64 somewhere. It is infinite here, and refused if a field wants it.
    try:
        return _decode_wide(line)
    except msgspec.ValidationError as bad:
        raise EventError("value", "$", str(bad).partition(" - at ")[0]) from None
    except (msgspec.DecodeError, RecursionError) as bad:
        raise EventError("syntax", "$", str(bad)) from None


def _deeper(value: Any, levels: int) -> bool:
    """Whether a value nests more than `levels` deep; level by level, so that no stack is needed."""
    layer = [value]
    for _ in range(levels):
        inner = (item.values() if isinstance(item, dict) else item for item in layer if isinstance(item, (dict, list)))
        layer = [child for children in inner for child in children]
    return any(isinstance(item, (dict, list)) for item in layer)
