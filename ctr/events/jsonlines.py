"""A line of JSON in, a record out, with every literal as exact as it was written.

What the JSON standard leaves open: of equal keys in an object the last one counts; objects and arrays nest at most 64
deep, whatever the interpreter's stack would hold; half a surrogate pair, NaN and Infinity are broken syntax.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from ctr.errors import EventError
from ctr.events.envelope import Record

MAX_DEPTH = 64

T = TypeVar("T")


def decoder(kind: type[T]) -> Callable[[bytes], T]:
    """Make a decoder of JSON, for events and for requests, to which a number beyond float64 is infinite, anywhere.

    Where a field wants it, it is refused; where nothing does, it is passed over.

    Raises
    ------
    msgspec.DecodeError, UnicodeDecodeError, RecursionError
        As msgspec's own (the decoder that is made, not this).
    """
    plain, wide = msgspec.json.Decoder(kind).decode, msgspec.json.Decoder(kind, float_hook=float).decode

    def decode(data: bytes) -> T:
        try:
            return plain(data)
        except msgspec.ValidationError:  # such a number, or what the other one complains of just as well
            return wide(data)

    return decode


_decode = decoder(object)


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
        raise _refusal(line, error) from None
    # Counting brackets costs 0.1 us; only a line that has many is walked.
    if line.count(b"[") + line.count(b"{") > MAX_DEPTH and _deeper(record, MAX_DEPTH):
        raise EventError("syntax", "$", f"nested deeper than {MAX_DEPTH} levels")
    if not isinstance(record, dict):
        shown = msgspec.json.encode(record)[:60].decode(errors="ignore")  # the cut may fall into a character
        raise EventError("type", "$", f"expected an object, got {shown}")
    return record


def _refusal(line: bytes, error: Exception) -> EventError:
    """Say why a line cannot be read."""
    try:
        line.decode()
    except UnicodeDecodeError as bad:
        return EventError("encoding", "$", f"no UTF-8 at byte {bad.start}: {bad.reason}")
    if isinstance(error, RecursionError):
        return EventError("syntax", "$", f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(error, msgspec.ValidationError):  # an integer that Python would take for ever to read
        return EventError("value", "$", str(error).partition(" - at ")[0])
    return EventError("syntax", "$", str(error))


def _deeper(value: Any, levels: int) -> bool:
    """Whether a value nests more than `levels` deep; level by level, so that no stack is needed."""
    layer = [value]
    for _ in range(levels):
        inner = (item.values() if isinstance(item, dict) else item for item in layer if isinstance(item, (dict, list)))
        layer = [child for children in inner for child in children]
    return any(isinstance(item, (dict, list)) for item in layer)
