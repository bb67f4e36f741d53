"""The life of rows against an oracle of a dict: who is let in, who expires, who makes room, and when."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import Event, minute_of, mix64, to_batch

from ctr.model import BIAS_KEY, Model, RowBlock
from ctr.spec import Field, Lifetime, Spec
from ctr.spec import Model as ModelSpec

F, K = 3, 4


def make_spec(*, ttl_s=0.0, admission=1.0, dense=True, seed=1, family="ffm"):
    return Spec(
        name="m", fields=tuple(Field(name=f"f{i}", multi=not dense) for i in range(F)),
        model=ModelSpec(type=family, k=K, start=0.1, seed=seed), lifetime=Lifetime(ttl_s=ttl_s, admission=admission),
    )  # fmt: skip


class Oracle:
    """The rules, in the order in which they apply to an event: sweep, let in, touch. `rows` is key -> [count, seen]."""

    def __init__(self, spec, max_rows):
        self.ttl_s, self.admission, self.seed = spec.lifetime.ttl_s, spec.lifetime.admission, spec.model.seed
        self.max_rows, self.rows, self.watermark = max_rows, {}, -(2.0**24)
        self.created = self.expired = self.evicted = self.refused = 0

    def lets_in(self, key, position):
        u = mix64(key ^ mix64(position ^ mix64(self.seed ^ 0xD1B54A32D192ED03)))
        return (u >> 11) / 2**53 < self.admission

    def is_old(self, key, now):
        return self.ttl_s > 0 and (now - self.rows[key][1]) * 60 > self.ttl_s

    def sweep(self, now, features):
        for key in [key for key in self.rows if self.is_old(key, now)]:
            del self.rows[key]
            self.expired += 1
        for key in sorted(self.rows, key=lambda key: (self.rows[key][1], key)):
            if len(self.rows) <= min(self.max_rows * 63 // 64, max(0, self.max_rows - features)):
                break
            del self.rows[key]
            self.evicted += 1

    def learn(self, event, position):
        if event.c == 0:
            return
        minute = minute_of(event.time_s)
        keys = [key for key, _, x in event.features if x != 0]
        new = [key for key in keys if key not in self.rows and self.lets_in(key, position)]
        now = max(minute, self.watermark)
        passed = self.ttl_s > 0 and math.floor(now * 600 / self.ttl_s) > math.floor(self.watermark * 600 / self.ttl_s)
        if passed or len(self.rows) + len(new) > self.max_rows:
            self.sweep(now, len(keys))
        for key in keys:
            if key not in self.rows:
                if not self.lets_in(key, position):
                    continue
                if len(self.rows) == self.max_rows:
                    self.refused += 1
                    continue
                self.rows[key] = [0, minute]
                self.created += 1
            elif self.is_old(key, minute):
                self.rows[key] = [0, minute]
                self.expired += 1
            row = self.rows[key]
            row[0], row[1] = row[0] + 1, max(row[1], minute)
        self.watermark = now


class Store:
    """What a store holds after each commit, without one."""

    def __init__(self):
        self.rows = {}

    def commit(self, model):
        block, gone = model.take_dirty(), model.take_gone().tolist()
        assert not set(gone) & set(block.keys.tolist())
        assert set(gone) <= set(self.rows), "only what was stored is named"
        for key in gone:
            del self.rows[key]
        self.rows.update(zip(block.keys.tolist(), map(bytes, block.data), strict=True))

    def restart(self, spec, max_rows, rng):
        model, keys = Model(spec, max_rows=max_rows), list(self.rows)
        rng.shuffle(keys)  # the table's layout must not matter
        data = np.array([np.frombuffer(self.rows[key], np.uint8) for key in keys])
        model.load(RowBlock(np.array(keys, np.uint64), data))
        return model

    def lives(self, family):
        """{key: [count, seen]} as the packed rows say."""
        lives = {}
        for key, row in self.rows.items():
            w = np.frombuffer(row, "<f4", offset=4)
            head = K * row[0] if family == "ffm" else 0
            lives[key] = [w[head + 1], w[head + 2]]
        return lives


def stream(rng, n, *, values, step_s, dense=True):
    """Events whose features change over time; late ones, held-out ones, bursts in one minute, leaps beyond any ttl."""
    events, time_s = [], 1.7e9
    for _ in range(n):
        time_s += float(rng.choice([0.0, step_s, step_s, 300 * step_s], p=[0.3, 0.39, 0.3, 0.01]))
        drift = int((time_s - 1.7e9) / (20 * step_s))
        features = []
        for f in range(F):
            few = rng.integers(values // 4 + 1) if f == 0 else drift + rng.integers(values)
            numbers = {int(few) for _ in range(1 if dense else rng.integers(4))} | ({drift} if not dense else set())
            features += [(((f + 1) << 56) + (v << 33) + 77, f, 1.0) for v in sorted(numbers) if rng.random() < 0.9]
        late = float(rng.choice([0.0, 30 * step_s], p=[0.9, 0.1]))
        c = float(rng.choice([1.0, 0.0], p=[0.9, 0.1]))
        events.append(Event(features, float(rng.random() < 0.3), c, time_s - late))
    return events


STREAMS = given(
    seed=st.integers(0, 2**32), ttl_s=st.sampled_from([0.0, 90.0, 1800.0]), step_s=st.sampled_from([1.0, 30.0]),
    admission=st.sampled_from([1.0, 0.5, 0.05]), max_rows=st.sampled_from([1, 2, 10, 70, 130]),
    values=st.integers(1, 60),
    dense=st.booleans(), family=st.sampled_from(["ffm", "ffm", "lr"]),
)  # fmt: skip


@settings(max_examples=150)
@STREAMS
def test_rows_live_as_the_oracle_says(seed, ttl_s, step_s, admission, max_rows, values, dense, family):
    rng = np.random.default_rng(seed)
    spec = make_spec(ttl_s=ttl_s, admission=admission, dense=dense, seed=seed, family=family)
    events = stream(rng, 400, values=values, step_s=step_s, dense=dense)
    model, oracle, store = Model(spec, max_rows=max_rows), Oracle(spec, max_rows), Store()
    batch = to_batch(events, F, dense=dense)
    for begin in range(0, 400, 80):
        model.learn_many(batch.slice(begin, begin + 80))
        for i in range(begin, begin + 80):
            oracle.learn(events[i], i)
        store.commit(model)
        lives = store.lives(family)
        assert lives.pop(BIAS_KEY)[1] == oracle.watermark
        assert lives == oracle.rows
        counts = model.counts
        assert (counts.rows_created, counts.rows_expired, counts.rows_evicted, counts.rows_refused) == (
            oracle.created, oracle.expired, oracle.evicted, oracle.refused,
        )  # fmt: skip
        assert model.rows == len(oracle.rows) <= max_rows


@settings(max_examples=100)
@STREAMS
def test_cuts_and_restarts_change_nothing(seed, ttl_s, step_s, admission, max_rows, values, dense, family):
    rng = np.random.default_rng(seed)
    spec = make_spec(ttl_s=ttl_s, admission=admission, dense=dense, seed=seed, family=family)
    batch = to_batch(stream(rng, 500, values=values, step_s=step_s, dense=dense), F, dense=dense)
    whole, stored = Model(spec, max_rows=max_rows), Store()
    p = whole.learn_many(batch)
    stored.commit(whole)
    model, store, parts, begin = Model(spec, max_rows=max_rows), Store(), [], 0
    while begin < 500:
        end = min(begin + int(rng.choice([1, 2, 17, 64, 200])), 500)
        parts.append(model.learn_many(batch.slice(begin, end)))
        begin = end
        if rng.random() < 0.6:
            store.commit(model)
            if rng.random() < 0.5:
                model = store.restart(spec, max_rows, rng)
    store.commit(model)
    np.testing.assert_array_equal(np.concatenate(parts), p)
    assert model.state_hash() == whole.state_hash()
    assert store.rows == stored.rows


def minutes(*numbers):
    return [1577836800 + 60.0 * (1_000_000 + number) for number in numbers]


def key_of(f, value):
    return ((f + 1) << 56) + value


def learn(model, *events):
    """Events as (time_s, {field: value}); returns the keys held afterwards, without their field."""
    batch = to_batch(
        [Event([(key_of(f, v), f, 1.0) for f, v in row.items()], 1.0, 1.0, time_s) for time_s, row in events],
        F, dense=True,
    )  # fmt: skip
    model.learn_many(batch)
    return {int(key) & 0xFFFFFF for key in model._table.held()[0] if key != BIAS_KEY}


def test_the_oldest_make_room_and_of_one_minute_the_smallest_keys():
    model = Model(make_spec(), max_rows=6)
    early, late = minutes(0, 1)
    held = learn(model, (late, {0: 10}), (early, {0: 13}), (early, {0: 11}), (early, {0: 12}), (late, {0: 14, 1: 15}))
    assert held == {10, 11, 12, 13, 14, 15}
    assert learn(model, (late, {0: 13})) == held  # seen again, and no row is new
    assert learn(model, (late, {0: 16})) == {10, 12, 13, 14, 15, 16}  # 5 = 6 * 63 // 64 and the new one
    assert learn(model, (late, {0: 17, 1: 18, 2: 19})) == {13, 14, 15, 16, 17, 18, 19} - {13}  # 12, then 10 and 13


def test_what_expired_goes_first_and_may_be_all_that_goes():
    model = Model(make_spec(ttl_s=600.0), max_rows=6)
    times = minutes(0, 5, 10, 11)
    learn(model, (times[1], {0: 10, 1: 11}), (times[0], {0: 12}), (times[2], {0: 13, 1: 14, 2: 15}))
    assert model.counts.rows_expired == 0
    assert learn(model, (times[3], {0: 10})) == {10, 11, 13, 14, 15}
    assert (model.counts.rows_expired, model.counts.rows_evicted) == (1, 0)


def test_a_sweep_comes_with_the_watermark_and_not_before():
    """Multiples of ttl / 10: 600 s here, ten minutes, and the first event is one after a multiple."""
    model = Model(make_spec(ttl_s=6000.0))
    at = minutes(1, 100, 102, 109, 110)
    learn(model, (at[0], {0: 10}))
    assert learn(model, (at[1], {0: 11})) == {10, 11}
    assert learn(model, (at[3], {0: 11})) == {10, 11}, "expired, but not touched, and no sweep is due"
    held_out = to_batch([Event([(key_of(0, 11), 0, 1.0)], 1.0, 0.0, at[4])], F, dense=True)
    model.learn_many(held_out)
    assert learn(model, (at[2], {0: 11})) == {10, 11}, "an event of weight 0 moves nothing"
    assert learn(model, (at[4], {0: 11})) == {11}


def test_more_new_features_than_rows_are_refused_and_counted():
    model = Model(make_spec(dense=False), max_rows=5)
    features = [(key_of(0, i), 0, 1.0) for i in range(8)]
    model.learn_many(to_batch([Event(features, 1.0)], F, dense=False))
    assert (model.rows, model.counts.rows_refused, model.counts.rows_evicted) == (5, 3, 0)


@pytest.fixture
def of_which_some_left():
    """A model that the features 10 and 12 have left, which are stored, and 20 or 21, which is not."""
    model = Model(make_spec(), max_rows=4)
    times = minutes(*range(9))
    learn(model, (times[0], {0: 10, 1: 11, 2: 12}))
    model.take_dirty()
    learn(model, (times[1], {0: 20, 1: 21}))  # 10 and 11 leave, which are stored
    learn(model, (times[2], {0: 22, 1: 23}))  # 12 leaves, and one that was never stored
    learn(model, (times[3], {1: 11}))
    return model


def test_gone_are_those_that_the_store_has_and_that_did_not_come_back(of_which_some_left):
    model = of_which_some_left
    assert sorted(key & 0xFF for key in model.take_gone().tolist()) == [10, 12]
    assert model.take_gone().tolist() == []
    assert key_of(1, 11) in model.take_dirty().keys.tolist()


def test_gone_of_other_shards_are_given_later(of_which_some_left):
    model = of_which_some_left
    gone = {key_of(0, 10), key_of(2, 12)}
    shards = next(n for n in range(2, 100) if len({key % n for key in gone}) == 2)
    first = np.arange(shards) == key_of(0, 10) % shards
    assert model.take_gone(first).tolist() == [key_of(0, 10)]
    assert model.take_gone(~first).tolist() == [key_of(2, 12)]
    assert model.take_gone().tolist() == []


def test_after_settling_nothing_is_to_be_stored(of_which_some_left):
    model = of_which_some_left
    model.settle()
    assert model.dirty_rows == 0
    assert len(model.take_dirty()) == 0
    assert len(model.take_gone()) == 0
    learn(model, (minutes(20)[0], {0: 30, 1: 31}))  # all that was there counts as stored
    assert len(model.take_gone()) > 0


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("family", ["lr", "fm", "ffm", "fwfm", "fefm"])
def test_a_recycled_row_starts_as_unseen(family, dense):
    """What stood in a row before is nobody's: its new owner's row is that of a model in which it is the first."""
    used, fresh = (Model(make_spec(family=family, dense=dense)) for _ in range(2))
    (now,) = minutes(0)
    first, second = ([Event([(key_of(f, v), f, 1.0) for f in range(F)], 1.0, 1.0, now)] for v in (10, 20))
    used.learn_many(to_batch(first * 20, F, dense=dense))
    rows = dict(zip(*(part.tolist() for part in used._table.held()), strict=True))
    used.forget(np.array([key_of(f, 10) for f in range(F)], np.uint64))
    keys, own = used._table.held()
    fresh.load(RowBlock(keys, used._table.pack(own)))  # bias and pair weights alone
    batch = to_batch(second * 3, F, dense=dense)
    np.testing.assert_array_equal(used.learn_many(batch), fresh.learn_many(batch))
    assert used.state_hash() == fresh.state_hash()
    recycled = {rows[key_of(f, 10)] for f in range(F)}
    keys, numbers = used._table.held()
    assert recycled == {int(n) for key, n in zip(keys, numbers, strict=True) if key >= 1 << 56}


@pytest.mark.parametrize("dense", [True, False])
def test_a_new_key_is_known_to_the_next_event_of_its_block(dense):
    """Keys of 32 events are looked up at once: one that an event among them creates is found by those behind it."""
    model, one_by_one = (Model(make_spec(dense=dense)) for _ in range(2))
    (now,) = minutes(0)
    features = [(key_of(f, 10), f, 1.0) for f in range(F)]
    events = [Event(features, 1.0, c, now) for c in (0.0, 1.0, 0.0, 1.0, 0.0)]
    events += [Event([(key_of(0, 11), 0, 1.0)], 1.0, 0.0, now)]
    p = model.learn_many(to_batch(events, F, dense=dense))
    q = [one_by_one.learn_many(to_batch([event], F, dense=dense))[0] for event in events]
    np.testing.assert_array_equal(p, q)
    assert model.state_hash() == one_by_one.state_hash()
    assert (model.rows, model.counts.rows_created, model.counts.events_learned) == (F, F, 2)
    assert p[0] == p[1] < p[2] == p[3] < p[4]  # held out and learned alike see what was learned before, and no more


@pytest.mark.parametrize("dense", [True, False])
def test_a_sweep_in_mid_block_is_that_of_the_same_events_one_by_one(dense):
    """Of 40 events in one call the 8th asks for room: those before it are learned first, those behind find it swept."""
    model, one_by_one = (Model(make_spec(dense=dense), max_rows=7) for _ in range(2))
    events = [
        Event([(key_of(0, 10 + i if i < 30 else 10), 0, 1.0)], float(i % 2), 1.0, time_s)
        for i, time_s in enumerate(minutes(*range(40)))
    ]
    p = model.learn_many(to_batch(events, F, dense=dense))
    q = [one_by_one.learn_many(to_batch([event], F, dense=dense))[0] for event in events]
    np.testing.assert_array_equal(p, q)
    assert model.state_hash() == one_by_one.state_hash()
    assert model.counts == one_by_one.counts
    # 6 = 7 * 63 // 64 stay: from the 8th event on each new key drops one, or makes it two the first time
    assert model.counts.rows_created == 31
    assert model.counts.rows_evicted == 31 - model.rows


def test_a_model_without_a_store_remembers_nothing_of_what_left():
    model = Model(make_spec(), max_rows=4)
    learn(model, *((time_s, {0: i, 1: i + 100}) for i, time_s in enumerate(minutes(*range(300)), 20)))
    assert model.counts.rows_evicted > 500
    assert model.take_gone().tolist() == []
    assert model._table._gone == []


@pytest.mark.parametrize("p", [0.5, 0.02])
def test_features_are_let_in_with_the_given_probability(p):
    """n keys once each: binomial, so within 6 standard deviations; and once more each, independently of the first."""
    n, model = 20_000, Model(make_spec(admission=p))
    events = [Event([(key_of(f, 100 + i), f, 1.0) for f in range(F)], 1.0) for i in range(n)]
    batch = to_batch(events, F, dense=True)
    model.learn_many(batch)
    first, spread = model.rows, 6 * math.sqrt(3 * n * p * (1 - p))
    assert abs(first - 3 * n * p) < spread
    model.learn_many(batch)
    assert model.rows == first, "the same events again decide alike"
    model.learn_many(replace(batch, offsets=batch.offsets + n))
    assert abs(model.rows - 3 * n * (1 - (1 - p) ** 2)) < spread


def test_features_not_let_in_count_as_unknown():
    model = Model(make_spec(admission=1e-9))
    known = [Event([(key_of(0, i), 0, 1.0)], float(i % 2)) for i in range(2)]
    nobody = to_batch([Event([], float(i % 2)) for i in range(2)], F, dense=True)
    twin = Model(make_spec())
    np.testing.assert_array_equal(model.learn_many(to_batch(known, F, dense=True)), twin.learn_many(nobody))
    assert model.state_hash() == twin.state_hash()
    assert model.counts.events_learned == 2


def test_positions_come_from_names_not_from_numbers():
    rng = np.random.default_rng(0)
    batch = to_batch(stream(rng, 600, values=50, step_s=1.0), F, dense=True)
    salts = rng.integers(0, 2**64, 3, np.uint64)
    partitions = rng.integers(0, 3, 600, np.int32)
    one, other, without = (Model(make_spec(admission=0.3)) for _ in range(3))
    one.learn_many(replace(batch, partitions=partitions), salts=salts)
    other.learn_many(replace(batch, partitions=2 - partitions), salts=salts[::-1].copy())
    without.learn_many(replace(batch, partitions=np.full(600, -1, np.int32)), salts=salts)
    plain = Model(make_spec(admission=0.3))
    plain.learn_many(batch)
    assert one.state_hash() == other.state_hash()
    assert without.state_hash() == plain.state_hash() != one.state_hash()


def test_index_and_bookkeeping_stay_within_32_bytes_a_row():
    """Rows themselves aside; also for the largest table, whose memory is reserved and not touched."""
    for max_rows in (1 << 16, 1 << 20, 1 << 26):
        table = Model(make_spec(), max_rows=max_rows)._table
        beside = table.index, table.row_key, table.row_field, table.dirty, table.stored
        assert sum(array.nbytes for array in beside) / max_rows <= 32
