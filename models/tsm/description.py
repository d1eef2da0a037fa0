"""Checks that the description of a TSM model, from a card or an exported file, is whole and fits its graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from effvision.errors import InputError, ModelFileError
from effvision.metadata import Metadata
from effvision.models.tsm.smoothing import Smoothing

__all__ = ["check_description", "check_settings"]


def check_description(metadata: Metadata) -> None:
    """Check sizes, labels and options against the graph.

    Raises:
        ModelFileError: something is missing, damaged, or contradicts the rest.
    """
    try:
        height, width = (int(axis) for axis in metadata.preprocess["size"])
        graph = metadata.graphs.get("step") or metadata.graphs["clip"]
        shape, classes = graph.inputs[0].shape, graph.outputs[0].shape[-1]
        side, rate = metadata.preprocess.get("short_side"), metadata.options.get("fps")
        fits = (shape[-3:], classes) == ((3, height, width), len(metadata.labels))
        usual = all(number is None or float(number) > 0 for number in (side, rate))
        Smoothing.from_dict(metadata.options.get("smoothing") or {}).check_classes(len(metadata.labels))
        complete = {"direction", "frames"} <= set(metadata.options) and int(metadata.options["frames"]) > 0
        int(metadata.options.get("settle", 0))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise ModelFileError(
            f"the description of this TSM model is damaged ({type(error).__name__}: {error})"
        ) from error
    if not (fits and usual and complete):
        raise ModelFileError(
            f"the description of this TSM model contradicts itself: input {list(shape)} for pictures of {height}x{width}, "
            f"{classes} outputs for {len(metadata.labels)} labels, options {sorted(metadata.options)}"
        )


def check_settings(labels: Any, size: Any, short_side: Any, mean: Any, std: Any) -> dict[str, Any]:
    """Check what a user says of a network of his own; return it as the description's `preprocess`, in plain numbers.

    Raises:
        InputError: a setting is of the wrong kind or out of range.
    """

    def whole(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value > 0

    if not labels or not all(isinstance(label, str) for label in labels):
        raise InputError(f"`labels` must be class names; got {labels!r:.100}")
    if not isinstance(size, (tuple, list)) or len(size) != 2 or not all(map(whole, size)):
        raise InputError(f"`size` must be (height, width) in pixels; got {size!r:.100}")
    if short_side is not None and not (whole(short_side) and short_side >= min(size)):
        raise InputError(
            f"`short_side` must be {min(size)} pixels or more, so that {size} can be cropped; got {short_side!r:.100}"
        )
    channels = {"mean": _per_channel(mean), "std": _per_channel(std)}
    if channels["mean"] is None:
        raise InputError(f"`mean` must be three finite numbers, one per RGB channel; got {mean!r:.100}")
    if channels["std"] is None or min(channels["std"]) <= 0:
        raise InputError(f"`std` must be three finite numbers, one per RGB channel, above 0; got {std!r:.100}")
    return {"short_side": short_side, "size": list(size), **channels}


def _per_channel(values: Any) -> list[float] | None:
    """Three finite real numbers, from a sequence or an array of any real type; None if they are not that."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    if array.dtype.kind not in "fiu" or array.shape != (3,):
        return None
    with np.errstate(over="ignore"):  # a longer type may hold what is infinite here
        numbers = array.astype(np.float64)
    return numbers.tolist() if np.isfinite(numbers).all() else None
