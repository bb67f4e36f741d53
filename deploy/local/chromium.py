"""Debian's Chromium, headless, in; pages to look at, to type into and to photograph out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from deploy.local.process import ServiceMissingError

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FLAGS = (
    "--no-sandbox",     # as root there is none
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@contextmanager
def browser() -> Iterator[Browser]:
    """One process for many pages.

    Raises
    ------
    ServiceMissingError
        There is no Chromium, or no Playwright to drive it; the message says how to get one.
    """
    binary = shutil.which("chromium")
    if binary is None:
        raise ServiceMissingError("no chromium: install it (`deploy/setup.sh services`)")
    if find_spec("playwright") is None:
        raise ServiceMissingError("no playwright: install it (`pip install playwright`; its own browsers are not used)")
    from playwright.sync_api import sync_playwright  # noqa: PLC0415  a package for developers

    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=binary, args=list(FLAGS))
        try:
            yield running
        finally:
            running.close()
