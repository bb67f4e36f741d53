"""All that a call of a learning kernel works on, as one record: its address in, arrays and settings out.

Numba takes 55 ns to unpack an array that Python hands over, more where caches are cold, and a kernel works on twenty.
So those that a model and a thread keep from call to call stand in a record, by address and length. A batch's arrays are
handed over once, to `resolve`, which notes them there for the kernel that learns or predicts.

Nobody checks the addresses: `ctr.model.scratch`, which makes the record, keeps alive what it names.
"""

# ruff: noqa: ARG001  Numba's code generators have fixed signatures
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from ctr.kernels.jit import inlined

LINE = 64
"""Keys between asking for their buckets and reading them; there is room for the buckets of two lines."""

OF_TABLE = ("W", "index", "slots", "row_key", "row_field", "dirty", "counters", "hyper")
OF_THREAD = ("rows", "r", "c", "sums", "here", "buckets", "unknown")
OF_BATCH = ("keys", "values", "fields", "start", "labels", "times_s", "out")
CALL = np.dtype(
    [(name, "i8") for name in OF_TABLE + OF_THREAD + OF_BATCH]  # addresses
    + [(f"n_{name}", "i8") for name in OF_TABLE + OF_THREAD + OF_BATCH]  # lengths
    + [(name, "i8") for name in ("sums_rows", "sums_width")]  # the second and third axis of sums
    + [(name, "i8") for name in ("stride", "P", "F", "kp", "k", "head_step", "max_rows", "normalize")]
    + [(name, "f8") for name in ("ttl_s", "admission", "label_min", "label_max")]
    + [("seed", "u8")]
)
"""Arrays of a table, of a thread's scratch and of a batch, and what the specification says."""


class Arguments(NamedTuple):
    """What the kernels of all families work on, once `resolve` has found the rows; see `pooled` for what is what."""

    W: Any  # (all rows * stride,) float32
    stride: Any
    P: Any
    F: Any
    kp: Any
    k: Any
    keys: Any  # (entries,) uint64
    rows: Any  # (entries of the chunk,) uint32
    values: Any  # (entries,) float32
    fields: Any  # (entries,) uint8
    start: Any  # (n + 1,) int64
    labels: Any  # (n,) float32
    times_s: Any  # (n,) float64
    r: Any  # (events of the chunk,) float32
    c: Any  # (events of the chunk,) float32
    ttl_s: Any
    seed: Any  # uint64
    hyper: Any  # (N_HYPER,) float32
    row_key: Any  # (all rows,) uint64
    counters: Any  # (N_COUNTERS,) int64
    sums: Any  # (*, *, *) float32
    here: Any  # (*,) int64
    out: Any  # (n,) float32


def _array_at(typing: Any, address: Any, shape: Any, dtype: Any) -> Any:
    """The array of a shape (tuple) and a dtype at an address. It has no owner: nobody counts references to it."""
    kind = types.Array(dtype.dtype, shape.count, "C")

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        element = context.get_data_type(kind.dtype)
        size = context.get_constant(types.intp, context.get_abi_sizeof(element))
        lengths, strides = cgutils.unpack_tuple(b, args[1], shape.count), [size]  # type: ignore[no-untyped-call]  # numba
        for length in lengths[:0:-1]:
            strides.insert(0, b.mul(strides[0], length))
        array = context.make_array(kind)(context, b)
        populate_array(array, b.inttoptr(args[0], element.as_pointer()), lengths, strides, size, None)  # type: ignore[no-untyped-call]  # numba
        return array._getvalue()  # noqa: SLF001  Numba's own code generators have no other way

    return kind(types.int64, shape, dtype), generate


array_at: Any = intrinsic(_array_at)


@inlined
def call_at(address: int) -> Any:
    """The record (`CALL`) at an address."""
    return array_at(address, (1,), CALL)[0]


@inlined
def arguments(address: int) -> Any:
    """`Arguments` of the record at an address."""
    call = call_at(address)
    shape = call.n_sums // (call.sums_rows * call.sums_width), call.sums_rows, call.sums_width
    return Arguments(
        array_at(call.W, (call.n_W,), np.float32), call.stride, call.P, call.F, call.kp, call.k,
        array_at(call.keys, (call.n_keys,), np.uint64), array_at(call.rows, (call.n_rows,), np.uint32),
        array_at(call.values, (call.n_values,), np.float32), array_at(call.fields, (call.n_fields,), np.uint8),
        array_at(call.start, (call.n_start,), np.int64), array_at(call.labels, (call.n_labels,), np.float32),
        array_at(call.times_s, (call.n_times_s,), np.float64), array_at(call.r, (call.n_r,), np.float32),
        array_at(call.c, (call.n_c,), np.float32), call.ttl_s, call.seed,
        array_at(call.hyper, (call.n_hyper,), np.float32), array_at(call.row_key, (call.n_row_key,), np.uint64),
        array_at(call.counters, (call.n_counters,), np.int64), array_at(call.sums, shape, np.float32),
        array_at(call.here, (call.n_here,), np.int64), array_at(call.out, (call.n_out,), np.float32),
    )  # fmt: skip
