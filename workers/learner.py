"""Chunks go in, cuts come out: a model together with all that is known of the events that it has learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ctr import log, metrics
from ctr.events import Batch
from ctr.events.hashing import partition_salts
from ctr.model import Model
from ctr.model.replay import Replay
from ctr.quality import Progressive
from ctr.rows import ALL_SHARDS
from ctr.store import Cut, Resume, Watermarks
from workers.pipeline import Chunk, Standing


class Learner:
    """What a take-over makes, and the next one throws away.

    Parameters
    ----------
    model : Model
        With the rows of the store.
    start : Resume
        Where the store stands.
    standing : Standing
        Where the source stands, opened there.
    quality : Progressive
        Outlives a take-over.
    """

    def __init__(self, model: Model, start: Resume, standing: Standing, quality: Progressive) -> None:
        self.model, self.standing, self._quality = model, standing, quality
        self._log = log.get(worker="trainer", model=model.spec.model_id)
        self._stored = start.stored
        self._replay = None if start.level else Replay(model, start.stored)
        self._salts = partition_salts(())
        self.event_s, self.arrival_s = start.watermarks.event_s, start.watermarks.arrival_s
        self._origins = {name: at for name, at in standing.positions.items() if name not in start.offsets}
        self._known = {*start.offsets, *self._origins}
        self._gaps = dict(start.gaps)
        self.left_out: Mapping[str, tuple[int, int]] = {}
        """Stretches of the log that an operator has discarded: the store has not got them, and will not."""

    @property
    def positions(self) -> Mapping[str, int]:
        """Next offset to learn of each partition."""
        return self.standing.positions

    @property
    def shards(self) -> int:
        """How many the store has of this model."""
        return len(self._stored)

    @property
    def waiting_bytes(self) -> int:
        """Size of the rows that wait for a cut."""
        return self.model.dirty_rows * self.model.row_bytes

    def learn(self, chunk: Chunk) -> None:
        """Learn a chunk's events; from here on the positions behind it are ours."""
        standing = chunk.standing
        if len(self._salts) < len(standing.partitions):
            self._salts = partition_salts(standing.partitions)
        if chunk.batch is not None:
            p = self._predicted(chunk.batch, standing.partitions)
            self._say_drift(self._quality.add(chunk.batch, p))
            if len(chunk.batch):
                self.event_s = max(self.event_s, float(np.max(chunk.batch.times_s)))
        self.standing = standing
        # until the source knows better, what the store says of the positions that we began at
        self.arrival_s = max(self.arrival_s, standing.arrival_s)
        for name in standing.positions.keys() - self._known:  # a partition that was born meanwhile
            self._origins[name] = 0
            self._known.add(name)
        if self._replay is not None and self._replay.over(standing.positions):
            self._replay = None
            self._log.info("shards_level")

    def _predicted(self, batch: Batch, partitions: Sequence[str]) -> NDArray[np.float32]:
        """Predictions from before each event; NaN where they say nothing about quality."""
        if self._replay is None:
            return self.model.learn_many(batch, salts=self._salts)
        p, fresh = self._replay.learn_many(batch, partitions, salts=self._salts)
        return np.where(fresh, p, np.float32(np.nan))

    def _say_drift(self, changed: bool) -> None:
        if changed:
            self._log.warning("drift", loss=self._quality.drift.mean, events=self._quality.drift.window_events)

    def cut(self, chosen: NDArray[np.bool_] = ALL_SHARDS) -> Cut:
        """Freeze what was learned since the last one; its events are counted, so that it can be judged.

        Of the ``chosen`` (shards,) where given; what the others have to get is left for further cuts, which must come
        before anything is learned.
        """
        self._say_drift(self._quality.settle())
        return Cut(
            rows=self.model.take_dirty(chosen),
            offsets=self.positions,
            watermarks=self.watermarks,
            gone=self.model.take_gone(chosen),
            origins=self.origins,
            marks=self.standing.marks,
            skipped=self._skipped,
            chosen=chosen,
        )

    @property
    def watermarks(self) -> Watermarks:
        """How far it has come."""
        return Watermarks(self.event_s, self.arrival_s)

    @property
    def _skipped(self) -> dict[str, list[tuple[int, int]]]:
        """Spans of offsets that the store will not have: lost by the log and accepted, or discarded by an operator."""
        spans = {name: list(jumps) for name, jumps in self.standing.skipped.items()}
        for name, span in self.left_out.items():
            spans.setdefault(name, []).append(span)
        return spans

    @property
    def gaps(self) -> dict[str, int]:
        """Events of each partition that were given up since the model was made: lost, or discarded."""
        now = {name: sum(last - first for first, last in jumps) for name, jumps in self._skipped.items()}
        return {name: self._gaps.get(name, 0) + now.get(name, 0) for name in {**self._gaps, **now}}

    @property
    def origins(self) -> dict[str, int]:
        """Where reading of those partitions began for which the store had no offset."""
        return dict(self._origins)

    def reached(self) -> list[dict[str, int]]:
        """For each shard the next offset that its rows do not have: while they are replayed, some are ahead."""
        if self._replay is None:
            return [dict(self.positions) for _ in self._stored]
        return [
            {name: max(at, stored.get(name, 0)) for name, at in self.positions.items()} for stored in self._stored
        ]

    def numbers(self) -> dict[str, metrics.Value]:
        """Metrics of table and quality."""
        rows = self.model.counts
        return {
            "ctr_source_lag": metrics.bounded(self.standing.lag, "partition"),
            "ctr_source_gap_events": metrics.bounded(self.gaps, "partition"),
            "ctr_event_watermark_seconds": self.event_s,
            "ctr_arrival_watermark_seconds": self.arrival_s,
            "ctr_table_rows": float(self.model.rows),
            "ctr_table_bytes": float(self.model.memory_bytes),
            "ctr_table_created": float(rows.rows_created),
            "ctr_table_evicted": float(rows.rows_evicted),
            "ctr_table_expired": float(rows.rows_expired),
            "ctr_table_refused": float(rows.rows_refused),
            "ctr_dirty_rows": float(self.model.dirty_rows),
            **self._quality.numbers(),
        }
