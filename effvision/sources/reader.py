"""A thread that reads a device without pause and keeps the newest picture only, so that lag cannot grow.

It opens the device, and opens it again when it is lost; where a read hangs for good, another thread takes its place.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision._optional import import_cv2
from effvision.errors import EffvisionError, SourceError
from effvision.sources.devices import Capture, Device

__all__ = ["Arrival", "Reader"]

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 8.0  # between two attempts to open a lost device; doubled each time
_GRACE_S = 1.0  # a read that times out by itself ends before it is taken to hang
_OPENING_S = 5.0  # looking for the host, before a device's own timeout begins
_FAILED_READS = 5  # in a row; a camera may fail once on a picture that arrived damaged
_JOIN_S = 2.0
_HUNG_THREADS = 3  # at most so many are left behind in a driver that does not come back
_POLL_S = 0.2
_PLAUSIBLE_FPS = 1000.0
_ENOUGH = 0.9  # of the frames a recording states

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Arrival:
    """One picture as it came.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        index: Place among all pictures read, from 0.
        arrived_s: When it came, on the monotonic clock.
        connection: 1 for the first time the device was opened, 2 after it was lost once.
        position_s: Its time in a recording; 0 for live pictures.
    """

    image: NDArray[np.uint8]
    index: int
    arrived_s: float
    connection: int
    position_s: float


class Reader:
    """Reads one device; `take` waits for the newest picture that nobody has had yet.

    Attributes:
        read: Pictures read so far.
        dropped: Of these, how many were replaced by a newer one, or left at the end, before anybody took them.
        finite: Whether it is a recording: every picture is given, nothing is dropped, and it ends.
        fps: Rate the device states, None if it states none.
        count: Pictures a recording states, else None.
        first_s: When the first picture arrived, on the monotonic clock.
        connections: How often it was opened and gave a picture.
    """

    def __init__(self, device: Device, *, retry_s: float | None) -> None:
        self.read = self.dropped = self.connections = 0
        self.finite = False
        self.fps: float | None = None
        self.count: int | None = None
        self.first_s: float | None = None
        self._device = device
        self._retry_s = retry_s
        self._stopped = threading.Event()
        self._changed = threading.Condition()
        self._newest: Arrival | None = None
        self._failure: EffvisionError | None = None
        self._ended = self._opened = self._lost = False
        self._reason = ""
        self._attempts = 0
        self._wait_s = _FIRST_WAIT_S
        self._heard_s = time.monotonic()
        self._deadline_s: float | None = None  # when the call under way is taken to hang
        self._left_behind: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._work, args=(False,), name=device.name, daemon=True)

    # -- for the one who wants pictures ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the device and return when it is open.

        Raises:
            SourceError: it could not be opened.
        """
        self._expect(_OPENING_S + self._device.timeout_s)
        self._thread.start()
        with self._changed:
            while not (self._opened or self._failure or self._stopped.is_set()):
                self._watch(time.monotonic())
                self._changed.wait(_POLL_S)
        if self._failure is not None:
            self._stopped.set()
            raise self._failure

    def take(self) -> Arrival | None:
        """Wait for a picture and return it; None after `close`, or at the end of a recording.

        Raises:
            SourceError: no picture came for too long, whatever was tried.
        """
        with self._changed:
            while not self._stopped.is_set():
                if self._newest is not None:
                    taken, self._newest = self._newest, None
                    self._changed.notify_all()
                    return taken
                if self._failure is not None:
                    raise self._failure
                if self._ended:
                    return None
                self._watch(time.monotonic())
                self._changed.wait(_POLL_S)
            return None

    @property
    def ended(self) -> bool:
        """Whether a recording was read to its end."""
        with self._changed:
            return self._ended and self._newest is None

    def close(self) -> None:
        """Stop, wake whoever waits, and let the device go; waits 2 s at most for a read that is under way."""
        self._stopped.set()
        with self._changed:
            self.dropped += self._newest is not None
            self._newest = None
            self._changed.notify_all()
        self.stop()

    def stop(self) -> None:
        """Stop without a lock, as the garbage collector may do it in any thread at any moment."""
        self._stopped.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(_JOIN_S)

    def _watch(self, now_s: float) -> None:
        """Notice a call that hangs, and the end of all patience. The lock is held."""
        if self._failure is None and self._deadline_s is not None and now_s > self._deadline_s:
            self._replace(f"no frame for {now_s - self._heard_s:.0f} s")
        if self._failure is None and self._lost and self._retry_s is not None:
            silent_s = now_s - self._heard_s
            if silent_s > self._retry_s:
                self._fail(
                    f"{self._device.name} has given no frame for {silent_s:.0f} s; it was lost ({self._reason}) after "
                    f"{self.read} frames and tried again {self._attempts} times\n"
                    f"hint: check {_CHECKS[self._device.kind]}; `LiveSource(..., retry_s=None)` waits for ever"
                )

    def _replace(self, reason: str) -> None:
        """Leave a thread that hangs in the driver behind; it lets its device go if it ever comes back. The lock is held."""
        self._deadline_s = None
        if not self._say_lost(reason):
            return
        self._left_behind = [thread for thread in self._left_behind if thread.is_alive()]
        if len(self._left_behind) < _HUNG_THREADS:
            self._left_behind.append(self._thread)
            self._thread = threading.Thread(target=self._work, args=(True,), name=self._device.name, daemon=True)
            self._thread.start()

    def _say_lost(self, reason: str) -> bool:
        """Note that the device is gone; False if there is no second try. The lock is held."""
        if self.read == 0 or self.finite:  # a recording opened again would begin again
            what = "gave not one frame" if self.read == 0 else f"broke off after {self.read} frames"
            self._fail(f"{self._device.name} {what}: {reason}\nhint: check {_CHECKS[self._device.kind]}")
            return False
        self._lost = True
        self._reason = reason.partition("\n")[0].removeprefix(f"{self._device.name}: ")
        if self._retry_s != 0:
            _log.warning("%s was lost (%s); trying again in %g s", self._device.name, self._reason, self._wait_s)
        return True

    def _fail(self, message: str) -> None:
        self._failure = SourceError(message)
        self._changed.notify_all()

    # -- the thread --------------------------------------------------------------------------------------------------------

    def _work(self, wait_first: bool) -> None:
        """Open, read until it is lost, wait, and again."""
        while self._mine():
            if wait_first:
                self._stopped.wait(self._wait_s)
                self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
                if not self._mine():
                    return
            wait_first = True
            reason: str | None
            try:
                capture = self._open()
                if capture is None:
                    return
                try:
                    reason = self._read_all(capture)
                finally:
                    capture.release()
            except EffvisionError as error:
                if not self._opened:
                    self._give_up(error)
                    return
                reason = str(error)
            except Exception as error:  # a capture of the user's own, or OpenCV in its own words
                reason = f"{type(error).__name__}: {error}"
            with self._changed:
                if threading.current_thread() is self._thread:
                    self._deadline_s = None
                if reason is None or not self._mine() or not self._say_lost(reason):
                    self._changed.notify_all()
                    return

    def _mine(self) -> bool:
        """Whether this thread is still the one that reads."""
        current = threading.current_thread() is self._thread
        return current and not self._stopped.is_set() and self._failure is None

    def _give_up(self, error: EffvisionError) -> None:
        with self._changed:
            if self._mine():
                self._failure = error
                self._changed.notify_all()

    def _expect(self, seconds: float | None) -> None:
        """Say by when the next call into the driver should be back."""
        with self._changed:
            if threading.current_thread() is self._thread or not self._thread.is_alive():
                self._deadline_s = None if seconds is None else time.monotonic() + seconds + _GRACE_S

    def _open(self) -> Capture | None:
        """Open the device; None if this thread was replaced meanwhile."""
        if self._opened:
            self._attempts += 1
        self._expect(_OPENING_S + self._device.timeout_s)
        capture = self._device.open()
        if not capture.isOpened():
            capture.release()
            raise SourceError(f"{self._device.name} could not be opened")
        cv2 = import_cv2()
        fps, count = float(capture.get(cv2.CAP_PROP_FPS)), float(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        with self._changed:
            if not self._mine():
                capture.release()
                return None
            if not self._opened:
                self.fps = fps if 0 < fps <= _PLAUSIBLE_FPS else None
                self.finite = self._device.may_end and 0 < count < 2**40
                self.count = int(count) if self.finite else None
            self._opened = True
            self._changed.notify_all()
        return capture

    def _read_all(self, capture: Capture) -> str | None:
        """Read until the device is lost and return why; None when there is nothing more to read, or nobody to read for."""
        cv2 = import_cv2()
        timeout_s = self._device.timeout_s
        failed, got, last_s = 0, 0, time.monotonic()
        reason = "no frame could be read"
        while self._mine():
            self._expect(timeout_s)
            good, picture = capture.read()
            now_s = time.monotonic()
            image = _rgb(cv2, picture) if good else None
            if image is not None:
                position_s = float(capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000 if self.finite else 0.0
                self._offer(image, now_s, position_s, fresh=got == 0)
                failed, got, last_s = 0, got + 1, now_s
                continue
            if good and picture is not None:
                reason = f"its frames cannot be used: {getattr(picture, 'dtype', type(picture))} {np.shape(picture)}"
            failed += 1
            if now_s - last_s > 0.9 * timeout_s:
                return f"no frame for {now_s - last_s:.0f} s"
            if failed >= _FAILED_READS:
                return self._end(reason, got)
            self._stopped.wait(0.02)
        return None

    def _offer(self, image: NDArray[np.uint8], now_s: float, position_s: float, *, fresh: bool) -> None:
        """Put a picture where `take` finds it: in place of the last one, or, of a recording, after that was taken."""
        with self._changed:
            while self.finite and self._newest is not None and self._mine():
                self._deadline_s = None
                self._changed.wait(_POLL_S)
            if not self._mine():
                return
            self.connections += fresh
            self.dropped += self._newest is not None
            self.first_s = now_s if self.first_s is None else self.first_s
            self._newest = Arrival(image, self.read, now_s, self.connections, position_s)
            self.read += 1
            self._heard_s, self._lost, self._attempts, self._wait_s = now_s, False, 0, _FIRST_WAIT_S
            self._changed.notify_all()

    def _end(self, reason: str, got: int) -> str | None:
        """Tell the end of a recording, or of a single picture behind an HTTP address, from a loss."""
        single = self._device.may_end and got == 1 and self.read == 1
        if not (self.finite or single):
            return reason
        with self._changed:
            if self.count is not None and self.read < _ENOUGH * self.count:
                self._fail(
                    f"{self._device.name} states {self.count} frames, but ended after {self.read}: the connection was cut, "
                    "or the file is cut short"
                )
            self._ended = True
            self._changed.notify_all()
        return None


_CHECKS = {
    "camera": "its cable, and that no other program uses it",
    "address": "that it is switched on and in reach of this network",
    "pipeline": "its device or server, and the pipeline with gst-launch-1.0",
}


def _rgb(cv2: Any, picture: Any) -> NDArray[np.uint8] | None:
    """Return what OpenCV gave, BGR, BGRA or grey, as (H, W, 3) uint8 RGB; None if it is no picture."""
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.size == 0:
        return None
    channels = 1 if picture.ndim == 2 else picture.shape[2] if picture.ndim == 3 else 0
    codes = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}
    if channels not in codes:
        return None
    rgb: NDArray[np.uint8] = cv2.cvtColor(picture, codes[channels])
    return rgb
