"""Images of a model go to a directory or a URL and come back: a safetensors file a shard, and a manifest, written last.

::

    URL/ads@1/20261121T153000.123Z-5f0c/
        shard-00000.safetensors     keys (m,) uint64 ascending; rows (m, row_bytes) uint8, packed as in `ctr.rows`
        ...
        manifest.json               what `Manifest` says: specification, versions, offsets, checksums

A directory without a manifest is no snapshot: neither is one that was cut off half-way, whatever the crash. Files are
written in a stream (safetensors' own writer wants all tensors in memory) and read in one; their SHA-256 stands in the
manifest, and the manifest's own in itself. URLs are fsspec's: ``file://``, ``s3://``, ``gs://``, ``memory://``, ...
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import urlsplit

import fsspec
import msgspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem

from ctr import spec as specification
from ctr.errors import SettingError, SnapshotError
from ctr.rows import ROW_FORMAT, RowBlock, RowShape
from ctr.spec import Spec
from ctr.store.images import BLOCK, ReadImage, is_level, parsed
from ctr.store.shard import Meta

FORMAT = 1
MANIFEST = "manifest.json"
_ABANDONED_S = 86_400.0
"""What has no manifest after so long will not get one any more."""
_PIECE_BYTES = 1 << 20
_NOT_KEPT = ("owner",)
"""Fields of meta that mean nothing later."""


class ShardFile(msgspec.Struct, frozen=True):
    """One shard's file: name, number of rows, size and SHA-256, and the shard's meta at that version."""

    file: str
    rows: int
    bytes: int
    sha256: str
    fields: dict[str, str]


class Manifest(msgspec.Struct, frozen=True):
    """All that a snapshot says of itself; `level`: all shards are at one cut, so that they fit any number of shards."""

    format: int
    row_format: int
    model: str
    created: str
    level: bool
    row_bytes: int
    spec: dict[str, Any]
    files: tuple[ShardFile, ...]
    checksum: str = ""

    def digest(self) -> str:
        """SHA-256 of all but the checksum."""
        held = msgspec.to_builtins(msgspec.structs.replace(self, checksum=""))
        return hashlib.sha256(msgspec.json.encode(held, order="deterministic")).hexdigest()

    @property
    def rows(self) -> int:
        """Of all shards."""
        return sum(file.rows for file in self.files)

    @property
    def total_bytes(self) -> int:
        """Of all shards' files."""
        return sum(file.bytes for file in self.files)


class _File(Protocol):
    """What is used of a file that fsspec opened."""

    def read(self, size: int = -1) -> bytes: ...

    def write(self, data: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Place:
    """A directory, wherever it is. `url` is for people, without passwords."""

    files: Any  # fsspec is untyped
    path: str
    url: str

    @classmethod
    def of(cls, url: str) -> Place:
        """Raise SettingError where the URL cannot be used."""
        try:
            files, path = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise SettingError("URL", _shown(url), f"a directory, or a URL that fsspec can open ({error})") from None
        return cls(files, path.rstrip("/"), _shown(url).rstrip("/"))

    def under(self, *names: str) -> Place:
        """A directory, or a file, below."""
        return Place(self.files, "/".join([self.path, *names]), "/".join([self.url, *names]))

    def names(self) -> list[str]:
        """Of what is directly below, sorted."""
        try:
            found = self.files.ls(self.path, detail=False, refresh=True)
        except FileNotFoundError:
            return []
        return sorted(str(path).rstrip("/").rpartition("/")[2] for path in found)


def _shown(url: str) -> str:
    parts = urlsplit(url)
    return url.replace(parts.netloc, "***@" + parts.netloc.rpartition("@")[2], 1) if "@" in parts.netloc else url


@contextlib.contextmanager
def _told(place: Place) -> Iterator[None]:
    """What a file system says as ours."""
    try:
        yield
    except OSError as error:
        raise SnapshotError(f"{place.url}: {type(error).__name__}: {error}") from error


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image whose rows are in a snapshot's file."""

    place: Place
    row_bytes: int
    file: ShardFile

    @property
    def meta(self) -> Meta:
        """As it was stored."""
        return parsed(self.file.fields)

    @property
    def fields(self) -> dict[str, str]:
        """As they were stored."""
        return self.file.fields

    @property
    def rows(self) -> int:
        """How many."""
        return self.file.rows

    def blocks(self) -> Iterator[RowBlock]:
        """All rows, ascending by key.

        Raises
        ------
        SnapshotError
        """
        with _told(self.place), self.place.files.open(self.place.path, "rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            _expect(_exactly(file, header_bytes, self.place), self)
            keys = np.frombuffer(_exactly(file, 8 * self.rows, self.place), "<u8").astype(np.uint64)
            for begin in range(0, self.rows, BLOCK):
                part = keys[begin : begin + BLOCK]
                raw = _exactly(file, len(part) * self.row_bytes, self.place)
                yield RowBlock(part, np.frombuffer(raw, np.uint8).reshape(len(part), self.row_bytes))

    def check(self) -> None:
        """Compare size and checksum with what the manifest says.

        Raises
        ------
        SnapshotError
        """
        digest, size = hashlib.sha256(), 0
        with _told(self.place), self.place.files.open(self.place.path, "rb") as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
                size += len(piece)
        if (size, digest.hexdigest()) != (self.file.bytes, self.file.sha256):
            raise SnapshotError(
                f"{self.place.url} is damaged: {size:,} bytes with SHA-256 {digest.hexdigest()[:16]}..., the manifest "
                f"says {self.file.bytes:,} and {self.file.sha256[:16]}...: take another snapshot"
            )


def _expect(header: bytes, image: StoredImage) -> None:
    """Our own files have their tensors in our order; another writer's are refused, not guessed at."""
    held = msgspec.json.decode(header)
    held.pop("__metadata__", None)
    if held != _tensors(image.rows, image.row_bytes):
        raise SnapshotError(f"{image.place.url} does not hold the tensors that the manifest says")


def _exactly(file: _File, size: int, place: Place) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise SnapshotError(f"{place.url} ends too early")
    return data


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A whole snapshot, its manifest checked."""

    place: Place
    manifest: Manifest

    @property
    def spec(self) -> Spec:
        """Of the model it was taken of."""
        return specification.from_builtins(self.manifest.spec)

    @property
    def images(self) -> list[StoredImage]:
        """Of all shards, in their order."""
        return [
            StoredImage(self.place.under(file.file), self.manifest.row_bytes, file) for file in self.manifest.files
        ]  # fmt: skip

    def check(self) -> None:
        """Read all files and compare them with the manifest.

        Raises
        ------
        SnapshotError
            One is damaged; the message names it.
        """
        for image in self.images:
            image.check()


def write(url: str, spec: Spec, images: Sequence[ReadImage]) -> Snapshot:
    """Write a snapshot below ``URL/name@generation/``.

    Raises
    ------
    SettingError
        The URL cannot be used.
    SnapshotError
        The file system refused; what was written is no snapshot, and `prune` removes it a day later.
    """
    root = Place.of(url).under(spec.model_id)
    now = datetime.now(UTC)
    name = f"{now:%Y%m%dT%H%M%S}.{now.microsecond // 1000:03d}Z-{secrets.token_hex(2)}"
    place, row_bytes = root.under(name), RowShape.of(spec).packed_bytes
    with _told(place):
        place.files.makedirs(place.path, exist_ok=True)
        files = tuple(_write_shard(place, spec, shard, image, row_bytes) for shard, image in enumerate(images))
        manifest = Manifest(
            FORMAT, ROW_FORMAT, spec.model_id, now.isoformat(timespec="milliseconds"), is_level(images), row_bytes,
            specification.encode(spec), files,
        )  # fmt: skip
        manifest = msgspec.structs.replace(manifest, checksum=manifest.digest())
        # a name of its own first: on a disk a file appears before its bytes do
        unfinished = place.under(f".{MANIFEST}")
        with place.files.open(unfinished.path, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
            _to_disk(place, file)
        place.files.mv(unfinished.path, place.under(MANIFEST).path)
    return read(place)


def _tensors(rows: int, row_bytes: int) -> dict[str, Any]:
    """What a file's header says of its tensors: keys, then rows, without a gap."""
    return {
        "keys": {"dtype": "U64", "shape": [rows], "data_offsets": [0, 8 * rows]},
        "rows": {"dtype": "U8", "shape": [rows, row_bytes], "data_offsets": [8 * rows, (8 + row_bytes) * rows]},
    }


def _write_shard(place: Place, spec: Spec, shard: int, image: ReadImage, row_bytes: int) -> ShardFile:
    """One safetensors file: 8 bytes of header length, the header, the tensors."""
    name = f"shard-{shard:05d}.safetensors"
    about = {"format": str(FORMAT), "model": spec.model_id, "shard": str(shard), "version": str(image.meta.version)}
    header = msgspec.json.encode({"__metadata__": about, **_tensors(image.rows, row_bytes)})
    header += b" " * (-len(header) % 8)
    digest, size = hashlib.sha256(), 0
    with place.files.open(place.under(name).path, "wb") as file:
        for piece in _pieces(header, image):
            file.write(piece)
            digest.update(piece)
            size += len(piece)
        _to_disk(place, file)
    fields = {name: value for name, value in image.fields.items() if name not in _NOT_KEPT}
    return ShardFile(name, image.rows, size, digest.hexdigest(), fields)


def _pieces(header: bytes, image: ReadImage) -> Iterator[bytes]:
    yield len(header).to_bytes(8, "little") + header
    yield image.keys.astype("<u8").tobytes()
    for block in image.blocks():
        yield block.data.tobytes()


def _to_disk(place: Place, file: Any) -> None:
    """The manifest must not outlive, in a power cut, what it speaks of; remote stores keep what they have confirmed."""
    if isinstance(place.files, LocalFileSystem):
        file.flush()
        os.fsync(file.fileno())


def read(place: Place) -> Snapshot:
    """Read and check a manifest; the files are checked by `Snapshot.check`.

    Raises
    ------
    SnapshotError
        There is none, it is damaged, or of a newer version.
    """
    at = place.under(MANIFEST)
    try:
        with _told(at), at.files.open(at.path, "rb") as file:
            held = msgspec.json.decode(file.read())
            for key, mine in (("format", FORMAT), ("row_format", ROW_FORMAT)):
                if held[key] > mine:
                    raise SnapshotError(f"{at.url}: {key} {held[key]}, this version reads up to {mine}: upgrade it")
            manifest = msgspec.convert(held, Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise SnapshotError(f"{at.url} is damaged, or no manifest: {error}") from None
    if manifest.checksum != manifest.digest():
        raise SnapshotError(f"{at.url} is damaged: its checksum does not fit, take another snapshot")
    return Snapshot(place, manifest)


def stored(url: str, model: str) -> list[Place]:
    """Whole snapshots below a URL, oldest first.

    Parameters
    ----------
    url : str
    model : str
        ``name@generation``, or ``name`` for all of its generations.
    """
    root = Place.of(url)
    with _told(root):
        models = [name for name in root.names() if name == model or name.partition("@")[0] == model]
        found = [root.under(name, taken) for name in models for taken in root.under(name).names()]
        whole = [place for place in found if MANIFEST in place.names()]
    return sorted(whole, key=lambda place: place.path.rpartition("/")[2])


def find(url: str, model: str) -> Snapshot:
    """Read the snapshot at a URL, or the newest of a model below it.

    Raises
    ------
    SnapshotError
        There is none, or it is damaged.
    """
    place = Place.of(url)
    with _told(place):
        if MANIFEST in place.names():
            return read(place)
    whole = stored(url, model)
    if not whole:
        raise SnapshotError(f"{place.url} holds no whole snapshot of {model}: ctr snapshot {model} URL takes one")
    return read(whole[-1])


def prune(url: str, model_id: str, keep: int) -> list[str]:
    """Delete all but the newest whole snapshots of a model, and what was abandoned half-way.

    Returns
    -------
    list of str
        Names of what was deleted.
    """
    root = Place.of(url).under(model_id)
    with _told(root):
        whole = {place.path.rpartition("/")[2] for place in stored(url, model_id)}
        old = sorted(whole)[: max(0, len(whole) - keep)]
        abandoned = [name for name in root.names() if name not in whole and _name_age_s(name) > _ABANDONED_S]
        for name in [*old, *abandoned]:
            place = root.under(name)
            if name in whole:  # from now on it is no snapshot any more
                place.files.rm(place.under(MANIFEST).path)
            place.files.rm(place.path, recursive=True)
    return [*old, *abandoned]


def check_writable(url: str) -> None:
    """Write a file below a URL, read it again, delete it.

    Raises
    ------
    SettingError, SnapshotError
    """
    root = Place.of(url)
    at = root.under(f".ctr-doctor-{secrets.token_hex(4)}")
    with _told(at):
        root.files.makedirs(root.path, exist_ok=True)
        root.files.pipe_file(at.path, b"written")
        if root.files.cat_file(at.path) != b"written":
            raise SnapshotError(f"{at.url} does not hold what was written")
        root.files.rm(at.path)


def age_s(place: Place) -> float:
    """How long ago a snapshot was begun."""
    return _name_age_s(place.path.rpartition("/")[2])


def _name_age_s(name: str) -> float:
    """How long ago a snapshot of this name was begun; negative where that is no name of ours."""
    try:
        begun = datetime.strptime(name.partition("-")[0], "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)
    except ValueError:
        return -1.0
    return time.time() - begun.timestamp()

