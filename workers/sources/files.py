"""Files and directories as a source: each file is a partition, a line a message, its first byte the offset."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ctr.errors import PositionLostError, SettingError, SourceUnavailableError
from ctr.events.messages import Messages
from ctr.kernels import build
from workers.sources.compressed import SUFFIXES, CompressedFile

BLOCK_BYTES = 1 << 18
"""Read at a time: some hundred events, so that a commit is never far away."""
GONE_FILES = 1000
"""Positions of so many files that are gone are kept: a disk that was away must not be learned twice when it is back."""
_RESCAN_S = 0.2


class FileSource:
    """Reads files one after another, in the order of their names; ``.gz`` and ``.zst`` ones decompressed.

    A file that is longer than it was is read on. A compressed one may have got another gzip member or zstd frame; it is
    decompressed from its start again to find that, and what it ends with counts as a line, newline or not.
    A directory may lose files, too: of those that went, positions are forgotten but for the last `GONE_FILES`, so that
    positions do not grow for ever.

    Parameters
    ----------
    path : Path
        A file, or a directory whose files (but hidden ones and dead letters) are read.
    follow : bool
        Wait for new files and for files that grow. A last line without its newline is then held back.
    max_line_bytes : int
        A longer line is handed over cut, so that the reader refuses it; memory stays bounded.
    """

    def __init__(self, path: Path, *, follow: bool, max_line_bytes: int) -> None:
        try:
            readable = path.is_file() or path.is_dir()
        except OSError:
            readable = False
        if not readable:
            raise SettingError("--from", str(path), "a file or directory that exists (no pipe: it has no positions)")
        self._root, self._follow, self._max_line = path.resolve(), follow, max_line_bytes
        self._started_s = time.time()
        self._split = build.load("scan/linebreaks").split
        self._names: list[str] = []
        self._present: set[str] = set()
        self._gone: dict[str, None] = {}
        """Files with a position that were there once, by when that was noticed."""
        self._positions: dict[str, int] = {}
        self._compressed: dict[str, CompressedFile] = {}
        self._read_whole: dict[str, int] = {}
        """Compressed files that were at their end, and how long they were then."""
        self._caught_up_s = 0.0
        self._scanned = 0.0
        self._current = 0
        """Index of the first file that was not at its end when it was last looked at."""
        self._done = False
        self.up = True

    @property
    def partitions(self) -> Sequence[str]:
        return self._names

    @property
    def finished(self) -> bool:
        return self._done

    def open(self, offsets: Mapping[str, int], furthest: Mapping[str, tuple[int, str]] | None = None) -> None:
        del furthest  # of files there are no marks
        self._positions, self._done = dict(sorted(offsets.items())), False
        self._gone.clear()
        self._scan()
        for name, offset in offsets.items():
            if name in self._present and not name.endswith(SUFFIXES) and Path(name).stat().st_size < offset:
                raise PositionLostError(
                    f"{name} has {Path(name).stat().st_size} bytes, {offset} of it are learned already: it was cut or "
                    "replaced; give the file another name, or train a new generation"
                )

    def _scan(self) -> None:
        if self._root.is_file():
            found = [self._root]
        else:
            found = sorted(
                path for path in self._root.iterdir()
                if path.is_file() and not path.name.startswith(".") and path.suffix != ".dlq"
            )  # fmt: skip
        known, names = set(self._names), list(map(str, found))
        self._names.extend(name for name in names if name not in known)
        self._present = set(names)
        self._scanned = time.monotonic()
        self._forget_gone()

    def _forget_gone(self) -> None:
        """Positions of files of this directory that went long ago; none while it is empty: it may be a mount point."""
        folder = str(self._root)
        for name in sorted(self._positions.keys() - self._present - self._gone.keys()):
            if name.rpartition("/")[0] == folder:
                self._gone[name] = None
        for name in self._gone.keys() & self._present:
            del self._gone[name]
        while self._present and len(self._gone) > GONE_FILES:
            name = next(iter(self._gone))
            del self._gone[name], self._positions[name]
            self._read_whole.pop(name, None)

    def poll(self, timeout_s: float) -> Messages | None:
        end = time.monotonic() + timeout_s
        while True:
            looked_s = time.time()
            try:
                messages = self._next()
            except OSError as error:
                self.up = False
                raise SourceUnavailableError(f"{error.filename} cannot be read: {error.strerror}") from error
            self.up = True
            if messages is not None:
                return messages
            self._caught_up_s = looked_s
            if not self._follow:
                self._done = True
                return None
            if time.monotonic() >= end:
                return None
            time.sleep(min(0.02, timeout_s))

    def _next(self) -> Messages | None:
        """Of the first file that has something, in the order of names; the others are only looked at now and then."""
        if time.monotonic() - self._scanned >= _RESCAN_S:
            self._scan()
            self._current = 0
        while self._current < len(self._names):
            name = self._names[self._current]
            if name in self._present and self._may_have_more(name):
                messages = self._read(self._current, name)
                if messages is not None:
                    return messages
            self._current += 1
        return None

    def _may_have_more(self, name: str) -> bool:
        """Cheaper than opening the file: most of a directory was read long ago."""
        try:
            size = Path(name).stat().st_size
        except FileNotFoundError:
            return False
        if name.endswith(SUFFIXES):
            return size != self._read_whole.get(name)
        return size > self._positions.get(name, 0)

    def _read(self, index: int, name: str) -> Messages | None:
        offset, size = self._positions.get(name, 0), BLOCK_BYTES
        try:
            data = self._peek(name, offset, size)
            while b"\n" not in data and len(data) == size and size <= self._max_line:
                size *= 2
                data = self._peek(name, offset, size)
            if not data:
                return None
            cut = data.rfind(b"\n") + 1
            if cut == 0:
                return self._unfinished_line(index, name, offset, data, complete=len(data) < size)
        except FileNotFoundError:
            return None
        self._positions[name] = offset + cut
        return self._lines(index, offset, data, cut)

    def _peek(self, name: str, offset: int, size: int) -> bytes:
        """Up to `size` bytes of a file from `offset` on."""
        if not name.endswith(SUFFIXES):
            with Path(name).open("rb") as file:
                file.seek(offset)
                return file.read(size)
        if Path(name).stat().st_size == self._read_whole.get(name):
            return b""
        if name not in self._compressed:
            self._compressed[name] = CompressedFile(Path(name))
        try:
            data = self._compressed[name].peek(offset, size)
        except OSError:
            self._compressed.pop(name).close()  # it may be copied here still: from its start the next time
            raise
        if not data:
            whole = self._compressed.pop(name)
            whole.close()
            self._read_whole[name] = whole.length  # until it is longer: no need to decompress it again to see its end
        return data

    def _unfinished_line(self, index: int, name: str, offset: int, data: bytes, *, complete: bool) -> Messages | None:
        """No newline in all that could be read: the file's end, or a line beyond all bounds."""
        if complete:
            if self._follow and not name.endswith(SUFFIXES):
                return None  # its writer is not done yet
            self._positions[name] = offset + len(data)
            return self._lines(index, offset, data + b"\n", len(data) + 1)
        behind = offset + len(data)
        while piece := self._peek(name, behind, BLOCK_BYTES):
            newline = piece.find(b"\n") + 1
            behind += newline or len(piece)
            if newline:
                break
        self._positions[name] = behind
        return self._lines(index, offset, data + b"\n", len(data) + 1)

    def _lines(self, index: int, offset: int, data: bytes, cut: int) -> Messages | None:
        """Lines of the first `cut` bytes of `data`, the last of which is a newline; blank ones are nothing."""
        buffer = np.frombuffer(data, np.uint8, cut)
        begin, end = np.empty((2, cut // 2), np.int64)
        n = self._split(buffer.ctypes.data, buffer, begin, end)
        begin, end = begin[:n].copy(), end[:n].copy()
        return Messages(
            data, begin, end, np.full(n, index, np.int32), begin + offset, np.full(n, self._started_s, np.float64)
        )

    def positions(self) -> dict[str, int]:
        return dict(self._positions)

    def arrival_watermark_s(self) -> float:
        return self._caught_up_s or self._started_s

    def marks(self) -> dict[str, str]:
        return {}

    @property
    def skipped(self) -> Mapping[str, Sequence[tuple[int, int]]]:
        return {}

    def lag(self) -> dict[str, int]:
        left = 0
        for name in self._present:
            with contextlib.suppress(FileNotFoundError):
                size = Path(name).stat().st_size
                if name.endswith(SUFFIXES):  # how much is left is known at its end only
                    left += 0 if size == self._read_whole.get(name) else size
                else:
                    left += max(0, size - self._positions.get(name, 0))
        return {str(self._root): left}  # one number: a directory may hold thousands of files

    def committed(self, offsets: Mapping[str, int]) -> None:
        pass

    def close(self) -> None:
        for file in self._compressed.values():
            file.close()
        self._compressed.clear()
