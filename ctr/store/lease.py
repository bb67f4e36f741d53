"""A model's name and a token go in; whether this process is the one that is to write comes out.

The lease is advisory: it says who should take over, so that of several trainers of a model one writes and the others
stand by. What keeps a model whole is the owner token of each shard alone (`ctr.store.writer`); should two processes
ever hold the lease at once, one of them is fenced at its next commit.
"""

from __future__ import annotations

import secrets

from ctr.store.connection import Client, Session, translated
from ctr.store.keys import lease_key

_RELEASED = b"released"
"""In the holder's place after a graceful stop: nobody needs to wait whether it comes back."""


class Lease:
    """One process's claim to be a model's writer.

    Parameters
    ----------
    client : Client
    model_id : str
    ttl_s : float
        Without a renewal it is over after this time.
    """

    def __init__(self, client: Client, model_id: str, *, ttl_s: float) -> None:
        self.ttl_s = ttl_s
        self._key, self.token = lease_key(model_id), secrets.token_hex(16).encode()
        """What stands there while it is ours."""
        self._session = Session(client, self._key)

    def is_free(self) -> bool | None:
        """Whether it was released; None where nobody has it: the holder died, or has yet to come back to it.

        Raises
        ------
        StoreUnavailableError
        """
        with translated():
            holder: bytes | None = self._session.call("GET", self._key)
        return None if holder is None else holder == _RELEASED

    def hold(self) -> bool:
        """Take it, or renew it. Whether it is ours now.

        Raises
        ------
        StoreUnavailableError
        """
        ttl_ms = int(self.ttl_s * 1000)
        with translated():
            _, holder = self._session.calls([("WATCH", self._key), ("GET", self._key)])
            if holder is None or holder == _RELEASED:
                taken = self._session.transaction([("SET", self._key, self.token, "PX", ttl_ms)])
                return taken is not None
            # neither SET nor MULTI: a server without memory to spare refuses them, and this one it does not; between
            # GET and it the lease may pass on, and is then renewed for its new holder
            self._session.call("UNWATCH")
            return bool(holder == self.token and self._session.call("PEXPIRE", self._key, ttl_ms))

    def release(self) -> None:
        """Let another take it at once, if it is ours.

        Raises
        ------
        StoreUnavailableError
        """
        with translated():
            _, holder = self._session.calls([("WATCH", self._key), ("GET", self._key)])
            if holder == self.token:
                self._session.transaction([("SET", self._key, _RELEASED, "PX", int(self.ttl_s * 1000))])
            else:
                self._session.call("UNWATCH")

    def close(self) -> None:
        """Give the connection up."""
        self._session.drop()
