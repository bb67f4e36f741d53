"""The demo's tour: the whole system on this machine for half a minute, on real processes, without Kafka.

An embedded Redis, a simulated ad market that writes events to a file, a trainer that follows the file, a scorer that
follows Redis, and requests for the newest impressions while learning goes on. Nothing is left behind.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.live import Live
from rich.table import Table

from ctr.errors import CtrError
from deploy.local.process import HOST, free_port
from deploy.local.redis import Redis
from deploy.local.stack import Worker
from workers.lifecycle import ExitCode, Shutdown
from workers.market import Events, Market
from workers.simulate import FileSink, Tally, simulate

SPEC = Path(__file__).with_name("ads.toml")
SEED = 1
HISTORY = 150_000
"""Events that are there when the trainer starts: it has something to catch up with."""
RATE = 4_000.0
"""Events a second from then on."""
SECONDS = 30.0
"""How long the live part is watched."""
WINDOW = 50_000
"""Events over which quality is shown, the trainer's and the truth's alike."""
ROWS = 50
"""Impressions in one scoring request: the newest of the market, which the trainer has hardly seen."""


@dataclass
class Requests:
    """What the scorer answered."""

    market: Market
    drawn: int = 0
    """Impressions of `market` that were passed over or asked about."""
    sent: int = 0
    failed: int = 0
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=500))
    error: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    """Mean |served - true probability| of each request."""
    error_of_base: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    """The same for a predictor that knows the base rate alone."""


@dataclass(slots=True)
class Truth(Tally):
    """A tally that remembers how it grew, so that the oracle can be judged over the very window of the trainer."""

    grown: list[tuple[int, int, float]] = field(default_factory=lambda: [(0, 0, 0.0)])
    """Events, clicks and oracle loss after each block."""

    def add(self, events: Events) -> None:
        """Count a block in."""
        Tally.add(self, events)
        self.grown.append((self.events, self.clicks, self.oracle_loss))

    def window(self, learned: int) -> tuple[float, float]:
        """Logloss of the base rate and of the oracle over the `WINDOW` events before event number `learned`."""
        grown = np.array(self.grown)
        first, last = grown[np.searchsorted(grown[:-1, 0], [max(0, learned - WINDOW), learned])]
        events, clicks, loss = last - first
        if not 0 < clicks < events:
            return float("nan"), float("nan")
        rate = clicks / events
        return float(-(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))), float(loss / events)


def scrape(worker: Worker) -> dict[str, float]:
    """A worker's /metrics, label values summed, quality over the last events; empty while it does not answer."""
    try:
        with urllib.request.urlopen(f"{worker.address}/metrics", timeout=2) as reply:  # noqa: S310  loopback
            text = reply.read().decode()
    except (OSError, urllib.error.URLError):
        return {}
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.labels.get("window", "events") != "events" or sample.labels.get("slice", "all") != "all":
                continue
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def ask(scorer: Worker, newest: int, requests: Requests, base_rate: float) -> None:
    """Score the newest impressions over HTTP and compare with the truth."""
    requests.market.events(max(0, newest - ROWS - requests.drawn))
    requests.drawn = max(newest, requests.drawn + ROWS)
    events = requests.market.events(ROWS, np.full(ROWS, time.time()))
    body = msgspec.json.encode({"instances": requests.market.rows(events)})
    url = f"{scorer.address}/v1/models/ads:predict"
    request = urllib.request.Request(url, body, {"content-type": "application/json"})  # noqa: S310  loopback
    began = time.perf_counter()
    requests.sent += 1
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:  # noqa: S310  loopback
            served = np.array(msgspec.json.decode(reply.read())["predictions"])
    except OSError:
        requests.failed += 1
        return
    requests.seconds.append(time.perf_counter() - began)
    requests.error.append(float(np.abs(served - events.p).mean()))
    requests.error_of_base.append(float(np.abs(base_rate - events.p).mean()))


def report(trainer: dict[str, float], scorer: dict[str, float], rate: float, truth: Truth, asked: Requests) -> Table:
    """Everything that is shown, live and at the end."""
    learned = int(trainer.get("ctr_events_total", 0))
    base, oracle = truth.window(learned)
    logloss = trainer.get("ctr_logloss", float("nan"))
    closed = (base - logloss) / (base - oracle)
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_column(style="bold")
    latency = 1000 * float(np.median(asked.seconds)) if asked.seconds else float("nan")
    wrong = (float(np.mean(list(values))) if values else float("nan") for values in (asked.error, asked.error_of_base))
    for name, value in (
        ("learned", f"{learned:,} events, {rate:,.0f}/s, {trainer.get('ctr_table_rows', 0):,.0f} features"),
        ("logloss", f"{logloss:.4f} (base rate {base:.4f}, oracle {oracle:.4f}: {closed:.0%} there)"),
        ("norm. entropy", f"{logloss / base:.3f} (base rate 1, oracle {oracle / base:.3f})"),
        ("AUC", f"{trainer.get('ctr_auc_ratio', float('nan')):.3f}"),
        ("freshness", f"served parameters are {scorer.get('ctr_staleness_seconds', float('nan')):.2f} s old"),
        ("requests", f"{asked.sent} of {ROWS} rows each, {asked.failed} failed, median {latency:.1f} ms"),
        ("served p", "{:.4f} off the truth on average (the base rate {:.4f})".format(*wrong)),
    ):  # fmt: skip
        table.add_row(name, value)
    return table


@contextlib.contextmanager
def running(directory: Path, shutdown: Shutdown, truth: Truth) -> Iterator[tuple[Worker, Worker]]:
    """Redis, market, trainer and scorer; all gone at the end, however it comes."""
    events = directory / "events.jsonl"
    with contextlib.ExitStack() as stack:
        redis = Redis(directory / "redis", free_port())
        stack.callback(redis.stop)
        redis.start()
        sink = FileSink(str(events))
        stack.callback(sink.close)
        market = Market(seed=SEED)
        simulate(market, sink, stopping=lambda: shutdown.requested, events=HISTORY, tally=truth)
        ended = threading.Event()
        traffic = threading.Thread(
            target=simulate, args=(market, sink), name="market",
            kwargs={"rate": RATE, "tally": truth, "stopping": lambda: ended.is_set() or shutdown.requested},
        )  # fmt: skip
        ports = free_port(), free_port()
        common = ("--redis", redis.url, "--listen")
        trainer = Worker(
            "trainer", directory / "trainer", ports[0],
            ["train", str(SPEC), "--create", "--from", str(events), "--follow", "--window", str(WINDOW),
             "--names", "0.05", *common, f"{HOST}:{ports[0]}"],
        )  # fmt: skip
        scorer = Worker("scorer", directory / "scorer", ports[1], ["serve", "ads", *common, f"{HOST}:{ports[1]}"])
        for worker in (trainer, scorer):
            worker.tied = True
            stack.callback(worker.stop)
        trainer.start()
        stack.callback(traffic.join)
        stack.callback(ended.set)
        traffic.start()
        scorer.start()
        yield trainer, scorer


def watch(trainer: Worker, scorer: Worker, truth: Truth, shutdown: Shutdown, console: Console) -> Table:
    """Show the figures for `SECONDS`, sending requests meanwhile; returns the last ones."""
    asked = Requests(Market(seed=SEED))
    rates: deque[tuple[float, float]] = deque(maxlen=20)
    end, said = time.monotonic() + SECONDS, 0.0
    table = Table()
    with Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else _Quiet() as live:
        while time.monotonic() < end and not shutdown.requested:
            ask(scorer, truth.events, asked, truth.base_rate)
            numbers = scrape(trainer)
            rates.append((time.monotonic(), numbers.get("ctr_events_total", 0.0)))
            span = rates[-1][0] - rates[0][0]
            rate = (rates[-1][1] - rates[0][1]) / span if span else 0.0
            table = report(numbers, scrape(scorer), rate, truth, asked)
            live.update(table)
            if not console.is_terminal and time.monotonic() - said >= SECONDS / 6:
                said = time.monotonic()
                console.print(table)
                console.print()
            shutdown.wait(0.2)
    if asked.sent in {0, asked.failed} and not shutdown.requested:
        raise CtrError(f"the scorer answered none of {asked.sent} requests; its log is {scorer.log}")
    return table


class _Quiet:
    """Stands for a live display where there is no terminal."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, table: Table) -> None:
        """Show nothing."""


def show(shutdown: Shutdown) -> int:
    """Run the tour; returns the exit status."""
    console = Console(highlight=False)
    truth = Truth()
    with tempfile.TemporaryDirectory(prefix="ctr-demo-") as directory:
        console.print(
            f"An ad market of {HISTORY:,} past events and {RATE:,.0f} new ones a second; a trainer that learns from "
            "each of them; Redis in between; a scorer that answers meanwhile. Starting, a few seconds ..."
        )
        try:
            with running(Path(directory), shutdown, truth) as (trainer, scorer):
                table = watch(trainer, scorer, truth, shutdown, console)
        except CtrError as error:
            print(f"demo: {error}", file=sys.stderr)
            return ExitCode.CRASHED
    if shutdown.requested:
        console.print("Stopped.")
        return ExitCode.KILLED
    console.print(table)
    console.print("\nNext: `make up` starts the same with a real Kafka; see the README.")
    return ExitCode.OK

