"""Live sources: cameras, network streams and GStreamer pipelines. A slow reader gets fewer frames, never older ones."""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from effvision.errors import DTypeError, InputError, RangeError, SourceError
from effvision.sources.base import Frame, Source
from effvision.sources.devices import Capture, find_device, is_live
from effvision.sources.files import ContainerClock
from effvision.sources.reader import Arrival, Reader

__all__ = ["LiveSource"]


class LiveSource(Source):
    """A camera, a network stream or a GStreamer pipeline, read by a thread of its own from the moment it is opened.

    Iterating waits for the newest frame that was not given yet; what came in between is dropped and counted, so a loop that
    is slower than the camera stays as close behind it as a fast one. Frames hold the time they arrived, in seconds since the
    first; the way from the lens to here (exposure, encoder, network) is not in it.

    A device that is lost or stalls is opened again, after 0.5 s, 1 s, 2 s and so on up to 8 s. Its frames then have another
    `source`, such as "camera 0 #2", while index and time go on: a session starts afresh and says "source". Until the first
    frame has come nothing is tried twice: what does not work at all fails at once.

    An HTTP address that states how many frames it has is a recording, and one that ends after a single frame is a picture: they
    give every frame, with the times of the file, and end. Any other address that ends is taken to be lost.

    One loop reads at a time; a second one goes on with what is newest then. Passwords in addresses are masked in names,
    messages and logs. FFmpeg's own lines on the terminal are silenced by OPENCV_FFMPEG_LOGLEVEL=-8, set before OpenCV opens
    its first video.

    Args:
        x: Camera number; "/dev/video0" (Linux); "rtsp://", "rtsps://", "rtmp://", "http://", "https://", "tcp://" or "udp://"
            address; "csi://0" or "csi://0?width=1280&height=720&fps=30&flip=0" (Jetson); a GStreamer pipeline, known by " ! ",
            that ends in `appsink`. The last two need an OpenCV with GStreamer.
        timeout_s: Seconds without a frame after which it is opened again. Default: 5 for cameras, 10 for the others.
        retry_s: Seconds without a frame after which trying again ends in SourceError; 0: never try again, None: for ever.
        threads: Of FFmpeg's decoder, for addresses. Each holds one frame back; more than 2 help with 4K.
        opener: Opens the device in place of OpenCV: returns what has the methods of `cv2.VideoCapture` and gives BGR pictures.

    Raises:
        SourceError: it cannot be opened; the message says what to check. While iterating: it was lost for good.
        MissingDependencyError: a pipeline, and this OpenCV has no GStreamer.
        InputError: `x` is no live source, or an option is out of range.
    """

    def __init__(
        self,
        x: int | str | Path,
        *,
        timeout_s: float | None = None,
        retry_s: float | None = 60.0,
        threads: int = 2,
        opener: Callable[[], Capture] | None = None,
    ) -> None:
        if not is_live(x):
            raise InputError(
                f"{x!r:.200} is no live source\nhint: give a camera number, an address or a GStreamer pipeline; files and "
                "arrays go to `open_source`"
            )
        if not isinstance(threads, int) or isinstance(threads, bool) or not 1 <= threads <= 64:
            raise RangeError(f"`threads` must be 1 to 64; got {threads!r:.80}")
        timeout_s = None if timeout_s is None else _seconds("timeout_s", timeout_s, least=0.1)
        device = find_device(x, timeout_s=timeout_s, threads=threads)
        if opener is not None:
            device = replace(device, open=opener)
        self._reader = Reader(device, retry_s=None if retry_s is None else _seconds("retry_s", retry_s, least=0.0))
        self._loop = threading.Lock()
        self._last_index = -1
        # A source that is forgotten must not read on for ever; at exit a thread inside OpenCV would bring the process down.
        self._finalizer = weakref.finalize(self, self._reader.stop)
        try:
            self._reader.start()
        except BaseException:  # Ctrl-C while a host does not answer
            self._reader.stop()
            raise
        super().__init__(device.name, fps=self._reader.fps, count=self._reader.count)
        self.live = not self._reader.finite
        self._clock = ContainerClock(self.fps)

    @property
    def dropped(self) -> int:
        """Frames read that were never given, because a newer one had come."""
        return self._reader.dropped

    @property
    def connections(self) -> int:
        """How often it was opened and gave a frame: 1, and 1 more for each time it came back."""
        return self._reader.connections

    def age(self, frame: Frame | float) -> float:
        """Return the seconds since `frame`, or the frame with this timestamp, arrived here: the lag of what is shown.

        Raises:
            InputError: a recording; its frames have no age.
        """
        if self._reader.finite:
            raise InputError(f"{self.name} is a recording: its frames have no age")
        timestamp = frame.timestamp if isinstance(frame, Frame) else float(frame)
        return time.monotonic() - (self._reader.first_s or 0.0) - timestamp

    def close(self) -> None:
        """Let the device go, from any thread. A loop that waits for a frame ends; returns within about 2 s."""
        super().close()
        self._reader.close()

    def _frames(self) -> Iterator[Frame]:
        if not self._loop.acquire(blocking=False):
            raise InputError(
                f"{self.name} is being read by another loop; each would get half of the frames\n"
                "hint: read it once and hand each frame to all who need it"
            )
        try:
            if self._reader.ended:
                raise SourceError(f"{self.name} was read to its end\nhint: open it again with `open_source`")
            while (arrival := self._reader.take()) is not None:
                yield self._frame(arrival)
        finally:
            self._loop.release()

    def _frame(self, arrival: Arrival) -> Frame:
        if self._reader.finite:
            timestamp = self._clock.tick(arrival.position_s)
        else:
            timestamp = arrival.arrived_s - (self._reader.first_s or 0.0)
        skipped, self._last_index = arrival.index - self._last_index - 1, arrival.index
        source = self.name if arrival.connection == 1 else f"{self.name} #{arrival.connection}"
        return Frame(arrival.image, arrival.index, timestamp, source, dropped=skipped)


def _seconds(name: str, value: object, *, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DTypeError(f"`{name}` must be a number of seconds or None; got {value!r:.80}")
    if not (math.isfinite(value) and value >= least):
        raise RangeError(f"`{name}` must be {least:g} seconds or more; got {value!r:.80}")
    return float(value)
