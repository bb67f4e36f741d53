"""What a source hands to a reader, and what a reader could not read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Reason = Literal[
    "empty", "too_large", "encoding", "syntax", "type", "columns", "label", "time", "weight", "value", "corrupt"
]
"""Why an event is refused: a small fixed set, fit for a metric label."""


@dataclass(frozen=True, slots=True)
class Messages:
    """Raw messages of any source, in the order in which they are to be learned: slices of one buffer.

    Attributes
    ----------
    data : bytes-like
    begin, end : (n,) int64
        Message ``i`` is ``data[begin[i]:end[i]]``; ``end[i] = -1`` for a null message (tombstone).
    partitions : (n,) int32
        Index into the source's list of partitions.
    offsets : (n,) int64
        Position of the message: a Kafka offset, or the first byte of a line in its (uncompressed) file.
    arrivals_s : (n,) float64
        When the message entered the log, seconds since 1970.
    refused : tuple of Refusal
        What the source itself could not read, among or behind these messages: a corrupt record batch.
    """

    data: bytes | bytearray | memoryview
    begin: NDArray[np.int64]
    end: NDArray[np.int64]
    partitions: NDArray[np.int32]
    offsets: NDArray[np.int64]
    arrivals_s: NDArray[np.float64]
    refused: tuple[Refusal, ...] = ()

    def __len__(self) -> int:
        return len(self.begin)


@dataclass(frozen=True, slots=True)
class Refusal:
    """One event that cannot be read: what the dead letter says.

    `begin`, `end` are the event's bytes in the messages' buffer: a message of several lines loses only the bad one.
    """

    partition: int
    offset: int
    reason: Reason
    path: str
    message: str
    begin: int
    end: int
