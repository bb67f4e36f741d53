"""Speed of reading events on one core: `python tests/benchmarks/scan.py`.

Criteo-shaped events of 39 fields in JSON, about 543 bytes each. Events are not used twice in a round and are too many
for a processor to learn their branches by heart, and what is decoded is kept until the round's chunk is done, as a
consumer would.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
from engine import alone
from measure import main, report, taking_turns
from rich.console import Console

from ctr import spec as specification
from ctr.events import Messages, open_reader
from ctr.model import Model

CHUNK, CHUNKS, ROUNDS, MICRO = 8192, 4, 24, 256
INTEGERS = [f"I{i}" for i in range(1, 14)]
CATEGORIES = [f"C{i}" for i in range(1, 27)]
SETTINGS = {
    "name": "bench",
    "fields": [
        *({"name": name, "transform": "log", "bins_per_e": 1.5, "missing": "feature"} for name in INTEGERS),
        *({"name": name, "missing": "feature"} for name in CATEGORIES),
    ],
    "model": {"type": "ffm", "k": 4, "max_rows": 1 << 20},
}


def lines(n: int, seed: int, values: int) -> list[bytes]:
    """Events with counts of a heavy tail, one in ten missing, and categories of 8 hexadecimal digits (Zipf, 1.1)."""
    rng = np.random.default_rng(seed)
    counts = np.minimum(rng.zipf(1.4, (n, 13)), 99_999)
    missing = rng.random((n, 13)) < 0.1
    ranks = np.floor((1 + rng.random((n, 26)) * (values**-0.1 - 1)) ** -10.0).astype(np.uint64)
    hexes = ((ranks * np.uint64(26) + np.arange(26, dtype=np.uint64)) * np.uint64(0x9E3779B1)) & np.uint64(0xFFFFFFFF)
    labels = (rng.random(n) < 0.25).astype(int).tolist()
    made = []
    for label, numbers, absent, categories in zip(
        labels, counts.tolist(), missing.tolist(), hexes.tolist(), strict=True
    ):
        event = {"label": label}
        event |= {k: None if no else x for k, x, no in zip(INTEGERS, numbers, absent, strict=True)}
        event |= {k: f"{x:08x}" for k, x in zip(CATEGORIES, categories, strict=True)}
        made.append(json.dumps(event, separators=(",", ":")).encode())
    return made


def to_messages(some: list[bytes]) -> Messages:
    """One event a message, as they lie in a record batch."""
    lengths, n = np.array([len(line) for line in some]), len(some)
    end = np.cumsum(lengths)
    return Messages(
        b"".join(some), end - lengths, end, np.zeros(n, np.int32), np.arange(n), np.full(n, 1.7e9)
    )  # fmt: skip


def bench_json() -> None:
    """JSON to keys beside msgspec into typed structs and orjson into dicts."""
    reader = open_reader(specification.from_builtins(SETTINGS))
    texts = [lines(CHUNK, seed, 1_000_000) for seed in range(CHUNKS)]
    sent = [to_messages(some) for some in texts]
    types = [("label", int), *((k, int | None, None) for k in INTEGERS), *((k, str, None) for k in CATEGORIES)]
    typed = msgspec.json.Decoder(msgspec.defstruct("Event", types, gc=False)).decode
    runs: dict[str, Callable[[int], object]] = {
        "scan": lambda turn: reader.read(sent[turn % CHUNKS]),
        "msgspec": lambda turn: [typed(line) for line in texts[turn % CHUNKS]],
    }
    try:
        import orjson

        runs["orjson"] = lambda turn: [orjson.loads(line) for line in texts[turn % CHUNKS]]
    except ImportError as error:
        Console().print(f"orjson: left out ({error}); pip install '.[bench]'")
    taken = taking_turns(runs, ROUNDS)
    suite = f"JSON to keys, 39 fields, {sum(map(len, texts[0])) / CHUNK:.0f} bytes"
    speeds = {name: CHUNK / seconds for name, seconds in taken.items()}
    for name, what in (("msgspec", "msgspec, typed"), ("orjson", "orjson.loads")):
        if name in speeds:
            report(suite, f"scan (baseline: {what})", speeds["scan"], "events/s", speeds[name],
                   speeds["scan"] / speeds[name])  # fmt: skip


def bench_learning() -> None:
    """JSON bytes to updated rows beside learning from ready keys, in micro-batches, with a table of a million rows."""
    spec = specification.from_builtins(SETTINGS)
    reader, model = open_reader(spec), Model(spec)
    texts = lines(1 << 17, 9, 4_000_000)
    parts = [to_messages(texts[at : at + MICRO]) for at in range(0, len(texts), MICRO)]
    batches = [reader.read(part)[0] for part in parts]
    for batch in batches:
        model.learn_many(batch)
    used = len(parts) // 8

    def some(turn: int) -> slice:
        return slice(turn % 8 * used, (turn % 8 + 1) * used)

    def from_bytes(turn: int) -> None:
        for part in parts[some(turn)]:
            model.learn_many(reader.read(part)[0])

    def ready(turn: int) -> None:
        for batch in batches[some(turn + 4)]:
            model.learn_many(batch)

    taken = taking_turns({"bytes": from_bytes, "ready": ready}, ROUNDS)
    n = used * MICRO
    report(f"ffm k=4, 39 fields, {model.rows:,} features", f"JSON bytes to updated rows, {MICRO} a batch (ready keys)",
           n / taken["bytes"], "events/s", n / taken["ready"], taken["ready"] / taken["bytes"])  # fmt: skip


def bench_threads() -> None:
    """Events a second by the clock, of several scan threads; information only, other processes count too."""
    reader = open_reader(specification.from_builtins(SETTINGS))
    sent = [to_messages(lines(CHUNK, seed, 1_000_000)) for seed in range(CHUNKS)] * 4
    alone = 0.0
    for threads in (1, 2):
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(reader.read, sent))
            taken = []
            for _ in range(5):
                begin = time.perf_counter()
                list(pool.map(reader.read, sent))
                taken.append(time.perf_counter() - begin)
        speed = CHUNK * len(sent) / statistics.median(taken)
        alone = alone or speed
        report("scan threads", f"{threads} (baseline: 1)", speed, "events/s", alone, speed / alone)


SUITES = [
    ("scan json", alone, (bench_json,)),
    ("scan learn", alone, (bench_learning,)),
    ("scan threads", bench_threads, ()),
]

if __name__ == "__main__":
    main(SUITES, __doc__)
