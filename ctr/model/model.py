"""The model: batches in, probabilities out; what was learned leaves and enters as packed rows."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.errors import ModelMismatchError
from ctr.events.batch import Batch
from ctr.kernels import build, layout, simd, tile
from ctr.model.freeze import Freeze
from ctr.model.hyper import hyper_parameters
from ctr.model.scratch import CHUNK, Scratch
from ctr.model.state import Counts, State, counts_of, put_back, state_of
from ctr.model.table import Table
from ctr.rows import ALL_SHARDS, RowBlock, RowShape, padded_k
from ctr.spec import Spec, differences

FAMILIES = {"lr": layout.LR, "fm": layout.FM, "ffm": layout.FFM, "fwfm": layout.FWFM, "fefm": layout.FEFM}

OPTIMIZERS = {"adagrad": tile.ADAGRAD, "sgd": tile.SGD, "ftrl": tile.FTRL}

TILED_KP = 8
"""Padded k up to which one-hot batches have a kernel of their own for ffm and fwfm."""

VECTOR_KP = 12
"""The same for fm: head and latent factor are sixteen floats."""

_BLOCK = 4096
"""Rows handed out at a time."""


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
        self._table = Table(RowShape.of(spec), max_rows or spec.model.max_rows, weights_only=weights_only)
        self._resolve = build.load("resolve").resolve
        self._pooled = (
            build.load("libffm") if spec.model.libffm else build.load("pooled", FAMILY=FAMILIES[spec.model.type])
        )
        self._dense = _dense_kernel(spec) or self._pooled
        self._room: NDArray[np.float32] | None = None
        self._F, self._has_pairs = len(spec.fields), self._table.shape.pair_rows > 0
        self._set(spec)
        self._make_own_rows()

    def _set(self, spec: Spec) -> None:
        self._spec = spec
        self._ttl_s, self._admission = float(spec.lifetime.ttl_s), float(spec.lifetime.admission)
        self._hyper = hyper_parameters(spec)
        self._scratch = Scratch(spec, self._table, self._hyper)

    def _make_own_rows(self) -> None:
        """Bias and pair weights as they start: log-odds or mean label, 1 (fwfm) or the identity matrix (fefm)."""
        table, model, F = self._table, self._spec.model, len(self._spec.fields)
        base = model.base_label if model.loss == "squared" else math.log(model.base_rate / (1 - model.base_rate))
        own = np.zeros((len(table.own_keys), table.stride), np.float32)
        own[:, table.P :] = 1
        own[0, layout.LINEAR] = base if model.bias else 0.0
        own[0, layout.SEEN] = -(2**24)
        if not self._weights_only:
            own[0, table.P + layout.LINEAR] = self._hyper[layout.N0]
        if n := table.shape.pair_weights:
            pair = np.eye(model.k)[np.triu_indices(model.k)] if model.type == "fefm" else np.ones(1)
            latents = slice(layout.HEAD, layout.HEAD + table.shape.kp)
            weights = np.zeros((table.shape.pair_rows, table.shape.kp))
            weights.flat[:n] = np.tile(pair, F * (F - 1) // 2)
            own[1:, latents] = weights
            if not self._weights_only:
                state = np.ones_like(weights)
                state.flat[:n] = self._hyper[layout.N0]
                own[1:, table.P + latents.start : table.P + latents.stop] = state
        begin = layout.BIAS_ROW * table.stride
        table.W[begin : begin + own.size] = own.ravel()
        if not self._weights_only:
            table.mark_own_dirty()

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
    def table(self) -> Table:
        """Rows and index, for those in this room who read them in another way. Only to be read."""
        return self._table

    @property
    def hyper(self) -> NDArray[np.float32]:
        """(N_HYPER,) what kernels know of the specification."""
        return self._hyper

    @property
    def own_keys(self) -> NDArray[np.uint64]:
        """Keys of the rows that every prediction needs: the bias and, of fwfm and fefm, the pair weights."""
        return self._table.own_keys.copy()

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
        return counts_of(self._table)

    @property
    def max_rows(self) -> int:
        """Bound on features held."""
        return self._table.max_rows

    @property
    def kernel_path(self) -> str:
        """Instruction set of the kernels: results are bit for bit the same on the same one."""
        return simd.ISA

    def learn_many(self, batch: Batch, *, salts: NDArray[np.uint64] | None = None) -> NDArray[np.float32]:
        """Learn events one after the other.

        Parameters
        ----------
        batch : Batch
            `n` events; one of weight 0 is predicted but not learned and creates no row.
        salts : (partitions,) uint64, optional
            A hash of each partition's name. With an offset it is an event's position, by which new features are let
            in if ``lifetime.admission`` is below 1; partition numbers may differ from run to run. 0 where not given.

        Returns
        -------
        (n,) float32
            Each event's probability before it was learned. NaN for an event with a value beyond bounds, which is
            not learned.
        """
        if self._weights_only:
            raise TypeError("a weights_only model has no accumulators to learn with")
        return self._run(batch, learn=True, probabilities=True, salts=salts)

    def learn_masked(
        self, batch: Batch, frozen: NDArray[np.bool_], *, salts: NDArray[np.uint64] | None = None
    ) -> NDArray[np.float32]:
        """As `learn_many`, but each event leaves the features of some shards as they are, or absent.

        Parameters
        ----------
        batch : Batch
        frozen : (n, shards) bool
            For each event the shards that it may not change; ``shards`` is how many there are.
        salts : (partitions,) uint64, optional

        Returns
        -------
        (n,) float32
        """
        around = Freeze(self._table, batch, frozen)
        return self._run(batch, learn=True, probabilities=True, salts=salts, around=around)

    def predict_many(self, batch: Batch, *, threads: int = 1) -> NDArray[np.float32]:
        """Probabilities. Changes nothing; several threads may predict at once.

        Parameters
        ----------
        batch : Batch
        threads : int
            Cores to use. The answer is the same, bit for bit, for any number of them.

        Returns
        -------
        (n,) float32
        """
        if threads < 1:
            raise ValueError(f"threads = {threads}: at least 1")
        n = len(batch)
        threads = min(threads, n)
        if threads <= 1:
            return self._run(batch, learn=False, probabilities=True)
        cuts = [n * part // threads for part in range(threads + 1)]
        with ThreadPoolExecutor(threads) as pool:
            parts = pool.map(
                lambda begin, end: self._run(batch.slice(begin, end), learn=False, probabilities=True),
                cuts[:-1], cuts[1:],
            )  # fmt: skip
            return np.concatenate(list(parts))

    def logits_many(self, batch: Batch) -> NDArray[np.float32]:
        """Logits (margins), clamped to +-50. Changes nothing; several threads may predict at once.

        Returns
        -------
        (n,) float32
        """
        return self._run(batch, learn=False, probabilities=False)

    def _run(
        self, batch: Batch, *, learn: bool, probabilities: bool, salts: NDArray[np.uint64] | None = None,
        around: Freeze | None = None,
    ) -> NDArray[np.float32]:  # fmt: skip
        # where caches are cold a line of Python costs half an event: nothing is asked here that could be before
        keys, values, fields, start = batch.keys, batch.values, batch.fields, batch.start
        labels, weights, times_s, dense = batch.labels, batch.weights, batch.times_s, batch.dense
        n, F, table, scratch = len(labels), self._F, self._table, self._scratch
        if len(keys) != n * F if dense else len(fields) and fields.max() >= F:
            raise ValueError(f"the batch is not of this model's {F} fields")  # kernels do not look
        kernel = self._dense if dense else self._pooled
        positions = _positions(batch, salts) if learn and self._admission < 1 else _NO_POSITIONS
        if not dense:
            scratch.fit(start, n)
        address = scratch.address
        out = np.empty(n, np.float32)
        begin, swept = 0, False
        learned = table.counters[layout.LEARNED] if self._has_pairs else 0
        while begin < n:
            if around is None:
                goal = min(begin - begin % CHUNK + CHUNK, n)
            else:
                goal = begin + 1
                around.before(begin)
            try:
                end = self._resolve(
                    address, keys, values, fields, start, labels, weights, times_s, positions, out, begin, goal,
                    dense, learn, swept,
                )  # fmt: skip
            except TypeError:
                if (plain := _plain_batch(batch)) is batch:
                    raise
                return self._run(plain, learn=learn, probabilities=probabilities, salts=salts, around=around)
            if learn:
                kernel.learn(address, begin, end)
            else:
                kernel.predict(address, begin, end, probabilities)
            swept = end < goal
            if around is not None and not swept:
                if self._has_pairs:
                    table.mark_own_dirty()
                around.after()
            if swept:
                features = slice(start[end], start[end + 1])
                needed = np.count_nonzero((keys[features] != 0) & (values[features] != 0))
                table.sweep(times_s[end], self._ttl_s, int(needed))
            begin = end
        if learn and around is None and self._has_pairs and table.counters[layout.LEARNED] > learned:
            table.mark_own_dirty()
        return out

    @property
    def dirty_rows(self) -> int:
        """Rows changed since the last `take_dirty`. A new model's bias is dirty."""
        return int(self._table.counters[layout.DIRTY])

    def take_dirty(self, chosen: NDArray[np.bool_] = ALL_SHARDS) -> RowBlock:
        """Copy of all rows changed since they were last taken, packed; they are clean afterwards.

        Parameters
        ----------
        chosen : (shards,) bool, optional
            Of which shards, by `ctr.rows.shard_of`; of all where not given.
        """
        rows = self._table.find_dirty(chosen)
        room, self._room = self._room, None
        block = RowBlock(self._table.row_key[rows], self._table.pack(rows, room))
        self._table.settle(rows)
        return block

    def dirty_blocks(self, chosen: NDArray[np.bool_] = ALL_SHARDS) -> Iterator[RowBlock]:
        """What `take_dirty` would give, some thousand rows at a time; they stay dirty. Learn nothing meanwhile."""
        rows = self._table.find_dirty(chosen)
        for begin in range(0, len(rows), _BLOCK):
            part = rows[begin : begin + _BLOCK]
            yield RowBlock(self._table.row_key[part], self._table.pack(part))

    def settle(self) -> None:
        """Nothing is dirty or gone any more: for who has stored all rows by other means."""
        self._table.settle(self._table.find_dirty())
        self._table.take_gone()

    def reuse(self, block: RowBlock) -> None:
        """Nobody needs what `take_dirty` gave any more: the next one may be written over it.

        Hundreds of megabytes of fresh memory a cut cost as much as the copy, and a second where large pages are short.
        """
        room = block.data.base
        self._room = room if isinstance(room, np.ndarray) and room.dtype == np.float32 and room.ndim == 1 else None

    def take_gone(self, chosen: NDArray[np.bool_] = ALL_SHARDS) -> NDArray[np.uint64]:
        """(m,) keys that have no row any more, of those that `take_dirty` ever gave or `load` got; each once.

        Only what sweeps have dropped since the last call. To be taken together with `take_dirty`, of the same shards:
        a key that left and came again is among the dirty rows alone.
        """
        return self._table.take_gone(chosen)

    def blocks(self) -> Iterator[RowBlock]:
        """All rows, packed, some thousand at a time. Nothing may be learned meanwhile."""
        keys, rows = self._table.held()
        for begin in range(0, len(keys), _BLOCK):
            yield RowBlock(keys[begin : begin + _BLOCK], self._table.pack(rows[begin : begin + _BLOCK]))

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
        if m and (block.data[:, 0].max() >= len(self._spec.fields) or block.data[:, 1:4].any()):
            raise ModelMismatchError("a packed row names a field this model does not have, or is of a newer format")
        self._table.unpack(_plain(block.keys, _U64), block.data)

    def lookup(self, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """(m,) whether each key has a row here."""
        held: NDArray[np.bool_] = self._table.known(_plain(keys, _U64)) == 2
        return held

    def known(self, keys: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """(m,) 2 for a key with a row here, 1 for one marked absent, 0 for one of which nothing is known."""
        return self._table.known(_plain(keys, _U64))

    def missing_keys(self, batch: Batch) -> NDArray[np.uint64]:
        """Keys of a batch that are neither held nor marked absent, ascending, each once, never 0."""
        keys = _plain(batch.keys, _U64)
        keys = keys[(self._table.known(keys) == 0) & (keys != 0)]
        return np.unique(keys) if len(keys) else keys

    def mark_absent(self, keys: NDArray[np.uint64]) -> None:
        """Remember that the store has no row for these keys; keys that have a row here keep it.

        Rows and marks together are bounded by ``max_rows``. At the bound all marks are dropped and marking begins
        anew; if rows alone fill the table, nothing is marked.
        """
        self._table.remember_absent(_plain(keys, _U64))

    def forget(self, keys: NDArray[np.uint64]) -> None:
        """Drop rows and absence marks. The bias stays. `take_gone` does not name them."""
        self._table.forget(_plain(keys, _U64))

    def state(self) -> State:
        """Copy of all that was learned.

        Raises
        ------
        TypeError
            The model holds weights only.
        """
        if self._weights_only:
            raise TypeError("a weights_only model is a cache: there is nothing to go on from")
        return state_of(self._table)

    def restore(self, state: State) -> None:
        """Become what another model of the same specification and bound was; for a new model.

        Raises
        ------
        ModelMismatchError
            The rows were not packed by a model of this shape.
        """
        self.load(state.block)
        put_back(self._table, state)

    def warm_up(self) -> None:
        """Compile all that this model's calls need, or load it from the disk cache; the model itself is not touched."""
        spec, F = self._spec, len(self._spec.fields)
        other = Model(spec, weights_only=self._weights_only, max_rows=1024)
        keys = np.arange(layout.RESERVED_KEYS, layout.RESERVED_KEYS + F, dtype=np.uint64)
        batch = Batch(
            keys, np.ones(F, np.float32), np.arange(F, dtype=np.uint8), np.array([0, F]),
            np.full(1, spec.model.label_range[0], np.float32), np.ones(1, np.float32), np.zeros(1),
            np.zeros(1, np.int32), np.zeros(1, np.int64), spec.dense,
        )  # fmt: skip
        if not self._weights_only:
            other.learn_many(batch)
            other.load(other.take_dirty())
        other.load(RowBlock(keys[:0], np.empty((0, self.row_bytes), np.uint8)))
        other.predict_many(batch)
        other.mark_absent(other.missing_keys(batch))
        other.lookup(keys)
        other.forget(keys)
        other.state_hash()
        if not self._weights_only:
            other._table.sweep(0.0, 0.0, 1024)

    def state_hash(self) -> str:
        """Hash of all keys and rows (weights only, where no more is held), whatever the order of their arrival."""
        digest = hashlib.sha256()
        for block in self.blocks():
            digest.update(block.keys.tobytes())
            digest.update(block.data.tobytes())
        return digest.hexdigest()


def _dense_kernel(spec: Spec) -> ModuleType | None:
    """The kernel for one-hot batches that has been written for speed, where there is one."""
    model, optimizer, F, kp = spec.model, spec.optimizer, len(spec.fields), padded_k(spec.model.k)
    in_gradient = optimizer.type != "ftrl" and (optimizer.l2 or optimizer.linear_l2)
    if model.type == "ffm" and kp <= TILED_KP and not (in_gradient or optimizer.l1 or model.libffm):
        return build.load("ffm", F=F, KP=kp, OPT=OPTIMIZERS[optimizer.type])
    pure = int(optimizer.type == "adagrad" and not (optimizer.l2 or optimizer.linear_l2))
    if model.type == "lr":
        return build.load("lr")
    if model.type == "fm" and kp <= VECTOR_KP:
        return build.load("fm", F=F, KP=kp, PURE=pure)
    if model.type == "fwfm" and kp <= TILED_KP:
        return build.load("pair", F=F, KP=kp, PURE=pure)
    return None


def _positions(batch: Batch, salts: NDArray[np.uint64] | None) -> NDArray[np.uint64]:
    """(n,) each event's place in the world, whatever its partition's number; that of no partition, -1, has salt 0."""
    salt = np.append(salts, np.uint64(0))[batch.partitions] if salts is not None else np.uint64(0)
    positions: NDArray[np.uint64] = batch.offsets.astype(np.uint64) ^ salt
    return positions


def _plain_batch(batch: Batch) -> Batch:
    """A batch of arrays as `resolve` takes them: the batch itself where it is one."""
    plain: dict[str, Any] = {name: _plain(getattr(batch, name), dtype) for name, dtype in _DTYPES.items()}
    same = all(array is getattr(batch, name) for name, array in plain.items())
    return batch if same else replace(batch, **plain)


_NO_POSITIONS = np.empty(0, np.uint64)
_U64 = np.dtype("u8")
_DTYPES: dict[str, np.dtype[Any]] = {
    "keys": _U64, "values": np.dtype("f4"), "fields": np.dtype("u1"), "start": np.dtype("i8"),
    "labels": np.dtype("f4"), "weights": np.dtype("f4"), "times_s": np.dtype("f8"),
}  # fmt: skip


def _plain(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the array itself where a compiled kernel takes it, else a copy.

    A read-only or strided array is another type to Numba.
    """
    if array.dtype is dtype and array.flags.carray:
        return array
    return np.require(array, dtype, ["C", "A", "W"])
