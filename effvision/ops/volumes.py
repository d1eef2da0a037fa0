"""3x3x3 convolution of small volumes, in the form that is fastest for their shape.

Measured with PyTorch 2.13 on a CPU, one thread, channels adjacent in memory (GFLOP/s; `torch.mm` 1024x1024 reaches 100):

    clouds  channels  voxels   conv3d  one conv2d
    1        9 -> 16  32^3         18          98
    1       16 -> 16  32^3          9         104
    1       32 -> 32  16^3         35         117
    1       64 -> 64  16^3         50         116
    1       64 -> 64  12^3         53         122
    1      128 -> 128  8^3         69         123
    1       32 -> 32  32^3        113         102
    1       64 -> 64  32^3        117         110
    1      128 -> 128 16^3        127         118
    2       16 -> 16  32^3        110          72
    2       64 -> 64  16^3        128         112

The jump has a simple cause: PyTorch hands a convolution of one item with C*X*Y <= 20480 to a plain loop, and everything
else to oneDNN. A 2D convolution whose batch is the depth is never one item, so it does not fall through.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from effvision.errors import ShapeError

__all__ = ["convolve_planes", "convolve_volume", "plane_taps"]

_SLOW_BELOW = 20_480  # C*X*Y of one item


def convolve_volume(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, taps: Tensor | None = None) -> Tensor:
    """Convolve with 3x3x3, stride 1, zero padding 1: the numbers of `conv3d`, in whichever form is faster here.

    Args:
        x: (N, C, X, Y, Z), fastest with the channels adjacent in memory (`torch.channels_last_3d`).
        weight: (O, C, 3, 3, 3).
        bias: (O,) or None.
        taps: `plane_taps(weight)`, where many volumes go through the same weight.

    Returns:
        (N, O, X, Y, Z); the two forms differ by rounding only. Gradients flow to all three.

    Raises:
        ShapeError: the weight is not (O, C, 3, 3, 3) for these channels.
    """
    if x.ndim != 5 or weight.shape[1:] != (x.shape[1], 3, 3, 3):
        raise ShapeError(
            f"`weight` must be (O, C, 3, 3, 3) for `x` (N, C, X, Y, Z); got {tuple(weight.shape)} for {tuple(x.shape)}"
        )
    if x.device.type == "cpu" and x.shape[0] == 1 and x[0, :, :, :, 0].numel() <= _SLOW_BELOW:
        return convolve_planes(x, weight, bias, taps=taps)
    return F.conv3d(x, weight, bias, padding=1)


def plane_taps(weight: Tensor) -> Tensor:
    """Weight (O, C, 3, 3, 3) -> that of the 2D convolution, (O, 3C, 3, 3), depth before channel, channels adjacent."""
    taps = weight.transpose(1, 2).reshape(weight.shape[0], 3 * weight.shape[1], 3, 3)
    return taps.contiguous(memory_format=torch.channels_last)


def convolve_planes(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, taps: Tensor | None = None) -> Tensor:
    """Convolve with 3x3x3 as one 2D convolution over all planes, each stacked with the planes before and after it.

    sum over i, j, k of w[i, j, k] x[. + i, . + j, . + k] is a 2D convolution of 3C channels, the depth being the batch.

    Args:
        x: (N, C, X, Y, Z).
        weight: (O, C, 3, 3, 3).
        bias: (O,) or None.
        taps: As in `convolve_volume`.

    Returns:
        (N, O, X, Y, Z), channels adjacent in memory.
    """
    clouds, channels, depth, height, width = x.shape
    rows = F.pad(x.permute(0, 2, 3, 4, 1), (0, 0, 0, 0, 0, 0, 1, 1))  # (N, X + 2, Y, Z, C)
    planes = torch.cat([rows[:, :-2], rows[:, 1:-1], rows[:, 2:]], dim=-1)
    planes = planes.reshape(clouds * depth, height, width, 3 * channels).permute(0, 3, 1, 2)
    found = F.conv2d(planes, plane_taps(weight) if taps is None else taps, bias, padding=1)
    return found.permute(0, 2, 3, 1).reshape(clouds, depth, height, width, -1).permute(0, 4, 1, 2, 3)
