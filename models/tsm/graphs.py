"""The networks as graphs of named tensors, normalisation inside: what the PyTorch runtime runs and what is exported."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from effvision.metadata import GraphSpec, StateSpec, TensorSpec
from effvision.models.tsm.network import TemporalNetwork

__all__ = ["ClipGraph", "StepGraph", "clip_spec", "step_spec"]


class _Graph(nn.Module):
    """Holds the network and turns RGB 0..255 into what it was trained on: (x / 255 - mean) / std, as one multiply and add."""

    def __init__(self, network: TemporalNetwork, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        mean_, std_ = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
        self.register_buffer("scale", (1 / (255 * std_)).float().view(1, 3, 1, 1))
        self.register_buffer("offset", (-mean_ / std_).float().view(1, 3, 1, 1))

    def normalise(self, frames: Tensor) -> Tensor:
        """(N, 3, H, W) RGB 0..255 -> normalised."""
        return frames * self.get_buffer("scale") + self.get_buffer("offset")


class StepGraph(_Graph):
    """frame (N, 3, H, W) float32 RGB 0..255 and the state's arrays -> logits (N, K) and the next ones."""

    def forward(self, frame: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """One step of N streams."""
        logits, kept = self.network.advance(self.normalise(frame), states)
        return (logits, *kept)


class ClipGraph(_Graph):
    """clip (N, T, 3, H, W) float32 RGB 0..255 -> logits (N, K)."""

    def forward(self, clip: Tensor) -> Tensor:
        """N whole clips."""
        frames = self.normalise(clip.flatten(0, 1))
        return self.network(frames.reshape(clip.shape))  # type: ignore[no-any-return]


def step_spec(network: TemporalNetwork, height: int, width: int) -> GraphSpec:
    """Describe `StepGraph` for frames of `height` x `width` pixels."""
    states = tuple(
        StateSpec(f"state_{index}", f"state_in_{index}", f"state_out_{index}", shape)
        for index, shape in enumerate(network.state_shapes(height, width))
    )
    frame = TensorSpec("frame", ("batch", 3, height, width))
    return GraphSpec("step", (frame,), (TensorSpec("logits", ("batch", network.outputs(height, width))),), states)


def clip_spec(network: TemporalNetwork, height: int, width: int) -> GraphSpec:
    """Describe `ClipGraph` for clips of the network's own number of frames."""
    clip = TensorSpec("clip", ("batch", network.frames, 3, height, width))
    return GraphSpec("clip", (clip,), (TensorSpec("logits", ("batch", network.outputs(height, width))),))
