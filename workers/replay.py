"""`ctr replay`: the lines of a file, or of a directory's files, into a Kafka topic, at a chosen rate or flat out."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ctr.events.messages import Messages
from workers import kafka_login
from workers.lifecycle import ExitCode, Shutdown
from workers.sinks import KafkaSink
from workers.sources.files import FileSource

_AHEAD_S = 0.02
"""Lines are sent in groups of what is due within this time."""
_FLUSH_LINES = 20_000
"""Lines under way at most: bounds memory when the broker is slower than the disk."""


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """What the command line and the environment say."""

    path: Path
    kafka: str
    topic: str
    kafka_config: Path | None = None
    partitions: int = 1
    rate: float | None = None
    header: bool = False


def run(settings: ReplaySettings) -> ExitCode:
    """Replay until the end of the files or a signal; says on standard error what was sent."""
    shutdown = Shutdown()
    shutdown.install()
    source = FileSource(settings.path, follow=False, max_line_bytes=KafkaSink.MAX_BYTES)
    login = kafka_login.read(settings.kafka_config)
    sink = KafkaSink(settings.kafka, settings.topic, partitions=settings.partitions, login=login)
    began = time.monotonic()
    try:
        sent = replay(source, sink, rate=settings.rate, header=settings.header, stopping=lambda: shutdown.requested)
    finally:
        sink.close()
    seconds = time.monotonic() - began
    print(f"{sent:,} messages to {settings.topic} in {seconds:.1f} s ({sent / seconds:,.0f}/s)", file=sys.stderr)
    return ExitCode.OK


def replay(
    source: FileSource, sink: KafkaSink, *, rate: float | None, header: bool, stopping: Callable[[], bool]
) -> int:
    """Send every line as one message, in order, and wait until all are acknowledged; returns how many.

    Parameters
    ----------
    source : FileSource
    sink : KafkaSink
    rate : float or None
        Lines a second; None for as fast as the broker takes them.
    header : bool
        The first line of each file names its columns and is left out.
    stopping : callable
        Asked between groups of lines.
    """
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
    return sent


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
