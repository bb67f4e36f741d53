"""The model: batches in, probabilities out; what was learned leaves and enters as packed rows."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.errors import ModelMismatchError
from ctr.events.batch import Batch
from ctr.kernels import build, layout
from ctr.model.table import Table
from ctr.rows import RowBlock
from ctr.spec import Spec, differences

CHUNK = 1024
"""Events resolved at a time: their row numbers stay in L2 until they are learned. Results do not depend on it."""


TILED_KP = 8
"""Padded k up to which one-hot batches have a kernel of their own."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What happened to a model since it was made.

    Attributes
    ----------
    events_learned : int
    events_refused : int
        Predicted but not learned, because label, weight or a value is not finite or beyond bounds.
    rows_created : int
    rows_refused : int
        Times a feature found the table full and counted as unknown.
    rows_expired : int
        Times a row was touched after its ttl and began anew.
    """

    events_learned: int
    events_refused: int
    rows_created: int
    rows_refused: int
    rows_expired: int


class Model:
    """A factorization machine that learns event by event.

    Learning and predicting release the GIL; callers must not let a call that writes run beside any other.

    Parameters
    ----------
    spec : Spec
    weights_only : bool
        For a scorer: rows are a cache of weights, nothing can be learned.
    max_rows : int, optional
        Bound on features held, instead of the specification's.
    """

    def __init__(self, spec: Spec, *, weights_only: bool = False, max_rows: int | None = None) -> None:
        self._weights_only = weights_only
        self._table = Table(
            len(spec.fields), spec.model.k, max_rows or spec.model.max_rows, weights_only=weights_only,
        )  # fmt: skip
        self._lookup = build.load("lookup")
        self._pooled = build.load("pooled")
        F, kp = self._table.n_fields, self._table.kp
        self._dense = build.load("ffm", F=F, KP=kp) if kp <= TILED_KP else self._pooled
        self._seed = np.uint64(spec.model.seed)
        self._set(spec)
        self._make_bias()

    def _set(self, spec: Spec) -> None:
        model, optimizer = spec.model, spec.optimizer
        self._spec = spec
        self._ttl_s = float(spec.lifetime.ttl_s)
        self._hyper = np.empty(layout.N_HYPER, np.float32)
        self._hyper[layout.STEP] = optimizer.step
        self._hyper[layout.LINEAR_STEP] = optimizer.linear_step
        self._hyper[layout.N0] = optimizer.n0
        self._hyper[layout.START] = model.start
        self._hyper[layout.HAS_BIAS] = model.bias
        self._hyper[layout.HAS_LINEAR] = model.linear

    def _make_bias(self) -> None:
        table, rate = self._table, self._spec.model.base_rate
        bias = layout.BIAS_ROW * table.stride
        table.W[bias + layout.LINEAR] = math.log(rate / (1 - rate)) if self._spec.model.bias else 0.0
        table.W[bias + layout.SEEN] = -(2**24)
        if not self._weights_only:
            table.W[bias + table.P + layout.LINEAR] = self._spec.optimizer.n0
            table.dirty[0] |= np.uint64(1 << layout.BIAS_ROW)
            table.counters[layout.DIRTY] += 1

    @property
    def spec(self) -> Spec:
        """What the model was made from, with what was changed in place since."""
        return self._spec

    def set_spec(self, spec: Spec) -> None:
        """Change what may change in place: steps and ttl.

        Raises
        ------
        ModelMismatchError
            The specifications differ in more than that.
        """
        if different := differences(self._spec, spec):
            raise ModelMismatchError(f"a new generation is needed for {'; '.join(different)}")
        self._set(spec)

    @property
    def rows(self) -> int:
        """Features held."""
        return self._table.rows

    @property
    def row_bytes(self) -> int:
        """Size of a packed row."""
        return self._table.row_bytes

    @property
    def memory_bytes(self) -> int:
        """Rows in use and index."""
        return self._table.memory_bytes

    @property
    def counts(self) -> Counts:
        """What happened since the model was made."""
        counters = self._table.counters
        return Counts(*(int(counters[at]) for at in (
            layout.LEARNED, layout.REFUSED_EVENTS, layout.CREATED, layout.REFUSED_ROWS, layout.EXPIRED,
        )))  # fmt: skip

    def learn_many(self, batch: Batch) -> NDArray[np.float32]:
        """Learn events one after the other.

        Parameters
        ----------
        batch : Batch
            `n` events; one of weight 0 is predicted but not learned and creates no row.

        Returns
        -------
        (n,) float32
            Each event's probability before it was learned. NaN for an event with a value beyond bounds, which is
            not learned.
        """
        if self._weights_only:
            raise TypeError("a weights_only model has no accumulators to learn with")
        return self._run(batch, learn=True, probabilities=True)

    def predict_many(self, batch: Batch) -> NDArray[np.float32]:
        """Probabilities. Changes nothing; several threads may predict at once.

        Returns
        -------
        (n,) float32
        """
        return self._run(batch, learn=False, probabilities=True)

    def logits_many(self, batch: Batch) -> NDArray[np.float32]:
        """Logits (margins), clamped to +-50. Changes nothing; several threads may predict at once.

        Returns
        -------
        (n,) float32
        """
        return self._run(batch, learn=False, probabilities=False)

    def _run(self, batch: Batch, *, learn: bool, probabilities: bool) -> NDArray[np.float32]:
        n, table, model = len(batch), self._table, self._spec.model
        keys, values, fields = _plain(batch.keys, _U64), _plain(batch.values, _F32), _plain(batch.fields, _U8)
        start, times_s = _plain(batch.start, _I64), _plain(batch.times_s, _F64)
        labels, weights = _plain(batch.labels, _F32), _plain(batch.weights, _F32)
        if len(keys) != n * table.n_fields if batch.dense else len(fields) and fields.max() >= table.n_fields:
            raise ValueError(f"the batch is not of this model's {table.n_fields} fields")  # kernels do not look
        kernel = self._dense if batch.dense else self._pooled
        shape = table.stride, table.P, table.n_fields, table.kp, table.k

        chunk = min(n, CHUNK)
        entries = np.diff(start[[*range(0, n, CHUNK), n]])
        rows = np.empty(entries.max(initial=0), np.uint32)
        r, c, out = np.empty(chunk, np.float32), np.empty(chunk, np.float32), np.empty(n, np.float32)
        scratch, here = np.empty((table.n_fields, table.P), np.float32), np.empty(table.n_fields, np.bool_)
        for begin in range(0, n, CHUNK):
            end = min(begin + CHUNK, n)
            self._lookup.resolve(
                keys, values, fields, start, labels, weights, begin, end, model.normalize, batch.dense, learn,
                table.index, table.slots, table.W, table.stride, table.kp, table.row_key, table.row_field, table.dirty,
                table.counters, table.max_rows, rows, r, c,
            )  # fmt: skip
            if learn:
                kernel.learn(
                    table.W, *shape, rows, values, fields, start, labels, times_s, begin, end, r, c, self._ttl_s,
                    self._seed, self._hyper, table.row_key, table.counters, scratch, here, out,
                )  # fmt: skip
            else:
                kernel.predict(
                    table.W, *shape, rows, values, fields, start, times_s, begin, end, r, self._ttl_s, self._hyper,
                    probabilities, scratch, here, out,
                )  # fmt: skip
        return out

    @property
    def dirty_rows(self) -> int:
        """Rows changed since the last `take_dirty`. A new model's bias is dirty."""
        return int(self._table.counters[layout.DIRTY])

    def take_dirty(self) -> RowBlock:
        """Copy of all rows changed since the last call, packed; they are clean afterwards."""
        rows = self._table.take_dirty()
        return RowBlock(self._table.row_key[rows], self._table.pack(rows))

    def load(self, block: RowBlock) -> None:
        """Insert or overwrite rows; they are not dirty. A weights-only model drops the accumulators.

        Raises
        ------
        ModelMismatchError
            The rows were not packed by a model of this shape. Nothing is changed then.
        """
        m, size = block.data.shape if block.data.ndim == 2 else (-1, -1)
        if size != self.row_bytes or m != len(block.keys):
            raise ModelMismatchError(f"rows of {block.data.shape} bytes for {len(block.keys)} keys: "
                                     f"this model's have {self.row_bytes} bytes each")  # fmt: skip
        if m and (block.data[:, 0].max() >= self._table.n_fields or block.data[:, 1:4].any()):
            raise ModelMismatchError("a packed row names a field this model does not have, or is of a newer format")
        self._table.unpack(_plain(block.keys, _U64), block.data)

    def lookup(self, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """(m,) whether each key has a row here."""
        held: NDArray[np.bool_] = self._table.known(_plain(keys, _U64)) == 2
        return held

    def missing_keys(self, batch: Batch) -> NDArray[np.uint64]:
        """Keys of a batch that are neither held nor marked absent, ascending, each once, never 0."""
        keys = _plain(batch.keys, _U64)
        keys = keys[(self._table.known(keys) == 0) & (keys != 0)]
        return np.unique(keys)

    def mark_absent(self, keys: NDArray[np.uint64]) -> None:
        """Remember that the store has no row for these keys; keys that have a row here keep it.

        Rows and marks together are bounded by ``max_rows``. At the bound all marks are dropped and marking begins
        anew; if rows alone fill the table, nothing is marked.
        """
        self._table.remember_absent(_plain(keys, _U64))

    def forget(self, keys: NDArray[np.uint64]) -> None:
        """Drop rows and absence marks. The bias stays."""
        self._table.forget(_plain(keys, _U64))

    def state_hash(self) -> str:
        """Hash of all keys and rows (weights only, where no more is held), whatever the order of their arrival."""
        digest = hashlib.sha256()
        keys, rows = self._table.held()
        for begin in range(0, len(keys), 4096):
            digest.update(keys[begin : begin + 4096].tobytes())
            digest.update(self._table.pack(rows[begin : begin + 4096]).tobytes())
        return digest.hexdigest()


_U64, _I64, _F64, _F32, _U8 = (np.dtype(name) for name in ("u8", "i8", "f8", "f4", "u1"))


def _plain(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the array itself where a compiled kernel takes it, else a copy.

    A read-only or strided array is another type to Numba, and all would be compiled for it again.
    """
    if array.flags.carray and array.dtype == dtype:
        return array
    return np.require(array, dtype, ["C", "A", "W"])
