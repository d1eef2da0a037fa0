"""The tracking tab in a real browser: boxes drawn with the mouse, a camera made of a film, the detector's chart."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from browser import browser_page, chromium
from detector_files import finds_square
from effvision.host.boxes import box_iou
from effvision.models.patchnet.sample import FIRST_BOXES, render
from effvision.sources import VideoWriter
from page_server import Page
from waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(chromium() is None, reason="needs Chromium: apt-get install chromium, or CHROMIUM=/path/to/it"),
]

TAB = "tracking"
TRUTH = [boxes for _, boxes in render(200)]


@pytest.fixture(scope="module")
def playwright() -> Iterator[Any]:
    with sync_playwright() as running:
        yield running


@contextlib.contextmanager
def tracking_tab(playwright: Any, folder: Path, page: Page, **options: Any) -> Iterator[Any]:
    """Open the page, and then its tab, which shows the first picture of the sample."""
    with browser_page(playwright, folder, page.url, **options) as tab:
        tab.click("button[role=tab]:has-text('Tracking')")
        tab.wait_for_selector("#tracking [data-frame]", state="attached")
        yield tab


def part(name: str) -> str:
    return f"#tracking [data-part={name}]"


def says(tab: Any, name: str, words: str) -> None:
    """Wait until a part of the tab shows this, a regular expression."""
    tab.wait_for_function(
        "([part, words]) => new RegExp(words).test(document.querySelector(part).textContent)", arg=[part(name), words]
    )


def now(tab: Any) -> tuple[int, list[dict[str, Any]]]:
    """The frame that is shown and the objects in it."""
    told = tab.evaluate("({...document.querySelector('#tracking [data-ready]').dataset})")
    return int(told.get("frame", -1)), json.loads(told.get("tracks", "[]"))


def until(tab: Any, true: Any) -> tuple[int, list[dict[str, Any]]]:
    found: list[tuple[int, list[dict[str, Any]]]] = []
    wait_until(lambda: true(*(found.append(now(tab)) or found[-1])))
    return found[-1]


def standing(tab: Any) -> int:
    """Wait until the picture has not changed for half a second; return its number."""
    seen, since = now(tab)[0], time.monotonic()

    def still() -> bool:
        nonlocal seen, since
        if (frame := now(tab)[0]) != seen:
            seen, since = frame, time.monotonic()
        return time.monotonic() - since > 0.5

    wait_until(still)
    return seen


def on_stage(tab: Any, place: Sequence[float], size: tuple[int, int]) -> tuple[float, float]:
    """Where a place of the frame is in the window."""
    stage = tab.locator(part("over")).bounding_box()
    scale = min(stage["width"] / size[0], stage["height"] / size[1])
    left, top = (
        stage[side] + (stage[long] - whole * scale) / 2
        for side, long, whole in zip(("x", "y"), ("width", "height"), size, strict=True)
    )
    return left + place[0] * scale, top + place[1] * scale


def draw(tab: Any, box: Sequence[float], size: tuple[int, int] = (480, 360)) -> None:
    tab.mouse.move(*on_stage(tab, box[:2], size))
    tab.mouse.down()
    tab.mouse.move(*on_stage(tab, box[2:], size), steps=4)
    tab.mouse.up()


def overlap(one: dict[str, Any], boxes: np.ndarray) -> np.ndarray:
    return np.asarray(box_iou(np.array([one["box"]]), boxes)[0])


def test_a_box_drawn_on_the_sample_moves_with_its_balloon(playwright: Any, page: Page, tmp_path: Path) -> None:
    with tracking_tab(playwright, tmp_path / "browser", page) as tab:
        assert page.visitors(1, tab=TAB) == 1
        says(tab, "hint", "Drag a box")
        for box in FIRST_BOXES[:2]:
            draw(tab, box)
        _, drawn = until(tab, lambda _, objects: len(objects) == 2)
        assert [overlap(one, TRUTH[0]).argmax() for one in drawn] == [0, 1] and overlap(drawn[0], TRUTH[0])[0] > 0.9
        # a slip of the hand is no box, a thin one is told so
        draw(tab, (300, 300, 301, 301))
        draw(tab, (300, 300, 400, 301))
        says(tab, "message", "too thin")
        # its x takes it away
        _, top, right, _ = drawn[1]["box"]
        tab.mouse.click(*on_stage(tab, (right, top), (480, 360)))
        until(tab, lambda _, objects: [one["id"] for one in objects] == [1])
        tab.click(part("go"))
        for least in (10, 25, 40):
            frame, objects = until(tab, lambda frame, _, least=least: frame >= least)
            assert overlap(objects[0], TRUTH[frame])[0] > 0.4, frame
        assert abs(objects[0]["box"][0] - drawn[0]["box"][0]) > 15, "it moved"
        # another one while it runs: the picture waits for the hand
        tab.mouse.move(*on_stage(tab, (200, 20), (480, 360)))
        tab.mouse.down()
        held = standing(tab)
        assert held < 150, "it is not the end of the clip that holds it"
        tab.mouse.move(*on_stage(tab, (260, 80), (480, 360)))
        tab.mouse.up()
        until(tab, lambda frame, objects: frame > held + 3 and len(objects) == 2)
        assert float(tab.inner_text(part("fps"))) > 3 and tab.inner_text(part("took")).endswith("ms")
        says(tab, "title", "2 objects")
        # restart: the box of the first picture; clear; stop
        tab.click(part("again"))
        frame, objects = until(tab, lambda frame, objects: 0 <= frame < held and objects)
        assert len(objects) == 1 and overlap(objects[0], TRUTH[frame])[0] > 0.4
        tab.click(part("go"))
        says(tab, "go", "Continue")
        tab.click(part("clear"))
        says(tab, "title", "Nothing followed")
        tab.click(part("stop"))
        assert not tab.query_selector("#tracking [data-source]")
    assert page.visitors(0, tab=TAB) == 0, "leaving frees the session"


def test_an_object_of_the_camera_is_drawn_on_the_frozen_picture_and_followed(
    playwright: Any, page: Page, tmp_path: Path
) -> None:
    film, size = tmp_path / "film.mjpeg", (640, 480)
    with film.open("wb") as file:
        for image, _ in render(200):
            picture = cv2.resize(image[..., ::-1], size)
            file.write(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())
    truth = [boxes[0] * size[0] / 480 for boxes in TRUTH]
    with tracking_tab(playwright, tmp_path / "browser", page, camera=film) as tab:
        tab.click(part("camera"))
        tab.wait_for_selector("#tracking [data-source=camera]")
        tab.wait_for_function("document.querySelector('#tracking [data-part=shown]').width === 640")
        tab.click(part("go"))  # freeze
        says(tab, "go", "Start")
        # where the red balloon is, looked for in the picture as a visitor's eye does
        data = tab.evaluate("document.querySelector('#tracking [data-part=shown]').toDataURL().split(',')[1]")
        frozen = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        red = (frozen[..., 2] > 150) & (frozen[..., 1] < 90) & (frozen[..., 0] < 90)
        joined = cv2.dilate(red.astype(np.uint8), np.ones((15, 15), np.uint8))
        patches = cv2.connectedComponentsWithStats(joined)[2][1:]
        x, y, wide, high, _ = patches[patches[:, 4].argmax()]
        draw(tab, (x, y, x + wide, y + 1.2 * high), size)
        until(tab, lambda _, objects: objects)
        tab.click(part("go"))
        frames = [now(tab)[0]]
        for _ in range(4):
            frame, objects = until(tab, lambda frame, _: frame > frames[-1] + 6)
            frames.append(frame)
            assert max(overlap(objects[0], np.array(truth))) > 0.35
        says(tab, "lag", r"^\d+ ms")
        tab.click(part("stop"))
        assert not tab.evaluate("document.querySelector('#tracking [data-part=video]').srcObject")


# In the page: of the upper line of the first object's box, how many pixels are drawn in each colour.
_LINE = """() => {
  const over = document.querySelector('#tracking [data-part=over]'), root = document.querySelector('#tracking [data-ready]');
  const [one] = JSON.parse(root.dataset.tracks), scale = over.width / 480, seen = {};
  const [left, top, right] = one.box.map((place) => Math.round(place * scale));
  const row = over.getContext('2d').getImageData(left, top, right - left - 30, 1).data;
  for (let at = 0; at < row.length; at += 4) {
    const name = row[at + 3] < 128 ? 'clear' : '#' + [0, 1, 2].map((k) => row[at + k].toString(16).padStart(2, '0')).join('');
    seen[name] = (seen[name] ?? 0) + 1;
  }
  return [one.colour, seen];
}"""


def test_a_lost_object_is_dashed_grey_and_said_to_be_lost(playwright: Any, page: Page, tmp_path: Path) -> None:
    clip = tmp_path / "fog.mp4"
    with VideoWriter(clip, fps=25, size=(360, 480)) as video:
        for index, (image, _) in enumerate(render(60)):
            video.write(np.full_like(image, 128) if index >= 15 else image)  # fog
    with tracking_tab(playwright, tmp_path / "browser", page) as tab:
        tab.set_input_files(part("file"), clip)
        tab.wait_for_function(
            "document.querySelector('#tracking [data-part=hint]').textContent.startsWith('Drag a box')"
        )
        tab.wait_for_selector("#tracking [data-frame='0']", state="attached")
        draw(tab, (150, 150, 250, 250))
        until(tab, lambda _, objects: len(objects) == 1)
        colour, seen = tab.evaluate(_LINE)
        assert seen.get(colour, 0) > 0.8 * sum(seen.values()), "one line in its own colour"
        tab.click(part("go"))
        until(tab, lambda _, objects: objects and objects[0]["lost"])
        says(tab, "title", "1 object, 1 lost")
        says(tab, "objects", "LOST")
        says(tab, "hint", "The end of the clip")
        _, seen = tab.evaluate(_LINE)
        grey = seen.get("#c4c8d0", 0) / sum(seen.values())
        assert 0.3 < grey < 0.85 and seen.get("clear", 0) and not seen.get(colour), seen
    assert page.visitors(0, tab=TAB) == 0


def test_the_detectors_share_follows_the_slider_and_another_visitor_sees_nothing_of_it(
    playwright: Any, page: Page, tmp_path: Path
) -> None:
    with (
        tracking_tab(playwright, tmp_path / "browser", page) as tab,
        tracking_tab(playwright, tmp_path / "other", page) as other,
    ):
        assert page.visitors(2, tab=TAB) == 2
        draw(other, FIRST_BOXES[0])
        tab.click(part("by-detector"))
        tab.fill(part("wait_ms"), "250")  # so that a busy machine's tracker does not matter
        says(tab, "wait_ms-text", "250 ms")
        says(tab, "of-frames", r"^1[2-5] %")
        _, objects = until(tab, lambda frame, objects: frame > 20)
        assert [one["id"] for one in objects] == [1, 2, 3]
        tab.wait_for_selector(part("key"), state="visible")
        tracker, detector = tab.evaluate(_CHART)
        assert tracker > 0 and detector > 0
        tab.fill(part("every"), "2")
        says(tab, "every-text", "2 frames")
        says(tab, "of-frames", r"^(4|5)\d %")
        slow = float(tab.inner_text(part("speedup"))[:-1])
        tab.fill(part("every"), "25")
        says(tab, "of-frames", r"^\d(\.\d)? %")
        wait_until(lambda: float(tab.inner_text(part("speedup"))[:-1]) > slow)
        _, objects = now(tab)
        assert [one["id"] for one in objects] == [1, 2, 3]
        # a file that is no detector, then one that is
        wrong = tmp_path / "wrong.onnx"
        wrong.write_bytes(b"no graph" * 30)
        tab.set_input_files(part("onnx"), wrong)
        says(tab, "message", "wrong.onnx")
        tab.set_input_files(part("onnx"), finds_square(tmp_path / "mine.onnx"))
        says(tab, "detector", "mine.onnx")
        assert tab.input_value(part("detector")) == "own"
        assert not tab.is_visible(part("wait_ms"))
        # the other one still has its one box, on the first picture
        frame, objects = now(other)
        assert frame == 0 and len(objects) == 1 and overlap(objects[0], TRUTH[0])[0] > 0.9
    assert page.visitors(0, tab=TAB) == 0


# In the page: pixels of the chart in the colours of tracker and detector.
_CHART = """() => {
  const chart = document.querySelector('#tracking [data-part=chart]');
  const data = chart.getContext('2d').getImageData(0, 0, chart.width, chart.height).data;
  const seen = new Map();
  for (let at = 0; at < data.length; at += 4) {
    const colour = data.slice(at, at + 3).join();
    seen.set(colour, (seen.get(colour) ?? 0) + 1);
  }
  return [seen.get('0,114,178') ?? 0, seen.get('213,94,0') ?? 0];
}"""


def test_it_fits_a_phone_and_needs_no_mouse(playwright: Any, page: Page, tmp_path: Path) -> None:
    with tracking_tab(playwright, tmp_path / "browser", page, scheme="dark") as tab:
        for by in ("by-detector", "by-hand"):
            tab.click(part(by))
            for width in (1280, 390, 320):
                tab.set_viewport_size({"width": width, "height": 800})
                assert tab.evaluate("document.scrollingElement.scrollWidth") <= width, (by, width)
        tab.wait_for_selector("#tracking [data-frame='0']", state="attached")
        tab.focus(part("over"))
        for key in ("Enter", "ArrowLeft", "ArrowUp", "Shift+ArrowDown", "Enter"):
            tab.keyboard.press(key)
        _, objects = until(tab, lambda _, objects: len(objects) == 1)
        assert objects[0]["box"] == pytest.approx([184, 136, 280, 216], abs=1)
        tab.keyboard.press("Delete")
        until(tab, lambda _, objects: not objects)
        # a finger, on the narrow page
        touch = tab.context.new_cdp_session(tab)
        tab.locator(part("over")).scroll_into_view_if_needed()
        for kind, place in (("touchStart", FIRST_BOXES[0][:2]), ("touchMove", FIRST_BOXES[0][2:]), ("touchEnd", None)):
            points = [] if place is None else [dict(zip("xy", on_stage(tab, place, (480, 360)), strict=True))]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        _, objects = until(tab, lambda _, objects: len(objects) == 1)
        assert overlap(objects[0], TRUTH[0])[0] > 0.8
