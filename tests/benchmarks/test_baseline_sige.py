"""The eager baseline of GauGAN is another program for the same function; what the script makes of labels."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import sige  # noqa: E402

from effvision.models.sige.network import SpadeGenerator  # noqa: E402


@torch.inference_mode()
def test_baseline_draws_our_picture_with_our_multiply_adds() -> None:
    from _machine import count_multiply_adds

    generator = torch.Generator().manual_seed(0)
    ours = SpadeGenerator(5, width=2).eval()
    for name, value in ours.state_dict().items():
        if "running_var" in name:
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.is_floating_point():
            value.normal_(generator=generator)
            if value.ndim > 1:
                value.mul_((1.5 / value[0].numel()) ** 0.5)
    baseline = sige.plain(ours, torch.contiguous_format).double()
    ours.double()
    labels = torch.rand(2, 5, 64, 128, generator=generator, dtype=torch.float64)
    wanted = ours(labels)
    assert wanted.std() > 1e-3
    torch.testing.assert_close(baseline(labels), wanted, rtol=0, atol=1e-12)
    counts = [count_multiply_adds(network, lambda network=network: network(labels)) for network in (ours, baseline)]
    assert counts[0] == counts[1] > 1e7


def test_label_maps_become_one_channel_a_class_and_the_edges_between_instances() -> None:
    rng = np.random.default_rng(0)
    labels, instances = rng.integers(0, 35, (6, 9)), rng.integers(0, 2, (6, 9))
    made = sige.network_input(labels, instances)[0].numpy()
    assert made.shape == (36, 6, 9)
    for row in range(6):
        for column in range(9):
            assert made[:35, row, column].nonzero()[0].tolist() == [labels[row, column]]
            around = [
                instances[row + a, column + b]
                for a, b in ((0, 1), (1, 0), (0, -1), (-1, 0))
                if 0 <= row + a < 6 and 0 <= column + b < 9
            ]
            assert made[35, row, column] == any(one != instances[row, column] for one in around)


@pytest.mark.parametrize("share", [0.0, 0.012, 0.05, 0.5, 1.0])
def test_a_rectangle_of_other_labels_has_the_size_asked_for(share: float) -> None:
    labels, instances = sige.generated_street(256)
    before = sige.network_input(labels, instances)
    changed = (sige.other_labels(labels, instances, share) != before).any(1)[0]
    assert float(changed.float().mean()) == pytest.approx(share, abs=0.002)
    rows, columns = (changed.any(axis).sum() for axis in (1, 0))
    assert changed.sum() == rows * columns


def test_psnr_is_of_pictures_between_minus_one_and_one() -> None:
    picture = torch.zeros(1, 3, 4, 4)
    assert sige.psnr(picture + 0.2, picture) == pytest.approx(20.0)
    assert sige.psnr(picture, picture) == float("inf")


@pytest.mark.parametrize("side", [64, 256])
def test_the_generated_mask_is_scattered_and_as_full_as_the_published_one(side: int) -> None:
    mask = sige.scattered(None, side)
    assert mask.shape == (side, side) and 0.15 < mask.mean() < 0.2
    assert mask.any(1).mean() * mask.any(0).mean() > 0.5
