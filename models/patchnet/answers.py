"""What PatchNet answers for each of many videos: a summary of every object in the row, every box of every frame in a file."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from effvision._files import appearing, as_path
from effvision.answers import Answer, FrameAnswers, Tell, Told
from effvision.errors import InputError, SourceError
from effvision.models.patchnet.given import check_boxes
from effvision.results import Columns
from effvision.sources import open_source
from effvision.tracks import Tracks

if TYPE_CHECKING:
    from effvision.models.patchnet.predictor import PatchNet

__all__ = ["COLUMNS", "TrackAnswers", "read_boxes"]

COLUMNS: Columns = {
    "objects": [
        {
            "id": "int64",
            "label": "string",
            "first_frame": "int64",
            "last_frame": "int64",
            "frames": "int64",
            "lost_frames": "int64",
            "score": "float32",
            "first_box": ["float32"],
            "last_box": ["float32"],
        }
    ]
}
_HEAD = ("frame", "timestamp_s", "id", "x1", "y1", "x2", "y2", "score", "lost", "label")
_HINT = (
    "hint: its first line is path,x1,y1,x2,y2 and each other one an object in the first frame of that file, in pixels"
)


class TrackAnswers(FrameAnswers):
    """Objects followed through one video after the other, from boxes of their first frames or from a detector.

    A row holds a record for each object: its number and label, the first and the last frame (from 0) it was in, how many frames
    that were and in how many of them it was lost, its mean score in the others, and its first and last box (`x1 y1 x2 y2`,
    pixels). The saved file is a table in text (`.csv`) with a line for each object in each frame.
    """

    saves = (".csv",)

    def __init__(
        self,
        model: PatchNet,
        *,
        boxes: Any = None,
        boxes_file: str | os.PathLike[str] | None = None,
        detector: str | os.PathLike[str] | None = None,
        every: int | None = None,
    ) -> None:
        """Take what `PatchNet.for_files` was given.

        Args:
            model: The predictor.
            boxes: (M, 4) `x1 y1 x2 y2` in pixels of the objects to begin with, the same in the first frame of every file.
            boxes_file: A table in text with the boxes of each file: `path,x1,y1,x2,y2`, a line for each object.
            detector: An ONNX file that says what to follow, as in `effvision.accelerate`.
            every: Frames from one of its key frames to the next.

        Raises:
            InputError: nothing or two things say what to follow, or a value cannot be used.
            SourceError: a file that cannot be read.
        """
        super().__init__(model, COLUMNS)
        told = [name for name, value in (("boxes", boxes), ("boxes_file", boxes_file), ("detector", detector)) if value]
        if len(told) != 1:
            raise InputError(
                f"say once what to follow; got {' and '.join(told) or 'nothing'}\n"
                "hint: --box X1 Y1 X2 Y2 (the same in every file), --boxes FILE.csv (path,x1,y1,x2,y2) or --detector FILE.onnx"
            )
        self._boxes = None if not boxes else check_boxes(boxes).tolist()
        self._of_file = None if not boxes_file else read_boxes(as_path(boxes_file, name="boxes_file"))
        self._detector: Any = None
        self._every = every
        if detector:
            from effvision.detectors import OnnxDetector

            self._detector = OnnxDetector(detector)
            model.accelerate(self._detector, every=every)  # refuses what it cannot use
        elif every is not None:
            raise InputError("`every` says when a detector runs: give --detector FILE.onnx too")

    def __call__(self, path: Path, *, name: str, save: Path | None, tell: Tell) -> Answer:
        """Follow the objects of one video; see `Answers`."""
        seen: dict[int, _Seen] = {}
        with ExitStack() as stack:
            frames = Told(open_source(path), tell)
            stack.enter_context(frames)
            if frames.live:
                raise InputError(f"{frames.name} never ends")
            rows = None if save is None else csv.writer(_opened(stack, save))
            if rows is not None:
                rows.writerow(_HEAD)
            for result in self._results(frames, path, name):
                for line in _lines(result, frames.given - 1):
                    seen.setdefault(line[2], _Seen(line)).add(line)
                    if rows is not None:
                        rows.writerow(line)
        return Answer({"objects": [one.record() for one in seen.values()]}, frames.given)

    def _results(self, frames: Told, path: Path, name: str) -> Iterator[Tracks]:
        if self._detector is not None:
            return cast(
                "Iterator[Tracks]",
                self.model.accelerate(self._detector, every=self._every).stream(frames, images=False),
            )
        boxes = self._boxes
        if boxes is None:
            of_file = self._of_file or {}
            boxes = of_file.get(os.path.normpath(name)) or of_file.get(os.path.normpath(path))
            if not boxes:
                raise InputError(f"the file of boxes has none for {name}\n{_HINT}")
        return cast("Iterator[Tracks]", self.model.stream(frames, images=False, boxes=boxes))


class _Seen:
    """One object so far."""

    def __init__(self, line: Sequence[Any]) -> None:
        self.first = self.last = line
        self.frames = self.lost = 0
        self.sum = 0.0

    def add(self, line: Sequence[Any]) -> None:
        self.last = line
        self.frames += 1
        self.lost += line[8]
        self.sum += 0.0 if line[8] else line[7]

    def record(self) -> dict[str, Any]:
        there = self.frames - self.lost
        return {
            "id": self.first[2],
            "label": self.last[9],
            "first_frame": self.first[0],
            "last_frame": self.last[0],
            "frames": self.frames,
            "lost_frames": self.lost,
            "score": self.sum / there if there else None,
            "first_box": list(self.first[3:7]),
            "last_box": list(self.last[3:7]),
        }


def _lines(result: Tracks, frame: int) -> Iterator[tuple[Any, ...]]:
    """One tuple an object, in the order of `_HEAD`."""
    columns = (result.ids, result.boxes, result.scores, result.lost)
    for number, box, score, lost, label in zip(*(column.tolist() for column in columns), result.labels, strict=True):
        place = [round(value, 2) for value in box]
        when = None if result.timestamp is None else round(result.timestamp, 4)
        yield (frame, when, number, *place, round(score, 4), int(lost), label)


def _opened(stack: ExitStack, save: Path) -> Any:
    return stack.enter_context(open(stack.enter_context(appearing(save)), "w", newline="", encoding="utf-8"))


def read_boxes(path: Path) -> dict[str, list[list[float]]]:
    """Read a table in text, `path,x1,y1,x2,y2`: the boxes of each file, under its path as written and as seen from the table.

    Raises:
        SourceError: it cannot be read.
        InputError: it has other columns, or a line that is no box.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.DictReader(file, skipinitialspace=True))
    except (OSError, UnicodeError, csv.Error) as error:
        raise SourceError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    found: dict[str, list[list[float]]] = {}
    for number, line in enumerate(lines, 2):
        try:
            box = [float(line[name]) for name in ("x1", "y1", "x2", "y2")]
            (checked,) = check_boxes([box]).tolist()
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}, line {number} is no box: {_shown(line.values())} ({error})\n{_HINT}") from error
        name = line.get("path") or ""
        for known in {os.path.normpath(name), os.path.normpath(path.absolute().parent / name)}:
            found.setdefault(known, []).append(checked)
    if not found:
        raise InputError(f"{path} holds no box\n{_HINT}")
    return found


def _shown(values: Iterable[Any]) -> str:
    return ",".join(str(value) for value in values)[:80]
