"""How far a trainer is: a bar on a terminal, a log line now and then in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar

from ctr import log

_BAR_S, _LINE_S = 0.25, 10.0
_SHOWN = {"logloss": "logloss", "normalized_entropy": "NE", "auc": "AUC", "rmse": "RMSE"}


class Progress:
    """Shows `summary` and how much of the source is learned; a context manager around the loop.

    Parameters
    ----------
    summary : callable
        Figures, ``events`` and ``lag`` among them.
    done : callable
        What is learned, in the unit of the lag.
    """

    def __init__(self, summary: Callable[[], dict[str, Any]], done: Callable[[], int]) -> None:
        self._summary, self._done = summary, done
        self._log = log.get(worker="trainer")
        self._every_s = _BAR_S if sys.stderr.isatty() else _LINE_S
        self._due = time.monotonic() + self._every_s
        self._last = (time.monotonic(), 0)
        self._bar: Bar | None = None
        if sys.stderr.isatty():
            self._bar = Bar(
                SpinnerColumn(), BarColumn(bar_width=24), TaskProgressColumn(), TextColumn("{task.description}"),
                console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self) -> None:
        """Called each turn; does something only when it is time."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + self._every_s
        summary = self._summary()
        then, events = self._last
        rate = (summary["events"] - events) / (now - then)
        self._last = (now, summary["events"])
        if self._bar is None:
            self._log.info("progress", events_per_s=round(rate), **summary)
            return
        done, left = self._done(), summary["lag"]
        quality = "  ".join(f"{short} {summary[name]}" for name, short in _SHOWN.items() if name in summary)
        self._bar.update(
            self._task, completed=done, total=done + left or None,
            description=f"{summary['events']:,} events  {rate:,.0f}/s  {quality}  {summary['rows']:,} rows",
        )  # fmt: skip
