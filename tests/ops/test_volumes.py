"""Two forms of one convolution, against a loop over its 27 taps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from effvision.errors import ShapeError
from effvision.ops import volumes
from effvision.ops.volumes import convolve_planes, convolve_volume

SHAPES = [
    (1, 1, 1, (1, 1, 1)),  # one voxel: only the middle tap meets it
    (1, 3, 5, (4, 6, 2)),
    (2, 4, 3, (5, 3, 7)),  # planes of one cloud may not leak into the next
    (1, 9, 16, (12, 12, 12)),
    (3, 2, 2, (2, 1, 9)),
]


def slow(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """One tap at a time, shifted within a border of zeros."""
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1, 1, 1))
    total = torch.zeros(x.shape[0], weight.shape[0], *x.shape[2:], dtype=x.dtype)
    for i in range(3):
        for j in range(3):
            for k in range(3):
                part = padded[:, :, i : i + x.shape[2], j : j + x.shape[3], k : k + x.shape[4]]
                total += torch.einsum("oc,ncxyz->noxyz", weight[:, :, i, j, k], part)
    return total + bias.view(-1, 1, 1, 1)


def make(clouds: int, inputs: int, outputs: int, sides: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(clouds, inputs, *sides, generator=generator, dtype=torch.float64)
    weight = torch.randn(outputs, inputs, 3, 3, 3, generator=generator, dtype=torch.float64)
    return x, weight, torch.randn(outputs, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("form", [convolve_volume, convolve_planes])
@pytest.mark.parametrize(("clouds", "inputs", "outputs", "sides"), SHAPES)
def test_a_form_equals_the_slow_sum(
    form: object, clouds: int, inputs: int, outputs: int, sides: tuple[int, int, int]
) -> None:
    x, weight, bias = make(clouds, inputs, outputs, sides)
    torch.testing.assert_close(form(x, weight, bias), slow(x, weight, bias), rtol=0, atol=1e-12)  # type: ignore[operator]


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("channels", [16, 48])  # below and above the border of the rule at 32 x 32
def test_both_forms_agree_in_float32_on_both_sides_of_the_rule(channels: int, memory: torch.memory_format) -> None:
    x, weight, bias = (tensor.float() for tensor in make(1, channels, 8, (32, 32, 4)))
    x = x.contiguous(memory_format=memory)
    weight = weight / (27 * channels) ** 0.5
    torch.testing.assert_close(convolve_planes(x, weight, bias), convolve_volume(x, weight, bias), rtol=0, atol=1e-5)
    wanted = torch.nn.functional.conv3d(x, weight, bias, padding=1)
    torch.testing.assert_close(convolve_volume(x, weight, bias), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("clouds", "channels", "side", "planes"),
    [(1, 16, 32, True), (1, 20, 32, True), (1, 32, 32, False), (2, 4, 8, False)],
)
def test_the_rule_is_about_one_cloud_and_its_first_axes(
    clouds: int, channels: int, side: int, planes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[bool] = []
    monkeypatch.setattr(volumes, "convolve_planes", lambda *arguments, **options: taken.append(True))
    convolve_volume(torch.zeros(clouds, channels, side, side, 1), torch.zeros(1, channels, 3, 3, 3))
    assert bool(taken) is planes


def test_gradients_of_the_2d_form_are_those_of_the_3d_one() -> None:
    x, weight, bias = (tensor.requires_grad_() for tensor in make(1, 2, 3, (3, 2, 4)))
    assert torch.autograd.gradcheck(convolve_planes, (x, weight, bias))
    ours = torch.autograd.grad(convolve_planes(x, weight, bias).square().sum(), (x, weight, bias))
    wanted = torch.autograd.grad(
        torch.nn.functional.conv3d(x, weight, bias, padding=1).square().sum(), (x, weight, bias)
    )
    for got, other in zip(ours, wanted, strict=True):
        torch.testing.assert_close(got, other, rtol=1e-12, atol=1e-12)


def test_channels_come_out_adjacent_in_memory() -> None:
    x, weight, bias = make(1, 4, 6, (5, 5, 5))
    x = x.contiguous(memory_format=torch.channels_last_3d)
    assert convolve_volume(x, weight, bias).is_contiguous(memory_format=torch.channels_last_3d)


def test_a_weight_of_another_size_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(O, C, 3, 3, 3\).*got \(4, 3, 5, 5, 5\)"):
        convolve_volume(torch.zeros(1, 3, 4, 4, 4), torch.zeros(4, 3, 5, 5, 5))
