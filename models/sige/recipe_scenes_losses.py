"""What the generator of scenes is trained with: distances of pictures, and a judge of patches that sees only altered ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["PatchJudge", "altered", "feature_distance", "judge_loss", "maker_loss", "picture_distance"]


def picture_distance(given: Tensor, wanted: Tensor, *, gradients: float = 1.0, levels: int = 3) -> Tensor:
    """Mean absolute difference of pictures (N, 3, H, W) and, at sizes 1, 1/2, 1/4, of their slopes along rows and columns.

    Slopes are what makes a texture: a blurred picture is close to the wanted one in colour and far from it in slopes.
    """
    loss = (given - wanted).abs().mean()
    difference = given - wanted  # everything below is linear, so that one pyramid is enough
    for level in range(levels):
        if level:
            difference = F.avg_pool2d(difference, 2)
        rows = (difference[:, :, 1:] - difference[:, :, :-1]).abs().mean()
        columns = (difference[:, :, :, 1:] - difference[:, :, :, :-1]).abs().mean()
        loss = loss + gradients / levels * (rows + columns)
        if level:
            loss = loss + difference.abs().mean() / levels
    return loss


class PatchJudge(nn.Module):
    """Says of every patch of a picture whether it is a rendered one (above 0) or the generator's, knowing the labels.

    Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017, section 3.2.2; spectral norms
    (Miyato et al., ICLR 2018). A patch is 46 pixels wide.

    Args:
        channels: Channels of the labels with the guide.
        width: Channels of the first layer.
    """

    def __init__(self, channels: int, width: int = 32) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.spectral_norm
        widths = (channels + 3, width, 2 * width, 4 * width)
        self.layers = nn.ModuleList(norm(nn.Conv2d(a, b, 4, stride=2, padding=1)) for a, b in pairwise(widths))
        self.verdict = norm(nn.Conv2d(widths[-1], 1, 4, padding=1))

    def forward(self, picture: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Judge pictures (N, 3, H, W) of labels (N, C, H, W): verdicts (N, 1, h, w) and the features of each layer."""
        x, features = torch.cat([picture, labels], dim=1), []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return cast(Tensor, self.verdict(x)), features


def altered(pictures: Sequence[Tensor], labels: Tensor, generator: torch.Generator) -> tuple[list[Tensor], Tensor]:
    """Move, cut out and recolour pictures alike, and their labels where they lie, differentiably.

    Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training", NeurIPS 2020: the judge sees no
    picture unaltered, so that it cannot learn the few there are by heart.

    Args:
        pictures: Each (N, 3, H, W).
        labels: (N, C, H, W).
        generator: On the CPU; everything random.
    """
    count, _, height, width = labels.shape
    like = labels.new_zeros(())
    light, colour, contrast = (torch.rand(3, count, 1, 1, 1, generator=generator) - 0.5).to(like).unbind(0)
    down, right = (int(torch.randint(-side // 8, side // 8 + 1, (1,), generator=generator)) for side in (height, width))
    top, left = (int(torch.randint(0, side, (1,), generator=generator)) for side in (height, width))
    hole = torch.ones(1, 1, height, width).to(like)
    hole[:, :, max(0, top - height // 8) : top + height // 8, max(0, left - width // 8) : left + width // 8] = 0

    def moved(x: Tensor) -> Tensor:
        padded = F.pad(x, (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0)))
        return padded[:, :, max(-down, 0) :, max(-right, 0) :][:, :, :height, :width]

    def recoloured(x: Tensor) -> Tensor:
        x = x + 0.6 * light
        grey = x.mean(1, keepdim=True)
        x = grey + (x - grey) * (1 + 1.2 * colour)
        mean = x.mean((1, 2, 3), keepdim=True)
        return mean + (x - mean) * (1 + 0.8 * contrast)

    return [moved(recoloured(picture)) * hole for picture in pictures], moved(labels) * hole


def judge_loss(real: Tensor, made: Tensor) -> Tensor:
    """Hinge loss of the judge's verdicts on rendered and on generated pictures."""
    return F.relu(1 - real).mean() + F.relu(1 + made).mean()


def maker_loss(made: Tensor) -> Tensor:
    """Hinge loss of the generator."""
    return -made.mean()


def feature_distance(given: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference of the judge's features, over its layers (Wang et al., "pix2pixHD", CVPR 2018, section 3.2)."""
    apart = [(one - other.detach()).abs().mean() for one, other in zip(given, wanted, strict=True)]
    return torch.stack(apart).mean()
