"""One context and many candidates in, a score for each out: what the context alone decides is computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.events.batch import Batch
from ctr.events.requests import FEW
from ctr.kernels import build
from ctr.kernels.rank.bound import Bound
from ctr.model.model import TILED_KP, Model
from ctr.model.prepared import PreparedAds
from ctr.rows import padded_k
from ctr.spec import Spec

ABREAST = 4
"""Candidates that the kernel takes at a time."""


@dataclass(frozen=True)
class Question:
    """One context and `n` candidates, as keys. Candidate i's row is the context with its own fields put in.

    Attributes
    ----------
    context : (F,) uint64
        The context's keys; what stands in the candidates' fields does not matter.
    fields : (A,) int64
        Indices of the candidates' fields, ascending.
    keys : (n, A) uint64
    time_s : float
    whole : Batch, optional
        All rows in full, instead of the above: where a field may hold several features.
    """

    context: NDArray[np.uint64]
    fields: NDArray[np.int64]
    keys: NDArray[np.uint64]
    time_s: float
    whole: Batch | None = None

    def __len__(self) -> int:
        return len(self.keys) if self.whole is None else len(self.whole)

    @cached_property
    def batch(self) -> Batch:
        """All rows in full."""
        if self.whole is not None:
            return self.whole
        n, F = len(self.keys), len(self.context)
        keys = np.tile(self.context, (n, 1))
        keys[:, self.fields] = self.keys
        return Batch(
            keys.ravel(), np.ones(n * F, np.float32), np.tile(np.arange(F, dtype=np.uint8), n),
            np.arange(n + 1) * F, np.full(n, np.nan, np.float32), np.ones(n, np.float32), np.full(n, self.time_s),
            np.full(n, -1, np.int32), np.arange(n), dense=True,
        )  # fmt: skip

    @property
    def features(self) -> int:
        """Features of context and candidates, the context's counted once."""
        if self.whole is not None:
            return len(self.whole.keys)
        own = np.count_nonzero(self.context) - np.count_nonzero(self.context[self.fields])
        return int(own + np.count_nonzero(self.keys))


@dataclass(frozen=True)
class AdQuestion:
    """One context and `n` ads of a catalogue, all of which name the same fields.

    Attributes
    ----------
    context : (F,) uint64
        As in a `Question`.
    ads : PreparedAds
    places : (n,) int64
        Which of them.
    time_s : float
    """

    context: NDArray[np.uint64]
    ads: PreparedAds
    places: NDArray[np.int64]
    time_s: float

    def __len__(self) -> int:
        return len(self.places)

    @cached_property
    def plain(self) -> Question:
        """The same, with keys instead of places."""
        return Question(self.context, self.ads.fields, self.ads.keys[self.places], self.time_s)

    @property
    def batch(self) -> Batch:
        """All rows in full."""
        return self.plain.batch

    @property
    def features(self) -> int:
        """As `Question.features`."""
        own = np.count_nonzero(self.context) - np.count_nonzero(self.context[self.ads.fields])
        return int(own + self.ads.features[self.places].sum())


class Ranker:
    """Scores questions with a model; equal to predicting their rows in full, but for the order of summation.

    One-hot ffm with k <= 8 has a kernel of its own, all else is predicted in full. Of any number of threads, each needs
    a ranker of its own.

    Parameters
    ----------
    model : Model
        Read, never changed.
    counts : (2, F) int64, optional
        Features by field, and those of them without a row, that `predict_few` adds to.

    Attributes
    ----------
    few : (FEW,) float32
        What `predict_few` found.
    ads : PreparedAds or None
        Ads that are told of every row that changes, so that what is kept of them can be used.
    """

    def __init__(self, model: Model, counts: NDArray[np.int64] | None = None) -> None:
        spec = model.spec
        self._model, self._F, self._kp = model, len(spec.fields), padded_k(spec.model.k)
        tiled = spec.dense and spec.model.type == "ffm" and self._kp <= TILED_KP and not spec.model.libffm
        self._kernel = build.load("rank/ffm", F=self._F, KP=self._kp) if tiled else None
        self._room, self._scratch = (0, 0), self._new_scratch(0, 0)
        self._counts = np.zeros((2, self._F), np.int64) if counts is None else counts
        self.few = np.zeros(FEW, np.float32)
        self._bound: Any = None
        self._bound_spec: Spec | None = None
        self._predict_few: Any = None
        self.ads: PreparedAds | None = None

    @property
    def has_kernel(self) -> bool:
        """Whether there is a kernel for this model."""
        return self._kernel is not None

    def score(self, question: Question | AdQuestion, *, probabilities: bool = True) -> tuple[NDArray[np.float32], int]:
        """Predictions or logits.

        Returns
        -------
        scores : (n,) float32
        unknown : int
            Features of which it is not known whether they have a row (`Model.missing_keys`).
        """
        model, n = self._model, len(question)
        if not n:
            return np.empty(0, np.float32), 0
        if isinstance(question, AdQuestion):
            if self._kernel is None or question.ads is not self.ads:
                return self.score(question.plain, probabilities=probabilities)
            return self._score_kept(question, probabilities=probabilities)
        if self._kernel is None or question.whole is not None:
            batch = question.batch
            run = model.predict_many if probabilities else model.logits_many
            return run(batch), len(model.missing_keys(batch))
        table, out = model.table, np.empty(n, np.float32)
        unknown = self._kernel.rank(
            table.W, table.stride, table.index, table.slots, _without(question.context, question.fields),
            question.fields, question.keys.ravel(),
            question.time_s, float(model.spec.lifetime.ttl_s), model.spec.model.normalize, model.hyper, probabilities,
            self._scratch_for(n, len(question.fields)), out,
        )  # fmt: skip
        return out, int(unknown)

    def predict_few(self, keys: NDArray[np.uint64], n: int, time_s: float) -> int:
        """Score a few rows in full, at most `FEW`; only for a model that `has_kernel`.

        Parameters
        ----------
        keys : (n F or more,) uint64
        n : int
        time_s : float

        Returns
        -------
        int
            Features of all rows; -1 where of some it is not known whether they have a row, and nothing was done. Else
            the first n of `few` are their probabilities, and `counts` has been added to.
        """
        if self._bound_spec is not self._model.spec:
            self._bind()
        features: int = self._predict_few(keys, n, time_s, self._bound)
        return features

    def _bind(self) -> None:
        """What `predict_few` reads and writes beside its arguments: anew where the specification has changed."""
        assert self._kernel is not None
        model = self._model
        spec, table = model.spec, model.table
        self._bound = Bound(
            table.W, table.stride, table.index, table.slots, float(spec.lifetime.ttl_s), spec.model.normalize,
            model.hyper, self._counts, self.few,
        )  # fmt: skip
        self._bound_spec, self._predict_few = spec, self._kernel.predict_few

    def _score_kept(self, question: AdQuestion, *, probabilities: bool) -> tuple[NDArray[np.float32], int]:
        """`score` with what is kept of the ads."""
        assert self._kernel is not None
        model, ads, n = self._model, question.ads, len(question)
        table, out = model.table, np.empty(n, np.float32)
        unknown = self._kernel.rank_kept(
            table.W, table.stride, table.index, table.slots, _without(question.context, ads.fields), ads.fields,
            ads.keys.ravel(), question.places, ads.rows, ads.kept, ads.keep, ads.features, question.time_s,
            float(model.spec.lifetime.ttl_s), model.spec.model.normalize, model.hyper, probabilities,
            self._scratch_for(n, len(ads.fields)), out,
        )  # fmt: skip
        return out, int(unknown)

    def _scratch_for(self, n: int, A: int) -> Any:
        """Room for n candidates of A fields, at least; what is there is kept for the next question."""
        if n > self._room[0] or self._room[1] < A:
            self._room = max(n, self._room[0]), max(A, self._room[1])
            self._scratch = self._new_scratch(*self._room)
        return self._scratch

    def _new_scratch(self, n: int, A: int) -> Any:
        if self._kernel is None:
            return None
        whole, slots = n + ABREAST - 1, max(4, 1 << (2 * n).bit_length())
        return self._kernel.Scratch(
            M=np.empty(A * self._model.table.P, np.float32), base=np.empty(whole * A, np.int64),
            sums=np.empty(whole, np.float32), places=np.empty(slots, np.int64), spots=np.empty(slots, np.int64),
            met=np.empty(whole, np.int64), dots=np.empty(whole, np.float32), spot_of=np.empty(n, np.int64),
        )  # fmt: skip

    def warm_up(self) -> None:
        """Compile what questions call, or load it from the disk cache."""
        F = self._F
        nothing = Question(np.zeros(F, np.uint64), np.arange(1), np.zeros((1, 1), np.uint64), 0.0)
        self.score(nothing)
        if self._kernel is not None:
            self.predict_few(nothing.context, 1, 0.0)
            ads = PreparedAds(np.arange(1), 1)
            ads.put(np.arange(1), np.zeros((1, 1), np.uint64))
            self._score_kept(AdQuestion(nothing.context, ads, np.arange(1), 0.0), probabilities=True)


def _without(context: NDArray[np.uint64], fields: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The context's keys, 0 in the candidates' fields."""
    context = context.copy()
    context[fields] = 0
    return context
