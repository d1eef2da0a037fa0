"""Checks that the description of a TSM model, from a card or an exported file, is whole and fits its graph."""

from __future__ import annotations

from effvision.errors import ModelFileError
from effvision.metadata import Metadata
from effvision.models.tsm.smoothing import Smoothing

__all__ = ["check_description"]


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
