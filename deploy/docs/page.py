"""The demo's workers in, pictures of their live pages out: pictures/page-*.png, light, dark and narrow.

`make pictures` takes them, with Playwright of the extra `dev`, Pillow, which comes with matplotlib of the
extra `docs`, and the system's Chromium.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from deploy.local.chromium import browser
from deploy.local.tour import HISTORY, SEED, Requests, Truth, ask, running, scrape
from workers.lifecycle import Shutdown
from workers.market import Market

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

DIRECTORY = Path(__file__).with_name("pictures")
SECONDS = 100.0
"""Of learning and scoring before the first picture: so long are its curves."""


def main(seconds: float = SECONDS) -> None:
    """Run the demo's workers and take all pictures."""
    shutdown, truth = Shutdown(), Truth()
    DIRECTORY.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="ctr-page-") as directory,
        running(Path(directory), shutdown, truth) as (trainer, scorer),
        browser() as chromium,
    ):
        asked = Requests(Market(seed=SEED))
        while scrape(trainer).get("ctr_events_total", 0.0) < HISTORY:  # on a new machine kernels are compiled first
            time.sleep(0.5)
        ask(scorer, truth.events, asked, truth.base_rate)
        for worker in (trainer, scorer):
            worker.restart()
        end = time.monotonic() + seconds
        # Watched from the beginning, so that there is a sample for every second.
        light = _opened(chromium, trainer.address, width=1280, scheme="light")
        dark = _opened(chromium, scorer.address, width=1280, scheme="dark")
        narrow = _opened(chromium, trainer.address, width=360, scheme="light", scale=2)
        while time.monotonic() < end:
            ask(scorer, truth.events, asked, truth.base_rate)
            light.wait_for_timeout(100)
        _take(light, "page-light", until="#score")
        _score(dark)
        _take(dark, "page-dark", until="#features")
        narrow.screenshot(path=DIRECTORY / "page-narrow.png")
        _shrink(DIRECTORY / "page-narrow.png")
        if len(sys.argv) > 2:  # to look at: everything, in every way
            for name, page in (("light", light), ("dark", dark), ("narrow", narrow)):
                _score(page)
                page.screenshot(path=Path(sys.argv[2]) / f"whole-{name}.png", full_page=True)


def _opened(chromium: Browser, address: str, *, width: int, scheme: str, scale: float = 1) -> Page:
    page = chromium.new_page(
        viewport={"width": width, "height": 780 if width < 600 else 900}, device_scale_factor=scale,
        color_scheme="dark" if scheme == "dark" else "light", locale="en-GB", timezone_id="UTC",
    )  # fmt: skip
    page.goto(address)
    return page


def _score(page: Page) -> None:
    page.get_by_role("button", name="Score").click()
    page.locator("#prediction").wait_for()
    page.evaluate("scrollTo(0, 0)")


def _take(page: Page, name: str, *, until: str | None = None) -> None:
    """A picture of the page, down to where the element `until` begins."""
    box = page.locator(until or "body").bounding_box()
    assert box is not None
    height = box["y"] if until else box["y"] + box["height"]
    width = (page.viewport_size or {"width": 1280})["width"]
    clip = {"x": 0.0, "y": 0.0, "width": float(width), "height": height}
    page.screenshot(path=DIRECTORY / f"{name}.png", full_page=True, clip=clip)  # type: ignore[arg-type]  # a TypedDict
    _shrink(DIRECTORY / f"{name}.png")


def _shrink(path: Path) -> None:
    """A palette of 128 colours: a quarter of the bytes, and no eye sees it."""
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS)
