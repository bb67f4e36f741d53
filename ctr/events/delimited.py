"""A line of delimited text in, a record out: Criteo's and Avazu's logs and any CSV or TSV.

Cells are text, an empty one is missing. Criteo's logs know no quotes: there a quote is a character like others.
Elsewhere quoting is that of Python's csv module, read strictly: a quoted cell may hold delimiters and doubled quotes,
but no line break, since lines are events.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ctr.errors import EventError
from ctr.events.envelope import Record
from ctr.kernels.scan.features import LOG, PLAIN, Cells
from ctr.spec import Spec

# The module's own limit of 128 KiB a cell would bind quoted cells only; a line is bounded by event.max_bytes already.
csv.field_size_limit(max(csv.field_size_limit(), 64 << 20))


def parser(spec: Spec) -> Callable[[bytes], Record]:
    """Make the function that reads one line.

    It raises EventError with path ``$`` and reason "encoding" (no UTF-8), "syntax" (quotes) or "columns" (more or fewer
    of them than the specification has).
    """
    columns = spec.columns
    split = splitter(spec)

    def parse(line: bytes) -> Record:
        cells = split(line)
        if len(cells) != len(columns):
            raise EventError("columns", "$", f"expected {len(columns)} columns, found {len(cells)}")
        return dict(zip(columns, cells, strict=True))

    return parse


def splitter(spec: Spec) -> Callable[[bytes], list[str]]:
    """Make the function that splits one line into its cells."""
    delimiter, quotes = spec.delimiter, spec.event.format != "criteo"

    def split(line: bytes) -> list[str]:
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise EventError("encoding", "$", f"no UTF-8 at byte {error.start}: {error.reason}") from None
        text = text.removesuffix("\r")
        if not quotes or ('"' not in text and "\r" not in text):
            return text.split(delimiter)  # what csv does where there is no quote, in a tenth of its time
        try:
            return next(csv.reader((text,), delimiter=delimiter, strict=True))
        except csv.Error as error:
            raise EventError("syntax", "$", str(error)) from None

    return split


def header_test(spec: Spec) -> Callable[[bytes], bool]:
    """Make the function that says whether a line repeats the names of the columns."""
    columns, split = list(spec.columns), splitter(spec)

    def is_header(line: bytes) -> bool:
        try:
            return split(line.removeprefix(b"\xef\xbb\xbf")) == columns  # a byte order mark, as spreadsheets write it
        except EventError:
            return False

    return is_header


def scan_slots(spec: Spec, columns: Sequence[str]) -> NDArray[np.int64] | None:
    """Where a line's cells go among the columns that are read, those that nobody reads behind the last one.

    For `ctr.kernels.scan.delimited`; None where the delimiter is more than a byte of UTF-8.
    """
    if len(spec.delimiter.encode()) != 1:
        return None
    slots = {column: slot for slot, column in enumerate(columns)}
    return np.array([slots.get(column, len(columns)) for column in spec.columns], np.int64)


def is_blank(line: bytes) -> bool:
    """Whether a line holds nothing; blanks may be cells."""
    return line in (b"", b"\r")


def _cells(
    texts: list[tuple[int, int]], counts: list[tuple[int, int]], spanned: list[tuple[int, int]], rest: list[int]
) -> Cells:
    """As arrays."""
    texts_, counts_, spanned_ = (np.array(pairs, np.int64).reshape(-1, 2) for pairs in (texts, counts, spanned))
    return Cells(texts_, counts_, spanned_, np.array(rest, np.int64))


NO_CELLS = _cells([], [], [], [])
"""Of formats that have none."""


def scan_cells(spec: Spec, columns: Sequence[str], fields: NDArray[np.void]) -> Cells:
    """What becomes of each cell of a line, for `ctr.kernels.scan.delimited`; `fields` are those of the plan.

    In a dense batch a text or a count of which one field is made, and nothing else, becomes a key at once.
    """
    event = spec.event
    envelope = {event.label, event.weight, event.time}
    of: dict[str, list[int]] = {column: [] for column in columns}
    for index, field in enumerate(spec.fields):
        if not field.derived:
            of[field.column].append(index)
    texts, counts, spanned = [], [], []
    for cell, column in enumerate(spec.columns):
        made = of.get(column, [])
        transform = fields["transform"][made[0]] if spec.dense and len(made) == 1 and column not in envelope else None
        if transform == PLAIN:
            texts.append((cell, made[0]))
        elif transform == LOG:
            counts.append((cell, made[0]))
        elif column in of:
            spanned.append((cell, columns.index(column)))
    at_once = {field for _, field in texts + counts}
    return _cells(texts, counts, spanned, [index for index in range(len(fields)) if index not in at_once])
