"""Take the picture of the editing tab that the README shows: `python tests/kit/page_picture.py demos/editing.png`.

A page is served and painted on in headless Chromium, as its tests do; all figures in the picture are of that run.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from browser import browser_page, chromium
from effvision._files import write_bytes
from page_server import served

WIDTH, HEIGHT = 1280, 920
SIDE = 256


def place(tab: Any, x: float, y: float) -> tuple[float, float]:
    box = tab.locator("#editing [data-part=map-over]").bounding_box()
    return box["x"] + x / SIDE * box["width"], box["y"] + y / SIDE * box["height"]


def paint(tab: Any, name: str, wide: int, *places: tuple[float, float], hold: bool = False) -> None:
    """One stroke through these places, in pixels of the map; with `hold` the brush stays on the map."""
    tab.get_by_role("radio", name=name, exact=True).check()
    tab.fill("#editing [data-part=size]", str(wide))
    tab.mouse.move(*place(tab, *places[0]))
    tab.mouse.down()
    for there in places[1:]:
        tab.mouse.move(*place(tab, *there), steps=6)
    tab.wait_for_selector("#editing [data-idle=yes]", state="attached")
    if not hold:
        tab.mouse.up()


def take(scene: int) -> bytes:
    """Return the picture, PNG."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_folder = Path(folder) / "page"
        page_folder.mkdir()
        with (
            served(page_folder, ["-m", "effvision", "demo", "--port", "0", "--json"]) as page,
            browser_page(playwright, Path(folder) / "browser", page.url, size=(WIDTH, HEIGHT)) as tab,
        ):
            tab.click("button[role=tab]:has-text('Edit a scene')")
            tab.wait_for_selector("#editing [data-able]", state="attached")
            for _ in range(scene):
                tab.click("#editing [data-part=scene]")
                tab.wait_for_selector("#editing [data-idle=yes]", state="attached")
            paint(tab, "tree", 26, (40, 150), (60, 140))
            paint(tab, "rock", 14, (200, 200), (216, 206))
            measured = "document.querySelector('#editing [data-part=measured]').textContent.startsWith('median of')"
            tab.wait_for_function(measured)
            tab.check("#editing [data-part=overlay]")
            paint(tab, "water", 18, (110, 250), (122, 224), (150, 206), hold=True)
            tab.wait_for_timeout(300)  # for the chart, which is drawn a few times a second
            return bytes(tab.screenshot())


def main() -> int:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="the PNG to write, such as demos/editing.png")
    parser.add_argument("--scene", type=int, default=0, help="which landscape, counted from the first")
    given = parser.parse_args()
    if chromium() is None:
        sys.exit("needs Chromium: apt-get install chromium, or CHROMIUM=/path/to/it")
    seen = Image.open(io.BytesIO(take(given.scene))).convert("RGB")
    small = io.BytesIO()
    seen.save(small, "PNG", optimize=True)  # every colour: the palette's stand beside those of the map
    write_bytes(given.path, small.getvalue())
    return 0


if __name__ == "__main__":
    sys.exit(main())
