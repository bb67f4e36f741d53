"""A reply may come in any pieces; what is no reply of rows is refused as soon as that can be seen."""

from itertools import pairwise

import numpy as np
import pytest

from ctr.kernels import build
from ctr.kernels.wire.replies import AT, DONE, HELD

ROWS = [b"abcd", None, b"\r\n$4", None, None, b"$-1\r"]


def reply(rows):
    return b"".join(b"$-1\r\n" if row is None else b"$%d\r\n%b\r\n" % (len(row), row) for row in rows)


def taken(pieces, count=6, size=4):
    """Found and rows once all pieces have come; None where one was refused."""
    buffer, filled = np.zeros(1000, np.uint8), 0
    state, found, rows = np.zeros(3, np.int64), np.zeros(count, np.bool_), np.zeros((count, size), np.uint8)
    head = np.frombuffer(b"$%d\r\n" % size, np.uint8)
    for piece in pieces:
        buffer[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
        filled += len(piece)
        if not build.load("wire/replies").take_rows(buffer, filled, head, state, found, rows):
            return None
    return state, found, rows[: state[HELD]]


def test_in_all_pieces():
    data = reply([row and row[:4] for row in ROWS])
    expected = [row[:4] for row in ROWS if row is not None]
    cuts = [(cut,) for cut in range(len(data))] + [tuple(range(0, len(data), step)) for step in (1, 2, 3, 5)]
    for cut in cuts:
        bounds = [0, *cut, len(data)]
        state, found, rows = taken([data[a:b] for a, b in pairwise(bounds)])
        assert state[AT] == len(data)
        assert state[DONE] == len(ROWS)
        assert found.tolist() == [row is not None for row in ROWS]
        assert [row.tobytes() for row in rows] == expected


@pytest.mark.parametrize(
    "data", [b"$3\r\nabc\r\n", b"$0\r\n\r\n", b"$44\r\n", b"*1\r\n", b"-MOVED 1 a:1\r\n", b"$-2\r\n", b"$4\r\nabcdXY"]
)
def test_what_is_no_row_is_refused_at_once(data):
    more = b"" if len(data) > 6 else b"xxxxxx"
    assert taken([reply([b"abcd"]), data + more]) is None
