"""The 2D networks TSM starts from: ResNet v1.5 and MobileNetV2, with the attribute names of their published files.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (stride on the 3x3 convolution: "v1.5").
Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.

Nothing here knows about time: `network.insert_temporal_shift` makes any of them temporal.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from effvision.errors import InputError

__all__ = ["MobileNetV2", "ResNet", "build_backbone"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-18)."""

    expansion = 1

    def __init__(self, channels_in: int, channels: int, *, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H/stride, W/stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + shortcut)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut (ResNet-50 and deeper)."""

    expansion = 4

    def __init__(self, channels_in: int, channels: int, *, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H/stride, W/stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + shortcut)  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """ResNet-18, -50 or -101. Input (N, 3, H, W) normalised RGB, output (N, K) logits."""

    depths: ClassVar = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}

    def __init__(self, depth: int, classes: int) -> None:
        super().__init__()
        block = BasicBlock if depth == 18 else Bottleneck
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels_in = 64
        for stage, count in enumerate(self.depths[depth]):
            channels, blocks = 64 * 2**stage, []
            for index in range(count):
                stride = 2 if stage and not index else 1
                out = channels * block.expansion
                shortcut = None
                if stride != 1 or channels_in != out:
                    shortcut = nn.Sequential(
                        nn.Conv2d(channels_in, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out)
                    )
                blocks.append(block(channels_in, channels, stride=stride, downsample=shortcut))
                channels_in = out
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, K)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.fc(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    """Expand (1x1), depthwise 3x3, project (1x1); with a shortcut where shape allows."""

    def __init__(self, channels_in: int, channels: int, *, stride: int, expand: int) -> None:
        super().__init__()
        hidden = channels_in * expand
        layers: list[nn.Module] = []
        if expand != 1:
            layers += [nn.Conv2d(channels_in, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(inplace=True)]
        layers += [
            nn.Conv2d(hidden, hidden, 3, stride=stride, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        ]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H/stride, W/stride)."""
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """MobileNetV2 of any width. Input (N, 3, H, W) normalised RGB, output (N, K) logits.

    `width` scales every channel count, rounded to multiples of 8; the last feature is 1280 wide, wider only for width > 1.
    """

    # expansion, channels, blocks, stride of the first (Sandler et al., table 2)
    settings = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(self, classes: int, *, width: float = 1.0) -> None:
        super().__init__()
        channels_in = _multiple_of_8(32 * width)
        features: list[nn.Module] = [_conv_bn_relu6(3, channels_in, 3, stride=2)]
        for expand, channels, count, first_stride in self.settings:
            channels = _multiple_of_8(channels * width)
            for index in range(count):
                stride = first_stride if index == 0 else 1
                features.append(InvertedResidual(channels_in, channels, stride=stride, expand=expand))
                channels_in = channels
        last = _multiple_of_8(1280 * max(1.0, width))
        features.append(_conv_bn_relu6(channels_in, last, 1, stride=1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, K)."""
        return self.classifier(self.features(x).mean(dim=(2, 3)))  # type: ignore[no-any-return]


def build_backbone(name: str, classes: int, *, width: float = 1.0) -> ResNet | MobileNetV2:
    """Build an untrained 2D network by its name.

    Args:
        name: `resnet18`, `resnet50`, `resnet101` or `mobilenetv2`.
        classes: K, outputs of the last layer.
        width: Channel multiplier, MobileNetV2 only.

    Raises:
        InputError: the name is none of these, or `width` was given for a ResNet.
    """
    if name == "mobilenetv2":
        return MobileNetV2(classes, width=width)
    depth = {"resnet18": 18, "resnet50": 50, "resnet101": 101}.get(name)
    if depth is None:
        raise InputError(f"`backbone` must be resnet18, resnet50, resnet101 or mobilenetv2; got {name!r}")
    if width != 1.0:
        raise InputError(f"`width` is for mobilenetv2 only; got width={width} with {name}")
    return ResNet(depth, classes)


def _conv_bn_relu6(channels_in: int, channels: int, kernel: int, *, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU6(inplace=True))


def _multiple_of_8(channels: float) -> int:
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
