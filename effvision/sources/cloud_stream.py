"""Several clouds one after the other: a folder of scans, a pattern, a list, an iterator."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from effvision._files import as_path
from effvision.clouds import Cloud
from effvision.errors import InputError, SourceError
from effvision.sources.clouds import CLOUD_SUFFIXES, open_cloud
from effvision.sources.files import missing
from effvision.sources.sniff import IMAGE_SUFFIXES, VIDEO_SUFFIXES

__all__ = ["CloudStream", "open_clouds", "refuse_frames"]

_NUMBERS = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?(?![\w.])", re.IGNORECASE)


class CloudStream:
    """Clouds in order, each read when its turn comes; iterate over it. One of an iterator can be read once.

    Attributes:
        name: What to call it on screen.
        count: How many there are; None where that is not known.
        files: The files, where they are files.
    """

    def __init__(self, name: str, items: Iterable[Any], count: int | None) -> None:
        self.name, self.count = name, count
        self.files = [item for item in items if isinstance(item, Path)] if isinstance(items, list) else []
        self._items = items
        self._closed = False

    def __iter__(self) -> Iterator[Cloud]:
        for item in self._items:
            if self._closed:
                return
            yield open_cloud(item)

    def close(self) -> None:
        """End a loop that is running after its current cloud. May be called twice."""
        self._closed = True

    def __enter__(self) -> CloudStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_clouds(source: Any) -> CloudStream:
    """Return the clouds of a source.

    Args:
        source: A folder (its files of points, sorted naturally; texts without numbers are left out) or a glob pattern; one of
            what `open_cloud` takes, which is a stream of one; a list, an iterator or a generator of such.

    Raises:
        SourceError: nothing is there, or no file of points among it.
        InputError: a camera, an address, a video or pictures.
        DTypeError: nothing that holds points; raised while iterating, as is what is wrong with a later cloud.
    """
    if isinstance(source, CloudStream):
        return source
    refuse_frames(source)
    if isinstance(source, (str, os.PathLike)):
        return _of_path(source)
    listed = isinstance(source, (list, tuple)) and all(_is_cloud(item) for item in source)
    if listed and not source:
        raise InputError("the list of clouds is empty")
    if listed or isinstance(source, Iterator):
        return CloudStream("clouds", source, len(source) if listed else None)
    return CloudStream(getattr(source, "name", type(source).__name__), [open_cloud(source)], 1)


def refuse_frames(source: Any) -> None:
    """Refuse what holds pictures, by its name alone.

    Raises:
        InputError: a number (a camera), an address, a video or a picture.
    """
    what = None
    if isinstance(source, int) and not isinstance(source, bool):
        what = f"camera {source}"
    elif isinstance(source, (str, os.PathLike)):
        text = os.fspath(source)
        suffix = Path(text).suffix.lower() if isinstance(text, str) else ""
        if isinstance(text, str) and re.match(r"[a-z]+://", text):
            what = "an address"
        elif suffix in VIDEO_SUFFIXES or suffix in IMAGE_SUFFIXES:
            what = f"{text}, a {'video' if suffix in VIDEO_SUFFIXES else 'picture'}"
    if what is not None:
        raise InputError(
            f"this model labels clouds of points; got {what}\n"
            f"hint: give files of points ({', '.join(CLOUD_SUFFIXES)}), or a model of `effvision list` that sees frames"
        )


def _of_path(source: str | os.PathLike[str]) -> CloudStream:
    path = Path(os.path.expanduser(as_path(source, name="source")))
    if path.is_dir():
        files = [file for file in path.iterdir() if file.suffix.lower() in CLOUD_SUFFIXES and file.is_file()]
        files = [file for file in files if not file.name.startswith(".") and _may_be_cloud(file)]
        return _of_files(files, f"the folder {path}")
    if path.exists():
        return CloudStream(str(path), [path], 1)
    if glob.has_magic(str(path)):
        return _of_files([Path(name) for name in glob.glob(str(path), recursive=True)], f"the pattern {path}")
    raise SourceError(missing(path))


def _of_files(files: list[Path], what: str) -> CloudStream:
    if not files:
        raise SourceError(f"{what} holds no file of points\nhint: they end in {', '.join(CLOUD_SUFFIXES)}")
    return CloudStream(what, sorted(files, key=_natural), len(files))


def _may_be_cloud(file: Path) -> bool:
    """Whether a file of a folder is more than a text beside the clouds, such as a readme: a line of three numbers says so."""
    if file.suffix.lower() not in (".txt", ".csv"):
        return True
    with file.open("rb") as opened:
        lines = opened.read(4096).decode("latin-1").splitlines()
    return any(len(_NUMBERS.findall(line)) >= 3 for line in lines)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Sort 2 before 10."""
    parts = re.split(r"([0-9]+)", str(path))
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def _is_cloud(item: Any) -> bool:
    """Whether an item of a list is a cloud of its own, and not a number of a point or a row."""
    return not isinstance(item, (int, float, list, tuple))
