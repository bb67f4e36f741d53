"""One event in, what each of its features and each of its pairs adds to the logit out.

In float64 and pair by pair, by the formulas of `ctr.kernels`: what the kernels sum up in another order, in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctr.events.batch import Batch
from ctr.kernels import layout
from ctr.model.model import Model
from ctr.spec import Spec

_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Contributions:
    """Terms of a logit, for the `m` features of an event.

    Attributes
    ----------
    keys : (m,) uint64
    fields : (m,) uint8
    values : (m,) float32
    known : (m,) bool
        Whether the feature has a row that has not expired. One that has none adds nothing (in libffm mode: what its
        start weights add).
    bias : float
    linear : (m,) float64
    pairs : (m, m) float64
        Above the diagonal; 0 where two features do not pair.
    """

    keys: NDArray[np.uint64]
    fields: NDArray[np.uint8]
    values: NDArray[np.float32]
    known: NDArray[np.bool_]
    bias: float
    linear: NDArray[np.float64]
    pairs: NDArray[np.float64]

    @property
    def logit(self) -> float:
        """Their sum, not clamped."""
        return math.fsum([self.bias, *self.linear, *self.pairs.ravel()])


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Copy of all that a model knows of one event, so that the work can be done without holding up who asks next.

    Attributes
    ----------
    weights : (m, size) float32
        Rows of the event's features (see `ctr.rows`), zeros where there is none.
    own : (1 + pair rows, size) float32
        Rows of the model itself.
    time_s : float
    """

    spec: Spec
    keys: NDArray[np.uint64]
    fields: NDArray[np.uint8]
    values: NDArray[np.float32]
    weights: NDArray[np.float32]
    own: NDArray[np.float32]
    time_s: float

    @classmethod
    def of(cls, model: Model, batch: Batch) -> Excerpt:
        """Of the first event of a batch."""
        entries = slice(int(batch.start[0]), int(batch.start[1]))
        there = (batch.keys[entries] != 0) & (batch.values[entries] != 0)
        keys, fields, values = (part[entries][there] for part in (batch.keys, batch.fields, batch.values))
        table = model.table
        return cls(
            model.spec, keys, fields, values, table.weights_of(keys), table.weights_of(table.own_keys),
            float(batch.times_s[0]),
        )  # fmt: skip

    def contributions(self) -> Contributions:
        """Take the sum apart."""
        spec, model, F = self.spec, self.spec.model, len(self.spec.fields)
        f, x = self.fields.astype(np.int64), self.values.astype(np.float64)
        w, m = self.weights.astype(np.float64), len(f)
        kp = -(-model.k // 4) * 4
        heads = f * kp if model.type == "ffm" and not model.libffm else np.zeros(m, np.int64)
        at = np.arange(m)

        # a row counts from its first event on, and until its ttl is over
        minute = math.floor((self.time_s - layout.EPOCH_S) / 60)
        age_s = (minute - w[at, heads + layout.SEEN]) * 60
        known = (w[at, heads + layout.COUNT] != 0) & ((spec.lifetime.ttl_s == 0) | (age_s <= spec.lifetime.ttl_s))

        linear = np.where(known, x * w[at, heads + layout.LINEAR], 0.0) if model.linear else np.zeros(m)
        r = 1 / float(x @ x) if model.normalize and m else 1.0
        if model.type == "lr":
            latent = np.zeros((m, 1, 0))
        else:
            latent = w[:, layout.HEAD if model.libffm or model.type != "ffm" else 0 :]
            latent = latent.reshape(m, latent.shape[1] // kp, kp)[:, :, : model.k]
        unseen = _start_weights(self.keys, spec) if model.libffm else 0.0
        latent = np.where(known[:, None, None], latent, unseen)
        pairs = np.zeros((m, m))
        between = self._pair_matrices(F)
        for i in range(m):
            g = f[i + 1 :]
            if model.type == "ffm":
                products = np.einsum("jd,jd->j", latent[i, g], latent[i + 1 :, f[i]])
            else:
                products = np.einsum("a,jab,jb->j", latent[i, 0], between[f[i], g], latent[i + 1 :, 0])
            inside = model.libffm or model.same_field_pairs
            pairs[i, i + 1 :] = np.where((g != f[i]) | inside, r * x[i] * x[i + 1 :] * products, 0.0)
        bias = float(self.own[0, layout.LINEAR]) if model.bias else 0.0
        return Contributions(self.keys, self.fields, self.values, known, bias, linear, pairs)

    def _pair_matrices(self, F: int) -> NDArray[np.float64]:
        """(F, F, k, k) what stands between two fields' latent factors: S_fg, s_fg I, or I; (F, F, 0, 0) for lr."""
        model = self.spec.model
        k = model.k if model.type != "lr" else 0
        between = np.broadcast_to(np.eye(k), (F, F, k, k)).copy()
        if model.type not in ("fwfm", "fefm"):
            return between
        weights = self.own[1:, layout.HEAD :].ravel().astype(np.float64)
        size = k * (k + 1) // 2 if model.type == "fefm" else 1
        upper = np.triu_indices(k)
        for p, (f, g) in enumerate(zip(*np.triu_indices(F, 1), strict=True)):
            s = weights[p * size : (p + 1) * size]
            matrix = s[0] * np.eye(k)
            if model.type == "fefm":
                matrix[upper] = s
                matrix.T[upper] = s
            between[f, g] = between[g, f] = matrix
        return between


def _start_weights(keys: NDArray[np.uint64], spec: Spec) -> NDArray[np.float64]:
    """(m, F, k) where libffm mode begins: u24 2^-24 start / sqrt k, in float32 as `ctr.kernels.libffm` computes it."""
    F, k = len(spec.fields), spec.model.k
    scale = np.float32(spec.model.start) / np.float32(math.sqrt(k))
    made = np.empty((len(keys), F * k), np.float32)
    seed = _mix64(spec.model.seed)
    for row, key in enumerate(keys.tolist()):
        state = _mix64(key ^ seed)
        for c in range(F * k):
            u24 = _mix64((state + (c + 1) * 0x9E3779B97F4A7C15) & _MASK) >> 40
            made[row, c] = scale * (np.float32(u24) * np.float32(2.0**-24))
    return made.reshape(len(keys), F, k).astype(np.float64)


def _mix64(z: int) -> int:
    """SplitMix64's finaliser, as `ctr.kernels.step.mix64`."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
