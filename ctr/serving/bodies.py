"""A request's body in, what it holds out; or the 400 that says where it is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import msgspec

from ctr.serving.asgi import HttpError

T = TypeVar("T")


def read(decode: Callable[[bytes], T], body: bytes) -> T:
    """Decode a request's body.

    Raises
    ------
    HttpError
        400, with the path of what is wrong.
    """
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise HttpError(400, _located(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HttpError(400, f"$: {error}") from None
    except RecursionError:
        raise HttpError(400, "$: nested too deeply") from None


def _located(message: str) -> str:
    """Turn msgspec's 'Expected ... - at `$.instances[3]`' into '$.instances[3]: expected ...'."""
    match = re.fullmatch(r"(.*?)(?: - at `(.*)`)?", message, re.DOTALL)
    text, path = (match[1], match[2] or "$") if match else (message, "$")
    return f"{path}: {text[:1].lower()}{text[1:]}"
