"""From a network in PyTorch to what a predictor holds: the runtime that runs it and the description that fits it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effvision.cards import Card
from effvision.checkpoints import read_checkpoint
from effvision.errors import DTypeError, EffvisionError, InputError
from effvision.metadata import Metadata
from effvision.models.tsm.convert import canonical_keys, load_weights
from effvision.models.tsm.graphs import ClipGraph, StepGraph, clip_spec, step_spec
from effvision.models.tsm.network import TemporalNetwork, build, randomise
from effvision.runtime.torch import TorchRuntime

__all__ = ["assemble", "card_network", "check_network", "tensors_sha256"]

_IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def assemble(
    network: TemporalNetwork,
    labels: tuple[str, ...],
    preprocess: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    device: str,
    card: str = "",
    licence: str = "",
    weights_sha256: str = "",
) -> tuple[TorchRuntime, Metadata]:
    """Return the runtime and the description of a network; one graph, `step` if it streams and `clip` if not.

    Args:
        network: Used itself: it is switched to eval mode and moved to `device`.
        labels: K class names.
        preprocess: At least `size`, (height, width) in pixels; ImageNet's mean and deviation unless it says others.
        options: Family facts besides direction and number of frames, which the network knows.
        device: Of PyTorch.
        card: Empty for a network of the user's own.
        licence: Of the weights.
        weights_sha256: Of the file the weights came from; without one, that of the tensors stands for it.

    Raises:
        InputError: this machine or build of PyTorch has no such device.
    """
    from effvision import __version__

    preprocess = {**_IMAGENET, "color": "RGB", "range": [0, 255], **preprocess}
    height, width = preprocess["size"]
    streams = network.streams
    graph = (StepGraph if streams else ClipGraph)(network, preprocess["mean"], preprocess["std"])
    spec = (step_spec if streams else clip_spec)(network, height, width)
    metadata = Metadata(
        family="tsm",
        card=card,
        task="classification",
        labels=labels,
        graphs={spec.name: spec},
        preprocess=preprocess,
        options={"direction": network.direction, "frames": network.frames, **options},
        version=__version__,
        licence=licence,
        weights_sha256=weights_sha256 or tensors_sha256(network),
    )
    return TorchRuntime({spec.name: graph}, metadata.graphs, device=device), metadata


def card_network(card: Card, weights: Path | None, *, seed: int = 0) -> TemporalNetwork:
    """Build a card's network and fill it from a checkpoint, or with seeded random weights where `weights` is None.

    Raises:
        CheckpointError: the checkpoint is damaged, unsafe or does not fit.
    """
    if weights is not None:
        return load_weights(build(len(card.class_names), **card.network), canonical_keys(read_checkpoint(weights)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return randomise(build(len(card.class_names), **card.network)).eval()


def check_network(network: object, size: tuple[int, int], classes: int) -> None:
    """Check that a network of the user's own takes frames of `size` (height, width), answers K classes and shifts.

    Raises:
        DTypeError: it is no temporal network.
        InputError: it cannot take such frames, has another number of outputs, or a shift site that moves nothing.
    """
    if not isinstance(network, TemporalNetwork):
        raise DTypeError(
            f"`network` must be a TemporalNetwork; got {type(network).__name__}\n"
            "hint: `insert_temporal_shift(network)` makes a residual 2D network one"
        )
    try:
        shapes, outputs = network.state_shapes(*size), network.outputs(*size)
    except EffvisionError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise InputError(
            f"the network cannot take frames of {size[0]}x{size[1]}: {str(error) or type(error).__name__}\n"
            "hint: `size` is (height, width) in pixels, of the frames it was trained on"
        ) from error
    if outputs != classes:
        raise InputError(f"the network has {outputs} outputs, but {classes} labels were given")
    if idle := sum(shape[0] == 0 for shape in shapes):
        raise InputError(
            f"{idle} of the network's {len(shapes)} shift sites have fewer channels than `fold`, so nothing moves there\n"
            "hint: `insert_temporal_shift` with a smaller `fold`, or with `sites` that leave them out"
        )


def tensors_sha256(network: nn.Module) -> str:
    """Return the SHA-256 of a network's tensors, as hexadecimal text: names, types, shapes and bytes in the names' order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if isinstance(tensor, torch.Tensor):  # a module may keep other things there
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
