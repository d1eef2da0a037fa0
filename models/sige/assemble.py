"""From a generator in PyTorch to what a predictor holds: the runtime that runs it and the description that fits it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from effvision.cards import Card
from effvision.checkpoints import read_checkpoint
from effvision.errors import CheckpointError, DTypeError, InputError
from effvision.metadata import GraphSpec, Metadata, TensorSpec
from effvision.models.sige.editing import INPUT
from effvision.models.sige.encoding import Encoding
from effvision.models.sige.scenes_network import SceneGenerator
from effvision.runtime.torch import TorchRuntime

__all__ = ["assemble", "card_network", "picture_spec"]


def picture_spec(encoding: Encoding) -> GraphSpec:
    """Describe a generator: labels (and guide) in, a picture in -1..1 out; no state, the host keeps the maps."""
    height, width = encoding.size
    return GraphSpec(
        "step",
        (TensorSpec(INPUT, ("batch", encoding.channels, height, width)),),
        (TensorSpec("picture", ("batch", 3, height, width)),),
    )


def assemble(
    network: nn.Module,
    encoding: Encoding,
    *,
    device: str = "cpu",
    card: str = "",
    licence: str = "",
    weights_sha256: str = "",
) -> tuple[TorchRuntime, Metadata]:
    """Return the runtime and the description of a network.

    Args:
        network: Used itself: it is switched to eval mode and moved to `device`.
        encoding: From label maps to what it takes.
        device: Of PyTorch.
        card: Empty for a network of the user's own.
        licence: Of the weights.
        weights_sha256: Of the file the weights came from; without one, that of the tensors stands for it.

    Raises:
        DTypeError: `network` is no module.
        InputError: it does not take what `encoding` makes or gives no picture, or this machine has no such device.
    """
    from effvision import __version__

    if not isinstance(network, nn.Module):
        raise DTypeError(f"`network` must be a torch.nn.Module; got {type(network).__name__}")
    spec = picture_spec(encoding)
    metadata = Metadata(
        family="sige",
        card=card,
        task="editing",
        labels=encoding.names,
        graphs={spec.name: spec},
        preprocess=encoding.to_dict(),
        options={"range": [-1, 1], "color": "RGB"},
        version=__version__,
        licence=licence,
        weights_sha256=weights_sha256 or _tensors_sha256(network),
    )
    runtime = TorchRuntime({spec.name: network}, metadata.graphs, device=device)
    if not card:
        _check(runtime.modules[spec.name], encoding, torch.device(device))
    return runtime, metadata


def card_network(card: Card, weights: Path | None, *, seed: int = 0) -> nn.Module:
    """Build a card's network and fill it from a checkpoint; with seeded numbers where there is none.

    Raises:
        CheckpointError: the checkpoint is damaged, unsafe or does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SceneGenerator(**card.network)
    if weights is None:
        return network.eval()
    tensors = read_checkpoint(weights)
    own = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    given = {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
    if set(own) != set(given) or any(given[name].shape != own[name].shape for name in own):
        odd = sorted(set(own) ^ set(given)) or sorted(name for name in own if given[name].shape != own[name].shape)
        raise CheckpointError(
            f"{weights} does not fit the network of {card.name}: it differs in {', '.join(odd[:4])}"
            "\nhint: a published generator is opened by SIGE.from_checkpoint(PATH, network='spade', labels=..., size=...)"
        )
    if broken := [name for name, value in given.items() if not bool(torch.isfinite(value.float()).all())]:
        raise CheckpointError(f"{weights} holds numbers that are NaN or infinite in {broken[0]}: it is damaged")
    network.load_state_dict({name: value.float() for name, value in given.items()}, strict=False)
    return network.eval()


def _check(network: nn.Module, encoding: Encoding, device: torch.device) -> None:
    """Call a user's network once."""
    shape = (1, encoding.channels, *encoding.size)
    try:
        with torch.inference_mode():
            given = network(torch.zeros(shape, device=device))
    except Exception as error:  # a user's network raises what it likes
        raise InputError(
            f"the network cannot be called with labels {shape}: {error}\n"
            "hint: `labels` names every channel it takes, `size` is (rows, columns)"
        ) from error
    wanted = (1, 3, *encoding.size)
    if not isinstance(given, Tensor) or tuple(given.shape) != wanted:
        found = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise InputError(f"the network must give a picture {wanted} in -1..1; it gives {found}")


def _tensors_sha256(network: nn.Module) -> str:
    digest = hashlib.sha256(f"{type(network).__name__}\n".encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
