"""What scoring calls, one by one: `python tests/benchmarks/serving_calls.py`. Over HTTP: `serving_http`.

Bytes of a request -> keys, by the kernels that requests go through, against the exact way: msgspec's decoder and a key
a value. Rows that a commit changed, read again: over a connection of our own, against redis-py.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from measure import main, report, taking_turns
from serving_http import CANDIDATES, CONTEXT, TOML, rows_of

from ctr.events.jsonlines import decoder
from ctr.events.requests import RequestScanner
from ctr.serving.questions import QuestionEncoder
from ctr.spec import parse
from ctr.store import ShardKeys, ShardReader, connect
from ctr.store.bulk import RowFetch
from ctr.store.codec import field_names
from deploy.local.process import free_port
from deploy.local.redis import Redis


class Instances(msgspec.Struct):
    """A request for predictions."""

    instances: list[dict[str, Any]]


class Ranking(msgspec.Struct):
    """A request to rank."""

    context: dict[str, Any]
    candidates: list[dict[str, Any]]


def bench_calls():
    """One row of 39 fields, and a ranking of 500 candidates of 9 fields, other ones each time."""
    spec = parse(TOML)
    scanner, encoder, now = RequestScanner(spec), QuestionEncoder(spec), time.time()
    rows = rows_of(2000, 2)[0]
    halves = [(dict(list(row.items())[:CONTEXT]), dict(list(row.items())[CONTEXT:])) for row in rows]
    one = [json.dumps({"instances": [row]}).encode() for row in rows[:500]]
    many = [
        json.dumps({"context": halves[at][0], "candidates": [own for _, own in halves[at : at + CANDIDATES]]}).encode()
        for at in range(0, 1000, 50)
    ]
    decode, decode_ranking = decoder(Instances), decoder(Ranking)

    def exact_ranking(body):
        asked = decode_ranking(body)
        return encoder.question(asked.context, asked.candidates, now)

    row = encoder.row_keys(decode(one[0]).instances[0], now, "$")
    np.testing.assert_array_equal(scanner.scan_keys(one[0], now, max_rows=1), row)
    asked = scanner.scan_ranking(many[0], now, max_rows=CANDIDATES)
    np.testing.assert_array_equal(asked.keys, exact_ranking(many[0]).keys)
    taken = taking_turns({
        "one": lambda _turn: [scanner.scan_few(body, now) for body in one],
        "one, exact": lambda _turn: [encoder.row_keys(decode(body).instances[0], now, "$") for body in one],
        "many": lambda _turn: [scanner.scan_ranking(body, now, max_rows=CANDIDATES) for body in many],
        "many, exact": lambda _turn: [exact_ranking(body) for body in many],
    })  # fmt: skip
    for name, bodies, what in (("one", one, "one row"), ("many", many, f"{CANDIDATES} candidates")):
        mine, base = taken[name] / len(bodies) * 1e6, taken[f"{name}, exact"] / len(bodies) * 1e6
        report("request -> keys", f"{what} (baseline: decoded, a key a value)", mine, "us", base, base / mine)


def bench_rows(count=20_000, at_once=1000, row_bytes=1252):
    """Rows of 39 fields with k = 4 and their state, from a real Redis."""
    keys = np.random.default_rng(1).integers(1 << 20, 1 << 63, count, dtype=np.uint64)
    parts = [keys[begin : begin + at_once] for begin in range(0, count, at_once)]
    with tempfile.TemporaryDirectory() as name:
        redis = Redis(Path(name) / "redis", free_port())
        redis.start()
        try:
            with connect(redis.url) as client:
                shard = ShardKeys("bench@1", 0)
                for part in parts:
                    client.hset(shard.rows, mapping=dict.fromkeys(field_names(part), bytes(row_bytes)))
                by_redis_py = ShardReader(client, shard, row_bytes=row_bytes)
                by_hand = ShardReader(client, shard, row_bytes=row_bytes, in_bulk=RowFetch(client, row_bytes))
                assert len(by_hand.fetch(keys)) == len(by_redis_py.fetch(keys)) == count
                taken = taking_turns({
                    "mine": lambda _turn: [len(by_hand.fetch(part)) for part in parts],
                    "redis-py": lambda _turn: [len(by_redis_py.fetch(part)) for part in parts],
                })  # fmt: skip
        finally:
            redis.stop()
    mine, base = taken["mine"] / count * 1e6, taken["redis-py"] / count * 1e6
    report("rows from Redis, 1,000 at once", "processor time a row (baseline: redis-py)", mine, "us", base, base / mine)


SUITES = [("request calls", bench_calls, ()), ("request rows", bench_rows, ())]

if __name__ == "__main__":
    main(SUITES, __doc__)
