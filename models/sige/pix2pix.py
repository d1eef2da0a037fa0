"""The generators of pix2pix and CycleGAN: a picture from a picture.

ResNet: Zhu et al., "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks", ICCV 2017, appendix 7.2.
U-Net: Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017, appendix 6.1.
Layers and keys are those of the authors' repository `pytorch-CycleGAN-and-pix2pix`.

Plain modules: nothing here knows that a picture may be edited.
"""

from __future__ import annotations

from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from effvision.errors import InputError, ShapeError

__all__ = ["Norm", "ResNetGenerator", "ResidualBlock", "UNetGenerator", "UNetLevel"]

Norm = Literal["batch", "instance"]

_DROPOUT = 0.5  # drawn in training mode only
_WIDEST = 8  # channels of the U-Net stop growing at that multiple of its width


def _norm(kind: Norm, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.InstanceNorm2d(channels)


class ResidualBlock(nn.Module):
    """x plus two convolutions of it, mirrored at the border."""

    def __init__(self, channels: int, *, norm: Norm, dropout: bool) -> None:
        super().__init__()
        bias = norm == "instance"  # a batch norm has its own
        layers = [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=bias), _norm(norm, channels), nn.ReLU()]
        layers += [nn.Dropout(_DROPOUT)] if dropout else []
        layers += [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=bias), _norm(norm, channels)]
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return x + cast(Tensor, self.conv_block(x))


class ResNetGenerator(nn.Module):
    """Picture (N, C, H, W) -> picture (N, C_out, H, W) in -1..1, H and W rounded up to multiples of 4.

    Args:
        inputs: C.
        outputs: C of the result.
        width: `ngf` of the authors: channels at full resolution.
        blocks: Residual blocks at a quarter of it: 6 or 9 as published.
        norm: `instance` (CycleGAN) or `batch`.
        dropout: Whether the blocks have one, which shifts the numbers in their keys.

    Raises:
        InputError: a size or name that is none.
    """

    def __init__(
        self,
        inputs: int = 3,
        outputs: int = 3,
        *,
        width: int = 64,
        blocks: int = 9,
        norm: Norm = "instance",
        dropout: bool = False,
    ) -> None:
        super().__init__()
        _check_arguments(norm, inputs=inputs, outputs=outputs, width=width, blocks=blocks)
        self.inputs, self.width, self.blocks = inputs, width, blocks
        bias = norm == "instance"
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(inputs, width, 7, bias=bias)]
        layers += [_norm(norm, width), nn.ReLU()]
        for channels in (width, 2 * width):
            layers.append(nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=bias))
            layers += [_norm(norm, 2 * channels), nn.ReLU()]
        layers += [ResidualBlock(4 * width, norm=norm, dropout=dropout) for _ in range(blocks)]
        for channels in (2 * width, width):
            up = nn.ConvTranspose2d(2 * channels, channels, 3, stride=2, padding=1, output_padding=1, bias=bias)
            layers += [up, _norm(norm, channels), nn.ReLU()]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, outputs, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Draw a picture.

        Args:
            x: (N, C, H, W), values in -1..1 as published; H and W at least 5.

        Raises:
            ShapeError: not so.
        """
        if x.ndim != 4 or x.shape[1] != self.inputs or min(x.shape[2:]) < 5:
            raise ShapeError(
                f"the picture must be (N, {self.inputs}, H, W), at least 5 pixels a side; got {tuple(x.shape)}\n"
                "hint: this network mirrors at the border of maps of a quarter of the size"
            )
        return cast(Tensor, self.model(x))


class UNetLevel(nn.Module):
    """One level of a U-Net: down, what lies below, up; the result beside x itself, but at the outermost.

    Args:
        outer: Channels outside.
        inner: Channels inside.
        below: The next level; None: this is the innermost.
        norm: `batch` or `instance`.
        dropout: Whether it has one.
        inputs: Channels of the picture, at the outermost; None elsewhere.
    """

    def __init__(
        self, outer: int, inner: int, below: UNetLevel | None, *, norm: Norm, dropout: bool = False,
        inputs: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.outermost = inputs is not None
        bias = norm == "instance"
        down = nn.Conv2d(outer if inputs is None else inputs, inner, 4, stride=2, padding=1, bias=bias)
        joined = inner if below is None else 2 * inner
        up = nn.ConvTranspose2d(joined, outer, 4, stride=2, padding=1, bias=bias or self.outermost)
        # The authors' activations work in place, so they join the rectified x. A ReLU follows, which makes both the same.
        layers: list[nn.Module] = [down] if self.outermost else [nn.LeakyReLU(0.2), down]
        if below is not None:
            layers += [below] if self.outermost else [_norm(norm, inner), below]
        layers += [nn.ReLU(), up, nn.Tanh() if self.outermost else _norm(norm, outer)]
        self.model = nn.Sequential(*layers, *([nn.Dropout(_DROPOUT)] if dropout else []))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 2 C, H, W); the outermost gives (N, C_out, H, W)."""
        y = cast(Tensor, self.model(x))
        return y if self.outermost else torch.cat([x, y], dim=1)


class UNetGenerator(nn.Module):
    """Picture (N, C, H, W) -> picture (N, C_out, H, W) in -1..1.

    Args:
        inputs: C.
        outputs: C of the result.
        width: `ngf` of the authors: channels of the first level.
        levels: Halvings: 8 for pictures of 256 (`unet_256`), 7 for 128.
        norm: `batch` (pix2pix) or `instance`.
        dropout: Whether the levels of full width have one.

    Raises:
        InputError: a size or name that is none.
    """

    def __init__(
        self,
        inputs: int = 3,
        outputs: int = 3,
        *,
        width: int = 64,
        levels: int = 8,
        norm: Norm = "batch",
        dropout: bool = False,
    ) -> None:
        super().__init__()
        _check_arguments(norm, inputs=inputs, outputs=outputs, width=width, levels=levels)
        if levels < 5:
            raise InputError(f"`levels` must be 5 or more; got {levels}\nhint: published are 7 and 8")
        self.inputs, self.width, self.levels = inputs, width, levels
        widest = _WIDEST * width
        level = UNetLevel(widest, widest, None, norm=norm)
        for _ in range(levels - 5):
            level = UNetLevel(widest, widest, level, norm=norm, dropout=dropout)
        for times in (4, 2, 1):
            level = UNetLevel(times * width, 2 * times * width, level, norm=norm)
        self.model = UNetLevel(outputs, width, level, norm=norm, inputs=inputs)

    def forward(self, x: Tensor) -> Tensor:
        """Draw a picture.

        Args:
            x: (N, C, H, W), values in -1..1 as published; H and W multiples of 2^levels.

        Raises:
            ShapeError: not so.
        """
        step = 2**self.levels
        if x.ndim != 4 or x.shape[1] != self.inputs or 0 in x.shape or x.shape[2] % step or x.shape[3] % step:
            raise ShapeError(
                f"the picture must be (N, {self.inputs}, H, W), H and W multiples of {step}; got {tuple(x.shape)}\n"
                "hint: pad it, or resize it as the authors do"
            )
        return cast(Tensor, self.model(x))


def _check_arguments(norm: str, **sizes: int) -> None:
    if norm not in get_args(Norm):
        raise InputError(f"`norm` {norm!r:.60} is unknown\nhint: one of {', '.join(get_args(Norm))}")
    if min(sizes.values()) < 1:
        raise InputError(f"sizes must be above 0; got {sizes}\nhint: published networks have width 64")
