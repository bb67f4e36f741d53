"""The cache under every interleaving of requests, changes and failures that is known to go wrong."""

import dataclasses
import threading

import numpy as np
import pytest

from ctr import spec as specification
from ctr.errors import StoreUnavailableError
from ctr.events import encode_rows
from ctr.model import BIAS_KEY, Model, RowBlock
from ctr.model.prepared import PreparedAds
from ctr.model.ranking import AdQuestion, Question
from ctr.serving import cache as cache_module
from ctr.serving.cache import RowCache
from ctr.store import Changes, Version, Watermarks

SPEC = specification.parse('name = "ads"\nfields = [{name = "user"}, {name = "ad"}]\nmodel = {start = 0.1}')
NOTHING = np.empty(0, np.uint64)


def batch_of(*rows):
    return encode_rows(SPEC, rows, times_s=1e9)


class Trainer:
    """A model that learns clicks, and all rows it has ever written, by key."""

    def __init__(self):
        self.model = Model(SPEC)
        self.rows = {}

    def learn(self, *rows):
        """Learn these rows as clicks; returns the keys that a commit would name."""
        batch = dataclasses.replace(batch_of(*rows), labels=np.ones(len(rows), np.float32))
        self.model.learn_many(batch)
        block = self.model.take_dirty()
        self.rows |= {int(key): data.copy() for key, data in zip(block.keys, block.data, strict=True)}
        return block.keys

    def predict(self, *rows):
        return self.model.predict_many(batch_of(*rows))


class FakeReader:
    """A shard in memory. `during_fetch` runs after a reply was made and before it is handed over."""

    def __init__(self, trainer):
        self.stored = trainer.rows
        self.changes = [self.change(broken=True)]
        self.fetched = []
        self.during_fetch = lambda: None
        self.away = False

    def change(self, written=NOTHING, *, broken=False, at_s=1.0, gone=NOTHING):
        watermarks = Watermarks(at_s, at_s, at_s)
        return Changes(np.asarray(written, np.uint64), broken, Version(1, "n"), watermarks, np.asarray(gone, np.uint64))

    def drop(self, row):
        """Drop what the store holds of a row's features; returns their keys."""
        keys = batch_of(row).keys
        for key in keys.tolist():
            del self.stored[key]
        return keys

    def poll(self):
        if self.away:
            raise StoreUnavailableError("away")
        return self.changes.pop(0) if self.changes else None

    def fetch(self, keys):
        if self.away:
            raise StoreUnavailableError("away")
        self.fetched.append(keys.copy())
        found = [(key, self.stored[int(key)].copy()) for key in keys if int(key) in self.stored]
        during, self.during_fetch = self.during_fetch, lambda: None
        during()
        data = np.array([row for _, row in found], np.uint8).reshape(len(found), Model(SPEC, max_rows=1024).row_bytes)
        return RowBlock(np.array([key for key, _ in found], np.uint64), data)


@pytest.fixture
def trainer():
    made = Trainer()
    made.learn({"user": 1, "ad": 1}, {"user": 2, "ad": 1})
    return made


@pytest.fixture
def reader(trainer):
    return FakeReader(trainer)


@pytest.fixture
def cache(reader):
    made = new_cache(reader)
    made.follow()
    return made


def new_cache(*readers, max_rows=4096):
    return RowCache(Model(SPEC, weights_only=True, max_rows=max_rows), readers, max_rows=max_rows)


def answer(cache, *rows):
    batch = batch_of(*rows)
    cache.fill(batch)
    return cache.predict(batch)


KNOWN = {"user": 1, "ad": 1}


def test_answers_are_the_trainers(cache, trainer):
    rows = [KNOWN, {"user": 2, "ad": 1}, {"user": 2}, {}, {"user": "nobody", "ad": 1}]
    np.testing.assert_allclose(answer(cache, *rows), trainer.predict(*rows), atol=1e-6)
    assert trainer.predict(KNOWN) != trainer.predict({})


def test_a_key_is_asked_for_once(cache, reader):
    answer(cache, KNOWN)
    before = len(reader.fetched)
    answer(cache, KNOWN)
    assert len(reader.fetched) == before
    assert len(cache.missing(batch_of(KNOWN))) == 0


def test_bias_follows_from_the_first_look(cache, trainer):
    assert cache.predict(batch_of({})) == trainer.predict({})
    assert trainer.predict({}) != 0.5


def test_changed_row_is_read_again_and_then_counts_as_applied(cache, reader, trainer):
    answer(cache, KNOWN)
    reader.changes.append(reader.change(trainer.learn(KNOWN), at_s=2.0))
    assert cache.watermarks.arrival_s == 1.0
    assert cache.follow() == 3  # user, ad, bias
    assert cache.watermarks.arrival_s == 2.0
    assert cache.predict(batch_of(KNOWN)) == trainer.predict(KNOWN)


def test_only_what_is_held_is_read_again(cache, reader, trainer):
    answer(cache, KNOWN)
    reader.fetched.clear()
    reader.changes.append(reader.change(trainer.learn(*({"user": i, "ad": i} for i in range(10, 60)))))
    cache.follow()
    assert [keys.tolist() for keys in reader.fetched] == [[BIAS_KEY]]


def test_change_during_a_fetch_makes_its_reply_worthless(cache, reader, trainer):
    """The reply was made before the commit; the commit's entry came before the reply was taken in."""

    def commit_and_follow():
        reader.changes.append(reader.change(trainer.learn(KNOWN)))
        cache.follow()

    reader.during_fetch = commit_and_follow
    assert answer(cache, KNOWN) == trainer.predict(KNOWN)
    assert cache.follow() == 0  # nothing is left that would correct it later


def test_broken_chain_during_a_fetch_makes_its_reply_worthless(cache, reader, trainer):
    def commit_and_follow():
        trainer.learn(KNOWN)
        reader.changes.append(reader.change(broken=True))
        cache.follow()

    reader.during_fetch = commit_and_follow
    assert answer(cache, KNOWN) == trainer.predict(KNOWN)


def test_change_after_the_fetch_finds_the_row_held(cache, reader, trainer):
    """The commit fell into the fetch, its entry is seen after it."""

    def commit():
        reader.changes.append(reader.change(trainer.learn(KNOWN)))

    reader.during_fetch = commit
    assert answer(cache, KNOWN) != trainer.predict(KNOWN)
    cache.follow()
    assert cache.predict(batch_of(KNOWN)) == trainer.predict(KNOWN)


def test_absence_is_remembered_and_ends_when_the_key_is_written(cache, reader, trainer):
    new = {"user": 99, "ad": 1}
    answer(cache, new)
    fetches = len(reader.fetched)
    answer(cache, new)
    assert len(reader.fetched) == fetches

    reader.changes.append(reader.change(trainer.learn(new)))
    cache.follow()
    assert answer(cache, new) == trainer.predict(new)


def test_absent_key_written_during_its_fetch_is_asked_for_again(cache, reader, trainer):
    new = {"user": 99, "ad": 98}

    def commit_and_follow():
        reader.changes.append(reader.change(trainer.learn(new)))
        cache.follow()

    reader.during_fetch = commit_and_follow
    assert answer(cache, new) == trainer.predict(new)


def test_absences_are_bounded(reader):
    cache = new_cache(reader, max_rows=1024)
    cache.follow()
    for begin in range(0, 5000, 50):
        answer(cache, *({"user": f"nobody {i}"} for i in range(begin, begin + 50)))
    assert len(cache._absences) <= 64
    assert cache.rows == 0


def test_rows_that_left_the_store_count_as_unknown_at_once(cache, reader, trainer):
    answer(cache, KNOWN)
    held = cache.rows
    reader.changes.append(reader.change(gone=reader.drop(KNOWN), at_s=2.0))
    assert cache.follow() == 0
    assert cache.rows == held - 2
    assert cache.watermarks.arrival_s == 2.0
    assert cache.predict(batch_of(KNOWN)) == trainer.predict({})
    assert answer(cache, KNOWN) == trainer.predict({})
    assert len(cache.missing(batch_of(KNOWN))) == 0  # known to be absent


def test_row_that_left_during_its_fetch_is_not_held(cache, reader, trainer):
    def drop_and_follow():
        reader.changes.append(reader.change(gone=reader.drop(KNOWN)))
        cache.follow()

    reader.during_fetch = drop_and_follow
    assert answer(cache, KNOWN) == trainer.predict({})
    assert cache.follow() == 0


def test_row_that_left_and_came_back_is_read(cache, reader, trainer):
    """Several commits are one change here: `written` may name a key that left later, or one that was gone before."""
    answer(cache, KNOWN)
    written = trainer.learn(KNOWN)
    reader.changes.append(reader.change(written, gone=batch_of(KNOWN).keys))
    cache.follow()
    assert answer(cache, KNOWN) == trainer.predict(KNOWN)
    reader.changes.append(reader.change(trainer.learn(KNOWN), gone=reader.drop(KNOWN)))
    cache.follow()
    assert answer(cache, KNOWN) == trainer.predict({})


def test_broken_chain_rereads_everything_in_steps_and_drops_what_is_gone(cache, reader, trainer, monkeypatch):
    monkeypatch.setattr(cache_module, "CHUNK", 10)
    rows = [{"user": i, "ad": i} for i in range(100, 120)]
    trainer.learn(*rows)
    answer(cache, *rows, {"user": "nobody"})

    trainer.learn(*rows)
    gone = batch_of(rows[0]).keys
    for key in gone:
        del reader.stored[int(key)]
    reader.changes.append(reader.change(broken=True, at_s=3.0))
    steps = 0
    while cache.broken or steps == 0:
        assert cache.follow() <= 10
        steps += 1
        assert cache.watermarks.arrival_s == (1.0 if cache.broken else 3.0)
    assert steps == 5  # 40 rows and the bias
    assert cache.counts["breaks"] == 1
    np.testing.assert_allclose(cache.predict(batch_of(*rows[1:])), trainer.predict(*rows[1:]), atol=1e-6)
    assert cache.predict(batch_of(rows[0])) == trainer.predict({})
    # what was known to be absent may be there now
    assert len(cache.missing(batch_of({"user": "nobody"}))) == 1


def test_rests_after_each_piece_of_work(cache, reader, trainer):
    rows = [{"user": i, "ad": i} for i in range(400)]
    trainer.learn(*rows)
    answer(cache, *rows)
    reader.changes.append(reader.change(trainer.learn(*rows)))
    rests = []
    read = cache.follow(rests.append)
    assert rests[0] == 0  # what was named is known
    assert sum(rests) == read == 801
    assert max(rests) == 250


def test_first_look_is_no_break(cache):
    assert cache.counts["breaks"] == 0
    assert not cache.broken


def test_store_away_between_change_and_reading_loses_nothing(cache, reader, trainer):
    answer(cache, KNOWN)
    old = cache.predict(batch_of(KNOWN))
    written = trainer.learn(KNOWN)

    reader.changes.append(reader.change(written, at_s=2.0))
    poll = reader.poll

    def poll_then_leave():
        changes = poll()
        reader.away = True
        return changes

    reader.poll = poll_then_leave
    with pytest.raises(StoreUnavailableError):
        cache.follow()
    assert cache.predict(batch_of(KNOWN)) == old  # goes on with what it has
    assert cache.watermarks.arrival_s == 1.0  # and does not pretend
    with pytest.raises(StoreUnavailableError):
        cache.fill(batch_of({"user": 55}))

    reader.poll, reader.away = poll, False
    cache.follow()
    assert cache.predict(batch_of(KNOWN)) == trainer.predict(KNOWN)
    assert cache.watermarks.arrival_s == 2.0


def test_failed_fetch_leaves_no_trace(cache, reader):
    reader.away = True
    with pytest.raises(StoreUnavailableError):
        cache.fill(batch_of(KNOWN))
    assert not cache._shards[0].flights
    reader.away = False
    cache.fill(batch_of(KNOWN))
    assert len(cache.missing(batch_of(KNOWN))) == 0


def test_changes_that_pile_up_are_read_as_one(cache, reader, trainer, monkeypatch):
    other = {"user": 2, "ad": 1}
    answer(cache, KNOWN, other)
    monkeypatch.setattr(cache_module, "CHUNK", 0)  # nothing is read: every change waits
    for turn in range(20):
        reader.changes.append(reader.change(trainer.learn(KNOWN if turn < 10 else other), at_s=5.0))
        cache.follow()
    assert cache.due_rows == 3 + 4  # the change being read, and all later ones as one: two users, the ad, the bias
    monkeypatch.setattr(cache_module, "CHUNK", 1000)
    while cache.due_rows:
        cache.follow()
    np.testing.assert_array_equal(cache.predict(batch_of(KNOWN, other)), trainer.predict(KNOWN, other))
    assert cache.watermarks.arrival_s == 5.0


def test_memory_is_bounded_and_answers_stay_right(reader, trainer):
    rows = [{"user": f"u{i}", "ad": f"a{i % 7}"} for i in range(3000)]
    trainer.learn(*rows)
    cache = new_cache(reader, max_rows=1024)
    cache.follow()
    for begin in range(0, 3000, 100):
        some = rows[begin : begin + 100]
        np.testing.assert_allclose(answer(cache, *some), trainer.predict(*some), atol=1e-6)
        assert cache.rows <= 1024
    assert cache.rows > 900


def test_a_row_that_made_room_is_not_read_again_into_the_cache(reader, trainer):
    """Else rows would be held that neither age out nor are re-read when the chain breaks."""
    cache = new_cache(reader, max_rows=1024)
    cache.follow()
    answer(cache, KNOWN)
    others = [{"user": f"u{i}", "ad": f"a{i}"} for i in range(480)]
    reader.changes.append(reader.change([*trainer.learn(*others), *trainer.learn(KNOWN)]))

    def crowd_out():
        answer(cache, *others)

    reader.during_fetch = crowd_out
    cache.follow()
    assert cache.rows == 960  # 1024 less a sixteenth for absences
    assert len(cache.missing(batch_of(KNOWN))) == 2
    assert answer(cache, KNOWN) == trainer.predict(KNOWN)


def test_two_shards_are_as_old_as_the_older(trainer):
    readers = [FakeReader(trainer), FakeReader(trainer)]
    cache = new_cache(*readers)
    assert cache.watermarks is None
    cache.follow()
    readers[0].changes.append(readers[0].change(at_s=9.0))
    cache.follow()
    assert cache.watermarks.arrival_s == 1.0
    readers[1].changes.append(readers[1].change(at_s=7.0))
    cache.follow()
    assert cache.watermarks.arrival_s == 7.0
    rows = [{"user": i, "ad": i} for i in range(50)]
    written = trainer.learn(*rows)
    for index, reader in enumerate(readers):
        reader.changes.append(reader.change(written[written % np.uint64(2) == index]))
    cache.follow()
    for reader in readers:
        reader.fetched.clear()
    np.testing.assert_allclose(answer(cache, *rows), trainer.predict(*rows), atol=1e-6)
    for index, reader in enumerate(readers):
        assert all((keys % np.uint64(2) == index).all() for keys in reader.fetched)
        assert sum(map(len, reader.fetched)) > 20


def test_requests_and_follower_at_once_end_with_the_newest_rows(reader, trainer):
    """Many threads ask while rows change: when all is quiet every row is the store's."""
    cache = new_cache(reader)
    cache.follow()
    users = [{"user": i, "ad": i % 5} for i in range(200)]
    guard, failures, done = threading.Lock(), [], threading.Event()
    poll, fetch = reader.poll, reader.fetch

    def locked(action):
        def call(*arguments):
            with guard:
                return action(*arguments)

        return call

    reader.poll, reader.fetch = locked(poll), locked(fetch)

    def ask(seed):
        random = np.random.default_rng(seed)
        try:
            while not done.is_set():
                answer(cache, *(users[i] for i in random.integers(0, 200, 5)))
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    random = np.random.default_rng(7)
    for _ in range(300):
        with guard:
            reader.changes.append(reader.change(trainer.learn(*(users[i] for i in random.integers(0, 200, 20)))))
        cache.follow()
    done.set()
    for thread in threads:
        thread.join()
    while reader.changes or cache.due_rows:
        cache.follow()
    assert not failures
    np.testing.assert_allclose(answer(cache, *users), trainer.predict(*users), atol=1e-6)


def test_the_short_way_answers_only_from_what_is_known():
    trainer = Trainer()
    trainer.learn({"user": 1, "ad": 2}, {"user": 3, "ad": 2})
    cache = RowCache(Model(SPEC, weights_only=True), [FakeReader(trainer)], max_rows=1024)
    cache.follow()
    row = {"user": 1, "ad": 2}
    batch = batch_of(row)
    assert cache.predict_known(batch.keys, 1, 1e9) is None
    assert cache.counts["hits"] == 0
    cache.fill(batch)
    np.testing.assert_allclose(cache.predict_known(batch.keys, 1, 1e9), trainer.predict(row), rtol=0, atol=1e-6)
    assert cache.counts["hits"] == 2
    assert cache.by_field.tolist() == [[1, 1], [0, 0]]


@pytest.mark.parametrize("how", ["written", "gone", "broken", "absent", "mark lost"])
def test_what_is_kept_of_an_ad_never_outlives_its_rows(how):
    """Ranked before a change, between the news of it and the new row, and after: each time from the rows held."""
    trainer = Trainer()
    row, context = {"user": 1, "ad": 2}, {"user": 1}
    if how not in ("absent", "mark lost"):
        trainer.learn(row)
    reader = FakeReader(trainer)
    cache = RowCache(Model(SPEC, weights_only=True), [reader], max_rows=1024)
    ads = PreparedAds(np.array([1]), 8)
    cache.put_ads(ads, np.array([3]), batch_of(row).keys.reshape(1, 2)[:, 1:])
    cache.index_ads(ads)
    cache.use_ads(ads)
    question = AdQuestion(batch_of(context).keys, ads, np.array([3]), 1e9)

    def check():
        expected, missing = cache._model.predict_many(question.batch), cache._model.missing_keys(question.batch)
        scores, unknown = cache.rank(question)
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)
        assert unknown == len(missing)  # or nobody would ask the store

    cache.follow()
    cache.fill(question.batch)
    for _ in range(2):
        check()
    assert ads.kept[3, 2] < np.inf
    keys = reader.drop(row) if how == "gone" else trainer.learn(*[row] * 5)
    if how == "mark lost":
        cache._model.forget(question.batch.keys)  # as a full table does with all marks of absence
    named = {"gone": {"gone": keys}, "broken": {"broken": True}, "mark lost": {"broken": True}}
    reader.changes.append(reader.change(**named.get(how, {"written": keys})))
    reader.during_fetch = check
    cache.follow()
    reader.during_fetch = lambda: None
    check()
    cache.fill(question.batch)
    check()
    expected = trainer.predict({} if how == "gone" else row)
    np.testing.assert_allclose(cache.rank(question)[0], expected, rtol=0, atol=1e-6)


def test_a_ranking_is_scored_and_counted_at_once_only_where_all_is_known(cache, trainer):
    ad = batch_of({"ad": 1}).keys[1:].reshape(1, 1)
    question = Question(batch_of({"user": 1}).keys, np.array([1]), ad, 1e9)
    before = cache.counts, cache.by_field.tolist()
    assert cache.rank_known(question) is None
    assert (cache.counts, cache.by_field.tolist()) == before
    cache.fill(question.batch)
    np.testing.assert_allclose(cache.rank_known(question), trainer.predict({"user": 1, "ad": 1}), rtol=0, atol=1e-6)
    assert cache.counts["hits"] - before[0]["hits"] == 2
    assert cache.by_field[0].tolist() == [1, 1]
