"""The commit protocol under random faults: the product's own code over a modelled server and log.

A million steps here, fifty million behind `slow`. Each check of the protocol is also taken away in turn: the
simulation sees the damage, or another check is shown to prevent it.
"""

import dataclasses
import itertools
from collections import Counter

import pytest
from simulation.world import Learner, Trainer, ViolationError, World

from ctr.errors import OriginsDifferError, ShardLostError
from ctr.rows import ALL_SHARDS
from ctr.store import ModelWriter, Version, Watermarks, model_writer, resume, writer
from ctr.store.connection import Session
from ctr.store.shard import Meta
from ctr.store.writer import ShardWriter

CONFIGURATIONS = [
    {"shards": 1, "trainers": 1},
    {"shards": 1, "trainers": 3},
    {"shards": 3, "trainers": 1},
    {"shards": 3, "trainers": 3},
    {"shards": 2, "trainers": 2, "keys": 5},
    {"shards": 4, "trainers": 4, "keys": 16, "fault": 0.05},
    {"shards": 3, "trainers": 2, "roll_back": 0.004},
    {"shards": 3, "trainers": 3, "retention": 0.002},
]
STEPS = 2500


def simulate(configurations, seeds, steps=STEPS):
    """All that happened, and how many runs ended in a violation, by kind."""
    seen, violations = Counter(), Counter()
    for seed, configuration in itertools.product(seeds, configurations):
        try:
            seen += World(seed, **configuration).run(steps)
        except ViolationError as violation:
            violations[str(violation).split()[0]] += 1
        except OriginsDifferError:
            violations["told"] += 1
        except ShardLostError:  # the writer's own count of rows
            violations["rows"] += 1
    return seen, violations


@pytest.mark.timeout(900)  # 70-110 s
def test_each_event_counts_once_whatever_happens():
    seen, violations = simulate(CONFIGURATIONS, range(50))
    assert not violations
    assert seen["steps"] > 1_000_000
    for happened in ("crashes", "zombies", "rollbacks", "unknown", "late", "aborts", "fenced", "went back"):
        assert seen[happened] > 100, f"the simulation has not tried {happened}"
    assert seen["uneven"] > 100
    assert seen["very uneven"] > 20
    assert seen["gaps"] > 20
    assert seen["parted"] > 1000


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
@pytest.mark.parametrize("part", range(10))
def test_fifty_million_steps(part):
    total, seed, told = 0, 1_000_000 * (part + 1), 0
    while total < 5_000_000:
        seen, violations = simulate(CONFIGURATIONS, [seed])
        # A shard lost its very first commit, and with it who owns it: an earlier owner that is still alive began it
        # again, elsewhere. No writer can prevent that, for nothing is left that speaks against it; the next one tells.
        told += violations.pop("told", 0)
        assert not violations, f"seed {seed}"
        total, seed = total + seen["steps"], seed + 1
    assert told < 10


def test_shards_that_began_at_different_offsets_are_told():
    first, second = (Meta(Version(3, "a"), "me", "spec", Watermarks(), {"t:0": 9}, {"t:0": at}) for at in (2, 5))
    assert resume([first, first]).offsets == {"t:0": 9}
    with pytest.raises(OriginsDifferError, match="shard 1 began t:0 at offset 5, others at 2"):
        resume([first, second])


# Each mutation takes one check away, by the name under which its function stands below.


def no_owner_check(patch):
    patch.setattr(ShardWriter, "_check_owner", lambda *_: None)


def no_version_check(patch):
    patch.setattr(ShardWriter, "_check_version", lambda *_: None)


def no_watch(patch):
    calls = Session.calls

    def unwatched(self, commands):
        return calls(self, [("UNWATCH",) if command[0] == "WATCH" else command for command in commands])

    patch.setattr(Session, "calls", unwatched)


def reconnects_before_exec(patch):
    """As a client does that replaces a broken connection by itself."""
    transaction = Session.transaction

    def on_another(self, commands):
        self.drop()
        return transaction(self, commands)

    patch.setattr(Session, "transaction", on_another)


def nil_is_applied(patch):
    """An EXEC that a changed meta made void counts as done."""
    transaction = Session.transaction

    def never_nil(self, commands):
        commands = list(map(bytes_or_self, commands))
        replies = transaction(self, commands)
        return [0] * len(commands) if replies is None else replies

    patch.setattr(Session, "transaction", never_nil)


def no_mask(patch):
    patch.setattr(Learner, "learn_masked", lambda self, batch, *_, **__: self.learn_many(batch))


def offsets_go_back(patch):
    """A shard that is ahead gets the cut's offsets all the same."""
    next_meta = ShardWriter._next_meta

    def as_the_cut_says(self, cut, written, stored, rows):
        meta = next_meta(self, cut, written, stored, rows)
        return dataclasses.replace(meta, offsets={**stored.offsets, **cut.offsets})

    patch.setattr(ShardWriter, "_next_meta", as_the_cut_says)


def origins_are_not_kept(patch):
    """After a crash in mid-commit nobody knows where the shards without an offset of a partition begin."""
    patch.setattr(ModelWriter, "_origins", lambda *_: {})
    patch.setattr("simulation.world.resume", unchecked_resume)


def reading_goes_on_at_the_furthest(patch):
    def furthest(metas):
        start = RESUME(metas)
        ends = {name: max(places[name] for places in start.stored) for name in start.offsets}
        return dataclasses.replace(start, offsets=ends)

    patch.setattr("simulation.world.resume", furthest)


def rows_and_offsets_apart(patch):
    """Two transactions instead of one."""
    transaction = Session.transaction

    def apart(self, commands):
        commands = list(map(bytes_or_self, commands))
        if len(commands) < 3:
            return transaction(self, commands)
        first = transaction(self, commands[:-2])
        return None if first is None else first + transaction(self, commands[-2:])

    patch.setattr(Session, "transaction", apart)


def rows_are_loaded_before_the_take_over(patch):
    take_over, load = ModelWriter.take_over, ModelWriter.load

    def too_early(self):
        self.blocks = list(load(self))
        return take_over(self)

    patch.setattr(ModelWriter, "take_over", too_early)
    patch.setattr(ModelWriter, "load", lambda self: iter(self.blocks))


def what_was_learned_is_kept_when_the_server_went_back(patch):
    def keep(self):
        if not hasattr(self, "learner"):
            return recover(self)
        self.patiently(self.writer.take_over)
        return None

    recover = Trainer.recover
    patch.setattr(Trainer, "recover", keep)


def no_nonce_check(patch):
    """What became of an EXEC without reply is not looked at."""
    attempt = ShardWriter._attempt

    def blind(self, cut, chosen, mine):
        return attempt(self, dataclasses.replace(cut, nonce=f"{cut.nonce[:16]}{next(NUMBERS)}"), chosen, mine)

    patch.setattr(ShardWriter, "_attempt", blind)


def lost_replies_count_as_applied(patch):
    """After an EXEC without reply the writer goes on as if it had been done."""
    commit = ShardWriter.commit

    def hopeful(self, cut, chosen=None):
        try:
            commit(self, cut, chosen)
        except writer.StoreUnavailableError:
            rows = len(cut.rows) if chosen is None else len(chosen)
            self._meta, self._rows = self._next_meta(cut, rows, self._meta, 0), None

    patch.setattr(ShardWriter, "commit", hopeful)


def no_unwatch(patch):
    call = Session.call
    patch.setattr(Session, "call", lambda self, *command: None if command[0] == "UNWATCH" else call(self, *command))


def take_over_unwatched(patch):
    calls = Session.calls

    def unwatched(self, commands):
        commands = list(commands)
        return calls(self, [("UNWATCH",), *commands[1:]] if len(commands) == 2 else commands)

    patch.setattr(Session, "calls", unwatched)


def same_owner_token(patch):
    """Owners cannot be told apart, as with a number that two of them count up alike."""
    token = writer.secrets.token_hex
    patch.setattr(writer.secrets, "token_hex", lambda size: "owner" if size == 16 else token(size))


def parts_go_to_every_shard(patch):
    """A part of a cut moves the offsets of shards whose rows it has not got."""
    commit = ModelWriter.commit
    patch.setattr(ModelWriter, "commit", lambda self, cut: commit(self, dataclasses.replace(cut, chosen=ALL_SHARDS)))


def gaps_are_not_counted(patch):
    """Offsets jump over what the log has lost, and nobody says so."""
    patch.setattr(writer, "_gaps", lambda *_: {})


CAUGHT = [
    gaps_are_not_counted, parts_go_to_every_shard,
    no_version_check, no_watch, reconnects_before_exec, no_mask, offsets_go_back,
    origins_are_not_kept, reading_goes_on_at_the_furthest, rows_and_offsets_apart,
    rows_are_loaded_before_the_take_over, what_was_learned_is_kept_when_the_server_went_back,
]  # fmt: skip
COVERED = {
    no_owner_check: "the version, whose nonce is random, tells another writer's commit",
    same_owner_token: "the same",
    no_nonce_check: "the version is not what was acknowledged: recovery, for nothing",
    lost_replies_count_as_applied: "the version is not what is believed to be acknowledged: recovery",
    nil_is_applied: "the same",
    no_unwatch: "a WATCH too many makes one EXEC void, which is tried again",
    take_over_unwatched: "the version that was read is not the one that the first commit finds: recovery",
}
"""Checks that another check makes good, and which."""
TOGETHER = [
    (no_owner_check, no_version_check), (lost_replies_count_as_applied, no_version_check),
    (nil_is_applied, no_version_check), (same_owner_token, no_version_check), (take_over_unwatched, no_version_check),
]  # fmt: skip

RESUME, NUMBERS = model_writer.resume, itertools.count()


def bytes_or_self(command):
    return memoryview(bytes(command)) if isinstance(command, memoryview) else command


def unchecked_resume(metas):
    """As `resume`, for shards that know no origins: who has no offset begins anew."""
    names = dict.fromkeys(name for meta in metas for name in meta.offsets)
    stored = tuple({name: meta.offsets.get(name, 0) for name in names} for meta in metas)
    return model_writer.Resume({name: min(at[name] for at in stored) for name in names}, stored, Watermarks())


def violations_of(mutations, monkeypatch, seeds):
    for mutation in mutations:
        mutation(monkeypatch)
    return simulate(CONFIGURATIONS[1:], seeds)[1]


@pytest.mark.parametrize("mutation", CAUGHT, ids=lambda mutation: mutation.__name__)
def test_a_missing_check_is_seen(mutation, monkeypatch):
    for seed in range(60):
        if violations_of([mutation], monkeypatch, [seed]):
            return
        monkeypatch.undo()
    pytest.fail("nothing was seen")


@pytest.mark.parametrize("mutation", COVERED, ids=lambda mutation: mutation.__name__)
def test_a_missing_check_is_covered(mutation, monkeypatch):
    assert not violations_of([mutation], monkeypatch, range(4))


@pytest.mark.parametrize("mutations", TOGETHER, ids=lambda two: " and ".join(one.__name__ for one in two))
def test_what_covers_it_is_what_was_said(mutations, monkeypatch):
    for seed in range(60):
        if violations_of(mutations, monkeypatch, [seed]):
            return
        monkeypatch.undo()
    pytest.fail("nothing was seen")
