"""The body of a scoring request in, a `Batch` out, by the kernels that scan events: no Python object for each value.

Only what is common is read here: ``{"instances": [row, ...]}``, and in the rows nothing that the kernels leave to the
exact way. All else, and all that is refused, is the exact way's, `ctr.events.encode_rows` of the decoded body.
"""

from __future__ import annotations

import re
import threading
import time
from typing import Any

import msgspec
import numpy as np

from ctr.events.batch import Batch
from ctr.events.plan import compile_plan
from ctr.events.scanner import SLACK, Outputs, scratch
from ctr.kernels import build
from ctr.spec import Spec

_BEGIN = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*"instances"[ \t\r\n]*:[ \t\r\n]*(?=\[)')
_END = re.compile(rb"\][ \t\r\n]*\}[ \t\r\n]*\Z")
_MOST_BLANKS = 64
"""Behind the rows; the end is looked for in so many bytes."""


class RequestScanner:
    """Reads the rows of scoring requests; made once a specification. Several threads may use one, by turns.

    Parameters
    ----------
    spec : Spec
        Of any event format: requests are JSON.
    """

    def __init__(self, spec: Spec) -> None:
        as_json = msgspec.structs.replace(spec, event=msgspec.structs.replace(spec.event, format="json"))
        self._plan = compile_plan(as_json)
        self._kernel: Any = None
        self._lock = threading.Lock()
        if self._plan is not None:
            self._scratch = scratch(self._plan)
            self._outputs = Outputs(len(spec.fields), spec.dense)
            self._kernel = build.load("scan/lines", FORMAT=0, DENSE=int(spec.dense)).rows

    def scan_rows(self, body: bytes, time_s: float | None = None, *, max_rows: int) -> Batch | None:
        """Read the rows of a request.

        Parameters
        ----------
        body : bytes
        time_s : float, optional
            Time of all rows, seconds since 1970; now where it is not given.
        max_rows : int
            A body that may hold more, by its opening braces, is left to the exact way: room is made for so many rows
            before they are read.

        Returns
        -------
        Batch or None
            What `ctr.events.encode_rows` gives for the same rows; None where it is to be asked.
        """
        begin = _BEGIN.match(body)
        end = _END.search(body, max(len(body) - _MOST_BLANKS, 0))
        if self._plan is None or begin is None or end is None:
            return None
        time_s = time.time() if time_s is None else time_s
        rows = body.count(b"{", begin.end())
        if rows > max_rows:
            return None
        data = np.frombuffer(body + bytes(SLACK), np.uint8)
        address = data.ctypes.data
        with self._lock:
            full = True
            while full:
                out = self._outputs.make(rows)
                n, entries, full = self._kernel(
                    address + begin.end(), address + end.start() + 1, time_s, self._plan, *self._scratch, out
                )
                if full:
                    self._outputs.grow()
            if n < 0:
                return None
            out.labels[:n], out.weights[:n], out.times_s[:n] = np.nan, 1.0, time_s
            return self._outputs.batch(out, n, entries, np.full(n, -1, np.int32), np.arange(n))
