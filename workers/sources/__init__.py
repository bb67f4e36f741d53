"""Where events come from: Kafka, or files. One protocol, so that the trainer's loop is the same for both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ctr.events.messages import Messages


class Source(Protocol):
    """Messages of several partitions, each in order, from positions that the store knows.

    A partition is named by a string that stays the same for ever: ``topic:3``, or a file's path. Positions are the
    *next* offset to read.
    """

    @property
    def partitions(self) -> Sequence[str]:
        """Names; `Messages.partitions` are indices into this list, which only grows."""

    @property
    def finished(self) -> bool:
        """Whether all was read and nothing can come."""

    def open(self, offsets: Mapping[str, int], furthest: Mapping[str, tuple[int, str]] | None = None) -> None:
        """Go to these positions; a partition without one starts at its origin.

        Parameters
        ----------
        offsets : mapping of str to int
        furthest : mapping of str to (int, str), optional
            Of each partition the furthest position that was ever stored, and what `marks` said then: if the log is not
            the same there, it must not be read.

        Raises
        ------
        PositionLostError
            The log does not hold that position (any more).
        SourceUnavailableError
        """

    def poll(self, timeout_s: float) -> Messages | None:
        """The next messages, None where none came within `timeout_s`."""

    def positions(self) -> dict[str, int]:
        """Next offset of each partition, behind everything that `poll` has returned."""

    def marks(self) -> dict[str, str]:
        """Of each partition what tells at the next `open` whether the log at its position is still the same."""

    @property
    def skipped(self) -> Mapping[str, Sequence[tuple[int, int]]]:
        """Where reading jumped from and to since `open`: the log had lost what lies between, and that was accepted."""

    def arrival_watermark_s(self) -> float:
        """All that arrived before this moment has been returned: honest for replays and for quiet nights alike."""

    def lag(self) -> dict[str, int]:
        """What is left to read of each partition: records, or bytes."""

    @property
    def up(self) -> bool:
        """Whether it answered when it was last asked."""

    def committed(self, offsets: Mapping[str, int]) -> None:
        """These positions are in the store: tell lag tools. Never waits, never fails."""

    def close(self) -> None:
        """Let connections and files go."""
