"""A stored model in, the steps that answer a request out: one generation, as a scorer holds it.

A request takes the steps of one and the same generation, whatever the scorer switches to meanwhile.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.answers import Explanation
from ctr.errors import CtrError
from ctr.events import Batch, encode_rows
from ctr.events.requests import FEW, RequestScanner
from ctr.model import Model
from ctr.model.ranking import AdQuestion, Question
from ctr.serving.cache import RowCache
from ctr.serving.catalogue import Catalogue
from ctr.serving.explain import explained
from ctr.serving.preload import Preload
from ctr.serving.questions import QuestionEncoder
from ctr.spec import Spec
from ctr.store import Client, ShardReader, StoredModel
from ctr.store import names as dictionary
from ctr.store.ads import AdReader
from ctr.store.bulk import RowFetch

Row = Mapping[str, Any]


class Generation:
    """Rows of one generation and what is asked of them. Only `fill` and `explain` wait for the store.

    Parameters
    ----------
    client : Client
    stored : StoredModel
    max_rows : int, optional
        Bound on the rows held; the specification's where it is not given.
    catalogue : str, optional
        Of the ads that may be ranked by id; that of the model's name where it is not given.
    preload : int
        Rows that `preload` reads at most.

    Attributes
    ----------
    spec : Spec
    dense : bool
        Whether each field has at most one feature, of value 1.
    cache : RowCache
    catalogue : Catalogue
    preload : Preload
    error : CtrError or None
        Why the store cannot be read, or what it holds not be used; kept by who follows.
    """

    def __init__(
        self, client: Client, stored: StoredModel, *, max_rows: int | None = None, catalogue: str | None = None,
        preload: int = 0,
    ) -> None:  # fmt: skip
        self._client, self.stored, self.spec = client, stored, stored.spec
        self.dense = stored.spec.dense
        rows = max_rows or stored.spec.model.max_rows
        self._rows = RowFetch(client, stored.row_bytes)
        self._readers = [
            ShardReader(
                client, keys, row_bytes=stored.row_bytes, spec_digest=stored.spec.digest, in_bulk=self._rows
            )
            for keys in stored.keys
        ]  # fmt: skip
        self.cache = RowCache(Model(stored.spec, weights_only=True, max_rows=rows), self._readers, max_rows=rows)
        self._questions, self._requests = QuestionEncoder(stored.spec), RequestScanner(stored.spec)
        self._scans = False
        self.catalogue = Catalogue(AdReader(client, catalogue or stored.spec.name), self._questions, self.cache)
        self.preload = Preload(self._readers, self.cache, preload)
        self._short = self.dense and self.cache.has_kernel
        self.error: CtrError | None = None

    @property
    def model_id(self) -> str:
        """``name@generation``."""
        return self.spec.model_id

    # The steps of a request

    def scan(self, body: bytes, max_rows: int) -> Batch | None:
        """Rows of the body ``{"instances": [...]}`` as keys; None where it must be decoded, and `encode` asked."""
        return self._requests.scan_rows(body, max_rows=max_rows) if self._scans else None

    def score_plain(self, body: bytes, max_rows: int) -> list[float] | None:
        """Probabilities of the rows of ``{"instances": [...]}``, where they are few and all of their features known.

        None where the steps are to be taken one by one.
        """
        if not (self._short and self._scans):
            return None
        now, requests = time.time(), self._requests
        with requests.lock:
            n = requests.scan_few(body, now)
            return self.cache.predict_known(requests.found, n, now) if 0 < n <= min(max_rows, FEW) else None

    def scan_ranking(self, body: bytes, max_rows: int) -> tuple[Question | AdQuestion, int | None] | None:
        """A request to rank as keys, and how many are asked for; None where it must be decoded."""
        if not self._scans:
            return None
        now = time.time()
        shelf = self.catalogue.shelf  # one and the same for places and for what stands there
        asked = self._requests.scan_ranking(body, now, max_rows=max_rows, ids=shelf.index.table)
        if asked is None:
            return None
        if asked.places is None:
            return Question(asked.context, asked.fields, asked.keys, now), asked.top
        if not asked.known or len(asked.places) > max_rows:
            return None
        question = self.catalogue.question_of_keys(shelf, asked.context, asked.places, now)
        return None if question is None else (question, asked.top)

    def encode(self, rows: Sequence[Row], path: str = "$.instances") -> Batch:
        """Rows as keys; `path` is where they stand, for errors.

        Raises
        ------
        EventError
            A value that cannot be a feature, with its path.
        """
        return encode_rows(self.spec, rows, time.time(), path)

    def encode_row(self, row: Row, path: str = "$") -> Batch:
        """The same of one row, which stands at `path` itself."""
        return self._questions.row(row, time.time(), path)

    def score_known(self, batch: Batch) -> NDArray[np.float32] | None:
        """Probabilities of few rows, in one step; None where that is not open, or a feature is not known here."""
        if not self._short or not 0 < len(batch) <= FEW:
            return None
        known = self.cache.predict_known(batch.keys, len(batch), time.time())
        return None if known is None else np.array(known, np.float32)

    def missing(self, batch: Batch) -> NDArray[np.uint64]:
        """Keys of which nothing is known here yet."""
        return self.cache.missing(batch)

    def fill(self, batch: Batch) -> bool:
        """Read what is missing; False where the store did not give it. Waits for the store, at most its time-out."""
        try:
            self.cache.fill(batch)
        except CtrError:
            return False
        return True

    def score(self, batch: Batch) -> NDArray[np.float32]:
        """(n,) probabilities from what is held."""
        return self.cache.predict(batch)

    def question(
        self, context: Row, candidates: Sequence[Row], paths: tuple[str, str] = ("$.context", "$.candidates")
    ) -> Question:
        """Context and candidates as keys; `paths` is where they stand, for errors.

        Raises
        ------
        EventError
            A value that cannot be a feature, with its path.
        """
        return self._questions.question(context, candidates, time.time(), paths)

    def question_of_ads(
        self, context: Row, ids: Sequence[str], path: str = "$.context"
    ) -> tuple[Question | AdQuestion, NDArray[np.int64]]:
        """Context and ads of the catalogue as keys; the second says which of the ids are known.

        Raises
        ------
        EventError
            A value of the context that can be no feature.
        """
        return self.catalogue.question(context, ids, time.time(), path)

    def score_question(self, question: Question | AdQuestion) -> tuple[NDArray[np.float32], int]:
        """(n,) probabilities from what is held, and how many features nothing is known of here yet."""
        return self.cache.rank(question)

    def rank_known(self, question: Question | AdQuestion) -> NDArray[np.float32] | None:
        """(n,) probabilities where every feature is known here, else None."""
        return self.cache.rank_known(question)

    def explain(self, row: Row, path: str = "$", *, in_words: bool = True) -> Explanation:
        """Take a row's logit apart, from what is held.

        `in_words` asks the store's dictionary for names (one look-up); where it does not answer, the row's own do.

        Raises
        ------
        EventError
            A value that cannot be a feature, with its path.
        """
        batch = self.encode_row(row, path)
        excerpt, prediction = self.cache.excerpt(batch)
        names = self.names(excerpt.keys.tolist()) if in_words else {}
        return explained(excerpt, prediction, row, names)

    def names(self, keys: Sequence[int]) -> dict[int, str]:
        """Words of the store's dictionary for those of the keys that have any; none where it does not answer."""
        if self.error is not None or not keys:
            return {}
        try:
            return dictionary.read(self._client, self.model_id, keys)
        except CtrError:
            return {}

    def warm(self) -> None:
        """Compile what requests call, or load it from the disk cache: up to seconds that no request should pay."""
        self.cache.warm()
        self._rows.warm_up()
        threading.Thread(target=self._warm_scanner, name="ctr-warm-scanner", daemon=True).start()
        batch = self.encode([{}])
        self.missing(batch)
        self.score(batch)
        self.explain({}, in_words=False)
        self.cache.by_field[:] = 0  # nobody has asked for that

    def follow(self, rest: Callable[[int], object]) -> int:
        """Take over what was committed since the last time; how many rows were read. For `rest` see `RowCache.follow`.

        Raises
        ------
        CtrError
            The store cannot be read, or what it holds not be used.
        """
        ShardReader.look_ahead(self._readers)
        return self.cache.follow(rest)

    def _warm_scanner(self) -> None:
        """Half a minute where it is not in the disk cache, and requests can be decoded meanwhile."""
        self._requests.scan_rows(b'{"instances":[{}]}', max_rows=1)
        self._requests.scan_ranking(b'{"context":{},"candidates":[{}]}', time.time(), max_rows=1)
        self._scans = True

    def change(self, spec: Spec) -> None:
        """Take over what may change in place, such as the ttl."""
        self.cache.change(spec)
        self.spec = spec

    # How it stands

    def staleness_s(self) -> float:
        """Age of what answers are made of: all that arrived in the log longer ago is learned and in use here.

        Infinite before anything was committed.
        """
        watermarks = self.cache.watermarks
        return _age(watermarks.arrival_s if watermarks else 0.0)

    def event_lag_s(self) -> float:
        """Age of the newest event in use, by its own time; infinite before there was one."""
        watermarks = self.cache.watermarks
        return _age(watermarks.event_s if watermarks else 0.0)

    def commit_age_s(self) -> float:
        """Age of the last commit in use; infinite before there was one."""
        watermarks = self.cache.watermarks
        return _age(watermarks.commit_s if watermarks else 0.0)

    def is_stale(self, staleness_s: float, limit_s: float) -> bool:
        """Whether answers may be older than `limit_s`, for a present `staleness_s`."""
        catalogue = self.catalogue.error is not None
        return self.error is not None or catalogue or staleness_s > limit_s or self.cache.broken

    def stale(self, limit_s: float) -> str | None:
        """None, or why answers may be older than `limit_s`."""
        staleness_s = self.staleness_s()
        if not self.is_stale(staleness_s, limit_s):
            return None
        if self.error is not None:
            return f"{self.model_id}: answers are from the rows read last: {self.error}"
        if self.catalogue.error is not None:
            return f"{self.model_id}: ads are those read last: {self.catalogue.error}"
        if math.isinf(staleness_s):
            return f"{self.model_id}: nothing that was learned is committed yet"
        if staleness_s > limit_s:
            return f"{self.model_id}: staleness is {staleness_s:.1f} s, above {limit_s:g} s"
        return f"{self.model_id}: rows are being read again after a broken chain of commits"


def _age(moment_s: float) -> float:
    return max(0.0, time.time() - moment_s) if moment_s > 0 else math.inf
