"""The page's files in, answers to a browser out: read once, compressed once, nothing from anywhere else."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from importlib import resources

from ctr.serving.asgi import App, Handler, Request, Response

_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
FILES = ("page.css", "page.js", "state.js", "charts.js", "panels.js", "score.js", "icon.svg")
"""What ``index.html`` loads, each at ``/page/NAME``."""

# Nothing inline, nothing foreign, no frame around it; forms are answered by the script alone.
_SAFE = (
    (b"content-security-policy", b"default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),  # asked again each time, answered with 304: a worker's new version is seen at once
)


def add(app: App, *, substitutes: Mapping[str, str]) -> None:
    """Give an application ``/`` and the files beside it. Public: nothing of the model is in them.

    Parameters
    ----------
    app : App
    substitutes : mapping
        What stands in ``index.html`` for ``{{name}}``: known to be harmless, nothing is escaped.
    """
    html = _text("index.html")
    for name, value in substitutes.items():
        html = html.replace(f"{{{{{name}}}}}", value)
    app.route("GET", "/", _served(html.encode(), ".html"), public=True)
    for name in FILES:
        app.route("GET", f"/page/{name}", _served(_text(name).encode(), name[name.rindex(".") :]), public=True)


def _text(name: str) -> str:
    return resources.files("ctr.page").joinpath("static", name).read_text(encoding="utf-8")


def _served(body: bytes, suffix: str) -> Handler:
    tag = b'"%s"' % hashlib.sha256(body).hexdigest()[:16].encode()
    packed = gzip.compress(body, mtime=0)
    headers = [(b"content-type", _TYPES[suffix]), (b"etag", tag), (b"vary", b"accept-encoding"), *_SAFE]

    async def answer(request: Request) -> Response:
        if request.header(b"if-none-match") == tag:
            return Response(b"", 304, list(headers))
        if b"gzip" in request.header(b"accept-encoding"):
            return Response(packed, 200, [*headers, (b"content-encoding", b"gzip")])
        return Response(body, 200, list(headers))

    return answer
