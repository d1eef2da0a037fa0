"""What the recipes of all families do around a step: weight decay, the moving average, checkpoints, the written weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from effvision._files import write_bytes
from effvision.errors import CheckpointError

__all__ = ["advance", "decay_groups", "follow", "keep", "kept", "load_weights", "save_weights"]

N = TypeVar("N", bound=nn.Module)


def save_weights(state: Mapping[str, Tensor], path: Path) -> Path:
    """Write a state dict as fp16 safetensors, without the counters of batch normalisation; the file appears whole."""
    from safetensors.torch import save

    left = {
        name: value.half().contiguous().cpu()
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }
    return write_bytes(path, save(left))


def load_weights(path: Path, network: N) -> N:
    """Load what `save_weights` wrote, and return the network in eval mode; it computes in fp32 with the file's fp16 numbers.

    Raises:
        CheckpointError: no such file, not safetensors, or weights of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = {name: value.float() for name, value in load_file(path).items()}
        missing = network.load_state_dict(tensors, strict=False)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"cannot read the weights {path}: {error}") from error
    lacking = [name for name in missing.missing_keys if not name.endswith("num_batches_tracked")]
    if lacking or missing.unexpected_keys:
        raise CheckpointError(
            f"{path} holds another network: {lacking[:3]} missing, {missing.unexpected_keys[:3]} unknown"
        )
    return network.eval()


def decay_groups(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Return an optimiser's groups: weight decay for matrices only; it harms biases, norms and taps of depthwise filters."""
    wide = [p for p in network.parameters() if p.ndim > 1 and p.shape[1] > 1]
    rest = [p for p in network.parameters() if not (p.ndim > 1 and p.shape[1] > 1)]
    return [{"params": wide, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]


def advance(
    network: nn.Module, optimiser: torch.optim.Optimizer, loss: Tensor, *, rate: float, longest: float = 5.0
) -> float:
    """Take one step at a learning rate, gradients cut to a length; return the loss."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), longest)
    optimiser.step()
    return float(loss.detach())


def follow(average: dict[str, Tensor], network: nn.Module, decay: float) -> None:
    """Move the average a step towards the network, in place; counters are copied."""
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                average[name].lerp_(value, 1 - decay)
            else:
                average[name].copy_(value)


def keep(
    folder: Path, network: nn.Module, average: Mapping[str, Tensor], optimiser: torch.optim.Optimizer, **more: Any
) -> None:
    """Write `checkpoint.pt` under another name first: a kill while writing leaves the old one whole."""
    beside = folder / "checkpoint.tmp"
    content = {"network": network.state_dict(), "average": dict(average), "optimiser": optimiser.state_dict(), **more}
    torch.save(content, beside)
    os.replace(beside, folder / "checkpoint.pt")


def kept(
    content: Mapping[str, Any], network: nn.Module, average: Mapping[str, Tensor], optimiser: torch.optim.Optimizer
) -> None:
    """Put the contents of a checkpoint that `keep` wrote back in their places."""
    network.load_state_dict(content["network"])
    for name, value in content["average"].items():
        average[name].copy_(value)
    optimiser.load_state_dict(content["optimiser"])
