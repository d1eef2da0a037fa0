"""From a network in PyTorch to what a predictor holds: the runtime that runs it and the description that fits it.

The kernel maps come from the host (`effvision.host.sparse_graph`), the same for every runtime. What runs in PyTorch is
`PairGraph`; what is exported is `TableGraph`, which can be traced.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from effvision.cards import Card
from effvision.checkpoints import checkpoint_tensors, read_checkpoint
from effvision.errors import CheckpointError, DTypeError, InputError
from effvision.host.sparse_graph import table_axes
from effvision.metadata import ROWS, GraphSpec, Metadata, TensorSpec
from effvision.models.minkunet.convert import NETWORKS, load_weights
from effvision.models.minkunet.description import point_size
from effvision.models.minkunet.graphs import PairGraph, TableGraph
from effvision.models.minkunet.inputs import Input
from effvision.models.minkunet.network import CHANNELS, SPVCNN, SparseUNet
from effvision.ops.folding import fuse
from effvision.runtime.torch import TorchRuntime

__all__ = ["assemble", "build", "card_network", "check_network", "graph_spec"]


def assemble(
    network: SparseUNet,
    labels: tuple[str, ...],
    kind: Input,
    *,
    device: str,
    card: str = "",
    licence: str = "",
    weights_sha256: str = "",
) -> tuple[TorchRuntime, Metadata]:
    """Return the runtime and the description of a network.

    Args:
        network: A copy is used, its batch normalisations folded; the network itself stays as it is.
        labels: K class names.
        kind: What the network takes.
        device: Of PyTorch.
        card: Empty for a network of the user's own.
        licence: Of the weights.
        weights_sha256: Of the file the weights came from; without one, that of the tensors stands for it.

    Raises:
        InputError: this machine or build of PyTorch has no such device.
    """
    from effvision import __version__

    training = network.training
    fused = fuse(network.eval())
    network.train(training)
    name = "spvcnn" if network.has_points else "minkunet"
    metadata = Metadata(
        family="minkunet",
        card=card,
        task="segmentation",
        labels=labels,
        graphs={"step": graph_spec(kind.channels, len(labels), points=network.has_points)},
        preprocess=kind.to_dict(),
        options={"network": name, "voxel_m": kind.voxel_m, "point_m": point_size(name, kind)},
        version=__version__,
        licence=licence,
        weights_sha256=weights_sha256 or _tensors_sha256(network),
    )
    runs, traced = {"step": PairGraph(fused)}, {"step": TableGraph(fused)}
    return TorchRuntime(runs, metadata.graphs, device=device, traced=traced), metadata


def graph_spec(channels: int, classes: int, *, points: bool) -> GraphSpec:
    """Describe the graph: features of R rows and the tables in, logits (R, K) out."""
    tables = []
    for name, axes in table_axes(points=points).items():
        shape = tuple(f"{ROWS}{name} {place}" if size is None else size for place, size in enumerate(axes))
        tables.append(TensorSpec(name, shape, "float32" if name.endswith(("_shares", "_weights")) else "int64"))
    return GraphSpec(
        "step", (TensorSpec("feats", ("rows", channels)), *tables), (TensorSpec("logits", ("rows", classes)),)
    )


def card_network(card: Card, weights: Path | None, kind: Input, *, seed: int = 0) -> SparseUNet:
    """Build a card's network and fill it from a checkpoint, or with seeded random weights where `weights` is None.

    Raises:
        CheckpointError: the checkpoint is damaged, unsafe or does not fit.
    """
    if weights is not None:
        network = build(len(card.class_names), kind, **card.network)
        try:
            tensors = checkpoint_tensors(
                read_checkpoint(weights), level="model", rename=lambda key: key.removeprefix("module.")
            )
            load_weights(network, tensors)
        except CheckpointError as error:
            if str(weights) in str(error):
                raise
            raise CheckpointError(f"{weights}: {error}") from error
        return network.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _randomise(build(len(card.class_names), kind, **card.network)).eval()


def build(
    classes: int, kind: Input, *, network: str, width: float = 1.0, channels: Sequence[int] = CHANNELS
) -> SparseUNet:
    """Build a network by a card's settings.

    Args:
        classes: K.
        kind: What it takes.
        network: `minkunet` or `spvcnn`.
        width: As for the network, like the next.
        channels: Of the stem, four stages down and four up.
    """
    sizes: dict[str, Any] = {"width": width, "voxel_size_m": kind.voxel_m, "channels": tuple(channels)}
    if network == "spvcnn":
        sizes["point_size_m"] = point_size(network, kind)
    return NETWORKS[network](kind.channels, classes, **sizes)


def check_network(network: object, wanted: type[SparseUNet], kind: Input, classes: int) -> None:
    """Check that a network of the user's own takes such rows and answers with K classes.

    Raises:
        DTypeError: it is not of the class wanted.
        InputError: it takes other channels or sizes, or has another number of outputs.
    """
    if not isinstance(network, wanted):
        raise DTypeError(
            f"`network` must be a {wanted.__name__} of effvision.models.minkunet.network; got {type(network).__name__}"
        )
    if network.in_channels != kind.channels:
        raise InputError(f"the network takes {network.in_channels} channels, but `inputs` gives {kind.channels}")
    if network.classes != classes:
        raise InputError(f"the network has {network.classes} outputs, but {classes} labels were given")
    if network.voxel_size_m != kind.voxel_m:
        raise InputError(
            f"the network was made for voxels of {network.voxel_size_m:g} m, and `inputs` says {kind.voxel_m:g}"
        )
    if isinstance(network, SPVCNN):
        given = network.voxel_size_m if network.point_size_m is None else network.point_size_m
        if given != point_size("spvcnn", kind):
            raise InputError(f"the network takes points of {given:g} m, and `inputs` gives {kind.point_m!r}")
    elif kind.point_m is not None:
        raise InputError("MinkUNet has no branch of points\nhint: leave `point_m` out of `inputs`, or use SPVCNN")


def _randomise(network: SparseUNet) -> SparseUNet:
    """Draw statistics for the batch normalisations as training would have left them."""
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(cast(Tensor, layer.running_mean), 0.0, 0.1)
            nn.init.uniform_(cast(Tensor, layer.running_var), 0.5, 1.5)
    return network


def _tensors_sha256(network: nn.Module) -> str:
    """Return the SHA-256 of a network's tensors, as hexadecimal text."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
