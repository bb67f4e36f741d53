"""Trainers, a log and a modelled Redis, driven at random: what may happen between any two commands does happen.

The code under test is the product's own: `ModelWriter`, `resume` and `Replay`. What is modelled is what stands around
it: the server (`simulation.server`), the log, a learner whose rows say which events they have seen, and the trainer's
loop, which does what the real one does: take over, load, learn while a cut is on its way, commit until it is known
what became of it.

Invariant, looked at after every write: each shard holds the effect of exactly the events between its origins and its
offsets, each once.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
from greenlet import GreenletExit, getcurrent, greenlet
from simulation.server import Server

from ctr.errors import FencedError, ServerWentBackError, StoreUnavailableError
from ctr.events.batch import Batch
from ctr.model.replay import Replay
from ctr.rows import ALL_SHARDS, RowBlock
from ctr.spec import Field, Model, Spec, Store
from ctr.store import Cut, ModelWriter, StoredModel, Watermarks, resume
from ctr.store.keys import ShardKeys

PARTITIONS, EVENTS = 4, 60
FEATURES = 3
BIAS = 1


class ViolationError(AssertionError):
    """The store holds what it must not."""


class Learner:
    """Rows that count, for every event, how often it was learned."""

    def __init__(self, row_bytes: int) -> None:
        self.rows: dict[int, bytearray] = {BIAS: bytearray(row_bytes)}
        self.dirty: set[int] = {BIAS}
        self.row_bytes = row_bytes

    def learn_many(self, batch: Batch, *, salts=None):  # noqa: ARG002  of every learner
        return self._learn(batch, np.zeros((len(batch), 1), np.bool_))

    def learn_masked(self, batch: Batch, frozen, *, salts=None):  # noqa: ARG002  of every learner
        return self._learn(batch, frozen)

    def _learn(self, batch: Batch, frozen):
        keys = batch.keys.tolist()
        for i in range(len(batch)):
            place = int(batch.partitions[i]) * EVENTS + int(batch.offsets[i])
            for key in (BIAS, *keys[batch.start[i] : batch.start[i + 1]]):
                if not frozen[i, key % frozen.shape[1]]:
                    self.rows.setdefault(key, bytearray(self.row_bytes))[place] += 1
                    self.dirty.add(key)
        return np.zeros(len(batch), np.float32)

    def load(self, block: RowBlock) -> None:
        for key, row in zip(block.keys.tolist(), block.data, strict=True):
            self.rows[key] = bytearray(row.tobytes())
            self.dirty.discard(key)

    def take_dirty(self, chosen) -> RowBlock:
        keys = sorted(key for key in self.dirty if chosen[key % len(chosen)])
        self.dirty.difference_update(keys)
        data = b"".join(self.rows[key] for key in keys)
        return RowBlock(np.array(keys, np.uint64), np.frombuffer(data, np.uint8).reshape(len(keys), self.row_bytes))


class Trainer:
    """One process: a thread that talks to the store (a greenlet), and learning, which goes on meanwhile."""

    def __init__(self, world: World) -> None:
        self.world, self.rng = world, world.rng
        self.writer = ModelWriter(world.server, world.stored)
        self.asleep_until = 0
        self.learns = False
        self.ended = False
        self.main = greenlet(self._run, world.hub)

    def _run(self) -> None:
        try:
            self.recover()
            while True:
                self.world.pause()
                if self.rng.random() < 0.3:
                    self.commit()
        except FencedError:
            self.world.seen["fenced"] += 1
        except GreenletExit:
            pass
        self.learns, self.ended = False, True

    def patiently(self, action):
        while True:
            try:
                return action()
            except StoreUnavailableError:
                self.world.seen["unavailable"] += 1
                self.world.pause()

    def recover(self) -> None:
        world, self.learns = self.world, False
        world.seen["take-overs"] += 1
        self.metas = self.patiently(self.writer.take_over)
        start = resume(self.metas)
        self.learner = self.patiently(self.load)
        self.replay = None if start.level else Replay(self.learner, start.stored)
        if not start.level:
            world.seen["uneven"] += 1
            world.seen["very uneven"] += len({tuple(sorted(offsets.items())) for offsets in start.stored}) > 2
        self.positions = {name: start.offsets[name] for name in world.names if name in start.offsets}
        self.origins: dict[str, int] = {}
        self.skipped: dict[str, list[tuple[int, int]]] = {}
        self.discover()
        self.skip()
        self.learns = True

    def load(self) -> Learner:
        learner = Learner(self.world.stored.row_bytes)
        for block in self.writer.load():
            learner.load(block)
        return learner

    def discover(self) -> None:
        """New partitions begin where this process happens to look first."""
        for name in self.world.names:
            if name not in self.positions:
                # what a single shard lacks of a partition's beginning is a gap: it keeps no origin
                begin = self.world.log_start.get(name, 0) if len(self.world.shards) > 1 else 0
                first = max(self.world.first_offset(), begin)
                self.positions[name] = self.origins[name] = first

    def skip(self) -> None:
        """Go on behind what the log has lost."""
        for name, first in self.world.log_start.items():
            if self.positions.get(name, first) < first:
                self.world.seen["gaps"] += 1
                self.skipped.setdefault(name, []).append((self.positions[name], first))
                self.positions[name] = first

    def learn(self) -> None:
        """A few of the next events of some partition."""
        self.discover()
        self.skip()
        left = [name for name in self.world.names if self.positions[name] < EVENTS]
        if not left:
            return
        name = self.rng.choice(left)
        begin = self.positions[name]
        end = min(begin + self.rng.randrange(1, 4), EVENTS)
        batch = self.world.batch(name, begin, end)
        if self.replay is not None and self.replay.over(self.positions):
            self.replay = None
        if self.replay is not None:
            self.replay.learn_many(batch, self.world.names)
        else:
            self.learner.learn_many(batch)
        self.positions[name] = end

    def commit(self) -> None:
        """All that was learned, in parts now and then; learning stands still until the last one is made."""
        parts = [ALL_SHARDS]
        if len(self.world.shards) > 1 and self.rng.random() < 0.2:
            self.world.seen["parted"] += 1
            begin = self.rng.randrange(1, len(self.world.shards))
            parts = [np.arange(len(self.world.shards)) < begin, np.arange(len(self.world.shards)) >= begin]
        for part in parts:
            self.learns = part is parts[-1]
            cut = Cut(
                self.learner.take_dirty(part), dict(self.positions), Watermarks(), origins=dict(self.origins),
                skipped={name: tuple(jumps) for name, jumps in self.skipped.items()}, chosen=part,
            )  # fmt: skip
            self.world.jumps[cut.nonce] = cut.skipped
            try:
                self.patiently(lambda cut=cut: self.writer.commit(cut))
            except ServerWentBackError:
                self.world.seen["went back"] += 1
                self.recover()
                break
        self.world.seen["commits"] += 1

    def crash(self) -> None:
        """SIGKILL: what is in the socket may still arrive."""
        self.main.throw(GreenletExit)
        self.learns, self.ended = False, True  # also where it had not begun


@dataclass(frozen=True)
class Accepted:
    """What a shard has given up: of what its writer jumped over, all that lies beyond where the shard was before."""

    lost: int = 0
    gaps: Mapping[str, int] = field(default_factory=dict)
    offsets: Mapping[str, int] = field(default_factory=dict)

    def after(self, names, meta, jumps, below) -> Accepted:
        lost = self.lost
        for p, name in enumerate(names):
            had, gap = max(self.offsets.get(name, 0), meta.origins[name]), self.gaps.get(name, 0)
            for first, last in jumps.get(meta.nonce, {}).get(name, ()):
                if (begin := max(first, had)) < last:
                    lost |= below[p][last] & ~below[p][begin]
                    gap += last - begin
            if meta.gaps[name] != gap:
                raise ViolationError(f"gap of {meta.gaps[name]} where {gap} events were given up")
        return Accepted(lost, meta.gaps, meta.offsets)


class World:
    """One run.

    Parameters
    ----------
    seed : int
    shards : int
    trainers : int
        Processes at most.
    keys : int
        Features that there are.
    fault, crash, roll_back, sleep, retention : float
        Probabilities: of a round trip to fail; of the others at any step.
    """

    def __init__(
        self, seed: int, *, shards: int = 3, trainers: int = 3, keys: int = 9, fault: float = 0.02,
        crash: float = 0.002, roll_back: float = 0.001, sleep: float = 0.003, retention: float = 0.0,
    ) -> None:  # fmt: skip
        self.rng = random.Random(seed)
        self.hub = getcurrent()
        self.seen: Counter[str] = Counter()
        self.server = Server(self.rng, self.pause, self.check, fault)
        fields = tuple(Field(name=f"f{i}") for i in range(FEATURES))
        spec = Spec(name="m", fields=fields, model=Model(type="fm", k=32), store=Store(shards=shards))
        self.stored = StoredModel(spec, shards)
        self.shards = [ShardKeys(spec.model_id, shard) for shard in range(shards)]
        self.max_trainers, self.crash, self.roll_back, self.sleep = trainers, crash, roll_back, sleep
        self.retention = retention
        self.log_start: dict[str, int] = {}
        self.jumps: dict[str, Mapping[str, Sequence[tuple[int, int]]]] = {}
        self.accepted = [Accepted() for _ in range(shards)]
        self.names = ["t:0"]
        rng = np.random.default_rng(seed)
        pool = rng.choice(np.arange(65536, 65536 + 40 * shards, dtype=np.uint64), keys, replace=False)
        self.keys = np.stack([rng.choice(pool, FEATURES, replace=False) for _ in range(PARTITIONS * EVENTS)])
        # one byte an event: which events touch a key, and which lie between origin and offset
        self.touches = {BIAS: sum(1 << 8 * place for place in range(PARTITIONS * EVENTS))}
        for place, found in enumerate(self.keys.tolist()):
            for key in found:
                self.touches[key] = self.touches.get(key, 0) | 1 << 8 * place
        self.below = [
            [sum(1 << 8 * (p * EVENTS + k) for k in range(end)) for end in range(EVENTS + 1)] for p in range(PARTITIONS)
        ]
        self.of_shard = [[key for key in self.touches if key % shards == shard] for shard in range(shards)]
        self.past: list[list] = [[] for _ in range(shards)]
        self.trainers: list[Trainer] = []
        self.now = 0
        for keys_of in self.shards:
            self.server.execute(("HSET", keys_of.meta, "ver", "0-new", "spec", spec.digest))

    def first_offset(self) -> int:
        """Where somebody begins to read a partition that the store does not know; one shard needs no origin."""
        return self.rng.randrange(4) if len(self.shards) > 1 else 0

    def batch(self, name: str, begin: int, end: int) -> Batch:
        p, n = self.names.index(name), end - begin
        return Batch(
            self.keys[p * EVENTS + begin : p * EVENTS + end].ravel(), np.ones(n * FEATURES, np.float32),
            np.tile(np.arange(FEATURES, dtype=np.uint8), n), np.arange(n + 1) * FEATURES, np.zeros(n, np.float32),
            np.ones(n, np.float32), np.zeros(n), np.full(n, p, np.int32), np.arange(begin, end), True,
        )  # fmt: skip

    def pause(self) -> None:
        """Let others run, from within a trainer."""
        if getcurrent() is not self.hub:
            self.hub.switch()

    def meta(self, shard: int) -> SimpleNamespace:
        held = self.server.hashes[self.shards[shard].meta]
        offsets = {name: int(held.get(f"offset:{name}".encode(), 0)) for name in self.names}
        origins = {name: int(held.get(f"origin:{name}".encode(), 0)) for name in self.names}
        gaps = {name: int(held.get(f"gap:{name}".encode(), 0)) for name in self.names}
        nonce = held[b"ver"].decode().partition("-")[2][:16]  # a mutation makes it longer
        return SimpleNamespace(offsets=offsets, origins=origins, gaps=gaps, nonce=nonce)

    def check(self, names: set[str]) -> None:
        """The invariant, of the shards that were written."""
        for shard, keys_of in enumerate(self.shards):
            if keys_of.meta not in names and keys_of.rows not in names:
                continue
            meta, allowed = self.meta(shard), 0
            accepted = self.accepted[shard] = self.accepted[shard].after(self.names, meta, self.jumps, self.below)
            for p, name in enumerate(self.names):
                if meta.offsets[name] > meta.origins[name]:
                    allowed |= self.below[p][meta.offsets[name]] & ~self.below[p][meta.origins[name]] & ~accepted.lost
            rows = self.server.hashes.get(keys_of.rows, {})
            for key in self.of_shard[shard]:
                row = int.from_bytes(rows.get(key.to_bytes(8, "little"), b""), "little")
                wanted = self.touches[key] & allowed
                if row != wanted:
                    kind = "hole" if wanted & ~row else "duplicate"
                    raise ViolationError(f"{kind} in shard {shard}, key {key}, step {self.now}")
            if self.rng.random() < 0.2:
                self.past[shard] = [*self.past[shard][-3:], self._copy(shard)]

    def _copy(self, shard: int):
        keys_of, server = self.shards[shard], self.server
        return dict(server.hashes[keys_of.meta]), dict(server.hashes.get(keys_of.rows, {})), self.accepted[shard]

    def _roll_back(self, shard: int) -> None:
        """A fail-over: the new master never got the last commits."""
        if self.past[shard]:
            meta, rows, self.accepted[shard] = self.rng.choice(self.past[shard])
            keys_of = self.shards[shard]
            self.server.hashes[keys_of.meta], self.server.hashes[keys_of.rows] = dict(meta), dict(rows)
            self.server.fail_over()
            self.past[shard] = []
            self.seen["rollbacks"] += 1

    def step(self) -> None:
        """One thing happens."""
        self.now += 1
        rng, chance = self.rng, self.rng.random()
        alive = self.trainers = [trainer for trainer in self.trainers if not trainer.ended]
        if len(alive) < self.max_trainers and (not alive or chance > 0.998):
            alive.append(Trainer(self))
        if chance < self.crash:
            self.seen["crashes"] += 1
            rng.choice(alive).crash()
        elif (chance := chance - self.crash) < self.roll_back:
            self._roll_back(rng.randrange(len(self.shards)))
        elif (chance := chance - self.roll_back) < self.sleep:
            self.seen["zombies"] += 1
            rng.choice(alive).asleep_until = self.now + rng.choice((10, 100, 400))
        elif (chance := chance - self.sleep) < 0.002 and len(self.names) < PARTITIONS:
            self.names.append(f"t:{len(self.names)}")
        elif (chance := chance - 0.002) < self.retention:
            name = rng.choice(self.names)
            self.log_start[name] = min(EVENTS, self.log_start.get(name, 0) + rng.randrange(1, 20))
        elif (chance := chance - self.retention) < 0.02 and self.server.late:
            self.server.run_late()
        else:
            trainer = rng.choice(alive)
            if trainer.asleep_until > self.now:
                return
            if trainer.learns and rng.random() < 0.15:
                trainer.learn()
            else:
                trainer.main.switch()

    def run(self, steps: int) -> Counter[str]:
        """Random steps, then one undisturbed trainer to the end of the log; what happened, by name.

        Raises
        ------
        ViolationError
        """
        try:
            for _ in range(steps):
                self.step()
            self._finish()
        finally:
            for trainer in self.trainers:
                trainer.crash()
        self.seen.update(self.server.seen, steps=self.now)
        return self.seen

    def _finish(self) -> None:
        for trainer in self.trainers:
            trainer.crash()
        self.server.fault = self.crash = self.roll_back = self.sleep = self.retention = 0.0
        self.max_trainers = 1
        for _ in range(20_000):
            self.step()
            ends = dict.fromkeys(self.names, EVENTS)
            if all(self.meta(shard).offsets == ends for shard in range(len(self.shards))):
                break
        else:
            raise ViolationError("no end: the log was not learned")
        for shard in range(len(self.shards)):
            self.check({self.shards[shard].meta})
        origins = [self.meta(shard).origins for shard in range(len(self.shards))]
        if any(found != origins[0] for found in origins):
            raise ViolationError("origins differ from shard to shard")
