"""Checks that the description of a PVCNN model, from a card or an exported file, is whole and fits its graph."""

from __future__ import annotations

from effvision.errors import InputError, ModelFileError
from effvision.metadata import Metadata
from effvision.models.pvcnn.inputs import Input, parse_input

__all__ = ["check_description"]


def check_description(metadata: Metadata) -> Input:
    """Check the input, the labels and the options against the graph; return the input.

    Raises:
        ModelFileError: something is missing, damaged, or contradicts the rest.
    """
    try:
        kind = parse_input(metadata.preprocess)
        graph = metadata.graphs["step"]
        points, logits = graph.inputs[0], graph.outputs[0]
        shapes = (points.name, points.shape[1], logits.name, logits.shape[1])
        margin, unit_ball = metadata.options.get("margin"), metadata.options["unit_ball"]
        fits = shapes == ("points", kind.channels, "logits", len(metadata.labels)) and not graph.states
        usual = isinstance(unit_ball, bool) and (margin is None or (isinstance(margin, int) and margin >= 0))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        what = str(error).partition("\n")[0] if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        raise ModelFileError(f"the description of this PVCNN model is damaged ({what})") from error
    if not (fits and usual):
        raise ModelFileError(
            f"the description of this PVCNN model contradicts itself: graph {shapes} for {kind.channels} channels and "
            f"{len(metadata.labels)} labels, options {dict(metadata.options)!r:.120}"
        )
    return kind
