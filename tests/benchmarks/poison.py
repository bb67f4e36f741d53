"""What flipped labels do to a served model before the guard holds them back: `python tests/benchmarks/poison.py`.

A model learns 100,000 healthy events, then 30,000 of which a share has its label turned round, in cuts of 500. Served
is what passed the guard. Its logloss on 50,000 clean events is told beside that of a model that learned the same events
unharmed, and how many poisoned events had been learned when the first cut was held back. The last lines are healthy
streams of 1,000,000 events: how often the guard was wrong.
"""

from __future__ import annotations

import math

import numpy as np
from rich.console import Console
from rich.table import Table

from ctr.events import Batch
from ctr.model import Model
from ctr.quality import Progressive
from ctr.spec import Field, Spec
from ctr.spec import Model as ModelSpec

F, VALUES, CUT, HEALTHY, POISONED, JUDGED = 8, 50, 500, 100_000, 30_000, 50_000
RATES, SPREADS, SHARES = (0.005, 0.035, 0.25, 0.5), (0.6, 1.2), (0.02, 0.05, 0.1, 0.2)


class World:
    """Events of eight fields whose values add up to a logit; `spread` is its standard deviation."""

    def __init__(self, rate, spread, seed=1):
        self.rng = np.random.default_rng(seed)
        self.effects = self.rng.normal(0, spread / math.sqrt(F), (F, VALUES))
        self.bias = math.log(rate / (1 - rate))

    def batch(self, n, flipped=0.0):
        ids = self.rng.integers(0, VALUES, (n, F))
        margin = self.bias + self.effects[np.arange(F), ids].sum(axis=1)
        y = self.rng.random(n) < 1 / (1 + np.exp(-margin))
        y ^= self.rng.random(n) < flipped
        keys = (ids + VALUES * np.arange(F) + 1000).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return Batch(
            keys.ravel(), np.ones(n * F, np.float32), np.tile(np.arange(F, dtype=np.uint8), n), np.arange(n + 1) * F,
            y.astype(np.float32), np.ones(n, np.float32), np.full(n, 1.7e9), np.zeros(n, np.int32), np.arange(n), True,
        )  # fmt: skip


def spec_of(rate):
    fields = tuple(Field(name=f"f{i}") for i in range(F))
    return Spec(name="world", fields=fields, model=ModelSpec(base_rate=rate, max_rows=4096))


def learn(spec, batches):
    """Served model after these batches, and the index of the first cut held back, None for none."""
    model, served, quality = Model(spec), Model(spec), Progressive(spec)
    for number, batch in enumerate(batches):
        quality.add(batch, model.learn_many(batch))
        quality.settle()
        rows = model.take_dirty()
        if quality.guard.judge(rows):
            return served, number
        quality.guard.accept()
        served.load(rows)
    return served, None


def logloss(model, batch):
    p = np.clip(model.predict_many(batch).astype(float), 1e-12, 1 - 1e-12)
    return float(-np.where(batch.labels > 0, np.log(p), np.log1p(-p)).mean())


def main():
    """Print one line for each stream."""
    grid = Table("click rate", "spread", "flipped", "held back after", "served logloss", "unharmed", "lost")
    for rate in RATES:
        for spread in SPREADS:
            for share in SHARES:
                world = World(rate, spread)
                healthy = [world.batch(CUT) for _ in range(HEALTHY // CUT)]
                state = world.rng.bit_generator.state
                poisoned = [world.batch(CUT, share) for _ in range(POISONED // CUT)]
                world.rng.bit_generator.state = state
                same = [world.batch(CUT) for _ in range(POISONED // CUT)]
                judged = world.batch(JUDGED)
                served, held = learn(spec_of(rate), [*healthy, *poisoned])
                unharmed, _ = learn(spec_of(rate), [*healthy, *same])
                mine, best = logloss(served, judged), logloss(unharmed, judged)
                after = "never" if held is None else f"{(held + 1) * CUT - HEALTHY:,}"
                grid.add_row(f"{rate:.1%}", f"{spread}", f"{share:.0%}", after, f"{mine:.4f}", f"{best:.4f}",
                             f"{mine / best - 1:+.1%}")  # fmt: skip
    for rate in RATES:
        world = World(rate, 1.2, seed=2)
        _, held = learn(spec_of(rate), (world.batch(CUT) for _ in range(1_000_000 // CUT)))
        grid.add_row(f"{rate:.1%}", "1.2", "none", "never" if held is None else f"{held * CUT:,}", "", "", "")
    Console(width=120).print(grid)


if __name__ == "__main__":
    main()
