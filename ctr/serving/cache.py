"""Feature keys in, rows out: a bounded copy of a model's weights that follows the store. Never a write.

What makes it right, whatever the timing: a change entry is handled in one section under the lock, and at that moment a
key it names is held (then it is due to be read again), on its way for a request (then the reply is worthless and it is
asked for again), or neither (then whoever asks next reads the new row).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ctr.events.batch import Batch
from ctr.model import Model
from ctr.model.explanation import Excerpt
from ctr.model.prepared import PreparedAds
from ctr.model.ranking import AdQuestion, Question, Ranker
from ctr.model.table import Table
from ctr.model.tally import Tally
from ctr.rows import RowBlock
from ctr.serving.pending import Due, Flight, FollowedShard, KeyLog, Keys
from ctr.spec import Spec
from ctr.store import Changes, ShardReader, Version, Watermarks

CHUNK = 1000
"""Rows of a shard read again before the next shard's turn."""
_PIECE = 250
"""Of these, read at a time: a request on the same core may wait so long, half a millisecond; for the lock 0.1 ms."""
_FILLS = 3
"""Rows that make room for a batch's missing ones may belong to the same batch: then it is filled once more."""


def _go_on(_rows: int) -> None:
    """No rest: for who has nobody to wait for."""


class RowCache:
    """Rows of one model, as many as were asked for and fit, kept fresh.

    `missing` and `predict` take microseconds and may be called from an event loop; `fill` and `follow` wait for the
    store. `follow` is for one thread at a time, everything else for any.

    Parameters
    ----------
    model : Model
        Weights only. Nobody else may touch it.
    readers : sequence of ShardReader
        One a shard, in order.
    max_rows : int
        Rows and remembered absences held at most; it should be many times what one batch asks for. When they are
        full the rows that came first go first.
    """

    def __init__(self, model: Model, readers: Sequence[ShardReader], *, max_rows: int) -> None:
        self._model, self._tally = model, Tally(model)
        self._ranker = Ranker(model, self._tally)
        self._shards = [FollowedShard(reader) for reader in readers]
        self._absence_limit = max_rows // 16
        self._row_limit = max_rows - self._absence_limit
        self._lock = threading.Lock()
        self._arrivals, self._absences = KeyLog(), KeyLog()
        self._standing: tuple[Watermarks | None, Version | None, bool] = None, None, True
        self._hits = self._misses = self._rereads = self._breaks = self._asked = 0

    # A catalogue's ads

    def use_ads(self, ads: PreparedAds) -> None:
        """From now on tell these ads of rows that change, instead of those before them."""
        with self._lock:
            ads.forget_all()
            self._ranker.ads = ads

    def put_ads(self, ads: PreparedAds, places: NDArray[np.int64], keys: Keys) -> None:
        """`PreparedAds.put`, while nobody ranks."""
        with self._lock:
            ads.put(places, keys)

    def index_ads(self, ads: PreparedAds) -> None:
        """Let what is put be found; by the thread that puts."""
        index = ads.make_index()
        with self._lock:
            ads.use_index(index)

    def _forget(self, keys: Keys) -> None:
        """Drop rows and absence marks, and what is kept of the ads that have them."""
        self._model.forget(keys)
        if self._ranker.ads is not None:
            self._ranker.ads.touched(keys)

    def _load(self, block: RowBlock) -> None:
        self._model.load(block)
        if self._ranker.ads is not None:
            self._ranker.ads.touched(block.keys)

    # What requests ask for

    def missing(self, batch: Batch) -> Keys:
        """Keys of a batch of which nothing is known here, ascending. Counts hits and misses."""
        with self._lock:
            keys = self._model.missing_keys(batch)
            self._misses += len(keys)
            self._hits += int(np.count_nonzero(batch.keys)) - len(keys)
        return keys

    def predict(self, batch: Batch) -> NDArray[np.float32]:
        """(n,) probabilities from the rows held; what is not held contributes nothing. Tallies features by field."""
        with self._lock:
            self._tally.add_batch(batch)
            return self._model.predict_many(batch)

    def predict_known(self, keys: Keys, n: int, time_s: float) -> list[float] | None:
        """`predict` of n rows of F keys each, in one step; None where something is missing, and nothing was counted.

        Only where the model has a ranking kernel (`has_kernel`), and of at most `FEW` rows.
        """
        ranker = self._ranker
        with self._lock:
            features = ranker.predict_few(keys, n, time_s)
            if features < 0:
                return None
            self._hits += features
            scores: list[float] = ranker.few[:n].tolist()
        return scores

    @property
    def has_kernel(self) -> bool:
        """Whether requests of few rows can be answered by `predict_known`."""
        return self._ranker.has_kernel

    def rank(self, question: Question | AdQuestion) -> tuple[NDArray[np.float32], int]:
        """(n,) probabilities of candidates from the rows held, and how many features nothing is known of here."""
        with self._lock:
            scores, unknown, features = self._ranker.score(question, sample=self._sample(question))
            self._misses += unknown
            self._hits += features - unknown
        return scores, unknown

    def rank_known(self, question: Question | AdQuestion) -> NDArray[np.float32] | None:
        """The scores of `rank` where all features are known; None where some are not, and nothing was counted."""
        with self._lock:
            scores, unknown, features = self._ranker.score(question, sample=self._sample(question))
            if unknown:
                return None
            self._hits += features
        return scores

    def _sample(self, question: Question | AdQuestion) -> int:
        """The candidate that is tallied, another one each time."""
        self._asked += 1
        return self._asked % max(1, len(question))

    def excerpt(self, batch: Batch) -> tuple[Excerpt, float]:
        """What is held of the first event of a batch, and its prediction from the very same rows."""
        with self._lock:
            return Excerpt.of(self._model, batch), float(self._model.predict_many(batch.slice(0, 1))[0])

    def unheard(self, batch: Batch) -> NDArray[np.bool_]:
        """(n,) whether an event has features and nothing is known of any of them: not even that they have no row."""
        with self._lock:
            known = self._model.known(batch.keys)
        here = batch.keys != 0
        event = np.repeat(np.arange(len(batch)), np.diff(batch.start))
        features, heard = (np.bincount(event[part], minlength=len(batch)) for part in (here, here & (known > 0)))
        unheard: NDArray[np.bool_] = (features > 0) & (heard == 0)
        return unheard

    def change(self, spec: Spec) -> None:
        """Take over what may change in place (see `Model.set_spec`)."""
        with self._lock:
            self._model.set_spec(spec)
            if self._ranker.ads is not None:
                self._ranker.ads.forget_all()  # another ttl, another life of their rows

    def held_keys(self) -> Keys:
        """Keys of the rows held, the model's own aside; those that came last are the last."""
        with self._lock:
            keys = self._arrivals.all()
            return keys[self._model.lookup(keys)]

    def preload(self, keys: Keys) -> None:
        """Read rows that will be asked for.

        Raises
        ------
        CtrError
            The store did not answer, or what it holds cannot be used. What was read before stays.
        """
        with self._lock:
            keys = np.unique(keys[self._model.known(keys) == 0])
        for shard, part in self._by_shard(keys):
            self._bring(shard, part)

    def fill(self, batch: Batch) -> None:
        """Read what a batch lacks.

        Raises
        ------
        CtrError
            The store did not answer, or what it holds cannot be used. What was read before stays.
        """
        for _ in range(_FILLS):
            with self._lock:
                keys = self._model.missing_keys(batch)
            if not len(keys):
                return
            for shard, part in self._by_shard(keys):
                self._bring(shard, part)

    def _bring(self, shard: FollowedShard, keys: Keys) -> None:
        flight = Flight(keys)
        # Registered before they are asked for: a commit between the reply and its arrival here would else be missed,
        # and the old row would stay until the next change.
        with self._lock:
            shard.flights.append(flight)
        try:
            while len(flight.keys):
                rows = shard.reader.fetch(flight.keys)
                with self._lock:
                    self._admit(flight.keys[~flight.named], rows)
                    flight.keys = flight.keys[flight.named]
                    flight.named = np.zeros(len(flight.keys), np.bool_)
        finally:
            with self._lock:
                shard.flights.remove(flight)

    def _admit(self, wanted: Keys, rows: RowBlock) -> None:
        """Take new rows in; those that the store does not hold are remembered as absent."""
        new = np.isin(rows.keys, wanted) & ~self._model.lookup(rows.keys)
        self._make_room(int(np.count_nonzero(new)))
        block = RowBlock(rows.keys[new], rows.data[new])
        self._load(block)
        self._arrivals.add(block.keys)
        absent = np.setdiff1d(wanted, rows.keys, assume_unique=True)
        if len(self._absences) + len(absent) > self._absence_limit:
            self._forget_absences()
        self._model.mark_absent(absent)
        self._absences.add(absent)

    def _make_room(self, count: int) -> None:
        """Let the oldest rows go until `count` more fit."""
        allowed = max(0, self._row_limit - count)
        while self._model.rows > allowed and len(self._arrivals):
            self._forget(self._arrivals.pop(max(self._model.rows - allowed, self._row_limit // 64)))
        if len(self._arrivals) > 2 * self._row_limit:  # keys that went and came back, time and again
            keys = self._arrivals.all()
            _, latest = np.unique(keys[::-1], return_index=True)
            keys = keys[np.sort(len(keys) - 1 - latest)]
            self._arrivals.reset(keys[self._model.lookup(keys)])

    def _forget_absences(self) -> None:
        keys = self._absences.all()
        self._forget(keys[~self._model.lookup(keys)])
        self._absences.reset(keys[:0])

    # What the follower does

    def follow(self, rest: Callable[[int], object] = _go_on) -> int:
        """One step: look for changes, then read some of the rows that they named.

        Parameters
        ----------
        rest : callable
            Called after each piece of work, of half a millisecond, with the rows that it read: whoever answers
            requests on the same core need not wait for all of it.

        Returns
        -------
        int
            Rows read. Where `due_rows` is not 0, call again after a pause that suits the store.

        Raises
        ------
        CtrError
            The store did not answer, or what it holds cannot be used. Nothing is lost: call again.
        """
        read = 0
        for shard in self._shards:
            changes = shard.reader.poll()
            if changes is not None:
                self._note(shard, changes)
                rest(0)
            read += self._read_due(shard, rest)
        return read

    def _note(self, shard: FollowedShard, changes: Changes) -> None:
        """Handle a change entry: all that it concerns is marked in one section, so that nothing slips between."""
        written = np.unique(changes.written)
        ads = self._ranker.ads
        of_ads = written[:0] if ads is None else ads.keys_among(written)  # most belong to none: not under the lock
        with self._lock:
            for flight in shard.flights:
                flight.mark(np.union1d(written, changes.gone), everything=changes.broken)
            if changes.broken:
                self._breaks += shard.watermarks is not None
                shard.broken = True
                if ads is not None:
                    ads.forget_all()
                keys = self._arrivals.all()
                self._forget_absences()
            else:
                self._forget(changes.gone)  # a request that needs one asks, and learns that it is absent
                held = self._model.lookup(written)
                keys = written[held]
                self._model.forget(written[~held])
                if ads is not None:  # of a row that is held, what is kept holds until it is taken over
                    ads.touched(of_ads[~self._model.lookup(of_ads)])
        if changes.broken:
            self._stand()
            keys = np.unique(np.append(keys, self._model.own_keys))
            keys = next((part for owner, part in self._by_shard(keys) if owner is shard), keys[:0])
            shard.due.clear()
        if len(shard.due) > 1:
            # The first is being read; all later ones are read as one, so that a row that changed in each is read once.
            keys = np.union1d(shard.due.pop().keys, keys)
        shard.due.append(Due(keys, changes.version, changes.watermarks, changes.broken))

    def _read_due(self, shard: FollowedShard, rest: Callable[[int], object]) -> int:
        """Read the next rows that are due, at most `CHUNK`."""
        read = 0
        while shard.due and read < CHUNK:
            waiting = shard.due[0]
            part = waiting.keys[: min(_PIECE, CHUNK - read)]
            if len(part):
                self._replace(part, shard.reader.fetch(part))
                read += len(part)
                rest(len(part))
            waiting.keys = waiting.keys[len(part) :]
            if not len(waiting.keys):
                shard.version, shard.watermarks = waiting.version, waiting.watermarks
                shard.broken = shard.broken and not waiting.broken
                shard.due.popleft()
                self._stand()
        return read

    def _replace(self, asked: Keys, rows: RowBlock) -> None:
        """Take rows again that are still held (one may have made room meanwhile); the store's gone ones are dropped."""
        gone = np.setdiff1d(asked, rows.keys) if len(rows) < len(asked) else asked[:0]
        with self._lock:
            held = self._model.lookup(rows.keys)
            self._load(rows if held.all() else RowBlock(rows.keys[held], rows.data[held]))
            if len(gone):
                self._forget(gone)
            self._rereads += len(asked)

    def _by_shard(self, keys: Keys) -> list[tuple[FollowedShard, Keys]]:
        if len(self._shards) == 1:
            return [(self._shards[0], keys)]
        parts = [keys[keys % np.uint64(len(self._shards)) == index] for index in range(len(self._shards))]
        return [(shard, part) for shard, part in zip(self._shards, parts, strict=True) if len(part)]

    def warm(self) -> None:
        """Compile all that requests will call."""
        self._model.warm_up()
        with self._lock:
            self._ranker.warm_up()
            nothing = np.empty(0, np.uint64)
            self._tally.add(nothing, np.empty(0, np.uint8))
            self._model.table.weights_of(nothing)

    # How it stands

    def _stand(self) -> None:
        """Note how the shards stand together; by the follower, since every answer says it and there may be many."""
        each = [(shard.watermarks, shard.version) for shard in self._shards if shard.watermarks is not None]
        watermarks, version = None, None
        if len(each) == len(self._shards):
            moments = [watermarks for watermarks, _ in each]
            watermarks = Watermarks(
                min(moment.event_s for moment in moments),
                min(moment.arrival_s for moment in moments),
                min(moment.commit_s for moment in moments),
            )
            version = min(each, key=lambda shard: shard[0].commit_s)[1]
        self._standing = watermarks, version, any(shard.broken for shard in self._shards)

    @property
    def watermarks(self) -> Watermarks | None:
        """How far all rows held have come, at least; None before the first look at every shard."""
        return self._standing[0]

    @property
    def version(self) -> Version | None:
        """Commit to which the shard that is furthest behind has come; None before the first look at every shard."""
        return self._standing[1]

    @property
    def due_rows(self) -> int:
        """Held rows known to have changed and not yet read again."""
        return sum(len(waiting.keys) for shard in self._shards for waiting in list(shard.due))

    @property
    def by_field(self) -> NDArray[np.int64]:
        """(2, F) features asked for, and those of them without a row; of a ranking's candidates a sample."""
        return self._tally.counts

    @property
    def broken(self) -> bool:
        """Whether a chain of commits broke and not all rows have been read again: any may be old."""
        return self._standing[2]

    @property
    def rows(self) -> int:
        """Rows held."""
        return self._model.rows

    @property
    def max_rows(self) -> int:
        """Rows held at most."""
        return self._row_limit

    @property
    def table(self) -> Table:
        """Rows held, for a look without the lock: they never move, but change meanwhile."""
        return self._model.table

    @property
    def memory_bytes(self) -> int:
        """Memory of rows and index."""
        return self._model.memory_bytes

    @property
    def counts(self) -> dict[str, int]:
        """Features found (``hits``) and not found (``misses``), rows read again (``rereads``), broken chains."""
        return {"hits": self._hits, "misses": self._misses, "rereads": self._rereads, "breaks": self._breaks}
