"""One context and many candidates in, a score for each out: what the context alone decides is computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctr.events.batch import Batch
from ctr.events.requests import FEW
from ctr.kernels import build
from ctr.kernels.rank.bound import Ads, Bound, Scratch
from ctr.model.model import TILED_KP, Model
from ctr.model.prepared import PreparedAds
from ctr.model.tally import Tally
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


@dataclass(eq=False)
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


class Scored(NamedTuple):
    """What a question came to.

    Attributes
    ----------
    scores : (n,) float32
    unknown : int
        Features of which it is not known whether they have a row (`Model.missing_keys`).
    features : int
        Features of context and candidates, the context's counted once.
    """

    scores: NDArray[np.float32]
    unknown: int
    features: int


class Ranker:
    """Scores questions with a model; equal to predicting their rows in full, but for the order of summation.

    One-hot ffm with k <= 8 has a kernel of its own, all else is predicted in full. Of any number of threads, each needs
    a ranker of its own.

    Parameters
    ----------
    model : Model
        Read, never changed.
    tally : Tally, optional
        To which features are added that were asked for.

    Attributes
    ----------
    few : (FEW,) float32
        What `predict_few` found.
    ads : PreparedAds or None
        Ads that are told of every row that changes, so that what is kept of them can be used.
    """

    def __init__(self, model: Model, tally: Tally | None = None) -> None:
        spec = model.spec
        self._model, self._F, self._kp = model, len(spec.fields), padded_k(spec.model.k)
        tiled = spec.dense and spec.model.type == "ffm" and self._kp <= TILED_KP and not spec.model.libffm
        self._kernel = build.load("rank/ffm", F=self._F, KP=self._kp) if tiled else None
        self._tally = tally or Tally(model)
        self.few = np.zeros(FEW, np.float32)
        self.ads: PreparedAds | None = None
        self._no_ads = PreparedAds(np.arange(1), 1)
        self._room = 0, 0
        self._bound: Any = None
        self._bound_to: tuple[Spec | None, PreparedAds] = None, self._no_ads
        self._predict_few: Any = self._kernel and self._kernel.predict_few

    @property
    def has_kernel(self) -> bool:
        """Whether there is a kernel for this model."""
        return self._kernel is not None

    def score(self, question: Question | AdQuestion, *, probabilities: bool = True, sample: int = -1) -> Scored:
        """Predictions or logits.

        Parameters
        ----------
        question : Question or AdQuestion
        probabilities : bool
            Otherwise logits.
        sample : int
            Candidate whose features are added to the tally, with the context's; none where it is below 0, or where
            anything is unknown: then it is asked again. All candidates would take as long again. The shares by field
            are the same in the long run, and a field's weight that of a request.
        """
        kernel, n = self._kernel, len(question)
        if isinstance(question, AdQuestion) and (kernel is None or question.ads is not self.ads):
            question = question.plain
        if not n:
            return Scored(np.empty(0, np.float32), 0, 0)
        if isinstance(question, AdQuestion):
            assert kernel is not None
            bound, out = self._bind(n, len(question.ads.fields)), np.empty(n, np.float32)
            unknown, features = kernel.rank_kept(
                question.context, question.places, question.time_s, probabilities, sample, bound, out
            )
        elif kernel is None or question.whole is not None:
            return self._score_in_full(question, probabilities=probabilities, sample=sample)
        else:
            bound, out = self._bind(n, len(question.fields)), np.empty(n, np.float32)
            unknown, features = kernel.rank(
                question.context, question.fields, question.keys.ravel(), question.time_s, probabilities, sample, bound,
                out,
            )  # fmt: skip
        return Scored(out, unknown, features)

    def _score_in_full(self, question: Question, *, probabilities: bool, sample: int) -> Scored:
        """`score` of a model, or of fields with several features, that has no kernel."""
        model, batch = self._model, question.batch
        run = model.predict_many if probabilities else model.logits_many
        scores, unknown = run(batch), len(model.missing_keys(batch))
        if sample >= 0 and not unknown:
            self._tally.add_batch(batch if question.whole is not None else batch.slice(sample, sample + 1))
        return Scored(scores, unknown, question.features)

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
            the first n of `few` are their probabilities, and they are tallied.
        """
        features: int = self._predict_few(keys, n, time_s, self._bind(0, 0))
        return features

    def _bind(self, n: int, A: int) -> Any:
        """What kernels read and write beside their arguments, with room for n candidates of A fields."""
        spec, ads, room = self._model.spec, self.ads or self._no_ads, self._room
        if spec is not self._bound_to[0] or ads is not self._bound_to[1] or room[0] < n or room[1] < A:
            self._room = max(n, room[0]), max(A, room[1])
            self._bound, self._bound_to = self._new_bound(spec, ads), (spec, ads)
        return self._bound

    def _new_bound(self, spec: Spec, ads: PreparedAds) -> Any:
        model, table, (n, A) = self._model, self._model.table, self._room
        width = n + ABREAST - 1
        scratch = Scratch(
            M=np.empty(A * table.P, np.float32), base=np.empty(width * A, np.int64), sums=np.empty(width, np.float32),
            seen=np.empty(max(4, 1 << (2 * n).bit_length()), np.uint64), met=np.empty(width, np.int64),
            dots=np.empty(width, np.float32), spot_of=np.empty(n, np.int64),
        )  # fmt: skip
        kept = Ads(ads.fields, ads.keys.ravel(), ads.features, ads.rows, ads.kept, ads.keep)
        return Bound(
            table.W, table.stride, table.index, table.slots, float(spec.lifetime.ttl_s), spec.model.normalize,
            model.hyper, self._tally.counts, self.few, scratch, kept,
        )  # fmt: skip

    def warm_up(self) -> None:
        """Compile what questions call, or load it from the disk cache."""
        F = self._F
        nothing = Question(np.zeros(F, np.uint64), np.arange(1), np.zeros((1, 1), np.uint64), 0.0)
        self.score(nothing)
        if self._kernel is not None:
            self.predict_few(nothing.context, 1, 0.0)
            self._kernel.rank_kept(
                nothing.context, np.empty(0, np.int64), 0.0, True, -1, self._bind(0, 1), np.empty(0, np.float32)
            )
