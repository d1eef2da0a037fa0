"""One cloud through a network: read, labelled, packed for the browser; it says how far it is and can be stopped.

A packed cloud is 12 bytes a point, in random order, so that any beginning of it is a fair selection (little endian):

    uint16 x, y, z      place in the box of the cloud, 0..65535
    uint16 class
    uint8  score        0..255
    uint8  red, green, blue      of the file; zeros where it has none
"""

from __future__ import annotations

import re
import struct
import threading
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from effvision.clouds import Cloud, bounds
from effvision.demos.channel import Limits, Models
from effvision.errors import EffvisionError, InputError
from effvision.results import Segmentation
from effvision.sources.clouds import CLOUD_SUFFIXES, open_cloud

__all__ = ["POINT", "Job", "Stopped", "check_name", "pack", "stated_bytes", "stated_points"]

POINT = np.dtype([("place", "<u2", 3), ("label", "<u2"), ("score", "u1"), ("rgb", "u1", 3)])
"""A point as the page gets it."""

_LABELS = (".label", ".labels", ".seg")
_HEAD = 4096
_PLY = re.compile(rb"^element\s+vertex\s+(\d{1,18})\s*$", re.MULTILINE)
_PCD = re.compile(rb"^POINTS\s+(\d{1,18})\s*$", re.MULTILINE)
_PCD_SIZE, _PCD_COUNT = (
    re.compile(rb"^" + word + rb"((?:\s+\d{1,9})+)\s*$", re.MULTILINE) for word in (b"SIZE", b"COUNT")
)


class Stopped(Exception):
    """Nobody wants the answer any more."""


class Job:
    """One labelling; `run` works in a thread, the rest may be used from another.

    Args:
        models: Of the card.
        runtime: One of those they offer.
        path: The file; its suffix is one of a cloud's.
        name: What the visitor calls it.
        target: The labelled cloud is written there, `.ply`.
        limits: Points that are taken, and shown.
        make: Writes the file first.
        breathe: Told after each part of the cloud how many seconds it took; may rest.
    """

    def __init__(
        self,
        models: Models,
        runtime: str,
        path: Path,
        name: str,
        target: Path,
        limits: Limits,
        *,
        make: Callable[[], object] | None = None,
        breathe: Callable[[float], None] | None = None,
    ) -> None:
        self._make, self._breathe = make, breathe
        self._ticked = 0.0
        self._models, self._runtime, self._path, self.name, self._target = models, runtime, path, name, target
        self._limits = limits
        self._stop = threading.Event()
        self._progress: tuple[str, int, int] = ("start", 0, 0)
        self._entered = self._began = time.perf_counter()
        self.times: dict[str, float] = {}

    @property
    def progress(self) -> tuple[str, int, int]:
        """The stage it is in, and how much of how much of it is done; 0 of 0 where that is not known."""
        return self._progress

    def stop(self) -> None:
        """Let `run` end soon, by `Stopped`."""
        self._stop.set()

    def run(self) -> tuple[dict[str, Any], bytes]:
        """Return what the page is told of the labelled cloud, and its points as `pack` makes them.

        Raises:
            EffvisionError: the file, or the model, cannot be used; the visitor's name of the file is in the text.
            Stopped: by `stop`.
        """
        try:
            return self._run()
        except EffvisionError as error:
            told = type(error)(str(error).replace(str(self._path), self.name))
            raise told from error
        except MemoryError as error:
            raise InputError(f"{self.name} takes more memory than there is here\nhint: cut it into tiles") from error

    def _run(self) -> tuple[dict[str, Any], bytes]:
        if self._make is not None:
            self._make()
        self._enter("model")
        model = cast(Any, self._models.get(self._runtime))
        self._enter("read")
        self._check_count(stated_points(self._path))
        if (size := stated_bytes(self._path)) > self._limits.unpacked_bytes:
            raise InputError(
                f"{self.name} unpacks to {size / 1e9:,.1f} GB; this page takes {self._limits.unpacked_bytes / 1e9:,.1f}\n"
                "hint: keep only the fields the model needs, or cut it into tiles"
            )
        cloud = open_cloud(self._path)
        self._check_count(len(cloud))
        self._enter("prepare")
        result = model.watched(self._tick).session().update(cloud)
        self.times["prepare"], self.times["network"] = result.timing.prepare_ms, result.timing.run_ms
        self._enter("save", keep_time=False)
        result.save(self._target)
        said, points = pack(result, most=self._limits.shown_points)
        self._enter("send")
        return {**said, "name": self.name, "card": self._models.card, "times": self.times}, points

    def _check_count(self, points: int | None) -> None:
        if points is not None and points > self._limits.points:
            raise InputError(
                f"{self.name} has {points:,} points; this page takes {self._limits.points:,}\n"
                f"hint: the command line has no limit: effvision run {self._models.card} FILE --save labelled.ply"
            )

    def _enter(self, stage: str, *, keep_time: bool = True) -> None:
        if self._stop.is_set():
            raise Stopped
        now, before = time.perf_counter(), self._progress[0]
        if keep_time:
            self.times[before] = (now - self._entered) * 1e3
        self._entered = now
        self._progress = (stage, 0, 0)

    def _tick(self, done: int, total: int) -> None:
        if self._stop.is_set():
            raise Stopped
        now = time.perf_counter()
        if done and self._breathe is not None:
            self._breathe(now - self._ticked)
        self._ticked = time.perf_counter()
        if not done:
            self._began = now
        elif time.perf_counter() - self._began > self._limits.labelling_s:
            raise InputError(
                f"{self.name} took more than {self._limits.labelling_s:.0f} s, at part {done:,} of {total:,}; others wait\n"
                f"hint: the command line has no limit: effvision run {self._models.card} FILE --save labelled.ply"
            )
        self._progress = ("network", done, total)


def check_name(name: object) -> str:
    """Return what to call a file, from what the visitor's browser calls it: its last part, of letters that can be shown.

    Raises:
        InputError: it is called as no file of points is.
    """
    last = re.split(r"[/\\]", str(name))[-1]
    shown = "".join(letter for letter in last if letter.isprintable())[-80:] or "the file"
    suffix = Path(shown).suffix.lower()
    if suffix in _LABELS:
        raise InputError(f"{shown} is a file of labels, not a cloud\nhint: give the file of the points it belongs to")
    if suffix not in CLOUD_SUFFIXES:
        raise InputError(f"{shown} is no file of points by its name\nhint: {', '.join(CLOUD_SUFFIXES)} can be read")
    return shown


def stated_points(path: Path) -> int | None:
    """Return how many points a file says it has, from its beginning alone; None where it does not say, or is damaged."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
            if head.startswith(b"\x93NUMPY"):
                file.seek(0)
                return _npy_rows(file)
        if head.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive, archive.open("xyz.npy") as member:
                return _npy_rows(member)
        if head.startswith(b"LASF") and len(head) >= 255:
            late = struct.unpack_from("<Q", head, 247)[0] if head[25] >= 4 else 0
            return int(late or struct.unpack_from("<I", head, 107)[0])
        found = (_PLY if head.startswith(b"ply") else _PCD).search(head)
        return int(found[1]) if found else None
    except Exception:  # of the parsers of headers, on bytes from anywhere
        return None  # whoever reads it whole says what is wrong


def stated_bytes(path: Path) -> int:
    """Return what a packed file says it holds, from its directory or beginning alone; 0 where it is not packed, or damaged."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        if head.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive:
                return sum(member.file_size for member in archive.infolist())
        if head.startswith(b"LASF"):
            return (stated_points(path) or 0) * int(struct.unpack_from("<H", head, 105)[0])
        if points := _PCD.search(head):
            sizes = [int(word) for word in _PCD_SIZE.search(head)[1].split()]  # type: ignore[index]
            counted = _PCD_COUNT.search(head)
            counts = [int(word) for word in counted[1].split()] if counted else [1] * len(sizes)
            return int(points[1]) * sum(size * count for size, count in zip(sizes, counts, strict=True))
    except Exception:  # as above
        return 0
    return 0


def _npy_rows(file: Any) -> int:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape = read(file)[0]
    return int(shape[0]) if shape else 0


def pack(result: Segmentation, *, most: int) -> tuple[dict[str, Any], bytes]:
    """Return what the page is told of a labelled cloud, and at most so many of its points, evenly chosen, as `POINT`.

    Raises:
        InputError: the result kept no cloud, or has more classes than can be told apart.
    """
    if result.cloud is None or len(result.names) > 1024:
        raise InputError(f"a result without its cloud, or of {len(result.names)} classes, cannot be shown")
    cloud: Cloud = result.cloud
    every = -(-len(cloud) // most)
    rows = np.random.default_rng(0).permutation(np.arange(0, len(cloud), every))
    low, high = bounds(cloud.xyz)
    size = high - low
    packed = np.zeros(len(rows), POINT)
    for axis in range(3):
        share = (cloud.xyz[rows, axis] - low[axis]) / (size[axis] or 1.0)
        packed["place"][:, axis] = np.rint(np.clip(share, 0, 1) * 65535)
    packed["label"] = result.labels[rows]
    packed["score"] = np.rint(result.scores[rows] * 255)
    if (rgb := cloud.fields.get("rgb")) is not None:
        packed["rgb"] = rgb[rows]
    said: Mapping[str, Any] = {
        "points": len(cloud),
        "shown": len(rows),
        "every": every,
        "low": low.tolist(),
        "size": size.tolist(),
        "origin": cloud.origin.tolist(),
        "counts": np.bincount(result.labels, minlength=len(result.names)).tolist(),
        "coloured": rgb is not None,
    }
    return dict(said), packed.tobytes()
