"""Rows of features in, probabilities out: a model in the store, scored from a local copy that follows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ctr.answers import Explanation
from ctr.model.ranking import AdQuestion, Question
from ctr.serving.catalogue import settle
from ctr.serving.follower import Follower
from ctr.serving.questions import Ranking, by_id


class Scorer(Follower):
    """Scores with a model of the store. Pure: it never writes, whatever is asked.

    A feature that the model has never seen, or whose row has expired, contributes nothing. While Redis is away, or the
    model was dropped, it goes on with the rows it has read; `staleness_s` says how old they are, `error` what is wrong.

    It follows its model: rows that change, settings that change in place, another generation that goes live, the same
    one made anew from another specification. The new one takes over once it is loaded, with the rows that were in use.

    Parameters
    ----------
    redis : str or Client
        URL, or a client from `ctr.store.connect`.
    model : str
        ``name`` (its live generation, whichever that is) or ``name@generation``.
    max_rows : int, optional
        Bound on the rows held; the specification's where it is not given.
    poll_s : float
        Time between two looks at the store.
    reread_rows_per_s : float
        Pace at which rows that changed are read again.
    look_s : float
        Time between two looks at which generation is live.
    catalogue : str, optional
        Of the ads that may be ranked by id (``ctr catalogue``); that of the model's name where it is not given.
    preload : int
        Rows read before the first request, those that the last commits wrote; at most half of `max_rows`.

    Raises
    ------
    ModelMissingError, ModelMismatchError
        The store holds no such model, or a newer format.
    StoreUnavailableError
        Redis does not answer.

    Examples
    --------
    >>> with Scorer("redis://localhost:6379/0", "ads") as scorer:  # doctest: +SKIP
    ...     scorer.predict([{"user": 7, "ad": "a1"}, {"user": 8, "ad": "a1"}])
    array([0.0312, 0.0127], dtype=float32)

    Without ``with`` or `start` nothing follows the store in the background: each `predict` then looks for changes
    itself, one round trip more.
    """

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        """Probability of a click for each row.

        Parameters
        ----------
        rows : sequence of n mappings
            Feature values as in an event; one that is missing or that no field reads is fine.

        Returns
        -------
        (n,) float32

        Raises
        ------
        EventError
            A value that cannot be a feature, with its path.
        """
        held = self._looked()
        batch = held.encode(rows, path="$")
        if len(held.missing(batch)) and self._may_ask(held):
            held.fill(batch)
        return held.score(batch)

    def rank(
        self, context: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]] | Sequence[str],
        top: int | None = None,
    ) -> Ranking:  # fmt: skip
        """Find the best of many candidates for one context.

        The same as predicting ``{**context, **candidate}`` for each and sorting, within 1e-6, but what the context
        alone decides is computed once.

        Parameters
        ----------
        context : mapping
            User, page, time of day: what all candidates share.
        candidates : sequence of n mappings, or of n ids
            What each of them adds, or puts in the place of the context's; or ids of ads in the catalogue, of which what
            an ad alone decides is kept. Ids that it does not have are left out, and told by `Ranking.unknown`.
        top : int, optional
            How many to return; all n where it is not given.

        Raises
        ------
        EventError
            A value that cannot be a feature, with its path; or rows and ids among the candidates.
        """
        held = self._looked()
        question: Question | AdQuestion
        ids: Sequence[str] = ()
        known = None
        if not by_id(candidates):
            question = held.question(context, cast("Sequence[Mapping[str, Any]]", candidates), ("$", "$"))
        else:
            ids = candidates
            if self._thread is None and held.error is None:
                settle(held.catalogue)
            question, known = held.question_of_ads(context, ids, "$")
        scores, unknown = held.score_question(question)
        if unknown and self._may_ask(held) and held.fill(question.batch):
            scores, _ = held.score_question(question)
        return Ranking.of(scores, top) if known is None else Ranking.of_ads(scores, top, ids, known)

    def explain(self, row: Mapping[str, Any]) -> Explanation:
        """Take a prediction apart: what the bias, each feature and each pair of features add to the logit.

        Features are named as the dictionary that training fills has them (``ctr train --names``), else after the row.
        A field without a value, and a feature that the model does not know, are there and contribute nothing.

        Parameters
        ----------
        row : mapping
            Feature values as in an event.

        Raises
        ------
        EventError
            A value that cannot be a feature, with its path.
        """
        held = self._looked()
        batch = held.encode_row(row)
        if len(held.missing(batch)) and self._may_ask(held):
            held.fill(batch)
        return held.explain(row)
