"""One event in JSON in, a template out: the bytes between its values, by which others like it are read.

`ctr.kernels.scan.template` says what that is good for. Nothing is promised by a template: events that are not as it
says are read without it, so any event will do, and what comes out never depends on which it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ctr.kernels.scan import template as kernel
from ctr.kernels.scan.features import CROSS, LOG, PLAIN, Plan, Template
from ctr.spec import Spec

_TOKEN = re.compile(rb'"([^"]*)"|[^][{}:, "]+|[][{}:,]')
_ACTIONS = {PLAIN: kernel.PLAIN_KEY, LOG: kernel.LOG_KEY}
_NEXT_OF_OBJECT = re.compile(rb' *, *"[^"]*" *: *')
"""Between two values of one object; the second may then be left out with what stands before it."""


def _template(steps: NDArray[np.void], gaps: bytes, absent: list[int], spanned: list[int], rest: list[int]) -> Template:
    return Template(
        steps, np.frombuffer(gaps + bytes(32), np.uint8), np.array(absent, np.uint64), np.array(spanned, np.int64),
        np.array(rest, np.int64), np.zeros(5, np.int64),
    )  # fmt: skip


NO_TEMPLATE = _template(np.zeros(0, kernel.STEP), b"", [], [], [])
"""No event is like it."""


def columns_of(spec: Spec) -> tuple[str, ...]:
    """Columns that a specification reads; a column's place here is its number in the kernels."""
    event = spec.event
    read = [event.label, event.weight, event.time, *(field.column for field in spec.fields if not field.derived)]
    return tuple(dict.fromkeys(column for column in read if column is not None))


def learn(line: bytes, spec: Spec, plan: Plan) -> Template | None:
    """Make a template of an event.

    Parameters
    ----------
    line : bytes
        An event that the scanner has read, so that it is JSON and has no column twice.
    spec : Spec
        Dense.
    plan : Plan
        What `ctr.events.plan.compile_plan` made of it.

    Returns
    -------
    Template or None
        None where the event has a backslash, an array, or null in the place of an object that holds columns.
    """
    columns = {column.encode(): number for number, column in enumerate(columns_of(spec))}
    outers = {column.partition(b".")[0] for column in columns if b"." in column}
    if b"\\" in line or b"[" in line:
        return None
    fields_of: dict[int, list[int]] = {number: [] for number in columns.values()}
    for index, field in enumerate(plan.fields):
        if field["kind"] != CROSS and not spec.fields[index].derived:
            fields_of[int(field["column"])].append(index)
    envelope = {int(plan.event[part][0]) for part in ("label", "weight", "time")}
    steps: list[tuple[int, ...]] = []
    gaps, behind, at_once = b"", 0, set()

    for path, begin, end in _values(line):
        gap = line[behind:begin]
        behind = end
        if len(path) == 1 and path[0] in outers:
            return None
        column = None
        if len(path) == 1 or (len(path) == 2 and b"." not in path[0]):
            column = columns.get(b".".join(path))
        action, target, seed = kernel.SKIP, 0, 0
        if column is not None:
            action, target = kernel.SPAN, column
            if column not in envelope and len(fields_of[column]) == 1:
                target = fields_of[column][0]
                seed = int(plan.fields["seed"][target])
                action = _ACTIONS.get(int(plan.fields["transform"][target]), kernel.KEY)
                at_once.add(column)
        length = end - begin - 2
        usual = (1 << length, length) if line[begin] == ord('"') and length < 32 else (int(kernel.NEVER), 0)
        free = bool(steps) and _NEXT_OF_OBJECT.fullmatch(gap) is not None
        steps.append((len(gaps), len(gap), free, action, target, seed, *usual))
        gaps += gap
    steps.append((len(gaps), len(line) - behind, False, kernel.SKIP, 0, 0, 0, 0))
    gaps += line[behind:]

    made = {fields_of[column][0] for column in at_once}
    absent = [0 if index not in made else int(plan.fields["absent"][index]) for index in range(len(plan.fields))]
    return _template(
        np.array(steps, kernel.STEP), gaps, absent, [c for c in columns.values() if c not in at_once],
        [index for index in range(len(plan.fields)) if index not in made],
    )  # fmt: skip


def _values(line: bytes) -> Iterator[tuple[tuple[bytes, ...], int, int]]:
    """(keys that lead to it, begin, end) of each value that is no object."""
    outer: list[bytes] = []
    key, is_value = b"", False
    for token in _TOKEN.finditer(line):
        text = token[0]
        if text == b"{":
            if is_value:
                outer.append(key)
            is_value = False
        elif text == b"}":
            if outer:
                outer.pop()
        elif text == b":":
            is_value = True
        elif text == b",":
            is_value = False
        elif is_value:
            yield (*outer, key), token.start(), token.end()
            is_value = False
        else:
            key = token[1]
