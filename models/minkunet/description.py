"""Checks that the description of a model, from a card or an exported file, is whole and fits its graph."""

from __future__ import annotations

from effvision.errors import InputError, ModelFileError
from effvision.host.sparse_graph import table_axes
from effvision.metadata import Metadata
from effvision.models.minkunet.inputs import Input, parse_input

__all__ = ["NETWORKS", "check_description", "point_size"]

NETWORKS = ("minkunet", "spvcnn")


def point_size(network: str, kind: Input) -> float | None:
    """Return the side of the cells that coordinates count in, for a network with a branch of points; None without.

    Published networks take points and voxels of one size, and still compute the places of the points: see
    `effvision.host.sparse_levels.places_of`.
    """
    if network != "spvcnn":
        return None
    return kind.voxel_m if kind.point_m is None else kind.point_m


def check_description(metadata: Metadata) -> Input:
    """Check the input, the labels and the options against the graph; return the input.

    Raises:
        ModelFileError: something is missing, damaged, or contradicts the rest.
    """
    try:
        kind = parse_input(metadata.preprocess)
        graph = metadata.graphs["step"]
        network = metadata.options["network"]
        feats, logits = graph.inputs[0], graph.outputs[0]
        names = [tensor.name for tensor in graph.inputs]
        shapes = (feats.shape[1], logits.name, logits.shape[1])
        sizes = (metadata.options["voxel_m"], metadata.options["point_m"])
        fits = (
            network in NETWORKS
            and names == ["feats", *table_axes(points=network == "spvcnn")]
            and shapes == (kind.channels, "logits", len(metadata.labels))
            and sizes == (kind.voxel_m, point_size(network, kind))
            and not graph.states
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        what = str(error).partition("\n")[0] if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        raise ModelFileError(f"the description of this sparse network is damaged ({what})") from error
    if not fits:
        raise ModelFileError(
            f"the description of this sparse network contradicts itself: {len(names)} inputs and {shapes} for "
            f"{kind.channels} channels and {len(metadata.labels)} labels, options {dict(metadata.options)!r:.120}"
        )
    return kind
