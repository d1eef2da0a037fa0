"""What predictors answer: frozen values that know their shapes and units, draw themselves and turn into plain data."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from effvision.errors import InputError

__all__ = ["Classification", "Result", "Timing"]

Self = TypeVar("Self", bound="Result")


@dataclass(frozen=True)
class Timing:
    """Milliseconds one update took: host preparation, the network, and what follows it."""

    prepare_ms: float = 0.0
    run_ms: float = 0.0
    finish_ms: float = 0.0

    @property
    def total_ms(self) -> float:
        """Sum of the three."""
        return self.prepare_ms + self.run_ms + self.finish_ms

    def __add__(self, other: Timing) -> Timing:
        """Milliseconds of two updates together."""
        return Timing(self.prepare_ms + other.prepare_ms, self.run_ms + other.run_ms, self.finish_ms + other.finish_ms)

    def to_dict(self) -> dict[str, float]:
        """Return the milliseconds by name, `total_ms` included, rounded to a microsecond."""
        names = ("prepare_ms", "run_ms", "finish_ms", "total_ms")
        return {name: round(float(getattr(self, name)), 3) for name in names}


@dataclass(frozen=True, eq=False)
class Result:
    """What every answer carries.

    Attributes:
        timing: Milliseconds of the update that gave it.
        index: Updates since the session began or was last reset, from 0.
        timestamp: Seconds on the source's own clock; None if the caller gave none.
        reset_reason: Why the state was cleared just before this update (`seek`, `gap`, `source`, `reset`); None if it was not.
        fresh: False if this update did not run the network because the next frame at the trained rate is not due yet;
            the answer is then the last one.
        dropped: Frames of a live source that came between the last answer's and this one's and were skipped to keep up.
        image: The frame (H, W, 3) uint8 RGB the answer belongs to, where the caller asked to keep it.
    """

    timing: Timing = field(default_factory=Timing, kw_only=True)
    index: int = field(default=0, kw_only=True)
    timestamp: float | None = field(default=None, kw_only=True)
    reset_reason: str | None = field(default=None, kw_only=True)
    fresh: bool = field(default=True, kw_only=True)
    dropped: int = field(default=0, kw_only=True)
    image: np.ndarray | None = field(default=None, kw_only=True, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: text, numbers, lists. Pictures are left out."""
        return {
            "index": self.index,
            "timestamp": self.timestamp,
            "reset_reason": self.reset_reason,
            "fresh": self.fresh,
            "timing": self.timing.to_dict(),
        }

    def to_json(self) -> str:
        """Return `to_dict` as one line of JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def plot(self, image: np.ndarray | None = None) -> np.ndarray:
        """Draw the answer on a copy of `image` (default: the kept frame); (H, W, 3) uint8 RGB in and out.

        Raises:
            InputError: no image was given and none was kept.
        """
        picture = self.image if image is None else image
        if picture is None:
            raise InputError("this result kept no frame; give one: `result.plot(frame)` with (H, W, 3) uint8 RGB")
        return self._draw(picture)

    def save(self, path: str | os.PathLike[str], image: np.ndarray | None = None) -> Path:
        """Write the drawn picture (`.jpg`, `.png`) or the plain data (`.json`); the file appears whole.

        Raises:
            InputError: another suffix, or a picture was asked for and there is no frame.
            SourceError: the folder does not exist or cannot be written.
        """
        from effvision._files import as_path

        target = as_path(path)
        if target.suffix.lower() == ".json":
            from effvision._files import write_text

            return write_text(target, self.to_json() + "\n")
        if target.suffix.lower() not in (".jpg", ".jpeg", ".png"):
            raise InputError(f"a result is saved as .jpg, .png or .json; got {target.name!r}")
        from effvision.viz import save_image

        save_image(target, self.plot(image))
        return target

    def replace(self: Self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return replace(self, **changes)

    def _draw(self, image: np.ndarray) -> np.ndarray:
        raise InputError(f"{type(self).__name__} has no drawing")


@dataclass(frozen=True, eq=False)
class Classification(Result):
    """Class scores of one frame of a stream, or of a whole clip.

    Attributes:
        labels: K class names.
        scores: (K,) float32, 0..1, sum 1: softmax of the logits after smoothing.
        logits: (K,) float32 as the network gave them, before smoothing; the mean over frames for a whole clip.
        chosen: Index of the label smoothing decided on; the highest score where there is no smoothing.
        settled: False for the first frames after a start or reset, when the network has seen too little to judge motion.
    """

    labels: tuple[str, ...]
    scores: np.ndarray
    logits: np.ndarray
    chosen: int
    settled: bool = True

    def __post_init__(self) -> None:
        if not len(self.labels) == len(self.scores) == len(self.logits) > self.chosen >= 0:
            raise InputError(
                f"labels, scores and logits must have one length and `chosen` lie inside; got {len(self.labels)}, "
                f"{len(self.scores)}, {len(self.logits)} and {self.chosen}"
            )

    @property
    def label(self) -> str:
        """Name of the chosen class."""
        return self.labels[self.chosen]

    @property
    def score(self) -> float:
        """Score of the chosen class, 0..1."""
        return float(self.scores[self.chosen])

    def topk(self, k: int = 5) -> list[tuple[str, float]]:
        """Return the `k` best (label, score), best first; all of them if there are fewer.

        Raises:
            InputError: `k` is below 1.
        """
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise InputError(f"`k` must be a whole number, 1 or more; got {k!r}")
        order = np.argsort(-self.scores, kind="stable")[:k]
        return [(self.labels[i], float(self.scores[i])) for i in order]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: label, score, the five best, and what every result carries."""
        top = [{"label": label, "score": round(score, 6)} for label, score in self.topk(5)]
        return {
            "label": self.label,
            "score": round(self.score, 6),
            "settled": self.settled,
            "topk": top,
            **super().to_dict(),
        }

    def _draw(self, image: np.ndarray) -> np.ndarray:
        from effvision.viz import draw_classification

        note = f"{self.timing.total_ms:.1f} ms" if self.timing.total_ms else None
        if not self.settled:
            note = "too few frames to judge yet"
        best = self.topk(3)
        if best[0][0] != self.label:  # smoothing may hold a label that is not this frame's best
            best = [(self.label, self.score), *[item for item in best if item[0] != self.label]][:3]
        return draw_classification(image, topk=best, note=note)
