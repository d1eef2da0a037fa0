"""Detectors that other people trained, run from their ONNX files: a frame in, `Detections` out.

What a file's output means is told from its shape, the size of its input and the number of its classes. Where these leave a
doubt the file is refused: a wrong guess would give boxes that look like boxes.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision._files import as_path
from effvision._optional import import_cv2
from effvision.detections import Detections, names_by_number
from effvision.errors import DetectorError, InputError, ModelFileError, RuntimeFailure
from effvision.host.boxes import nms
from effvision.host.yolo import decode, readings
from effvision.loading import check_choices
from effvision.runtime.onnx import open_session
from effvision.sources.arrays import as_frame

__all__ = ["Letterbox", "OnnxDetector"]

_GREY = 114  # what the networks saw around their pictures in training
_MOST_BOXES = 300
_USUAL_SIZE, _USUAL_STRIDE, _LARGEST_SIZE = 640, 32, 8192
_LONGEST_LITERAL = 1 << 20
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}

_SUPPORTED = (
    "hint: supported are detectors exported by ultralytics (YOLOv8 and later) with one output (1, 4+K, A), (1, A, 4+K) or, "
    "with nms=True, (1, N, 6), and YOLOv5 (1, A, 5+K); for others write a function that takes a frame and returns boxes"
)


@dataclass(frozen=True)
class Letterbox:
    """A frame scaled to fit into a network's input, aspect kept, centred on grey, as ultralytics does it.

    The scaled frame is a whole number of pixels, so its rows are scaled a little differently from its columns. Boxes are mapped
    back with the scale that each side really has; ultralytics uses one for both, and is off by up to half a pixel of the input.

    Attributes:
        frame: Rows and columns of the frame.
        size: Rows and columns of the network's input.
    """

    frame: tuple[int, int]
    size: tuple[int, int]

    @property
    def scaled(self) -> tuple[int, int]:
        """Rows and columns of the scaled frame, 1 or more."""
        ratio = min(self.size[0] / self.frame[0], self.size[1] / self.frame[1])
        return max(1, round(self.frame[0] * ratio)), max(1, round(self.frame[1] * ratio))

    @property
    def offset(self) -> tuple[int, int]:
        """Rows of grey above it and columns left of it; below and to the right there may be one more."""
        rows, columns = self.scaled
        return (self.size[0] - rows) // 2, (self.size[1] - columns) // 2

    def tensor(self, frame: NDArray[np.uint8], dtype: Any = np.float32) -> NDArray[Any]:
        """Return the network's input (1, 3, H, W), RGB 0..1, for the frame (H, W, 3) uint8."""
        cv2 = import_cv2()
        (rows, columns), (top, left) = self.scaled, self.offset
        if self.frame != (rows, columns):
            frame = cv2.resize(frame, (columns, rows), interpolation=cv2.INTER_LINEAR)
        shades = (np.arange(256, dtype=np.float32) / np.float32(255)).astype(dtype)
        bits = np.uint16 if shades.itemsize == 2 else shades.dtype  # OpenCV looks up half precision as bits
        out = np.full((1, 3, *self.size), shades[_GREY], dtype)
        for channel, plane in enumerate(cv2.split(frame)):
            looked_up = cv2.LUT(plane, shades.view(bits)).view(dtype)
            out[0, channel, top : top + rows, left : left + columns] = looked_up
        return out

    def to_frame(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return boxes (M, 4) `x1 y1 x2 y2` of the network's input in pixels of the frame, not cut at its border."""
        (rows, columns), (top, left) = self.scaled, self.offset
        scale = np.array([self.frame[1] / columns, self.frame[0] / rows] * 2)
        moved: NDArray[np.float64] = (boxes - np.array([left, top] * 2)) * scale
        return moved


class OnnxDetector:
    """A detector in an ONNX file: `detector(frame)` gives the `Detections` of one frame.

    Read are files that ultralytics exports for detection (YOLOv8 and later, end to end or not) and those of YOLOv5; the file is
    run once when it is opened, to see what it answers. Letterboxing, thresholds and suppression are those of ultralytics; at
    most 300 boxes are given, best first. One detector may serve many threads.

    Args:
        path: The `.onnx` file.
        confidence: Boxes with a score above it are kept, 0..1.
        iou: Of two boxes of one class that overlap by more, the better stays, 0..1. A file with suppression inside has its own.
        names: Class names in order. Default: those in the file.
        size: Rows and columns of the input, such as 640, for a file that leaves them open. Default: what the file says it was
            exported for, else 640.
        device: `cpu`, `cuda`, `tensorrt`, `coreml` or `openvino`.
        threads: Threads inside one operator; None lets ONNX Runtime choose (all cores).

    Attributes:
        names: Class names; empty where neither the file nor the caller tells them.
        size: Rows and columns of the input.
        layout: What the output is: "v8", "v8 transposed", "v5" or "end to end"; see `effvision.host.yolo`.

    Raises:
        InputError: an argument that cannot be used, or a device that the installed ONNX Runtime does not have.
        ModelFileError: no such file, damaged, or no detector of a supported layout.
        MissingDependencyError: onnxruntime is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        confidence: float = 0.25,
        iou: float = 0.45,
        names: Sequence[str] | None = None,
        size: int | None = None,
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        check_choices(None, device, threads, None)
        self.confidence, self.iou = _share("confidence", confidence), _share("iou", iou)
        given = _checked_names(names)
        self.path, self.device = as_path(path), device
        self._session = open_session(self.path, device=device, threads=threads)
        told = self._session.get_modelmeta().custom_metadata_map
        self.names = names_by_number(_literal(told.get("names"))) if given is None else given
        if told.get("task", "detect") != "detect":
            raise self._refusal(f"is a model for {told['task']!r:.40}, not for detection")
        outputs = self._session.get_outputs()
        if len(outputs) != 1:
            listed = ", ".join(f"{output.name} {output.shape}" for output in outputs)
            raise self._refusal(f"has {len(outputs)} outputs, {listed}; a detector has one")
        self._input, self._dtype, self.size = self._read_input(told, size)
        try:
            answer = self._run(np.full((1, 3, *self.size), _GREY / 255, self._dtype))
            self._shape = answer.shape
            self.layout = self._read_layout()
            decode(answer, self.layout, self.confidence, where=str(self.path))
        except (RuntimeFailure, DetectorError) as error:
            raise ModelFileError(f"{self.path} cannot be used as a detector: {error}") from error

    def __call__(self, frame: object) -> Detections:
        """Return what is in one frame, best first, cut at its border.

        Args:
            frame: (H, W, 3) uint8 RGB; or a float array 0..1, a PIL image or a tensor, as everywhere in this package.

        Raises:
            InputError: no such picture.
            DetectorError: the network answered scores, classes or boxes that are none.
            RuntimeFailure: ONNX Runtime failed.
        """
        picture = as_frame(frame)
        letterbox = Letterbox((picture.shape[0], picture.shape[1]), self.size)
        answer = self._run(letterbox.tensor(picture, self._dtype))
        if answer.shape != self._shape and not (self.layout == "end to end" and answer.shape[::2] == (1, 6)):
            raise RuntimeFailure(f"{self.path} answered {answer.shape}; when it was opened it was {self._shape}")
        found = decode(answer, self.layout, self.confidence, where=str(self.path))
        if self.layout == "end to end":
            found = found.take(np.arange(min(len(found.scores), _MOST_BOXES)))
        else:
            found = found.take(nms(found.boxes, found.scores, found.classes, self.iou, limit=_MOST_BOXES))
        limits = np.array([letterbox.frame[1], letterbox.frame[0]] * 2)
        cut = np.clip(letterbox.to_frame(found.boxes), 0, limits).astype(np.float32)
        good = (cut[:, :2] < cut[:, 2:]).all(axis=1)  # the others lay in the grey
        dropped = found.dropped + int(np.count_nonzero(~good))
        return Detections(cut[good], found.scores[good], found.classes[good], self.names, dropped)

    def __repr__(self) -> str:
        rows, columns = self.size
        classes = f", {len(self.names)} classes" if self.names else ""
        return (
            f"OnnxDetector({self.path.name!r}, layout {self.layout!r} {self._shape}, input {rows}x{columns}{classes}, "
            f"confidence {self.confidence:g}, {self.device})"
        )

    def _run(self, tensor: NDArray[Any]) -> NDArray[Any]:
        try:
            answer: NDArray[Any] = self._session.run(None, {self._input: tensor})[0]
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise RuntimeFailure(f"ONNX Runtime failed in {self.path}: {error}") from error
        return answer

    def _read_input(self, told: Mapping[str, str], size: int | None) -> tuple[str, Any, tuple[int, int]]:
        """Return name and type of the only input, and its rows and columns; those asked for where the file leaves them open."""
        inputs = self._session.get_inputs()
        listed = ", ".join(f"{one.name} {one.shape} {one.type}" for one in inputs)
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in _TYPES:
            raise self._refusal(
                f"takes {listed or 'nothing'}; a detector takes one picture (1, 3, H, W), float32 or float16"
            )
        batch, channels, *sides = inputs[0].shape
        if (isinstance(batch, int) and batch != 1) or (isinstance(channels, int) and channels != 3):
            raise self._refusal(f"takes {listed}; a detector takes one picture (1, 3, H, W)")
        wanted = _open_size(told, size)
        rows, columns = (side if isinstance(side, int) else want for side, want in zip(sides, wanted, strict=True))
        if max(rows, columns) > _LARGEST_SIZE:
            raise self._refusal(f"takes {listed}; {_LARGEST_SIZE} rows and columns are the most")
        if size is not None and (rows, columns) != wanted:
            raise InputError(f"`size` is {size}, and the input of {self.path} is always {sides[0]}x{sides[1]}")
        return inputs[0].name, _TYPES[inputs[0].type], (rows, columns)

    def _read_layout(self) -> str:
        known = len(self.names) or None
        found = readings(self._shape, self.size, known)
        if len(found) == 1 and found[0].layout != "one score too many":
            return found[0].layout
        what = f"answers {self._shape} for an input of {self.size[0]}x{self.size[1]}"
        if len(found) == 1:
            raise self._refusal(f"{what}, which for {known} classes is the layout of YOLOX and YOLOv6, not supported")
        if found:
            either = " or ".join(f"{one.classes} classes ({one.layout})" for one in found)
            raise ModelFileError(
                f"{self.path} {what}, which may mean {either}\n"
                "hint: tell its classes: `OnnxDetector(path, names=[...])`, which `accelerate` takes instead of the path"
            )
        named = f" and {known} class names" if known else ""
        raise self._refusal(f"{what}{named}, which fits no known layout")

    def _refusal(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self.path} {what}\n{_SUPPORTED}")


def _open_size(told: Mapping[str, str], size: int | None) -> tuple[int, int]:
    """Return rows and columns for an input that leaves them open: asked for, else what it was exported for, else 640."""
    stride = _literal(told.get("stride"))
    stride = stride if isinstance(stride, int) and 1 <= stride <= 256 else _USUAL_STRIDE

    def fits(side: object) -> bool:
        return (
            isinstance(side, int) and not isinstance(side, bool) and 1 <= side <= _LARGEST_SIZE and side % stride == 0
        )

    if size is not None:
        if not fits(size):
            raise InputError(f"`size` must be a multiple of {stride}, {_LARGEST_SIZE} at most; got {size!r}")
        return size, size
    exported = _literal(told.get("imgsz"))
    if isinstance(exported, (list, tuple)) and len(exported) == 2 and all(map(fits, exported)):
        return exported[0], exported[1]
    return _USUAL_SIZE, _USUAL_SIZE


def _literal(text: str | None) -> object:
    """Return the Python literal in a file's metadata; None if there is none, or it is damaged."""
    if not text or len(text) > _LONGEST_LITERAL:
        return None
    try:
        found: object = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return found


def _share(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 <= value <= 1:
        raise InputError(f"`{name}` must be a number within 0..1; got {value!r}")
    return float(value)


def _checked_names(names: Sequence[str] | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise InputError(f"`names` must be a list of class names; got {names!r:.120}")
    return tuple(names)
