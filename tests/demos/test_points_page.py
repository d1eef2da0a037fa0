"""The tab of point clouds in a real browser, drawn without a graphics card: what a visitor sees and can do."""

from __future__ import annotations

import contextlib
import io
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from browser import browser_page, chromium
from cloud_files import npz
from effvision import PVCNN, open_cloud
from effvision.models.pvcnn.sample import write_sample
from effvision.viz import class_colors
from page_server import Page, served
from waiting import best_of_three, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(chromium() is None, reason="needs Chromium: apt-get install chromium, or CHROMIUM=/path/to/it"),
]

SCENE, PARTS = "pvcnn-lidarhd", "pvcnn-parts"
LABELS = ("ground", "low vegetation", "trees", "building")


@pytest.fixture(scope="module")
def playwright() -> Iterator[Any]:
    with sync_playwright() as running:
        yield running


@contextlib.contextmanager
def points_tab(playwright: Any, folder: Path, page: Page, **options: Any) -> Iterator[Any]:
    """Open the page, and then its tab of clouds."""
    options = {"webgl": True, **options}
    with browser_page(playwright, folder, page.url, **options) as tab:
        tab.click("button[role=tab]:has-text('Point clouds')")
        tab.wait_for_selector("#points [data-part=card] option", state="attached")
        yield tab


def part(name: str) -> str:
    return f"#points [data-part={name}]"


def shown(tab: Any, number: int = 1) -> None:
    """Wait until that many labellings have been drawn, those that were cancelled counted twice."""
    tab.wait_for_function("(n) => Number(document.querySelector('[data-drawn]')?.dataset.drawn) >= n", arg=number)


def sample(tab: Any, card: str = SCENE) -> None:
    tab.select_option(part("card"), card)
    tab.click(part("sample"))
    shown(tab)


def picture(tab: Any) -> np.ndarray:
    """What the visitor sees of the cloud, (H, W, 3) RGB."""
    data = tab.locator(part("view")).screenshot()
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1])


def pixels(seen: np.ndarray, colour: np.ndarray) -> int:
    """How many have this colour, as good as exactly."""
    return int((np.abs(seen.astype(int) - colour).max(axis=-1) <= 3).sum())


def per_class(tab: Any) -> dict[str, int]:
    seen = picture(tab)
    return {name: pixels(seen, colour) for name, colour in zip(LABELS, class_colors(LABELS), strict=True)}


def until(tab: Any, true: Any) -> dict[str, int]:
    """Look until the picture is as it should be: it is drawn a moment after what was pressed."""
    found: list[dict[str, int]] = []
    wait_until(lambda: true(found.append(per_class(tab)) or found[-1]))
    return found[-1]


def row(name: str) -> str:
    return f"{part('legend')} .class:has(button:text-is('{name}'))"


def test_a_sample_is_drawn_in_the_colours_of_its_classes_and_switched(
    playwright: Any, page: Page, tmp_path: Path
) -> None:
    wanted = PVCNN.from_pretrained(SCENE, runtime="onnx").predict(write_sample(tmp_path / "s.ply", kind="scene"))
    with points_tab(playwright, tmp_path / "browser", page) as tab:
        assert "intensity" in tab.inner_text(part("note")), "what a file needs is said before one is opened"
        sample(tab)
        counts = {name: tab.inner_text(f"{row(name)} span >> nth=0") for name in LABELS}
        assert counts == {name: f"{count:,}" for name, count in wanted.counts.items()}
        first = until(tab, lambda seen: all(seen.values()))
        assert first["ground"] > first["low vegetation"] > 20
        # one class off: its colour is gone, the counts stay
        tab.uncheck(f"{row('building')} input")
        without = until(tab, lambda seen: not seen["building"])
        assert without["ground"] > 0.9 * first["ground"]
        assert {name: tab.inner_text(f"{row(name)} span >> nth=0") for name in LABELS} == counts
        # only one, then all; none, then all
        tab.click(f"{row('trees')} button")
        until(tab, lambda seen: seen["trees"] and not any(seen[name] for name in LABELS if name != "trees"))
        tab.click(f"{row('trees')} button")
        until(tab, lambda seen: all(seen.values()))
        tab.click(part("none"))
        until(tab, lambda seen: not any(seen.values()))
        tab.click(part("all"))
        until(tab, lambda seen: all(seen.values()))
        # the size of the points
        sizes = []
        for size in ("1", "8"):
            tab.fill(part("size"), size)
            settled(tab)
            sizes.append(covered(picture(tab)).sum())
        assert sizes[1] > 1.3 * sizes[0]
        # other colours
        tab.select_option(part("colour"), "height")
        until(tab, lambda seen: seen["ground"] < 0.02 * first["ground"])
        assert tab.is_visible(part("ramp")) and tab.inner_text(part("ramp-high")).endswith(" m")
        tab.select_option(part("colour"), "class")
        for name in ("read", "prepare", "network", "drawn"):
            assert tab.inner_text(part(name)).endswith("s")
        assert int(tab.inner_text(part("rate")).replace(",", "")) > 100
        with tab.expect_download() as fetched:
            tab.click(part("ply"))
        assert fetched.value.suggested_filename == "the sample-labelled.ply"
        fetched.value.save_as(tmp_path / "got.ply")
        got = open_cloud(tmp_path / "got.ply")
        assert np.array_equal(got.fields["label"], wanted.labels) and np.array_equal(got.fields["rgb"], wanted.rgb)
        with tab.expect_download() as fetched:
            tab.click(part("png"))
        fetched.value.save_as(tmp_path / "got.png")
        saved = cv2.imread(str(tmp_path / "got.png"))[..., ::-1]
        assert pixels(saved, class_colors(LABELS)[0]) > 1000
        assert pixels(saved, np.zeros(3)) < 100, "what is behind the points is not black"
    wait_until(lambda: not list(page.folder.glob("effvision-demo-*/clouds/*")))


def test_hands_and_keys_turn_it_and_a_click_tells_the_class(playwright: Any, page: Page, tmp_path: Path) -> None:
    with points_tab(playwright, tmp_path / "browser", page) as tab:
        sample(tab, PARTS)
        listed = len(tab.query_selector_all(f"{part('legend')} .class"))
        assert tab.inner_text(part("absent-text")) == f"{32 - listed} classes without points"
        view = tab.locator(part("view"))
        start = settled(tab)
        box = view.bounding_box()
        middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

        def drag(button: str = "left", shift: bool = False) -> None:
            tab.mouse.move(*middle)
            tab.mouse.down(button=button)
            tab.mouse.move(middle[0] + 90, middle[1] + 40, steps=4)
            tab.mouse.up(button=button)

        def changes(act: Any) -> np.ndarray:
            before = settled(tab)
            act()
            wait_until(lambda: differ(picture(tab), before))
            return settled(tab)

        turned = changes(drag)
        moved = changes(lambda: drag("right"))
        assert shape(moved) == pytest.approx(shape(turned), rel=0.25), "moving keeps the size"
        near = changes(lambda: tab.mouse.wheel(0, -300))
        assert sum(shape(near)) > 1.1 * sum(shape(moved))
        changes(lambda: tab.click(part("reset")))
        wait_until(lambda: not differ(picture(tab), start))
        view.focus()
        for key in ("ArrowLeft", "+", "Shift+ArrowRight"):
            changes(lambda key=key: tab.keyboard.press(key))  # type: ignore[misc]
        changes(lambda: tab.keyboard.press("0"))
        wait_until(lambda: not differ(picture(tab), start))
        # a click on a point: its class and score
        seen = picture(tab)
        names = [item.inner_text() for item in tab.query_selector_all(f"{part('legend')} .class button")]
        place = np.argwhere(covered(seen)[: seen.shape[0] * 4 // 5])
        y, x = place[len(place) // 2].tolist()
        tab.mouse.click(box["x"] + x, box["y"] + y)
        tab.wait_for_selector(part("picked"))
        said = tab.inner_text(part("picked"))
        assert said.split(",")[0] in names and "score 0." in said and said.endswith(" m")


def settled(tab: Any) -> np.ndarray:
    """The picture once nothing moves any more."""
    pictures = [picture(tab)]

    def same() -> bool:
        pictures.append(picture(tab))
        return not differ(pictures[-1], pictures[-2])

    tab.wait_for_function("(box) => document.querySelector(box).dataset.moving === 'false'", arg=part("view"))
    wait_until(same)
    return pictures[-1]


def differ(one: np.ndarray, two: np.ndarray) -> bool:
    return bool((np.abs(one.astype(int) - two).max(axis=-1) > 40).sum() > 30)


def covered(seen: np.ndarray) -> np.ndarray:
    """Where something is drawn, (H, W) bool."""
    there: np.ndarray = np.abs(seen.astype(int) - seen[10, seen.shape[1] // 2]).max(axis=-1) > 40
    return there


def shape(seen: np.ndarray) -> list[int]:
    """Height and width of what is drawn, without the scale and the axes at the lower edge."""
    seen = seen[: int(seen.shape[0] * 0.82)]
    there = np.argwhere(covered(seen))
    return [int(side) for side in np.ptp(there, axis=0)]


def test_bad_files_are_explained_and_names_are_only_text(playwright: Any, page: Page, tmp_path: Path) -> None:
    hostile = "<img src=x onerror=window.hurt=1>.ply"
    xyz = np.random.default_rng(0).normal(0, 5, (500, 3)).astype(np.float32)
    plain = {"xyz": xyz, "intensity": np.ones(500, np.uint16)}
    with points_tab(playwright, tmp_path / "browser", page) as tab:

        def says(name: str, data: bytes, *words: str) -> None:
            tab.set_input_files(part("file"), files=[{"name": name, "mimeType": "", "buffer": data}])
            for said in words:
                tab.wait_for_function(
                    "([box, said]) => document.querySelector(box).innerText.includes(said)", arg=[part("message"), said]
                )
            assert tab.is_visible(part("message")) and tab.is_hidden(part("work"))

        tab.select_option(part("card"), SCENE)
        says("scan.npz", npz(**plain), "lacks `num_returns`, `return_number`", "\nhint: ")
        says("scan.label", b"123", "scan.label is a file of labels, not a cloud\nhint: ")
        says(hostile, b"nothing of the kind", f"{hostile} is text, and does not begin as a .ply file does")
        says("scan.npz", npz(xyz=np.where(xyz > 9, np.nan, xyz)), "NaN or infinity", "\nhint: ")
        tab.select_option(part("card"), PARTS)  # the same file again, in which the other one finds the same
        tab.wait_for_selector(part("work"), state="hidden")
        good = io.BytesIO()
        np.save(good, xyz)
        named = {"name": hostile.replace("ply", "npy"), "mimeType": "", "buffer": good.getvalue()}
        tab.set_input_files(part("file"), files=[named])
        shown(tab)
        assert tab.inner_text(part("title")) == hostile.replace("ply", "npy")
        assert tab.is_hidden(part("message")) and tab.is_disabled(f"{part('colour')} option[value='1']")
        assert tab.evaluate("[window.hurt, document.querySelectorAll('#points img').length]") == [None, 0]


def test_a_dropped_file_is_opened_and_cancelled(playwright: Any, page: Page, tmp_path: Path, large: bytes) -> None:
    with points_tab(playwright, tmp_path / "browser", page) as tab:
        tab.select_option(part("card"), SCENE)
        (tmp_path / "large.npz").write_bytes(large)
        # cancelled by the page itself in the moment it shows the work: a fast machine is done before a hand could be
        tab.evaluate(
            """() => {
              const [stage, text, seconds, cancel] = ['stage', 'work-text', 'seconds', 'cancel'].map(
                (name) => document.querySelector(`#points [data-part=${name}]`));
              new MutationObserver(() => {
                if (stage.dataset.busy !== 'network' || window.told) return;
                window.told = text.innerText + ' ' + seconds.innerText;
                cancel.click();
              }).observe(stage, {attributes: true});
            }"""
        )
        tab.set_input_files(part("file"), tmp_path / "large.npz")
        told = tab.wait_for_function("window.told").json_value()
        assert "Labelling" in told and " s" in told
        tab.wait_for_selector(part("work"), state="hidden")
        wait_until(lambda: not [f for f in page.folder.glob("effvision-demo-*/clouds/*/*") if f.is_file()])
        tab.select_option(part("card"), SCENE)
        tab.evaluate(
            """(stage) => {
              const given = new DataTransfer();
              const rows = [...Array(300).keys()].map((i) => [i % 17, i % 13, i % 5].join(' '));
              given.items.add(new File([rows.join('\\n')], 'dropped.xyz'));
              document.querySelector(stage).dispatchEvent(new DragEvent('drop', {dataTransfer: given, bubbles: true}));
            }""",
            part("stage"),
        )
        tab.wait_for_function(
            "(box) => document.querySelector(box).innerText.includes('dropped.xyz')", arg=part("message")
        )
        assert "lacks" in tab.inner_text(part("message"))


@pytest.fixture(scope="module")
def large() -> bytes:
    """300,000 points of hills with all that the model from the air wants."""
    rng = np.random.default_rng(0)
    xyz = np.column_stack([rng.uniform(0, 250, (300_000, 2)), np.zeros(300_000)]).astype(np.float32)
    xyz[:, 2] = 6 * np.sin(xyz[:, 0] / 30) + rng.normal(0, 0.1, 300_000) + 12 * (rng.random(300_000) < 0.2)
    ones = np.ones(300_000, np.uint8)
    return npz(xyz=xyz, intensity=rng.integers(1, 2000, 300_000), return_number=ones, num_returns=ones)


# In the page: turn it by the mouse for so many frames; milliseconds between them, and how many points each had.
_DRAG = """async ([box, frames]) => {
  const view = document.querySelector(box), seat = view.getBoundingClientRect(), found = [];
  const hand = (kind, x, y) => view.dispatchEvent(new PointerEvent(kind, {pointerId: 1,
    clientX: seat.left + x, clientY: seat.top + y, button: 0, buttons: kind === 'pointerup' ? 0 : 1, bubbles: true}));
  view.setPointerCapture = () => {};
  hand('pointerdown', 200, 200);
  let before = performance.now();
  for (let i = 0; i < frames; i += 1) {
    const drawn = view.dataset.frames;
    hand('pointermove', 200 + i * 4, 200 + (i % 20));
    while (view.dataset.frames === drawn) await new Promise(requestAnimationFrame);
    const now = performance.now();
    found.push([now - before, Number(view.dataset.count)]);
    before = now;
  }
  hand('pointerup', 200 + frames * 4, 200);
  return found;
}"""


@pytest.mark.alone
def test_300_000_points_stay_interactive(
    playwright: Any, page: Page, tmp_path: Path, large: bytes, record_property: Any
) -> None:
    (tmp_path / "large.npz").write_bytes(large)
    with points_tab(playwright, tmp_path / "browser", page) as tab:
        tab.select_option(part("card"), SCENE)
        tab.set_input_files(part("file"), tmp_path / "large.npz")
        shown(tab)
        assert tab.get_attribute(part("view"), "data-count") == "300000"

        def measure() -> dict[str, Any]:
            frames = tab.evaluate(_DRAG, [part("view"), 40])
            took = [ms for ms, _ in frames]
            found = {"median_ms": statistics.median(took), "worst_ms": max(took), "fewest": min(n for _, n in frames)}
            assert found["median_ms"] < 250
            return found

        found = best_of_three(measure)
        tab.wait_for_function("(box) => document.querySelector(box).dataset.count === '300000'", arg=part("view"))
        found["fetched and drawn"] = tab.inner_text(part("drawn"))
        sys.stdout.write(f"\n300,000 points, software WebGL: {found}\n")
        for name, value in found.items():
            record_property(name, value)
        # nothing moves: nothing is drawn, here and while another tab is seen
        still = tab.get_attribute(part("view"), "data-frames")
        for _ in range(20):
            tab.evaluate("new Promise(requestAnimationFrame)")
        assert tab.get_attribute(part("view"), "data-frames") == still
        # the graphics memory is taken away and given back
        tab.evaluate(
            "(box) => { window.taken = document.querySelector(box).getContext('webgl2').getExtension('WEBGL_lose_context');"
            " taken.loseContext(); }",
            part("view"),
        )
        tab.wait_for_function(
            "(box) => document.querySelector(box).innerText.includes('graphics')", arg=part("message")
        )
        tab.evaluate("taken.restoreContext()")
        until(tab, lambda seen: seen["ground"] + seen["building"] + seen["trees"] > 1000)
        assert tab.is_hidden(part("message"))


def test_without_webgl_it_says_so_and_labels_all_the_same(playwright: Any, page: Page, tmp_path: Path) -> None:
    with points_tab(playwright, tmp_path / "browser", page, webgl=False, quiet=False) as tab:
        tab.wait_for_function("(box) => document.querySelector(box).innerText.includes('WebGL')", arg=part("message"))
        sample(tab, PARTS)
        with tab.expect_download() as fetched:
            tab.click(part("ply"))
        fetched.value.save_as(tmp_path / "got.ply")
        assert len(open_cloud(tmp_path / "got.ply")) == 2048


@pytest.mark.parametrize("card", [PARTS, "spvcnn-lidarhd"])
def test_the_tab_of_the_card_that_was_named_is_opened_first(playwright: Any, tmp_path: Path, card: str) -> None:
    (tmp_path / "page").mkdir()
    program = ["-m", "effvision", "demo", card, "--port", "0", "--json"]
    with (
        served(tmp_path / "page", program) as page,
        browser_page(playwright, tmp_path / "browser", page.url, webgl=True) as tab,
    ):
        assert tab.input_value(part("card")) == card
        tab.click(part("sample"))
        shown(tab)
        tab.click("button[role=tab]:has-text('Gestures')")
        tab.wait_for_selector("#gestures [data-part=sample] option", state="attached")  # its model was loaded now


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_width_and_comes_back_after_another_tab(
    playwright: Any, page: Page, tmp_path: Path, scheme: str
) -> None:
    with points_tab(playwright, tmp_path / "browser", page, scheme=scheme) as tab:
        sample(tab, PARTS)
        for width in (1280, 800, 390, 320):
            tab.set_viewport_size({"width": width, "height": 800})
            tab.wait_for_function(
                "(box) => { const view = document.querySelector(box); return view.width === view.clientWidth; }",
                arg=part("view"),
            )
            assert tab.evaluate("document.scrollingElement.scrollWidth") <= width
        tab.set_viewport_size({"width": 1280, "height": 800})
        tab.click("button[role=tab]:has-text('Gestures')")
        tab.wait_for_selector("#gestures [data-part=camera]")
        tab.click("button[role=tab]:has-text('Point clouds')")
        tab.wait_for_selector(part("view"))
        tab.wait_for_selector("#points [data-part=card] option", state="attached")
        tab.click(part("sample"))
        tab.wait_for_selector(f"{part('legend')} .class")
        wait_until(lambda: shape(picture(tab))[0] > 100)
