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


def interaction(kind, vi, vj, fi, fj, s):
    """What a pair of features adds to the logit, for v[i] of shape (1, k), or (F, k) for ffm.

    FwFM (Pan et al. 2018) has a number s[f, g] for each pair of fields, FEFM (Pande 2020) a symmetric matrix.
    """
    if kind == "ffm":
        return vi[fj] @ vj[fi]
    if kind == "fefm":
        return vi[0] @ s[fi, fj] @ vj[0]
    return {"lr": 0.0, "fm": 1.0, "fwfm": s[fi, fj] if kind == "fwfm" else 0.0}[kind] * (vi @ vj.T).sum()


def pair_sum(kind, x, f, v, s, same_field=False):
    """Sum over all pairs of features of different fields (`same_field`: of all pairs)."""
    return sum((
        x[i] * x[j] * interaction(kind, v[i], v[j], f[i], f[j], s)
        for i in range(len(x)) for j in range(i + 1, len(x)) if same_field or f[i] != f[j]
    ), 0.0)  # fmt: skip


def pair_gradient(kind, x, f, v, s, same_field=False):
    """Derivatives of `pair_sum` by v and by s, (s[f, g] and s[g, f], f < g, are one weight: it stands at [f, g])."""
    gv, gs = np.zeros_like(v), np.zeros_like(s)
    for i in range(len(x)):
        for j in range(i + 1, len(x)):
            fi, fj, xx = f[i], f[j], x[i] * x[j]
            if (fi == fj and not same_field) or kind == "lr":
                continue
            if kind == "ffm":
                gv[i, fj] += xx * v[j, fi]
                gv[j, fi] += xx * v[i, fj]
                continue
            m = s[fi, fj] if kind == "fefm" else np.eye(v.shape[2]) * (s[fi, fj] if kind == "fwfm" else 1.0)
            gv[i, 0] += xx * (m @ v[j, 0])
            gv[j, 0] += xx * (m @ v[i, 0])
            at = min(fi, fj), max(fi, fj)
            if kind == "fwfm":
                gs[at] += xx * (v[i, 0] @ v[j, 0])
            elif kind == "fefm":  # an entry off the diagonal is one weight in two places
                both = np.outer(v[i, 0], v[j, 0])
                gs[at] += xx * (both + both.T - np.diag(np.diag(both)))
    return gv, gs


def adagrad(w, n, g, step):
    """AdaGrad (Duchi et al. 2011): every weight has its own step size, from the squares of its gradients so far."""
    n = n + g**2
    return w - step * g / np.sqrt(n), n


def one_step(w, n, g, c0, c1):
    """Every optimizer. sgd: c0 = 1 / eta, c1 = 0; AdaGrad: 0, 1 / eta; FTRL: beta / alpha + l2, 1 / alpha."""
    n = n + g**2
    return w - np.where(g == 0, 0.0, g) / np.where(g == 0, 1.0, c0 + c1 * np.sqrt(n)), n


def ftrl_proximal(w, n, z, g, alpha, beta, l1, l2):
    """FTRL-Proximal (McMahan et al. 2013, algorithm 1), one coordinate."""
    sigma = (math.sqrt(n + g * g) - math.sqrt(n)) / alpha
    z, n = z + g - sigma * w, n + g * g
    return ftrl_weight(z, n, alpha, beta, l1, l2), n, z


def ftrl_weight(z, n, alpha, beta, l1, l2):
    """The weight that z stands for."""
    return 0.0 if abs(z) <= l1 else -(z - math.copysign(l1, z)) / ((beta + math.sqrt(n)) / alpha + l2)


# ---- The online learner ---------------------------------------------------------------------------------------------
# Rows come into being with their first event, are forgotten after `ttl_s`, and everything is float64.

MASK = 2**64 - 1
LOGIT_MAX = 50.0
FLOAT_MAX = float(np.finfo(np.float32).max)


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
    """What one feature owns. `v`, `nv` are (F, k) for ffm, where the entries for its own field are not used.

    Else they are (1, k), for lr (0, k).
    """

    field: int
    v: np.ndarray
    nv: np.ndarray
    w: float = 0.0
    nw: float = 0.0
    count: float = 0.0
    seen: float = 0.0
    z: float = 0.0


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
    gs: np.ndarray | None = None


class Naive:
    """Every model, optimizer and loss over a dict of rows. `spec` is a `ctr.spec.Spec`.

    `s`, `ns` are the pair weights, (F, F) for fwfm, (F, F, k, k) for fefm (symmetric in all ways), else empty.
    """

    def __init__(self, spec):
        self.spec, self.F, self.k, self.kind = spec, len(spec.fields), spec.model.k, spec.model.type
        model, opt = spec.model, spec.optimizer
        self.adagrad, self.ftrl = opt.type == "adagrad", opt.type == "ftrl"
        self.n0 = float(np.float32(opt.n0)) if self.adagrad else 0.0
        self.blocks = {"lr": 0, "ffm": self.F}.get(self.kind, 1)
        F, k = self.F, self.k
        self.s = {"fwfm": np.ones((F, F)), "fefm": np.broadcast_to(np.eye(k), (F, F, k, k)).copy()}.get(
            self.kind, np.zeros((F, F)))  # fmt: skip
        self.ns = np.full_like(self.s, self.n0)
        self.rows = {}
        self.bias = self.blank(0)
        start = math.log(model.base_rate / (1 - model.base_rate)) if model.loss == "logistic" else model.base_label
        self.bias.w = float(np.float32(start)) if model.bias else 0.0
        self.bias.seen = float(-(2**24))

    def blank(self, f):
        shape = (self.blocks, self.k)
        return Row(f, np.zeros(shape), np.full(shape, self.n0), nw=self.n0)

    def live(self, key, minute):
        row, ttl = self.rows.get(key), self.spec.lifetime.ttl_s
        return row if row and row.count and (not ttl or (minute - row.seen) * 60 <= ttl) else None

    def score(self, event):
        """x, f, b, w, v, r; a feature without a living row counts as zero, but in r it counts."""
        minute = minute_of(event.time_s)
        x = np.array([float(value) for _, _, value in event.features])
        f = [f for _, f, _ in event.features]
        rows = [self.live(key, minute) or self.blank(f) for key, f, _ in event.features]
        w = np.array([row.w if self.spec.model.linear else 0.0 for row in rows])
        v = np.array([row.v for row in rows]).reshape(len(rows), self.blocks, self.k)
        r = 1.0 / np.sum(x**2) if self.spec.model.normalize and len(x) else 1.0
        return x, f, (self.bias.w if self.spec.model.bias else 0.0), w, v, r

    def sum_up(self, x, f, b, w, v, r, s):
        return float(b + np.dot(w, x) + r * pair_sum(self.kind, x, f, v, s, self.spec.model.same_field_pairs))

    def logit(self, event):
        """Clamped; NaN where float32 cannot hold it: such an event is refused."""
        limit, t = LOGIT_MAX if self.spec.model.loss == "logistic" else 1e6, self.sum_up(*self.score(event), self.s)
        return min(max(t, -limit), limit) if abs(t) <= FLOAT_MAX else math.nan

    def predicted(self, t):
        if math.isnan(t):
            return t
        if self.spec.model.loss == "logistic":
            return 1.0 / (1.0 + math.exp(-t))
        return min(max(t, self.spec.model.label_range[0]), self.spec.model.label_range[1])

    def c0_c1(self, step, l2):
        """Constants of the one step; l2 only where it is FTRL's."""
        c0 = 0.0 if self.adagrad else self.spec.optimizer.beta / step + l2 if self.ftrl else 1 / step
        return c0, (0.0 if self.spec.optimizer.type == "sgd" else 1 / step)

    def decayed(self, n, seen, minute):
        half_life_s = self.spec.optimizer.half_life_s
        if not half_life_s or minute <= seen:
            return n
        return self.n0 + (n - self.n0) * 2 ** (-(minute - seen) * 60 / half_life_s)

    def learn(self, event):
        """Prediction before the update, and the update: none if the event's weight is 0, or its margin overflows."""
        x, f, b, w, v, r = self.score(event)
        model, opt, same = self.spec.model, self.spec.optimizer, self.spec.model.same_field_pairs
        t, minute = self.logit(event), minute_of(event.time_s)
        p = self.predicted(t)
        absolute = self.sum_up(abs(x), f, abs(b), abs(w), abs(v), r, abs(self.s))
        if event.c == 0:
            return Step(p, t, 0.0, r, absolute)
        if math.isnan(t):  # what was new has a row then, but an empty one, never learned
            for key, fi, _ in event.features:
                if key not in self.rows:
                    self.rows[key] = self.blank(fi)
                    self.rows[key].seen = minute
            self.bias.seen = max(self.bias.seen, minute)
            return Step(p, t, 0.0, r, absolute)
        dl = event.c * ((p if model.loss == "logistic" else t) - event.y)
        gw = dl * x
        gv, gs = (dl * r * g for g in pair_gradient(self.kind, x, f, v, self.s, same))
        latent, linear = self.c0_c1(opt.step, opt.l2), self.c0_c1(opt.linear_step, opt.linear_l2)
        done = Step(p, t, dl, r, absolute, {1: dl}, gs=gs)
        for i, (key, fi, _) in enumerate(event.features):
            new = self.live(key, minute) is None
            if new:
                self.rows[key] = self.blank(fi)
                self.rows[key].seen = minute
            row = self.rows[key]
            row.nv, row.nw = self.decayed(row.nv, row.seen, minute), self.decayed(row.nw, row.seen, minute)
            if not self.ftrl:  # L2 goes into the gradient, where there is a partner
                gv[i] += opt.l2 * row.v * self.has_partner(i, f)[:, None]
                gw[i] += opt.linear_l2 * row.w
            row.v, row.nv = one_step(row.v, row.nv, gv[i], *latent)
            if model.linear and opt.l1:
                row.w, row.nw, row.z = ftrl_proximal(
                    row.w, row.nw, row.z, gw[i], opt.linear_step, opt.beta, opt.l1, opt.linear_l2
                )
            elif model.linear:
                row.w, row.nw = (float(a) for a in one_step(row.w, row.nw, gw[i], *linear))
            row.count, row.seen = row.count + 1, max(row.seen, minute)
            if new:
                for g in range(self.blocks):
                    for d in range(self.k):
                        if self.kind != "ffm" or g != fi:
                            row.v[g, d] += start_value(model.seed, key, g * self.k + d, model.start)
            done.gw[key], done.gv[key] = gw[i], gv[i]
        self.ns = self.decayed(self.ns, self.bias.seen, minute)
        self.s, self.ns = one_step(self.s, self.ns, both_ways(gs), *self.c0_c1(opt.step, 0.0))
        if model.bias:
            self.bias.nw = self.decayed(self.bias.nw, self.bias.seen, minute)
            self.bias.w, self.bias.nw = one_step(self.bias.w, self.bias.nw, dl, *self.c0_c1(opt.linear_step, 0.0))
        self.bias.count, self.bias.seen = self.bias.count + 1, max(self.bias.seen, minute)
        return done

    def has_partner(self, i, f):
        """(blocks,) whether the event has anything that feature i's latent factors meet."""
        if self.kind == "ffm":
            return np.array([g in f and g != f[i] for g in range(self.F)], bool)
        others = len(f) > 1 if self.spec.model.same_field_pairs else len(set(f)) > 1
        return np.full(self.blocks, others)


def both_ways(gs):
    """A gradient that stands at [f, g], f < g, at [g, f], too."""
    return gs + gs.swapaxes(0, 1)


def read_row(data, size):
    """A packed row (format 1, see `ctr.rows`) byte by byte as the format says: field, w, n."""
    raw = data.tobytes()
    assert raw[1:4] == b"\0\0\0"
    assert len(raw) == 4 + 8 * size
    return raw[0], *(np.frombuffer(raw, "<f4", size, at).astype(float) for at in (4, 4 + 4 * size))


def unpack_rows(block, n_fields, k, kind="ffm"):
    """Packed rows of features and bias -> {key: Row}."""
    kp, rows = -(-k // 4) * 4, {}
    for key, data in zip(block.keys.tolist(), block.data, strict=True):
        if 16 <= key < 65536:
            continue
        f, w, n = read_row(data, {"lr": 4, "ffm": n_fields * kp}.get(kind, 4 + kp))
        h = kp * f if kind == "ffm" else 0
        head, n_head = w[h : h + 4], n[h : h + 4]
        assert (n_head[1:] == 1).all()
        if kind == "ffm":
            others = np.arange(n_fields) != f
            w, n = w.reshape(n_fields, kp), n.reshape(n_fields, kp)
            assert not w[f, 4:].any()
            assert (n[f, 1:] == 1).all()
        else:
            w, n = (a[4:].reshape(-1, kp) for a in (w, n))
            others = np.ones(len(w), bool)
        assert not w[others, k:].any()
        assert (n[others, k:] == 1).all()
        v, nv = w[:, :k].copy(), n[:, :k].copy()
        v[~others], nv[~others] = 0, 1
        rows[key] = Row(f, v, nv, head[0], n_head[0], head[1], head[2], head[3])
    return rows


def unpack_pairs(block, n_fields, k, kind):
    """Rows of pair weights -> s, n of `Naive`: keys 16, 17, ..., kp weights behind each head."""
    kp, F = -(-k // 4) * 4, n_fields
    shape = (F, F) if kind != "fefm" else (F, F, k, k)
    s, ns = np.zeros(shape), np.ones(shape)
    if kind not in ("fwfm", "fefm") or F < 2:
        return s, ns
    own = sorted((key, data) for key, data in zip(block.keys.tolist(), map(bytes, block.data), strict=True)
                 if 16 <= key < 65536)  # fmt: skip
    parts = [read_row(np.frombuffer(data, np.uint8), 4 + kp) for _, data in own]
    weights, state = (np.concatenate([part[at][4:] for part in parts]) for at in (1, 2))
    at = 0
    for f in range(F):
        for g in range(f + 1, F):
            for a in range(k if kind == "fefm" else 1):
                for b in range(a, k if kind == "fefm" else 1):
                    for x, y in ((f, g), (g, f)):
                        for i, j in ((a, b), (b, a)):
                            where = (x, y, i, j) if kind == "fefm" else (x, y)
                            s[where], ns[where] = weights[at], state[at]
                    at += 1
    assert [key for key, _ in own] == list(range(16, 16 + -(-at // kp)))
    assert not weights[at:].any()
    assert (state[at:] == 1).all()
    return s, ns


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
