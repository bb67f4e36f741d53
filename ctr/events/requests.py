"""The body of a scoring request in, keys out, by the kernels that scan events: no Python object for each value.

Only what is common is read here: ``{"instances": [row, ...]}``, ``{"context": row, "candidates": [...]}``, and in the
rows nothing that the kernels leave to the exact way. All else, and all that is refused, is the exact way's:
`ctr.events.encode_rows` of the decoded body, or what `ctr.serving.questions` makes of it.
"""

from __future__ import annotations

import re
import threading
import time
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ctr.events.batch import Batch
from ctr.events.plan import compile_plan
from ctr.events.scanner import SLACK, Outputs, scratch
from ctr.kernels import build
from ctr.kernels.scan.bound import Bound
from ctr.spec import Spec

Keys = NDArray[np.uint64]

_BEGIN = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*"instances"[ \t\r\n]*:[ \t\r\n]*(?=\[)')
_END = re.compile(rb"\][ \t\r\n]*\}[ \t\r\n]*\Z")
_MOST_BLANKS = 64
"""Behind the rows; the end is looked for in so many bytes."""
_SLACK = bytes(SLACK)
FEW = 16
"""Rows of a request that are better off without the arrays of a batch."""
_LEAST_BYTES = 1 << 14
_NO_KEYS = np.empty((0, 0), np.uint64)
NO_IDS = np.zeros((1, 2), np.uint64)
"""A table that knows none."""


class Asked(NamedTuple):
    """A ranking that is asked for, as keys.

    Attributes
    ----------
    context : (F,) uint64
        The context's keys; what stands in the candidates' fields does not matter.
    fields : (A,) int64
        Indices of the candidates' fields, ascending; empty where they are ids.
    keys : (n, A) uint64
    places : (n,) int64 or None
        Of the ads whose ids are given, -1 for an unknown one; None where candidates are objects.
    known : bool
        Whether all ids are known.
    top : int or None
    """

    context: Keys
    fields: NDArray[np.int64]
    keys: Keys
    places: NDArray[np.int64] | None
    known: bool
    top: int | None


class RequestScanner:
    """Reads scoring requests; made once a specification. Several threads may use one, by turns.

    Parameters
    ----------
    spec : Spec
        Of any event format: requests are JSON.

    Attributes
    ----------
    in_keys : bool
        Whether there is a key for each field of a row, so that `scan_keys` can be asked.
    lock : Lock
        Held by whoever scans.
    found : (at least FEW F,) uint64
        Keys that `scan_few` read.
    in_parts : bool
        Whether `scan_ranking` can be asked: no value of a candidate is part of a nested object, or crossed.
    """

    def __init__(self, spec: Spec) -> None:
        as_json = msgspec.structs.replace(spec, event=msgspec.structs.replace(spec.event, format="json"))
        plan = compile_plan(as_json)
        self._F = len(spec.fields)
        self.lock = threading.Lock()
        self._outputs = Outputs(self._F, spec.dense)
        self._plan = plan
        self.found, self._body = np.empty(0, np.uint64), memoryview(b"")
        self._sparse: Any = None
        self._bound: Any = None
        self.in_keys = plan is not None and spec.dense
        self.in_parts = self.in_keys and not any(
            field.cross is not None or "." in field.column for field in spec.fields
        )
        if plan is not None and not spec.dense:
            self._sparse = build.load("scan/lines", FORMAT=0, DENSE=0).rows
            self._scratch = scratch(plan)
        elif plan is not None:
            kernels = build.load("scan/requests")
            self._instances, self._ranking = kernels.instances, kernels.ranking
            named = [index for index, field in enumerate(spec.fields) if not field.derived]
            self._parts = plan, *scratch(plan)[:2], np.array(named, np.int64)
            self._make_room(_LEAST_BYTES, FEW)

    def _make_room(self, length: int, rows: int) -> None:
        """For a body of so many bytes, and so many rows' keys."""
        if self._bound is None or length > len(self._body) - SLACK or rows * self._F > len(self.found):
            size = max(_LEAST_BYTES, 1 << (length - 1).bit_length())
            body = np.zeros(size + SLACK, np.uint8)
            # an id takes two quotes and a comma, at least
            self.found = np.empty(max(max(FEW, rows) * self._F, size // 3 + 1), np.uint64)
            self._body = memoryview(body)  # type: ignore[arg-type]  # a buffer
            self._bound = Bound(*self._parts, body, self.found)

    def scan_few(self, body: bytes, time_s: float) -> int:
        """Read the rows of a short request into `found`; how many, -1 where another way is to be asked.

        What is there is good until the next call of anything: callers hold `lock`.
        """
        n = len(body)
        if n > _LEAST_BYTES or self._bound is None:
            return -1
        self._body[:n] = body
        rows: int = self._instances(n, time_s, self._bound)
        return rows

    def scan_keys(self, body: bytes, time_s: float, *, max_rows: int) -> Keys | None:
        """Read the rows of a request into (n F,) keys; None where the exact way is to be asked, or `in_keys` is not.

        Parameters
        ----------
        body : bytes
        time_s : float
            Time of all rows, seconds since 1970.
        max_rows : int
            A body that may hold more, by its opening braces, is left to the exact way: room is made for so many rows
            before they are read.
        """
        rows = body.count(b"{") - 1
        if rows > max_rows or self._bound is None:
            return None
        with self.lock:
            self._make_room(len(body), rows)
            self._body[: len(body)] = body
            n = self._instances(len(body), time_s, self._bound)
            return None if n < 0 else self.found[: n * self._F].copy()

    def scan_rows(self, body: bytes, time_s: float | None = None, *, max_rows: int) -> Batch | None:
        """Read the rows of a request; see `scan_keys`.

        Returns
        -------
        Batch or None
            What `ctr.events.encode_rows` gives for the same rows; None where it is to be asked.
        """
        time_s = time.time() if time_s is None else time_s
        if self._sparse is not None:
            return self._scan_sparse(body, time_s, max_rows)
        keys = self.scan_keys(body, time_s, max_rows=max_rows)
        return None if keys is None else self.batch(keys, time_s)

    def batch(self, keys: Keys, time_s: float) -> Batch:
        """Rows whose keys `scan_keys` gave as a batch."""
        n, out = len(keys) // self._F, self._outputs.make(len(keys) // self._F)
        return self._batch(out._replace(keys=keys), n, len(keys), time_s)

    def _batch(self, out: Any, n: int, entries: int, time_s: float) -> Batch:
        out.labels[:n], out.weights[:n], out.times_s[:n] = np.nan, 1.0, time_s
        return self._outputs.batch(out, n, entries, np.full(n, -1, np.int32), np.arange(n))

    def _scan_sparse(self, body: bytes, time_s: float, max_rows: int) -> Batch | None:
        begin = _BEGIN.match(body)
        end = _END.search(body, max(len(body) - _MOST_BLANKS, 0))
        if begin is None or end is None:
            return None
        rows = body.count(b"{", begin.end())
        if rows > max_rows:
            return None
        data = np.frombuffer(body + _SLACK, np.uint8)
        address = data.ctypes.data
        with self.lock:
            full = True
            while full:
                out = self._outputs.make(rows)
                n, entries, full = self._sparse(
                    address + begin.end(), address + end.start() + 1, time_s, self._plan, *self._scratch, out
                )
                if full:
                    self._outputs.grow()
        return None if n < 0 else self._batch(out, n, entries, time_s)

    def scan_ranking(
        self, body: bytes, time_s: float, *, max_rows: int, ids: NDArray[np.uint64] = NO_IDS
    ) -> Asked | None:
        """Read a request to rank; None where the decoded body is to be asked, or `in_parts` is not.

        Parameters
        ----------
        body : bytes
        time_s : float
            Time of the request, seconds since 1970.
        max_rows : int
            A body that may hold more candidates, by its opening braces, is not read. Ids are not counted.
        ids : (2^m, 2) uint64
            Where places are by id, see `ctr.kernels.scan.ids`.
        """
        rows = body.count(b"{") - 2
        if rows > max_rows or not self.in_parts:
            return None
        context, fields = np.empty(self._F, np.uint64), np.empty(self._F, np.int64)
        with self.lock:
            self._make_room(len(body), rows)
            self._body[: len(body)] = body
            good, n, A, top, known = self._ranking(len(body), time_s, self._bound, ids, context, fields)
            if not good:
                return None
            found = self.found[: n * A or n].copy()
        by_id = A == 0
        return Asked(
            context, fields[:A], _NO_KEYS if by_id else found.reshape(n, A), found.view(np.int64) if by_id else None,
            known, None if top < 0 else top,
        )  # fmt: skip
