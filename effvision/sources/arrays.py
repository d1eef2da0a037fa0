"""Pictures that are already in memory: numpy arrays, PIL images, torch tensors, and iterators of them.

Neither Pillow nor torch is imported: both are recognised by what they offer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from effvision.errors import DTypeError, InputError, RangeError, ShapeError
from effvision.sources.base import DEFAULT_FPS, Frame, Source
from effvision.sources.files import read_image

__all__ = [
    "ArraySource",
    "Color",
    "IterableSource",
    "as_clip",
    "as_frame",
    "check_color",
    "is_picture_like",
    "refuse_color_of_file",
]

Color = Literal["rgb", "bgr", "grey"]
"""Order of the channels given. Out of this module comes RGB only."""

Picture = NDArray[np.uint8]


def as_frame(x: object, *, color: Color = "rgb") -> Picture:
    """Return one picture as (H, W, 3) uint8 RGB, contiguous; refuse what is not clearly one.

    A picture that is already so is returned as it is, not copied. Floats 0..1 become round(255 * value).

    Args:
        x: numpy array (H, W, 3) uint8 or float 0..1; PIL image of mode RGB; torch tensor (3, H, W) or (H, W, 3); or the
            path of an image file, which is turned upright as its EXIF data says.
        color: Channel order of `x`: "bgr" is what `cv2.imread` and `cv2.VideoCapture.read` give. "grey" takes (H, W) or
            (H, W, 1) and repeats it three times. Files hold their own order: leave it at "rgb" for them.

    Raises:
        ShapeError: not one picture of three channels.
        DTypeError: not an array of uint8 or float, or no picture at all.
        RangeError: floats outside 0..1, NaN, infinity.
        SourceError: an image file that cannot be read.
    """
    check_color(color)
    if isinstance(x, (str, Path)):
        refuse_color_of_file(color)
        return read_image(x)
    array = _to_numpy(x, color=color)
    if array.ndim == 4 and array.size:
        raise ShapeError(
            f"one picture (H, W, 3) is needed; got {array.shape}, {len(array)} pictures or a batch axis\n"
            "hint: pass `x[0]`, or give the whole clip to `open_source` or `predict`"
        )
    return _finish(array, color=color)


def as_clip(x: object, *, color: Color = "rgb") -> list[Any]:
    """Return the pictures of an array, PIL image or tensor: itself for one, rows of the first axis for a clip.

    Their values are not looked at; `as_frame` does that for each when its turn comes.
    """
    array = _to_numpy(x, color=color)
    grey_clip = color == "grey" and array.ndim == 3 and array.shape[2] != 1  # (T, H, W)
    if array.ndim != 4 and not grey_clip:
        return [array]
    if len(array) == 0:
        raise ShapeError(f"a clip needs at least one frame; got {array.shape}")
    return list(array)


class ArraySource(Source):
    """One picture, or a clip held in memory. Frame i is at i / fps seconds."""

    def __init__(self, x: object, *, fps: float | None, color: Color) -> None:
        self._pictures = as_clip(x, color=color)
        as_frame(self._pictures[0], color=color)  # a bad shape or type shows here, not in the middle of a loop
        rate = fps if fps is not None else (DEFAULT_FPS if len(self._pictures) > 1 else None)
        super().__init__("array", fps=rate, count=len(self._pictures))
        self._color: Color = color
        self._clocked = fps is not None

    def _frames(self) -> Iterator[Frame]:
        for index, picture in enumerate(self._pictures):
            if self._closed:
                return
            image, seconds = as_frame(picture, color=self._color), index / (self.fps or DEFAULT_FPS)
            yield Frame(image, index, seconds, self.name, clocked=self._clocked)


class IterableSource(Source):
    """Pictures from an iterable: each one a picture, a pair (picture, seconds) or a Frame; Frames pass unchanged."""

    def __init__(self, items: Iterable[object], *, fps: float | None, color: Color) -> None:
        super().__init__("iterable", fps=fps or DEFAULT_FPS, count=_length(items))
        self._items = items
        self._color: Color = color
        self._fps_given = fps is not None

    def _frames(self) -> Iterator[Frame]:
        index = -1
        for index, item in enumerate(self._items):
            if self._closed:
                return
            yield self._frame(index, item)
        if index < 0:
            raise InputError("the iterable gave no frame: it is empty, or an iterator that was already used up")

    def _frame(self, index: int, item: object) -> Frame:
        try:
            if isinstance(item, Frame):
                return replace(item, image=as_frame(item.image), timestamp=_seconds(item.timestamp))
            if isinstance(item, tuple):
                picture, timestamp = self._pair(item)
                return Frame(as_frame(picture, color=self._color), index, timestamp, self.name)
            image, seconds = as_frame(item, color=self._color), index / (self.fps or DEFAULT_FPS)
            return Frame(image, index, seconds, self.name, clocked=self._fps_given)
        except InputError as error:
            raise type(error)(f"item {index} of the iterable: {error}") from error

    def _pair(self, item: tuple[object, ...]) -> tuple[object, float]:
        if len(item) != 2:
            raise InputError(f"a tuple must be (picture, seconds); got {len(item)} elements")
        if self._fps_given:
            raise InputError("it brings its own timestamp, but `fps` was given too\nhint: leave `fps` out")
        return item[0], _seconds(item[1])


def is_picture_like(x: object) -> bool:
    """Whether `x` is an array, PIL image or tensor, rather than something to iterate over."""
    return isinstance(x, np.ndarray) or _is_tensor(x) or _is_pil(x) or _offers(x, "__array__")


def check_color(color: object) -> None:
    """Refuse a channel order that is not one of `Color`."""
    if not isinstance(color, str) or color not in ("rgb", "bgr", "grey"):
        raise InputError(f"`color` must be 'rgb', 'bgr' or 'grey'; got {color!r:.80}")


def refuse_color_of_file(color: Color) -> None:
    """Files say themselves how their channels are ordered; a `color` for them is a misunderstanding."""
    if color != "rgb":
        raise InputError(
            f"`color={color!r}` is for arrays; a file is decoded to RGB whatever it holds\nhint: leave `color` out"
        )


def _length(items: object) -> int | None:
    try:
        return len(items) if isinstance(items, Sized) else None
    except Exception:  # a foreign `__len__`: the length is a courtesy only
        return None


def _seconds(value: object) -> float:
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if isinstance(value, (str, bytes)) or not math.isfinite(seconds):
        raise InputError(f"a timestamp must be a finite number of seconds; got {value!r:.80}")
    return seconds


def _offers(x: object, *names: str) -> bool:
    """Whether the type of `x` has all `names`; asks the type, because an instance may invent attributes."""
    return all(hasattr(type(x), name) for name in names)


def _is_tensor(x: object) -> bool:
    return _offers(x, "detach", "cpu", "numpy")


def _is_pil(x: object) -> bool:
    return _offers(x, "convert", "__array_interface__") and hasattr(x, "mode")


def _to_numpy(x: object, *, color: Color) -> NDArray[Any]:
    """Bring a picture or clip to numpy with channels last; values and shape are checked later."""
    if isinstance(x, np.ndarray):
        return np.asarray(x)
    if not is_picture_like(x):
        raise DTypeError(_no_picture(x))
    try:
        if _is_tensor(x):
            return _channels_last(_tensor_array(x), color=color)
        if _is_pil(x):
            return np.asarray(_check_pil(x, color=color))
        return np.asarray(x)
    except InputError:
        raise
    except Exception as error:  # foreign code: a lazily read file that is cut short, a tensor that needs no numpy
        raise DTypeError(f"{type(x).__name__} could not be turned into an array: {error}") from error


def _tensor_array(x: Any) -> NDArray[Any]:
    x = x.detach().cpu()
    dtype = str(getattr(x, "dtype", ""))
    return np.asarray(x.float().numpy() if dtype.endswith("bfloat16") else x.numpy())


def _check_pil(x: Any, *, color: Color) -> Any:
    if x.mode == "RGB" or (x.mode == "L" and color == "grey"):
        return x
    hint = "pass `image.convert('RGB')`" + (", or say `color='grey'`" if x.mode == "L" else "")
    raise ShapeError(f"a PIL image must have mode RGB; got mode {x.mode}\nhint: {hint}")


def _channels_last(array: NDArray[Any], *, color: Color) -> NDArray[Any]:
    """Turn torch's (..., 3, H, W) into (..., H, W, 3); leave (..., H, W, 3) alone."""
    channels = 1 if color == "grey" else 3
    if array.ndim not in (3, 4):
        return array
    first, last = array.shape[-3] == channels, array.shape[-1] == channels
    if first and last and array.shape[-2] != channels:
        raise ShapeError(
            f"a tensor of shape {array.shape} can be read with its channels first or last\n"
            "hint: pass a numpy array (H, W, 3), whose channels are always last"
        )
    return np.moveaxis(array, -3, -1) if first else array


def _finish(array: NDArray[Any], *, color: Color) -> Picture:
    _check_shape(array, color=color)
    pixels = _to_uint8(array)
    if color == "grey":
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    if color == "bgr":
        pixels = pixels[..., ::-1]
    if pixels.flags.c_contiguous:
        return pixels
    out = np.empty(pixels.shape, np.uint8)
    for channel in range(3):  # several times faster than one copy when the channels run backwards
        out[..., channel] = pixels[..., channel]
    return out


def _check_shape(array: NDArray[Any], *, color: Color) -> None:
    shape = array.shape
    grey = array.ndim == 2 or (array.ndim == 3 and shape[2] == 1)
    if array.size == 0:
        raise ShapeError(f"the picture has no pixels; got {shape}")
    if color == "grey":
        if not grey:
            raise ShapeError(f"with `color='grey'` the picture must be (H, W) or (H, W, 1); got {shape}")
        return
    if array.ndim == 3 and shape[2] == 3:
        return
    hint = ""
    if grey:
        hint = "\nhint: say `color='grey'` to repeat its one channel three times"
    elif array.ndim == 3 and shape[2] == 4:
        hint = "\nhint: drop the alpha channel with `image[..., :3]`"
    elif array.ndim == 3 and shape[0] == 3:
        hint = "\nhint: `image.transpose(1, 2, 0)` puts the channels last"
    raise ShapeError(f"the picture must be (H, W, 3); got {shape}{hint}")


def _to_uint8(array: NDArray[Any]) -> Picture:
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= 0.0 and high <= 1.0):  # NaN fails both
            raise RangeError(
                f"a picture of floats must lie within 0..1; got {low:g}..{high:g}\n"
                "hint: `image.astype(np.uint8)` for values 0..255; undo any normalisation first"
            )
        return np.rint(array * np.float32(255)).astype(np.uint8)
    hint = {
        "u": "\nhint: `(image // 257).astype(np.uint8)` for 16-bit pictures",
        "i": "\nhint: `image.astype(np.uint8)` for values 0..255",
        "b": "\nhint: `image * np.uint8(255)`",
    }.get(array.dtype.kind, "")
    raise DTypeError(f"the picture must be uint8 0..255 or float 0..1; got {array.dtype}{hint}")


def _no_picture(x: object) -> str:
    hint = "an array (H, W, 3) uint8, a PIL image, a tensor or the path of an image file"
    if isinstance(x, (bytes, bytearray, memoryview)):
        hint = "decode the bytes first (`cv2.imdecode`), or pass the path of the file"
    elif isinstance(x, (list, tuple)):
        hint = "`np.asarray(x, dtype=np.uint8)` makes an array of nested lists"
    elif isinstance(x, dict):
        hint = "pass the picture held in the dict"
    return f"a picture is needed; got {type(x).__name__}\nhint: {hint}"
