"""What can go wrong, said once. A message names the thing, its value, and what to do next."""

from __future__ import annotations


class CtrError(Exception):
    """Root of all errors of this package. `retriable`: the same call may succeed later, unchanged."""

    retriable = False


class SettingError(CtrError):
    """A setting or a key of a specification that cannot be used.

    Parameters
    ----------
    key : str
        Where it stands, for example ``model.k`` or ``--redis``.
    value : object
        What was given.
    allowed : str
        What may stand there.
    """

    def __init__(self, key: str, value: object, allowed: str) -> None:
        super().__init__(f"{key} = {value!r}: {allowed}")
        self.key, self.value, self.allowed = key, value, allowed


class EventError(CtrError):
    """One event, or one row of a scoring request, that cannot be read.

    Parameters
    ----------
    reason : str
        One of a small fixed set, fit for a metric label: see `ctr.events.REASONS`.
    path : str
        JSONPath or column of the bad value, ``$`` for the whole event.
    message : str
        What was found and what was expected.
    """

    def __init__(self, reason: str, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.reason, self.path, self.message = reason, path, message


class StoreUnavailableError(CtrError):
    """Redis did not answer, or refused the connection."""

    retriable = True


class SourceUnavailableError(CtrError):
    """Kafka did not answer, or a file cannot be read."""

    retriable = True


class ModelMissingError(CtrError):
    """The store holds no such model."""


class ModelMismatchError(CtrError):
    """The stored model was made by another specification, or in a format this version cannot read."""


class SnapshotError(CtrError):
    """A snapshot file that is damaged, none at all, or of a newer version."""


class ShardLostError(CtrError):
    """The model's specification is there but a shard's meta is not: data was lost, and learning on would hide it."""


class OriginsDifferError(ShardLostError):
    """Shards of one model began a partition at different offsets: what lies between counts in some of them alone."""


class FencedError(CtrError):
    """Another writer has taken the model over; nothing of ours may be written any more."""


class ServerWentBackError(CtrError):
    """The store forgot a commit it had acknowledged (fail-over, restored backup): read it again before writing."""


class PositionLostError(CtrError):
    """The log no longer holds, or never held, the event at which learning must go on."""


class TooManyRefusedError(CtrError):
    """So many events cannot be read that the source, or the specification, must be the wrong one."""


class GuardRefusedError(CtrError):
    """What was learned from files that end may not be published; nothing was written."""


class PortInUseError(CtrError):
    """The address to listen on is taken."""


class RequestRefusedError(CtrError):
    """A scoring server's answer to a request that it will never answer otherwise.

    Parameters
    ----------
    status : int
        Of HTTP.
    message : str
        What the server said.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status, self.message = status, message


class ScorerUnavailableError(CtrError):
    """A scoring server did not answer in time, or not yet."""

    retriable = True
