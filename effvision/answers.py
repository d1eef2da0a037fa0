"""What a model answers for each of many files: a row of a table, and a file beside it for what no row can hold.

`Predictor.for_files` gives an `Answers`; `effvision.batch` calls it once for each file. A family whose answer for a file is
more than its `predict` brings a class of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from effvision.errors import InputError
from effvision.results import Columns, Result
from effvision.sources import Frame, Source, open_cloud, open_source
from effvision.sources.cloud_columns import check_columns
from effvision.sources.sniff import IMAGE_SUFFIXES, VIDEO_SUFFIXES

__all__ = ["FRAME_SUFFIXES", "Answer", "Answers", "CloudAnswers", "FrameAnswers", "Tell", "Told", "answers_for"]

Tell = Callable[[int], None]

FRAME_SUFFIXES = tuple(sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES))
"""Of files that hold frames."""


@dataclass(frozen=True)
class Answer:
    """What one file gave.

    Attributes:
        row: A value for each of the `columns`: plain data.
        count: Frames, points or other inputs that were read.
    """

    row: Mapping[str, Any]
    count: int


class Answers:
    """Answers for files one after the other, by `predict`.

    Attributes:
        columns: What a row has, by name; see `effvision.results.Columns`.
        counts: What `Answer.count` counts: the name of that column.
        saves: Suffixes a file's full answer can be saved as, the usual one first; none where the row says everything.
    """

    columns: Columns = Result.columns
    counts: ClassVar[str] = "inputs"
    saves: ClassVar[tuple[str, ...]] = ()

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, path: Path, *, name: str, save: Path | None, tell: Tell) -> Answer:
        """Answer for one file.

        Args:
            path: Where it lies.
            name: What the user called it.
            save: Where to write the full answer, in a folder that exists; None: nowhere.
            tell: Called with how many inputs were read so far. Every call says that the work gets on: without one for too
                long it is taken to hang.
        """
        result = self.model.predict(path)
        tell(1)
        if save is not None:
            result.save(save)
        return Answer(result.to_row(), 1)


class FrameAnswers(Answers):
    """One answer for all frames of a video, a picture, or a folder of pictures."""

    counts = "frames"

    def __init__(self, model: Any, columns: Columns) -> None:
        super().__init__(model)
        self.columns = columns

    def __call__(self, path: Path, *, name: str, save: Path | None, tell: Tell) -> Answer:
        """Answer for one video; see `Answers`."""
        frames = Told(open_source(path), tell)
        with frames:
            result = self.model.predict(frames)
        if save is not None:
            result.save(save)
        return Answer(result.to_row(), frames.given)


class CloudAnswers(Answers):
    """A class for every point of a cloud: their counts in the row, those of each point in the saved file."""

    counts = "points"
    saves = (".npz", ".ply", ".png", ".jpg", ".json")

    def __init__(self, model: Any, row: Columns, *, seed: int = 0, **reading: Any) -> None:
        """Take what `CloudPredictor.for_files` was given; `reading` is for `effvision.open_cloud`."""
        super().__init__(model)
        self.columns = row
        self._seed, self._reading = seed, reading
        model.initial_memory(seed=seed)  # refuses what is no seed
        check_columns(reading.get("columns"))

    def __call__(self, path: Path, *, name: str, save: Path | None, tell: Tell) -> Answer:
        """Answer for one cloud; see `Answers`."""
        cloud = open_cloud(path, **self._reading)
        tell(len(cloud))
        model = self.model.watched(lambda done, total: tell(len(cloud)))
        result = model.session(seed=self._seed).update(cloud)
        if save is not None:
            result.save(save)
        return Answer(result.to_row(), len(cloud))


class Told(Source):
    """Another source, whose frames are counted as they are given.

    Attributes:
        given: Frames so far.
    """

    def __init__(self, source: Source, tell: Tell) -> None:
        super().__init__(source.name, fps=source.fps, count=source.count)
        self.live = source.live
        self.given = 0
        self._source = source
        self._tell = tell

    def close(self) -> None:
        """Let go of the files."""
        super().close()
        self._source.close()

    def _frames(self) -> Iterator[Frame]:
        for frame in self._source:
            self.given += 1
            self._tell(self.given)
            yield frame


def answers_for(model: Any, options: Mapping[str, Any]) -> Answers:
    """Return `model.for_files(**options)`.

    Raises:
        InputError: an option the model does not take, or one it needs is missing, or cannot be used.
    """
    known = list(inspect.signature(model.for_files).parameters)
    if unknown := sorted(set(options) - set(known)):
        raise InputError(
            f"for many files {model.metadata.card or type(model).__name__} takes no option {', '.join(unknown)}; "
            f"it takes: {', '.join(known) or 'none'}\nhint: leave it out"
        )
    made: Answers = model.for_files(**options)
    return made
