"""Bytes -> `Batch`: what readers of events and scorers share, so that a value is the same feature in both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, get_args

from ctr.events import delimited, jsonlines, libffm
from ctr.events.batch import MISSING, Batch
from ctr.events.encoder import RowEncoder
from ctr.events.hashing import BIAS, RESERVED_KEYS, feature_key
from ctr.events.messages import Messages, Reason, Refusal
from ctr.events.names import named_features
from ctr.events.plan import compile_plan
from ctr.events.reader import Reader as ExactReader
from ctr.events.scanner import FastReader
from ctr.spec import Spec

__all__ = [
    "BIAS", "MISSING", "REASONS", "RESERVED_KEYS", "Batch", "Messages", "Reader", "Reason", "Refusal",
    "encode_rows", "feature_key", "named_features", "open_reader",
]  # fmt: skip

REASONS: tuple[Reason, ...] = get_args(Reason)
"""Why an event may be refused; fit for a metric label."""

Reader = ExactReader | FastReader
"""What `open_reader` makes: ``read`` for messages, ``parse`` for the record of one line."""


def open_reader(spec: Spec) -> Reader:
    r"""Make the reader for the events that a specification describes.

    Events are scanned at the kernels' speed where they know all that the specification asks for, else read line by
    line; what comes out is the same. A reader may be used by several threads at once.

    Examples
    --------
    >>> import numpy as np
    >>> from ctr import spec
    >>> reader = open_reader(spec.parse('name = "ads"\nfields = [{name = "user"}, {name = "ad"}]'))
    >>> line = b'{"label": 1, "user": 7, "ad": null}'
    >>> at = np.array([0])
    >>> batch, refusals = reader.read(Messages(line, at, at + len(line), at, at, at + 1.0))
    >>> batch.labels, batch.keys == [feature_key("user", "7"), 0]
    (array([1.], dtype=float32), array([ True,  True]))
    """
    exact, plan = exact_reader(spec), compile_plan(spec)
    return exact if plan is None else FastReader(spec, plan, exact)


def exact_reader(spec: Spec) -> ExactReader:
    """Make the reader that reads line by line: what `open_reader` makes gives the same, and reads little with it."""
    if spec.event.format == "json":
        return ExactReader(spec, jsonlines.parse, prefix="$.")
    if spec.event.format == "libffm":
        return ExactReader(spec, libffm.parser(spec))
    return ExactReader(spec, delimited.parser(spec), is_header=delimited.header_test(spec), is_blank=delimited.is_blank)


def encode_rows(spec: Spec, rows: Sequence[Mapping[str, Any]], times_s: float, path: str = "$.instances") -> Batch:
    """Turn the rows of a scoring request into a batch, feature by feature as a reader would.

    Parameters
    ----------
    spec : Spec
    rows : sequence of mappings
        Key or column -> value, nested as in an event. A key that is not there is a missing value; label, weight, time
        and keys that no field reads are passed over.
    times_s : float
        Time of all rows, seconds since 1970.
    path : str
        Where the rows stand in the request, for errors.

    Returns
    -------
    Batch
        Labels NaN, weights 1, partitions -1, offsets the rows' indices.

    Raises
    ------
    EventError
        The first value that can be no feature, with its path, such as ``$.instances[3].user``.
    """
    return _row_encoder(spec).encode(rows, times_s, path)


@lru_cache(maxsize=32)
def _row_encoder(spec: Spec) -> RowEncoder:
    return RowEncoder(spec)
