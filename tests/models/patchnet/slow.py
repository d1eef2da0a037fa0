"""PatchNet as it is published, slow: dense 5x5 sums, grouped convolutions, unfolded pools; nothing of the network's code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["checkpoint", "grouped", "patch_aggregate", "patch_net", "shaken"]

KINDS = (
    "feature_layer.freq_coeff",
    "conv2.weight",
    "conv3.weight",
    "conv4.weight",
    "conv3reg.weight",
    "conv4reg.weight",
)


def shaken(network: nn.Module, *, seed: int = 0, by: float = 0.15) -> nn.Module:
    """Move every number of a network away from its start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * by)
    return network.eval()


# -- the authors' tensors ------------------------------------------------------------------------------------------------


def children(half: int) -> Iterator[tuple[int, int, int, int]]:
    """Parent, child among all, and the row and column of the child's only tap: all patches of a grid, in fours."""
    for i in range(half):
        for j in range(half):
            for a in (0, 1):
                for b in (0, 1):
                    yield i * half + j, (2 * i + a) * 2 * half + 2 * j + b, 4 * a, 4 * b


def checkpoint(network: nn.Module) -> dict[str, Tensor]:
    """Lay the numbers of a compact PatchNet out as the authors' state dict; gradients flow back."""
    own = dict(network.named_parameters())
    state = {
        "feature_layer.freq_coeff": own["frequencies"],
        "conv2.weight": _sums(own["taps2"], 4),
        "conv3.weight": _sums(own["taps3"], 2),
        "conv4.weight": _sums(own["taps4"], 1),
        "conv3reg.weight": _edge_sums(own["edges3"], 2),
        "conv4reg.weight": _edge_sums(own["edges4"], 1),
    }
    for pool in ("pool2", "pool3"):
        state[f"{pool}.offset_addi"] = own[f"{pool}.moves"][:, :, None, None]
        state[f"{pool}.alpha"] = own[f"{pool}.sharpness"]
    return state


def _sums(taps: Tensor, half: int) -> Tensor:
    dense = taps.new_zeros(half * half, 4 * half * half, 5, 5)
    for parent, child, row, column in children(half):
        dense[parent, child, row, column] = taps[parent, row // 4 * 2 + column // 4]
    return dense


def _edge_sums(edges: Tensor, half: int) -> Tensor:
    dense = edges.new_zeros(4 * half * half, 16 * half * half, 5, 5)
    for parent, child, row, column in children(half):
        which = row // 4 * 2 + column // 4
        for axis in (0, 1):  # ymin and ymax, then xmin and xmax
            for edge in (0, 1):
                for below in (0, 1):
                    place = (4 * parent + 2 * axis + edge, 4 * child + 2 * axis + below, row, column)
                    dense[place] = edges[parent, axis, edge, which, below]
    return dense


def _quarters(side: int) -> list[int]:
    """Places of a grid, quarter by quarter, and each quarter so again: where each comes from."""
    bits = side.bit_length() - 1

    def key(place: int) -> list[int]:
        y, x = divmod(place, side)
        return [number >> bit & 1 for bit in range(bits - 1, -1, -1) for number in (y, x)]

    return sorted(range(side * side), key=key)


def grouped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn a checkpoint of PatchNet into one of PatchNetG: both axes of conv2 by quarters, and of each row its own group."""
    tiled = state["conv2.weight"][_quarters(4)][:, _quarters(8)]
    own = torch.stack([tiled[group, 4 * group : 4 * group + 4] for group in range(16)])
    return {**state, "conv2.weight": own}


# -- the authors' functions ----------------------------------------------------------------------------------------------


def patch_net(
    state: Mapping[str, Tensor], template: Tensor, search: Tensor, *, zero_mean: bool = False, by_groups: bool = False
) -> tuple[Tensor, Tensor]:
    """Response (M, 7, 7) and offsets (M, 4, 7, 7) of the published network, one object at a time."""
    found = [_one(state, z, x, zero_mean, by_groups) for z, x in zip(template.split(1), search.split(1), strict=True)]
    return torch.cat([one[0] for one in found])[:, 0], torch.cat([one[1] for one in found])


def _one(
    state: Mapping[str, Tensor], template: Tensor, search: Tensor, zero_mean: bool, by_groups: bool
) -> tuple[Tensor, Tensor]:
    if zero_mean:
        mean = template.mean((2, 3), keepdim=True)
        template, search = template - mean, search - mean
    spectrum = torch.fft.rfft2(_patches(template), norm="ortho")
    weight = state["feature_layer.freq_coeff"]
    spectrum = torch.complex(spectrum.real * weight[..., 0], spectrum.imag * weight[..., 1])
    filters = torch.fft.irfft2(spectrum, s=(8, 8), norm="ortho")
    maps = _matched(search, filters, stride=2) * 1e-2
    if by_groups:
        maps = functional.conv2d(maps[:, _quarters(8)], state["conv2.weight"], groups=16)
        score = torch.empty_like(maps)
        score[:, _quarters(4)] = maps
    else:
        score = functional.conv2d(maps, state["conv2.weight"])
    offsets = torch.zeros_like(score).repeat(1, 4, 1, 1)
    for level in ("2", "3"):
        score, offsets = _pool(score, offsets, state[f"pool{level}.offset_addi"], state[f"pool{level}.alpha"])
        following = int(level) + 1
        score = functional.conv2d(score, state[f"conv{following}.weight"])
        offsets = functional.conv2d(offsets, state[f"conv{following}reg.weight"])
    return score, offsets


def patch_aggregate(template: Tensor, search: Tensor, weights: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Response (M, 7, 7) of the hand-set network, one object at a time."""
    found = []
    for z, x in zip(template.split(1), search.split(1), strict=True):
        mean = z.mean((2, 3), keepdim=True)
        filters = _patches(z - mean)
        filters = filters / (filters.flatten(1).norm(dim=1).mean() + 1e-6)
        level = functional.max_pool2d(_matched(x - mean, filters, stride=1), 2)
        for number, weight in enumerate(weights):
            level = functional.conv2d(functional.max_pool2d(level, 2) if number else level, weight)
        found.append(level[:, 0])
    return torch.cat(found)


def _patches(template: Tensor) -> Tensor:
    """(1, 3, 64, 64) -> (64, 3, 8, 8), row by row."""
    return torch.cat([template[:, :, y : y + 8, x : x + 8] for y in range(0, 64, 8) for x in range(0, 64, 8)])


def _matched(search: Tensor, filters: Tensor, *, stride: int) -> Tensor:
    energy = functional.conv2d(search * search, torch.ones_like(filters), stride=stride)
    energy = energy + (energy.std() / 10 + 1e-9)
    return functional.conv2d(search, filters, stride=stride) / energy.sqrt().detach()


def _pool(score: Tensor, offsets: Tensor, moves: Tensor, sharpness: Tensor) -> tuple[Tensor, Tensor]:
    _, channels, height, width = score.shape
    size = (height // 2, width // 2)
    four = functional.unfold(score, 2, stride=2).view(1, channels, 1, 4, *size)
    share = torch.softmax(four.detach() * sharpness, dim=3)
    moved = functional.unfold(offsets, 2, stride=2).view(1, channels, 4, 4, *size) + moves.view(1, 1, 4, 4, 1, 1)
    return four.amax(3)[:, :, 0], (share * moved).sum(3).flatten(1, 2)
