"""From a network in PyTorch to what a predictor holds: the runtime that runs it and the description that fits it.

Places in the voxel grids come from the host (`effvision.host.voxels`), in float64 and the same for every runtime: so no graph
needs float64, which TensorRT has not, and a point on the border of two voxels falls into the same one everywhere. What runs in
PyTorch is the network on its fastest path; what is exported is `PlacedScatterGraph` or `TableGraph`, which can be traced.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from effvision.cards import Card
from effvision.checkpoints import read_checkpoint
from effvision.errors import CheckpointError, DTypeError, EffvisionError, InputError
from effvision.metadata import ROWS, GraphSpec, Metadata, TensorSpec
from effvision.models.pvcnn.convert import canonical_keys, load_weights
from effvision.models.pvcnn.fusing import fuse
from effvision.models.pvcnn.graphs import TABLES, PlacedScatterGraph, TableGraph, resolutions
from effvision.models.pvcnn.inputs import Input
from effvision.models.pvcnn.layers import PVConv
from effvision.models.pvcnn.network import PVCNN, PVCNN2, PointNet, s3dis
from effvision.models.pvcnn.stages import Stage
from effvision.ops.voxels import VoxelPlan, plan_voxels, voxel_positions
from effvision.runtime.torch import TorchRuntime

__all__ = ["PlacedNetwork", "assemble", "build", "card_network", "check_export", "check_network", "tables_form"]

Network = PVCNN | PVCNN2 | PointNet
_TABLE_AXES = {"parts": 2, "crowded": 2, "shares": 1, "corners": 1, "weights": 1}
_INDICES = ("parts", "crowded", "cells", "corners")


class PlacedNetwork(nn.Module):
    """points (N, C, P) and placed (N, 3, P), as `effvision.host.voxels.place_points` gives it, -> logits (N, K, P)."""

    def __init__(self, network: PVCNN) -> None:
        super().__init__()
        self.network = network

    def forward(self, points: Tensor, placed: Tensor) -> Tensor:
        """Classify every point."""
        return self.network.run(points, _GivenPlace(placed))


class _GivenPlace:
    """Points by their places in the unit cube (N, 3, P); grids are planned once and shared by the layers."""

    def __init__(self, placed: Tensor) -> None:
        self.placed = placed
        self._plans: dict[tuple[int, int | None], VoxelPlan] = {}

    def grid(self, resolution: int, *, unit_ball: bool, margin: int | None) -> VoxelPlan:
        """Return the plan for one resolution."""
        if (resolution, margin) not in self._plans:
            positions = voxel_positions(self.placed, resolution)
            self._plans[resolution, margin] = plan_voxels(positions, resolution, margin=margin)
        return self._plans[resolution, margin]


def assemble(
    network: Network,
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
    convolutions = [layer for layer in network.modules() if isinstance(layer, PVConv)]
    excite = any(layer.excite for layer in convolutions)
    placed = isinstance(fused, PVCNN)
    spec = _scatter_spec(kind.channels, len(labels), placed=placed)
    metadata = Metadata(
        family="pvcnn",
        card=card,
        task="segmentation",
        labels=labels,
        graphs={"step": spec},
        preprocess=kind.to_dict(),
        options={
            "unit_ball": all(layer.unit_ball for layer in convolutions),
            "margin": None if excite or not placed else 1,
        },
        version=__version__,
        licence=licence,
        weights_sha256=weights_sha256 or _tensors_sha256(network),
    )
    runs: nn.Module = PlacedNetwork(fused) if isinstance(fused, PVCNN) else fused
    traced = {"step": PlacedScatterGraph(fused)} if isinstance(fused, PVCNN) else {}
    return TorchRuntime({"step": runs}, metadata.graphs, device=device, traced=traced), metadata


def tables_form(runtime: TorchRuntime, metadata: Metadata) -> tuple[TorchRuntime, Metadata]:
    """Return the same model as a graph of gathers and sums, whose tables the host makes.

    Raises:
        InputError: the network has no voxel grids, or no form as a graph.
    """
    module = runtime.modules["step"]
    if not isinstance(module, PlacedNetwork):
        raise InputError(f"{type(module).__name__} has no voxel grids, and no tables\nhint: leave `form` out")
    graph = TableGraph(module.network)
    classes, channels = len(metadata.labels), metadata.graphs["step"].inputs[0].shape[1]
    spec = _scatter_spec(cast(int, channels), classes, placed=False)
    tables = [_table(name, size) for size in resolutions(module.network) for name in TABLES]
    spec = replace(spec, inputs=(*spec.inputs, *tables))
    described = replace(metadata, graphs={"step": spec})
    return TorchRuntime({"step": graph}, described.graphs, device=runtime.device), described


def check_export(runtime: TorchRuntime) -> None:
    """Refuse a network that has no form as a graph.

    Raises:
        InputError: PVCNN++.
    """
    if isinstance(runtime.modules["step"], PVCNN2):
        raise InputError(
            "PVCNN++ has no form as a graph: its sampling takes one step per point\n"
            "hint: it runs in PyTorch; export a PVCNN"
        )


def card_network(card: Card, weights: Path | None, kind: Input, *, seed: int = 0) -> Network:
    """Build a card's network and fill it from a checkpoint, or with seeded random weights where `weights` is None.

    Raises:
        CheckpointError: the checkpoint is damaged, unsafe or does not fit.
    """
    if weights is not None:
        network = build(len(card.class_names), kind.channels, **card.network)
        tensors = canonical_keys(read_checkpoint(weights))
        try:
            return load_weights(network, tensors)
        except CheckpointError as error:
            raise CheckpointError(f"{weights}: {error}") from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _randomise(build(len(card.class_names), kind.channels, **card.network)).eval()


def build(
    classes: int,
    channels: int,
    *,
    layout: Literal["pvcnn", "s3dis", "pointnet"] = "pvcnn",
    stages: tuple[Any, ...] | list[Any] = (),
    cloud: tuple[int, ...] | list[int] = (),
    head: tuple[float, ...] | list[float] = (),
    excite: bool = False,
    unit_ball: bool = False,
    width: float = 1.0,
) -> Network:
    """Build a network by a card's settings.

    Args:
        classes: K.
        channels: C of its input.
        layout: `s3dis` and `pointnet` are the published ones and need `width` only.
        stages: (channels, repeats, resolution) each; 0 for layers without a grid.
        cloud: As for `network.PVCNN`, like the others.
        head: Likewise.
        excite: Likewise.
        unit_ball: Likewise.
        width: Likewise.
    """
    if layout == "s3dis":
        return s3dis(classes, channels=channels, width=width)
    if layout == "pointnet":
        return PointNet(classes, channels=channels, width=width)
    made = [Stage(int(outputs), int(repeats), int(grid) or None) for outputs, repeats, grid in stages]
    return PVCNN(
        classes,
        channels=channels,
        stages=made,
        cloud=tuple(cloud),
        head=tuple(head),
        excite=excite,
        unit_ball=unit_ball,
        width=width,
    )


def check_network(network: object, kind: Input, classes: int) -> None:
    """Check that a network of the user's own takes such points and answers with K classes.

    Raises:
        DTypeError: it is none of this family's networks.
        InputError: it takes other channels, or has another number of outputs.
    """
    if not isinstance(network, (PVCNN, PVCNN2, PointNet)):
        raise DTypeError(
            f"`network` must be a PVCNN, PVCNN2 or PointNet of effvision.models.pvcnn.network; got {type(network).__name__}"
        )
    if getattr(network, "categories", 0):
        raise InputError(
            f"the network wants {network.categories} channels that tell each object's category, which clouds do not have\n"
            "hint: call the network itself: `network(points)` with (N, C, P)"
        )
    if network.channels != kind.channels:
        raise InputError(f"the network takes {network.channels} channels, but `inputs` gives {kind.channels}")
    weight, training = next(network.parameters()), network.training
    points = 2048 if isinstance(network, PVCNN2) else 64  # it chooses 1024 of them
    probe = torch.rand(1, kind.channels, points, device=weight.device, dtype=weight.dtype) - 0.5
    try:
        with torch.inference_mode():
            outputs = network.eval()(probe).shape[1]
    except EffvisionError:
        raise
    except RuntimeError as error:
        raise InputError(f"the network cannot take points {tuple(probe.shape)}: {error}") from error
    finally:
        network.train(training)
    if outputs != classes:
        raise InputError(f"the network has {outputs} outputs, but {classes} labels were given")


def _scatter_spec(channels: int, classes: int, *, placed: bool) -> GraphSpec:
    inputs: tuple[TensorSpec, ...] = (TensorSpec("points", ("batch", channels, "points")),)
    if placed:
        inputs = (*inputs, TensorSpec("placed", ("batch", 3, "points")))
    return GraphSpec("step", inputs, (TensorSpec("logits", ("batch", classes, "points")),))


def _table(name: str, resolution: int) -> TensorSpec:
    """Describe one of `TABLES`; sizes that follow from the points are open."""
    whole = f"{name}_{resolution}"
    dtype = "int64" if name in _INDICES else "float32"
    if name == "cells":
        return TensorSpec(whole, ("batch", *(f"{ROWS}{whole} {axis}" for axis in "xyz")), dtype)
    fixed = {"shares": (1,), "corners": (8,), "weights": (8,)}.get(name, ())
    axes = tuple(f"{ROWS}{whole} {axis}" for axis in range(_TABLE_AXES[name]))
    return TensorSpec(whole, (*axes, *fixed), dtype)


def _randomise(network: Network) -> Network:
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
