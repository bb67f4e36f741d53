"""`ctr snapshot`: a model in Redis goes in, files at a URL come out; and how a trainer has that done now and then.

A trainer starts a process of its own for it, at low priority: the learner shares neither its interpreter nor its memory
with it, and a snapshot that fails harms nothing. What it takes from Redis is paced (`ctr.store.images`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ctr import log, metrics
from ctr.errors import CtrError, SettingError
from ctr.store import archive, connect, images, read_model
from workers.lifecycle import ExitCode

_RETRY_S = 60.0
"""After a snapshot that failed; sooner where the interval is shorter."""
_END_S = 2.0
"""A process that was told to end is killed after so long."""
NICE = 10


@dataclass(frozen=True, slots=True)
class SnapshotSettings:
    """What `ctr snapshot` is told."""

    model: str
    url: str
    redis: str = field(repr=False)  # may hold a password
    keep: int = 0
    rows_per_s: float = images.ROWS_PER_S
    scratch: Path | None = None
    level_within_s: float = 30.0
    nice: int = 0


def take(settings: SnapshotSettings, say: Callable[[str], object]) -> ExitCode:
    """Take one snapshot; delete older ones where `keep` says so.

    Raises
    ------
    ModelMissingError, ModelMismatchError, ShardLostError, StoreUnavailableError
    SettingError
        The URL, or the place for scratch files, cannot be used.
    SnapshotError
        It could not be written.
    """
    os.nice(settings.nice)
    archive.Place.of(settings.url)  # before anything is read
    if settings.scratch is not None and not settings.scratch.is_dir():
        raise SettingError("--scratch", str(settings.scratch), "a directory with room for the model's rows")
    began = time.monotonic()
    with connect(settings.redis) as client:
        stored = read_model(client, settings.model)
        with images.gather(
            client, stored, directory=settings.scratch, rows_per_s=settings.rows_per_s,
            level_within_s=settings.level_within_s,
        ) as taken:  # fmt: skip
            snapshot = archive.write(settings.url, stored.spec, taken)
    manifest = snapshot.manifest
    say(
        f"{snapshot.place.url}: {manifest.rows:,} rows in {len(manifest.files)} shards"
        f"{'' if manifest.level else ' (not at one cut)'}, {manifest.total_bytes / 1e6:,.1f} MB, "
        f"{time.monotonic() - began:.1f} s"
    )
    if settings.keep:
        for name in archive.prune(settings.url, stored.spec.model_id, settings.keep):
            say(f"deleted {name}")
    return ExitCode.OK


def listed(url: str, model: str, say: Callable[[str], object]) -> ExitCode:
    """Show the whole snapshots of a model."""
    for place in archive.stored(url, model):
        manifest = archive.read(place).manifest
        say(
            f"{place.url}  {manifest.rows:,} rows  {manifest.total_bytes / 1e6:,.1f} MB  "
            f"{len(manifest.files)} shards{'' if manifest.level else ', not at one cut'}"
        )
    return ExitCode.OK


class Periodic:
    """Takes a snapshot every so often, by a process of its own; the newest one at the URL counts, whoever took it.

    Parameters
    ----------
    redis : str
    model_id : str
    url : str
    interval_s : float
    keep : int
        Newest ones that stay.
    ready : () -> bool
        Whether this worker is the one that trains: it is asked before each.
    command : sequence of str
        The program, up to its sub-command.
    """

    def __init__(
        self, redis: str, model_id: str, url: str, *, interval_s: float, keep: int, ready: Callable[[], bool],
        command: Sequence[str] = (sys.executable, "-m", "workers.cli"),
    ) -> None:  # fmt: skip
        archive.Place.of(url)  # a URL that cannot be used is said at the start
        self._model_id, self._url, self._interval_s, self._ready = model_id, url, interval_s, ready
        self._command = [
            *command, "snapshot", model_id, url, "--keep", str(keep), "--nice", str(NICE),
        ]  # fmt: skip
        self._environment = {**os.environ, "CTR_REDIS": redis}  # a password does not belong on a command line
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)
        self._log = log.get(worker="snapshots", model=model_id)
        self._counts: Counter[str] = Counter()
        self._last_s = 0.0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End the one under way: what has no manifest is no snapshot."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def numbers(self) -> Mapping[str, metrics.Value]:
        """Its metrics."""
        return {
            "ctr_snapshots": {(result,): float(self._counts[result]) for result in ("taken", "failed")},
            "ctr_snapshot_last_seconds": self._last_s,
        }

    def _run(self) -> None:
        pause_s = self._due_in_s()
        while not self._stopping.wait(pause_s):
            if not self._ready():
                pause_s = 1.0
                continue
            said = self._take()
            if self._stopping.is_set():
                return
            if said is None:
                self._counts["taken"] += 1
                pause_s = self._due_in_s()
            else:
                self._counts["failed"] += 1
                pause_s = min(_RETRY_S, self._interval_s)
                self._log.warning("snapshot_failed", error=said, next_try_s=pause_s)

    def _due_in_s(self) -> float:
        """Until the newest one is an interval old."""
        try:
            taken = archive.stored(self._url, self._model_id)
        except CtrError as error:
            self._log.warning("snapshots_unknown", error=str(error))
            return min(_RETRY_S, self._interval_s)
        if taken:
            self._last_s = time.time() - archive.age_s(taken[-1])
        return max(0.0, self._last_s + self._interval_s - time.time())

    def _take(self) -> str | None:
        """None where it went well, else what went wrong."""
        with subprocess.Popen(
            self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,  # a terminal's Ctrl-C is for the trainer
        ) as process:  # fmt: skip
            while True:
                try:
                    said, _ = process.communicate(timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    if self._stopping.is_set():
                        _end(process)
        if process.returncode:
            return said.strip()[-500:] or f"exit code {process.returncode}"
        self._log.info("snapshot", said=said.strip())
        return None


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
