"""Read several sources side by side, so that one call of a network can advance all of them."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType

from effvision.errors import EffvisionError, InputError
from effvision.sources.base import Frame, Source

__all__ = ["Together", "close_all"]

_LET_GO_S = 3.0  # a live source that hangs in its driver takes 2 s to be left behind


@dataclass(frozen=True, eq=False)
class _End:
    """What a source leaves in its place after its last frame."""

    error: BaseException | None


class Together:
    """Rounds of frames, at most one of each source, each source read by a thread of its own.

    A round waits for the next frame of every source that gives all its frames (files, arrays), and takes from live ones the
    newest that has come: a camera that is slow or lost holds up nobody. A source that ends leaves the others going on, and one
    that fails gives all the frames before its error first.

    It can be iterated over once; a second loop goes on where the first one stopped.

    Args:
        sources: Open sources, all different; closed by `close`.
        on_error: Called with a source's place and its error when it fails; the others go on. Default: the error is raised.

    Raises:
        InputError: no source, or one given twice.
    """

    def __init__(
        self, sources: Sequence[Source], *, on_error: Callable[[int, EffvisionError], None] | None = None
    ) -> None:
        if not sources or len({id(source) for source in sources}) < len(sources):
            raise InputError(f"give one or more sources, each of them once; got {len(sources)}")
        self.sources = tuple(sources)
        self._on_error = on_error
        self._live = [source.live for source in sources]
        self._held: list[Frame | _End | None] = [None] * len(sources)
        self._running = [True] * len(sources)
        self._changed = threading.Condition()
        self._stopped = False
        self._threads: list[threading.Thread] = []

    def __iter__(self) -> Iterator[list[tuple[int, Frame]]]:
        return self

    def __next__(self) -> list[tuple[int, Frame]]:
        """Wait for the next round and return its pairs (place of the source, frame); the places rise."""
        if not self._threads and not self._stopped:
            self._start()
        while True:
            with self._changed:
                while not self._ready():
                    self._changed.wait(0.5)  # not for ever: Ctrl-C must get through on every platform
                if self._stopped or not any(self._running):
                    raise StopIteration
                ended = next(((at, item) for at, item in enumerate(self._held) if isinstance(item, _End)), None)
                if ended is None:
                    ready = [(at, item) for at, item in enumerate(self._held) if isinstance(item, Frame)]
                    self._held = [None] * len(self.sources)
                    self._changed.notify_all()
                    return ready
                place, end = ended
                self._held[place], self._running[place] = None, False
            if end.error is not None:
                if self._on_error is None or not isinstance(end.error, EffvisionError):
                    raise end.error
                self._on_error(place, end.error)

    def _start(self) -> None:
        atexit.register(self.close)  # a thread that decodes while Python takes itself apart brings the process down
        for place, source in enumerate(self.sources):
            thread = threading.Thread(target=self._read, args=(place,), name=f"read {source.name}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _ready(self) -> bool:
        """Whether a round can be given, every source that gives all its frames having one, or there is an end to tell."""
        if self._stopped or not any(self._running) or any(isinstance(item, _End) for item in self._held):
            return True
        waited_for = [
            item for item, live, on in zip(self._held, self._live, self._running, strict=True) if on and not live
        ]
        return None not in waited_for and any(self._held)

    def _read(self, place: int) -> None:
        error: BaseException | None = None
        try:
            for frame in self.sources[place]:
                if not self._put(place, frame):
                    return
        except BaseException as caught:  # handed to the loop that reads the rounds
            error = caught
        self._put(place, _End(error))

    def _put(self, place: int, item: Frame | _End) -> bool:
        """Hand an item to the loop, once it has taken the one before; False when nobody wants any more."""
        with self._changed:
            held = self._held[place]
            if self._live[place] and isinstance(item, Frame) and isinstance(held, Frame):
                # nobody took the last one in time: a frame that waited for a slow loop would be old by then
                item = replace(item, dropped=item.dropped + held.dropped + 1)
                self._held[place] = None
            while self._held[place] is not None and not self._stopped:
                self._changed.wait()
            if self._stopped:
                return False
            self._held[place] = item
            self._changed.notify_all()
            return True

    def close(self) -> None:
        """Stop reading and close every source. May be called twice, and from any thread; a waiting loop ends."""
        with self._changed:
            self._stopped = True
            self._held = [None] * len(self.sources)
            self._changed.notify_all()
        close_all(self.sources)
        until_s = time.monotonic() + _LET_GO_S
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until_s - time.monotonic()))  # an iterable of the user's own may keep its thread
        atexit.unregister(self.close)

    def __enter__(self) -> Together:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def close_all(sources: Sequence[Source]) -> None:
    """Close sources side by side: each live one that hangs takes two seconds to let go."""
    closing = []
    for source in sources:
        thread = threading.Thread(target=source.close, name=f"close {source.name}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no thread begins any more while Python exits
            source.close()
        else:
            closing.append(thread)
    until_s = time.monotonic() + _LET_GO_S
    for thread in closing:
        thread.join(max(0.0, until_s - time.monotonic()))
