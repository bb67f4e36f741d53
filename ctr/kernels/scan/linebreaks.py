"""A block of text in, the lines in it out: no Python object a line, no array as long as the block."""

from __future__ import annotations

from typing import Any

import numpy as np

from ctr.kernels.jit import bare, kernel
from ctr.kernels.scan.memory import equal32, trailing_zeros

LINE_FEED, RETURN = 10, 13


@bare
def _split(address: Any, data: Any, begin: Any, end: Any) -> Any:
    n, first, at, size = 0, 0, 0, data.shape[0]
    while at < size:
        if at + 32 <= size:
            marks = equal32(address + at, LINE_FEED)
        else:
            marks = np.uint64(0)
            for i in range(size - at):
                marks |= np.uint64(data[at + i] == LINE_FEED) << np.uint64(i)
        while marks:
            last = at + trailing_zeros(marks)
            marks &= marks - np.uint64(1)
            stop = last - 1 if last > first and data[last - 1] == RETURN else last
            if stop > first:
                begin[n], end[n] = first, stop
                n += 1
            first = last + 1
        at += 32
    return n


@kernel
def split(address: Any, data: Any, begin: Any, end: Any) -> Any:
    """Lines of `data` (uint8, at `address`), which ends with a newline; blank ones are left out.

    Out: line i is ``data[begin[i]:end[i]]``, without its line feed and the carriage return before it. There is room for
    a line every two bytes.

    Returns
    -------
    n
        Number of lines.
    """
    return _split(address, data, begin, end)
