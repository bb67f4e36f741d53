"""A Redis URL goes in, what a client needs to know of it comes out, and a form of it that may be shown.

    redis://[user:password@]HOST[:PORT][/DB]            one server; rediss:// by TLS, unix:///PATH by a socket
    redis+sentinel://[...@]HOST[:PORT][,...]/NAME[/DB]  the master that these Sentinels know by NAME
    redis+cluster://[...@]HOST[:PORT][,...]             a Cluster that these nodes know

rediss+sentinel and rediss+cluster are the same by TLS. What follows a question mark is redis-py's: ssl_ca_certs,
ssl_certfile, ssl_keyfile, ssl_cert_reqs, ssl_check_hostname and others; for Sentinels that ask for a login of their
own, sentinel_username and sentinel_password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from redis.connection import SSLConnection, parse_url

from ctr.errors import SettingError

_SCHEMES = {
    "redis": "single", "rediss": "single", "unix": "single", "redis+sentinel": "sentinel",
    "rediss+sentinel": "sentinel", "redis+cluster": "cluster", "rediss+cluster": "cluster",
}  # fmt: skip
_ALLOWED = (
    "redis://[user:password@]HOST:PORT/DB, rediss://..., unix://PATH, redis+sentinel://HOST:PORT[,...]/NAME/DB or "
    "redis+cluster://HOST:PORT[,...]; what is special in user and password is percent-encoded"
)
_PORTS = {"single": 6379, "sentinel": 26379, "cluster": 6379}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a Redis is.

    Attributes
    ----------
    kind : str
        ``single``, ``sentinel`` or ``cluster``.
    shown : str
        The URL without user, password and query.
    hosts : tuple of (str, int)
        Empty for a socket.
    options : dict
        redis-py's, login and certificates included.
    service : str
        Name of the master that Sentinels watch.
    sentinel : dict
        Login of the Sentinels themselves.
    """

    kind: str
    shown: str
    hosts: tuple[tuple[str, int], ...] = ()
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    service: str = ""
    sentinel: dict[str, str] = field(default_factory=dict, repr=False)


def shown(url: str) -> str:
    """The URL without what may be secret: user and password, and all values behind a question mark."""
    head, separator, tail = url.partition("://")
    if not separator:
        return "***" if "@" in url or "?" in url else url
    _, at, place = tail.rpartition("@")
    place, query, _ = place.partition("?")
    return f"{head}://{'***@' if at else ''}{place}{'?***' if query else ''}"


def parse(url: str) -> Address:
    """Read a URL.

    Raises
    ------
    SettingError
        It cannot be read; the message holds no secret.
    """
    try:
        return _parsed(url)
    except ValueError:
        # not what the parser says: its message may quote a part of the password
        raise SettingError("redis", shown(url), _ALLOWED) from None


def _parsed(url: str) -> Address:
    parts = urlsplit(url)
    kind = _SCHEMES.get(parts.scheme)
    if kind is None:
        raise ValueError
    query = dict(parse_qsl(parts.query))
    sentinel = {
        name.removeprefix("sentinel_"): query.pop(name)
        for name in ("sentinel_username", "sentinel_password")
        if name in query
    }
    path = parts.path
    service = ""
    if kind == "sentinel":
        _, service, *rest = [*path.split("/"), ""]
        path = "/" + "/".join(rest).strip("/")
        if not service:
            raise ValueError
    if parts.scheme != "unix" and not re.fullmatch(r"/?" if kind == "cluster" else r"/?\d*", path):
        raise ValueError  # redis-py would take database 0
    login, at, places = parts.netloc.rpartition("@")
    hosts = tuple(_host(place, _PORTS[kind]) for place in places.split(",")) if parts.scheme != "unix" else ()
    plain = parts.scheme.partition("+")[0]
    one = places if parts.scheme == "unix" else "localhost"
    simple = f"{plain}://{login}{at}{one}{path}{'?' if query else ''}{urlencode(query)}"
    options = parse_url(simple)  # type: ignore[no-untyped-call]  # redis-py has none there
    for name in ("host", "port"):
        options.pop(name, None)
    if options.pop("connection_class", None) is SSLConnection:
        options["ssl"] = True
    if parts.scheme == "unix":
        options["unix_socket_path"] = options.pop("path", "")
    return Address(kind, shown(url), hosts, options, unquote(service), sentinel)


def _host(place: str, default: int) -> tuple[str, int]:
    parts = urlsplit(f"//{place}")
    if not parts.hostname:
        return "localhost", parts.port or default  # as redis-py has it
    return unquote(parts.hostname), parts.port or default
