"""Headless Chromium with a camera made of a file whose frames carry their numbers as a bar code."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from effvision.models.tsm.clips import render_segments

FPS = 30
BITS = 12
CELLS = 16
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")


def chromium() -> str | None:
    """Return the browser's path: $CHROMIUM, or the one on the path."""
    named = os.environ.get("CHROMIUM")
    return named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def write_camera(path: Path, segments: Sequence[tuple[str, float]], *, size: tuple[int, int] = (480, 640)) -> list[str]:
    """Write a camera's film, JPEG after JPEG at 30 frames a second; return the name of each frame's motion."""
    frames, _ = render_segments(segments, size=size, fps=FPS, seed=15)
    names = [name for name, seconds in segments for _ in range(round(seconds * FPS))]
    assert len(names) == len(frames)
    cell = size[1] // CELLS
    with path.open("wb") as file:
        for number, frame in enumerate(frames):
            picture = frame[..., ::-1].copy()
            picture[:cell] = 0
            bits = [1, 0, *((number >> (BITS - 1 - bit)) & 1 for bit in range(BITS))]
            for place, bit in enumerate(bits):
                picture[:cell, place * cell : (place + 1) * cell] = 255 * bit
            file.write(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return names


def number_of(picture: np.ndarray) -> int | None:
    """Read the bar code of a frame; None if there is none."""
    cell = picture.shape[1] / CELLS
    row = picture[int(cell / 2), :, 1]
    bits = [int(row[int((place + 0.5) * cell)] > 128) for place in range(BITS + 2)]
    return int("".join(map(str, bits[2:])), 2) if bits[:2] == [1, 0] else None


# In the page: for every frame that is drawn, the time, the number of the frame whose answer is on the page, and the number in
# the bar code of the camera's picture at that moment.
WATCH = """() => {
  const canvas = document.createElement('canvas'); canvas.width = 256; canvas.height = 16;
  const pen = canvas.getContext('2d', {willReadFrequently: true});
  const video = document.querySelector('[data-part=video]'), root = document.querySelector('[data-ready]');
  window.watched = [];
  const mine = window.watching = {};
  const look = () => {
    if (mine !== window.watching) return;  // watched anew
    if (video.videoWidth) {
      pen.drawImage(video, 0, 0, video.videoWidth, video.videoWidth / 16, 0, 0, 256, 16);
      const row = pen.getImageData(0, 8, 256, 1).data, bit = (i) => (row[(i * 16 + 8) * 4 + 1] > 128 ? 1 : 0);
      let code = 0; for (let k = 0; k < 12; k += 1) code = code * 2 + bit(k + 2);
      watched.push([performance.now(), root.dataset.frame, root.dataset.label, bit(0) && !bit(1) ? code : -1]);
    }
    requestAnimationFrame(look);
  };
  look();
}"""


@contextlib.contextmanager
def browser_page(
    playwright: Any,
    folder: Path,
    url: str,
    *,
    camera: Path | None = None,
    allowed: bool = True,
    size: tuple[int, int] = (1280, 900),
    scheme: str = "light",
    quiet: bool = True,
    webgl: bool | None = None,
) -> Iterator[Any]:
    """Open the page in a browser of its own; on leaving, no message of an error and no request to another host may be left.

    With `quiet=False` the browser may complain on its console, as it does of a server that is gone. `webgl=True` lets it draw
    in three dimensions without a graphics card, False forbids it to.
    """
    flags = [*QUIET]
    if webgl is not None:
        flags += WEBGL if webgl else ["--disable-3d-apis"]
    if camera is not None:
        flags += ["--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={camera}"]
        flags += ["--use-fake-ui-for-media-stream"] if allowed else []
    folder.mkdir(parents=True, exist_ok=True)
    context = playwright.chromium.launch_persistent_context(
        str(folder),
        executable_path=chromium(),
        headless=True,
        args=flags,
        viewport={"width": size[0], "height": size[1]},
        color_scheme=scheme,
        timeout=120_000,
    )
    page = context.pages[0]
    page.set_default_timeout(120_000)  # a busy machine is slow, not wrong
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
    page.on("console", lambda said: wrong.append(f"console: {said.text}") if quiet and said.type == "error" else None)
    page.on(
        "request",
        lambda asked: None if asked.url.startswith((url, "data:", "blob:")) else wrong.append(f"foreign: {asked.url}"),
    )
    page.on(
        "websocket",
        lambda opened: None if opened.url.startswith(url.replace("http", "ws", 1)) else wrong.append(opened.url),
    )
    try:
        page.goto(url + ("?__theme=dark" if scheme == "dark" else ""))
        page.wait_for_selector("[data-ready=yes]", state="attached")
        yield page
        assert not wrong, "\n".join(wrong)
    finally:
        context.close()
