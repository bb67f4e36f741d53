"""Names of features <-> Redis: a bounded dictionary, so that explanations speak in words where they can.

One hash a model, ``ctr:{m}:names``: feature key (8 bytes, little-endian) -> ``field=value`` in UTF-8. It stands beside
the commit protocol: nothing that is learned or scored depends on it, and losing it loses words only.

Who makes room: at the bound names drawn at random leave, and a sixty-fourth of the bound is freed at once. A name comes
back when its feature is sampled again, so the frequent ones are there nearly always and the rare ones by luck; a list
in order of use would cost a write a look-up to keep.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.store.codec import field_names
from ctr.store.connection import Client, translated

NAME_BYTES = 256
"""A longer name is cut: a value may be a whole URL."""
_CUT = " ..."
_CHUNK = 1000


def names_key(model_id: str) -> str:
    """Hash: feature key -> name."""
    return f"ctr:{{{model_id}}}:names"


def write(client: Client, model_id: str, names: Mapping[int, str], *, max_names: int) -> int:
    """Add names, newest values winning; returns how many others made room.

    Parameters
    ----------
    client : Client
    model_id : str
    names : mapping of int to str
        Feature key -> name; at most `max_names` of them.
    max_names : int
        Bound on names kept.

    Raises
    ------
    StoreUnavailableError
        Some may have been written.
    """
    hash_name, fields = names_key(model_id), field_names(np.array(list(names), np.uint64))
    values = [shortened(name) for name in names.values()]
    with translated():
        for begin in range(0, len(fields), _CHUNK):
            chunk = zip(fields[begin : begin + _CHUNK], values[begin : begin + _CHUNK], strict=True)
            client.hset(hash_name, mapping=dict(chunk))
        held = client.hlen(hash_name)
        if held <= max_names:
            return 0
        leaving = client.hrandfield(hash_name, held - max_names + max_names // 64)
        assert isinstance(leaving, list), "with a count it is a list"
        gone = 0
        for begin in range(0, len(leaving), _CHUNK):
            gone += client.hdel(hash_name, *leaving[begin : begin + _CHUNK])
        return gone


def read(client: Client, model_id: str, keys: Iterable[int]) -> dict[int, str]:
    """Names of those of the keys that have one.

    Raises
    ------
    StoreUnavailableError
    """
    wanted: NDArray[np.uint64] = np.fromiter(keys, np.uint64)
    found: dict[int, str] = {}
    for begin in range(0, len(wanted), _CHUNK):
        part = wanted[begin : begin + _CHUNK]
        with translated():
            values: list[Any] = client.hmget(names_key(model_id), field_names(part))
        held = zip(part.tolist(), values, strict=True)
        found.update((key, value.decode(errors="replace")) for key, value in held if value is not None)
    return found


def shortened(name: str) -> bytes:
    """UTF-8 of at most `NAME_BYTES`, never half of a character."""
    raw = name.encode()
    if len(raw) <= NAME_BYTES:
        return raw
    return raw[: NAME_BYTES - len(_CUT)].decode(errors="ignore").encode() + _CUT.encode()
