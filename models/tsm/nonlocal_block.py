"""Non-local block, embedded Gaussian form with sub-sampled keys.

Wang et al., "Non-local Neural Networks", CVPR 2018, section 3.2 and equation 6, as TSM-NL uses it.
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["NonLocalBlock"]


class NonLocalBlock(nn.Module):
    """x + W(softmax(theta(x) phi(x)) g(x)) over all positions of a clip; keys and values at half resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        pool = nn.MaxPool3d((1, 2, 2))
        self.g = nn.Sequential(nn.Conv3d(channels, inner, 1), pool)
        self.W = nn.Sequential(nn.Conv3d(inner, channels, 1), nn.BatchNorm3d(channels))
        self.theta = nn.Conv3d(channels, inner, 1)
        self.phi = nn.Sequential(nn.Conv3d(channels, inner, 1), pool)

    def forward(self, x: Tensor, *, frames: int) -> Tensor:
        """(N*T, C, H, W) -> the same shape, every position mixed with the whole clip of T = `frames`."""
        clip = x.reshape(-1, frames, *x.shape[1:]).transpose(1, 2)  # (N, C, T, H, W)
        values = self.g(clip).flatten(2).transpose(1, 2)  # (N, T*H*W/4, C/2)
        queries = self.theta(clip).flatten(2).transpose(1, 2)  # (N, T*H*W, C/2)
        keys = self.phi(clip).flatten(2)  # (N, C/2, T*H*W/4)
        weights = (queries @ keys).softmax(dim=-1)
        mixed = (weights @ values).transpose(1, 2).reshape(values.shape[0], -1, *clip.shape[2:])  # (N, C/2, T, H, W)
        return (self.W(mixed) + clip).transpose(1, 2).flatten(0, 1)  # type: ignore[no-any-return]
