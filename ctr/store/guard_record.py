"""What a model's guard says and what an operator answers, beside the model: ``ctr:{m}:guard``, a hash.

The trainer writes it under a WATCH of its lease: one that has lost the model leaves the record alone. An operator's
decision is bound to the refusal that was looked at, so that it never answers another one.
"""

from __future__ import annotations

from collections.abc import Mapping

from ctr.store.connection import Client, Session, translated
from ctr.store.keys import guard_key, lease_key


class GuardRecord:
    """The trainer's side.

    Parameters
    ----------
    client : Client
    model_id : str
    holder : bytes
        `Lease.token` of this process.
    """

    def __init__(self, client: Client, model_id: str, holder: bytes) -> None:
        self._key, self._lease_key, self._holder = guard_key(model_id), lease_key(model_id), holder
        self._session = Session(client, self._key)

    def read(self) -> dict[str, str]:
        """All of it; empty where there is none.

        Raises
        ------
        StoreUnavailableError
        """
        with translated():
            flat: list[bytes] = self._session.call("HGETALL", self._key)
        return {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}

    def write(self, fields: Mapping[str, str]) -> bool:
        """Set these fields, if the lease is ours; whether it was.

        Raises
        ------
        StoreUnavailableError
        """
        with translated():
            _, holder = self._session.calls([("WATCH", self._lease_key), ("GET", self._lease_key)])
            if holder != self._holder:
                self._session.call("UNWATCH")
                return False
            flat = [part for item in fields.items() for part in item]
            return self._session.transaction([("HSET", self._key, *flat)]) is not None

    def close(self) -> None:
        """Give the connection up."""
        self._session.drop()


def read(client: Client, model_id: str) -> dict[str, str]:
    """A model's record as an operator sees it; empty where there is none.

    Raises
    ------
    StoreUnavailableError
    """
    session = Session(client, guard_key(model_id))
    with translated():
        flat: list[bytes] = session.call("HGETALL", guard_key(model_id))
    session.drop()
    return {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}


def decide(client: Client, model_id: str, refusal: str, fields: Mapping[str, str]) -> bool:
    """Set these fields, if `refusal` is still the one that waits for an answer; whether it is.

    Raises
    ------
    StoreUnavailableError
    """
    key = guard_key(model_id)
    session = Session(client, key)
    try:
        with translated():
            _, found = session.calls([("WATCH", key), ("HMGET", key, "state", "refusal")])
            if found != [b"refusing", refusal.encode()]:
                return False
            return session.transaction([("HSET", key, *(part for item in fields.items() for part in item))]) is not None
    finally:
        session.drop()
