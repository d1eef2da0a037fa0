"""Temporal shift: channels move along time, at no multiply-add.

Lin, Gan and Han, "TSM: Temporal Shift Module for Efficient Video Understanding", ICCV 2019, sections 3.2 (offline,
bidirectional), 3.3 (residual shift) and 3.4 (online, unidirectional).

Everything is slice and concatenate: the reference's slice assignment becomes ScatterND in ONNX.
"""

from __future__ import annotations

import torch
from torch import Tensor

from effvision.errors import ShapeError

__all__ = ["causal_shift", "stream_shift", "temporal_pool", "temporal_shift"]


def temporal_shift(x: Tensor, *, frames: int, fold: int = 8) -> Tensor:
    """Take one fold of channels from the next frame and one from the previous; zeros at both ends.

    ICCV 2019, section 3.2 (offline, bidirectional). Channels 0..C//fold come from frame t+1, channels C//fold..2*(C//fold)
    from frame t-1, the rest stay.

    Args:
        x: Features (N*T, C, H, W), any dtype, the frames of one clip adjacent.
        frames: T, frames per clip. Must divide N*T.
        fold: 1/fold of the channels moves each way: C // fold channels, rounded down.

    Returns:
        A new tensor (N*T, C, H, W), dtype and device of `x`.

    Raises:
        ShapeError: `x` is not 4-D, `frames` does not divide its first axis, or `fold` < 2.
    """
    clip = _as_clip(x, frames, fold)  # (N, T, C, H, W)
    moved = x.shape[1] // fold
    ahead, behind, rest = clip[:, :, :moved], clip[:, :, moved : 2 * moved], clip[:, :, 2 * moved :]
    zeros = torch.zeros_like(ahead[:, :1])
    ahead = torch.cat([ahead[:, 1:], zeros], dim=1)
    behind = torch.cat([zeros, behind[:, :-1]], dim=1)
    return torch.cat([ahead, behind, rest], dim=2).flatten(0, 1)


def causal_shift(x: Tensor, *, frames: int, fold: int = 8) -> Tensor:
    """Take one fold of channels from the previous frame; zeros at the first.

    ICCV 2019, section 3.4 (online, unidirectional), for a whole clip: the same numbers as `stream_shift` frame by frame
    from a state of zeros.

    Args:
        x: Features (N*T, C, H, W), any dtype, the frames of one clip adjacent.
        frames: T, frames per clip. Must divide N*T.
        fold: Channels 0..C//fold come from the frame before.

    Returns:
        A new tensor (N*T, C, H, W), dtype and device of `x`.

    Raises:
        ShapeError: `x` is not 4-D, `frames` does not divide its first axis, or `fold` < 2.
    """
    clip = _as_clip(x, frames, fold)  # (N, T, C, H, W)
    moved = x.shape[1] // fold
    behind, rest = clip[:, :, :moved], clip[:, :, moved:]
    behind = torch.cat([torch.zeros_like(behind[:, :1]), behind[:, :-1]], dim=1)
    return torch.cat([behind, rest], dim=2).flatten(0, 1)


def stream_shift(x: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """Exchange the first channels of this frame for those held from the frame before.

    ICCV 2019, section 3.4 and figure 5: what one step of a live stream does.

    Args:
        x: Features of the current frame (N, C, H, W).
        held: The same channels of the frame before (N, C', H, W), C' <= C; zeros for a first frame.

    Returns:
        The shifted features (N, C, H, W), and the channels to hold for the next frame (N, C', H, W). Both are new.

    Raises:
        ShapeError: the two do not fit each other.
    """
    moved = held.shape[1]
    if (
        x.ndim != 4
        or held.ndim != 4
        or x.shape[0] != held.shape[0]
        or x.shape[2:] != held.shape[2:]
        or moved > x.shape[1]
    ):
        raise ShapeError(
            f"`held` must be (N, C' <= C, H, W) for `x` (N, C, H, W); got x {tuple(x.shape)}, held {tuple(held.shape)}"
        )
    # clone: a slice would keep the whole feature map of this frame alive until the next one
    return torch.cat([held, x[:, moved:]], dim=1), x[:, :moved].clone()


def temporal_pool(x: Tensor, *, frames: int) -> Tensor:
    """Halve the frame rate by a maximum over three neighbouring frames, stride two.

    The temporal pooling of the reference's Something-Something variants ("TSM", ICCV 2019, supplementary).

    Args:
        x: Features (N*T, C, H, W), the frames of one clip adjacent.
        frames: T, frames per clip.

    Returns:
        A new tensor (N*ceil(T/2), C, H, W).

    Raises:
        ShapeError: `x` is not 4-D or `frames` does not divide its first axis.
    """
    clip = _as_clip(x, frames, 2)
    n, t, c, h, w = clip.shape
    rows = clip.permute(0, 2, 1, 3, 4).reshape(n, c, t, h * w)  # time is one of two pooled axes: window (3, 1)
    pooled = torch.nn.functional.max_pool2d(rows, (3, 1), stride=(2, 1), padding=(1, 0))
    return pooled.reshape(n, c, -1, h, w).permute(0, 2, 1, 3, 4).flatten(0, 1)


def _as_clip(x: Tensor, frames: int, fold: int) -> Tensor:
    if x.ndim != 4:
        raise ShapeError(f"`x` must be (N*T, C, H, W); got {tuple(x.shape)}")
    if fold < 2:
        raise ShapeError(f"`fold` must be 2 or more (two folds leave their place); got {fold}")
    if frames < 1 or x.shape[0] % frames:
        raise ShapeError(
            f"`x` must be (N*T, C, H, W) with T={frames}; got {tuple(x.shape)}: {x.shape[0]} is not a multiple of {frames}"
        )
    return x.reshape(-1, frames, *x.shape[1:])
