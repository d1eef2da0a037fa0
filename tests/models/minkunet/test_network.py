"""MinkUNet and SPVCNN: what they keep, what they refuse, and published checkpoints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from effvision.errors import CheckpointError, DTypeError, InputError, RangeError, ShapeError
from effvision.host.sparse import FARTHEST, pack, sort_keys
from effvision.models.minkunet.convert import from_reference
from effvision.models.minkunet.layers import SparseConv
from effvision.models.minkunet.maps import POINT_LEVELS, Maps, build_maps, places_of
from effvision.models.minkunet.network import SPVCNN, MinkUNet, SparseUNet
from effvision.ops import sparse_maps
from effvision.ops.folding import fuse
from sparse_grids import cloud, random_feats

BOTH = pytest.mark.parametrize("kind", [MinkUNet, SPVCNN])


def network(kind: type[SparseUNet], *, seed: int = 0, **options: Any) -> SparseUNet:
    """Small, in eval mode, with statistics of normalisation that are not those of a new network."""
    torch.manual_seed(seed)
    made = kind(4, 5, width=0.125, **options)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return made.eval()


def voxels(seed: int = 0, batches: int = 1) -> tuple[Tensor, Tensor]:
    coords = torch.from_numpy(cloud(seed, side=14, share=0.15, batches=batches, shift=-9)).int()
    return coords, random_feats(seed, len(coords), 4, dtype=torch.float32)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.detach().std()))


# -- invariances -----------------------------------------------------------------------------------------------------------


@BOTH
def test_two_clouds_in_one_call_are_each_alone(kind: type[SparseUNet]) -> None:
    net = network(kind)
    coords, feats = voxels(1, batches=2)
    with torch.inference_mode():
        together = net(coords, feats)
        for number in (0, 1):
            own = coords[:, 3] == number
            alone = net(coords[own] * torch.tensor([1, 1, 1, 0], dtype=torch.int32), feats[own])
            close(together[own], alone)


@BOTH
def test_rows_may_stand_in_any_order(kind: type[SparseUNet]) -> None:
    net = network(kind)
    coords, feats = voxels(2)
    order = torch.randperm(len(coords), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        close(net(coords[order], feats[order]), net(coords, feats)[order])


@BOTH
@pytest.mark.parametrize("steps", [(1, 0, 0), (-3, 2, 40)])
def test_a_move_by_sixteen_voxels_changes_nothing(kind: type[SparseUNet], steps: tuple[int, int, int]) -> None:
    net = network(kind)
    coords, feats = voxels(3)
    moved = coords + 16 * torch.tensor([*steps, 0], dtype=torch.int32)
    with torch.inference_mode():
        before = net(coords, feats)
        close(net(moved, feats), before)
        by_one = net(coords + torch.tensor([1, 0, 0, 0], dtype=torch.int32), feats)
        assert not torch.allclose(by_one, before, rtol=1e-3)  # the coarser voxels fall elsewhere


@BOTH
def test_a_single_voxel_is_a_cloud(kind: type[SparseUNet]) -> None:
    out = network(kind)(torch.tensor([[-7, 3, 0, 0]]), torch.ones(1, 4))
    assert out.shape == (1, 5) and bool(out.isfinite().all())


def test_a_voxel_that_stands_twice_is_refused_by_minkunet() -> None:
    coords, feats = voxels(4)
    with pytest.raises(InputError, match="1 voxels twice"):
        network(MinkUNet)(torch.cat([coords, coords[:1]]), torch.cat([feats, feats[:1]]))


def test_points_that_stand_twice_are_averaged_by_spvcnn() -> None:
    net = network(SPVCNN)
    coords, feats = voxels(4)
    apart = random_feats(9, *feats.shape, dtype=torch.float32)
    with torch.inference_mode():
        once = net(coords, feats)
        twice = net(torch.cat([coords, coords]), torch.cat([feats + apart, feats - apart]))
    close(twice, torch.cat([once, once]))


def test_points_on_a_finer_grid_are_read_between_voxels() -> None:
    net = network(SPVCNN, point_size_m=0.025, voxel_size_m=0.05)
    coords, feats = voxels(5)
    with torch.inference_mode():
        out = net(coords, feats)
        coarse = network(SPVCNN, voxel_size_m=0.05)(coords, feats)
    assert out.shape == coarse.shape and not torch.allclose(out, coarse)


# -- gradients and folding -------------------------------------------------------------------------------------------------


@BOTH
def test_gradients_reach_every_parameter_that_is_used(kind: type[SparseUNet]) -> None:
    net = network(kind).train()
    coords, feats = voxels(6, batches=2)
    net(coords, feats.requires_grad_()).square().sum().backward()
    without = {name for name, value in net.named_parameters() if value.grad is None or not bool(value.grad.any())}
    unused = {name for name, _ in net.named_parameters() if name.startswith("point_transforms")}
    # a shift before a normalisation is taken out again by it
    before_norm = {f"point_transforms.{index}.0.bias" for index in range(3)}
    assert without - before_norm == (unused - before_norm if kind is MinkUNet else set())
    assert feats.grad is not None and bool(feats.grad.any(dim=1).all())


@BOTH
def test_a_fused_network_gives_the_same_and_leaves_the_other_alone(kind: type[SparseUNet]) -> None:
    net = network(kind)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fused = fuse(net)
    coords, feats = voxels(7)
    with torch.inference_mode():
        close(fused(coords, feats), net(coords, feats))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(isinstance(module, torch.nn.BatchNorm1d) for module in fused.modules())
    assert all(module.bias is not None for module in fused.modules() if isinstance(module, SparseConv))


def test_a_network_in_training_is_not_fused() -> None:
    with pytest.raises(InputError, match="training mode"):
        fuse(network(MinkUNet).train())


# -- maps ------------------------------------------------------------------------------------------------------------------


@BOTH
def test_maps_made_in_torch_run_the_network_to_the_same_logits(kind: type[SparseUNet]) -> None:
    net = network(kind)
    coords, feats = voxels(8, batches=2)
    keys, rows = sparse_maps.sort_keys(sparse_maps.pack(coords))
    levels, down = [keys], []
    for _ in range(4):
        above, kernel_map = sparse_maps.coarser(levels[-1])
        levels.append(above)
        down.append(kernel_map)
    places, batch = coords[:, :3].float(), coords[:, 3].long()
    tables = [sparse_maps.point_map(levels[level], places / 2**level, batch) for level in POINT_LEVELS]
    maps = Maps([sparse_maps.neighbours(level) for level in levels], down, tables if net.has_points else ())
    given = feats if net.has_points else torch.empty_like(feats).index_copy(0, rows, feats)
    with torch.inference_mode():
        found = net.run(given, maps)
        assert torch.equal(found if net.has_points else found[rows], net(coords, feats))


def test_maps_may_be_made_of_the_hosts_arrays() -> None:
    coords = voxels(9)[0].numpy()
    keys, _ = sort_keys(pack(coords))
    from_host = build_maps(keys, coords, torch.device("cpu"))
    in_torch = build_maps(torch.from_numpy(keys), torch.from_numpy(coords), torch.device("cpu"))
    assert [len(side) for side in (from_host.near, from_host.down, from_host.points)] == [5, 4, 3]
    for one, other in zip(from_host.near, in_torch.near, strict=True):
        assert torch.equal(one.source, other.source)
    for one, other in zip(from_host.points, in_torch.points, strict=True):
        assert torch.equal(one.weights, other.weights)


def test_places_are_computed_in_single_precision_like_the_published_code() -> None:
    coords = torch.tensor([[1, -7, 1999, 3], [33, 0, -2, 0]], dtype=torch.int32)
    found = places_of(coords, 0.05, 0.05)
    expected = coords[:, :3].numpy().astype(np.float32) * np.float32(0.05) / np.float32(0.05)
    assert (found[:, :3].numpy() == expected).all()
    assert found[:, 3].tolist() == [3, 0]
    assert places_of(coords, None, 0.05) is coords


# -- bad input -------------------------------------------------------------------------------------------------------------

COORDS = torch.tensor([[0, 0, 0, 0], [3, -4, 5, 0]])
FEATS = torch.ones(2, 4)


@BOTH
@pytest.mark.parametrize(
    ("coords", "feats", "error", "words"),
    [
        (COORDS[:, :3], FEATS, ShapeError, r"`coords` must be \(V, 4\)"),
        (COORDS, FEATS[:, :3], ShapeError, r"`feats` must be \(V, 4\)"),
        (COORDS[:1], FEATS, ShapeError, "has 1 rows and `feats` 2"),
        (COORDS[:0], FEATS[:0], ShapeError, "holds no voxel"),
        (COORDS.float(), FEATS, DTypeError, r"(?s)whole numbers.*hint: \(metres / 0.05\)"),
        (COORDS.bool(), FEATS, DTypeError, "whole numbers"),
        (COORDS, FEATS.half(), DTypeError, "make them one dtype"),
        (COORDS, FEATS.long(), DTypeError, "make them one dtype"),
        (COORDS + FARTHEST, FEATS, RangeError, "must lie in"),
        (COORDS - torch.tensor([0, 0, 0, 1]), FEATS, RangeError, "batches"),
        (COORDS, FEATS.to("meta"), InputError, "move one of them"),
        (COORDS.to("meta"), FEATS, InputError, "move one of them"),
        (COORDS.to("meta"), FEATS.to("meta"), InputError, "move one of them"),
    ],
)
def test_what_is_no_cloud_is_refused(
    kind: type[SparseUNet], coords: Tensor, feats: Tensor, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        network(kind)(coords, feats)


@pytest.mark.parametrize("options", [{"width": 0.01}, {"classes": 0}, {"in_channels": 0}, {"voxel_size_m": 0.0}])
def test_a_network_of_no_size_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="at least one channel"):
        MinkUNet(**options)


def test_points_need_a_size_above_zero() -> None:
    with pytest.raises(InputError, match="`point_size_m` must be above 0"):
        SPVCNN(width=0.125, point_size_m=0.0)


# -- published checkpoints -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["plain", "model", "module.", "model and module."])
@pytest.mark.parametrize("name", ["minkunet", "spvcnn"])
def test_a_checkpoint_loads_from_the_layouts_that_are_published(name: str, layout: str) -> None:
    state = network(MinkUNet if name == "minkunet" else SPVCNN, seed=3).state_dict()
    given: dict[str, Any] = {f"module.{key}" if "module." in layout else key: value for key, value in state.items()}
    given = {"model": given, "epoch": 3} if "model" in layout else given
    net = from_reference(given, network=name, width=0.125, voxel_size_m=0.1)
    assert not net.training
    assert (type(net), net.classes, net.in_channels, net.voxel_size_m) == (
        {"minkunet": MinkUNet, "spvcnn": SPVCNN}[name],
        5,
        4,
        0.1,
    )
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_a_checkpoint_of_another_width_is_refused_and_its_width_named() -> None:
    state = network(MinkUNet).state_dict()
    with pytest.raises(CheckpointError, match=r"(?s)of another shape.*looks like width=0.125; given was width=0.5"):
        from_reference(state, width=0.5)


def test_missing_and_unknown_keys_are_named() -> None:
    state = dict(network(MinkUNet).state_dict())
    state["more.weight"] = state.pop("up3.0.net.0.kernel")
    with pytest.raises(CheckpointError, match=r"1 missing \(up3.0.net.0.kernel\); 1 unknown \(more.weight\)"):
        from_reference(state, width=0.125)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({}, "holds nothing"),
        ({"conv1.weight": torch.zeros(1)}, "no MinkUNet or SPVCNN checkpoint.*conv1.weight"),
        (
            {"stem.0.kernel": torch.zeros(4), "classifier.0.weight": torch.zeros(2, 2)},
            "no MinkUNet or SPVCNN checkpoint",
        ),
        ({"epoch": 3}, "something else than tensors"),
        ({"model": [1, 2]}, "something else than tensors"),
    ],
)
def test_what_is_no_checkpoint_is_refused(state: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=f"(?s){words}"):
        from_reference(state)


def test_a_network_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="one of minkunet, spvcnn"):
        from_reference({}, network="spvnas")
