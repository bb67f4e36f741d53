"""The maths, slow and obvious: what every fast kernel is compared with."""

import math
from dataclasses import dataclass, field

import numpy as np

# ---- Factorization machines -----------------------------------------------------------------------------------------
# An event has features i = 0 .. N-1: feature i belongs to field f[i], has value x[i] and a linear weight w[i].


def fm_logit(x, b, w, v):
    """FM (Rendle 2010): each feature has one latent vector v[i] of k factors.

    logit = b + sum_i w_i x_i + sum_{i<j} <v_i, v_j> x_i x_j
    """
    pairs = sum(x[i] * x[j] * np.dot(v[i], v[j]) for i in range(len(x)) for j in range(i + 1, len(x)))
    return b + np.dot(w, x) + pairs


def fm_logit_fast(x, b, w, v):
    """The same in O(k N): (sum a)^2 = sum a^2 + 2 sum of all pairs, for each factor."""
    a = v * x[:, None]
    return b + np.dot(w, x) + 0.5 * np.sum(a.sum(axis=0) ** 2 - (a**2).sum(axis=0))


def ffm_logit(x, f, b, w, v, r=1.0):
    """Field-aware FM (Juan et al. 2016): v[i, g] is what feature i holds for features of field g.

    logit = b + sum_i w_i x_i + r sum_{i<j, f_i != f_j} <v_{i,f_j}, v_{j,f_i}> x_i x_j

    Features of the same field do not pair, so fields may hold several values. r = 1 / sum x^2 where events are
    normalised, else 1.
    """
    pairs = 0.0
    for i in range(len(x)):
        for j in range(i + 1, len(x)):
            if f[i] != f[j]:
                pairs += x[i] * x[j] * np.dot(v[i, f[j]], v[j, f[i]])
    return b + np.dot(w, x) + r * pairs


def logloss(logit, y):
    """-log of the probability given to label y in {0, 1}: log(1 + e^-t) for 1, log(1 + e^t) for 0."""
    return np.logaddexp(0.0, -logit if y else logit)


def ffm_gradient(x, f, dl, v, r=1.0):
    """Gradients of b, each w_i and each v_{i,g}, from the loss's derivative by the logit, dl = c (p - y).

    g(b) = dl;  g(w_i) = dl x_i;  g(v_{i,g}) = dl r x_i sum_{j of field g} x_j v_{j,f_i}
    """
    gv = np.zeros_like(v)
    for i in range(len(x)):
        for j in range(len(x)):
            if f[i] != f[j]:
                gv[i, f[j]] += dl * r * x[i] * x[j] * v[j, f[i]]
    return dl, dl * x, gv


def adagrad(w, n, g, step):
    """AdaGrad (Duchi et al. 2011): every weight has its own step size, from the squares of its gradients so far."""
    n = n + g**2
    return w - step * g / np.sqrt(n), n


# ---- The online learner ---------------------------------------------------------------------------------------------
# Rows come into being with their first event, are forgotten after `ttl_s`, and everything is float64.

MASK = 2**64 - 1
LOGIT_MAX = 50.0


def mix64(z):
    """SplitMix64's finaliser (Steele, Lea, Flood 2014)."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def start_value(seed, key, coordinate, scale):
    """Start of coordinate g k + d of a row: uniform in +-scale, the same wherever it is computed (float32)."""
    state = mix64(key ^ mix64(seed))
    u24 = mix64((state + (coordinate + 1) * 0x9E3779B97F4A7C15) & MASK) >> 40
    return float(np.float32(scale) * (np.float32(u24) * np.float32(2**-23) - np.float32(1)))


def minute_of(time_s):
    """Whole minutes since 2020-01-01T00:00Z, within +-2^24."""
    return float(min(max(math.floor((time_s - 1577836800) / 60), -(2**24)), 2**24))


@dataclass
class Row:
    """What one feature owns. `v`, `nv` are (F, k); the entries for its own field are not used."""

    field: int
    v: np.ndarray
    nv: np.ndarray
    w: float = 0.0
    nw: float = 0.0
    count: float = 0.0
    seen: float = 0.0


@dataclass
class Event:
    """Features (key, field, value) of one event, ordered by field, each key once."""

    features: list
    y: float = 0.0
    c: float = 1.0
    time_s: float = 1.7e9


@dataclass
class Step:
    """What happened in one step, for error bounds: logit, dl, r, the sum of absolute terms, gradients by key."""

    p: float
    logit: float = 0.0
    dl: float = 0.0
    r: float = 1.0
    absolute: float = 0.0
    gw: dict = field(default_factory=dict)
    gv: dict = field(default_factory=dict)


class Naive:
    """FFM, AdaGrad, logistic loss, over a dict of rows. `spec` is a `ctr.spec.Spec`."""

    def __init__(self, spec):
        self.spec, self.F, self.k = spec, len(spec.fields), spec.model.k
        rate = spec.model.base_rate
        self.rows = {}
        self.bias = self.blank(0)
        self.bias.w = float(np.float32(math.log(rate / (1 - rate)))) if spec.model.bias else 0.0
        self.bias.seen = float(-(2**24))

    def blank(self, f):
        n0 = float(np.float32(self.spec.optimizer.n0))
        return Row(f, np.zeros((self.F, self.k)), np.full((self.F, self.k), n0), nw=n0)

    def live(self, key, minute):
        row, ttl = self.rows.get(key), self.spec.lifetime.ttl_s
        return row if row and row.count and (not ttl or (minute - row.seen) * 60 <= ttl) else None

    def score(self, event):
        """Arrays for `ffm_logit`; a feature without a living row counts as zero, but in r it counts."""
        minute = minute_of(event.time_s)
        x = np.array([float(value) for _, _, value in event.features])
        f = [f for _, f, _ in event.features]
        rows = [self.live(key, minute) or self.blank(f) for key, f, _ in event.features]
        w = np.array([row.w if self.spec.model.linear else 0.0 for row in rows])
        v = np.array([row.v for row in rows]).reshape(-1, self.F, self.k)
        r = 1.0 / np.sum(x**2) if self.spec.model.normalize and len(x) else 1.0
        return x, f, (self.bias.w if self.spec.model.bias else 0.0), w, v, r

    def logit(self, event):
        return float(np.clip(ffm_logit(*self.score(event)), -LOGIT_MAX, LOGIT_MAX))

    def learn(self, event):
        """Probability before the update, and the update (none if the event's weight is 0)."""
        x, f, b, w, v, r = self.score(event)
        t = self.logit(event)
        p = 1.0 / (1.0 + math.exp(-t))
        absolute = ffm_logit(abs(x), f, abs(b), abs(w), abs(v), r)
        if event.c == 0:
            return Step(p, t, 0.0, r, absolute)
        dl, gw, gv = ffm_gradient(x, f, event.c * (p - event.y), v, r)
        step, linear_step = (float(np.float32(s)) for s in (self.spec.optimizer.step, self.spec.optimizer.linear_step))
        minute = minute_of(event.time_s)
        done = Step(p, t, dl, r, absolute, {1: dl})
        for i, (key, fi, _) in enumerate(event.features):
            new = self.live(key, minute) is None
            if new:
                self.rows[key] = self.blank(fi)
                self.rows[key].seen = minute
            row = self.rows[key]
            row.v, row.nv = adagrad(row.v, row.nv, gv[i], step)
            if self.spec.model.linear:
                row.w, row.nw = adagrad(row.w, row.nw, gw[i], linear_step)
            row.count, row.seen = row.count + 1, max(row.seen, minute)
            if new:
                scale, seed = self.spec.model.start, self.spec.model.seed
                for g in range(self.F):
                    for d in range(self.k):
                        if g != fi:
                            row.v[g, d] += start_value(seed, key, g * self.k + d, scale)
            done.gw[key], done.gv[key] = gw[i], gv[i]
        if self.spec.model.bias:
            self.bias.w, self.bias.nw = adagrad(self.bias.w, self.bias.nw, dl, linear_step)
        self.bias.count, self.bias.seen = self.bias.count + 1, max(self.bias.seen, minute)
        return done


def unpack_rows(block, n_fields, k):
    """Packed rows (format 1, see `ctr.rows`) -> {key: Row}, read byte by byte as the format says."""
    kp, rows = -(-k // 4) * 4, {}
    size = 4 * n_fields * kp
    for key, data in zip(block.keys.tolist(), block.data, strict=True):
        raw = data.tobytes()
        f = raw[0]
        assert raw[1:4] == b"\0\0\0"
        assert len(raw) == 4 + 2 * size
        w, n = (np.frombuffer(raw, "<f4", n_fields * kp, at).astype(float) for at in (4, 4 + size))
        w, n = w.reshape(n_fields, kp), n.reshape(n_fields, kp)
        others = np.arange(n_fields) != f
        assert not w[others, k:].any()
        assert not w[f, 3:].any()
        assert (n[others, k:] == 1).all()
        assert (n[f, 1:] == 1).all()
        v, nv = w[:, :k].copy(), n[:, :k].copy()
        v[f], nv[f] = 0, 1
        rows[key] = Row(f, v, nv, w[f, 0], n[f, 0], w[f, 1], w[f, 2])
    return rows


def to_batch(events, n_fields, *, dense):
    """Events -> `ctr.events.batch.Batch`; a dense one has exactly one entry a field, key 0 where it is missing."""
    from ctr.events.batch import Batch

    entries = [list(event.features) for event in events]
    if dense:
        entries = [[{f: (key, f, x) for key, f, x in row}.get(g, (0, g, 1.0)) for g in range(n_fields)]
                   for row in entries]  # fmt: skip
    flat = [entry for row in entries for entry in row]
    n = len(events)
    return Batch(
        np.array([key for key, _, _ in flat], np.uint64), np.array([x for _, _, x in flat], np.float32),
        np.array([f for _, f, _ in flat], np.uint8), np.cumsum([0] + [len(row) for row in entries], dtype=np.int64),
        np.array([event.y for event in events], np.float32), np.array([event.c for event in events], np.float32),
        np.array([event.time_s for event in events], np.float64), np.zeros(n, np.int32), np.arange(n, dtype=np.int64),
        dense,
    )  # fmt: skip
