"""Rows in, what a `ctr serve` somewhere answers out: typed, within a deadline, retrying only what is safe.

What is asked here changes nothing at the server, so to ask twice is safe; it is done where the server cannot have
begun (connection refused) or says when to come again (503 with Retry-After), never where it may be at work.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import httpx
import msgspec

from ctr.answers import Explanation
from ctr.errors import RequestRefusedError, ScorerUnavailableError

Row = Mapping[str, Any]
T = TypeVar("T")

TIMEOUT_S = 1.0
_FIRST_PAUSE_S = 0.02


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer is made of, to be logged with it.

    Attributes
    ----------
    model : str
        ``name@generation``.
    version : str
        The oldest commit whose rows it is made of.
    staleness_s : float
        All that arrived in the log longer ago is learned and in use; infinite before a commit.
    stale : bool
        It may be older than the server's operator wishes.
    fallback : int
        Rows that were given the configured prior.
    """

    model: str
    version: str
    staleness_s: float
    stale: bool
    fallback: int


class Answer(msgspec.Struct, Generic[T], frozen=True):
    """A server's answer, and what it is made of."""

    value: T
    made: Made


class Ranking(msgspec.Struct, frozen=True):
    """The best candidates, best first: their places in the request, and their scores; and ids that are not known."""

    order: list[int]
    scores: list[float]
    unknown: list[str] = []


class _Predictions(msgspec.Struct):
    predictions: list[float]


class _Explanations(msgspec.Struct):
    explanations: list[Explanation]


class _Error(msgspec.Struct):
    error: str


class _Talk:
    """What both clients share: requests, answers, and how long to wait before asking again."""

    def __init__(self, url: str, token: str | None, timeout_s: float) -> None:
        self._base = f"{url.rstrip('/')}/v1/models/"
        self._headers = {"content-type": "application/json"}
        if token is not None:
            self._headers["authorization"] = f"Bearer {token}"
        self._timeout_s = timeout_s

    def _url(self, model: str, verb: str) -> str:
        name, _, generation = model.partition("@")
        return f"{self._base}{name}{f'/versions/{generation}' if generation else ''}:{verb}"

    @staticmethod
    def _answer(response: httpx.Response, kind: type[T]) -> Answer[T]:
        """What a response of status 200 holds."""
        try:
            value = msgspec.json.decode(response.content, type=kind)
            headers = response.headers
            made = Made(
                model=headers["x-ctr-model"], version=headers["x-ctr-version"],
                staleness_s=float(headers["x-ctr-staleness-seconds"]), stale="x-ctr-stale" in headers,
                fallback=int(headers.get("x-ctr-fallback", 0)),
            )  # fmt: skip
        except (msgspec.DecodeError, KeyError, ValueError) as error:
            raise RequestRefusedError(response.status_code, f"no answer of `ctr serve`: {error!r}") from None
        return Answer(value, made)

    @staticmethod
    def _pause_s(outcome: httpx.Response | httpx.TransportError, attempt: int, left_s: float) -> float:
        """How long to wait before asking again.

        Raises
        ------
        RequestRefusedError
            It would be refused again.
        ScorerUnavailableError
            To ask again is not safe, or there is no time.
        """
        backoff_s = _FIRST_PAUSE_S * 2.0**attempt * random.uniform(0.5, 1.0)
        if isinstance(outcome, httpx.TransportError):
            said = f"no answer: {outcome!r}"
            pause_s = backoff_s if isinstance(outcome, httpx.ConnectError) else None
        else:
            status = outcome.status_code
            try:
                said = msgspec.json.decode(outcome.content, type=_Error).error
            except msgspec.DecodeError:
                said = outcome.text[:200]
            if status < 500:
                raise RequestRefusedError(status, said)
            after = outcome.headers.get("retry-after", "") if status == 503 else ""
            # A second is the least that the header can say; a server that starts may be there sooner.
            pause_s = max(backoff_s, min(float(after), left_s / 2)) if after.isascii() and after.isdigit() else None
        if pause_s is None or pause_s >= left_s:
            raise ScorerUnavailableError(said)
        return pause_s


class Client(_Talk):
    """Asks a scoring server. One for each server, kept: it holds connections open. Safe to use from several threads.

    Parameters
    ----------
    url : str
        Such as ``http://127.0.0.1:8080``.
    token : str, optional
        Bearer token; sent, never shown.
    timeout_s : float
        For a request with all its retries.

    Examples
    --------
    >>> with Client("http://127.0.0.1:8080") as client:  # doctest: +SKIP
    ...     answer = client.predict("ads", [{"user": 7, "ad": "a1"}])
    ...     answer.value, answer.made.staleness_s
    ([0.0312], 1.4)
    """

    def __init__(self, url: str, *, token: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__(url, token, timeout_s)
        self._http = httpx.Client(headers=self._headers)

    def predict(self, model: str, rows: Sequence[Row]) -> Answer[list[float]]:
        """Probability of a click for each row.

        Raises
        ------
        RequestRefusedError
            The server cannot read the request, or knows no such model.
        ScorerUnavailableError
            It did not answer in time.
        """
        answer = self._ask(model, "predict", {"instances": rows}, _Predictions)
        return Answer(answer.value.predictions, answer.made)

    def rank(self, model: str, context: Row, candidates: Sequence[Row], top: int | None = None) -> Answer[Ranking]:
        """Find the best of many candidates for one context; raises as `predict`."""
        return self._ask(model, "rank", {"context": context, "candidates": candidates, "top": top}, Ranking)

    def explain(self, model: str, rows: Sequence[Row]) -> Answer[list[Explanation]]:
        """Take predictions apart; raises as `predict`."""
        answer = self._ask(model, "explain", {"instances": rows}, _Explanations)
        return Answer(answer.value.explanations, answer.made)

    def _ask(self, model: str, verb: str, body: Any, kind: type[T]) -> Answer[T]:
        url, content = self._url(model, verb), msgspec.json.encode(body)
        until, attempt = time.monotonic() + self._timeout_s, 0
        while True:
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = self._http.post(url, content=content, timeout=max(0.001, until - time.monotonic()))
            except httpx.TransportError as error:
                outcome = error
            if isinstance(outcome, httpx.Response) and outcome.status_code == 200:
                return self._answer(outcome, kind)
            time.sleep(self._pause_s(outcome, attempt, until - time.monotonic()))
            attempt += 1

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class AsyncClient(_Talk):
    """The same for asyncio; see `Client`."""

    def __init__(self, url: str, *, token: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__(url, token, timeout_s)
        self._http = httpx.AsyncClient(headers=self._headers)

    async def predict(self, model: str, rows: Sequence[Row]) -> Answer[list[float]]:
        """See `Client.predict`."""
        answer = await self._ask(model, "predict", {"instances": rows}, _Predictions)
        return Answer(answer.value.predictions, answer.made)

    async def rank(
        self, model: str, context: Row, candidates: Sequence[Row], top: int | None = None
    ) -> Answer[Ranking]:
        """See `Client.rank`."""
        return await self._ask(model, "rank", {"context": context, "candidates": candidates, "top": top}, Ranking)

    async def explain(self, model: str, rows: Sequence[Row]) -> Answer[list[Explanation]]:
        """See `Client.explain`."""
        answer = await self._ask(model, "explain", {"instances": rows}, _Explanations)
        return Answer(answer.value.explanations, answer.made)

    async def _ask(self, model: str, verb: str, body: Any, kind: type[T]) -> Answer[T]:
        url, content = self._url(model, verb), msgspec.json.encode(body)
        until, attempt = time.monotonic() + self._timeout_s, 0
        while True:
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = await self._http.post(url, content=content, timeout=max(0.001, until - time.monotonic()))
            except httpx.TransportError as error:
                outcome = error
            if isinstance(outcome, httpx.Response) and outcome.status_code == 200:
                return self._answer(outcome, kind)
            await asyncio.sleep(self._pause_s(outcome, attempt, until - time.monotonic()))
            attempt += 1

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()
