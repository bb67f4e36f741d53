"""Events that cannot be read: kept with their reason and origin, never dropped in silence."""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from ctr.errors import SettingError, SourceUnavailableError, TooManyRefusedError
from ctr.events.messages import Messages, Refusal
from workers.sinks import KafkaSink

PAYLOAD_BYTES = 64 << 10
"""What is kept of a refused event at most."""


class RefusalLimit:
    """Stops a worker that reads the wrong topic, instead of pouring all of it into dead letters.

    Parameters
    ----------
    run : int
        So many refusals without one event that could be read end it; 0 for no limit.
    share : float
        So large a share of the last `WINDOW` events or more ends it; 1 for no limit.
    """

    WINDOW = 10_000

    def __init__(self, run: int, share: float) -> None:
        self._run_limit, self._share_limit = run, share
        self._run = self._good = self._bad = 0

    def count(self, good: int, refusals: Sequence[Refusal]) -> None:
        """Count what one turn of the loop brought.

        Raises
        ------
        TooManyRefusedError
            What was learned since the last commit is not committed: the log still has it.
        """
        bad = len(refusals)
        self._run = 0 if good else self._run + bad
        self._good, self._bad = self._good + good, self._bad + bad
        total = self._good + self._bad
        if self._run_limit and self._run >= self._run_limit:
            said = f"the last {self._run:,} events, with not a good one among them"
        elif bad and total >= self.WINDOW and self._share_limit < 1 and self._bad >= self._share_limit * total:
            said = f"{self._bad:,} of the last {total:,} events"
        else:
            if total >= self.WINDOW:
                self._good, self._bad = self._good // 2, self._bad // 2
            return
        last = refusals[-1]
        raise TooManyRefusedError(
            f"cannot read {said}; the last one: {last.reason}, {last.path}: {last.message}. `ctr check` shows what the "
            "specification makes of a sample"
        )


class DeadLetters(Protocol):
    """Somewhere to keep refusals."""

    counts: Counter[str]
    """Refused so far, by reason."""

    def put(self, refusals: Sequence[Refusal], messages: Messages, partitions: Sequence[str]) -> None:
        """Keep them; they are safe after the next `flush`."""

    def flush(self) -> None:
        """Make sure of all; a commit waits for it."""

    def close(self) -> None:
        """Let go."""


class KafkaDeadLetters:
    """Into ``<topic>.dlq``: the payload, keyed by its origin, with the reason in headers.

    A letter may be sent twice after a crash; its key (``topic:partition:offset``) is the same then.
    """

    def __init__(self, bootstrap: str, topic: str, *, login: Mapping[str, Any] | None = None) -> None:
        self._sink = KafkaSink(bootstrap, f"{topic}.dlq", login=login)
        self.counts: Counter[str] = Counter()
        self._unsure: list[tuple[bytes, bytes, list[tuple[str, bytes]]]] = []

    def put(self, refusals: Sequence[Refusal], messages: Messages, partitions: Sequence[str]) -> None:
        for refusal in refusals:
            payload, size = _payload(refusal, messages)
            topic, _, number = partitions[refusal.partition].rpartition(":")
            headers = {
                "reason": refusal.reason, "path": refusal.path, "message": refusal.message, "topic": topic,
                "partition": number, "offset": str(refusal.offset), "bytes": str(size),
            }  # fmt: skip
            key = f"{partitions[refusal.partition]}:{refusal.offset}".encode()
            self._unsure.append((payload, key, [(f"__ctr.errors.{k}", v.encode()) for k, v in headers.items()]))
            self.counts[refusal.reason] += 1

    def flush(self) -> None:
        if not self._unsure:
            return
        values, keys, headers = zip(*self._unsure, strict=True)
        self._sink.send(values, keys, headers)
        self._sink.flush()
        self._unsure.clear()

    def close(self) -> None:
        self._sink.close()


class FileDeadLetters:
    """Into a file of JSON lines: reason, path, message, origin, payload (base64 where it is not UTF-8)."""

    def __init__(self, path: Path) -> None:
        self.counts: Counter[str] = Counter()
        self._path = path
        self._lines: list[bytes] = []
        try:
            with path.open("ab"):
                pass
        except OSError as error:
            raise SettingError("--dead-letters", str(path), f"a file that can be written ({error.strerror})") from None

    def put(self, refusals: Sequence[Refusal], messages: Messages, partitions: Sequence[str]) -> None:
        for refusal in refusals:
            payload, size = _payload(refusal, messages)
            letter = {
                "reason": refusal.reason, "path": refusal.path, "message": refusal.message,
                "file": partitions[refusal.partition], "offset": refusal.offset, "bytes": size,
            }  # fmt: skip
            try:
                letter["payload"] = payload.decode()
            except UnicodeDecodeError:
                letter["payload_base64"] = base64.b64encode(payload).decode()
            self._lines.append(msgspec.json.encode(letter) + b"\n")
            self.counts[refusal.reason] += 1

    def flush(self) -> None:
        if not self._lines:
            return
        try:
            with self._path.open("ab") as file:
                file.write(b"".join(self._lines))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise SourceUnavailableError(f"dead letters cannot be written to {self._path}: {error.strerror}") from error
        self._lines.clear()

    def close(self) -> None:
        pass


def _payload(refusal: Refusal, messages: Messages) -> tuple[bytes, int]:
    """The event's first `PAYLOAD_BYTES` bytes, and its size."""
    size = max(0, refusal.end - refusal.begin)
    return bytes(messages.data[refusal.begin : refusal.begin + min(size, PAYLOAD_BYTES)]), size
