"""Speed of lines to keys, on one core: `python tests/benchmarks/scan_text.py` prints criteo, avazu and libffm text.

From the bytes of a file in the page cache to a `Batch`: read, split into lines, scanned, checked and hashed, with the
specifications of deploy/examples. Beside it pandas' C reader (``read_csv`` with no settings but separator and header)
on the same file, which only parses.
"""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from engine import alone
from measure import main, report, taking_turns

from ctr import spec as specification
from ctr.events import open_reader
from ctr.spec import AVAZU_COLUMNS, Spec
from workers.sources.files import FileSource

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
EVENTS = 50_000
MISSING = 0.14
"""Share of empty cells in Criteo's log."""


def categories(rng, n, values=100_000):
    """n texts of 8 hexadecimal digits, Zipf-distributed."""
    ids = np.minimum(rng.zipf(1.2, n), values).astype(np.uint64) * np.uint64(2654435761)
    return [f"{i & 0xFFFFFFFF:08x}" for i in ids.tolist()]


def counts(rng, n):
    """n whole numbers whose logarithms are even."""
    return [str(int(x)) for x in np.exp(rng.random(n) * 9) - 1]


def criteo_lines(n, seed=1):
    rng = np.random.default_rng(seed)
    columns = [counts(rng, n) for _ in range(13)] + [categories(rng, n) for _ in range(26)]
    for column in columns:
        for i in np.flatnonzero(rng.random(n) < MISSING).tolist():
            column[i] = ""
    labels = (rng.random(n) < 0.26).astype(int).astype(str).tolist()
    return ["\t".join(cells) for cells in zip(labels, *columns, strict=True)]


def avazu_lines(n, seed=2):
    rng = np.random.default_rng(seed)
    ids = rng.integers(10**18, 10**19, n, np.uint64).astype(str).tolist()
    labels = (rng.random(n) < 0.17).astype(int).astype(str).tolist()
    hours = [f"141021{hour:02d}" for hour in np.sort(rng.integers(0, 24, n)).tolist()]
    codes = [categories(rng, n) for _ in range(9)]
    numbers = [rng.integers(0, high, n).astype(str).tolist() for high in (7, 5, 4, 24000, 320, 50, 2700, 4, 1800, 256)]
    few = [rng.integers(1000, 1012, n).astype(str).tolist(), rng.integers(0, 7, n).astype(str).tolist()]
    columns = [ids, labels, hours, *few, *codes, *numbers]
    return [",".join(AVAZU_COLUMNS), *(",".join(cells) for cells in zip(*columns, strict=True))]


def libffm_lines(n, seed=3):
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.24).astype(int).tolist()
    features = rng.integers(0, 10_000, (n, 18)).tolist()
    return [
        f"{label} " + " ".join(f"{field}:{feature}:0.3651" for field, feature in enumerate(row))
        for label, row in zip(labels, features, strict=True)
    ]


def as_categories(spec: Spec) -> Spec:
    """The specification with the values of all fields as they are."""
    fields = tuple(msgspec.structs.replace(field, transform=None, bins_per_e=3.0) for field in spec.fields)
    return msgspec.structs.replace(spec, fields=fields)


def read_all(path, reader):
    """All events of a file; how many there are."""
    source = FileSource(path, follow=False, max_line_bytes=reader.spec.event.max_bytes)
    source.open({})
    n = 0
    while (messages := source.poll(0)) is not None:
        batch, refusals = reader.read(messages)
        n += len(batch) + len(refusals)
    source.close()
    return n


def pandas_reader(**settings):
    """pandas' C reader, None where it is absent."""
    try:
        import pandas as pd
    except ImportError:
        return None
    return partial(pd.read_csv, engine="c", **settings)


def bench_text():
    """Criteo (``CTR_BENCH_CRITEO``: a real log instead of a made one), Avazu and libffm."""
    criteo_log = Path(os.environ["CTR_BENCH_CRITEO"]) if "CTR_BENCH_CRITEO" in os.environ else None
    criteo = specification.read(EXAMPLES / "criteo.toml")
    avazu, libffm = (specification.read(EXAMPLES / f"{name}.toml") for name in ("avazu", "libffm"))
    suites = [
        ("criteo", lambda n: criteo_log.read_text().splitlines() if criteo_log else criteo_lines(n),
         {"example: log bins": criteo, "39 categories": as_categories(criteo)}, pandas_reader(sep="\t", header=None)),
        ("avazu", avazu_lines, {"example": avazu}, pandas_reader()),
        ("libffm 18 fields", libffm_lines, {"example": libffm}, None),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        for name, lines_of, specs, peer in suites:
            lines = lines_of(EVENTS)
            path = Path(directory) / name
            path.write_text("\n".join(lines) + "\n")
            n, n_bytes = len(lines) - (name == "avazu"), path.stat().st_size / len(lines)  # a header
            runs = {what: partial(ignoring_turn, read_all, path, open_reader(spec)) for what, spec in specs.items()}
            if peer is not None:
                runs["pandas"] = partial(ignoring_turn, peer, path)
            for what in specs:
                if runs[what](0) != n:
                    raise AssertionError(f"{name}: events were lost")
            taken = taking_turns(runs)
            for what in specs:
                baseline = n / taken["pandas"] if peer else None
                ratio = taken["pandas"] / taken[what] if peer else None
                title = f"{what} (baseline: pandas' C reader)" if peer else what
                report(f"text {name} {n_bytes:.0f} bytes", title, n / taken[what], "events/s", baseline, ratio)


def ignoring_turn(run, *arguments):
    *arguments, _turn = arguments
    return run(*arguments)


SUITES = [("scan text", alone, (bench_text,))]

if __name__ == "__main__":
    main(SUITES, __doc__)
