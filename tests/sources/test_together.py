"""Several sources side by side: every frame of a recording, the newest of a camera, and no thread left behind."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effvision.errors import InputError, SourceError
from effvision.sources import Frame, LiveSource, Source, Together, VideoWriter, open_source
from effvision.sources.together import close_all
from waiting import wait_until


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    gc.collect()
    wait_until(lambda: set(threading.enumerate()) <= before)


def array(length: int) -> Source:
    """Frames whose pixels say their number."""
    return open_source(np.broadcast_to(np.arange(length, dtype=np.uint8)[:, None, None, None], (length, 4, 4, 3)))


def video(path: Path, length: int) -> Path:
    with VideoWriter(path, fps=25, size=(32, 48)) as writer:
        for index in range(length):
            writer.write(np.full((32, 48, 3), index * 5 % 256, np.uint8))
    return path


class Queue(Source):
    """A source whose frames the test hands out one by one; an exception is raised, None is the end."""

    def __init__(self, *, live: bool, name: str = "queue") -> None:
        super().__init__(name, fps=None, count=None)
        self.live = live
        self.items: list[Any] = []
        self.given = 0
        self.changed = threading.Condition()

    def push(self, *items: Any) -> Queue:
        with self.changed:
            self.items += items
            self.changed.notify_all()
        return self

    def frames(self, *numbers: int) -> Queue:
        image = np.zeros((4, 4, 3), np.uint8)
        return self.push(*(Frame(image, number, float(number), self.name) for number in numbers))

    def close(self) -> None:
        super().close()
        self.push()

    def _frames(self) -> Iterator[Frame]:
        while True:
            with self.changed:
                while not self.items and not self._closed:
                    self.changed.wait()
                if self._closed:
                    return
                item = self.items.pop(0)
                self.given += 1
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item


class Camera:
    """What OpenCV would open: pictures at a rate until `thaw` is cleared; then a read hangs."""

    def __init__(self, *, fps: float = 100.0) -> None:
        self.fps = fps
        self.going = threading.Event()
        self.going.set()
        self.released = 0

    def __call__(self) -> Camera:
        return self

    def isOpened(self) -> bool:
        return True

    def read(self) -> tuple[bool, Any]:
        time.sleep(1 / self.fps)
        self.going.wait(60)
        return True, np.zeros((8, 8, 3), np.uint8)

    def release(self) -> None:
        self.released += 1

    def get(self, prop: int) -> float:
        return -1.0

    def set(self, prop: int, value: float) -> bool:
        return False


def taken(rounds: Sequence[Sequence[tuple[int, Frame]]], sources: int) -> list[list[int]]:
    """Indices of each source's frames, in the order they came."""
    return [[frame.index for one in rounds for at, frame in one if at == place] for place in range(sources)]


def waits(together: Together, index: int) -> bool:
    """Whether this frame of the first source is the one the next round will have."""
    return getattr(together._held[0], "index", None) == index


# -- recordings ----------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_every_round_holds_one_frame_of_every_array_that_has_not_ended(lengths: list[int]) -> None:
    with Together([array(length) for length in lengths]) as together:
        rounds = list(together)
    places = [[at for at, _ in one] for one in rounds]
    assert places == [[at for at, length in enumerate(lengths) if length > step] for step in range(max(lengths))]
    assert taken(rounds, len(lengths)) == [list(range(length)) for length in lengths]
    assert all(int(frame.image[0, 0, 0]) == frame.index for one in rounds for _, frame in one)


def test_files_and_arrays_of_different_lengths_are_complete_and_in_order(tmp_path: Path) -> None:
    lengths = {"a.mp4": 31, "b.avi": 7}
    sources = [open_source(video(tmp_path / name, length)) for name, length in lengths.items()]
    with Together([*sources, array(12)]) as together:
        rounds = list(together)
    assert taken(rounds, 3) == [list(range(31)), list(range(7)), list(range(12))]
    assert [len(one) for one in rounds] == [3] * 7 + [2] * 5 + [1] * 19


def test_a_slow_recording_is_waited_for() -> None:
    slow = Queue(live=False)

    def come() -> None:
        time.sleep(0.2)
        slow.frames(0)
        time.sleep(0.2)
        slow.push(None)

    with Together([array(3), slow]) as together:
        threading.Thread(target=come).start()
        assert [[at for at, _ in one] for one in together] == [[0, 1], [0], [0]]


def test_a_loop_that_was_left_is_gone_on_with_by_the_next() -> None:
    with Together([array(5), array(5)]) as together:
        first = next(iter(together))
        rest = list(together)
    assert taken([first, *rest], 2) == [list(range(5))] * 2
    assert list(together) == []


@pytest.mark.parametrize("given", [[], [0, 0]], ids=["none", "one twice"])
def test_no_source_and_one_given_twice_are_refused(given: list[int]) -> None:
    source = array(1)
    with pytest.raises(InputError, match="each of them once"):
        Together([source for _ in given])


# -- cameras -------------------------------------------------------------------------------------------------------------


def test_a_live_source_that_is_silent_holds_up_nobody() -> None:
    with Together([Queue(live=True), array(5)]) as together:
        for index in range(5):
            ((place, frame),) = next(together)
            assert (place, frame.index) == (1, index)


def test_of_a_live_source_a_slow_loop_gets_the_newest_frame_and_the_rest_is_counted() -> None:
    camera = Queue(live=True).frames(0)
    with Together([camera]) as together:
        assert [frame.index for _, frame in next(together)] == [0]
        for numbers in ([1, 2, 3], [4, 5]):
            camera.frames(*numbers)  # while the loop is busy
            wait_until(partial(waits, together, numbers[-1]))
            ((_, frame),) = next(together)
            assert frame.index == numbers[-1] and frame.dropped == len(numbers) - 1


@pytest.mark.alone
def test_a_real_camera_is_not_seen_late_by_a_slow_loop() -> None:
    with LiveSource(0, opener=Camera()) as source, Together([source]) as together:
        ages, seen, dropped = [], 0, 0
        for _ in range(6):
            ((_, frame),) = next(together)
            ages.append(source.age(frame))
            seen, dropped = seen + 1, dropped + frame.dropped
            time.sleep(0.4)
    assert median(ages[1:]) < 0.2, "frames waited while the loop was busy"
    assert seen + dropped == frame.index + 1


@pytest.mark.alone
def test_a_camera_that_stalls_lets_others_go_on_and_its_frames_come_when_it_is_back() -> None:
    stalled, steady = Camera(), Camera(fps=50)
    with Together([LiveSource(0, opener=stalled), LiveSource(1, opener=steady)]) as together:
        wait_until(lambda: {at for at, _ in next(together)} == {0, 1})
        stalled.going.clear()
        time.sleep(0.1)
        began = time.monotonic()
        places = [at for _ in range(20) for at, _ in next(together)]
        assert time.monotonic() - began < 4.5, "it waited for the camera that stalls: five seconds are its timeout"
        assert places.count(1) >= 18 and places.count(0) <= 2
        stalled.going.set()
        wait_until(lambda: 0 in [at for at, _ in next(together)])
    wait_until(lambda: stalled.released == steady.released == 1)


# -- errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("live", [False, True])
def test_a_source_that_fails_gives_its_frames_first_is_told_and_leaves_the_others_going_on(live: bool) -> None:
    told: list[tuple[int, str, int]] = []
    frames = 0
    bad = Queue(live=live).frames(0).push(SourceError("cable cut"))
    with Together([array(6), bad], on_error=lambda at, error: told.append((at, str(error), frames))) as together:
        rounds = []
        for one in together:
            rounds.append(one)
            frames += sum(at == 1 for at, _ in one)
    assert taken(rounds, 2)[0] == list(range(6)) and taken(rounds, 2)[1] == [0]
    assert told == [(1, "cable cut", 1)]


def test_a_failure_does_not_make_the_round_of_the_others_incomplete() -> None:
    bad = Queue(live=False).push(SourceError("gone"))
    with Together([array(4), array(4), bad], on_error=lambda at, error: None) as together:
        assert [len(one) for one in together] == [2] * 4


def test_without_on_error_the_error_is_raised_after_the_frames_before_it() -> None:
    bad = Queue(live=False).frames(0, 1).push(SourceError("gone"))
    with Together([array(9), bad]) as together:
        rounds = [next(together), next(together)]
        with pytest.raises(SourceError, match="gone"):
            next(together)
    assert taken(rounds, 2)[1] == [0, 1]


def test_each_of_two_errors_is_told() -> None:
    told: list[int] = []
    bad = [Queue(live=False).push(SourceError("gone")) for _ in range(2)]
    with Together([*bad, array(2)], on_error=lambda at, error: told.append(at)) as together:
        assert len(list(together)) == 2
    assert sorted(told) == [0, 1]


def test_what_is_not_our_error_is_raised_whoever_listens() -> None:
    def broken() -> Iterator[np.ndarray]:
        yield np.zeros((4, 4, 3), np.uint8)
        raise ZeroDivisionError("a user's own generator")

    told: list[int] = []
    with (
        Together([open_source(broken()), array(9)], on_error=lambda at, error: told.append(at)) as together,
        pytest.raises(ZeroDivisionError, match="own generator"),
    ):
        list(together)
    assert told == []


def test_a_video_that_is_cut_short_is_told_with_all_its_frames_given(tmp_path: Path) -> None:
    whole = video(tmp_path / "a.avi", 40).read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    told: list[str] = []
    sources = [open_source(tmp_path / "cut.avi"), open_source(tmp_path / "a.avi")]
    with Together(sources, on_error=lambda at, error: told.append(str(error))) as together:
        given = taken(list(together), 2)
    assert given[1] == list(range(40)) and given[0] == list(range(len(given[0]))) and 5 < len(given[0]) < 40
    assert len(told) == 1 and "cut short" in told[0]


# -- the end -------------------------------------------------------------------------------------------------------------


@pytest.mark.alone
@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("of the loop")], ids=["Ctrl-C", "an error"])
def test_an_exception_in_the_loop_stops_all_threads_at_once(tmp_path: Path, error: BaseException) -> None:
    before = set(threading.enumerate())
    sources = [open_source(video(tmp_path / "a.mp4", 200)), array(200), Queue(live=False).frames(*range(9))]
    sources += [LiveSource(0, opener=Camera()), Queue(live=True)]
    began = 0.0
    together = Together(sources)
    with pytest.raises(type(error)), together:  # noqa: PT012
        for index, _ in enumerate(together):
            if index == 4:
                began = time.monotonic()
                raise error
    assert time.monotonic() - began < 2.9  # after three seconds it would no longer wait for a thread
    assert set(threading.enumerate()) <= before


def test_closing_from_inside_the_loop_and_from_another_thread_ends_it(tmp_path: Path) -> None:
    together = Together([array(50), Queue(live=True)])
    for count, _ in enumerate(together, 1):
        if count == 3:
            together.close()
    assert count == 3
    together.close()
    waiting = Together([Queue(live=True)])
    threading.Timer(0.3, waiting.close).start()
    assert list(waiting) == []


def test_closing_before_the_first_round_starts_no_thread() -> None:
    together = Together([array(3), array(3)])
    together.close()
    assert list(together) == [] and together._threads == []


def in_another_process(program: str, path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_a_video_is_closed_safely_while_another_thread_decodes_it(tmp_path: Path) -> None:
    """FFmpeg aborts the process when a decoder is freed under a thread that uses it; so it is tried in another process."""
    video(tmp_path / "a.mp4", 300)
    program = (
        "import sys, time\n"
        "from effvision.sources import Together, open_source\n"
        "for turn in range(40):\n"
        "    with Together([open_source(sys.argv[1]) for _ in range(3)]) as together:\n"
        "        for index, _ in enumerate(together):\n"
        "            if index > turn % 7: break\n"
        "print('fine')\n"
    )
    done = in_another_process(program, tmp_path / "a.mp4")
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_leaving_python_with_a_loop_left_open_is_quiet(tmp_path: Path) -> None:
    video(tmp_path / "a.mp4", 300)
    program = (
        "import sys\n"
        "from effvision.sources import Together, open_source\n"
        "together = Together([open_source(sys.argv[1]) for _ in range(3)])\n"
        "next(together)\n"
        "sys.exit(3)\n"
    )
    done = in_another_process(program, tmp_path / "a.mp4")
    assert (done.returncode, done.stderr) == (3, "")


def test_an_iterable_that_never_gives_a_frame_does_not_keep_close_waiting_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("effvision.sources.together._LET_GO_S", 0.3)
    thaw = threading.Event()

    def silent() -> Iterator[np.ndarray]:
        thaw.wait(60)
        yield np.zeros((4, 4, 3), np.uint8)

    together = Together([open_source(silent())], on_error=lambda at, error: None)
    together._start()
    began = time.monotonic()
    together.close()
    assert time.monotonic() - began < 20
    thaw.set()


@pytest.mark.alone
def test_cameras_that_hang_are_left_behind_side_by_side() -> None:
    cameras = [Camera() for _ in range(4)]
    sources = [LiveSource(number, opener=camera) for number, camera in enumerate(cameras)]
    for camera in cameras:
        camera.going.clear()
    time.sleep(0.1)
    began = time.monotonic()
    close_all(sources)
    assert time.monotonic() - began < 6  # two seconds each, one after the other, would be eight
    for camera in cameras:
        camera.going.set()
    wait_until(lambda: all(camera.released == 1 for camera in cameras))
