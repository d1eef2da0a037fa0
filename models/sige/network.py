"""The SPADE generator (GauGAN): a picture from a label map.

Park, Liu, Wang and Zhu, "Semantic Image Synthesis with Spatially-Adaptive Normalization", CVPR 2019, section 3.
Layers and keys are those of the form that Li et al. (NeurIPS 2022) publish: what several layers compute from the same labels is
one convolution. `effvision.models.sige.convert` brings the keys of the SPADE authors into this form.

Plain modules: nothing here knows that a picture may be edited.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effvision.errors import DTypeError, InputError, ShapeError

__all__ = ["Norm", "SpadeBlock", "SpadeGenerator", "SpadeNorm", "Upsampling"]

Norm = Literal["batch", "instance"]
Upsampling = Literal["normal", "more", "most"]

_DOUBLINGS: dict[str, int] = {"normal": 5, "more": 6, "most": 7}
_WIDTHS = (16, 16, 16, 16, 8, 4, 2, 1)  # channels in and out of the blocks, as multiples of `width`
_SLOPE = 0.2


class SpadeNorm(nn.Module):
    """Normalise, then scale and shift every pixel by what its labels say: equation 1 of the paper."""

    def __init__(self, channels: int, hidden: int, *, norm: Norm = "batch", kernel: int = 3) -> None:
        super().__init__()
        self.param_free_norm: nn.Module
        if norm == "batch":
            self.param_free_norm = nn.BatchNorm2d(channels, affine=False)
        else:
            self.param_free_norm = nn.InstanceNorm2d(channels, affine=False)
        self.mlp_gamma_beta = nn.Conv2d(hidden, 2 * channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """X (N, C, H, W), hidden (N, C_hidden, H, W) made of the labels -> (N, C, H, W)."""
        gamma, beta = self.mlp_gamma_beta(hidden).chunk(2, dim=1)
        return cast(Tensor, self.param_free_norm(x) * (1 + gamma) + beta)


class SpadeBlock(nn.Module):
    """Two convolutions beside a shortcut, a SPADE norm before each; the shortcut has its own where channels change.

    Args:
        inputs: C.
        outputs: C of the result.
        labels: Channels of the label map.
        hidden: Channels between the labels and each scale and shift.
        norm: What is normalised by: statistics kept in training, or the picture's own.
        kernel: Of the convolutions on the labels.
    """

    def __init__(
        self, inputs: int, outputs: int, labels: int, hidden: int, *, norm: Norm = "batch", kernel: int = 3
    ) -> None:
        super().__init__()
        self.hidden = hidden
        middle = min(inputs, outputs)
        self.conv_0 = nn.Conv2d(inputs, middle, 3, padding=1)
        self.conv_1 = nn.Conv2d(middle, outputs, 3, padding=1)
        self.norm_0 = SpadeNorm(inputs, hidden, norm=norm, kernel=kernel)
        self.norm_1 = SpadeNorm(middle, hidden, norm=norm, kernel=kernel)
        self.conv_s: nn.Conv2d | None = None
        self.norm_s: SpadeNorm | None = None
        if inputs != outputs:
            self.conv_s = nn.Conv2d(inputs, outputs, 1, bias=False)
            self.norm_s = SpadeNorm(inputs, hidden, norm=norm, kernel=kernel)
        norms = 2 if self.norm_s is None else 3
        self.mlp_shared = nn.Sequential(nn.Conv2d(labels, norms * hidden, kernel, padding=kernel // 2), nn.ReLU())

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """X (N, C, H, W) and labels (N, C_labels, any H, any W) -> (N, C_out, H, W)."""
        resized = F.interpolate(labels, size=x.shape[2:], mode="nearest")
        hidden = self.mlp_shared(resized).split(self.hidden, dim=1)
        shortcut = x
        if self.conv_s is not None and self.norm_s is not None:
            shortcut = self.conv_s(self.norm_s(x, hidden[2]))
        y = self.conv_0(F.leaky_relu(self.norm_0(x, hidden[0]), _SLOPE))
        y = self.conv_1(F.leaky_relu(self.norm_1(y, hidden[1]), _SLOPE))
        return cast(Tensor, shortcut + y)


class SpadeGenerator(nn.Module):
    """Labels (N, C, H, W) -> picture (N, 3, H, W) in -1..1, of any size.

    The first map has the picture's size divided by 2^5, 2^6 or 2^7, rounded up; each doubling has the size of the picture
    divided by one factor of 2 less. For multiples of that power these are the sizes of the published networks.

    Args:
        labels: C: channels of the label map, one for each class and, as published, one more for the edges between instances.
        width: `ngf` of the authors: channels of the last block (`most`: of the one before).
        hidden: Channels between the labels and each scale and shift. Default: twice the width (SIGE); SPADE's authors: 128.
        norm: `batch` or `instance`.
        upsampling: `normal` (5 doublings), `more` (6) or `most` (7, with one block more).
        kernel: Of the convolutions on the labels.
        noise: None: the network starts from the labels, by a convolution. A number: it starts from that many values of noise.
        first_size: Rows and columns of the first map, which a network that starts from noise has been built for.

    Raises:
        InputError: sizes or names that are none, or noise without `first_size`.
    """

    def __init__(
        self,
        labels: int,
        *,
        width: int = 64,
        hidden: int | None = None,
        norm: Norm = "batch",
        upsampling: Upsampling = "more",
        kernel: int = 3,
        noise: int | None = None,
        first_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        hidden = 2 * width if hidden is None else hidden
        _check_arguments(labels, width, hidden, norm, upsampling, kernel, noise, first_size)
        self.labels, self.width, self.norm, self.upsampling = labels, width, norm, upsampling
        self.noise, self.first_size = noise, first_size if noise is not None else None
        channels = [count * width for count in _WIDTHS]
        blocks = [SpadeBlock(a, b, labels, hidden, norm=norm, kernel=kernel) for a, b in pairwise(channels)]
        self.fc: nn.Module
        if noise is None or first_size is None:
            self.fc = nn.Conv2d(labels, channels[0], 3, padding=1)
        else:
            self.fc = nn.Linear(noise, channels[0] * first_size[0] * first_size[1])
        self.head_0, self.G_middle_0, self.G_middle_1, self.up_0, self.up_1, self.up_2, self.up_3 = blocks
        self.up_4: SpadeBlock | None = None
        if upsampling == "most":
            self.up_4 = SpadeBlock(width, width // 2, labels, hidden, norm=norm, kernel=kernel)
        self.conv_img = nn.Conv2d(width // 2 if upsampling == "most" else width, 3, 3, padding=1)

    def forward(self, labels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Draw a picture.

        Args:
            labels: (N, C, H, W), of the network's dtype: 1 in the channel of a pixel's class, 0 in the others.
            noise: (N, noise), for a network that starts from noise. Default: zeros, the mean of what it was trained with.

        Returns:
            (N, 3, H, W) in -1..1.

        Raises:
            ShapeError: not so, or a size that a network starting from noise was not built for.
            DTypeError: labels of another dtype.
            InputError: noise for a network that starts from the labels.
        """
        self._check(labels, noise)
        sizes = self._sizes(labels)
        x = self.head_0(self._first(labels, noise, sizes[0]), labels)
        blocks = [self.G_middle_0, self.G_middle_1, self.up_0, self.up_1, self.up_2, self.up_3]
        if self.up_4 is not None:
            blocks.append(self.up_4)
        if self.upsampling == "normal":  # no doubling between the two middle blocks
            sizes.insert(1, sizes[1])
        for block, size in zip(blocks, sizes[1:], strict=True):
            if x.shape[2:] != size:
                x = F.interpolate(x, size=size, mode="nearest")
            x = block(x, labels)
        return torch.tanh(self.conv_img(F.leaky_relu(x, _SLOPE)))

    def _sizes(self, labels: Tensor) -> list[tuple[int, int]]:
        """Rows and columns of the maps, from the first to the picture's."""
        steps = _DOUBLINGS[self.upsampling]
        rows, columns = labels.shape[2:]
        return [(-(-rows // 2**step), -(-columns // 2**step)) for step in range(steps, -1, -1)]

    def _first(self, labels: Tensor, noise: Tensor | None, size: tuple[int, int]) -> Tensor:
        if self.noise is None:
            return cast(Tensor, self.fc(F.interpolate(labels, size=size, mode="nearest")))
        if noise is None:
            noise = labels.new_zeros(labels.shape[0], self.noise)
        return cast(Tensor, self.fc(noise).view(labels.shape[0], -1, *size))

    def _check(self, labels: Tensor, noise: Tensor | None) -> None:
        if labels.ndim != 4 or labels.shape[1] != self.labels or 0 in labels.shape:
            raise ShapeError(
                f"`labels` must be (N, {self.labels}, H, W); got {tuple(labels.shape)}\n"
                "hint: a map of class numbers becomes one channel for each class, 1 where the class is"
            )
        if labels.dtype != self.conv_img.weight.dtype:
            raise DTypeError(
                f"`labels` is {labels.dtype} and the network {self.conv_img.weight.dtype}\n"
                "hint: labels.to(network.conv_img.weight.dtype)"
            )
        size = self._sizes(labels)[0]
        if self.norm == "instance" and size == (1, 1):
            raise ShapeError(
                f"labels of {tuple(labels.shape[2:])} pixels make a first map of one pixel, which an instance norm cannot "
                f"normalise\nhint: more than {2 ** _DOUBLINGS[self.upsampling]} pixels a side"
            )
        if self.noise is None:
            if noise is not None:
                raise InputError("this network starts from the labels and takes no noise\nhint: leave `noise` out")
        elif noise is not None and noise.shape != (labels.shape[0], self.noise):
            raise ShapeError(
                f"`noise` must be {(labels.shape[0], self.noise)}; got {tuple(noise.shape)}\nhint: one row a picture"
            )
        elif size != self.first_size:
            raise ShapeError(
                f"this network starts from noise and was built for a first map of {self.first_size}; labels of "
                f"{tuple(labels.shape[2:])} pixels need {size}\nhint: labels {2 ** _DOUBLINGS[self.upsampling]} times as large"
            )


def _check_arguments(
    labels: int, width: int, hidden: int, norm: str, upsampling: str, kernel: int, noise: int | None,
    first_size: tuple[int, int] | None,
) -> None:  # fmt: skip
    for name, value, known in (("norm", norm, get_args(Norm)), ("upsampling", upsampling, get_args(Upsampling))):
        if value not in known:
            raise InputError(f"`{name}` {value!r:.60} is unknown\nhint: one of {', '.join(known)}")
    if min(labels, width, hidden) < 1 or kernel < 1 or kernel % 2 == 0 or (noise is not None and noise < 1):
        raise InputError(
            f"sizes must be above 0 and the kernel odd; got labels={labels}, width={width}, hidden={hidden}, "
            f"kernel={kernel}, noise={noise}\nhint: published networks have width 64, hidden 128 and kernel 3"
        )
    if upsampling == "most" and width < 2:
        raise InputError("`most` halves the width once more: 1 is too narrow\nhint: give a width of 2 or more")
    if noise is not None and (first_size is None or min(first_size) < 1):
        raise InputError(
            f"a network that starts from noise needs `first_size`; got {first_size}\n"
            f"hint: rows and columns of its pictures over 2^{_DOUBLINGS[upsampling]}"
        )
