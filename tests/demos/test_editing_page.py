"""The editing tab in a real browser: strokes by mouse, finger and keys, the picture that follows, files in and out."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from browser import browser_page, chromium
from effvision.models.sige.scenes import NAMES, PALETTE, coloured, layout
from label_map_files import png
from page_server import Page
from waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(chromium() is None, reason="needs Chromium: apt-get install chromium, or CHROMIUM=/path/to/it"),
]

TAB = "editing"
SIDE = 256
REACH = 64  # no pixel of this network sees further
COLOURS = {paint.name: np.array(paint.colour) for paint in PALETTE}


@pytest.fixture(scope="module")
def playwright() -> Iterator[Any]:
    with sync_playwright() as running:
        yield running


def part(name: str) -> str:
    return f"#editing [data-part={name}]"


def open_tab(tab: Any) -> None:
    tab.click("button[role=tab]:has-text('Edit a scene')")
    tab.wait_for_selector("#editing [data-able]", state="attached")


@contextlib.contextmanager
def editing_tab(playwright: Any, folder: Path, page: Page, **options: Any) -> Iterator[Any]:
    """Open the page, and then its tab, until the first picture is there."""
    with browser_page(playwright, folder, page.url, **options) as tab:
        open_tab(tab)
        yield tab


def pixels(tab: Any, name: str) -> np.ndarray:
    """A canvas of the tab as it is, RGBA."""
    data = tab.evaluate("(box) => document.querySelector(box).toDataURL().split(',')[1]", part(name))
    found = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)
    return np.asarray(cv2.cvtColor(found, cv2.COLOR_BGRA2RGBA if found.shape[2] == 4 else cv2.COLOR_BGR2RGBA))


def settled(tab: Any) -> tuple[np.ndarray, np.ndarray]:
    """The label map and the picture once nothing is under way, RGB."""
    tab.wait_for_selector("#editing [data-idle=yes]", state="attached")
    return pixels(tab, "map")[..., :3], pixels(tab, "picture")[..., :3]


def says(tab: Any, name: str, words: str) -> None:
    """Wait until a part of the tab shows this, a regular expression."""
    tab.wait_for_function(
        "([part, words]) => new RegExp(words).test(document.querySelector(part).textContent)", arg=[part(name), words]
    )


def at(tab: Any, place: Sequence[float], over: str = "map-over") -> tuple[float, float]:
    """Where a place of the map is in the window."""
    box = tab.locator(part(over)).bounding_box()
    return box["x"] + place[0] / SIDE * box["width"], box["y"] + place[1] / SIDE * box["height"]


def stroke(tab: Any, *places: Sequence[float], over: str = "map-over") -> None:
    """One quick stroke: the mouse jumps from place to place."""
    tab.mouse.move(*at(tab, places[0], over))
    tab.mouse.down()
    for place in places[1:]:
        tab.mouse.move(*at(tab, place, over))
    tab.mouse.up()


def choose(tab: Any, name: str) -> None:
    tab.get_by_role("radio", name=name, exact=True).check()


def distance(places: Sequence[Sequence[float]]) -> np.ndarray:
    """Pixels from each pixel to a line through these places, (256, 256)."""
    blank = np.full((SIDE, SIDE), 255, np.uint8)
    cv2.polylines(blank, [np.array(places, np.int32)], False, 0, 1)
    return np.asarray(cv2.distanceTransform(blank, cv2.DIST_L2, 5))


def is_class(seen: np.ndarray, name: str) -> np.ndarray:
    return np.asarray((seen == COLOURS[name]).all(axis=-1))


def test_the_picture_follows_the_stroke_and_undo_gives_it_back(playwright: Any, page: Page, tmp_path: Path) -> None:
    with editing_tab(playwright, tmp_path / "browser", page) as tab:
        assert page.visitors(1, tab=TAB) == 1
        map_before, before = settled(tab)
        assert np.array_equal(map_before, coloured(layout(7))) and len(np.unique(before.reshape(-1, 3), axis=0)) > 50
        # by key: water; a thinner brush
        tab.keyboard.press("9")
        assert tab.is_checked(f"{part('palette')} input[value='{NAMES.index('water')}']")
        for _ in range(3):
            tab.keyboard.press("[")
        wide = int(tab.inner_text(part("size-text")).split()[0])
        assert wide < 18
        # it follows while the hand still draws
        line = ((40, 40), (200, 60), (60, 90))
        tab.mouse.move(*at(tab, line[0]))
        tab.mouse.down()
        tab.mouse.move(*at(tab, line[1]))
        wait_until(lambda: not np.array_equal(pixels(tab, "picture")[50:60, 115:125, :3], before[50:60, 115:125]))
        tab.mouse.move(*at(tab, line[2]))
        tab.mouse.up()
        drawn, after = settled(tab)
        away, changed = distance(line), (after != before).any(axis=2)
        assert is_class(drawn, "water")[away <= wide / 2 - 2].all(), "without a gap"
        assert np.array_equal(drawn[away > wide / 2 + 2], map_before[away > wide / 2 + 2])
        assert changed[away < 2].mean() > 0.9 and not changed[away > REACH + wide].any()
        # undo and redo, by button and keys: the very same pictures, for the whole stroke
        for back, again in (("#undo", "#redo"), ("Control+z", "Control+Shift+Z"), ("Control+z", "Control+y")):
            for press, wanted in ((back, (map_before, before)), (again, (drawn, after))):
                if press.startswith("#"):
                    tab.click(part(press[1:]))
                else:
                    tab.keyboard.press(press)
                seen = settled(tab)
                assert np.array_equal(seen[0], wanted[0]) and np.array_equal(seen[1], wanted[1]), press
        assert tab.get_attribute(part("redo"), "aria-disabled") == "true"
        # on the picture itself, and the other tools
        choose(tab, "rock")
        stroke(tab, (128, 200), (128, 200), over="picture-over")
        tab.click(part("rectangle"))
        choose(tab, "wall")
        stroke(tab, (20.5, 150.5), (39.5, 169.5))
        tab.click(part("fill"))
        choose(tab, "roof")
        stroke(tab, (30, 160))
        seen = settled(tab)[0]
        assert is_class(seen, "rock")[200, 128]
        assert is_class(seen, "roof")[150:170, 20:40].all() and not is_class(seen, "roof")[149].any()
        check_times(tab)
        check_overlay(tab)
    assert page.visitors(0, tab=TAB) == 0, "leaving frees the session"


def check_times(tab: Any) -> None:
    """Both times are on the page, and their ratio is that of what is shown."""
    tab.click(part("brush"))
    choose(tab, "bush")
    stroke(tab, (200, 200), (204, 200))
    says(tab, "measured", r"median of [3-5], \d+ s ago")  # while nobody paints
    update, full = (float(tab.inner_text(part(name)).split()[0]) for name in ("update-ms", "full-ms"))
    ratio = float(tab.inner_text(part("speedup"))[:-1])
    assert update > 0 and full > 0 and ratio == pytest.approx(full / update, rel=0.1)
    assert 0 < float(tab.inner_text(part("share")).split()[0]) < 60
    says(tab, "differs", r"of 255|nowhere")
    tab.click(part("measure"))
    says(tab, "measured", r"median of [4-5]")


def check_overlay(tab: Any) -> None:
    """What was recomputed is tinted where it was, and only when it is asked for."""
    tab.mouse.move(5, 5)
    stroke(tab, (62, 220))
    settled(tab)
    tab.mouse.move(5, 5)

    def tinted() -> np.ndarray:
        seen = pixels(tab, "picture-over")
        return np.asarray(cv2.resize(seen[..., 3], (SIDE, SIDE), interpolation=cv2.INTER_NEAREST) > 40)

    wait_until(lambda: not tinted().any())
    tab.check(part("overlay"))
    wait_until(lambda: tinted().any())
    there, (left, top, width, height) = tinted(), box_of(tab)
    assert there[220, 62] and there.sum() <= width * height + 2 * (width + height) and there.mean() < 0.5
    there[top : top + height, left : left + width] = False
    assert there.sum() <= 2 * (width + height), "only there, up to rounding"
    tab.uncheck(part("overlay"))
    wait_until(lambda: not tinted().any())


def box_of(tab: Any) -> list[int]:
    area = tab.evaluate("document.querySelector('#editing [data-area]').dataset.area")
    return [int(value) for value in area.split(",")]


def test_files_in_and_out_and_another_visitor_who_sees_nothing_of_it(
    playwright: Any, page: Page, tmp_path: Path
) -> None:
    with editing_tab(playwright, tmp_path / "browser", page) as tab:
        other = tab.context.new_page()
        other.goto(page.url)
        open_tab(other)
        assert page.visitors(2, tab=TAB) == 2
        beside = settled(other)
        before = settled(tab)

        def give(data: bytes) -> None:
            tab.set_input_files(part("file"), files=[{"name": "map.png", "mimeType": "image/png", "buffer": data}])

        # refused: said on the page, and nothing changes
        for data, words in (
            (png(layout(9)[:100]), "256 x 100"),
            (png(coloured(layout(9)) // 2), "no class"),
            (b"\xff\xd8\xff\xe0", "JPEG"),
            (bytes(3 * 2**20), "the limit here is"),
        ):
            give(data)
            says(tab, "message", words)
            seen = settled(tab)
            assert np.array_equal(seen[0], before[0]) and np.array_equal(seen[1], before[1])
        # accepted: by colour and by number, undone like a stroke
        give(png(coloured(layout(9))))
        wait_until(lambda: np.array_equal(settled(tab)[0], coloured(layout(9))))
        assert tab.is_hidden(part("message"))
        colours = settled(tab)[1]
        tab.click(part("undo"))
        assert np.array_equal(settled(tab)[1], before[1])
        give(png(layout(9)))
        wait_until(lambda: np.array_equal(settled(tab)[1], colours))
        # out again
        saved = {}
        for name in ("save-map", "save-picture"):
            with tab.expect_download() as fetched:
                tab.click(part(name))
            fetched.value.save_as(tmp_path / f"{name}.png")
            saved[name] = cv2.imread(str(tmp_path / f"{name}.png"))[..., ::-1]
        assert np.array_equal(saved["save-map"], coloured(layout(9)))
        assert np.array_equal(saved["save-picture"], colours)
        # another landscape, another mode
        tab.click(part("scene"))
        wait_until(lambda: not np.array_equal(settled(tab)[0], coloured(layout(9))))
        tab.select_option(part("mode"), "exact")
        says(tab, "mode-note", "Equal to the full pass")
        settled(tab)
        assert np.array_equal(settled(other)[1], beside[1]) and np.array_equal(settled(other)[0], beside[0])
        other.close()
        assert page.visitors(1, tab=TAB) == 1


def test_what_the_server_refuses_is_taken_back_and_a_lost_connection_costs_no_map(
    playwright: Any, page: Page, tmp_path: Path
) -> None:
    """The wire between page and server is bent: a class becomes one that is none, and then the connection is cut."""
    bent = {"spoil": False}
    routes: list[Any] = []

    def wire(route: Any) -> None:
        server = route.connect_to_server()
        routes.append(route)
        route.on_message(
            lambda said: server.send(
                said[:17] + bytes([99]) * (len(said) - 17) if bent["spoil"] and isinstance(said, bytes) else said
            )
        )

    with browser_page(playwright, tmp_path / "browser", page.url, scheme="dark") as tab:
        tab.route_web_socket("**/effvision/live/editing", wire)
        open_tab(tab)
        before = settled(tab)
        bent["spoil"] = True
        stroke(tab, (40, 200), (90, 200))
        says(tab, "message", "99")
        bent["spoil"] = False
        seen = settled(tab)
        assert np.array_equal(seen[0], before[0]) and np.array_equal(seen[1], before[1])
        choose(tab, "water")
        stroke(tab, (40, 200), (90, 200))
        painted = settled(tab)
        assert is_class(painted[0], "water")[200, 40:90].all()
        routes[-1].close()
        wait_until(lambda: tab.evaluate("true") and len(routes) == 2)  # asking lets the wire be seen to
        tab.wait_for_selector("#editing [data-able]", state="attached")
        wait_until(lambda: np.array_equal(settled(tab)[0], painted[0]))
        by_hand(tab)


def by_hand(tab: Any) -> None:
    """Every width; a finger on the narrow page; and without mouse or finger."""
    for width in (1280, 800, 400, 320):
        tab.set_viewport_size({"width": width, "height": 800})
        assert tab.evaluate("document.scrollingElement.scrollWidth") <= width
    tab.set_viewport_size({"width": 400, "height": 800})
    choose(tab, "rock")
    touch = tab.context.new_cdp_session(tab)
    for over, row in (("map-over", 30), ("picture-over", 60)):
        tab.locator(part(over)).scroll_into_view_if_needed()
        for kind, place in (("touchStart", (100, row)), ("touchMove", (180, row)), ("touchEnd", None)):
            points = [] if place is None else [dict(zip("xy", at(tab, place, over), strict=True))]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        wait_until(lambda row=row: is_class(settled(tab)[0], "rock")[row, 100:180].all())
    boxes = [tab.locator(part(name)).bounding_box() for name in ("map-over", "picture-over")]
    assert sum(box["height"] for box in boxes) < 800, "both are seen at once"
    tab.focus(part("map-over"))
    tab.keyboard.press("1")
    for key in ("ArrowLeft", "Shift+ArrowDown", "Space"):
        tab.keyboard.press(key)
    wait_until(lambda: is_class(settled(tab)[0], "sky")[128 + 16, 128 - 4])
