"""From a network in PyTorch to what a predictor holds: the runtime that runs it and the description that fits it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from effvision.cards import Card
from effvision.checkpoints import read_checkpoint
from effvision.errors import CheckpointError, DTypeError
from effvision.host.crops import MEAN_RGB
from effvision.metadata import Metadata
from effvision.models.patchnet.convert import from_reference
from effvision.models.patchnet.graphs import MatchGraph, match_spec
from effvision.models.patchnet.network import SEARCH, TEMPLATE, Matcher, PatchNet
from effvision.runtime.torch import TorchRuntime

__all__ = ["assemble", "card_network"]

_START_NOISE = 0.02  # of an untrained network's numbers: two seeds give two networks, and both find things


def assemble(
    network: Matcher,
    options: Mapping[str, Any],
    *,
    device: str = "cpu",
    card: str = "",
    licence: str = "",
    weights_sha256: str = "",
) -> tuple[TorchRuntime, Metadata]:
    """Return the runtime and the description of a network.

    Args:
        network: Used itself: it is switched to eval mode and moved to `device`.
        options: Family facts besides `zero_mean`, which the network knows.
        device: Of PyTorch.
        card: Empty for a network of the user's own.
        licence: Of the weights.
        weights_sha256: Of the file the weights came from; without one, that of the tensors stands for it.

    Raises:
        DTypeError: `network` is none of this family.
        InputError: this machine or build of PyTorch has no such device.
    """
    from effvision import __version__

    if not isinstance(network, Matcher):
        raise DTypeError(f"`network` must be a PatchNet or a PatchAggregate; got {type(network).__name__}")
    spec = match_spec()
    traced = copy.copy(network)  # the same parameters
    traced.by_products = True
    metadata = Metadata(
        family="patchnet",
        card=card,
        task="tracking",
        labels=(),
        graphs={spec.name: spec},
        preprocess={
            "template": TEMPLATE,
            "search": SEARCH,
            "mean_rgb": list(MEAN_RGB),
            "color": "RGB",
            "range": [0, 255],
        },
        options={"zero_mean": network.zero_mean, **options},
        version=__version__,
        licence=licence,
        weights_sha256=weights_sha256 or _tensors_sha256(network),
    )
    runtime = TorchRuntime(
        {spec.name: MatchGraph(network)},
        metadata.graphs,
        device=device,
        traced={spec.name: MatchGraph(traced, exported=True)},
    )
    return runtime, metadata


def card_network(card: Card, weights: Path | None, *, seed: int = 0) -> Matcher:
    """Build a card's network and fill it from a checkpoint; from its structural start, a little shaken, where there is none.

    Raises:
        CheckpointError: the checkpoint is damaged, unsafe or does not fit.
    """
    zero_mean = bool(card.network.get("zero_mean", False))
    network = PatchNet(zero_mean=zero_mean)
    if weights is None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * _START_NOISE)
        return network.eval()
    tensors = read_checkpoint(weights)
    if "frequencies" not in tensors:
        return from_reference(tensors, variant=card.network.get("variant", "patchnet"), zero_mean=zero_mean)
    own = network.state_dict()
    if set(own) != set(tensors) or any(tensors[name].shape != own[name].shape for name in own):
        raise CheckpointError(f"{weights} does not fit PatchNet: its tensors are {sorted(tensors)}")
    network.load_state_dict({name: value.float() for name, value in tensors.items()})
    return network.eval()


def _tensors_sha256(network: Matcher) -> str:
    digest = hashlib.sha256(f"{type(network).__name__} {network.zero_mean}\n".encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
