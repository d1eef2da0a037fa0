"""The eager baselines are other programs for the same functions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from baselines.pvcnn import PlainPointNet, PlainPVCNN, RowPointNet  # noqa: E402

from effvision.models.pvcnn.network import PVCNN, PointNet, s3dis  # noqa: E402

CLASSES, WIDTH = 13, 0.25


def randomise(network: torch.nn.Module) -> torch.nn.Module:
    """Random weights, and batch normalisation that does something."""
    generator = torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5, generator=generator) if "running_var" in name else value.normal_(
                generator=generator
            )
            if value.ndim > 1:
                value.mul_((2 / value[0].numel()) ** 0.5)
    return network.eval()


def copied(source: torch.nn.Module, target: torch.nn.Module) -> torch.nn.Module:
    """Fill `target` with the weights of the same layers in the same order."""
    theirs, ours = target.state_dict(), source.state_dict()
    assert [name.rpartition(".")[2] for name in theirs] == [name.rpartition(".")[2] for name in ours]
    target.load_state_dict({name: v.view(theirs[name].shape) for name, v in zip(theirs, ours.values(), strict=True)})
    return target.eval()


@pytest.fixture(scope="module")
def network() -> PVCNN:
    made = s3dis(CLASSES, width=WIDTH)
    randomise(made)
    return made


def points(clouds: int, number: int) -> torch.Tensor:
    return torch.rand(clouds, 9, number, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@torch.inference_mode()
def test_baseline_gives_our_logits(network: PVCNN) -> None:
    baseline = copied(network, PlainPVCNN(CLASSES, width=WIDTH)).double()
    x = points(2, 300)
    x[:, :3, 100:150] = x[:, :3, :1]  # a crowded voxel
    ours = network.double()(x)
    network.float()
    torch.testing.assert_close(baseline(x), ours, rtol=0, atol=1e-9 * float(ours.abs().max()))


@torch.inference_mode()
def test_both_forms_of_the_full_pointnet_give_ours() -> None:
    ours = randomise(PointNet(CLASSES)).double()
    x = points(2, 100)
    wanted = ours(x)
    for form in (PlainPointNet, RowPointNet):
        torch.testing.assert_close(
            copied(ours, form(CLASSES)).double()(x), wanted, rtol=0, atol=1e-9 * float(wanted.abs().max())
        )


def test_all_do_the_multiply_adds_of_the_paper_s_networks_and_ours_leaves_out_what_is_empty(network: PVCNN) -> None:
    from _machine import count_multiply_adds

    x = torch.rand(1, 9, 4096)
    baseline = copied(network, PlainPVCNN(CLASSES, width=WIDTH))
    grids = (9 * 16 + 16 * 16) * 27 * 32**3 + (4 * 16 * 16 + 16 * 32 + 32 * 32) * 27 * 16**3
    each = 9 * 16 + 2 * 16 * 16 + 16 * 32 + 32 * 256 + 368 * 128 + 128 * 64 + 64 * CLASSES
    counted = count_multiply_adds(baseline, lambda: baseline(x))
    assert counted == grids + each * 4096 + 256 * 64 + 64 * 32
    assert each * 4096 < count_multiply_adds(network, lambda: network(x)) < counted
    each = 9 * 64 + 2 * 64 * 64 + 64 * 128 + 128 * 1024 + 1152 * 512 + 512 * 256 + 256 * CLASSES
    for form in (PlainPointNet, RowPointNet):
        pointnet = form(CLASSES).eval()
        found = count_multiply_adds(pointnet, lambda pointnet=pointnet: pointnet(x))
        assert found == each * 4096 + 1024 * 256 + 256 * 128
