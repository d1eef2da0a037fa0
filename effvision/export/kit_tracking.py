"""A kit for tracking: a folder that follows objects from their first boxes with numpy, ONNX Runtime and OpenCV."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from effvision.errors import InputError
from effvision.export.golden import STEPS
from effvision.export.kit import appearing_kit, checked_place, template, tolerances
from effvision.export.kit_readme import fill_track_readme
from effvision.export.kit_vendored import fill_kit, need_python
from effvision.export.report import KitReport
from effvision.export.targets import SERVER, Target, get_target
from effvision.host.crops import crop_boxes_numpy, search_windows, template_windows
from effvision.host.image import resize_crop
from effvision.metadata import Metadata
from effvision.state import State

__all__ = ["export_tracking_kit"]

_PACKAGE = "tracking"
_PROGRAMS = {"track.py": "track_runner.py", "session.py": "session.py", "video.py": "video.py"}
_TOGETHER = 8  # objects a call of TensorRT, which wants fixed sizes; fewer are filled up, more go in groups
_NETWORK_STEPS = 5  # whose outputs are recorded
_RENEWED = 3  # the one of them in which the first object alone gets a new template
_SIDE = 240  # pixels of the recorded frames' shorter side
_MOST_BOXES = 3


def export_tracking_kit(
    predictor: Any,
    target: str | Target,
    folder: str | os.PathLike[str],
    *,
    names: Mapping[str, str],
    frames: Any = None,
    half: bool = False,
    int8: Any = None,
    notify: Callable[[str], None] | None = None,
) -> KitReport:
    """Write a kit to `folder`; see `Predictor.export_kit`.

    Args:
        predictor: A tracker in PyTorch.
        target: A name of `effvision.export.targets.TARGETS`, or one of its values.
        folder: Made; an earlier kit there, or an empty folder, is replaced when everything was checked.
        names: What the program takes, and from which module of ours.
        frames: Source of real frames; the export is checked with them and they become `golden.npz`. Default: rendered ones.
        half: Compute in float16; not with TensorRT.
        int8: There is none.
        notify: Told what is going on.

    Raises:
        InputError: no such target, one whose Python is too old, or a precision it cannot have.
        SourceError: the folder is in the way or cannot be written; nothing is left.
        ExportError: the model cannot be written for that target, or a check failed; nothing is left.
    """
    to = _device(target)
    place = checked_place(predictor, folder)
    _check_asked(to, half, int8)
    real = None if frames is None else predictor.real_inputs(frames)
    golden = _golden(predictor, real)

    def readme(metadata: Metadata, verified: str, device: str) -> str:
        text, limits = template("track_README.md"), tolerances("track_runner.py")
        return fill_track_readme(
            text, metadata, to, steps=STEPS, tolerances=limits, verified=verified, device_check=device
        )

    with appearing_kit(place) as temporary:
        exported = predictor.export(
            temporary / "model.onnx",
            batch="dynamic" if to.tensorrt is None else _TOGETHER,
            opset=to.opset, frames=real, half=half, notify=notify,
        )  # fmt: skip
        report = fill_kit(
            temporary,
            exported,
            to,
            golden=golden,
            package=_PACKAGE,
            names=names,
            programs=_PROGRAMS,
            check=("track.py", "--check"),
            readme=readme,
        )
    return report.at(place)


def _device(target: str | Target) -> Target:
    """Return the device; refuse what is none."""
    if target == SERVER:
        raise InputError(
            "tracking is not served by Triton: which objects go into a call, and with whose state, is decided between calls, "
            "while Triton keeps one state a stream\nhint: --target onnx writes a kit that follows objects on any machine"
        )
    return target if isinstance(target, Target) else get_target(target)


def _check_asked(target: Target, half: bool, int8: Any) -> None:
    """Refuse targets and precisions that a kit for tracking cannot have."""
    need_python(
        target, "tracking", "`export` without a target writes the ONNX file alone; --opset 13 is for its TensorRT"
    )
    if int8 is not None:
        raise InputError("there is no int8 of tracking yet\nhint: leave `int8` out")
    if half and target.tensorrt is not None:
        raise InputError(
            "a kit for tracking with TensorRT computes in float32: sums of squares go beyond float16, and TensorRT before 10 "
            "does not keep the parts of a float16 file that are float32\nhint: leave `half` out"
        )


def _golden(predictor: Any, real: Sequence[np.ndarray] | None) -> dict[str, np.ndarray]:
    """Frames, first boxes and where they went, and the outputs of PyTorch for crops around some of these.

    Those crops are NumPy's, which are the same everywhere; OpenCV's depend on its release.
    """
    if real is None:
        pictures = list(predictor.example_updates(STEPS, seed=0))
        boxes = _inside(np.array(predictor.example_options()["boxes"], np.float64), pictures[0].shape)
    else:
        pictures = [_small(picture) for picture in real if picture.shape == real[0].shape]
        boxes = _anywhere(pictures[0].shape)
    shown = np.stack([pictures[step % len(pictures)] for step in range(STEPS)])
    session = predictor.session(boxes=boxes)
    track = np.stack([session.update(frame).boxes for frame in shown])
    sizes, graph = predictor.metadata.preprocess, predictor.metadata.graphs["step"]
    refresh = np.zeros((_NETWORK_STEPS, len(boxes)), np.float32)
    refresh[0], refresh[_RENEWED, 0] = 1, 1
    state: State = predictor.runtime.initial_state(len(boxes))
    recorded: dict[str, list[np.ndarray]] = {tensor.name: [] for tensor in graph.outputs}
    for frame, around, asked in zip(shown[:_NETWORK_STEPS], track[:_NETWORK_STEPS].astype(float), refresh, strict=True):
        windows = search_windows(around, sizes["search"] / sizes["template"])
        feed = {
            "search": crop_boxes_numpy(frame, windows, sizes["search"]),
            "template": crop_boxes_numpy(frame, template_windows(around), sizes["template"]),
            "refresh": asked,
        }
        outputs, state = predictor.runtime.step(feed, state)
        for name, kept in recorded.items():
            kept.append(np.asarray(outputs[name], np.float32))
    return {
        "frames": shown,
        "boxes": boxes,
        "track": track,
        "refresh": refresh,
        "weights": np.array(predictor.metadata.weights_sha256),
        **{f"out_{name}": np.stack(values) for name, values in recorded.items()},
    }


def _small(frame: np.ndarray) -> np.ndarray:
    """Return a frame no larger than the check needs, in its own proportions."""
    height, width = frame.shape[:2]
    scale = _SIDE / min(height, width)
    if scale >= 1:
        return frame
    return resize_crop(frame, short_side=None, size=(round(height * scale), round(width * scale)), mode="stretch")


def _inside(boxes: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Those of the boxes that lie in a picture (H, W, ...); somewhere in it if none does."""
    good = (boxes[:, :2] >= 0).all(axis=1) & (boxes[:, 2:] <= (shape[1], shape[0])).all(axis=1)
    return boxes[good][:_MOST_BOXES] if good.any() else _anywhere(shape)


def _anywhere(shape: Sequence[int]) -> np.ndarray:
    """Two boxes in a picture of unknown content: the check is about numbers, not about what is followed."""
    boxes: np.ndarray = np.array([[0.4, 0.35, 0.6, 0.65], [0.15, 0.2, 0.3, 0.5]]) * np.tile((shape[1], shape[0]), 2)
    return boxes
