"""What metrics and quality cost the training loop: `python tests/benchmarks/quality.py`.

Two models learn the same batches in turn. One does only that; the other does what `ctr train` does beside it: figures in
two windows and slices of one field, drift, the guard's look at each event and at the rows of a cut every 20 batches,
and a scrape every 200. The overhead is told with its 95 % confidence interval: of the mean of paired rounds, by the
rounds' own spread.
"""

from __future__ import annotations

import gc
import statistics
import time

import numpy as np
from engine import criteo_shaped, ffm_spec
from measure import main, report

from ctr import metrics
from ctr.model import Model
from ctr.quality import Progressive

ROUNDS, BATCH, BATCHES = 40, 4000, 20


def rounds(spec, batches, scrapes):
    """Seconds of each of `ROUNDS` rounds, without and with all that is measured."""
    plain, watched, quality = Model(spec), Model(spec), Progressive(spec)
    registry = metrics.registry(metrics.TRAINER, quality.numbers)
    taken = {"plain": [], "watched": []}

    def learn(model):
        for batch in batches:
            model.learn_many(batch)
        model.take_dirty()

    def learn_watched(model, turn):
        for batch in batches:
            quality.add(batch, model.learn_many(batch))
        rows = model.take_dirty()
        assert quality.guard.judge(rows) == (), "nothing speaks against these events"
        quality.guard.accept()
        if scrapes and turn % 10 == 0:
            list(registry.collect())

    for turn in range(ROUNDS + 4):
        order = ("plain", "watched") if turn % 2 else ("watched", "plain")
        for name in order:
            gc.collect()
            begin = time.thread_time()
            if name == "plain":
                learn(plain)
            else:
                learn_watched(watched, turn)
            taken[name].append(time.thread_time() - begin)
    return np.array(taken["plain"][4:]), np.array(taken["watched"][4:])


def bench_overhead(slices):
    """Of metrics and quality on a Criteo-shaped stream (39 fields, k = 4), where learning itself is fastest."""
    spec = ffm_spec(39, 4, slices=slices)
    plain, watched = rounds(spec, criteo_shaped(BATCHES, BATCH), scrapes=True)
    ratios = watched / plain - 1
    mean, error = float(ratios.mean()), statistics.stdev(ratios) / len(ratios) ** 0.5
    low, high = mean - 2.02 * error, mean + 2.02 * error  # Student's t, 39 degrees of freedom
    events = BATCH * BATCHES
    name = f"overhead {100 * mean:.2f} %, 95 % interval {100 * low:.2f} to {100 * high:.2f} %, {len(slices)} sliced fields"
    report("quality", name, events / np.median(watched), "events/s", events / np.median(plain), 1 + mean)


SUITES = [("quality overhead", bench_overhead, ((),)), ("quality overhead slices", bench_overhead, (("f0",),))]

if __name__ == "__main__":
    main(SUITES, __doc__)
