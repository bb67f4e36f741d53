"""Compressed files by position: gzip and zstd read forwards, looked at without being consumed."""

from __future__ import annotations

import errno
import gzip
from pathlib import Path
from typing import Any

import zstandard
from isal import igzip, isal_zlib

SUFFIXES = (".gz", ".zst")
_IsalError: Any = isal_zlib.error  # its stub calls the class an instance
_DAMAGED = (EOFError, zstandard.ZstdError, gzip.BadGzipFile, _IsalError)
_SKIP_BYTES = 1 << 20
_INPUT_BYTES = 1 << 16


class CompressedFile:
    """The uncompressed bytes of a ``.gz`` or ``.zst`` file, at positions that only grow.

    A position is reached by decompressing everything before it: after a restart the file is read from its start once.

    Attributes
    ----------
    length : int
        Bytes of the file before it was opened: where it is longer now, another one may find more.
    """

    def __init__(self, path: Path) -> None:
        self._path, self.length = path, path.stat().st_size
        # 800 MB/s of text where the gzip module gives 250 (Criteo's log, one core)
        gzipped: Any = igzip.IGzipFile
        self._stream: Any = gzipped(path) if path.suffix == ".gz" else _ZstdFile(path)
        self._held, self._at = b"", 0

    def peek(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset` on, less only at the end; the same call again gives the same.

        Raises
        ------
        OSError
            The file is damaged or cut.
        """
        while self._at < offset:
            drop = min(offset - self._at, max(len(self._held), _SKIP_BYTES))
            self._fill(drop)
            if not self._held:
                break
            dropped = min(drop, len(self._held))
            self._held, self._at = self._held[dropped:], self._at + dropped
        self._fill(size)
        return self._held[:size]

    def close(self) -> None:
        """Let the file go."""
        self._stream.close()

    def _fill(self, size: int) -> None:
        try:
            while len(self._held) < size:
                data = self._stream.read(size - len(self._held))
                if not data:
                    return
                self._held += data
        except _DAMAGED as error:
            raise OSError(errno.EIO, f"damaged or cut: {error}", str(self._path)) from error


class _ZstdFile:
    """Frame after frame. zstandard's own reader takes a file that ends inside a frame for one that is whole."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._frame: Any = None
        self._unread = b""

    def read(self, _size: int) -> bytes:
        """Some bytes, none at the end."""
        while data := self._unread or self._file.read(_INPUT_BYTES):
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            out: bytes = self._frame.decompress(data)
            self._unread = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None
            if out:
                return out
        if self._frame is not None:
            raise EOFError("it ends inside a frame")
        return b""

    def close(self) -> None:
        self._file.close()
