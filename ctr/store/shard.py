"""What a shard's meta and change stream say, as values: read by writer and reader alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_OFFSET, _ORIGIN, _MARK, _GAP = b"offset:", b"origin:", b"mark:", b"gap:"


@dataclass(frozen=True, slots=True)
class Watermarks:
    """How far a shard has come, in seconds since 1970; 0 where nothing was learned yet.

    Attributes
    ----------
    event_s : float
        Newest event time learned.
    arrival_s : float
        All that arrived before this moment is learned: the minimum over partitions of the newest learned record's
        arrival, or of the last look that found nothing new.
    commit_s : float
        Wall time of the commit.
    """

    event_s: float = 0.0
    arrival_s: float = 0.0
    commit_s: float = 0.0

    def fields(self) -> dict[str, str]:
        """As they are stored."""
        moments = {"event_s": self.event_s, "arrival_s": self.arrival_s, "commit_s": self.commit_s}
        return {name: repr(float(moment)) for name, moment in moments.items()}  # float: NumPy's repr is not a number

    def joined(self, stored: Watermarks) -> Watermarks:
        """No moment of a shard ever goes back, also where a replay sends it what it had before."""
        event_s, arrival_s = max(self.event_s, stored.event_s), max(self.arrival_s, stored.arrival_s)
        return Watermarks(event_s, arrival_s, self.commit_s)

    @classmethod
    def read(cls, stored: Mapping[bytes, bytes]) -> Watermarks:
        """From a meta hash or a change entry."""
        return cls(*(float(stored.get(name, b"0")) for name in (b"event_s", b"arrival_s", b"commit_s")))


@dataclass(frozen=True, slots=True)
class Version:
    """``sequence-nonce``. The nonce, random for each cut, alone proves whose commit a version is."""

    sequence: int
    nonce: str

    @classmethod
    def read(cls, raw: bytes) -> Version:
        """From ``sequence-nonce``."""
        sequence, _, nonce = raw.decode().partition("-")
        return cls(int(sequence), nonce)

    def __str__(self) -> str:
        return f"{self.sequence}-{self.nonce}"

    @property
    def stream_id(self) -> str:
        """Id of the commit's entry in the change stream."""
        return f"{self.sequence}-0"


@dataclass(frozen=True, slots=True)
class Meta:
    """A shard's meta hash.

    Attributes
    ----------
    version : Version
    owner : str
        Token of the one writer.
    spec_digest : str
    watermarks : Watermarks
    offsets : dict of str to int
        Next offset to learn of each partition (``topic:partition``, or a file's path).
    origins : dict of str to int
        Where reading of a partition began: its offset as long as the shard has none. Not kept where there is one shard.
    least_rows : int
        So many rows the shard has at least. 0 where a version that did not count wrote last.
    marks : dict of str to str
        What the source said of the log at each offset, to know it again: see `workers.sources`.
    gaps : dict of str to int
        Events of each partition that the log lost before this shard had them, and that were given up on purpose.
    """

    version: Version
    owner: str
    spec_digest: str
    watermarks: Watermarks
    offsets: dict[str, int] = field(default_factory=dict)
    origins: dict[str, int] = field(default_factory=dict)
    least_rows: int = 0
    marks: dict[str, str] = field(default_factory=dict)
    gaps: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, stored: Mapping[bytes, bytes]) -> Meta | None:
        """None where there is no meta."""
        if b"ver" not in stored:
            return None
        return cls(
            version=Version.read(stored[b"ver"]),
            owner=stored.get(b"owner", b"").decode(),
            spec_digest=stored.get(b"spec", b"").decode(),
            watermarks=Watermarks.read(stored),
            offsets=_numbers(stored, _OFFSET),
            origins=_numbers(stored, _ORIGIN),
            least_rows=int(stored.get(b"rows", b"0")),
            marks=_texts(stored, _MARK),
            gaps=_numbers(stored, _GAP),
        )

    def positions(self) -> dict[str, int | str]:
        """All that is known of partitions, as it is stored."""
        return {
            **position_fields(self.offsets),
            **{_ORIGIN.decode() + partition: offset for partition, offset in self.origins.items()},
            **{_MARK.decode() + partition: mark for partition, mark in self.marks.items()},
            **{_GAP.decode() + partition: events for partition, events in self.gaps.items()},
        }


def _texts(stored: Mapping[bytes, bytes], prefix: bytes) -> dict[str, str]:
    chosen = {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}
    return {name.decode(): value.decode() for name, value in chosen.items()}


def _numbers(stored: Mapping[bytes, bytes], prefix: bytes) -> dict[str, int]:
    return {name: int(value) for name, value in _texts(stored, prefix).items()}


def position_fields(offsets: Mapping[str, int]) -> dict[str, int]:
    """Offsets as they are stored in meta."""
    return {_OFFSET.decode() + partition: offset for partition, offset in offsets.items()}
