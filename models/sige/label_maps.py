"""Label maps as people have them: arrays, images and files in, (H, W) uint8 out. NumPy, and OpenCV where a file is read."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision._files import as_path
from effvision._optional import import_cv2, require
from effvision.errors import DTypeError, InputError, RangeError, ShapeError, SourceError
from effvision.sources.files import missing, natural_order

__all__ = ["SUFFIXES", "from_colours", "open_label_maps", "read_label_map", "to_colours"]

SUFFIXES = (".png", ".npy")
Bytes = NDArray[np.uint8]
_INDEXED = 3  # colour type of a PNG whose pixels are indices of a palette


def read_label_map(x: Any, names: Sequence[str], colours: NDArray[np.uint8], size: tuple[int, int]) -> Bytes:
    """Return a label map.

    Args:
        x: (H, W) whole numbers of any dtype, as a NumPy array or a tensor; a `.npy` file; a PIL image, or a `.png`, whose
            values are numbers of classes (grey), or whose colours are exactly those of the classes. Of a palette the colours
            count if they are those of the classes, for painting programs sort palettes as they like, else its indices.
        names: K class names.
        colours: (K, 3) uint8 RGB, one a class.
        size: (H, W) it has to have.

    Returns:
        (H, W) uint8 below K, contiguous, an array of its own.

    Raises:
        SourceError: a file that is missing, damaged or of another kind.
        DTypeError: something that is no label map, or numbers that are not whole.
        ShapeError: another number of axes, or another size.
        RangeError: NaN, labels that are no class, colours that are none of the classes'; with where they are.
    """
    if isinstance(x, (str, os.PathLike)):
        path = as_path(x)
        try:
            return _checked(_file_values(path, colours, names), names, size)
        except InputError as error:
            raise type(error)(f"{path}: {error}") from error
    if hasattr(type(x), "convert") and hasattr(x, "mode"):
        return _checked(_image_values(x, colours, names), names, size)
    return _checked(x, names, size)


def from_colours(picture: Bytes, colours: NDArray[np.uint8], names: Sequence[str]) -> Bytes:
    """Return the label map (H, W) uint8 of a picture (H, W, 3) uint8 RGB whose colours are exactly those of the classes.

    Raises:
        RangeError: a colour that is none of them; the first of them, and how many pixels there are.
    """
    packed = picture.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
    own = colours.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
    order = np.argsort(own)
    place = np.minimum(np.searchsorted(own[order], packed), len(own) - 1)
    found: Bytes = order[place].astype(np.uint8)
    wrong = own[found] != packed
    if wrong.any():
        row, column = (int(axis[0]) for axis in np.nonzero(wrong))
        colour = picture[row, column].astype(int)
        near = int(np.abs(colours.astype(int) - colour).sum(1).argmin())
        raise RangeError(
            f"{int(wrong.sum())} pixels have a colour of no class; the first is {tuple(colour.tolist())} at row {row}, column "
            f"{column}\nhint: the nearest class is {names[near]}, {tuple(colours[near].tolist())}; paint with a hard brush, "
            "and save as .png: soft edges, JPEG and resizing mix colours"
        )
    return found


def to_colours(labels: Bytes, colours: NDArray[np.uint8]) -> Bytes:
    """Return the picture (H, W, 3) uint8 RGB of a label map in the colours of its classes."""
    return np.asarray(colours[labels])


def open_label_maps(source: Any) -> Iterator[Any]:
    """Return the label maps of a source one after the other, each as `read_label_map` takes it.

    Args:
        source: A folder of `.png` and `.npy` files, sorted naturally; a pattern; one file; an array (H, W), or (T, H, W);
            a PIL image; a list or an iterable of any of them.

    Raises:
        SourceError: nothing is there, or no file of label maps among it.
        DTypeError: no such thing.
    """
    if isinstance(source, (str, os.PathLike)):
        return iter(_files(as_path(source)))
    if hasattr(source, "ndim") and hasattr(source, "shape"):
        return iter([source] if source.ndim == 2 else list(source) if source.ndim == 3 else [source])
    if hasattr(type(source), "convert") and hasattr(source, "mode"):
        return iter([source])
    if isinstance(source, Iterable) and not isinstance(source, (bytes, bytearray, memoryview, dict, set, frozenset)):
        if isinstance(source, (list, tuple)):
            return iter([item for entry in source for item in _expanded(entry)])
        return (item for entry in source for item in _expanded(entry))
    raise DTypeError(
        f"label maps cannot be read from {type(source).__name__}\n"
        "hint: give a folder, a .png or .npy file, an array (H, W) or (T, H, W), or an iterable of such"
    )


def _expanded(entry: Any) -> list[Any]:
    """The files of a folder or pattern within a list; anything else is one label map."""
    return list(_files(as_path(entry))) if isinstance(entry, (str, os.PathLike)) else [entry]


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        inside = [item for item in path.iterdir() if item.is_file() and not item.name.startswith(".")]
        found = sorted((item for item in inside if item.suffix.lower() in SUFFIXES), key=natural_order)
        if not found:
            raise SourceError(f"the folder {path} holds {len(inside)} files, none of them a label map (.png, .npy)")
        return found
    if path.exists():
        return [path]
    if glob.has_magic(str(path)):
        found = sorted((Path(item) for item in glob.glob(str(path), recursive=True)), key=natural_order)
        if found:
            return found
        raise SourceError(f"the pattern {path} fits no file")
    raise SourceError(missing(path))


def _file_values(path: Path, colours: NDArray[np.uint8], names: Sequence[str]) -> Any:
    if path.is_dir():
        raise SourceError(f"{path} is a folder; one label map is needed here\nhint: `stream` takes a folder of them")
    if path.suffix.lower() not in SUFFIXES:
        mixed = path.suffix.lower() in (".jpg", ".jpeg", ".webp")
        hint = "such files change colours, so labels get lost: save it as .png" if mixed else "save it as one of these"
        raise SourceError(f"{path} is no label map: that is a .png or a .npy file\nhint: {hint}")
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise SourceError(missing(path)) from error
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
    if path.suffix.lower() == ".npy":
        try:
            return np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise SourceError(f"{path} is no .npy file of numbers, or is damaged: {error}") from error
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 33:
        raise SourceError(f"{path} is no PNG file ({len(data)} bytes)")
    return _png_values(path, data, colours, names)


def _png_values(path: Path, data: bytes, colours: NDArray[np.uint8], names: Sequence[str]) -> Any:
    """Indices, or colours; of a PNG with a palette its colours if they are those of the classes, its indices otherwise."""
    cv2: Any = import_cv2()
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise SourceError(f"{path} could not be decoded: {error}") from error
    if pixels is None:
        raise SourceError(f"{path} could not be decoded: it is damaged")
    if pixels.ndim == 2:
        return pixels
    if pixels.dtype != np.uint8:
        raise DTypeError(f"a label map in colours has 8 bits a channel; got {pixels.dtype}")
    try:
        return from_colours(
            _opaque(pixels[:, :, ::-1] if pixels.shape[2] == 3 else pixels[:, :, [2, 1, 0, 3]]), colours, names
        )
    except RangeError:
        if data[25] != _INDEXED:
            raise
    image = require("PIL.Image", package="pillow")  # OpenCV does not tell indices
    with image.open(path) as opened:
        return np.array(opened)


def _image_values(image: Any, colours: NDArray[np.uint8], names: Sequence[str]) -> Any:
    if image.mode in ("L", "I", "I;16"):
        return np.array(image)
    if image.mode == "P":
        clear = "transparency" in image.info
        try:
            return from_colours(_opaque(np.array(image.convert("RGBA" if clear else "RGB"))), colours, names)
        except RangeError:
            return np.array(image)  # of another palette: its indices
    if image.mode in ("RGB", "RGBA"):
        return from_colours(_opaque(np.array(image)), colours, names)
    raise ShapeError(
        f"a PIL image of labels has mode L or P (indices) or RGB (colours of the classes); got {image.mode}\n"
        "hint: image.convert('RGB')"
    )


def _opaque(pixels: Bytes) -> Bytes:
    """Colours without alpha.

    Raises:
        RangeError: some are transparent, so that their colour means nothing.
    """
    if pixels.shape[2] == 4 and (pixels[:, :, 3] != 255).any():
        row, column = (int(axis[0]) for axis in np.nonzero(pixels[:, :, 3] != 255))
        raise RangeError(
            f"{int((pixels[:, :, 3] != 255).sum())} pixels are transparent, the first at row {row}, column {column}\n"
            "hint: every pixel needs a class: fill them, and save without transparency"
        )
    return pixels[:, :, :3]


def _checked(x: Any, names: Sequence[str], size: tuple[int, int]) -> Bytes:
    if hasattr(x, "detach"):
        x = x.detach().cpu().numpy()
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "iuf":
        given = f"an array of {x.dtype}" if isinstance(x, np.ndarray) else f"a {type(x).__name__}"
        raise DTypeError(
            f"a label map is (H, W) whole numbers; got {given}\n"
            "hint: an array, a PIL image, or the path of a .png or .npy file"
        )
    if x.dtype.kind == "f":
        unfit = int((~np.isfinite(x)).sum())
        if unfit:
            raise RangeError(
                f"the label map holds {unfit} values that are NaN or infinite\nhint: labels are whole numbers"
            )
        raise DTypeError(f"labels are whole numbers; got {x.dtype}\nhint: labels.astype(numpy.uint8)")
    if x.ndim != 2:
        colours = "; a picture in colours is saved as .png and given by its path" if x.ndim == 3 else ""
        raise ShapeError(
            f"a label map has two axes (H, W), one label a pixel; got {x.shape}\nhint: no axis more{colours}"
        )
    if x.shape != size:
        raise ShapeError(
            f"the label map is {x.shape[0]} x {x.shape[1]}, this model's picture {size[0]} x {size[1]}\n"
            "hint: resize it with nearest neighbours, so that no labels mix"
        )
    wrong = (x < 0) | (x >= len(names))
    if wrong.any():
        row, column = (int(axis[0]) for axis in np.nonzero(wrong))
        raise RangeError(
            f"{int(wrong.sum())} pixels have a label of no class; the first is {int(x[row, column])} at row {row}, column "
            f"{column}\nhint: labels are 0 to {len(names) - 1}: {', '.join(names)}"
        )
    return np.array(x, dtype=np.uint8, order="C")
