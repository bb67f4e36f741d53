"""What a request may cost and how long it may take: the settings of a scoring server."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ctr.errors import SettingError
from ctr.serving.asgi import MAX_BODY_BYTES, MAX_HEADER_BYTES, MAX_HEADERS, HttpError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Settings with their defaults.

    Attributes
    ----------
    deadline_s : float
        From a request's head on; no request waits for Redis beyond it.
    prior : float, optional
        Probability given where nothing better can be had in time: while the model is being loaded, to a request whose
        deadline has passed before it is scored, and to a row of which no feature is known when the store does not
        answer in time. Without it the first gets 503, the others what the rows held give.
    stale_after_s : float
        Answers older than this carry ``x-ctr-stale: 1``, and ``/readyz`` says "degraded".
    unready_after_s : float
        Staleness beyond which ``/readyz`` is 503. Infinite: never, for to take out all scorers at once because a
        trainer has stopped would make a stale answer none at all.
    max_instances : int
        Rows, or candidates, of a request. They are scored in one go, and others wait meanwhile: 14 us a row of 39
        fields, most of it values becoming keys (wrk -t1 -c8, 100 rows a request, all known).
    max_elements : int
        Values of all rows of a request, elements of lists and objects counted one by one.
    max_explained : int
        Rows of a request for explanations: each takes about a millisecond.
    max_body_bytes, max_headers, max_header_bytes : int
    """

    deadline_s: float = 0.05
    prior: float | None = None
    stale_after_s: float = 60.0
    unready_after_s: float = math.inf
    max_instances: int = 1024
    max_elements: int = 100_000
    max_explained: int = 16
    max_body_bytes: int = MAX_BODY_BYTES
    max_headers: int = MAX_HEADERS
    max_header_bytes: int = MAX_HEADER_BYTES

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "prior" and not value > 0:
                raise SettingError(field.name, value, "above 0")
        if self.prior is not None and not 0 <= self.prior <= 1:
            raise SettingError("prior", self.prior, "a probability: 0 to 1")

    def are_few(self, body: bytes) -> bool:
        """Whether a body cannot hold more values than are allowed; else they are to be counted once it is decoded."""
        return len(body) < self.max_elements or body.count(b",") < self.max_elements  # to count takes 1 us a KB

    def check_rows(self, rows: Sequence[Mapping[str, Any]], path: str, *, lists: bool = True) -> None:
        """Refuse what is too much, before work is spent on it; `lists`: whether a value may be more than one.

        Raises
        ------
        HttpError
        """
        if len(rows) > self.max_instances:
            raise HttpError(400, f"{path}: {len(rows)} rows, at most {self.max_instances} are allowed")
        elements = sum(map(len, rows))
        if lists:
            elements += sum(len(value) for row in rows for value in row.values() if type(value) in (list, dict))
        if elements > self.max_elements:
            raise HttpError(400, f"{path}: {elements} values in all, at most {self.max_elements} are allowed")
