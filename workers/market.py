"""An endless ad market whose truth is known: a seed and event times in, impressions with their true click rates out.

Every impression is a user on a site who sees an ad. Its click probability is that of a hidden field-aware
factorization machine, so that the lowest logloss anyone can reach on the market's events (the oracle's) is known.
New ads keep arriving and old ones fade; most of what an ad does follows from its campaign, advertiser and format.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from ctr.errors import SettingError

FIELDS: Final = (
    "user", "segment", "region", "device", "site", "topic", "position", "hour", "ad", "campaign", "advertiser",
    "format",
)  # fmt: skip
USER, SEGMENT, REGION, DEVICE, SITE, TOPIC, POSITION, HOUR, AD, CAMPAIGN, ADVERTISER, FORMAT = range(len(FIELDS))

SEGMENTS = ("students", "parents", "gamers", "travellers", "cooks", "investors", "athletes", "gardeners")
TOPICS = ("news", "sport", "music", "cars", "food", "finance", "games", "fashion", "science", "travel")
DEVICES = ("phone", "desktop", "tablet", "tv")
FORMATS = ("banner", "video", "native", "text")
REGIONS, SITES, POSITIONS, CAMPAIGNS, ADVERTISERS = 16, 200, 5, 120, 24

RANK = 2
"""Length of the hidden latent factors: a model with k = 4 can hold them and has room to err."""
AD_GENERATIONS = 8
"""Generations of ads before hidden traits repeat, under new names. An ad lives for one generation."""

LINEAR_STD: Final = {
    "user": 0.10, "segment": 0.30, "region": 0.10, "device": 0.30, "site": 0.25, "topic": 0.30, "position": 0.40,
    "hour": 0.08, "ad": 0.15, "campaign": 0.20, "advertiser": 0.25, "format": 0.30,
}  # fmt: skip
"""Standard deviation, in logits, of what a value does on its own."""
PAIR_STD: Final = {
    ("segment", "advertiser"): 0.8, ("topic", "advertiser"): 0.6, ("device", "format"): 0.6,
    ("position", "format"): 0.4, ("segment", "topic"): 0.4, ("region", "advertiser"): 0.3, ("hour", "device"): 0.1,
    ("site", "format"): 0.2, ("segment", "campaign"): 0.2, ("user", "format"): 0.1, ("topic", "ad"): 0.1,
}  # fmt: skip
"""Standard deviation, in logits, of what two values do together."""

SIMULATED_START_S = 1_735_689_600.0
"""2025-01-01 00:00 UTC."""
SIMULATED_PACE = 20.0
"""Events a second of simulated time: a million events cross half a day, so that every hour occurs."""


class Impression(msgspec.Struct):
    """One event as it is written: one JSON object a line."""

    id: str
    ts: float
    user: str
    segment: str
    region: str
    device: str
    site: str
    topic: str
    position: int
    hour: int
    ad: str
    campaign: str
    advertiser: str
    format: str
    click: int
    p: float | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True)
class Events:
    """`n` impressions as arrays.

    Attributes
    ----------
    first : int
        Number of the first one since the market's birth; the others follow.
    values : (len(FIELDS), n) int64
        Value of each field as an index into its vocabulary; for ``ad`` the ad's number since the market's birth.
    ts : (n,) float64
        Event times, seconds since 1970.
    p : (n,) float64
        True click probabilities.
    click : (n,) uint8
        1 where the impression was clicked, else 0.
    """

    first: int
    values: NDArray[np.int64]
    ts: NDArray[np.float64]
    p: NDArray[np.float64]
    click: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.click)


class Market:
    """Users, sites and ads drawn from a seed; `events` goes on for ever.

    The same seed and sizes give the same stream, however it is cut into blocks (given the same event times: the hour
    of day is a field).

    Parameters
    ----------
    seed : int
        Decides all: traits, hidden model, traffic, clicks.
    users, ads : int
        Number of users, and of ads live at a time.
    base_rate : float
        Mean click probability over users, hours and generations of ads. A stretch of the stream may differ from it
        by a third, because a few popular ads, and its hour, make up much of it.
    new_ad_every : int
        Events between two arrivals of a new ad. An ad lives for ``ads * new_ad_every`` events.

    Notes
    -----
    logit = bias + sum_f w_f[x_f] + sum_{f < g} <v_f,g[x_f], v_g,f[x_g]>   (Juan et al. 2016, field-aware
    factorization machines, equation 4), with the standard deviations of `LINEAR_STD` and `PAIR_STD`.
    """

    def __init__(
        self, seed: int = 1, *, users: int = 20_000, ads: int = 400, base_rate: float = 0.035, new_ad_every: int = 500
    ) -> None:
        for key, value in (("users", users), ("ads", ads), ("new_ad_every", new_ad_every)):
            if value < 1:
                raise SettingError(key, value, "at least 1")
        if not 0 < base_rate < 1:
            raise SettingError("base_rate", base_rate, "between 0 and 1")
        traits, sample, self._stream = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3))
        self.seed, self.ads, self.new_ad_every, self.base_rate = seed, ads, new_ad_every, base_rate
        self._count = 0

        self._user_cdf, self._site_cdf = _cdf(_zipf(users, 0.7)), _cdf(_zipf(SITES, 1.0))
        self._device_cdf, self._position_cdf = _cdf(np.array([5.0, 3.0, 1.0, 1.0])), _cdf(_zipf(POSITIONS, 0.5))
        self._user_segment = traits.integers(len(SEGMENTS), size=users)
        self._user_region = _pick(_cdf(_zipf(REGIONS, 0.7)), traits.random(users))
        self._site_topic = traits.integers(len(TOPICS), size=SITES)
        # Each generation of ads holds every rank of popularity once, so that the market is as skewed at any time.
        pool = ads * AD_GENERATIONS
        self._ad_appeal = np.concatenate([traits.permutation(_zipf(ads, 0.8)) for _ in range(AD_GENERATIONS)])
        self._ad_campaign = traits.integers(CAMPAIGNS, size=pool)
        self._ad_format = traits.integers(len(FORMATS), size=pool)
        self._campaign_advertiser = traits.integers(ADVERTISERS, size=CAMPAIGNS)

        cardinality = (users, len(SEGMENTS), REGIONS, len(DEVICES), SITES, len(TOPICS), POSITIONS, 24, pool,
                       CAMPAIGNS, ADVERTISERS, len(FORMATS))  # fmt: skip
        self._linear = [
            LINEAR_STD[name] * _standard(traits, rows, 1)[:, 0] for name, rows in zip(FIELDS, cardinality, strict=True)
        ]
        self._linear[POSITION] = np.sort(self._linear[POSITION])[::-1]  # the top of the page is clicked most
        self._pairs = []
        for (left, right), std in PAIR_STD.items():
            f, g = FIELDS.index(left), FIELDS.index(right)
            factors = _standard(traits, cardinality[f], RANK) * (std / RANK**0.5)
            self._pairs.append((f, g, factors, _standard(traits, cardinality[g], RANK)))
        self._bias = 0.0
        self._bias = self._calibrated(sample)

        self._names: list[NDArray[np.object_]] = [
            np.array(names, dtype=object)
            for names in (
                [f"u{i}" for i in range(users)], SEGMENTS, [f"r{i}" for i in range(REGIONS)], DEVICES,
                [f"site{i}" for i in range(SITES)], TOPICS, range(1, POSITIONS + 1), range(24), (),
                [f"c{i}" for i in range(CAMPAIGNS)], [f"adv{i}" for i in range(ADVERTISERS)], FORMATS,
            )
        ]  # fmt: skip
        self._encoder = msgspec.json.Encoder()

    def events(self, n: int, ts: NDArray[np.float64] | None = None) -> Events:
        """The next `n` impressions.

        Parameters
        ----------
        n : int
        ts : (n,) float64, optional
            When they happen, seconds since 1970, rounded to the millisecond; without it `SIMULATED_PACE` a second from
            `SIMULATED_START_S` on.
        """
        first, numbers = self._count, np.arange(self._count, self._count + n)
        times = (SIMULATED_START_S + numbers / SIMULATED_PACE if ts is None else ts).round(3)
        # Six draws an event in the event's own order: the stream is the same however it is cut into blocks.
        draws = self._stream.random((n, 6))
        self._count += n
        values = self._drawn(draws, times, numbers // self.new_ad_every)
        p = _sigmoid(self.logit(values))
        return Events(first, values, times, p, (draws[:, 5] < p).astype(np.uint8))

    def logit(self, values: NDArray[np.int64]) -> NDArray[np.float64]:
        """The hidden model: (len(FIELDS), n) values -> (n,) true logits."""
        rows = list(values)
        rows[AD] = rows[AD] % len(self._ad_campaign)
        total = np.full(values.shape[1], self._bias)
        for weights, row in zip(self._linear, rows, strict=True):
            total += weights[row]
        for f, g, left, right in self._pairs:
            total += np.einsum("nk,nk->n", left[rows[f]], right[rows[g]])
        return total

    def columns(self, events: Events) -> list[list[Any]]:
        """The values as they are written, one list a field of `FIELDS`."""
        return [
            [f"ad{number}" for number in row.tolist()] if field == AD else self._names[field][row].tolist()
            for field, row in enumerate(events.values)
        ]

    def lines(self, events: Events, *, truth: bool = False) -> list[bytes]:
        """The events as JSON, one object each, without line ends; with `truth` they carry their probability ``p``."""
        last = events.first + len(events)
        ids = [f"{self.seed}-{number}" for number in range(events.first, last)]
        labelled = [ids, events.ts.tolist(), *self.columns(events), events.click.tolist()]
        if truth:
            labelled.append(events.p.tolist())
        return list(map(self._encoder.encode, map(Impression, *labelled)))

    def rows(self, events: Events) -> list[dict[str, Any]]:
        """The events as a scorer is asked about them: field -> value, without label, id and time."""
        return [dict(zip(FIELDS, row, strict=True)) for row in zip(*self.columns(events), strict=True)]

    def users(self, events: Events) -> list[bytes]:
        """Each event's user: the message key that keeps a user's events in one partition."""
        return [name.encode() for name in self._names[USER][events.values[USER]].tolist()]

    def _drawn(
        self, draws: NDArray[np.float64], times: NDArray[np.float64], epochs: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        values = np.empty((len(FIELDS), len(draws)), np.int64)
        for column, (field, cdf) in enumerate(
            ((USER, self._user_cdf), (SITE, self._site_cdf), (DEVICE, self._device_cdf), (POSITION, self._position_cdf))
        ):
            values[field] = _pick(cdf, draws[:, column])
        values[AD] = self._ad_numbers(draws[:, 4], epochs)
        values[HOUR] = times // 3600 % 24
        values[SEGMENT], values[REGION] = self._user_segment[values[USER]], self._user_region[values[USER]]
        values[TOPIC] = self._site_topic[values[SITE]]
        row = values[AD] % len(self._ad_campaign)
        values[CAMPAIGN], values[FORMAT] = self._ad_campaign[row], self._ad_format[row]
        values[ADVERTISER] = self._campaign_advertiser[values[CAMPAIGN]]
        return values

    def _ad_numbers(self, draws: NDArray[np.float64], epochs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Pick ads: in epoch e (of `new_ad_every` events) ads e .. e + ads - 1 are live, the last one newly arrived.

        An ad's popularity is its Zipf share, rising over the first twentieth of its life and fading to 0 at its end.
        """
        numbers = np.empty(len(draws), np.int64)
        age = (np.arange(self.ads)[::-1] + 0.5) / self.ads
        life = np.minimum(1.0, age / 0.05) * (1.0 - age)
        edges = [*np.flatnonzero(np.diff(epochs, prepend=-1)).tolist(), len(draws)]
        for begin, end in pairwise(edges):
            live = epochs[begin] + np.arange(self.ads)
            cdf = _cdf(self._ad_appeal[live % len(self._ad_appeal)] * life)
            numbers[begin:end] = live[_pick(cdf, draws[begin:end])]
        return numbers

    def _calibrated(self, rng: np.random.Generator, n: int = 1 << 16) -> float:
        """Bias at which a sample over all hours and generations of ads has the base rate, by bisection."""
        epochs = np.arange(n) // 256 * (len(self._ad_appeal) * 256) // n
        logit = self.logit(self._drawn(rng.random((n, 6)), np.arange(n) * np.float64(3600.0), epochs))
        low, high = -30.0, 30.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if _sigmoid(logit + middle).mean() < self.base_rate else (low, middle)
        return low


def _zipf(n: int, exponent: float) -> NDArray[np.float64]:
    """Popularity of n values by rank, the first the most popular."""
    weights: NDArray[np.float64] = np.arange(1, n + 1, dtype=np.float64) ** -exponent
    return weights


def _cdf(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.cumsum(weights)
    shares: NDArray[np.float64] = total / total[-1]
    return shares


def _pick(cdf: NDArray[np.float64], draws: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices distributed as `cdf` says, from uniform draws in [0, 1); the last entry of `cdf` is exactly 1."""
    return np.searchsorted(cdf, draws, side="right").astype(np.int64)


def _standard(rng: np.random.Generator, rows: int, k: int) -> NDArray[np.float64]:
    """(rows, k) normal draws, each column of mean 0 and variance 1 exactly: seeds differ in kind, not in strength."""
    drawn = rng.standard_normal((rows, k))
    centred = drawn - drawn.mean(axis=0)
    standard: NDArray[np.float64] = centred / np.maximum(centred.std(axis=0), 1e-12)
    return standard


def _sigmoid(logit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Click probabilities; logits of a market are far from where exp overflows."""
    p: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-logit))
    return p
