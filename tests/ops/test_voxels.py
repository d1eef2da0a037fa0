"""Voxelising and reading back, against slow loops over points, voxels and corners, and against the golden vectors."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from effvision.errors import DTypeError, RangeError, ShapeError
from effvision.host.voxels import place_points as host_places
from effvision.ops.voxels import place_points, plan_voxels, voxel_positions

HALF = [torch.float16, torch.bfloat16]


def random_positions(clouds: int, points: int, resolution: int, seed: int = 0) -> Tensor:
    """Places in a grid, a third of them on voxel centres, a few half-way between, a few on the faces, some twice."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.rand(clouds, 3, points, generator=generator, dtype=torch.float64) * (resolution - 1)
    kind = torch.randint(6, (clouds, 3, points), generator=generator)
    found = torch.where(kind < 2, found.round(), found)
    found = torch.where(kind == 2, (found.floor() + 0.5).clamp(max=resolution - 1), found)
    found = torch.where(kind == 3, torch.where(found > resolution / 2, float(resolution - 1), 0.0), found)
    found[:, :, points // 2 :: 5] = found[:, :, :1].clone()
    return found


def random_features(clouds: int, channels: int, points: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(clouds, channels, points, generator=generator, dtype=torch.float64)


def slow_mean(features: Tensor, positions: Tensor, resolution: int) -> Tensor:
    """One point at a time; Python rounds halves to even."""
    clouds, channels, points = features.shape
    lists: dict[tuple[int, ...], list[list[float]]] = {}
    for n, p in itertools.product(range(clouds), range(points)):
        voxel = (n, *(round(positions[n, axis, p].item()) for axis in range(3)))
        lists.setdefault(voxel, []).append(features[n, :, p].tolist())
    grid = torch.zeros(clouds, channels, resolution, resolution, resolution, dtype=torch.float64)
    for (n, x, y, z), members in lists.items():
        for c in range(channels):
            grid[n, c, x, y, z] = math.fsum(member[c] for member in members) / len(members)
    return grid


def slow_read(grid: Tensor, positions: Tensor) -> Tensor:
    """Each point asks every voxel: its share is the product of what is left of 1 after the distance along each axis."""
    clouds, channels, resolution = grid.shape[:3]
    axis = torch.arange(resolution, dtype=torch.float64)
    found = torch.zeros(clouds, channels, positions.shape[2], dtype=torch.float64)
    for n, p in itertools.product(range(clouds), range(positions.shape[2])):
        x, y, z = ((1 - (axis - positions[n, k, p]).abs()).clamp(min=0) for k in range(3))
        found[n, :, p] = torch.einsum("cxyz,x,y,z->c", grid[n].double(), x, y, z)
    return found


SIZES = [(1, 1, 1, 1), (1, 3, 40, 4), (2, 5, 60, 8), (3, 2, 7, 2), (1, 4, 30, 1)]


@pytest.mark.parametrize(("clouds", "channels", "points", "resolution"), SIZES)
def test_voxelising_equals_the_slow_mean(clouds: int, channels: int, points: int, resolution: int) -> None:
    positions, features = random_positions(clouds, points, resolution), random_features(clouds, channels, points)
    grid = plan_voxels(positions, resolution).voxelise(features)
    torch.testing.assert_close(grid, slow_mean(features, positions, resolution), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("clouds", "channels", "points", "resolution"), SIZES)
def test_reading_equals_the_slow_interpolation(clouds: int, channels: int, points: int, resolution: int) -> None:
    positions = random_positions(clouds, points, resolution)
    grid = random_features(clouds, channels, resolution**3).unflatten(2, (resolution,) * 3)
    found = plan_voxels(positions, resolution).devoxelise(grid)
    torch.testing.assert_close(found, slow_read(grid, positions), rtol=0, atol=1e-13)


def test_halves_go_to_the_even_voxel() -> None:
    positions = torch.tensor([0.5, 1.5, 2.5, 3.0]).expand(1, 3, 4)
    assert plan_voxels(positions, 4).index.tolist() == [0, 2 * 21, 2 * 21, 3 * 21]


def test_a_point_on_a_centre_reads_that_voxel_alone_and_never_past_the_border() -> None:
    positions = torch.tensor([[[0.0, 3.0, 2.0], [3.0, 3.0, 1.0], [0.0, 3.0, 0.0]]])
    plan = plan_voxels(positions, 4)
    assert torch.equal(plan.corners, plan.index[:, None].expand(-1, 8))
    grid = torch.arange(64.0).view(1, 1, 4, 4, 4)
    assert plan.devoxelise(grid)[0, 0].tolist() == [12.0, 63.0, 36.0]


def test_a_grid_that_is_linear_in_space_is_read_without_error() -> None:
    positions = torch.rand(2, 3, 50, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 6
    axes = torch.meshgrid(*[torch.arange(7.0, dtype=torch.float64)] * 3, indexing="ij")
    grid = torch.stack(axes).expand(2, 3, 7, 7, 7)
    torch.testing.assert_close(plan_voxels(positions, 7).devoxelise(grid), positions, rtol=0, atol=1e-13)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 40), st.sampled_from([1, 2, 5, 8]), st.integers(0, 999))
def test_the_order_of_the_points_does_not_matter(clouds: int, points: int, resolution: int, seed: int) -> None:
    positions, features = random_positions(clouds, points, resolution, seed), random_features(clouds, 3, points, seed)
    order = torch.randperm(points, generator=torch.Generator().manual_seed(seed))
    plan, other = plan_voxels(positions, resolution), plan_voxels(positions[:, :, order], resolution)
    grid = plan.voxelise(features)
    torch.testing.assert_close(other.voxelise(features[:, :, order]), grid, rtol=0, atol=1e-14)
    assert torch.equal(other.devoxelise(grid), plan.devoxelise(grid)[:, :, order])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 4), st.sampled_from([1, 3, 8]), st.integers(0, 999))
def test_a_cloud_given_several_times_over_fills_the_same_grid(
    points: int, times: int, resolution: int, seed: int
) -> None:
    positions, features = random_positions(1, points, resolution, seed), random_features(1, 2, points, seed)
    once = plan_voxels(positions, resolution).voxelise(features)
    more = plan_voxels(positions.repeat(1, 1, times), resolution).voxelise(features.repeat(1, 1, times))
    torch.testing.assert_close(more, once, rtol=0, atol=1e-14)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 30), st.sampled_from([1, 2, 9, 16]), st.integers(0, 2), st.integers(0, 999))
def test_a_grid_that_was_cut_out_is_part_of_the_whole_and_reads_the_same(
    clouds: int, points: int, resolution: int, margin: int, seed: int
) -> None:
    positions = random_positions(clouds, points, resolution, seed) * 0.4 + 0.2 * (resolution - 1)
    features = random_features(clouds, 2, points, seed)
    whole, cut = plan_voxels(positions, resolution), plan_voxels(positions, resolution, margin=margin)
    grid, part = whole.voxelise(features), cut.voxelise(features)
    assert part.count_nonzero() == grid.count_nonzero()
    assert torch.equal(part[part != 0].sort().values, grid[grid != 0].sort().values)
    assert torch.equal(cut.devoxelise(part), whole.devoxelise(grid))


@pytest.mark.parametrize("points", [1, 5])
def test_points_that_all_lie_in_one_place_go_to_the_middle(points: int) -> None:
    coords = torch.tensor([7.5, -3.0, 0.1]).view(1, 3, 1).expand(1, 3, points)
    assert torch.equal(place_points(coords), torch.full((1, 3, points), 0.5))
    assert voxel_positions(place_points(coords), 8).unique().tolist() == [4.0]


def test_one_cloud_of_a_batch_in_one_place_leaves_the_other_alone() -> None:
    coords = random_features(2, 3, 20)
    alone = place_points(coords[:1])
    coords[1] = 2.0
    assert torch.equal(place_points(coords)[:1], alone) and (place_points(coords)[1] == 0.5).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 50), st.floats(1e-3, 1e3), st.floats(-1e3, 1e3), st.integers(0, 999))
def test_placing_a_cloud_undoes_scale_and_shift(points: int, scale: float, shift: float, seed: int) -> None:
    coords = random_features(1, 3, points, seed)
    placed = place_points(coords)
    torch.testing.assert_close(place_points(coords * scale + shift), placed, rtol=0, atol=1e-8)
    centred = placed - 0.5
    assert math.isclose(float(centred.norm(dim=1).max()), 0.5, abs_tol=1e-9)
    torch.testing.assert_close(centred.mean(2), torch.zeros(1, 3, dtype=torch.float64), rtol=0, atol=1e-9)


def test_placing_does_not_depend_on_how_a_device_adds_up() -> None:
    """In float32 the mean of many points depends on their order, and with it the voxel of a point near a border."""
    coords = torch.rand(1, 3, 100_000, generator=torch.Generator().manual_seed(0)) * 50 + 1000
    order = torch.randperm(coords.shape[2], generator=torch.Generator().manual_seed(1))
    placed = place_points(coords)
    assert placed.dtype == torch.float32
    assert torch.equal(place_points(coords[:, :, order]), placed[:, :, order])


def test_without_scaling_what_lies_outside_goes_to_the_border() -> None:
    coords = torch.tensor([[[-9.0, 9.0], [0.0, 0.0], [-1.0, 1.0]]])
    positions = voxel_positions(place_points(coords, unit_ball=False), 4)
    assert positions[0].tolist() == [[0.0, 3.0], [2.0, 2.0], [0.0, 3.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_results_keep_the_dtype_of_features_and_are_as_exact_as_it_allows(dtype: torch.dtype) -> None:
    positions, features = random_positions(2, 50, 4), random_features(2, 3, 50).to(dtype)
    plan = plan_voxels(positions, 4)
    grid = plan.voxelise(features)
    assert grid.dtype == plan.devoxelise(grid).dtype == dtype
    limit = 2 * torch.finfo(dtype).eps * 4
    torch.testing.assert_close(grid.double(), slow_mean(features.double(), positions, 4), rtol=0, atol=limit)
    torch.testing.assert_close(plan.devoxelise(grid).double(), slow_read(grid, positions), rtol=0, atol=limit)


@pytest.mark.parametrize("dtype", HALF)
def test_a_crowded_voxel_does_not_overflow_or_stall_in_half_precision(dtype: torch.dtype) -> None:
    plan = plan_voxels(torch.zeros(1, 3, 5000), 2)
    assert plan.voxelise(torch.full((1, 1, 5000), 300.0, dtype=dtype))[0, 0, 0, 0, 0] == 300.0


@pytest.mark.parametrize("dtype", HALF)
def test_half_coordinates_are_placed_in_float32(dtype: torch.dtype) -> None:
    coords = random_features(1, 3, 30).to(dtype)
    assert torch.equal(place_points(coords), place_points(coords.float()))


def test_gradients_flow_to_features_and_grid_and_not_to_coordinates() -> None:
    positions = random_positions(2, 9, 3).requires_grad_()
    plan = plan_voxels(positions, 3)
    features = random_features(2, 2, 9).requires_grad_()
    grid = random_features(2, 2, 27).unflatten(2, (3, 3, 3)).requires_grad_()
    assert torch.autograd.gradcheck(plan.voxelise, (features,))
    assert torch.autograd.gradcheck(plan.devoxelise, (grid,))
    plan.devoxelise(plan.voxelise(features)).sum().backward()
    assert positions.grad is None and not place_points(positions).requires_grad


def test_empty_voxels_are_zero_and_no_result_is_nan() -> None:
    plan = plan_voxels(torch.zeros(1, 3, 3), 8)
    grid = plan.voxelise(torch.ones(1, 4, 3))
    assert grid.isfinite().all() and grid.count_nonzero() == 4 and (grid[0, :, 0, 0, 0] == 1).all()


def test_a_million_points_are_planned_in_bounded_memory() -> None:
    positions = torch.rand(1, 3, 1_000_000, generator=torch.Generator().manual_seed(0)) * 31
    plan = plan_voxels(positions, 32)
    held = sum(tensor.nbytes for tensor in (plan.index, plan.corners, plan.weights, plan.shares))
    assert held < 90e6
    ones = plan.devoxelise(plan.voxelise(torch.ones(1, 1, 1_000_000)))
    occupied = torch.bincount(plan.index, minlength=32**3).bool().all()
    assert bool(occupied) and torch.allclose(ones, torch.ones(1), atol=1e-6)


@pytest.mark.parametrize(
    ("positions", "error", "said"),
    [
        (torch.zeros(3, 4), ShapeError, r"\(N, 3, P\) with at least one point; got \(3, 4\)"),
        (torch.zeros(1, 2, 4), ShapeError, r"got \(1, 2, 4\)"),
        (torch.zeros(1, 3, 0), ShapeError, "at least one point"),
        (torch.zeros(1, 3, 4, dtype=torch.int64), DTypeError, "torch.int64"),
        (torch.full((1, 3, 4), 7.5), RangeError, r"0\.\.7 voxels; got 7\.5"),
        (torch.full((1, 3, 4), -0.1), RangeError, "voxel_positions"),
        (torch.tensor([0.0, torch.nan, torch.inf]).expand(1, 3, 3), RangeError, "NaN or infinity in 2 of 3 points"),
    ],
)
def test_positions_that_are_no_places_are_refused(positions: Tensor, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        plan_voxels(positions, 8)


def test_coordinates_that_are_no_numbers_are_refused_before_they_are_placed() -> None:
    with pytest.raises(RangeError, match="drop those points first"):
        place_points(torch.tensor([0.0, torch.inf]).expand(1, 3, 2))
    with pytest.raises(ShapeError, match="1 or more voxels; got 0"):
        plan_voxels(torch.zeros(1, 3, 1), 0)


def test_features_and_grids_of_another_plan_are_refused() -> None:
    plan = plan_voxels(torch.zeros(2, 3, 5), 4)
    with pytest.raises(ShapeError, match=r"N=2, P=5 as planned; got \(2, 3, 6\)"):
        plan.voxelise(torch.zeros(2, 3, 6))
    with pytest.raises(ShapeError, match=r"\(4, 4, 4\) voxels as planned; got \(2, 3, 5, 4, 4\)"):
        plan.devoxelise(torch.zeros(2, 3, 5, 4, 4))


def load(shared: Path, name: str) -> Tensor:
    return torch.from_numpy(np.load(shared / "golden/pvcnn/ops.npz", allow_pickle=False)[name])


@pytest.mark.parametrize("resolution", [4, 8])
def test_golden_voxel_indices_means_and_readings(resolution: int, shared: Path) -> None:
    golden = {
        name: load(shared, f"r{resolution}.{name}")
        for name in ("norm_coords", "features", "vox_coords", "voxels", "counts", "grid")
    }
    plan = plan_voxels(golden["norm_coords"], resolution)
    steps = torch.tensor([resolution**2, resolution, 1]).view(1, 3, 1)
    assert torch.equal(plan.index, (golden["vox_coords"] * steps).sum(1).flatten().int())
    assert torch.equal(torch.bincount(plan.index, minlength=resolution**3), golden["counts"][0].long())
    close = {"rtol": 0, "atol": 1e-6}
    grid = plan.voxelise(golden["features"])
    torch.testing.assert_close(grid.flatten(2), golden["voxels"], **close)
    torch.testing.assert_close(plan.devoxelise(grid), load(shared, f"r{resolution}.devox_of_voxels"), **close)
    other = golden["grid"].unflatten(2, (resolution,) * 3)
    torch.testing.assert_close(plan.devoxelise(other), load(shared, f"r{resolution}.devox_of_grid"), **close)


@pytest.mark.parametrize("unit_ball", [True, False])
def test_golden_placing(unit_ball: bool, shared: Path) -> None:
    placed = place_points(load(shared, "module.points"), unit_ball=unit_ball)
    positions = voxel_positions(placed, 8)
    name = f"module.normalize{int(unit_ball)}"
    torch.testing.assert_close(positions, load(shared, f"{name}.coords_out"), rtol=0, atol=1e-6)
    grid = plan_voxels(positions, 8).voxelise(load(shared, "module.features"))
    torch.testing.assert_close(grid, load(shared, f"{name}.voxels"), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_in_one_place_go_to_the_middle_wherever_that_is(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        one = torch.randn(1, 3, 1, generator=generator, dtype=torch.float64).to(dtype) * 1000
        coords = one.expand(1, 3, 700)
        assert (place_points(coords) == 0.5).all()
        assert (host_places(coords.numpy()) == 0.5).all()


def test_whole_numbers_are_no_features() -> None:
    plan = plan_voxels(torch.zeros(1, 3, 4), 2)
    with pytest.raises(DTypeError, match="floating"):
        plan.voxelise(torch.full((1, 2, 4), 100))
