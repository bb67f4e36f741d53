"""What metrics and quality cost the training loop: `python tests/benchmarks/quality.py`.

Rounds of the same batches are learned in turn plainly, and with all that `ctr train` does beside learning: figures in
two windows and by slice, drift, the guard's look at each event and at the rows of a cut, and now and then a scrape of
all metrics. A cut of 60,000 rows is judged every third round, which is the ceiling of 100,000 rows a second. The
overhead is the median over paired rounds, told with its 95 % confidence interval (by ranks: no round that somebody else
disturbed counts more than another).
"""

from __future__ import annotations

import time

import msgspec
import numpy as np
from engine import SHAPES, cardinalities, events, filled_model, to_batch
from measure import main, on_one_core, report

from ctr import metrics
from ctr.quality import Progressive
from ctr.spec import Quality

ROUNDS, WARM_UP = 240, 4
BATCH, BATCHES = 2000, 40
"""As many events as come out of Kafka at once, and of a cut."""
Z_975 = 1.96
"""Of the normal distribution: so many standard errors to either side of a median, in ranks, are its interval."""


def paired(model, batches, quality):
    """Seconds of each round, plainly and watched, (`ROUNDS`,) each."""
    registry = metrics.registry(metrics.TRAINER, quality.numbers)

    def plainly(_turn):
        for batch in batches:
            model.learn_many(batch)
        return model.take_dirty()

    def watched(turn):
        for batch in batches:
            quality.add(batch, model.learn_many(batch))
        rows = model.take_dirty()
        quality.settle()
        if turn % 3 == 0:
            quality.guard.judge(rows)
            quality.guard.accept()
        if turn % 10 == 0:
            list(registry.collect())
        return rows

    taken = np.zeros((ROUNDS + WARM_UP, 2))
    for turn in range(ROUNDS + WARM_UP):
        for which in (0, 1) if turn % 2 else (1, 0):
            begin = time.thread_time()
            kept = (plainly, watched)[which](turn)
            taken[turn, which] = time.thread_time() - begin
            del kept
    return taken[WARM_UP:].T


def bench_overhead(slices):
    """Beside learning where it is fastest: ffm, 39 one-hot fields, k = 4, 2^16 rows."""
    cards = cardinalities(SHAPES["criteo39"], 1 << 16)
    model = filled_model(cards, 4)
    spec = msgspec.structs.replace(model.spec, quality=Quality(slices=slices))
    batches = [to_batch(*events(cards, BATCH, seed)) for seed in range(BATCHES)]
    with on_one_core():
        plain, watched = paired(model, batches, Progressive(spec))
    ratios = np.sort(watched / plain)
    reach = round(Z_975 * np.sqrt(ROUNDS) / 2)
    low, median, high = 100 * (ratios[[ROUNDS // 2 - reach, ROUNDS // 2, ROUNDS // 2 + reach]] - 1)
    name = f"learning, watched; {len(slices)} sliced; overhead {median:.2f} % (95 %: {low:.2f} to {high:.2f})"
    n = BATCH * BATCHES
    report("quality", name, n / np.median(watched), "events/s", n / np.median(plain), 1 + median / 100)


SUITES = [("quality overhead", bench_overhead, ((),)), ("quality slices", bench_overhead, (("f20", "f21"),))]

if __name__ == "__main__":
    main(SUITES, __doc__)
