"""`ctr doctor`: this machine, Redis and Kafka go in, a list of findings comes out, each with what to do."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from ctr.errors import CtrError
from ctr.kernels import simd
from ctr.store import archive, connect, health
from ctr.store.health import ServerFacts
from ctr.store.watch import Gauges
from workers import kafka_login
from workers.lifecycle import ExitCode
from workers.sources import health as kafka_health

Status = Literal["ok", "warn", "fail"]

_OLDEST_REDIS = (6, 2)
_SKEW_WARN_S, _SKEW_FAIL_S = 0.5, 60.0
"""Staleness is a difference of two clocks; leases and event.max_skew_s bear more."""
_ROUND_TRIP_WARN_S = 0.005
_FREE_BYTES = 1 << 30
_CUT_BYTES = 2 << 30
"""A trainer holds a cut of 1 GiB at most, twice for a moment: see `workers.publisher.CUT_BYTES`."""
_BACKLOG_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `advice` is empty where all is well."""

    name: str
    status: Status
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class DoctorSettings:
    """What `ctr doctor` is told; what is None is not looked at."""

    redis: str = field(repr=False)  # may hold a password
    kafka: str | None = None
    topic: str | None = None
    kafka_config: Path | None = None
    snapshots: str | None = None


def run(settings: DoctorSettings, say: Callable[[str], object], *, as_json: bool = False) -> ExitCode:
    """Look at everything; the exit code is 1 where anything would keep a worker from its work."""
    findings = [*packages(), *machine(), *_redis(settings.redis), *_kafka(settings), *_snapshots(settings.snapshots)]
    if as_json:
        say(msgspec.json.encode([asdict(finding) for finding in findings]).decode())
    else:
        for finding in findings:
            say(f"{finding.status:<5}{finding.name}: {finding.found}")
            if finding.advice:
                say(f"     -> {finding.advice}")
    return ExitCode.CRASHED if any(finding.status == "fail" for finding in findings) else ExitCode.OK


def packages() -> Iterator[Finding]:
    """Python, and every package that this one asks for, against the versions that it asks for."""
    python = platform.python_version()
    yield _judged("python", python, _numbers(python) >= (3, 11), "install Python 3.11 or newer")
    try:
        wanted = importlib.metadata.requires("ctr") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("packages", "warn", "ctr is not installed, so that it cannot be said what it needs",
                      "make setup")  # fmt: skip
        return
    for requirement in wanted:
        if "extra ==" in requirement:
            continue
        name, bounds = _requirement(requirement)
        try:
            held = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "fail", "missing", f"pip install '{requirement}', or make setup")
            continue
        within = all(_holds(held, operator, bound) for operator, bound in bounds)
        yield _judged(name, held, within, f"pip install '{requirement}', or make setup")


def _requirement(text: str) -> tuple[str, list[tuple[str, str]]]:
    """Name and bounds of one line such as ``numba<0.69,>=0.68``."""
    match = re.match(r"[A-Za-z0-9._-]+", text)
    assert match is not None, "the metadata's form"
    return match[0], re.findall(r"(>=|<=|==|<|>)\s*([0-9][0-9.]*)", text.partition(";")[0])


def _holds(version: str, operator: str, bound: str) -> bool:
    """Whether a version is within one bound; only the numbers at its beginning count."""
    mine, theirs = _numbers(version), _numbers(bound)
    length = max(len(mine), len(theirs))
    a, b = mine + (0,) * (length - len(mine)), theirs + (0,) * (length - len(theirs))
    return {">=": a >= b, "<=": a <= b, "==": a == b, "<": a < b, ">": a > b}[operator]


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def machine() -> Iterator[Finding]:
    """Kernels, memory, disk, huge pages."""
    yield _judged(
        "kernels", simd.ISA, simd.ISA != "portable",
        "a processor with AVX2 or AVX-512 learns several times faster", otherwise="warn",
    )  # fmt: skip
    memory = meminfo()
    free = memory.get("MemAvailable", 0)
    yield _judged(
        "memory", f"{_gb(free)} available of {_gb(memory.get('MemTotal', 0))}", free > _CUT_BYTES,
        "a cut of a trainer takes up to 2 GB beside its table: `ctr doctor --plan` says how much a model takes",
        otherwise="warn",
    )  # fmt: skip
    cache = Path(os.environ.get("NUMBA_CACHE_DIR", Path.home() / ".cache"))
    for name, path, advice in (
        ("disk for scratch files", Path(tempfile.gettempdir()), "TMPDIR, or --scratch, names another place"),
        ("disk for compiled kernels", cache, "NUMBA_CACHE_DIR names another place; without one each start compiles"),
    ):
        place = next(parent for parent in (path, *path.parents) if parent.exists())
        room = shutil.disk_usage(place).free
        good = room > _FREE_BYTES and os.access(place, os.W_OK)
        yield _judged(name, f"{place}: {_gb(room)} free", good, advice, otherwise="warn")
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if pages.exists():
        chosen = pages.read_text().strip()
        yield _judged(
            "huge pages", chosen, "[never]" not in chosen, f"echo madvise > {pages}: learning is 17 to 25 % faster",
            otherwise="warn",
        )  # fmt: skip


def meminfo() -> dict[str, int]:
    """/proc/meminfo, in bytes; empty where there is none."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return {}
    return {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}


def _redis(url: str) -> Iterator[Finding]:
    try:
        with connect(url) as client:
            found = health.look(client)
    except CtrError as error:
        yield Finding("redis", "fail", str(error), "start it, or name it by --redis (CTR_REDIS)")
        return
    is_local = urlsplit(url).hostname in (None, "localhost", "127.0.0.1", "::1")
    for facts in found:
        for finding in judge_redis(facts, is_local=is_local):
            # of a Cluster each master has its say
            yield finding if len(found) == 1 else replace(finding, name=f"{finding.name} ({facts.server})")


def judge_redis(facts: ServerFacts, *, is_local: bool) -> Iterator[Finding]:
    """What a server's facts mean for us."""
    info = facts.info
    version = str(info["redis_version"])
    yield _judged("redis version", version, _numbers(version)[:2] >= _OLDEST_REDIS, "6.2 or newer is needed")
    role = str(info.get("role", "master"))
    yield _judged("redis role", role, role == "master", "a replica refuses writes: name the master")
    policy = str(info.get("maxmemory_policy", "unknown"))
    yield _judged(
        "redis maxmemory-policy", policy, policy == "noeviction",
        "any other drops rows of the model: CONFIG SET maxmemory-policy noeviction, and in redis.conf",
    )  # fmt: skip
    yield from _commands(facts)
    yield from _memory(info)
    yield from _persistence(info, is_local=is_local)
    yield from _replication(facts)
    ahead, trip = facts.clock_ahead_s, facts.round_trip_s
    uncertain = trip / 2
    yield Finding(
        "redis clock", "ok" if abs(ahead) - uncertain < _SKEW_WARN_S else
        "warn" if abs(ahead) - uncertain < _SKEW_FAIL_S else "fail",
        f"{ahead:+.3f} s from this machine's (known to {uncertain * 1000:.1f} ms)",
        "" if abs(ahead) - uncertain < _SKEW_WARN_S else "run NTP on both: staleness and leases compare clocks",
    )  # fmt: skip
    yield _judged(
        "redis round trip", f"{trip * 1000:.2f} ms", trip < _ROUND_TRIP_WARN_S,
        "a scorer's miss takes one round trip: put it nearer", otherwise="warn",
    )  # fmt: skip


def _commands(facts: ServerFacts) -> Iterator[Finding]:
    names = " ".join("+" + name.lower() for name in facts.forbidden).replace("+multi/exec", "+multi +exec")
    yield _judged(
        "redis permissions", "all commands" if not facts.forbidden else f"forbidden: {', '.join(facts.forbidden)}",
        not facts.forbidden, f"ACL SETUSER <user> ~ctr:* {names}",
    )  # fmt: skip
    if facts.refused:
        yield Finding("redis commands", "fail", "; ".join(facts.refused[:3]), "see the server's own log")


def _memory(info: dict[str, object]) -> Iterator[Finding]:
    used, rss, limit = (_int(info, name) for name in ("used_memory", "used_memory_rss", "maxmemory"))
    total = _int(info, "total_system_memory")
    if limit:
        yield _judged(
            "redis memory", f"{_gb(used)} of maxmemory {_gb(limit)}", used < 0.8 * limit,
            "above maxmemory commits fail and the trainer waits: raise it, or lower model.max_rows", otherwise="warn",
        )  # fmt: skip
    else:
        yield Finding(
            "redis memory", "warn", f"{_gb(used)}, no maxmemory",
            "set maxmemory to some 60 % of the machine: then a full Redis refuses writes instead of being killed",
        )
    if total:
        # while a fork writes a file or feeds a replica, every page that a commit touches is copied
        peak = rss + used
        yield _judged(
            "redis fork head-room", f"{_gb(peak)} where a fork sees every page rewritten, the machine has {_gb(total)}",
            peak < 0.9 * total, "give it a machine of twice its memory, or rewrite files at quiet hours",
            otherwise="warn",
        )  # fmt: skip


def _persistence(info: dict[str, object], *, is_local: bool) -> Iterator[Finding]:
    bad = [name for name in ("rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status")
           if info.get(name, "ok") != "ok"]  # fmt: skip
    yield _judged(
        "redis persistence", "append-only file" if info.get("aof_enabled") else "no append-only file",
        not bad, f"{', '.join(bad)}: the disk is full, or memory for a fork is missing; writes stop until it works",
    )  # fmt: skip
    if not info.get("aof_enabled"):
        yield Finding(
            "redis durability", "warn", "what it holds is gone, or older, after a restart",
            "appendonly yes with appendfsync everysec, or `ctr train --snapshots`, within the log's retention",
        )
    overcommit = Path("/proc/sys/vm/overcommit_memory")
    if is_local and overcommit.exists():
        mode = overcommit.read_text().strip()
        yield _judged(
            "overcommit", f"vm.overcommit_memory = {mode}", mode == "1",
            "sysctl vm.overcommit_memory=1: else a fork can fail although memory is there", otherwise="warn",
        )  # fmt: skip


def _replication(facts: ServerFacts) -> Iterator[Finding]:
    backlog, replicas = _int(facts.info, "repl_backlog_size"), _int(facts.info, "connected_slaves")
    if replicas:
        yield _judged(
            "redis replication backlog", f"{backlog / 1e6:.0f} MB for {replicas} replicas", backlog >= _BACKLOG_BYTES,
            "repl-backlog-size 256mb: after a short outage a replica then goes on instead of copying everything",
            otherwise="warn",
        )  # fmt: skip
    limits = facts.output_buffer_limits
    if limits is None:
        yield _output_buffers_from_info(facts.info)
        return
    normal = re.search(r"normal (\d+)", limits)
    replica = re.search(r"(?:slave|replica) (\d+)", limits)
    small = normal is not None and 0 < int(normal[1]) < (64 << 20)
    tight = bool(replicas) and replica is not None and 0 < int(replica[1]) < (256 << 20)
    yield _judged(
        "redis output buffers", limits, not small and not tight,
        "client-output-buffer-limit: normal 0 0 0 (a page of rows is 1.3 MB, change entries are larger), replica 1gb "
        "512mb 120 (at 100,000 rows/s a replica that copies falls 130 MB/s behind)", otherwise="warn",
    )  # fmt: skip


def _output_buffers_from_info(info: dict[str, object]) -> Finding:
    """Where CONFIG is forbidden: not the limits, but whether anybody was cut off by them."""
    largest = Gauges.of(info).output_buffer_bytes / 1e6
    cut = info.get("client_output_buffer_limit_disconnections")  # Redis 7.2 and newer
    said = "not counted by this version" if cut is None else f"{cut} so far"
    return _judged(
        "redis output buffers",
        f"CONFIG is forbidden; the largest of late had {largest:.1f} MB, clients cut off by a limit: {said}",
        cut is not None and int(str(cut)) == 0,
        "client-output-buffer-limit should be 0 0 0 for normal clients and 1gb 512mb 120 for replicas",
        otherwise="warn",
    )


def _kafka(settings: DoctorSettings) -> Iterator[Finding]:
    if settings.kafka is None:
        return
    if settings.topic is None:
        yield Finding("kafka", "warn", "no topic was named", "--topic NAME")
        return
    try:
        facts = kafka_health.look(settings.kafka, settings.topic, login=kafka_login.read(settings.kafka_config))
    except CtrError as error:
        yield Finding("kafka", "fail", str(error), "start it, or name it by --kafka (CTR_KAFKA)")
        return
    if not facts.partitions:
        yield Finding("kafka topic", "fail", f"{settings.topic} is not there, or may not be seen",
                      "make it, or allow DESCRIBE and READ on it")  # fmt: skip
        return
    counted = f"{len(facts.partitions)} partitions, {facts.records:,} records"
    yield Finding("kafka topic", "ok", f"{settings.topic}: {counted}")
    if facts.read is None:
        yield Finding("kafka records", "warn", "none yet: whether they can be read is not known", "send some")
    else:
        age = f"the newest is {max(0.0, time.time() - facts.newest_s):.0f} s old" if facts.read else "none came in 5 s"
        yield _judged("kafka records", age, facts.read, "allow READ on the topic; look at the broker's log")
    yield Finding("kafka dead letters", "ok" if facts.dead_letters else "warn",
                  f"{settings.topic}.dlq is {'' if facts.dead_letters else 'not '}there",
                  "" if facts.dead_letters else "the trainer makes it: allow CREATE, or make it")  # fmt: skip


def _snapshots(url: str | None) -> Iterator[Finding]:
    if url is None:
        return
    try:
        archive.check_writable(url)
    except CtrError as error:
        yield Finding("snapshots", "fail", str(error), "a directory that can be written, or a URL with credentials")
        return
    yield Finding("snapshots", "ok", f"{archive.Place.of(url).url} can be written")


def _judged(name: str, found: str, good: bool, advice: str, *, otherwise: Status = "fail") -> Finding:
    return Finding(name, "ok", found) if good else Finding(name, otherwise, found, advice)


def _int(info: dict[str, object], name: str) -> int:
    return int(str(info.get(name, 0)))


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
