"""All shards of a model as its one writer sees them: one cut goes to every shard, one after the other.

Atomicity is per shard. A crash in mid-commit leaves some shards ahead of others; `resume` says from where to read, and
which shard has which events already (`ctr.model.replay` keeps them from counting twice).

For that, a shard that has no offset of a partition yet must mean one certain place, whatever the source would answer
after the crash: its *origin*. Every shard keeps it beside its first offset, and shard 0 is written first, so that who
finds an offset of a partition anywhere finds its origin too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ctr.errors import OriginsDifferError, SettingError, ShardLostError
from ctr.rows import RowBlock, shard_of
from ctr.store.catalog import StoredModel, write_again
from ctr.store.codec import RowPacker
from ctr.store.connection import Client, Session, is_cluster, translated
from ctr.store.shard import Meta, Version, Watermarks
from ctr.store.writer import Cut, ShardWriter

_POLICY = "noeviction"


@dataclass(frozen=True, slots=True)
class Resume:
    """Where to go on.

    Attributes
    ----------
    offsets : dict of str to int
        Next offset to read of each partition: that of the shard that is furthest behind.
    stored : tuple of dict of str to int
        For each shard the next offset that it does not have.
    watermarks : Watermarks
        How far all shards have come; the newest event time of any.
    furthest : dict of str to (int, str)
        Of each partition the next offset of the shard that is furthest ahead, and the log's mark there ("" where none
        was stored): a log that still has that place has all places before it.
    gaps : dict of str to int
        Events given up of each partition; of the shard that lacks most.
    """

    offsets: dict[str, int]
    stored: tuple[dict[str, int], ...]
    watermarks: Watermarks
    furthest: dict[str, tuple[int, str]] = field(default_factory=dict)
    gaps: dict[str, int] = field(default_factory=dict)

    @property
    def level(self) -> bool:
        """Whether all shards have the same events: nothing to mask."""
        return all(offsets == self.stored[0] for offsets in self.stored)


def resume(metas: Sequence[Meta]) -> Resume:
    """Where a writer goes on from what the shards say, in their order.

    Raises
    ------
    ShardLostError
        A shard has no offset of a partition that another has, and none knows its origin.
    OriginsDifferError
        Shards began a partition at different offsets.
    """
    origins = {partition: offset for meta in reversed(metas) for partition, offset in meta.origins.items()}
    for shard, meta in enumerate(metas):
        for name, offset in meta.origins.items():
            if offset != origins[name]:
                raise OriginsDifferError(
                    f"shard {shard} began {name} at offset {offset}, others at {origins[name]}: it lost its first "
                    "commits and an earlier writer went on with it; restore a snapshot, or begin a new generation"
                )
    names = dict.fromkeys([*origins, *(partition for meta in metas for partition in meta.offsets)])
    stored = []
    for shard, meta in enumerate(metas):
        places = {**origins, **meta.offsets}
        if lacking := [name for name in names if name not in places]:
            raise ShardLostError(
                f"shard {shard} does not know {', '.join(lacking)}, which others do: restore Redis from a backup"
            )
        stored.append(places)
    return Resume(
        {name: min(places[name] for places in stored) for name in names},
        tuple(stored),
        Watermarks(
            max(meta.watermarks.event_s for meta in metas),
            min(meta.watermarks.arrival_s for meta in metas),
            min(meta.watermarks.commit_s for meta in metas),
        ),
        {
            name: max((meta.offsets[name], meta.marks.get(name, "")) for meta in metas if name in meta.offsets)
            for name in {partition for meta in metas for partition in meta.offsets}
        },
        {
            name: max(meta.gaps.get(name, 0) for meta in metas)
            for name in {partition for meta in metas for partition in meta.gaps}
        },
    )


class ModelWriter:
    """The one writer of a model.

    Parameters
    ----------
    client : Client
    stored : StoredModel
        As `ctr.store.open_model` gives it.
    """

    def __init__(self, client: Client, stored: StoredModel) -> None:
        self._client, self._stored = client, stored
        keys, cluster = stored.keys, is_cluster(client)
        one = Session(client, keys[0].meta)
        self._sessions = [Session(client, of_shard.meta) for of_shard in keys] if cluster else [one] * len(keys)
        packer, digest = RowPacker(stored.row_bytes), stored.spec.digest
        self._writers = [
            ShardWriter(
                client, of_shard, spec_digest=digest, row_bytes=stored.row_bytes, session=session, packer=packer,
                streams=stored.shards,
            )
            for of_shard, session in zip(keys, self._sessions, strict=True)
        ]  # fmt: skip

    @property
    def shards(self) -> int:
        """How many."""
        return len(self._writers)

    @property
    def versions(self) -> tuple[Version, ...]:
        """Of each shard, as far as was acknowledged; empty before `take_over`."""
        metas = [writer.meta for writer in self._writers]
        return tuple(meta.version for meta in metas if meta is not None)

    def look(self) -> list[Meta]:
        """What every shard says, without becoming the owner. Raises what `ShardWriter.look` raises."""
        return [writer.look() for writer in self._writers]

    def take_over(self) -> list[Meta]:
        """Become the owner of every shard, once all of them can be used.

        Raises
        ------
        SettingError
            The server may evict what it holds.
        ShardLostError, ModelMismatchError
            See `ShardWriter.look`; all shards were left alone.
        StoreUnavailableError
            Redis did not answer; call again.
        """
        self._check_policy()
        self.look()
        return [writer.take_over() for writer in self._writers]

    def load(self) -> Iterator[RowBlock]:
        """All rows, in blocks. Call after `take_over`, while nothing is being committed."""
        for writer in self._writers:
            yield from writer.load()

    def commit(self, cut: Cut) -> None:
        """Publish a cut, shard by shard; every shard that it is for gets its offsets and watermarks, rows or not.

        Raises what `ShardWriter.commit` raises. After a `StoreUnavailableError` call again with the same cut: shards
        that have it are passed over. After any other error some shards may have it and some not: that is a crash in
        mid-commit, and `take_over` and `resume` start from there.

        Raises
        ------
        ValueError
            With more than one shard: the cut names a partition that the store does not know, without its origin.
        """
        if self.shards == 1:
            self._writers[0].commit(replace(cut, origins={}))
            return
        cut = replace(cut, origins=self._origins(cut))
        of_row, of_gone = shard_of(cut.rows.keys, self.shards), shard_of(cut.gone, self.shards)
        for shard in np.flatnonzero(np.broadcast_to(cut.chosen, self.shards)).tolist():
            writer = self._writers[shard]
            writer.commit(replace(cut, gone=cut.gone[of_gone == shard]), _places(of_row, shard))

    def _origins(self, cut: Cut) -> dict[str, int]:
        """As they are stored anywhere; of new partitions as the cut says."""
        metas = [writer.meta for writer in self._writers if writer.meta is not None]
        known = {name: offset for meta in reversed(metas) for name, offset in meta.origins.items()}
        origins = {name: offset for name, offset in {**cut.origins, **known}.items() if name in cut.offsets}
        for name in cut.offsets.keys() - origins.keys():
            if any(name not in meta.offsets for meta in metas):
                raise ValueError(f"a cut for {self.shards} shards has no origin of {name}")
        return origins

    def rewrite(
        self, blocks: Callable[[], Iterable[RowBlock]], reached: Sequence[Mapping[str, int]],
        origins: Mapping[str, int], watermarks: Watermarks, *, marks: Mapping[str, str], gaps: Mapping[str, int],
    ) -> None:  # fmt: skip
        """Take every shard over, whatever is left of it, and put these rows in the place of its own.

        For a store that lost what the log no longer holds, while a trainer still has it all in memory. Other writers
        are fenced first; each shard then changes in one transaction. Call again after a `StoreUnavailableError`.

        Parameters
        ----------
        blocks : callable
            Gives all rows, in blocks; called again where it has to be done again.
        reached : sequence of mapping of str to int
            For each shard the next offset that its rows do not have.
        origins : mapping of str to int
            Where reading of a partition began; of those the store knows already, what it knows.
        watermarks : Watermarks
        marks : mapping of str to str
            What the source says of the log at the furthest offsets.
        gaps : mapping of str to int
            Events given up so far, of those partitions of which the store does not know it.

        Raises
        ------
        StoreUnavailableError
        SettingError
            The server may evict what it holds.
        """
        self._check_policy()
        write_again(self._client, self._stored)
        for writer in self._writers:
            writer.begin_rewrite()
        for block in blocks():
            of_row = shard_of(block.keys, self.shards)
            for shard, writer in enumerate(self._writers):
                writer.add_rows(block, _places(of_row, shard))
        origins = dict(origins) if self.shards > 1 else {}
        for writer, offsets in zip(self._writers, reached, strict=True):
            writer.end_rewrite(offsets, origins, watermarks, marks, gaps)

    def _check_policy(self) -> None:
        for session in dict.fromkeys(self._sessions):
            self._check_policy_of(session)

    @staticmethod
    def _check_policy_of(session: Session) -> None:
        with translated():
            lines: bytes = session.call("INFO", "memory")
        policy = re.search(rb"^maxmemory_policy:(.*?)\r?$", lines, re.MULTILINE)
        if policy is not None and policy[1] != _POLICY.encode():
            raise SettingError(
                "maxmemory-policy", policy[1].decode(),
                f"{_POLICY}, or Redis may drop rows: CONFIG SET maxmemory-policy {_POLICY}",
            )  # fmt: skip

    def close(self) -> None:
        """Give the connections up."""
        for session in self._sessions:
            session.drop()


def _places(of_row: NDArray[np.int64], shard: int) -> NDArray[np.int64]:
    return np.flatnonzero(of_row == shard)
