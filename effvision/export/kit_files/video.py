"""Frames in and out, through OpenCV: cameras, streams and files; the labelled picture in a window or a video.

Part of a kit written by effvision (Apache-2.0). Python 3.6 or newer. OpenCV is imported when it is used.
"""

import os
import re
import sys
import threading
import time

from session import KitError, say

__all__ = ["Recording", "draw", "frames_of", "show"]

RETRY_S = 60.0  # a camera that is silent for so long is given up
CSI = (
    "nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM), width={width}, height={height}, framerate={fps}/1 ! "
    "nvvidconv flip-method={flip} ! video/x-raw, format=BGRx ! videoconvert ! video/x-raw, format=BGR ! "
    "appsink drop=true max-buffers=1 sync=false"
)


def open_capture(text):
    """Open a camera number, csi://N, a GStreamer pipeline, an address or a file; return (capture, live)."""
    import cv2

    pipeline = text if " ! " in text else csi_pipeline(text) if text.startswith("csi://") else None
    if pipeline:
        if not re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()):
            raise KitError(
                f"{text} needs OpenCV with GStreamer, and {cv2.__file__} ({cv2.__version__}) has none: use JetPack's, and "
                "`pip uninstall opencv-python`; see README.md"
            )
        return _opened(cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER), text), True
    if re.match(r"\d{1,3}$", text) and not os.path.exists(text):
        backend = cv2.CAP_V4L2 if sys.platform.startswith("linux") else cv2.CAP_ANY
        return _opened(cv2.VideoCapture(int(text), backend), "camera " + text), True
    if "://" in text or text.startswith("/dev/video"):
        return _opened(cv2.VideoCapture(text), text), True
    if not os.path.isfile(text):
        raise KitError(f"there is no file {text}")
    return _opened(cv2.VideoCapture(text), text), False


def _opened(capture, name):
    if not capture.isOpened():
        raise KitError(f"{name} could not be opened: is it there, free, and of a kind that OpenCV reads?")
    return capture


def csi_pipeline(text):
    """Return the pipeline of csi://0?width=1280&height=720&fps=30&flip=0; the defaults are those."""
    found = re.match(r"csi://(\d+)(?:\?((?:(?:width|height|fps|flip)=\d+&?)*))?$", text)
    if not found:
        raise KitError(f"{text} is no CSI camera; it should look like csi://0?width=1280&height=720&fps=30&flip=0")
    given = {"width": 1280, "height": 720, "fps": 30, "flip": 0}
    given.update(re.findall(r"(\w+)=(\d+)", found.group(2) or ""))
    return CSI.format(sensor=found.group(1), **given)


def file_frames(capture, fps, name):
    """Yield every frame of a file; the container's own times while they rise, steps of 1 / fps from then on."""
    import cv2

    first, elapsed, trust = None, 0.0, True
    while True:
        good, bgr = capture.read()
        if not good or bgr is None:
            return
        now = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if first is None:
            first = now
        else:
            now -= first
            trust = trust and now == now and elapsed < now < float("inf")
            elapsed = now if trust else elapsed + 1.0 / fps
        yield bgr, elapsed, name


class Camera:
    """A thread that reads a live source without pause and keeps the newest picture only; a lost one is opened again."""

    def __init__(self, text, capture):
        self.text, self.capture = text, capture
        self.changed, self.newest, self.error, self.stopped = threading.Condition(), None, None, False
        self.dropped, self.connection, self.first_s, self.heard_s = 0, 0, None, time.monotonic()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self):
        wait_s = 0.5
        while not self.stopped:
            failed = 0
            self.connection += 1
            while self.capture is not None and failed < 5 and not self.stopped:
                good, bgr = self.capture.read()
                failed = 0 if good else failed + 1
                if good:
                    self._offer(bgr)
                    wait_s = 0.5
            if self.capture is not None:
                self.capture.release()
            self.capture = None
            if not self.stopped:
                say(f"{self.text} was lost; trying again in {wait_s:g} s")
                time.sleep(wait_s)
                wait_s = min(2 * wait_s, 8.0)
                try:
                    self.capture = open_capture(self.text)[0]
                except KitError as error:
                    self.error = error

    def _offer(self, bgr):
        now_s = time.monotonic()
        with self.changed:
            self.dropped += self.newest is not None
            self.first_s = now_s if self.first_s is None else self.first_s
            self.newest, self.heard_s = (bgr, now_s - self.first_s, self.connection), now_s
            self.changed.notify_all()

    def __iter__(self):
        while True:
            with self.changed:
                if self.newest is None:
                    self.changed.wait(0.2)
                taken, self.newest = self.newest, None
            if taken is not None:
                yield taken
            elif time.monotonic() - self.heard_s > RETRY_S:
                reason = self.error or "no frame came"
                raise KitError(f"{self.text} gave no frame for {RETRY_S:.0f} s: {reason}")

    def close(self):
        """Let the camera go; waits 2 s at most."""
        self.stopped = True
        self.thread.join(2.0)


def frames_of(text, stack):
    """Open a source; return whether it is live, its frames per second, and its frames: (BGR picture, seconds, identity)."""
    import cv2

    capture, live = open_capture(text)
    fps = capture.get(cv2.CAP_PROP_FPS)
    fps = fps if 0 < fps <= 1000 else 30.0
    if not live:
        return live, fps, file_frames(capture, fps, text)
    camera = Camera(text, capture)
    stack.callback(camera.close)
    return live, min(fps, 30.0), camera


# -- the labelled picture ------------------------------------------------------------------------------------------------------


def draw(bgr, answer):
    """Write the label on a copy of the picture."""
    import cv2

    picture = bgr.copy()
    text = "{} {:.2f}".format(answer["label"], answer["score"]) if answer["settled"] else "..."
    scale = picture.shape[0] / 480.0
    place = (int(16 * scale), picture.shape[0] - int(20 * scale))
    for colour, thickness in (((0, 0, 0), 6), ((255, 255, 255), 2)):
        width = max(1, int(thickness * scale))
        cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 1.2 * scale, colour, width, cv2.LINE_AA)
    return picture


class Recording:
    """A video of what was drawn; it appears under its name when it is whole. Live pictures keep their pace."""

    def __init__(self, path, fps, live):
        self.path, self.fps, self.live, self.video, self.count, self.first_s = path, fps, live, None, 0, 0.0
        stem, suffix = os.path.splitext(path)
        self.part, self.codec = stem + ".part" + suffix, {".mp4": "mp4v", ".avi": "MJPG"}.get(suffix.lower())
        if self.codec is None:
            raise KitError(f"--save writes .mp4 or .avi; got {path}")

    def add(self, picture, timestamp):
        """Append a picture; a live one as often as its time asks for."""
        import cv2

        if self.video is None:
            self.size, self.first_s = picture.shape[1::-1], timestamp
            self.video = cv2.VideoWriter(self.part, cv2.VideoWriter_fourcc(*self.codec), self.fps, self.size)
            if not self.video.isOpened():
                self.video = None
                raise KitError(f"cannot write {self.path}: no such folder, no space, or no {self.codec}")
        due = round((timestamp - self.first_s) * self.fps) + 1 if self.live else self.count + 1
        while self.count < due:
            self.video.write(cv2.resize(picture, self.size))
            self.count += 1

    def close(self):
        """Finish the file and move it into place."""
        if self.video is not None:
            self.video.release()
            os.replace(self.part, self.path)
            say(f"wrote {self.path}")


def show(picture):
    """Show a picture in a window; False when Esc or q was pressed."""
    import cv2

    try:
        cv2.imshow("effvision", picture)
        return cv2.waitKey(1) & 0xFF not in (27, ord("q"))
    except cv2.error as error:
        raise KitError(f"--show needs a screen and an OpenCV with windows: {error}") from error
