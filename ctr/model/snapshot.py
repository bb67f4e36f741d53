"""A model in one file (safetensors), or in a pickle: all that it knows, so that it goes on learning bit for bit.

Tensors: ``keys`` (m,) uint64 ascending; ``rows`` (m, row_bytes) uint8, packed as in `ctr.rows`; ``marks`` (m,) uint8:
1 where the row changed since `Model.take_dirty`, 2 where it was ever given to a store; ``gone`` (g,) uint64: keys that
`Model.take_gone` has still to give. The header is text: ``format``, ``row_format``, ``spec`` (JSON), ``kernel_path``,
``max_rows``, ``counts`` (JSON) and ``checksum``, SHA-256 of the header without it and of all tensors.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from ctr import spec as specification
from ctr.errors import SnapshotError
from ctr.model.model import Model
from ctr.model.state import Counts, State
from ctr.rows import ROW_FORMAT, RowBlock

FORMAT = 1
_DTYPES = {"keys": np.uint64, "rows": np.uint8, "marks": np.uint8, "gone": np.uint64}

Tensors = dict[str, NDArray[Any]]


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a snapshot; `path` holds the whole of it or what it held before.

    Raises
    ------
    TypeError
        The model holds weights only: it is a scorer's cache, and there is nothing to go on from.
    OSError
    """
    target = Path(path)
    tensors, header = _taken(model)
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
        temporary = Path(file.name)
    try:
        safetensors.numpy.save_file(tensors, temporary, header)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | os.PathLike[str]) -> Model:
    """Read a snapshot.

    Returns
    -------
    Model
        With the same rows, counts and marks as the one that was saved. It goes on learning bit for bit on the same
        kernel path (`header`); on another the last bits differ.

    Raises
    ------
    SnapshotError
        The file is damaged, no snapshot, or of a newer version.
    OSError
    """
    data = Path(path).read_bytes()
    return _restored(data, str(path))


def header(path: str | os.PathLike[str]) -> dict[str, str]:
    """What a snapshot says about itself; nothing is checked.

    Raises
    ------
    SnapshotError
        The file is no safetensors file.
    OSError
    """
    with Path(path).open("rb") as file:
        return _header(file.read(8 + _MAX_HEADER_BYTES), str(path))


def pickled(model: Model) -> tuple[Any, tuple[bytes]]:
    """Reduce a model for pickle; registered in `ctr.model`."""
    tensors, header = _taken(model)
    return _unpickled, (safetensors.numpy.save(tensors, header),)


def _unpickled(data: bytes) -> Model:
    return _restored(data, "a pickled model")


_MAX_HEADER_BYTES = 16 << 20


def _taken(model: Model) -> tuple[Tensors, dict[str, str]]:
    """Tensors and header of a model."""
    state = model.state()
    tensors: Tensors = {
        "keys": state.block.keys, "rows": state.block.data, "marks": state.marks, "gone": state.gone,
    }  # fmt: skip
    header = {
        "format": str(FORMAT),
        "row_format": str(ROW_FORMAT),
        "spec": _json(specification.encode(model.spec)),
        "kernel_path": model.kernel_path,
        "max_rows": str(model.max_rows),
        "counts": _json(state.counts),
    }
    return tensors, {**header, "checksum": _checksum(header, tensors)}


def _restored(data: bytes, origin: str) -> Model:
    header = _header(data, origin)
    for key, mine in (("format", FORMAT), ("row_format", ROW_FORMAT)):
        given = header.get(key, "")
        if not given.isdecimal():
            raise SnapshotError(f"{origin}: not a snapshot of a model ({key} = {given!r})")
        if int(given) > mine:
            raise SnapshotError(f"{origin}: {key} {given}, this version reads up to {mine}: use the one that wrote it")
    try:
        tensors = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise SnapshotError(f"{origin} is damaged: {error}") from None
    checksum = header.pop("checksum", None)
    if {name: tensor.dtype for name, tensor in tensors.items()} != _DTYPES or checksum != _checksum(header, tensors):
        raise SnapshotError(f"{origin} is damaged: its checksum does not fit, restore it from a copy")
    spec = specification.from_builtins(msgspec.json.decode(header["spec"]))
    model = Model(spec, max_rows=int(header["max_rows"]))
    block, counts = RowBlock(tensors["keys"], tensors["rows"]), msgspec.json.decode(header["counts"], type=Counts)
    model.restore(State(block, tensors["marks"], tensors["gone"], counts))
    return model


def _header(data: bytes, origin: str) -> dict[str, str]:
    """Metadata of a safetensors file: 8 bytes of length, then JSON."""
    size = int.from_bytes(data[:8], "little")
    try:
        if not 0 < size <= min(_MAX_HEADER_BYTES, len(data) - 8):
            raise msgspec.DecodeError("no header")
        metadata = msgspec.json.decode(data[8 : 8 + size], type=dict[str, Any]).get("__metadata__", {})
        return msgspec.convert(metadata, dict[str, str])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SnapshotError(f"{origin} is damaged, or no snapshot: {error}") from None


def _checksum(header: Mapping[str, str], tensors: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(msgspec.json.encode(sorted(header.items())))
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
