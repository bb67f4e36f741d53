"""Things to compare go in, medians of interleaved rounds come out: what all benchmarks share.

A figure is the median over rounds in which the things compared take turns, because machines are noisy and shared: read
the ratios, not the absolute speeds. What computes in one thread is timed by that thread's processor time, so that
others who want the core do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table as Grid

ROUNDS, WARM_UP = 15, 2
results: list[dict] = []


def report(suite, name, value, unit, baseline=None, ratio=None):
    """Note a figure: a line of the table and an entry of bench.json."""
    results.append({"suite": suite, "name": name, "value": value, "unit": unit, "baseline": baseline, "ratio": ratio})


def taking_turns(runs, rounds=ROUNDS, clock=time.thread_time):
    """Median seconds of each of several functions of the round's number, called in turn."""
    times = {name: [] for name in runs}
    for turn in range(rounds + WARM_UP):
        for name, run in runs.items():
            begin = clock()
            kept = run(turn)
            times[name].append(clock() - begin)
            del kept  # a consumer drops it later than where it is made, too
    return {name: statistics.median(taken[WARM_UP:]) for name, taken in times.items()}


@contextmanager
def on_one_core():
    """Keep this process to the last core."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def main(suites, doc):
    """Run suites of (name, function, arguments) whose name holds ``--only``; print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("bench.json"))
    parser.add_argument("--only", default="", help="suites whose name contains this")
    arguments = parser.parse_args()
    for name, run, given in suites:
        if arguments.only in name:
            run(*given)
    grid = Grid("suite", "what", "value", "unit", "baseline", "ratio", title="medians of interleaved rounds")
    for row in results:
        shown = [f"{row[key]:,.0f}" if row[key] is not None else "" for key in ("value", "baseline")]
        ratio = f"{row['ratio']:.2f} x" if row["ratio"] is not None else ""
        grid.add_row(row["suite"], row["name"], shown[0], row["unit"], shown[1], ratio)
    Console(width=150).print(grid)
    arguments.json.write_text(json.dumps(results, indent=1) + "\n")
