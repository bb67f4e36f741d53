"""Raw messages in, a `Batch` and the refusals out: the part of reading that all formats share.

A message holds one event a line. A format is a function from such a line to a record; it knows nothing of messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

from ctr.errors import EventError
from ctr.events.batch import Batch
from ctr.events.encoder import BatchBuilder, Encoder
from ctr.events.envelope import Envelope, Record, label_range
from ctr.events.messages import Messages, Reason, Refusal
from ctr.spec import Spec

_BLANK = b" \t\r\n"


class Reader:
    """Reads messages of one format; exact, and the oracle for whatever is faster.

    Parameters
    ----------
    spec : Spec
    parse : (line: bytes) -> Record
        Raises EventError with path ``$`` for a line that is no record.
    prefix : str
        Stands before a column in the path of a refusal: ``$.`` for JSON.
    is_header : (line: bytes) -> bool, optional
        Asked about the first line of the message at offset 0 only; a header is neither event nor refused.
    is_blank : (line: bytes) -> bool, optional
        Which lines hold nothing.
    """

    def __init__(
        self,
        spec: Spec,
        parse: Callable[[bytes], Record],
        prefix: str = "",
        is_header: Callable[[bytes], bool] = lambda _: False,
        is_blank: Callable[[bytes], bool] = lambda line: not line.strip(_BLANK),
    ) -> None:
        self.spec = spec
        self.parse = parse
        self.encoder = Encoder(spec)
        self._envelope = Envelope(spec.event, label_range(spec))
        self._prefix, self._is_header, self._is_blank = prefix, is_header, is_blank

    def read(self, messages: Messages) -> tuple[Batch, list[Refusal]]:
        """All events that can be read, in order, and all that cannot.

        Never raises for what a message holds. Each event carries the partition and offset of its message; blank lines
        between the events of a message are passed over, a message of nothing else is refused as "empty".

        Parameters
        ----------
        messages : Messages

        Returns
        -------
        batch : Batch
        refusals : list of Refusal
            In order of the messages.
        """
        data = messages.data if isinstance(messages.data, bytes) else bytes(messages.data)
        builder = BatchBuilder(self.encoder, self._envelope)
        refusals: list[Refusal] = []
        parse, add, max_bytes = self.parse, builder.add, self.spec.event.max_bytes
        columns = (messages.begin, messages.end, messages.partitions, messages.offsets, messages.arrivals_s)
        for begin, end, partition, offset, arrival_s in zip(*(column.tolist() for column in columns), strict=True):
            for first, line in self._lines(data, begin, end, offset):
                try:
                    if len(line) > max_bytes:
                        raise EventError("too_large", "$", f"{len(line)} bytes, event.max_bytes = {max_bytes}")
                    if self._is_blank(line):
                        raise EventError("empty", "$", "a null message" if end < 0 else "nothing but blanks")
                    add(parse(line), arrival_s, partition, offset)
                except EventError as error:
                    path = error.path if error.path.startswith("$") else self._prefix + error.path
                    reason = cast("Reason", error.reason)
                    refusals.append(Refusal(partition, offset, reason, path, error.message, first, first + len(line)))
                except Exception as error:  # noqa: BLE001  a mistake of ours must not be a message that kills for ever
                    said = f"cannot be read, for a reason this program did not foresee: {error!r}"
                    refusals.append(Refusal(partition, offset, "type", "$", said[:500], first, first + len(line)))
        return builder.batch(), refusals

    def _lines(self, data: bytes, begin: int, end: int, offset: int) -> Iterator[tuple[int, bytes]]:
        """Yield (first byte, line) for each event of a message; the message itself if it is blank all over."""
        first, nothing = begin, True
        while first < end:
            last = data.find(b"\n", first, end)
            line = data[first : last if last >= 0 else end]
            if first == begin and offset == 0 and len(line) <= self.spec.event.max_bytes and self._is_header(line):
                nothing = False
            elif not self._is_blank(line):
                nothing = False
                yield first, line
            first += len(line) + 1
        if nothing:
            yield begin, data[begin : max(begin, end)]
