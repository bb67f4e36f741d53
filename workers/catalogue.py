"""JSON lines in, a catalogue of ads in the store out, and back: `ctr catalogue`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from ctr.errors import EventError, SettingError
from ctr.events import jsonlines
from ctr.spec import NAME_PATTERN
from ctr.store import ads as store
from ctr.store import connect
from workers.lifecycle import ExitCode

Echo = Callable[[str], None]


class _Ad(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    features: msgspec.Raw


class _Id(msgspec.Struct):
    id: str


_decode = msgspec.json.Decoder(_Ad).decode
_decode_id = msgspec.json.Decoder(_Id | str).decode


def put(redis: str, name: str, path: Path, echo: Echo) -> ExitCode:
    """Add or replace the ads of a file; those before a bad line are put.

    Raises
    ------
    SettingError
        A bad name, or a line that is no ad, with its number.
    StoreUnavailableError
    """
    client = connect(redis)
    echo(f"{store.put(client, _checked(name), _ads(_lines(path)))} ads put into {name}")
    return ExitCode.OK


def show(redis: str, name: str, ids: Sequence[str], echo: Echo) -> ExitCode:
    """Write ads as `put` takes them: all, or those of some ids.

    Raises
    ------
    SettingError
        A bad name, or an id that is not there.
    StoreUnavailableError
    """
    reader = store.AdReader(connect(redis), _checked(name))
    for block in [reader.fetch(ids)] if ids else reader.scan():
        for identity in sorted(block):
            echo(msgspec.json.encode(_Ad(identity, msgspec.Raw(block[identity]))).decode())
        if ids and (lacking := [identity for identity in ids if identity not in block]):
            raise SettingError("ID", lacking[0], f"an ad of the catalogue {name}")
    return ExitCode.OK


def remove(redis: str, name: str, ids: Sequence[str], path: Path | None, echo: Echo) -> ExitCode:
    """Take ads out, by id, or the ids of a file's lines.

    Raises
    ------
    SettingError
        A bad name, or a line without an id, with its number.
    StoreUnavailableError
    """
    client = connect(redis)
    given = [*ids, *(_ids(_lines(path)) if path is not None else ())]
    gone = store.remove(client, _checked(name), given)
    left = f" of {len(given)}; the others were not there" if gone < len(given) else ""
    echo(f"{gone} ads removed from {name}{left}")
    return ExitCode.OK


def _checked(name: str) -> str:
    if not re.match(NAME_PATTERN, name):
        raise SettingError("NAME", name, "a-z 0-9 _ - and at most 64 long")
    return name


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines, blank ones left out."""
    if str(path) == "-":
        yield from _numbered(sys.stdin.buffer)
    else:
        with path.open("rb") as file:
            yield from _numbered(file)


def _numbered(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def _ads(lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[str, bytes]]:
    for number, line in lines:
        try:
            ad = _decode(line)
            jsonlines.parse(bytes(ad.features))
            store.check(ad.id, bytes(ad.features))
        except (msgspec.DecodeError, UnicodeDecodeError, EventError, SettingError) as error:
            raise SettingError(
                f"line {number}", line[:60].decode(errors="replace"),
                f'{{"id": "a1", "features": {{"field": value, ...}}}} ({error})',
            ) from None  # fmt: skip
        yield ad.id, bytes(ad.features)


def _ids(lines: Iterable[tuple[int, bytes]]) -> Iterator[str]:
    for number, line in lines:
        if not line.lstrip().startswith((b"{", b'"')):
            yield line.strip().decode(errors="replace")
            continue
        try:
            found = _decode_id(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SettingError(f"line {number}", line[:60].decode(errors="replace"), f"an id ({error})") from None
        yield found if isinstance(found, str) else found.id
