"""What tests of scanners share: messages of lines, the scanner's answer and the exact reader's side by side."""

import os
from dataclasses import fields as fields_of

import numpy as np

from ctr.events import Messages
from ctr.events.scanner import as_bytes

FUZZED = int(os.environ.get("CTR_FUZZ_EVENTS", "500000"))
"""Random events of all formats together that the slow tests compare; the others compare a tenth of it."""
KINDS = 12
"""Specifications that share them: those of test_scanner.py and of test_scanner_text.py."""
MANY, FEW = FUZZED // KINDS, FUZZED // (10 * KINDS)


def messages(texts, first_offset=1, glue=b""):
    """Messages as slices of one buffer; None is a null message."""
    data, begin, end = [], [], []
    at = 0
    for text in texts:
        data += [glue, text or b""]
        begin.append(at + len(glue))
        at = begin[-1] + len(text or b"")
        end.append(-1 if text is None else at)
    n = len(texts)
    return Messages(
        b"".join(data), np.array(begin, np.int64), np.array(end, np.int64), np.arange(n, dtype=np.int32) % 3,
        np.arange(first_offset, first_offset + n), np.full(n, 2e9),
    )  # fmt: skip


def assert_same(got, want):
    """The same arrays bit for bit, the same refusals."""
    assert got[1] == want[1]
    for part in fields_of(want[0]):
        a, b = getattr(got[0], part.name), getattr(want[0], part.name)
        if part.name == "dense":
            assert a == b
            continue
        assert a.dtype == b.dtype, part.name
        assert a.tobytes() == b.tobytes(), part.name


def slow_lines(fast, sent):
    """How many lines the kernel leaves, and how many events it reads."""
    _, rows, _, slow = fast._scan(as_bytes(sent.data), sent)
    return slow, rows


def compare(fast, exact, events, n):
    """Compare on n messages, in batches of many sizes; (lines that went the exact way, events of the kernel).

    `events` makes them: ``message()``, and ``rng`` to cut them into batches.
    """
    slow, rows = 0, 0
    while n > 0:
        size = min(n, events.rng.choice([1, 2, 7, 50, 200]))
        sent = messages(
            [events.message() for _ in range(size)], first_offset=events.rng.choice([0, 1, 10**12]),
            glue=events.rng.choice([b"", b"|", b"\n"]),
        )  # fmt: skip
        assert_same(fast.read(sent), exact.read(sent))
        left, read = slow_lines(fast, sent)
        slow, rows, n = slow + left, rows + read, n - size
    return slow, rows
