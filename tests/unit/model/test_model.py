"""What a model promises, whatever kernel runs inside: order, purity, recovery, unknown features, bounds."""

import math
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from naive import Event, start_value, to_batch, unpack_rows

from ctr.errors import ModelMismatchError
from ctr.model import BIAS_KEY, Model, RowBlock
from ctr.rows import shard_of
from ctr.spec import Field, Lifetime, Optimizer, Spec
from ctr.spec import Model as ModelSpec

F = 6
CASES = pytest.mark.parametrize(("k", "dense"), [(4, True), (8, True), (12, True), (4, False)])


def make_spec(k=4, *, dense=True, ttl_s=0.0, optimizer=None, **model):
    return Spec(
        name="m", fields=tuple(Field(name=f"f{i}", multi=not dense) for i in range(F)),
        model=ModelSpec(**{"k": k, "max_rows": 4096, **model}), optimizer=optimizer or Optimizer(),
        lifetime=Lifetime(ttl_s=ttl_s),
    )  # fmt: skip


def stream(n, seed=0, values=30, missing=0.2, minutes=60):
    rng = np.random.default_rng(seed)
    events = []
    for i in range(n):
        features = [
            (((f + 1) << 56) + (int(rng.integers(values)) << 33) + 77, f, 1.0)
            for f in range(F) if rng.random() > missing
        ]  # fmt: skip
        events.append(Event(features, float(rng.random() < 0.3), float(rng.choice([1.0, 1.0, 0.0, 2.5])),
                            1.7e9 + i * 60.0 * minutes / n))  # fmt: skip
    return events


@CASES
def test_a_stream_may_be_cut_anywhere(k, dense):
    batch = to_batch(stream(2500), F, dense=dense)
    whole, cut = Model(make_spec(k, dense=dense, ttl_s=600)), Model(make_spec(k, dense=dense, ttl_s=600))
    p = whole.learn_many(batch)
    rng, begin, parts = np.random.default_rng(1), 0, []
    while begin < len(batch):
        end = min(begin + int(rng.choice([1, 2, 63, 64, 500])), len(batch))
        parts.append(cut.learn_many(batch.slice(begin, end)))
        begin = end
    np.testing.assert_array_equal(p, np.concatenate(parts))
    assert whole.state_hash() == cut.state_hash()
    assert whole.counts == cut.counts
    assert whole.counts.rows_expired > 0


@pytest.mark.parametrize("dense", [True, False])
def test_arrays_that_kernels_do_not_take_are_copied(dense):
    batch = to_batch(stream(300), F, dense=dense)
    names = ("keys", "values", "fields", "start", "labels", "weights", "times_s")
    frozen, spread = ({name: getattr(batch, name).copy() for name in names} for _ in range(2))
    for name, array in frozen.items():
        array.flags.writeable = False
        spread[name] = np.repeat(array, 2)[::2]
    spread["labels"] = batch.labels.astype(np.float64)
    plain = Model(make_spec(dense=dense))
    expected = plain.learn_many(batch), plain.predict_many(batch)
    for arrays in (frozen, spread):
        model, other = Model(make_spec(dense=dense)), replace(batch, **arrays)
        np.testing.assert_array_equal(model.learn_many(other), expected[0])
        np.testing.assert_array_equal(model.predict_many(other), expected[1])
        assert model.state_hash() == plain.state_hash()


@CASES
def test_prediction_is_pure_and_is_what_learning_predicts(k, dense):
    batch = to_batch(stream(300), F, dense=dense)
    model = Model(make_spec(k, dense=dense, ttl_s=900))
    model.learn_many(batch)
    model.take_dirty()
    later = to_batch(stream(1, seed=5), F, dense=dense)
    before, counts = model.state_hash(), model.counts
    p, logits = model.predict_many(later), model.logits_many(later)
    assert (model.state_hash(), model.counts, model.dirty_rows) == (before, counts, 0)
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-logits.astype(float))), rtol=2**-23)
    np.testing.assert_array_equal(model.learn_many(later), p)


def test_memory_of_a_cut_that_is_done_is_used_again_and_that_of_others_left_alone():
    batch = to_batch(stream(3000), F, dense=True)
    spec = make_spec(4, dense=True)
    model, plain = Model(spec), Model(spec)
    given, reused, sizes = [], 0, [400, 390, 30, 380, 5, 400, 400, 0, 200]
    for number, begin in enumerate(np.cumsum(sizes) - sizes):
        part = batch.slice(begin, begin + sizes[number])
        model.learn_many(part)
        plain.learn_many(part)
        block, expected = model.take_dirty(), plain.take_dirty()
        copies = [kept.data.copy() for kept in given]
        np.testing.assert_array_equal(block.keys, expected.keys)
        np.testing.assert_array_equal(block.data, expected.data)
        assert not any(np.shares_memory(block.data, kept.data) for kept in given), "it was not said to be done with"
        assert all(np.array_equal(kept.data, copy) for kept, copy in zip(given, copies, strict=True))
        if number % 3 == 2:
            given.append(block)
        else:
            where = block.data.ctypes.data
            model.reuse(block)
            del block
            model.learn_many(part)
            plain.learn_many(part)
            block = model.take_dirty()
            np.testing.assert_array_equal(block.data, plain.take_dirty().data)
            reused += block.data.ctypes.data == where
            model.reuse(block)
    assert reused >= 4


@CASES
def test_a_restart_from_packed_rows_continues_bit_for_bit(k, dense):
    """Rows leave by `take_dirty` in three commits, the last of each key wins; another model takes over."""
    batch = to_batch(stream(3000), F, dense=dense)
    spec = make_spec(k, dense=dense, ttl_s=1200)
    model, store = Model(spec), {}
    for begin in range(0, 1500, 500):
        model.learn_many(batch.slice(begin, begin + 500))
        block = model.take_dirty()
        assert model.dirty_rows == 0
        store.update(zip(block.keys.tolist(), block.data, strict=True))
    second = Model(spec)
    keys = list(store)
    np.random.default_rng(0).shuffle(keys)  # the table's layout must not matter
    second.load(RowBlock(np.array(keys, np.uint64), np.array([store[key] for key in keys])))
    assert second.state_hash() == model.state_hash()
    rest = batch.slice(1500, 3000)
    np.testing.assert_array_equal(model.learn_many(rest), second.learn_many(rest))
    assert second.state_hash() == model.state_hash()
    one, other = model.take_dirty(), second.take_dirty()
    assert dict(zip(one.keys.tolist(), map(bytes, one.data), strict=True)) == dict(
        zip(other.keys.tolist(), map(bytes, other.data), strict=True)
    )


@CASES
def test_dirty_rows_are_those_that_events_touched(k, dense):
    model = Model(make_spec(k, dense=dense))
    assert model.dirty_rows == 1  # the bias of a new model
    assert model.take_dirty().keys.tolist() == [BIAS_KEY]
    events = stream(40)
    model.learn_many(to_batch(events, F, dense=dense))
    touched = {key for event in events if event.c for key, _, _ in event.features}
    assert set(model.take_dirty().keys.tolist()) == touched | {BIAS_KEY}
    model.learn_many(to_batch([replace(event, c=0.0) for event in events], F, dense=dense))
    assert model.dirty_rows == 0
    assert len(model.take_dirty()) == 0


@CASES
def test_rows_of_some_shards_are_taken_and_the_others_stay_dirty(k, dense):
    model, plain = Model(make_spec(k, dense=dense)), Model(make_spec(k, dense=dense))
    for one in (model, plain):
        one.learn_many(to_batch(stream(400), F, dense=dense))
    whole, waiting = plain.take_dirty(), model.dirty_rows
    found = {}
    for chosen in (np.array([False, True, False]), np.array([True, False, True])):
        seen = list(model.dirty_blocks(chosen))
        assert model.dirty_rows == waiting, "a look changes nothing"
        block = model.take_dirty(chosen)
        assert chosen[shard_of(block.keys, 3)].all()
        np.testing.assert_array_equal(np.concatenate([part.data for part in seen]), block.data)
        found |= dict(zip(block.keys.tolist(), map(bytes, block.data), strict=True))
        waiting -= len(block)
        assert model.dirty_rows == waiting
    assert waiting == 0
    assert found == dict(zip(whole.keys.tolist(), map(bytes, whole.data), strict=True))


@CASES
def test_a_scorers_cache_answers_like_the_trainer(k, dense):
    spec = make_spec(k, dense=dense, ttl_s=1800)
    trainer, scorer = Model(spec), Model(spec, weights_only=True)
    batch, probe = to_batch(stream(1000), F, dense=dense), to_batch(stream(200, seed=9, values=60), F, dense=dense)
    trainer.learn_many(batch)
    scorer.load(trainer.take_dirty())
    np.testing.assert_array_equal(scorer.predict_many(probe), trainer.predict_many(probe))
    assert scorer.rows == trainer.rows
    with pytest.raises(TypeError, match="weights_only"):
        scorer.learn_many(batch)


@CASES
def test_a_new_feature_counts_as_zero_until_after_its_first_event(k, dense):
    spec = make_spec(k, dense=dense, start=0.5, base_rate=0.25)
    model = Model(spec)
    model.learn_many(to_batch(stream(50), F, dense=dense))
    known, new = stream(1, seed=3, missing=0)[0].features, (12345 << 33, 2, 1.0)
    with_new = to_batch([Event([new if f == 2 else (key, f, x) for key, f, x in known], 1.0)], F, dense=dense)
    without = to_batch([Event([each for each in known if each[1] != 2], 1.0)], F, dense=dense)
    expected = model.predict_many(without)
    np.testing.assert_array_equal(model.predict_many(with_new), expected)
    np.testing.assert_array_equal(model.learn_many(with_new), expected)
    assert model.predict_many(with_new) != expected


@CASES
def test_a_row_is_born_after_its_event(k, dense):
    """Alone in an event a feature has no partners: after it its latent factors are exactly the start values."""
    spec = make_spec(k, dense=dense, start=0.37, seed=99, linear=False)
    model = Model(spec)
    key = 2**63 + 5
    model.learn_many(to_batch([Event([(key, 3, 1.0)], 1.0)], F, dense=dense))
    row = unpack_rows(model.take_dirty(), F, k)[key]
    expected = np.array([[start_value(99, key, g * k + d, 0.37) for d in range(k)] for g in range(F)])
    expected[3] = 0
    np.testing.assert_array_equal(row.v, expected)
    assert abs(expected).max() > 0.3
    assert (row.count, row.w) == (1, 0)


@CASES
def test_weight_zero_is_predicted_and_nothing_else(k, dense):
    model = Model(make_spec(k, dense=dense))
    model.learn_many(to_batch(stream(100), F, dense=dense))
    before, counts = model.state_hash(), model.counts
    held_out = to_batch([replace(event, c=0.0) for event in stream(100, seed=4, values=90)], F, dense=dense)
    np.testing.assert_array_equal(model.learn_many(held_out), model.predict_many(held_out))
    assert (model.state_hash(), model.counts) == (before, counts)


def test_weight_zero_leaves_an_expired_row_alone():
    model = Model(make_spec(ttl_s=600))
    event = Event([(100, 0, 1.0), (200, 1, 1.0)], 1.0)
    for dense in (True, False):
        model.learn_many(to_batch([event], F, dense=dense))
        before = model.state_hash()
        late = to_batch([replace(event, c=0.0, time_s=event.time_s + 7200)], F, dense=dense)
        nobody = to_batch([Event([], c=0.0)], F, dense=dense)
        np.testing.assert_array_equal(model.learn_many(late), model.predict_many(nobody))
        assert model.state_hash() == before


@CASES
def test_a_full_table_makes_room(k, dense):
    """Which rows go is held against an oracle in test_lifetime."""
    small = Model(make_spec(k, dense=dense), max_rows=20)
    small.learn_many(to_batch(stream(400), F, dense=dense))
    counts = small.counts
    assert 0 < small.rows <= 20
    assert counts.rows_created - counts.rows_evicted == small.rows
    assert counts.rows_evicted > 0
    assert counts.rows_refused == counts.rows_expired == 0


def test_an_unknown_feature_still_counts_in_normalisation():
    model = Model(make_spec(normalize=True, start=0.5))
    a, b, stranger = (10**6, 0, 1.0), (2 * 10**6, 1, 1.0), (3 * 10**6, 2, 1.0)
    model.learn_many(to_batch([Event([a, b], 1.0)] * 20, F, dense=True))
    rows = unpack_rows(model.take_dirty(), F, 4)
    for dense in (True, False):
        two = model.logits_many(to_batch([Event([a, b])], F, dense=dense))
        three = model.logits_many(to_batch([Event([a, b, stranger])], F, dense=dense))
        bias, pair = rows[BIAS_KEY].w, np.dot(rows[10**6].v[1], rows[2 * 10**6].v[0])
        linear = rows[10**6].w + rows[2 * 10**6].w
        assert two == pytest.approx(bias + linear + pair / 2, rel=1e-5)
        assert three == pytest.approx(bias + linear + pair / 3, rel=1e-5)


def test_the_bias_starts_at_the_log_odds_of_the_base_rate():
    model = Model(make_spec(base_rate=0.02))
    assert model.predict_many(to_batch([Event([])], F, dense=True)) == pytest.approx(0.02)
    assert Model(make_spec(bias=False, base_rate=0.02)).predict_many(to_batch([Event([])], F, dense=True)) == 0.5


@pytest.mark.parametrize("dense", [True, False])
def test_bad_numbers_change_nothing(dense):
    good = stream(60)
    bad = [
        replace(good[0], c=math.nan), replace(good[1], c=math.inf), replace(good[2], c=-1.0), replace(good[3], c=1e30),
        replace(good[4], y=math.nan), replace(good[5], y=7.0),
    ]  # fmt: skip
    if not dense:
        bad += [replace(good[6], features=[(999, 0, x), *good[6].features[1:]]) for x in (1e30, math.nan, -math.inf)]
    mixed = [event for i, event in enumerate(good) for event in ([bad[i % len(bad)], event] if i % 3 else [event])]
    clean, dirty = Model(make_spec()), Model(make_spec())
    p = clean.learn_many(to_batch(good, F, dense=dense))
    q = dirty.learn_many(to_batch(mixed, F, dense=dense))
    is_good = np.array([any(event is each for each in good) for event in mixed])
    np.testing.assert_array_equal(p, q[is_good])
    unreadable = np.array([any(not abs(x) <= 1e9 for _, _, x in event.features) for event in mixed])
    np.testing.assert_array_equal(np.isnan(q), unreadable)
    assert clean.state_hash() == dirty.state_hash()
    assert dirty.counts.events_refused == len(mixed) - len(good)
    assert clean.counts.events_refused == 0


@pytest.mark.parametrize("dense", [True, False])
def test_extreme_weights_leave_finite_rows(dense):
    model = Model(make_spec(start=1.0, optimizer=Optimizer(step=10.0, linear_step=10.0)))
    events = [replace(event, c=1e6) for event in stream(200)]
    p = model.learn_many(to_batch(events, F, dense=dense))
    assert np.isfinite(p).all()
    rows = unpack_rows(model.take_dirty(), F, 4)
    assert all(np.isfinite(row.v).all() and np.isfinite(row.nv).all() for row in rows.values())


def test_only_what_may_change_in_place_changes():
    model = Model(make_spec())
    batch = to_batch(stream(50), F, dense=True)
    faster = make_spec(optimizer=Optimizer(step=0.5, linear_step=0.5), ttl_s=60.0)
    twin = Model(faster)
    model.set_spec(faster)
    assert model.spec == faster
    np.testing.assert_array_equal(model.learn_many(batch), twin.learn_many(batch))
    with pytest.raises(ModelMismatchError, match=r"model\.k"):
        model.set_spec(make_spec(k=8))


def test_rows_of_another_shape_are_refused_unchanged():
    model, other = Model(make_spec()), Model(make_spec(k=8))
    other.learn_many(to_batch(stream(20), F, dense=True))
    before = model.state_hash()
    with pytest.raises(ModelMismatchError, match="bytes"):
        model.load(other.take_dirty())
    model.learn_many(to_batch(stream(20), F, dense=True))
    block = model.take_dirty()
    for at, value in ((0, F), (1, 1), (3, 1)):
        data = block.data.copy()
        data[-1, at] = value
        fresh = Model(make_spec())
        with pytest.raises(ModelMismatchError, match="field"):
            fresh.load(RowBlock(block.keys, data))
        assert fresh.state_hash() == before


def test_loading_takes_what_redis_gives():
    """Read-only, unaligned bytes."""
    model = Model(make_spec())
    model.learn_many(to_batch(stream(20), F, dense=True))
    block = model.take_dirty()
    raw = b"x" + block.data.tobytes()
    data = np.frombuffer(raw, np.uint8, offset=1).reshape(block.data.shape)
    other = Model(make_spec())
    other.load(RowBlock(np.frombuffer(block.keys.tobytes(), np.uint64), data))
    assert other.state_hash() == model.state_hash()
    assert other.dirty_rows == 0  # its own bias was overwritten


def test_a_cache_knows_held_absent_and_missing_keys():
    spec = make_spec()
    trainer, cache = Model(spec), Model(spec, weights_only=True, max_rows=60)
    events = stream(30)
    batch = to_batch(events, F, dense=True)
    trainer.learn_many(batch)
    block = trainer.take_dirty()
    everything = sorted({key for event in events for key, _, _ in event.features})
    assert cache.missing_keys(batch).tolist() == everything
    cache.load(RowBlock(block.keys[:10], block.data[:10]))
    held = set(block.keys[:10].tolist()) - {BIAS_KEY}
    assert cache.missing_keys(batch).tolist() == [key for key in everything if key not in held]
    cache.mark_absent(np.array(everything[:20], np.uint64))
    assert cache.missing_keys(batch).tolist() == [key for key in everything[20:] if key not in held]
    np.testing.assert_array_equal(cache.lookup(np.array(everything, np.uint64)), [key in held for key in everything])
    unknown = to_batch([Event([])], F, dense=True)
    absent = next(key for key in everything[:20] if key not in held)
    one = to_batch([Event([(absent, 0, 1.0)])], F, dense=True)
    np.testing.assert_array_equal(cache.predict_many(one), cache.predict_many(unknown))
    cache.load(RowBlock(block.keys[block.keys == absent], block.data[block.keys == absent]))  # it came into being
    assert cache.lookup(np.array([absent], np.uint64)).all()
    cache.forget(np.array(everything, np.uint64))
    assert cache.rows == 0
    assert cache.missing_keys(batch).tolist() == everything
    cache.load(block)
    np.testing.assert_array_equal(cache.lookup(block.keys).sum(), min(len(block), 61))


@pytest.mark.parametrize("dense", [True, False])
def test_a_batch_of_other_fields_is_refused(dense):
    """It would write outside of rows."""
    wide = to_batch([Event([(100, F, 1.0)])], F + 1, dense=dense)
    with pytest.raises(ValueError, match="6 fields"):
        Model(make_spec()).learn_many(wide)


def test_empty_batches():
    model = Model(make_spec())
    empty = to_batch([], F, dense=True)
    before = model.state_hash()
    assert model.learn_many(empty).shape == (0,)
    assert model.predict_many(empty).shape == (0,)
    assert model.missing_keys(empty).shape == (0,)
    assert model.state_hash() == before


def test_threads_may_predict_at_once():
    model, batch = Model(make_spec()), to_batch(stream(3000), F, dense=True)
    model.learn_many(batch)
    expected, answers = model.predict_many(batch), []
    threads = [threading.Thread(target=lambda: answers.append(model.predict_many(batch))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    for answer in answers:
        np.testing.assert_array_equal(answer, expected)


def test_memory_is_reserved_and_not_used():
    """Room for 2^26 features, 72 GB with their index, costs next to nothing before they come."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("needs /proc")
    before = int(statm.read_text().split()[1])
    model = Model(make_spec(), max_rows=1 << 26)
    model.learn_many(to_batch(stream(10), F, dense=True))
    grown = (int(statm.read_text().split()[1]) - before) * os.sysconf("SC_PAGE_SIZE")
    assert grown < 300 << 20  # a huge page for each of some 60 features' buckets
