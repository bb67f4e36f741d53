"""Structured logs: one event a line, JSON in a pipe, readable on a terminal, always on standard error.

A line says which worker wrote it, of which program version and model. The same event is written ten times at once and
once a second after that, with the number that was left out, so that nothing fills a disk. Secrets are blotted out.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Hashable, Mapping, MutableMapping
from types import TracebackType
from typing import Any

import structlog

BURST, PER_S = 10, 1.0
"""Lines of the same event: so many at once, and so many a second in the long run."""
_REMEMBERED = 1000
"""Different events; when there are more, all begin anew."""

_process: dict[str, Any] = {}


class Limiter:
    """A token bucket for each event: lines beyond it are counted instead of written.

    Parameters
    ----------
    per_s : float
    burst : int
    clock : () -> float
        Seconds.
    """

    def __init__(
        self, per_s: float = PER_S, burst: int = BURST, clock: Callable[[], float] = time.monotonic
    ) -> None:  # fmt: skip
        self._per_s, self._burst, self._clock = per_s, burst, clock
        self._lock = threading.Lock()
        self._buckets: dict[Hashable, tuple[float, float, int]] = {}

    def admit(self, event: Hashable) -> int | None:
        """None where the line is to be left out, else how many were since the last one that was not."""
        now = self._clock()
        with self._lock:
            if len(self._buckets) >= _REMEMBERED and event not in self._buckets:
                self._buckets.clear()
            left, at, suppressed = self._buckets.get(event, (float(self._burst), now, 0))
            left = min(float(self._burst), left + (now - at) * self._per_s)
            admitted = left >= 1
            self._buckets[event] = (left - 1, now, 0) if admitted else (left, now, suppressed + 1)
        return suppressed if admitted else None

    def __call__(self, _logger: Any, level: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """As a processor of structlog."""
        whose = (line.get(key) for key in ("worker", "component", "model"))
        suppressed = self.admit((level, line.get("event"), *whose))
        if suppressed is None:
            raise structlog.DropEvent
        if suppressed:
            line["suppressed"] = suppressed
        return line

    def filter(self, record: logging.LogRecord) -> bool:
        """As a filter of the standard library's handlers: one event is one format string."""
        suppressed = self.admit((record.levelname, record.name, record.msg if isinstance(record.msg, str) else ""))
        if suppressed:
            record.suppressed = suppressed
        return suppressed is not None


_WORDS = r"(?:password|passwd|secret|token|api[_-]?key|authorization|credentials?)"
_VALUE = r"""(?:"[^"]*"|'[^']*'|[^\s,;&"'}]+)"""
_SECRET_KEY = re.compile(rf"(?:^|[_-]){_WORDS}$", re.IGNORECASE)
_SECRETS = (
    (re.compile(r"([a-z][a-z0-9+.-]*://)[^\s\"'<>]*@", re.IGNORECASE), r"\1***@"),
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]+", re.IGNORECASE), r"\1 ***"),
    (re.compile(rf"((?:\b|_){_WORDS}[\"']?\s*[=:]\s*)(?!(?:bearer|basic)\b){_VALUE}", re.IGNORECASE), r"\1***"),
)


def redacted(text: str) -> str:
    r"""Text without what may be secret: user and password of URLs, tokens, what is said to be a password.

    Examples
    --------
    >>> redacted("redis://me:s3same@10.0.0.1:6379/0 does not answer")
    'redis://***@10.0.0.1:6379/0 does not answer'
    >>> redacted("authorization: Bearer abc.def, password='x'")
    'authorization: Bearer ***, password=***'
    """
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def _shown(key: str, value: Any) -> Any:
    if _SECRET_KEY.search(key):
        return "***"
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(name): _shown(str(name), inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_shown("", inner) for inner in value]
    return redacted(value if isinstance(value, str) else repr(value))


def _redact(_logger: Any, _level: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: value if key.startswith("_") else _shown(key, value) for key, value in line.items()}


def _add_process(_logger: Any, _level: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in _process.items():
        line.setdefault(key, value)
    return line


def bind(**bound: Any) -> None:
    """Add to every line of this process: worker, version, model. What a logger has bound itself comes first."""
    _process.update(bound)


def configure(level: str = "info", **bound: Any) -> None:
    """Set up structlog, and route the standard library's loggers (uvicorn, and with debug kafka) into it.

    Parameters
    ----------
    level : str
        Least severe one to write.
    **bound
        As `bind`; what was bound before is forgotten.
    """
    _process.clear()
    bind(**bound)
    limiter = Limiter()
    finish: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact,
    ]
    on_terminal = sys.stderr.isatty()
    renderer: Any = structlog.processors.JSONRenderer()
    if on_terminal:  # not the traceback that shows the values of variables
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, _add_process, limiter, *finish, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(limiter)
    extra = structlog.stdlib.ExtraAdder(allow=["suppressed"])
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=[_add_process, extra, *finish], processor=renderer)
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    # kafka-python logs every attempt to reach a broker; we say once that it is away, and once that it is back
    logging.getLogger("kafka").setLevel(logging.WARNING if level == "debug" else logging.CRITICAL)
    if not on_terminal:
        sys.excepthook = _crashed


def _crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What nobody caught, as one line too."""
    get().critical("crashed", exc_info=(kind, error, trace))


def get(**bound: Any) -> Any:
    """A logger that adds `bound` (worker, model, partition ...) to each line."""
    return structlog.get_logger(**bound)
