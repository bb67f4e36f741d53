"""Speed of the learning engine on one core: `python tests/benchmarks/engine.py`.

Tables are filled before the clock starts, and stay full.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
from measure import ROUNDS, main, on_one_core, report, taking_turns
from numba import njit
from rich.console import Console

from ctr.events.batch import Batch
from ctr.model import Model, RowBlock
from ctr.spec import Field, Optimizer, Spec
from ctr.spec import Model as ModelSpec

CRITEO = [50] * 13 + [
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992, 5461306, 10, 5652,
    2173, 4, 7046547, 18, 15, 286181, 105, 142572,
]  # fmt: skip
AVAZU = [24, 7, 7, 4737, 7745, 26, 8552, 559, 36, 2686408, 6729486, 8251, 5, 4, 2626, 8, 9, 435, 4, 68, 172, 60]
SHAPES = {"criteo39": CRITEO, "avazu22": AVAZU}
CHUNK = 8192


# ---- events and tables ----------------------------------------------------------------------------------------------


def cardinalities(cards, n_rows):
    """Values a field may take, capped so that all fields together have about `n_rows`."""
    cards = np.array(cards)
    low, high = 1, n_rows
    while low < high:
        cap = (low + high + 1) // 2
        low, high = (cap, high) if np.minimum(cards, cap).sum() <= n_rows else (low, cap - 1)
    return np.minimum(cards, low)


def events(cards, n, seed):
    """(n, F) row indices, Zipf-distributed (a = 1.1) within each field, and labels."""
    rng = np.random.default_rng(seed)
    first = np.concatenate([[0], np.cumsum(cards)[:-1]])
    e = 1 - 1.1
    ids = np.minimum((1 + rng.random((n, len(cards))) * ((cards + 1.0) ** e - 1)) ** (1 / e) - 1, cards - 1)
    return (ids.astype(np.int64) + first).astype(np.int32), (rng.random(n) < 0.26).astype(np.float32)


def keys_of(ids):
    with np.errstate(over="ignore"):
        z = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        return z ^ (z >> np.uint64(29))


def to_batch(ids, labels):
    n, F = ids.shape
    return Batch(
        keys_of(ids).ravel(), np.ones(n * F, np.float32), np.tile(np.arange(F, dtype=np.uint8), n),
        np.arange(n + 1) * F, labels, np.ones(n, np.float32), np.full(n, 1.7e9), np.zeros(n, np.int32), np.arange(n),
        True,
    )  # fmt: skip


def filled_model(cards, k, seed=0, optimizer="adagrad"):
    F, n_rows = len(cards), int(cards.sum())
    spec = Spec(
        name="bench", fields=tuple(Field(name=f"f{i}") for i in range(F)),
        model=ModelSpec(k=k, max_rows=max(n_rows, 1024)), optimizer=Optimizer(type=optimizer),
    )  # fmt: skip
    model, rng = Model(spec), np.random.default_rng(seed)
    kp = -(-k // 4) * 4
    field = np.repeat(np.arange(F), cards)
    for begin in range(0, n_rows, 1 << 15):
        ids = np.arange(begin, min(begin + (1 << 15), n_rows))
        f, j = field[ids], np.arange(len(ids))
        w = (rng.random((len(ids), F, kp), np.float32) - 0.5) * np.float32(0.04)
        w[:, :, k:] = 0
        w[j, f] = 0
        w[j, f, 1] = 1  # count
        data = np.zeros((len(ids), model.row_bytes), np.uint8)
        data[:, 0] = f
        data[:, 4:] = np.concatenate([w.reshape(len(ids), -1), np.ones((len(ids), F * kp), np.float32)], 1).view("u1")
        model.load(RowBlock(keys_of(ids), data))
    return model


def plain_pairs(F, k):
    """What one writes first, but written with care: all pairs, libffm's layout (per row and partner field k weights,
    then k accumulators), one flat array, F and k known to the compiler.
    """

    @njit(fastmath=True, nogil=True)
    def learn(W, rows, labels, begin, end, eta, out):
        for i in range(begin, end):
            t = np.float32(0)
            for a in range(F):
                A = np.int64(rows[i, a]) * (F * 2 * k)
                for b in range(a + 1, F):
                    v, u = A + b * 2 * k, np.int64(rows[i, b]) * (F * 2 * k) + a * 2 * k
                    for d in range(k):
                        t += W[v + d] * W[u + d]
            p = np.float32(1) / (np.float32(1) + np.float32(np.exp(-t)))
            out[i] = p
            dl = p - labels[i]
            for a in range(F):
                A = np.int64(rows[i, a]) * (F * 2 * k)
                for b in range(a + 1, F):
                    v, u = A + b * 2 * k, np.int64(rows[i, b]) * (F * 2 * k) + a * 2 * k
                    for d in range(k):
                        g, h = dl * W[u + d], dl * W[v + d]
                        n, m = W[v + k + d] + g * g, W[u + k + d] + h * h
                        W[v + k + d], W[u + k + d] = n, m
                        W[v + d] -= eta * g / np.sqrt(n)
                        W[u + d] -= eta * h / np.sqrt(m)

    return learn


# ---- suites ---------------------------------------------------------------------------------------------------------


def bench_ffm(shape, k, bits):
    """Events learned a second, look-up by key included, beside the plain loop on ready rows; prediction."""
    cards = cardinalities(SHAPES[shape], 1 << bits)
    ids, labels = events(cards, CHUNK * 8, seed=bits)
    chunks = [slice(at, at + CHUNK) for at in range(0, len(ids), CHUNK)]
    batches = [to_batch(ids[chunk], labels[chunk]) for chunk in chunks]
    model = filled_model(cards, k)
    rng = np.random.default_rng(1)
    W = np.empty((int(cards.sum()), len(cards), 2, k), np.float32)
    W[:, :, 1] = 1
    for row in range(0, len(W), 1 << 15):
        part = W[row : row + (1 << 15), :, 0]
        part[:] = (rng.random(part.shape, np.float32) - 0.5) * np.float32(0.04)
    W, pairs = W.reshape(-1), plain_pairs(len(cards), k)
    out, few = np.empty(len(ids), np.float32), CHUNK // 4

    def plain(turn):
        begin = chunks[turn % 8].start
        pairs(W, ids, labels, begin, begin + few, np.float32(0.02), out)

    taken = taking_turns({
        "learn": lambda turn: model.learn_many(batches[turn % 8]),
        "plain": plain,
        "predict": lambda turn: model.predict_many(batches[turn % 8]),
    })
    learn, predict, plain_speed = CHUNK / taken["learn"], CHUNK / taken["predict"], few / taken["plain"]
    suite = f"ffm {shape} k={k} 2^{bits}"
    report(suite, "learn", learn, "events/s", plain_speed, learn / plain_speed)
    report(suite, "predict (baseline: learn)", predict, "events/s", learn, predict / learn)
    if bits == 20 and k == 4:
        report(suite, "memory beyond the padded row",
               model.memory_bytes / model.rows - model._table.stride * 4, "bytes/row")  # fmt: skip


def made_model(cards, type_, k, ids, labels):
    """A model of another family, its rows made by learning events."""
    spec = Spec(
        name="bench", fields=tuple(Field(name=f"f{i}") for i in range(len(cards))),
        model=ModelSpec(type=type_, k=k, max_rows=max(int(cards.sum()), 1024)),
    )  # fmt: skip
    model = Model(spec)
    model.learn_many(to_batch(ids, labels))
    return model


def bench_against_adagrad(bits):
    """Other optimizers and families beside ffm AdaGrad k = 4."""
    cards = cardinalities(CRITEO, 1 << bits)
    ids, labels = events(cards, CHUNK * 4, seed=bits)
    batches = [to_batch(ids[at : at + CHUNK], labels[at : at + CHUNK]) for at in range(0, len(ids), CHUNK)]
    models = {"adagrad": filled_model(cards, 4)}
    models |= {f"ffm {name} k=4": filled_model(cards, 4, optimizer=name) for name in ("ftrl", "sgd")}
    models |= {
        f"{name} k={k}": made_model(cards, name, k, ids, labels) for name, k in (("fm", 8), ("lr", 4), ("fwfm", 8))
    }

    def learner(model):
        return lambda turn: model.learn_many(batches[turn % 4])

    taken = taking_turns({name: learner(model) for name, model in models.items()})
    for name in models:
        if name != "adagrad":
            report(f"families criteo39 2^{bits}", f"{name} (baseline: ffm AdaGrad k=4)", CHUNK / taken[name],
                   "events/s", CHUNK / taken["adagrad"], taken["adagrad"] / taken[name])  # fmt: skip


def bench_bandwidth():
    """Copy of an array larger than the caches, read and written bytes."""
    a = np.ones(1 << 26, np.float32)
    b = a.copy()
    taken = taking_turns({"copy": lambda _turn: np.copyto(b, a)})
    report("memory", "copy, read + write", 2 * a.nbytes / taken["copy"] / 1e6, "MB/s")


def bench_peers(bits=16, k=4):
    """Vowpal Wabbit (--lrqfa, parsed before the clock starts) and river, on few events, where they are installed."""
    cards = cardinalities(CRITEO, 1 << bits)
    ids, labels = events(cards, CHUNK, seed=9)
    model, batch = filled_model(cards, k), to_batch(ids, labels)

    def rate(run, n):
        begin = time.thread_time()
        run()
        return n / (time.thread_time() - begin)

    model.learn_many(batch)
    for name, peer in (("Vowpal Wabbit --lrqfa", _vowpal_wabbit), ("river FFMClassifier", _river)):
        try:
            learn, n = peer(ids, labels, k)
        except ImportError as error:
            Console().print(f"{name}: left out ({error}); pip install '.[bench]'")
            continue
        ours, theirs = [], []
        for _ in range(3):
            ours.append(rate(lambda: model.learn_many(batch), len(labels)))
            theirs.append(rate(learn, n))
        fast, slow = statistics.median(ours), statistics.median(theirs)
        report(f"ffm criteo39 k={k} 2^{bits}", f"learn (baseline: {name})", fast, "events/s", slow, fast / slow)


def _vowpal_wabbit(ids, labels, k, n=1000):
    from vowpalwabbit import Workspace

    letters = [chr(33 + 1 + f) for f in range(60) if chr(34 + f) not in ":|"][: ids.shape[1]]
    vw = Workspace(f"--quiet --loss_function logistic -b 22 --lrqfa {''.join(letters)}{k}")
    lines = [
        f"{2 * int(y) - 1} " + " ".join(f"|{letter} {i}" for letter, i in zip(letters, row, strict=True))
        for row, y in zip(ids[:n], labels[:n], strict=True)
    ]
    examples = [vw.example(line) for line in lines]
    return lambda: [vw.learn(example) for example in examples], n


def _river(ids, labels, k, n=60):
    from river import facto

    model = facto.FFMClassifier(n_factors=k)
    rows = [{f"f{f}_{i}": 1.0 for f, i in enumerate(row)} for row in ids[:n].tolist()]
    return lambda: [model.learn_one(x, bool(y)) for x, y in zip(rows, labels[:n], strict=True)], n


def bench_micro_batches(bits=20, k=4):
    """Batches of 64 events against batches of 4,096."""
    cards = cardinalities(CRITEO, 1 << bits)
    ids, labels = events(cards, 4096 * 8, seed=5)
    model = filled_model(cards, k)
    batches = [to_batch(ids[at : at + 4096], labels[at : at + 4096]) for at in range(0, len(ids), 4096)]
    small = [[batch.slice(at, at + 64) for at in range(0, 4096, 64)] for batch in batches]

    def by_64(turn):
        for part in small[turn % 8]:
            model.learn_many(part)

    taken = taking_turns({"4096": lambda turn: model.learn_many(batches[(turn + 4) % 8]), "64": by_64})
    report(f"ffm criteo39 k={k} 2^{bits}", "micro-batch of 64 (baseline: 4096)", 4096 / taken["64"], "events/s",
           4096 / taken["4096"], taken["4096"] / taken["64"])  # fmt: skip


def bench_packing(bits=16, k=4):
    """Dirty rows packed for a commit, and rows loaded at a start."""
    cards = cardinalities(CRITEO, 1 << bits)
    ids, labels = events(cards, CHUNK, seed=6)
    model, batch = filled_model(cards, k), to_batch(ids, labels)
    taken, loaded = [], []
    for _ in range(ROUNDS):
        model.learn_many(batch)
        rows, begin = model.dirty_rows, time.thread_time()
        block = model.take_dirty()
        middle = time.thread_time()
        model.load(block)
        taken.append(rows / (middle - begin))
        loaded.append(rows / (time.thread_time() - middle))
    report(f"rows criteo39 k={k} 2^{bits}", "take_dirty", statistics.median(taken), "rows/s")
    report(f"rows criteo39 k={k} 2^{bits}", "load", statistics.median(loaded), "rows/s")


def alone(run, *arguments):
    """On one core."""
    with on_one_core():
        run(*arguments)


SUITES = [
    (name, alone, (run, *arguments))
    for name, run, *arguments in (
        *((f"ffm {shape} k={k} 2^{bits}", bench_ffm, shape, k, bits)
          for shape, k in (("criteo39", 4), ("criteo39", 8), ("avazu22", 4)) for bits in (10, 16, 20)),
        *((f"families 2^{bits}", bench_against_adagrad, bits) for bits in (10, 16, 20)),
        ("peers", bench_peers),
        ("bandwidth", bench_bandwidth),
        ("micro", bench_micro_batches),
        ("packing", bench_packing),
    )
]  # fmt: skip

if __name__ == "__main__":
    main(SUITES, __doc__)
