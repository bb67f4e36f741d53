"""Bytes of a scoring request -> keys, in process: `python tests/benchmarks/serving_calls.py`.

By the kernels that requests go through, against the exact way: msgspec's decoder and a key a value. Over HTTP:
`serving_http`.
"""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import numpy as np
from measure import main, report, taking_turns
from serving_http import CANDIDATES, CONTEXT, TOML, rows_of

from ctr.events.jsonlines import decoder
from ctr.events.requests import RequestScanner
from ctr.serving.questions import QuestionEncoder
from ctr.spec import parse


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


SUITES = [("request calls", bench_calls, ())]

if __name__ == "__main__":
    main(SUITES, __doc__)
