"""The frustum pipeline: what joins its three networks, against a loop over frustums and points."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from effvision.errors import ShapeError
from effvision.models.pvcnn.frustum import (
    SIZE_TEMPLATES,
    FrustumBoxes,
    FrustumEstimate,
    FrustumPVCNN,
    FrustumSegmentation,
    sample_foreground,
)

CAR = torch.tensor([[1.0, 0.0, 0.0]])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def frustums(clouds: int, number: int) -> tuple[Tensor, Tensor]:
    points = torch.randn(clouds, 4, number, generator=seeded())
    one_hot = torch.eye(3)[torch.arange(clouds) % 3]
    return points, one_hot


@pytest.mark.parametrize("members", [1, 5, 16, 17, 64])
def test_sampling_takes_object_points_equally_often_about_their_mean(members: int) -> None:
    coords = torch.randn(2, 3, 100, generator=seeded())
    objects = torch.zeros(2, 100, dtype=torch.bool)
    objects[0, torch.randperm(100, generator=seeded())[:members]] = True
    objects[1, 40:90] = True
    logits = torch.stack([torch.zeros(2, 100), objects.float() - 0.5], dim=1)
    drawn, mean = sample_foreground(coords, logits, 16, generator=seeded(1))
    for n in range(2):
        own = coords[n][:, objects[n]]
        torch.testing.assert_close(mean[n], own.mean(1), rtol=0, atol=1e-6)
        apart = (drawn[n][:, :, None] + mean[n][:, None, None] - own[:, None]).abs().amax(0)
        assert (apart.amin(1) < 1e-5).all()
        times = torch.bincount(apart.argmin(1), minlength=own.shape[1])
        assert times.sum() == 16 and times.max() - times.min() <= 1


def test_a_frustum_without_an_object_point_gives_zeros_and_leaves_the_others() -> None:
    coords = torch.randn(2, 3, 10, generator=seeded())
    logits = torch.zeros(2, 2, 10)  # equal is not more
    logits[1, 1, 3] = 1
    drawn, mean = sample_foreground(coords, logits, 4, generator=seeded())
    assert (drawn == 0).all() and (mean[0] == 0).all()
    assert torch.equal(mean[1], coords[1, :, 3])


@torch.inference_mode()
def test_the_same_seed_gives_the_same_box_and_another_seed_another(golden: Any) -> None:
    network = golden.randomise(FrustumPVCNN(width=0.125, points_per_object=8))
    points, one_hot = frustums(2, 60)
    first, again, other = (network(points, one_hot, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.centre, again.centre) and torch.equal(first.size_residuals_m, again.size_residuals_m)
    assert not torch.equal(first.centre, other.centre)
    assert torch.equal(first.mask_logits, other.mask_logits)


@torch.inference_mode()
def test_the_pipeline_is_its_networks_one_after_the_other(golden: Any) -> None:
    network = golden.randomise(FrustumPVCNN(width=0.125, points_per_object=16))
    points, one_hot = frustums(3, 50)
    estimate = network(points, one_hot, generator=seeded(5))
    logits = network.inst_seg_net(points, one_hot)
    coords, mean = sample_foreground(points[:, :3], logits, 16, generator=seeded(5))
    shift = network.center_reg_net(coords, one_hot)
    numbers = network.box_est_net(coords - shift[..., None], one_hot)
    wanted = {
        "mask_logits": logits,
        "first_centre": mean + shift,
        "centre": mean + shift + numbers[:, :3],
        "heading_scores": numbers[:, 3:15],
        "heading_residuals_rad": numbers[:, 15:27] * math.pi / 12,
        "size_scores": numbers[:, 27:35],
        "size_residuals_m": numbers[:, 35:].view(3, 8, 3) * torch.tensor(list(SIZE_TEMPLATES.values())),
    }
    for name, value in wanted.items():
        torch.testing.assert_close(getattr(estimate, name), value, rtol=0, atol=1e-5, msg=name)


@torch.inference_mode()
def test_the_box_networks_alone_see_the_points_they_are_given(golden: Any) -> None:
    network = golden.randomise(FrustumBoxes(width=0.125))
    coords, one_hot = torch.randn(2, 3, 20, generator=seeded()), frustums(2, 1)[1]
    both = network(coords, one_hot)
    assert both.shape == (2, 62)
    assert torch.equal(both[:, :3], network.center_reg_net(coords, one_hot))
    assert torch.equal(both[:, 3:], network.box_est_net(coords, one_hot))


def test_boxes_are_the_likeliest_bin_and_template_plus_their_residuals() -> None:
    templates = torch.tensor(list(SIZE_TEMPLATES.values()))
    heading, kind = torch.zeros(2, 12), torch.zeros(2, 8)
    heading[0, 3], heading[1, 11], kind[0, 0], kind[1, 5] = 1, 1, 1, 1
    estimate = FrustumEstimate(
        mask_logits=torch.zeros(2, 2, 1),
        first_centre=torch.zeros(2, 3),
        centre=torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
        heading_scores=heading,
        heading_residuals_rad=torch.full((2, 12), 0.1),
        size_scores=kind,
        size_residuals_m=torch.full((2, 8, 3), -0.25),
        templates_m=templates,
    )
    centre, size, angle = estimate.boxes()
    assert torch.equal(centre, estimate.centre)
    torch.testing.assert_close(size, templates[[0, 5]] - 0.25)
    torch.testing.assert_close(angle, torch.tensor([math.pi / 2 + 0.1, -math.pi / 6 + 0.1]))


@torch.inference_mode()
def test_the_category_matters_and_may_be_given_as_channels(golden: Any) -> None:
    network = golden.randomise(FrustumSegmentation(width=0.125))
    points, _ = frustums(1, 40)
    car, cyclist = network(points, CAR), network(points, CAR.flip(1))
    assert not torch.allclose(car, cyclist, atol=1e-3)
    joined = torch.cat([points, CAR[..., None].expand(-1, -1, 40)], dim=1)
    torch.testing.assert_close(network(joined), car, rtol=0, atol=1e-5)


def test_a_category_that_is_none_is_refused() -> None:
    network = FrustumPVCNN(width=0.125).eval()
    points, _ = frustums(2, 10)
    with pytest.raises(ShapeError, match=r"`one_hot` must be \(N, 3\) with N=2; got \(1, 3\)"):
        network(points, CAR)
    with pytest.raises(ShapeError, match="`one_hot`"):
        FrustumBoxes(width=0.125)(points[:, :3], torch.zeros(2, 4))
