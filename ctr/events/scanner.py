"""Messages in, a `Batch` and the refusals out, at the speed of the kernels: what `Reader` gives, bit for bit.

The kernels read what is common. What they leave, line by line, the exact reader reads, and it alone refuses; its
events are put where they belong.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.events.batch import Batch
from ctr.events.known_times import KnownTimes
from ctr.events.messages import Messages, Refusal
from ctr.events.reader import Reader
from ctr.events.template import learn
from ctr.kernels import build
from ctr.kernels.scan import features
from ctr.kernels.scan.lines import DELIMITED, JSON, LIBFFM
from ctr.kernels.scan.transforms import MAX_DEGREE
from ctr.spec import Spec

SLACK = 64
"""Bytes that kernels may read behind a line's end."""
FORMATS = {"json": JSON, "delimited": DELIMITED, "criteo": DELIMITED, "avazu": DELIMITED, "libffm": LIBFFM}
MOST_EVENTS = 1 << 16
"""Read before another template is made, at most."""


class FastReader:
    """Reads messages as `Reader` does; several threads may use one at once, and the kernel holds no GIL.

    Parameters
    ----------
    spec : Spec
    plan : features.Plan
        What `ctr.events.plan.compile_plan` made of it.
    exact : Reader
        Reads what the kernels leave.
    """

    def __init__(self, spec: Spec, plan: features.Plan, exact: Reader) -> None:
        self.spec, self.exact, self.parse = spec, exact, exact.parse
        self._plan, self._after = plan, plan.after
        self._templates = Templates(spec, plan)
        self._scan_lines = build.load("scan/lines", FORMAT=FORMATS[spec.event.format], DENSE=int(spec.dense)).lines
        self._times = KnownTimes(spec.event.time_format) if plan.event["clock"][0] == features.MEMO else None
        self._outputs = Outputs(len(spec.fields), spec.dense)
        self._own = threading.local()

    def read(self, messages: Messages) -> tuple[Batch, list[Refusal]]:
        """See `Reader.read`."""
        data = as_bytes(messages.data)
        out, rows, entries, slows = self._scan(data, messages)
        if slows and self._times and self._times.learn(data, out.slow[:slows, 4:]):
            out, rows, entries, slows = self._scan(data, messages)
        partitions, offsets = messages.partitions, messages.offsets
        if slows or rows != len(messages):  # otherwise each message is one event
            of = out.message_of[:rows]
            partitions, offsets = partitions[of], offsets[of]
        batch = self._outputs.batch(out, rows, entries, partitions, offsets)
        return self._with_exact(batch, data, messages, out.slow[:slows]) if slows else (batch, [])

    def _scan(self, data: NDArray[np.uint8], messages: Messages) -> tuple[features.Out, int, int, int]:
        """What the kernel says of all messages: arrays, rows, entries, lines that must go the exact way."""
        begin, end, n = messages.begin, messages.end, len(messages)
        tail_from, tail = copied_tail(data, begin, end)
        after = self._after.copy()
        template = self._templates.current()
        plan = self._plan._replace(
            after=after, memo=self._times.memo if self._times else self._plan.memo, template=template
        )
        if not hasattr(self._own, "scratch"):
            self._own.scratch = scratch(plan)
        spans, elements, weights = self._own.scratch
        full = True
        while full:
            out = self._outputs.make(n)
            rows, entries, slows, full = self._scan_lines(
                data.ctypes.data, tail.ctypes.data, tail_from, begin, end, messages.offsets, messages.arrivals_s, plan,
                spans, elements, weights, out,
            )  # fmt: skip
            if full:
                self._outputs.grow()
        self._after = after
        self._templates.see(rows, template, data)
        return out, rows, entries, slows

    def _with_exact(
        self, batch: Batch, data: NDArray[np.uint8], messages: Messages, slow: NDArray[np.int64]
    ) -> tuple[Batch, list[Refusal]]:
        """A batch with the events of `slow` lines among its own, and their refusals."""
        of, begin, end = slow[:, 0], slow[:, 1], slow[:, 2]
        null = end < begin
        lengths = np.maximum(end - begin, 0)
        at = np.cumsum(lengths) - lengths
        text = b"".join(data[a:b].tobytes() for a, b in zip(begin.tolist(), (begin + lengths).tolist(), strict=True))
        # As partitions the exact reader gets the lines' numbers: they say which of them became events. Offset 0 is for
        # first lines of messages only, which may be headers.
        offsets = np.where(begin == messages.begin[of], messages.offsets[of], -1)
        lines = Messages(
            text, at, np.where(null, -1, at + lengths), np.arange(len(slow), dtype=np.int32), offsets,
            messages.arrivals_s[of],
        )  # fmt: skip
        exact, refused = self.exact.read(lines)
        refusals = []
        for refusal in refused:
            line = refusal.partition
            moved = int(begin[line] - at[line])
            refusals.append(replace(
                refusal, partition=int(messages.partitions[of[line]]), offset=int(messages.offsets[of[line]]),
                begin=refusal.begin + moved, end=refusal.end + moved,
            ))  # fmt: skip
        if not len(exact):
            return batch, refusals
        lines_of = exact.partitions
        messages_of = of[lines_of]
        exact = replace(exact, partitions=messages.partitions[messages_of], offsets=messages.offsets[messages_of])
        return merged(batch, exact, slow[lines_of, 3]), refusals


class Templates:
    """The template of a reader's events, made anew where many are not like it; several threads may use one."""

    def __init__(self, spec: Spec, plan: features.Plan) -> None:
        self._spec, self._plan = spec, plan
        self._template: features.Template = plan.template
        self._events = self._pause = 0  # since the last one was made; before the next one may be made

    def current(self) -> features.Template:
        """The template, for one call of a kernel."""
        template = self._template
        return template._replace(steps=template.steps.copy(), missed=np.zeros(5, np.int64))

    def see(self, events: int, template: features.Template, data: NDArray[np.uint8]) -> None:
        """Learn from a call of a kernel: `events` were read, and it wrote to `template`."""
        self._events += events
        missed, begin, end = template.missed[2:].tolist()
        if missed * 4 > events and self._events >= self._pause:
            # Making one takes 0.2 ms; where events have many shapes, it is of less and less use.
            self._events, self._pause = 0, min(max(2 * self._pause, 256), MOST_EVENTS)
            made = learn(data[begin:end].tobytes(), self._spec, self._plan)
            self._template = self._template if made is None else made


class Outputs:
    """Makes the arrays that kernels fill, large enough for most batches, and a `Batch` of them."""

    def __init__(self, n_fields: int, dense: bool) -> None:
        self._F, self._dense = n_fields, dense
        self._lines, self._entries = 1.0, float(n_fields)  # expected of a message
        self._layout = (np.ones(0, np.float32), np.zeros(0, np.uint8), np.zeros(1, np.int64))

    def make(self, messages: int) -> features.Out:
        """Arrays for that many messages."""
        lines, entries = int(messages * self._lines) + 16, int(messages * self._lines * self._entries) + 2048
        of_entries = 0 if self._dense else entries
        return features.Out(
            np.empty(entries, np.uint64), np.empty(of_entries, np.float64), np.empty(of_entries, np.uint8),
            np.zeros(1 if self._dense else lines + 1, np.int64), np.empty(self._F + 1, np.int64),
            np.empty(lines, np.float32), np.empty(lines, np.float32), np.empty(lines, np.float64),
            np.empty(lines, np.int64), np.empty((lines, 6), np.int64),
        )  # fmt: skip

    def grow(self) -> None:
        """Make larger ones from now on; another thread may do so too, which does no harm."""
        self._lines *= 2
        if not self._dense:
            self._entries *= 2

    def batch(
        self, out: features.Out, rows: int, entries: int, partitions: NDArray[np.int32], offsets: NDArray[np.int64]
    ) -> Batch:
        """The first `rows` events."""
        layout = out.values[:entries].astype(np.float32), out.fields[:entries], out.start[: rows + 1]
        if self._dense:
            # The same for every dense batch: made once, as large as the largest one, and nobody writes to it.
            values, fields, start = self._layout
            if len(start) <= rows:
                n = 2 * rows
                values, fields = np.ones(n * self._F, np.float32), np.tile(np.arange(self._F, dtype=np.uint8), n)
                start = np.arange(n + 1, dtype=np.int64) * self._F
                self._layout = values, fields, start
            layout = values[:entries], fields[:entries], start[: rows + 1]
        return Batch(
            out.keys[:entries], *layout, out.labels[:rows], out.weights[:rows], out.times_s[:rows], partitions, offsets,
            self._dense,
        )  # fmt: skip


def as_bytes(data: bytes | bytearray | memoryview) -> NDArray[np.uint8]:
    """A buffer as an array, without a copy."""
    return np.frombuffer(data, np.uint8) if len(data) else np.zeros(0, np.uint8)


def scratch(plan: features.Plan) -> tuple[NDArray[np.void], NDArray[np.void], NDArray[np.float64]]:
    """Spans, elements and spline weights of one event: of one thread, so that they stay in its L1 cache.

    There is a span more than columns: that of cells that nobody reads.
    """
    elements = features.MAX_ELEMENTS if plan.many.any() else 0
    return (
        np.empty(len(plan.many) + 1, features.SPAN), np.empty(elements, features.ELEMENT),
        np.empty(MAX_DEGREE + 1, np.float64),
    )  # fmt: skip


def copied_tail(
    data: NDArray[np.uint8], begin: NDArray[np.int64], end: NDArray[np.int64]
) -> tuple[int, NDArray[np.uint8]]:
    """What of `data` must be read from a copy with `SLACK` bytes behind it: from where on, and the copy.

    That is the messages that end less than `SLACK` bytes before the buffer does; and, should messages overlap, those
    that overlap them.
    """
    tail_from = len(data) - SLACK
    while (late := begin[end > tail_from]).size and (first := int(late.min())) < tail_from:
        tail_from = first
    tail_from = max(tail_from, 0)
    tail = np.zeros(len(data) - tail_from + SLACK, np.uint8)
    tail[:-SLACK] = data[tail_from:]
    return tail_from, tail


def merged(batch: Batch, other: Batch, before: NDArray[np.int64]) -> Batch:
    """All events of two batches: event j of `other` stands before event ``before[j]`` (ascending) of `batch`."""
    n = len(batch) + len(other)
    theirs = np.zeros(n, np.bool_)
    theirs[before + np.arange(len(other))] = True
    lengths = np.empty(n, np.int64)
    lengths[~theirs], lengths[theirs] = np.diff(batch.start), np.diff(other.start)
    start = np.concatenate([[0], np.cumsum(lengths)])
    entry_theirs = np.repeat(theirs, lengths)

    def woven(name: str, mask: NDArray[np.bool_]) -> Any:
        ours: NDArray[Any] = getattr(batch, name)
        both = np.empty(len(mask), ours.dtype)
        both[~mask], both[mask] = ours, getattr(other, name)
        return both

    entries: dict[str, Any] = {name: woven(name, entry_theirs) for name in ("keys", "values", "fields")}
    events: dict[str, Any] = {
        name: woven(name, theirs) for name in ("labels", "weights", "times_s", "partitions", "offsets")
    }
    return replace(batch, start=start, **entries, **events)
