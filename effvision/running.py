"""Run a model over one or several sources and show, save or print what it answers: `effvision run`."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

from effvision.errors import EffvisionError, InputError, SourceError
from effvision.running_clouds import CLOUD_FORMATS, run_clouds
from effvision.running_edits import refuse_edits, run_edits
from effvision.running_tracks import following, refuse_tracking

__all__ = ["check", "run"]

_VIDEOS = (".mp4", ".avi")
_PICTURES = (".jpg", ".jpeg", ".png")
_NAME_WIDTH = 28
_USUAL_FPS = 30.0  # of a saved video whose source states no rate
_PAUSE_S = 1.0  # a longer silence of a camera is left out of its video
_LOOK_MS = 100  # how often a waiting window is asked whether it was closed


def check(options: argparse.Namespace) -> None:
    """Refuse before the model takes its time to load what could not be written or shown.

    Raises:
        InputError: --save with a suffix that is not written, or one file for several sources; --show without a screen.
        SourceError: the folder of --save does not exist.
    """
    check_save(options.save, len(options.source))
    if options.show:
        check_screen()


def run(model: Any, options: argparse.Namespace) -> int:
    """Run what the command line asks for, after `check`; return its exit code.

    Raises:
        InputError: options that do not go together.
        SourceError: a source that cannot be read, or a file that cannot be written.
    """
    if model.takes == "labels":
        return run_edits(model, options)
    refuse_edits(options)
    if model.takes == "clouds":
        return run_clouds(model, options)
    _check_frames(options)
    if model.metadata.task == "tracking":
        with following(model, options) as stream:
            return _run_streams(stream, options, {})
    refuse_tracking(options)
    given: dict[str, Any] = {"fps": None} if options.every_frame else {}
    if options.smooth:
        given["smoothing"] = options.smooth
    if given and not model.streams:
        raise InputError(
            f"--smooth and --every-frame are for streams; {options.model} judges whole clips: leave them out"
        )
    if not model.streams and (len(options.source) > 1 or options.show):
        raise InputError(f"{options.model} judges whole clips: give one source, and no --show")
    if not model.streams:
        return _run_whole(model, options)
    return _run_streams(model, options, given)


def as_source(text: str) -> int | str:
    """Read one word of the command line: digits name a camera unless there is a file of that name."""
    return int(text) if re.fullmatch(r"[0-9]{1,3}", text) and not Path(text).exists() else text


def check_save(path: Path | None, sources: int) -> None:
    """Refuse before work begins what could not be written at its end.

    Raises:
        InputError: a suffix that is not written, or one file for several sources.
        SourceError: the folder does not exist.
    """
    if path is None:
        return
    if sources > 1:
        if not path.is_dir():
            raise InputError(
                f"--save writes one file for each of {sources} sources, so it takes a folder that exists; got {path}"
            )
        return
    if path.is_dir():  # whether the model writes into folders is known when it is loaded
        return
    if path.suffix.lower() not in (*_VIDEOS, *_PICTURES, *CLOUD_FORMATS):
        raise InputError(
            f"--save writes {', '.join((*_VIDEOS, *_PICTURES))}, and clouds as {', '.join(CLOUD_FORMATS)}; got {path.name!r}"
        )
    if not path.parent.is_dir():
        raise SourceError(f"cannot write {path}: the folder {path.parent} does not exist\nhint: mkdir -p {path.parent}")


def _check_frames(options: argparse.Namespace) -> None:
    """Refuse what a model of frames cannot write or read: clouds of points.

    Raises:
        InputError: --save with a cloud's suffix, or a source that is a file of points.
    """
    from effvision.sources.clouds import CLOUD_SUFFIXES

    if options.columns is not None or options.drop_nonfinite:
        raise InputError(
            f"--columns and --drop-nonfinite are for clouds; {options.model} judges pictures: leave them out"
        )
    path = options.save
    if path is not None and len(options.source) == 1 and path.suffix.lower() not in (*_VIDEOS, *_PICTURES):
        raise InputError(f"--save writes {', '.join((*_VIDEOS, *_PICTURES))} of frames; got {path.name!r}")
    for word in options.source:
        if Path(word).suffix.lower() in CLOUD_SUFFIXES:
            raise InputError(
                f"{options.model} judges pictures, and {word} is a file of points\n"
                "hint: `effvision list` shows the models that label clouds, such as pvcnn-lidarhd"
            )


def check_screen() -> None:
    """Refuse --show where no window can open.

    Raises:
        InputError: no screen, one that cannot be reached, or an OpenCV without windows.
    """
    from effvision._optional import import_cv2

    cv2 = import_cv2()
    elsewhere = "hint: --save FILE writes what would be shown; `effvision demo` shows them in a browser"
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise InputError(
            f"--show needs a screen, and none is here (neither DISPLAY nor WAYLAND_DISPLAY is set)\n{elsewhere}"
        )
    os.environ.setdefault("QT_LOGGING_RULES", "default.warning=false")  # OpenCV's Qt complains that it brings no fonts
    built = re.search(r"^\s*GUI:\s*(\S+)", cv2.getBuildInformation(), re.MULTILINE)
    if built and built[1].upper() == "NONE":
        raise InputError(
            "--show needs an OpenCV with windows, and this is a headless build\nhint: pip install opencv-python"
        )
    if not _opens_windows():
        raise InputError(
            f"--show needs a screen, and OpenCV cannot open a window on the one there should be\n{elsewhere}"
        )


def _opens_windows() -> bool:
    """Try in a process of its own: where the screen cannot be reached, Qt aborts the one that asks."""
    if getattr(sys, "frozen", False) or not sys.executable:  # the executable is an application, not Python
        return True
    probe = "import cv2; cv2.namedWindow('effvision'); cv2.waitKey(1); cv2.destroyAllWindows()"
    try:
        done = subprocess.run([sys.executable, "-c", probe], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def _run_streams(model: Any, options: argparse.Namespace, given: dict[str, Any]) -> int:
    # FFmpeg's own complaints, a line for each damaged packet; what matters is said by our errors. OpenCV reads this once.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    failed: list[int] = []

    def report(place: int, error: EffvisionError) -> None:
        failed.append(place)
        _say(f"effvision: {error}")

    opened, results = _begin(model, options.source, given, report)
    tally = _Tally(opened)
    with closing(results), _Savers(options.save, opened) as savers, _Window(options.show, opened) as window:
        try:
            for place, result in _progress(results, opened[0].count if len(opened) == 1 else None):
                tally.add(place, result)
                savers.add(place, result)
                tally.show(place, result, as_json=options.json)
                if not window.show(place, result):
                    break
        except KeyboardInterrupt:
            if not all(source.live for source in opened):
                raise
            # Ctrl-C is how one ends a camera: what was saved is whole, and that is no failure
    tally.finish(quiet=options.json)
    _say(f"{tally} ({model!r})")
    for line in tally.dropped():
        _say(line)
    return 1 if failed else 0


def _begin(
    model: Any, words: Sequence[str], given: dict[str, Any], report: Callable[[int, EffvisionError], None]
) -> tuple[list[Any], Generator[tuple[int, Any], None, None]]:
    """Open the sources; return them and the results, whose end closes them."""
    from effvision.sources import open_source
    from effvision.sources.together import close_all

    def alone(results: Any) -> Generator[tuple[int, Any], None, None]:
        with closing(results):
            for result in results:
                yield 0, result

    opened: list[Any] = []
    try:
        for word in words:
            opened.append(open_source(as_source(word)))
        if len(opened) == 1:
            return opened, alone(model.stream(opened[0], **given))
        return opened, model.stream_many(opened, on_error=report, **given)
    except BaseException:
        close_all(opened)
        raise


def _run_whole(model: Any, options: argparse.Namespace) -> int:
    from effvision.sources import open_source

    word = as_source(options.source[0])
    result = model.predict(word)
    if options.json:
        print(json.dumps(result.to_dict(), ensure_ascii=False), flush=True)
    else:
        for label, score in result.topk(5):
            print(f"{score:.3f}  {label}")
    if options.save is not None:
        with open_source(word) as source, _Savers(options.save, [source]) as savers:
            for frame in _progress(source, source.count):
                savers.add(0, result.replace(image=frame.image))
    _say(f"{result.timing.total_ms:.0f} ms ({model!r})")
    return 0


class _Tally:
    """Counts, times and labels of a run."""

    def __init__(self, sources: Sequence[Any]) -> None:
        self._sources = sources
        names = [source.name for source in sources]
        self._names = [name if len(name) <= _NAME_WIDTH else "\u2026" + name[1 - _NAME_WIDTH :] for name in names]
        self._width = max(map(len, self._names)) if len(names) > 1 else 0
        self._shown: list[str | None] = [None] * len(names)
        self._last: list[Any] = [None] * len(names)
        self._dropped = [0] * len(names)
        self._lags: deque[float] = deque(maxlen=1000)
        self.frames = self.steps = 0
        self.spent_ms = 0.0

    def add(self, place: int, result: Any) -> None:
        self.frames, self.steps = self.frames + 1, self.steps + result.fresh
        self.spent_ms += result.timing.total_ms
        self._last[place] = result
        self._dropped[place] += result.dropped
        if self._sources[place].live:
            self._lags.append(self._sources[place].age(result.timestamp))

    def show(self, place: int, result: Any, *, as_json: bool) -> None:
        """Print every result as JSON, or the labels when they change."""
        if as_json:
            named = {"source": self._sources[place].name} if self._width else {}
            print(json.dumps({**named, **result.to_dict()}, ensure_ascii=False), flush=True)
        elif result.event and result.event != self._shown[place]:
            when = f"frame {result.index:4}" if result.timestamp is None else f"{result.timestamp:8.2f} s"
            again = f"  (began anew: {result.reset_reason})" if result.reset_reason else ""
            score = f"  {result.score:.2f}" if hasattr(result, "score") else ""
            print(f"{self._name(place)}{when}  {result.event}{score}{again}", flush=True)
            self._shown[place] = result.event

    def finish(self, *, quiet: bool) -> None:
        for place, result in enumerate(self._last):
            if result is not None and self._shown[place] is None and not quiet:
                few = "(too few frames to judge motion)"
                print(f"{self._name(place)}{result.label}  {result.score:.2f}  {few}", flush=True)

    def dropped(self) -> Iterator[str]:
        for source, count in zip(self._sources, self._dropped, strict=True):
            if count:
                yield f"{source.name}: {count} frames dropped to keep up with it"

    def _name(self, place: int) -> str:
        return f"{self._names[place]:<{self._width}}  " if self._width else ""

    def __str__(self) -> str:
        lag = ""
        if self._lags:
            lag = f", answers {statistics.median(self._lags) * 1e3:.0f} ms after the frame came (median)"
        return (
            f"{self.frames} frames, {self.steps} steps of the network, "
            f"{self.spent_ms / max(1, self.steps):.1f} ms a step{lag}"
        )


class _Savers:
    """Writes annotated frames: one video a source, or the last frame of the only one to a picture."""

    def __init__(self, path: Path | None, sources: Sequence[Any]) -> None:
        self._videos: list[_Recording] = []
        self._picture: Path | None = None
        self._last: Any = None
        if path is None:
            return
        if len(sources) > 1:
            names = [f"{place}-{_plain_name(source.name)}.mp4" for place, source in enumerate(sources, 1)]
            self._videos = [_Recording(path / name, source) for name, source in zip(names, sources, strict=True)]
        elif path.suffix.lower() in _VIDEOS:
            self._videos = [_Recording(path, sources[0])]
        else:
            self._picture = path

    def __enter__(self) -> _Savers:
        return self

    def add(self, place: int, result: Any) -> None:
        self._last = result
        if self._videos:
            self._videos[place].add(result)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # what came before Ctrl-C, the end of a truncated file or of a pipe is good and stays
        good = kind is None or issubclass(kind, (KeyboardInterrupt, EffvisionError, BrokenPipeError))
        problems = []
        for finish in [video.finish for video in self._videos] + [self._save_picture]:
            try:
                path = finish(good)
            except EffvisionError as problem:  # one that cannot be finished must not cost the others
                problems.append(problem)
            else:
                if path is not None:
                    _say(f"wrote {path}{'' if kind is None else ' up to there'}")
        for late in problems[1 if kind is None else 0 :]:
            _say(f"effvision: {late}")
        if problems and kind is None:
            raise problems[0]

    def _save_picture(self, good: bool) -> Path | None:
        if self._picture is None or self._last is None or not good:
            return None
        self._last.save(self._picture)
        return self._picture


class _Recording:
    """The annotated video of one source; the file is begun with the first frame."""

    def __init__(self, path: Path, source: Any) -> None:
        self._path = path
        self._live = source.live
        self._fps = source.fps or _USUAL_FPS
        if self._live:
            self._fps = min(self._fps, _USUAL_FPS)
        self._video: Any = None
        self._first_s = 0.0

    def add(self, result: Any) -> None:
        from effvision.sources import VideoWriter

        picture = result.plot()
        if self._video is None:
            self._video = VideoWriter(self._path, fps=self._fps, size=picture.shape[:2])
            self._first_s = result.timestamp or 0.0
        if picture.shape[:2] != self._video.size:  # a camera that came back, a folder of pictures: a video has one size
            import cv2

            picture = cv2.resize(picture, self._video.size[::-1], interpolation=cv2.INTER_AREA)
        for _ in range(self._times(result.timestamp)):
            self._video.write(picture)

    def _times(self, now_s: float | None) -> int:
        """Frames to write so that a video of live pictures, some of them dropped, takes as long as they did."""
        if not self._live or now_s is None:
            return 1
        written: int = self._video.count
        if now_s - self._first_s - written / self._fps > _PAUSE_S:
            self._first_s = now_s - written / self._fps
        return max(0, round((now_s - self._first_s) * self._fps) + 1 - written)

    def finish(self, good: bool) -> Path | None:
        """Move the file into place, or drop it; return its path if it is there."""
        if self._video is None:
            return None
        if good and self._video.count:
            self._video.close()
            return self._path
        self._video.discard()
        return None


class _Window:
    """Shows annotated frames; recordings at their own pace. Esc, q or closing the window ends the run."""

    def __init__(self, wanted: bool, sources: Sequence[Any]) -> None:
        self._wanted = wanted
        self._sources = sources
        self._titles = [f"effvision - {source.name}" for source in sources]
        if len(sources) > 1:  # two may have one name
            self._titles = [f"effvision {place} - {source.name}" for place, source in enumerate(sources, 1)]
        self._begun = [0.0] * len(sources)
        self._shown = [0] * len(sources)

    def __enter__(self) -> _Window:
        return self

    def show(self, place: int, result: Any) -> bool:
        """Draw one frame and wait until the next one is due; False when the user wants to end."""
        if not self._wanted:
            return True
        import cv2

        title = self._titles[place]
        if self._shown[place] and not _is_open(title):
            return False
        cv2.imshow(title, cv2.cvtColor(result.plot(), cv2.COLOR_RGB2BGR))
        due_s = self._due(place, result)
        self._shown[place] += 1
        while True:
            left_ms = (due_s - time.monotonic()) * 1e3
            if cv2.waitKey(round(max(1.0, min(_LOOK_MS, left_ms)))) & 0xFF in (27, ord("q")):
                return False
            if time.monotonic() >= due_s:
                return True
            if not _is_open(title):
                return False

    def _due(self, place: int, result: Any) -> float:
        """When to go on, on the monotonic clock: a recording is shown at its own pace, the only picture until it is closed."""
        source, now_s = self._sources[place], time.monotonic()
        if source.live:
            return now_s
        if source.count == 1 and len(self._sources) == 1:
            return math.inf
        period_s = 1 / (source.fps or _USUAL_FPS)
        at_s = self._shown[place] * period_s if result.timestamp is None else result.timestamp
        if not self._shown[place] or result.reset_reason:
            self._begun[place] = now_s - at_s
        return self._begun[place] + at_s

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if any(self._shown):
            import cv2

            cv2.destroyAllWindows()


def _is_open(title: str) -> bool:
    import cv2

    try:
        return bool(cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) >= 1)
    except cv2.error:  # Qt has ended with its last window
        return False


def _plain_name(name: str) -> str:
    """Turn a path or an address into a short file name."""
    stem = Path(name).stem if "://" not in name else name.partition("://")[2]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.")[:60] or "source"


def _progress(items: Iterable[Any], total: int | None) -> Iterator[Any]:
    from tqdm import tqdm

    # disable=None: a bar only where standard error is a terminal
    return iter(tqdm(items, total=total, unit="frame", disable=None, leave=False))


def _say(text: str) -> None:
    print(text, file=sys.stderr)
