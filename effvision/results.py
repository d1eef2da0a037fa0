"""What predictors answer: frozen values that know their shapes and units, draw themselves and turn into plain data."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from effvision.clouds import Cloud
from effvision.errors import InputError, RangeError, ShapeError

__all__ = ["Classification", "Columns", "Result", "Segmentation", "Timing"]

Self = TypeVar("Self", bound="Result")

Columns = Mapping[str, Any]
"""Kinds of columns by name: `string`, `bool`, `int64`, `float32`, `float64`; `[kind]` is a list, `{name: kind}` a record."""


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
        columns: What `to_row` gives, for a table of many results.
    """

    columns: ClassVar[Columns] = {"answer": "string"}

    timing: Timing = field(default_factory=Timing, kw_only=True)
    index: int = field(default=0, kw_only=True)
    timestamp: float | None = field(default=None, kw_only=True)
    reset_reason: str | None = field(default=None, kw_only=True)
    fresh: bool = field(default=True, kw_only=True)
    dropped: int = field(default=0, kw_only=True)
    image: np.ndarray | None = field(default=None, kw_only=True, repr=False, compare=False)

    @property
    def event(self) -> str:
        """A short text that people are told when it changes from one frame to the next; empty where there is none."""
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: text, numbers, lists. Pictures are left out."""
        return {
            "index": self.index,
            "timestamp": self.timestamp,
            "reset_reason": self.reset_reason,
            "fresh": self.fresh,
            "timing": self.timing.to_dict(),
        }

    def to_row(self) -> dict[str, Any]:
        """Return plain data for each of the `columns`; `answer` is the JSON of `to_dict` where a result has no better ones."""
        return {"answer": self.to_json()}

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

    columns: ClassVar[Columns] = {
        "label": "string",
        "score": "float32",
        "settled": "bool",
        "topk": [{"label": "string", "score": "float32"}],
    }

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

    @property
    def event(self) -> str:
        """The label, once there is one to rely on."""
        return self.label if self.settled else ""

    def topk(self, k: int = 5) -> list[tuple[str, float]]:
        """Return the `k` best (label, score), best first; all of them if there are fewer.

        Raises:
            InputError: `k` is below 1.
        """
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise InputError(f"`k` must be a whole number, 1 or more; got {k!r}")
        order = np.argsort(-self.scores, kind="stable")[:k]
        return [(self.labels[i], float(self.scores[i])) for i in order]

    def to_row(self) -> dict[str, Any]:
        """Return the label, its score and the five best, as `columns` says."""
        top = [{"label": label, "score": score} for label, score in self.topk(5)]
        return {"label": self.label, "score": self.score, "settled": bool(self.settled), "topk": top}

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


@dataclass(frozen=True, eq=False)
class Segmentation(Result):
    """A class for every point of a cloud.

    Attributes:
        labels: (P,) whole, 0..K-1, in the order of the cloud's points.
        scores: (P,) float32, 0..1: the score of the chosen class.
        names: K class names.
        cloud: The points, by reference; None where the caller kept only the labels.
        colors: (K, 3) uint8, a colour for each class. None: told from the names (`effvision.viz.class_colors`).

    Raises:
        ShapeError, RangeError: parts that do not fit each other.
    """

    columns: ClassVar[Columns] = {
        "classes": [{"name": "string", "points": "int64", "score": "float32"}],
        "origin": ["float64"],
    }

    labels: np.ndarray
    scores: np.ndarray
    names: tuple[str, ...]
    cloud: Cloud | None = field(default=None, repr=False)
    colors: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        labels, scores, classes = self.labels, self.scores, len(self.names)
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or scores.shape != labels.shape:
            raise ShapeError(
                f"`labels` must be (P,) whole numbers and `scores` (P,); got {labels.shape} {labels.dtype} and {scores.shape}"
            )
        if self.cloud is not None and len(self.cloud) != len(labels):
            raise ShapeError(f"there are {len(labels)} labels, and the cloud has {len(self.cloud)} points")
        if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
            raise RangeError(f"`labels` must lie within 0..{classes - 1}; got {labels.min()}..{labels.max()}")
        if self.colors is not None and (self.colors.shape != (classes, 3) or self.colors.dtype != np.uint8):
            raise ShapeError(f"`colors` must be ({classes}, 3) uint8; got {self.colors.shape} {self.colors.dtype}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def counts(self) -> dict[str, int]:
        """Points of each class by its name, in the order of the classes, those without points included."""
        found = np.bincount(self.labels, minlength=len(self.names)).tolist()
        counts: dict[str, int] = {}
        for name, count in zip(self.names, found, strict=True):
            counts[name] = counts.get(name, 0) + count
        return counts

    @property
    def rgb(self) -> np.ndarray:
        """(P, 3) uint8: the colour of each point's class."""
        colored: np.ndarray = self._palette()[self.labels]
        return colored

    def to_row(self) -> dict[str, Any]:
        """Return points and mean score of each class, and the cloud's origin (3,) in metres, as `columns` says."""
        return {"classes": self._classes(), "origin": None if self.cloud is None else self.cloud.origin.tolist()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: how many points, the counts and mean scores of the classes, and what every result carries."""
        classes = self._classes()
        source = {} if self.cloud is None else {"source": self.cloud.name, "origin": self.cloud.origin.tolist()}
        return {"points": len(self.labels), "counts": self.counts, "classes": classes, **source, **super().to_dict()}

    def plot(self, image: np.ndarray | None = None, *, size: tuple[int, int] = (720, 960), **view: Any) -> np.ndarray:
        """Draw the cloud in the colours of its classes, with a legend; (H, W, 3) uint8 RGB. Needs no display.

        Args:
            image: Not for clouds: they are their own picture.
            size: (height, width) in pixels.
            **view: `azimuth_deg`, `elevation_deg`, `perspective` of `effvision.viz.View`. Default: told from the cloud.

        Raises:
            InputError: the result kept no cloud, or an argument cannot be used.
        """
        if image is not None:
            raise InputError("a segmentation of points is not drawn onto a picture\nhint: leave `image` out")
        from effvision.viz import View, automatic_view, draw_segmentation

        cloud = self._kept()
        unknown = set(view) - {"azimuth_deg", "elevation_deg", "perspective"}
        if unknown:
            raise InputError(f"a view has azimuth_deg, elevation_deg and perspective; got {', '.join(sorted(unknown))}")
        automatic = automatic_view(cloud.xyz)
        eye = View(**{"azimuth_deg": automatic.azimuth_deg, "elevation_deg": automatic.elevation_deg, **view})
        note = f"{self.timing.total_ms:,.0f} ms" if self.timing.total_ms else None
        return draw_segmentation(
            cloud.xyz, self.labels, self.names, colors=self._palette(), size=size, view=eye, note=note
        )

    def save(self, path: str | os.PathLike[str], image: np.ndarray | None = None) -> Path:
        """Write what the suffix asks for; the file appears whole.

        `.ply`: the cloud in the colours of its classes, with `label` and `score`, in world coordinates. `.npz`: xyz, origin,
        label, score and names. `.png`, `.jpg`: the picture of `plot`. `.json`: the summary of `to_dict`.

        Raises:
            InputError: another suffix, or the result kept no cloud to write.
            SourceError: the folder does not exist or cannot be written to.
        """
        from effvision._files import as_path

        target = as_path(path)
        suffix = target.suffix.lower()
        if suffix == ".ply":
            return self._save_ply(target)
        if suffix == ".npz":
            return self._save_npz(target)
        if suffix not in (".png", ".jpg", ".jpeg", ".json"):
            raise InputError(f"a segmentation is saved as .ply, .npz, .png, .jpg or .json; got {target.name!r}")
        return super().save(target, image)

    def to_open3d(self) -> Any:
        """Return an `open3d.geometry.PointCloud` in the colours of the classes, relative to `cloud.origin`.

        Raises:
            MissingDependencyError: Open3D or a system library it needs is absent; the message has the line that installs it.
            InputError: the result kept no cloud.
        """
        from effvision._optional import require

        cloud = self._kept()
        open3d = require("open3d", extra="points")
        out = open3d.geometry.PointCloud()
        out.points = open3d.utility.Vector3dVector(cloud.xyz.astype(np.float64))
        out.colors = open3d.utility.Vector3dVector(self.rgb / 255.0)
        return out

    def _classes(self) -> list[dict[str, Any]]:
        sums = np.bincount(self.labels, weights=self.scores, minlength=len(self.names)).tolist()
        found = np.bincount(self.labels, minlength=len(self.names)).tolist()
        return [
            {"name": name, "points": count, "score": round(total / count, 6) if count else None}
            for name, count, total in zip(self.names, found, sums, strict=True)
        ]

    def _save_ply(self, target: Path) -> Path:
        from effvision.sources import write_ply

        cloud = self._kept()
        xyz = cloud.world() if cloud.origin.any() else cloud.xyz
        label = self.labels.astype(np.uint8 if len(self.names) <= 256 else np.int32)
        classes = "\n".join(f"label {index} is {name}" for index, name in enumerate(self.names))
        return write_ply(target, xyz, rgb=self.rgb, comment=classes, label=label, score=self.scores.astype(np.float32))

    def _save_npz(self, target: Path) -> Path:
        from effvision._files import appearing

        cloud = self._kept()
        with appearing(target) as temporary:
            np.savez_compressed(
                temporary,
                xyz=cloud.xyz,
                origin=cloud.origin,
                label=self.labels,
                score=self.scores,
                names=np.array(self.names),
            )
        return target

    def _kept(self) -> Cloud:
        if self.cloud is None:
            raise InputError("this result kept no cloud, only labels\nhint: `result.replace(cloud=open_cloud(...))`")
        return self.cloud

    def _palette(self) -> np.ndarray:
        if self.colors is not None:
            return self.colors
        from effvision.viz import class_colors

        return class_colors(self.names)
