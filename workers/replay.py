"""`ctr replay`: the lines of a file, or of a directory's files, into a Kafka topic, at a chosen rate or flat out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ctr.events.messages import Messages
from workers.sinks import KafkaSink
from workers.sources.files import FileSource

_AHEAD_S = 0.02
"""Lines are sent in groups of what is due within this time."""
_FLUSH_LINES = 20_000
"""Lines under way at most: bounds memory when the broker is slower than the disk."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What was sent, and how long it took."""

    lines: int
    seconds: float


def replay(
    path: Path, sink: KafkaSink, *, rate: float | None, header: bool, max_line_bytes: int, stopping: Callable[[], bool]
) -> Replayed:
    """Send every line as one message, in order, and wait until all are acknowledged.

    Parameters
    ----------
    path : Path
        File or directory.
    sink : KafkaSink
    rate : float or None
        Lines a second; None for as fast as the broker takes them.
    header : bool
        The first line of each file names its columns and is left out.
    max_line_bytes : int
        A longer line is sent cut: the reader will refuse it.
    stopping : callable
        Asked between groups of lines.
    """
    source = FileSource(path, follow=False, max_line_bytes=max_line_bytes)
    source.open({})
    began, sent, unflushed = time.monotonic(), 0, 0
    while not stopping():
        messages = source.poll(0)
        if messages is None:
            break
        lines = _lines(messages, header=header)
        for begin in range(0, len(lines), _group(rate)):
            group = lines[begin : begin + _group(rate)]
            if rate is not None:
                time.sleep(max(0.0, began + sent / rate - time.monotonic()))
            if stopping():
                break
            sink.send(group)
            sent, unflushed = sent + len(group), unflushed + len(group)
            if unflushed >= _FLUSH_LINES:
                sink.flush()
                unflushed = 0
    sink.flush()
    return Replayed(sent, time.monotonic() - began)


def _group(rate: float | None) -> int:
    return 1000 if rate is None else max(1, int(rate * _AHEAD_S))


def _lines(messages: Messages, *, header: bool) -> list[bytes]:
    return [
        bytes(messages.data[begin:end])
        for begin, end, offset in zip(
            messages.begin.tolist(), messages.end.tolist(), messages.offsets.tolist(), strict=True
        )
        if not (header and offset == 0)
    ]
