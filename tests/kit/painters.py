"""Small generators of pictures as plain modules, random networks, and a norm that keeps the statistics of its first input."""

from __future__ import annotations

import itertools
import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FrozenNorm", "RandomNetwork", "ResnetGenerator", "SpadeGenerator", "UnetGenerator", "freeze_norms"]


class ResnetGenerator(nn.Module):
    """pix2pix's and CycleGAN's: 7x7, two halvings, residual blocks, two doublings, 7x7; reflection padding throughout."""

    def __init__(self, width: int = 8, blocks: int = 2, norm: type[nn.Module] = nn.InstanceNorm2d) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7), norm(width), nn.ReLU(True)]
        for n in (1, 2):
            layers += [nn.Conv2d(width * n, width * 2 * n, 3, 2, 1), norm(width * 2 * n), nn.ReLU(True)]
        layers += [_Residual(width * 4, norm) for _ in range(blocks)]
        for n in (4, 2):
            layers += [nn.ConvTranspose2d(width * n, width * n // 2, 3, 2, 1, output_padding=1)]
            layers += [norm(width * n // 2), nn.ReLU(True)]
        self.layers = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class _Residual(nn.Module):
    def __init__(self, width: int, norm: type[nn.Module]) -> None:
        super().__init__()
        pad, convolve = nn.ReflectionPad2d(1), nn.Conv2d
        first = [pad, convolve(width, width, 3), norm(width), nn.ReLU(True), nn.Dropout(0.5)]
        self.layers = nn.Sequential(*first, nn.ReflectionPad2d(1), convolve(width, width, 3), norm(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class UnetGenerator(nn.Module):
    """pix2pix's U-Net: strided 4x4 convolutions down, transposed ones up, every level joined to its mirror image."""

    def __init__(self, width: int = 8, levels: int = 4, norm: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        widths = [3] + [width * min(2**n, 4) for n in range(levels)]
        self.down = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(b * (1 if n == levels - 1 else 2), a, 4, 2, 1)
            for n, (a, b) in enumerate(itertools.pairwise(widths))
        )
        self.norms = nn.ModuleList(norm(w) for w in widths[2:])
        self.back = nn.ModuleList(norm(w) for w in widths[1:-1])

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for n, layer in enumerate(self.down):
            x = layer(F.leaky_relu(x, 0.2) if n else x)
            x = self.norms[n - 1](x) if n else x
            skips.append(x)
        for n in range(len(self.up) - 1, -1, -1):
            x = self.up[n](F.relu(x))
            x = torch.cat([skips[n - 1], self.back[n - 1](x)], 1) if n else torch.tanh(x)
        return x


class _Spade(nn.Module):
    def __init__(self, labels: int, width: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.norm = norm(width, affine=False)
        self.shared = nn.Conv2d(labels, 16, 3, padding=1)
        self.gamma, self.beta = nn.Conv2d(16, width, 3, padding=1), nn.Conv2d(16, width, 3, padding=1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        labels = F.interpolate(labels, size=x.shape[2:], mode="nearest")
        hidden = F.relu(self.shared(labels))
        return self.norm(x) * (1 + self.gamma(hidden)) + self.beta(hidden)


class _SpadeBlock(nn.Module):
    def __init__(self, labels: int, before: int, after: int, norm: type[nn.Module]) -> None:
        super().__init__()
        between = min(before, after)
        self.convolve = nn.ModuleList(
            [nn.Conv2d(before, between, 3, padding=1), nn.Conv2d(between, after, 3, padding=1)]
        )
        self.norms = nn.ModuleList([_Spade(labels, before, norm), _Spade(labels, between, norm)])
        self.short = nn.Conv2d(before, after, 1, bias=False) if before != after else None
        self.short_norm = _Spade(labels, before, norm) if before != after else None

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        shortcut = x if self.short is None else self.short(self.short_norm(x, labels))
        for norm, layer in zip(self.norms, self.convolve, strict=True):
            x = layer(F.leaky_relu(norm(x, labels), 0.2))
        return shortcut + x


class SpadeGenerator(nn.Module):
    """GauGAN's in small: labels (N, K, H, W) one-hot, a head at H/2^levels, doubled after every block."""

    def __init__(
        self, labels: int = 6, width: int = 8, levels: int = 3, norm: type[nn.Module] = nn.BatchNorm2d, scale: int = 4
    ) -> None:
        super().__init__()
        widths = [width * min(2**n, scale) for n in range(levels, -1, -1)]
        self.levels = levels
        self.first = nn.Conv2d(labels, widths[0], 3, padding=1)
        self.head = _SpadeBlock(labels, widths[0], widths[0], norm)
        self.blocks = nn.ModuleList(_SpadeBlock(labels, a, b, norm) for a, b in itertools.pairwise(widths))
        self.last = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, labels: Tensor) -> Tensor:
        h, w = labels.shape[2:]
        x = self.first(F.interpolate(labels, size=(h >> self.levels, w >> self.levels)))
        x = self.head(x, labels)
        for block in self.blocks:
            x = block(F.interpolate(x, scale_factor=2), labels)
        return torch.tanh(self.last(F.leaky_relu(x, 0.2)))


class FrozenNorm(nn.Module):
    """An instance or group norm that keeps the statistics of its first input."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.groups = norm.num_groups if isinstance(norm, nn.GroupNorm) else None
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.mean: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        groups = self.groups or c
        grouped = x.reshape(n, groups, c // groups, h, w)
        if self.mean is None:
            self.mean = grouped.mean((2, 3, 4), keepdim=True)
            self.deviation = ((grouped - self.mean).square().mean((2, 3, 4), keepdim=True) + self.eps).sqrt()
        x = ((grouped - self.mean) / self.deviation).reshape(n, c, h, w)
        if self.weight is not None:
            x = x * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return x


def freeze_norms(module: nn.Module) -> nn.Module:
    """Replace the instance and group norms inside a module; the module itself is changed."""
    for name, child in module.named_children():
        if isinstance(child, (nn.InstanceNorm2d, nn.GroupNorm)):
            setattr(module, name, FrozenNorm(child))
        else:
            freeze_norms(child)
    return module


class RandomNetwork(nn.Module):
    """A network of random operations on one or two pictures, with skips; the same for the same seed.

    Args:
        seed: What it is made of.
        norms: Whether instance and group norms are among it.
        length: How many operations.
    """

    def __init__(self, seed: int, *, norms: bool = False, length: int = 9) -> None:
        super().__init__()
        self.chance = random.Random(seed)
        self.two = self.chance.random() < 0.5
        self.batch = self.chance.choice([1, 1, 2])
        self.sizes = [(self.chance.randint(18, 37), self.chance.randint(18, 37)) for _ in range(1 + self.two)]
        torch.manual_seed(seed)
        self.steps: list[tuple[str, object]] = []
        self.layers = nn.ModuleList()
        self.norms = norms
        shape, saved = (3, *self.sizes[0]), []
        for _ in range(length):
            shape = self._grow(shape, saved)
        self._add("layer", self._layer(nn.Conv2d(shape[0], 2, 3, padding=1)))
        self.double().eval()

    def inputs(self) -> tuple[Tensor, ...]:
        """Random pictures of its sizes."""
        generator = torch.Generator().manual_seed(self.chance.randrange(1 << 30))
        counts = (3, 2)[: len(self.sizes)]
        return tuple(
            torch.randn(self.batch, c, h, w, generator=generator, dtype=torch.float64)
            for c, (h, w) in zip(counts, self.sizes, strict=True)
        )

    def _add(self, kind: str, what: object) -> None:
        self.steps.append((kind, what))

    def _layer(self, layer: nn.Module) -> int:
        for name, value in layer.named_buffers():
            if name == "running_mean":
                value.normal_()
            elif name == "running_var":
                value.uniform_(0.5, 2)
        self.layers.append(layer)
        return len(self.layers) - 1

    def _grow(self, shape: tuple[int, int, int], saved: list[tuple[int, int, int]]) -> tuple[int, int, int]:
        """Add an operation that fits; return the shape after it."""
        for _ in range(50):
            layer = self._draw(shape, saved)
            if layer is None:
                return shape
            if isinstance(layer, str):
                self._add(layer, None)
                return {"half": (shape[0] // 2, *shape[1:]), "join": (shape[0] + 2, *shape[1:])}.get(layer, shape)
            with torch.no_grad():
                try:
                    after = layer.double().eval()(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:]
                except RuntimeError:
                    continue  # a window larger than the map, and the like
            if min(after[1:]) >= 6 and max(after[1:]) <= 60 and after[0] <= 24:
                self._add("layer", self._layer(layer))
                return (int(after[0]), int(after[1]), int(after[2]))
        return shape

    def _draw(self, shape: tuple[int, int, int], saved: list[tuple[int, int, int]]) -> nn.Module | str | None:
        pick, (c, h, w) = self.chance, shape
        kind = pick.randrange(15)
        if kind < 4:
            k, groups = pick.choice([1, 2, 3, 3, 4, 5]), pick.choice([1, 1, c])
            mode = pick.choice(["zeros", "zeros", "reflect", "replicate", "circular"])
            args = {
                "stride": pick.choice([1, 1, 2]),
                "padding": pick.randint(0, k - 1),
                "dilation": pick.choice([1, 1, 2]),
            }
            return nn.Conv2d(
                c, c if groups > 1 else pick.choice([4, 6, 8]), k, groups=groups, padding_mode=mode, **args
            )
        if kind == 4:
            k, stride = pick.choice([2, 3, 4]), pick.choice([1, 2, 3])
            extra = pick.randrange(stride) if stride > 1 else 0
            return nn.ConvTranspose2d(c, 4, k, stride, pick.randint(0, k - 1), extra, dilation=pick.choice([1, 1, 2]))
        if kind == 5:
            return nn.MaxPool2d(3, pick.choice([1, 2]), pick.choice([0, 1]), ceil_mode=pick.random() < 0.5)
        if kind == 6:
            ceil, count = pick.random() < 0.5, pick.random() < 0.5
            return nn.AvgPool2d(3, 2, pick.choice([0, 1]), ceil_mode=ceil, count_include_pad=count)
        if kind == 7:
            to = pick.choice([{"scale_factor": 2}, {"size": (h + 3, w + 5)}, {"size": (max(h - 5, 6), w * 2)}])
            mode = pick.choice(["nearest", "nearest-exact", "bilinear", "bilinear"])
            return nn.Upsample(mode=mode, align_corners=pick.random() < 0.5 if mode == "bilinear" else None, **to)
        if kind == 8:
            some = [nn.BatchNorm2d(c)] + [
                nn.InstanceNorm2d(c, affine=True),
                nn.GroupNorm(2 if c % 2 == 0 else 1, c),
            ] * self.norms
            return pick.choice(some)
        if kind == 9:
            pads = [pick.randint(0, 3) for _ in range(4)]
            return pick.choice(
                [nn.ReflectionPad2d(pads), nn.ReplicationPad2d(pads), nn.ConstantPad2d([-p for p in pads], 1.5)]
            )
        if kind == 10:
            return nn.PixelShuffle(2) if c % 4 == 0 else nn.PixelUnshuffle(2)
        if kind == 11:
            return pick.choice(
                [nn.ReLU(True), nn.LeakyReLU(0.2, True), nn.SiLU(), nn.Tanh(), nn.PReLU(c), nn.Softmax(1)]
            )
        if kind == 12:
            saved.append(shape)
            return "save"
        if kind == 13 and shape in saved[-1:]:
            saved.pop()
            return "add"
        if kind == 13 and c % 2 == 0:
            return "half"
        return "join" if kind == 14 and self.two else None

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        x, saved = x * 1.0, []  # a copy: the first operation may write in place
        for kind, what in self.steps:
            if kind == "layer":
                x = self.layers[what](x)
            elif kind == "save":
                saved.append(x * 1.5)
            elif kind == "add":
                x = x + saved.pop()
            elif kind == "half":
                a, b = x.chunk(2, 1)
                x = a * torch.sigmoid(b)
            else:
                x = torch.cat([x, F.interpolate(other, size=x.shape[2:])], 1)
        return x
