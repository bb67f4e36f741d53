"""Which start scale and steps learn best from the first event on: progressive logloss over a grid, as Markdown.

    python tests/benchmarks/defaults.py [simulator criteo avazu amexpert] [--secondary [--step STEP]]

Streams: 300,000 events of the simulator (seed 1) and the click logs of CTR_TEST_DATA (default ../shared/data). Each
cell is the mean logloss of the predictions made before learning; the last table is the mean over streams of the excess
over the stream's best cell, in per cent: the lowest is the best default.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import sys
from pathlib import Path

import msgspec
import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from ctr import spec as specification  # noqa: E402  the repository's own, wherever this is run
from ctr.events import Batch, Messages, open_reader  # noqa: E402
from ctr.model import Model  # noqa: E402
from workers import market  # noqa: E402

DATA = Path(os.environ.get("CTR_TEST_DATA", ROOT.parent / "shared" / "data"))
FILES = {
    "criteo": "criteo/criteo_dac_train_first10k.txt",
    "avazu": "avazu/small3.train.csv",
    "amexpert": "amexpert2018/amexpert2018_60k_labelled_by_time.csv",
}
STARTS, STEPS = (0.0, 0.01, 0.02, 0.05, 0.1), (0.01, 0.02, 0.05, 0.1, 0.2)
N0S, LINEAR_STEPS = (0.01, 0.1, 1.0), (0.02, 0.05, 0.1, 0.2)
SIMULATED = 300_000


def messages(lines: list[bytes]) -> Messages:
    """Lines as a source hands them on, all arriving at the end of time."""
    lengths = np.array([len(line) for line in lines], np.int64)
    end = np.cumsum(lengths + 1) - 1
    n = len(lines)
    return Messages(b"\n".join(lines), end - lengths, end, np.zeros(n, np.int32), end - lengths, np.full(n, 4e9))


def stream(name: str) -> tuple[specification.Spec, Batch]:
    """Specification and events of a stream."""
    if name == "simulator":
        fields = ", ".join(f'{{name = "{field}"}}' for field in market.FIELDS)
        text = f'name = "market"\nfields = [{fields}]\n[event]\nlabel = "click"\n[model]\nbase_rate = 0.035\n'
        spec, source = specification.parse(text), market.Market(seed=1)
        lines = source.lines(source.events(SIMULATED))
    else:
        spec = specification.read(ROOT / "deploy" / "examples" / f"{name}.toml")
        lines = (DATA / FILES[name]).read_bytes().splitlines()
    batch, refusals = open_reader(spec).read(messages(lines))
    if refusals:
        print(f"{name}: {len(refusals)} events refused, first: {refusals[0].message}", file=sys.stderr)
    return spec, batch


def logloss(spec: specification.Spec, batch: Batch, start: float, step: float, n0: float, linear_step: float) -> float:
    """Progressive logloss of one setting."""
    model = Model(msgspec.structs.replace(
        spec, model=msgspec.structs.replace(spec.model, start=start),
        optimizer=msgspec.structs.replace(spec.optimizer, step=step, n0=n0, linear_step=linear_step),
    ))  # fmt: skip
    p = np.clip(model.learn_many(batch).astype(np.float64), 1e-15, 1 - 1e-15)
    return float(-np.log(np.where(batch.labels > 0, p, 1 - p)).mean())


@dataclasses.dataclass
class Grid:
    """Figures of one stream: rows by columns."""

    name: str
    figures: np.ndarray

    def excess(self) -> np.ndarray:
        """Per cent over the best cell."""
        return 100 * (self.figures / self.figures.min() - 1)


def table(title: str, corner: str, rows: tuple, columns: tuple, figures: np.ndarray, digits: int) -> str:
    """One Markdown table; the best cell is bold."""
    best = figures.min()
    lines = [f"**{title}**", "", f"| {corner} | " + " | ".join(f"{c:g}" for c in columns) + " |",
             "|---" * (len(columns) + 1) + "|"]  # fmt: skip
    for row, line in zip(rows, figures, strict=True):
        cells = [f"**{x:.{digits}f}**" if x == best else f"{x:.{digits}f}" for x in line]
        lines.append(f"| {row:g} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("streams", nargs="*", default=["simulator", *FILES])
    parser.add_argument("--secondary", action="store_true", help="n0 by linear_step instead")
    parser.add_argument("--step", type=float, help="with --secondary, instead of the default")
    chosen = parser.parse_args()
    default = specification.parse('name = "x"\nfields = [{name = "x"}]')
    start, step = default.model.start, chosen.step or default.optimizer.step
    n0, linear_step = default.optimizer.n0, default.optimizer.linear_step
    rows, columns = (N0S, LINEAR_STEPS) if chosen.secondary else (STARTS, STEPS)
    corner = "n0 \\ linear_step" if chosen.secondary else "start \\ step"
    grids = []
    for name in chosen.streams:
        spec, batch = stream(name)
        figures = np.array([
            logloss(spec, batch, start, step, row, column) if chosen.secondary
            else logloss(spec, batch, row, column, n0, linear_step)
            for row, column in itertools.product(rows, columns)
        ]).reshape(len(rows), len(columns))  # fmt: skip
        grids.append(Grid(name, figures))
        print(table(f"{name}, {len(batch):,} events", corner, rows, columns, figures, 4), flush=True)
    mean = np.mean([grid.excess() for grid in grids], axis=0)
    print(table("mean excess over the best cell, %", corner, rows, columns, mean, 2))


if __name__ == "__main__":
    main()
