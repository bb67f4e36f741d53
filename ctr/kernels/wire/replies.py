r"""Reply of HMGET, as it comes in -> rows: a bulk string of fixed size each, or none.

Format: https://redis.io/docs/latest/develop/reference/protocol-spec/#bulk-strings: ``$n\r\n row \r\n``, or ``$-1\r\n``.
"""

from __future__ import annotations

from typing import Any

from ctr.kernels.jit import kernel

AT, DONE, HELD = range(3)
"""State: bytes read, values read, and those of them that were rows."""
_DOLLAR, _MINUS, _ONE, _CR, _LF = b"$-1\r\n"


@kernel
def take_rows(buffer: Any, filled: int, head: Any, state: Any, found: Any, out: Any) -> bool:
    r"""Take all values that are complete.

    In: ``buffer[:filled]`` uint8, what came so far; ``head`` uint8, ``$n\r\n`` for rows of n bytes. In and out:
    ``state`` (3,) int64. Out: ``found`` (m,) bool, of each value; ``out`` (m, n) uint8, the rows, one after the other.
    Returns False where something else came.
    """
    at, size = state[AT], out.shape[1]
    while state[DONE] < found.shape[0]:
        there = min(filled - at, head.shape[0])
        if there >= 2 and buffer[at] == _DOLLAR and buffer[at + 1] == _MINUS:
            if filled - at < 5:
                break
            if buffer[at + 2] != _ONE or buffer[at + 3] != _CR or buffer[at + 4] != _LF:
                return False
            found[state[DONE]] = False
            at += 5
        else:
            for i in range(there):
                if buffer[at + i] != head[i]:
                    return False
            end = at + head.shape[0] + size
            if filled < end + 2:
                break
            if buffer[end] != _CR or buffer[end + 1] != _LF:
                return False
            out[state[HELD]] = buffer[end - size : end]
            found[state[DONE]] = True
            state[HELD] += 1
            at = end + 2
        state[DONE] += 1
        state[AT] = at
    return True
