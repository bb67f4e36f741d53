"""Answers of scorers and the events they became go in, the quality of what was really served comes out: `ctr join`.

An answer waits for its event by id. Joined ones are judged as a trainer judges its own predictions, so that the two
views can be laid side by side: the difference is staleness and skew. Their features are compared, too. Nothing is
stored: a join that is started again begins anew.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

import ctr
from ctr import log, metrics
from ctr.errors import SettingError, SourceUnavailableError
from ctr.events import Messages, open_reader
from ctr.kernels import simd
from ctr.quality import Windows, quality_numbers
from ctr.serving.asgi import OpsApp
from ctr.serving.server import BackgroundServer, open_socket
from ctr.spec import Spec
from ctr.store import connect, read_model
from workers import kafka_login
from workers.answers import Answered, Place, identity_of
from workers.lifecycle import ExitCode, Shutdown
from workers.page import stored_page
from workers.skew import Skew, compare_keys
from workers.sources import Source
from workers.sources.files import FileSource
from workers.sources.kafka import KafkaSource

_POLL_S = 0.05
_STUCK_S = 60.0
_COMPARED_A_S = 200
"""Joined events whose features are compared, a second: each takes some 50 us of the interpreter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinSettings:
    """What `ctr join` is told."""

    model: str
    answers: str
    redis: str = field(repr=False)  # may hold a password
    kafka: str | None = None
    topic: str | None = None
    path: Path | None = None
    kafka_config: Path | None = None
    follow: bool = False
    start: str = "latest"
    listen: str | None = None
    window: int = 100_000
    wait_s: float = 3600.0
    max_waiting: int = 1_000_000
    hold_s: float = 2.0
    outage_limit_s: float = 600.0
    token: str | None = field(default=None, repr=False)


class Joiner:
    """Answers by id, until their events come.

    Parameters
    ----------
    spec : Spec
        Its ``event.id`` says where an event's id stands.
    wait_s : float
        How long an answer waits for its event; then it is expired: most often, no event with a label came of it.
    max_waiting : int
        Answers that wait at most; the oldest make room.
    window : int
        Events over which quality is measured.
    """

    def __init__(self, spec: Spec, *, wait_s: float, max_waiting: int, window: int) -> None:
        if spec.event.id is None:
            raise SettingError("event.id", None, f"named in the specification of {spec.model_id}: the column by which "
                               "an answer and its event find each other")  # fmt: skip
        self._spec, self._wait_s, self._most = spec, wait_s, max_waiting
        self._reader, self.windows = open_reader(spec), Windows(spec, window)
        self._waiting: OrderedDict[str, Answered] = OrderedDict()
        self.skew = Skew()
        self._may_compare, self._compare_due = 0, 0.0
        self.staleness_s = float("nan")
        """Of the answer joined last."""
        self.counts: Counter[str] = Counter(dict.fromkeys(("joined", "expired", "evicted", "unreadable"), 0))
        """Answers by what became of them."""

    @property
    def waiting(self) -> int:
        """Answers whose event has not come."""
        return len(self._waiting)

    def answered(self, messages: Messages) -> None:
        """Take answers, as `ctr serve --answers` writes them. Of two with one id the later one counts."""
        for line, _ in _lines(messages):
            try:
                one = msgspec.json.decode(line, type=Answered)
            except (msgspec.DecodeError, UnicodeDecodeError):
                self.counts["unreadable"] += 1
                continue
            self._waiting[one.id] = one
            self._waiting.move_to_end(one.id)
        while len(self._waiting) > self._most:
            self._waiting.popitem(last=False)
            self.counts["evicted"] += 1

    def expire(self, now_s: float) -> None:
        """Let answers go that have waited too long at `now_s`, seconds since 1970."""
        while self._waiting:
            first = next(iter(self._waiting.values()))
            if first.time_s > now_s - self._wait_s:
                return
            del self._waiting[first.id]
            self.counts["expired"] += 1

    def happened(self, messages: Messages) -> None:
        """Take events with their labels; those that were answered are judged."""
        if not self._waiting:
            return
        matched: list[tuple[bytes, float, Answered]] = []
        for line, arrival_s in _lines(messages):
            try:
                identity = identity_of(self._reader.parse(line), self._spec.event.id)
            except Exception:  # noqa: BLE001, S112  the trainer's dead letters tell of it
                continue
            if identity is not None and (answer := self._waiting.pop(identity, None)) is not None:
                matched.append((line, arrival_s, answer))
        if matched:
            self._judge(matched)

    def _judge(self, matched: list[tuple[bytes, float, Answered]]) -> None:
        lengths = np.array([len(line) for line, _, _ in matched], np.int64)
        end, n = np.cumsum(lengths), len(matched)
        batch, _ = self._reader.read(Messages(
            b"".join(line for line, _, _ in matched), end - lengths, end, np.zeros(n, np.int32),
            np.arange(1, n + 1, dtype=np.int64), np.array([arrival_s for _, arrival_s, _ in matched]),
        ))  # fmt: skip
        answers = [matched[offset - 1][2] for offset in batch.offsets.tolist()]  # a refused one is left out
        self.windows.add(batch, np.array([answer.p for answer in answers], np.float32))
        if answers and answers[-1].staleness_s is not None:
            self.staleness_s = answers[-1].staleness_s
        if time.monotonic() >= self._compare_due:
            self._may_compare, self._compare_due = _COMPARED_A_S, time.monotonic() + 1.0
        some = min(self._may_compare, len(answers))
        self._may_compare -= some
        compare_keys(self._spec, batch.slice(0, some), [answer.row for answer in answers[:some]], self.skew)
        self.skew.events += some
        self.counts["joined"] += len(answers)  # last: who sees it sees the rest

    def numbers(self) -> dict[str, metrics.Value]:
        """Metrics; names of `ctr.metrics.JOIN`."""
        return {
            "ctr_join_answers": {(result,): float(count) for result, count in self.counts.items()},
            "ctr_join_waiting": float(self.waiting),
            "ctr_join_staleness_seconds": self.staleness_s,
            "ctr_skew_compared": float(self.skew.events),
            "ctr_skew_fields": {(one.name,): float(self.skew.fields[one.name]) for one in self._spec.fields},
            **quality_numbers(self.windows, "served"),
            "ctr_build_info": {(ctr.__version__, self._spec.model_id, simd.ISA): 1.0},
        }


def join(settings: JoinSettings) -> ExitCode:
    """Run until both sources are finished or a signal comes.

    Raises
    ------
    CtrError
        Whatever ends it but a signal or the end of the files.
    """
    shutdown = Shutdown()
    shutdown.install()
    listening = open_socket(settings.listen) if settings.listen else None
    with connect(settings.redis) as client:
        spec = read_model(client, settings.model).spec
    joiner = Joiner(spec, wait_s=settings.wait_s, max_waiting=settings.max_waiting, window=settings.window)
    logger = log.get(worker="join", model=spec.model_id)
    place = Place.read(settings.answers)
    if place.path is not None and not place.path.is_file():
        raise SettingError("--answers", settings.answers, "a file that exists, or kafka://HOST:PORT/TOPIC")
    answers = _open(place.bootstrap, place.topic, place.path, settings, "answers")
    events = _open(settings.kafka, settings.topic, settings.path, settings, "events")
    turned = time.monotonic()
    server = page = None
    if listening is not None:
        def live() -> str | None:
            return None if time.monotonic() - turned < _STUCK_S else "the loop does not turn"

        registry = metrics.registry(metrics.JOIN, joiner.numbers)
        app = OpsApp(registry, live=live, ready=lambda: None, token=settings.token)
        page = stored_page(app, "join", metrics.JOIN, joiner.numbers, spec, settings.redis)
        server = BackgroundServer(app, listening)
        page.start()
        server.start()
    try:
        for source in (answers, events):
            source.open({})
        logger.info("joining", answers=settings.answers)
        held: deque[tuple[float, Messages]] = deque()
        next_answers, next_events = _patient(answers, settings), _patient(events, settings)
        # files are read to their ends one after the other; streams side by side, events a little later than answers
        while not shutdown.requested and not (answers.finished and events.finished and not held):
            turned = time.monotonic()
            if (found := next_answers()) is not None:
                joiner.answered(found)
            if (answers.finished or settings.follow or settings.kafka) and (found := next_events()) is not None:
                held.append((turned, found))
            while held and (answers.finished or turned - held[0][0] >= settings.hold_s):
                joiner.happened(held.popleft()[1])
            if settings.follow or settings.kafka:
                joiner.expire(time.time())
    finally:
        for source in (answers, events):
            source.close()
        if page is not None:
            page.stop()
        if server is not None:
            server.stop()
    logger.info("joined", **summary(joiner))
    return ExitCode.OK


def summary(joiner: Joiner) -> Mapping[str, float | int | str]:
    """What the last line of the log says."""
    quality = joiner.windows.measure()
    told: dict[str, float | int | str] = {
        **joiner.counts, "waiting": joiner.waiting, "window_events": quality.events, "logloss": quality.logloss,
        "normalized_entropy": quality.normalized_entropy, "auc": quality.auc, "calibration": quality.calibration,
        "rmse": quality.rmse, "compared": joiner.skew.events,
        **{f"skew_{name}": n for name, n in joiner.skew.fields.items()},
    }  # fmt: skip
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in told.items()}


def _open(kafka: str | None, topic: str | None, path: Path | None, settings: JoinSettings, what: str) -> Source:
    if kafka is not None:
        if topic is None:
            raise SettingError("--topic", None, "is required with --kafka")
        return KafkaSource(kafka, topic, group=f"ctr-join-{what}", start=settings.start,
                           login=kafka_login.read(settings.kafka_config))  # fmt: skip
    if path is None:
        raise SettingError("--from", None, "one of --from PATH or --kafka HOST:PORT --topic NAME is required")
    return FileSource(path, follow=settings.follow, max_line_bytes=1 << 20)


def _patient(source: Source, settings: JoinSettings) -> Callable[[], Messages | None]:
    """Poll that bears outages up to the limit."""
    answered = time.monotonic()

    def poll() -> Messages | None:
        nonlocal answered
        try:
            found = source.poll(_POLL_S)
        except SourceUnavailableError:
            if time.monotonic() - answered > settings.outage_limit_s:
                raise
            return None
        answered = time.monotonic()
        return found

    return poll


def _lines(messages: Messages) -> Iterator[tuple[bytes, float]]:
    """Lines and when they arrived: one for each event; a message may hold several."""
    columns = messages.begin.tolist(), messages.end.tolist(), messages.arrivals_s.tolist()
    for begin, end, arrival_s in zip(*columns, strict=True):
        for line in bytes(messages.data[begin : max(begin, end)]).splitlines():
            if line.strip():
                yield line, arrival_s
