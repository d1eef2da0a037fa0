"""What PVCNN networks promise besides the published numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from effvision.errors import InputError, RangeError, ShapeError
from effvision.models.pvcnn import layers as layers_module
from effvision.models.pvcnn.frustum import FrustumSegmentation
from effvision.models.pvcnn.fusing import fuse
from effvision.models.pvcnn.layers import CloudPlace, Pointwise, PVConv
from effvision.models.pvcnn.network import PVCNN, PVCNN2, PointNet, s3dis, shapenet
from effvision.models.pvcnn.stages import Stage
from effvision.ops.voxels import plan_voxels

NETWORKS: dict[str, tuple[Any, int, int]] = {  # what builds it, input channels, classes
    "s3dis": (lambda: s3dis(width=0.125), 9, 13),
    "shapenet": (lambda: shapenet(width=0.125), 22, 50),
    "s3dis++": (lambda: PVCNN2(13, width=0.25), 9, 13),
    "pointnet": (lambda: PointNet(13, width=0.125), 9, 13),
    "own": (lambda: PVCNN(4, channels=5, stages=[Stage(8, 1, 6), Stage(16, 2, None)], cloud=(8,), head=(8,)), 5, 4),
    "frustum": (lambda: FrustumSegmentation(width=0.125), 7, 2),
}


def points(clouds: int, channels: int, number: int, seed: int = 0) -> Tensor:
    made = torch.rand(clouds, channels, number, generator=torch.Generator().manual_seed(seed))
    made[:, :3] = made[:, :3] * 2 - 1
    if channels == 7:
        made[:, 4:] = torch.tensor([0.0, 1.0, 0.0])[:, None]  # the same category at every point
    return made


def close(got: Tensor, wanted: Tensor) -> None:
    """Within 1e-5 of the largest logit: float32 sums in another order."""
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5 * max(1.0, float(wanted.abs().max())))


@pytest.fixture(params=NETWORKS)
def case(request: pytest.FixtureRequest, golden: Any) -> tuple[nn.Module, int, int]:
    build, channels, classes = NETWORKS[request.param]
    return golden.randomise(build()), channels, classes


@torch.inference_mode()
def test_every_point_gets_a_logit_for_every_class(case: tuple[nn.Module, int, int]) -> None:
    network, channels, classes = case
    for clouds, number in ((1, 1), (2, 3), (3, 50)):
        logits = network(points(clouds, channels, number))
        assert logits.shape == (clouds, classes, number) and logits.isfinite().all()


@torch.inference_mode()
def test_clouds_of_a_batch_do_not_see_each_other(case: tuple[nn.Module, int, int]) -> None:
    network, channels, _ = case
    batch = points(3, channels, 80)
    batch[1] *= 0.3  # cut-out grids of other sizes
    if channels == 7:
        batch[1, 4:] = points(1, 7, 80)[0, 4:]
    together = network(batch)
    for n in range(3):
        close(network(batch[n : n + 1]), together[n : n + 1])


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "s3dis++"])  # which samples in the cloud's order
@torch.inference_mode()
def test_the_order_of_the_points_does_not_matter(name: str, golden: Any) -> None:
    build, channels, _ = NETWORKS[name]
    network = golden.randomise(build())
    x, order = points(1, channels, 120), torch.randperm(120, generator=torch.Generator().manual_seed(1))
    close(network(x[:, :, order]), network(x)[:, :, order])


@torch.inference_mode()
def test_points_that_all_lie_in_one_place_give_finite_logits(case: tuple[nn.Module, int, int]) -> None:
    network, channels, _ = case
    x = points(1, channels, 1).expand(1, channels, 20)
    logits = network(x)
    assert logits.isfinite().all()
    close(logits, network(x[:, :, :1]).expand_as(logits))


@torch.inference_mode()
def test_a_fused_network_gives_the_same_logits_and_leaves_the_original_alone(case: tuple[nn.Module, int, int]) -> None:
    network, channels, _ = case
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fused = fuse(network)
    x = points(2, channels, 70)
    close(fused(x), network(x))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(isinstance(module, (nn.BatchNorm1d, nn.BatchNorm3d)) for module in fused.modules())


def test_a_network_in_training_cannot_be_fused() -> None:
    with pytest.raises(InputError, match=r"fuse\(network.eval\(\)\)"):
        fuse(s3dis(width=0.125).train())


def test_training_moves_every_parameter_and_statistic(case: tuple[nn.Module, int, int]) -> None:
    network, channels, classes = case
    network.train()
    torch.manual_seed(0)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    labels = torch.randint(classes, (4, 90), generator=torch.Generator().manual_seed(2))
    nn.functional.cross_entropy(network(points(4, channels, 90)), labels).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    optimiser.step()
    still = [name for name, value in network.state_dict().items() if torch.equal(value, before[name])]
    ahead_of_norm = [name for name in still if name.endswith("bias") or ".fc." in name]  # a mean is taken away after it
    assert set(still) <= set(ahead_of_norm)


def test_statistics_in_training_look_at_the_whole_grid_and_eval_cuts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int | None] = []

    def watched(*arguments: Any, margin: int | None) -> Any:
        seen.append(margin)
        return plan_voxels(*arguments, margin=margin)

    monkeypatch.setattr(layers_module, "plan_voxels", watched)
    for network, wanted in ((s3dis(width=0.125), 1), (shapenet(width=0.125), None)):
        channels = network.channels + network.categories
        network.train()(points(2, channels, 30))
        assert set(seen) == {None} and len(seen) == 2  # one plan for each of two resolutions, shared by the layers
        seen.clear()
        network.eval()(points(2, channels, 30))
        assert set(seen) == {wanted} and len(seen) == 2
        seen.clear()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 60), st.sampled_from([1, 2, 7, 12]), st.floats(0.01, 1), st.integers(0, 99))
def test_a_cut_out_grid_gives_what_the_whole_one_gives(
    clouds: int, number: int, resolution: int, size: float, seed: int
) -> None:
    torch.manual_seed(seed)
    layer = PVConv(4, 6, resolution=resolution, unit_ball=False).double().eval()
    nn.init.normal_(layer.voxel_layers[1].running_mean)  # empty voxels do not stay zero
    nn.init.normal_(layer.voxel_layers[4].bias)
    coords = points(clouds, 3, number, seed).double() * size
    rows = torch.randn(clouds, number, 4, dtype=torch.float64)

    class Whole(CloudPlace):
        def grid(self, resolution: int, *, unit_ball: bool, margin: int | None) -> Any:
            assert margin == 1
            return super().grid(resolution, unit_ball=unit_ball, margin=None)

    with torch.inference_mode():
        cut, whole = layer(rows, CloudPlace(coords)), layer(rows, Whole(coords))
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("before", "after"), [(0, 3), (2, 0), (2, 3)])
def test_channels_all_points_share_may_be_given_once(before: int, after: int) -> None:
    torch.manual_seed(0)
    layer = Pointwise(before + 5 + after, 4)
    rows = torch.randn(2, 7, 5)
    first, last = torch.randn(2, before), torch.randn(2, after)
    wide = [part[:, None].expand(-1, 7, -1) for part in (first, last)]
    wanted = torch.nn.functional.conv1d(
        torch.cat([wide[0], rows, wide[1]], -1).transpose(1, 2), layer.weight, layer.bias
    )
    got = layer(rows, first if before else None, last if after else None)
    torch.testing.assert_close(got, wanted.transpose(1, 2), rtol=0, atol=1e-6)


def test_points_of_another_shape_or_not_finite_are_refused(case: tuple[nn.Module, int, int]) -> None:
    network, channels, _ = case
    for shape in ((channels, 5), (1, channels + 1, 5), (1, channels, 0)):
        with pytest.raises(ShapeError, match=r"`points` must be \(N, \d+, P\) with at least one point; got"):
            network(torch.zeros(shape))
    if not isinstance(network, PointNet):  # which never asks where a point is
        bad = points(1, channels, 5)
        bad[0, 1, 2] = torch.nan
        with pytest.raises(RangeError, match="NaN or infinity in 1 of 5 points"):
            network(bad)


def test_a_width_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="leaves no channel of 64"):
        s3dis(width=0.01)
    with pytest.raises(InputError, match="squeeze and excitation needs 8 or more channels; got 4"):
        PVCNN2(13, width=0.125)
