"""What a worker exposes goes in; ``/`` and the data behind it come out, the same numbers as ``/metrics``.

A thread of its own looks at the numbers once a second while somebody watches, else rarely. Requests are answered from
the last look, so that ten browsers cost what one does, and neither learning nor scoring waits for any.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import ctr
from ctr import log
from ctr.metrics import Metric, Value
from ctr.model.table import Table
from ctr.model.top import Features, Top
from ctr.page import assets
from ctr.page.alerts import alerts
from ctr.page.history import ALL, History, label_names
from ctr.serving.asgi import HttpError, OpsApp, Request, Response, json_response
from ctr.spec import Spec

EVERY_S, UNWATCHED_S = 1.0, 5.0
"""Time between two looks while somebody watches; and while nobody does."""
_SHARE = 0.02
"""Of a core, that looks may take: with many slices of quality one takes tens of milliseconds, and they come rarer."""
_WATCHED_S = 15.0
"""Nobody watches who has not asked for so long."""
_TOP_S = 10.0
"""Time between two looks at the table: at most so often, however many ask."""
_MOST_LABELS = 256
"""Label values of one metric that are sent: of more (partitions) the largest."""

_JUDGED = (
    "ctr_window_events", "ctr_base_rate_ratio", "ctr_normalized_entropy_ratio", "ctr_auc_ratio",
    "ctr_calibration_ratio",
)  # fmt: skip

Names = Callable[[Sequence[int]], Mapping[int, str]]


@dataclass(frozen=True, slots=True)
class Subject:
    """A model that the page shows; everything is asked for when it is needed, since generations come and go.

    Attributes
    ----------
    name : str
        As the metrics' label ``model`` has it.
    spec : () -> Spec
    table : () -> Table or None
        Of which the top features are shown; read while others write. None itself where the worker has none.
    names : (keys) -> names
        The dictionary's words for keys, of those that it has. May wait for the store.
    explain : str
        Where the page asks for an explanation, relative to itself; answers as ``/v1/models/M:explain`` does.
    """

    name: str
    spec: Callable[[], Spec]
    table: Callable[[], Table | None] | None
    names: Names
    explain: str


class Page:
    """The live page of one worker: gives its application the routes, and keeps what they answer.

    Parameters
    ----------
    app : OpsApp
        Its token, where it has one, is asked for by the routes with data; the page itself is public.
    worker : str
        What it is, in a word.
    declared : sequence of Metric
    read : () -> numbers
        As ``/metrics`` shows them.
    subjects : sequence of Subject
    """

    def __init__(
        self, app: OpsApp, worker: str, declared: Sequence[Metric], read: Callable[[], Mapping[str, Value]],
        subjects: Sequence[Subject],
    ) -> None:  # fmt: skip
        self._app, self._worker, self._read, self._subjects = app, worker, read, list(subjects)
        self._labels = {metric.name: label_names(metric) for metric in declared}
        self._history, self._numbers, self._looked_s = History(declared), dict[str, Value](), 0.0
        self._started_s, self._boot = time.time(), secrets.token_hex(4)
        self._asked = -_WATCHED_S
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="page", daemon=True)
        self._tops = [_Tops(subject) for subject in self._subjects]
        self._log = log.get(component="page")
        assets.add(app, substitutes={"worker": worker, "token": "yes" if app.has_token else "no"})
        app.route("GET", "/page/state", self._state)
        app.route("GET", "/page/features", self._features)
        app.route("GET", "/page/slices", self._slices)

    def start(self) -> None:
        """Look at the numbers, and go on doing so: to be called before the server starts, so that none is missing."""
        self._try_to_look()
        self._thread.start()

    def stop(self) -> None:
        """End that."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def look(self) -> None:
        """Take a sample now; called by the thread, and by tests."""
        now_s, numbers = time.time(), self._read()
        self._history.add(now_s, numbers)
        self._numbers, self._looked_s = dict(numbers), now_s

    def _try_to_look(self) -> None:
        try:
            self.look()
        except Exception:  # noqa: BLE001  a worker goes on working whatever its page meets; /metrics says the same
            self._log.exception("the page could not read the numbers")

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            began, spent_s = time.monotonic(), time.thread_time()
            self._try_to_look()
            every_s = EVERY_S if began - self._asked < _WATCHED_S else UNWATCHED_S
            every_s = max(every_s, (time.thread_time() - spent_s) / _SHARE)
            self._wake.wait(max(0.05, every_s - (time.monotonic() - began)))

    async def _state(self, request: Request) -> Response:
        """All numbers, what is wrong, and the samples after those that the browser has (``?after=BOOT.NUMBER``)."""
        asked, self._asked = self._asked, time.monotonic()
        if self._asked - asked > UNWATCHED_S:
            self._wake.set()
        boot, _, number = _parameter(request, "after").partition(".")
        begin = int(number[:15]) if boot == self._boot and number.isdigit() else 0
        now_s = time.time()
        reasons = self._app.reasons()
        return _fresh({
            "worker": self._worker, "version": ctr.__version__, "boot": self._boot, "started": self._started_s,
            "now": now_s, "looked": self._looked_s, "every": EVERY_S, "role": self._app.role(), "health": reasons,
            "models": [self._described(subject) for subject in self._subjects],
            "alerts": [
                {"level": alert.level, "what": alert.what, "meaning": alert.meaning}
                for alert in alerts(self._numbers, self._history, reasons, now_s)
            ],
            "metrics": {name: self._plain(name, value) for name, value in self._numbers.items()},
            "next": f"{self._boot}.{self._history.end}", "points": self._history.since(begin),
        })  # fmt: skip

    def _described(self, subject: Subject) -> dict[str, Any]:
        spec = subject.spec()
        return {
            "name": subject.name, "id": spec.model_id, "type": spec.model.type, "k": spec.model.k,
            "loss": spec.model.loss, "explain": subject.explain, "features": subject.table is not None,
            "columns": list(dict.fromkeys(field.column for field in spec.fields if not field.derived)),
        }  # fmt: skip

    def _plain(self, name: str, value: Value) -> Any:
        """A number; or label names, values and numbers: of many the largest, their sum, and how many more there are."""
        if not isinstance(value, Mapping):
            return value
        labels = self._labels[name]
        found: list[list[Any]] = [[*given, number] for given, number in value.items()]
        if "slice" in labels:  # they are asked for by themselves, and not every second
            found = [row for row in found if row[labels.index("slice")] == ALL]
        if len(found) <= _MOST_LABELS:
            return {"labels": labels, "values": found}
        largest = sorted(found, key=lambda row: -row[-1])[:_MOST_LABELS]
        rest = len(found) - len(largest)
        return {"labels": labels, "values": largest, "sum": sum(row[-1] for row in found), "rest": rest}

    async def _slices(self, _request: Request) -> Response:
        """Quality by slice: for each of `_JUDGED` what the last events of it give, the largest slices first."""
        made: dict[tuple[str, str], dict[str, Any]] = {}
        for name in _JUDGED:
            value = self._numbers.get(name)
            if not isinstance(value, Mapping):
                continue
            for (view, window, part), number in value.items():
                if window == "events" and part != ALL:
                    made.setdefault((view, part), {"view": view, "slice": part})[name] = number
        return _fresh({"slices": sorted(made.values(), key=lambda row: -row.get(_JUDGED[0], 0.0))})

    async def _features(self, request: Request) -> Response:
        """Top features of ``?model=NAME``, the first one where it is not given."""
        wanted = _parameter(request, "model")
        found = next((tops for tops in self._tops if wanted in ("", tops.subject.name)), None)
        if found is None:
            raise HttpError(404, "there is no such model here")
        return _fresh(await asyncio.to_thread(found.answer))


class _Tops:
    """Top features of a subject, looked for when somebody asks and the last look is old."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._top: Top | None = None
        self._lock = threading.Lock()
        self._answer: dict[str, Any] = {}
        self._looked = -_TOP_S

    def answer(self) -> dict[str, Any]:
        """What the route answers."""
        with self._lock:
            if time.monotonic() - self._looked >= _TOP_S or not self._answer.get("rows"):
                self._answer = self._look()
                self._looked = time.monotonic()
            return self._answer

    def _look(self) -> dict[str, Any]:
        table = None if self.subject.table is None else self.subject.table()
        spec = self.subject.spec()
        if table is None:
            return {"rows": 0, "weight": [], "updates": [], "example": None}
        if self._top is None or self._top.table is not table:
            self._top = Top(table)
        heavy, frequent, typical = self._top.look()
        names = self.subject.names([key for features in (heavy, frequent, typical) for key in features.keys.tolist()])
        return {
            "rows": table.rows,
            "weight": _listed(heavy, spec, names),
            "updates": _listed(frequent, spec, names),
            "example": _example(typical, spec, names),
        }


def _listed(features: Features, spec: Spec, names: Mapping[int, str]) -> list[dict[str, Any]]:
    return [
        {
            "field": spec.fields[field].name, "name": names.get(key), "key": f"{key:016x}", "weight": weight,
            "updates": updates,
        }
        for key, field, weight, updates in zip(
            features.keys.tolist(), features.fields.tolist(), features.weights.tolist(), features.updates.tolist(),
            strict=True,
        )
    ]  # fmt: skip


def _example(typical: Features, spec: Spec, names: Mapping[int, str]) -> dict[str, str | list[str]] | None:
    """An event of each field's most frequent value; None where the dictionary has no words for any."""
    found: dict[str, str | list[str]] = {}
    for key, index in zip(typical.keys.tolist(), typical.fields.tolist(), strict=True):
        field, name = spec.fields[index], names.get(key, "")
        begin = f"{field.name}="
        if name.startswith(begin) and not field.derived and field.transform is None and "." not in field.column:
            value = name.removeprefix(begin)
            found.setdefault(field.column, [value] if field.multi else value)
    return {column: found[column] for column in (field.column for field in spec.fields) if column in found} or None


def _parameter(request: Request, name: str) -> str:
    raw: bytes = request.scope.get("query_string", b"")
    return parse_qs(raw[:1024].decode("latin-1")).get(name, [""])[0]


def _fresh(value: Any) -> Response:
    return json_response(value, headers=((b"cache-control", b"no-store"),))
