"""What a tracker answers for one frame: where each object is, how sure that is, and which are lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.errors import ShapeError
from effvision.results import Result

__all__ = ["Tracks"]


@dataclass(frozen=True, eq=False)
class Tracks(Result):
    """The objects of one frame, in the order in which they were started.

    Attributes:
        boxes: (M, 4) float32, `x1 y1 x2 y2` in pixels, half-open. They may reach over the border of the frame. The box of a
            lost object is where it was last believed to be.
        ids: (M,) int64: an object keeps its number as long as it is followed.
        scores: (M,) float32, 0..1: how sure the place is; in a key frame the detector's own, of what it found. The scores
            `plain` and `temporal` of PatchNet may leave 0..1.
        lost: (M,) bool: the object is not where it was looked for; it is searched for around its box.
        classes: (M,) int64: the detector's class number, or -1 where nobody told one.
        names: Class names by number; empty where they are not known.
        key: Whether detections were taken up in this frame.
        ended: Numbers of objects that are given up with this frame: lost for too long, or not seen by the detector any more.
        detector_ms: What the detector took, if it ran for this frame.

    Raises:
        ShapeError: arrays of different lengths.
    """

    boxes: NDArray[np.float32]
    ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    lost: NDArray[np.bool_]
    classes: NDArray[np.int64]
    names: tuple[str, ...] = ()
    key: bool = False
    ended: tuple[int, ...] = ()
    detector_ms: float = 0.0

    def __post_init__(self) -> None:
        count = len(self.ids)
        shapes = [array.shape for array in (self.boxes, self.ids, self.scores, self.lost, self.classes)]
        if shapes != [(count, 4), (count,), (count,), (count,), (count,)]:
            raise ShapeError(f"`boxes` (M, 4), `ids`, `scores`, `lost` and `classes` (M,) are needed; got {shapes}")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class name of each object; its number where the name is not known, nothing where the class is not."""
        known = dict(enumerate(self.names))
        return tuple("" if number < 0 else known.get(number) or str(number) for number in self.classes.tolist())

    @property
    def event(self) -> str:
        """What people are told when it changes: who is there and who is lost."""
        if not len(self):
            return "no object"
        names = [f"{number} {label}".strip() for number, label in zip(self.ids.tolist(), self.labels, strict=True)]
        return ", ".join(name + (" LOST" if lost else "") for name, lost in zip(names, self.lost.tolist(), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: a record for each object, coordinates to a hundredth of a pixel, and what every result carries."""
        columns = (self.ids, self.boxes, self.scores, self.lost, self.classes)
        rows = zip(*(column.tolist() for column in columns), self.labels, strict=True)
        objects = [
            {
                "id": number,
                "box": [round(place, 2) for place in box],
                "score": round(score, 4),
                "lost": lost,
                **({"class": kind, "label": label} if kind >= 0 else {}),
            }
            for number, box, score, lost, kind, label in rows
        ]
        ran = {"detector_ms": round(self.detector_ms, 3)} if self.detector_ms else {}
        return {"objects": objects, "key": self.key, "ended": list(self.ended), **ran, **super().to_dict()}

    def to_supervision(self) -> Any:
        """Return a `supervision.Detections` with `tracker_id`, and `lost` and `class_name` in its `data`.

        Raises:
            MissingDependencyError: supervision is not installed; the message has the line that installs it.
        """
        from effvision._optional import require

        supervision = require("supervision")
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.classes.copy(),
            tracker_id=self.ids.copy(),
            data={"class_name": np.array(self.labels, dtype=str), "lost": self.lost.copy()},
        )

    def _draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        from effvision.viz import draw_boxes

        rows = zip(self.ids.tolist(), self.labels, self.scores.tolist(), strict=True)
        labels = [
            " ".join(part for part in (f"#{number}", name, f"{score:.2f}") if part) for number, name, score in rows
        ]
        return draw_boxes(image, self.boxes, ids=self.ids.tolist(), labels=labels, lost=self.lost)
