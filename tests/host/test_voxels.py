"""The tables say the same as the plan of the torch side, and stay small."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from effvision.errors import RangeError, ShapeError
from effvision.host.voxels import VoxelTables, place_points, voxel_tables


def cloud(clouds: int, points: int, seed: int, crowd: int = 0) -> NDArray[np.float32]:
    """Places in the unit cube; the first `crowd` points of each cloud lie in one place."""
    placed = np.random.default_rng(seed).uniform(0, 1, (clouds, 3, points)).astype(np.float32)
    placed[:, :, :crowd] = placed[:, :, :1]
    return placed


def fill(tables: VoxelTables, features: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a graph does with the tables, in NumPy: (N, C, P) -> (N, X, Y, Z, C)."""
    rows = features.transpose(0, 2, 1).reshape(-1, features.shape[1])
    nothing = np.zeros((1, features.shape[1]))
    parts = np.concatenate([rows, nothing])[tables.parts].sum(1)
    crowded = np.concatenate([parts, nothing])[tables.crowded].sum(1)
    return (np.concatenate([parts, crowded, nothing]) * tables.shares)[tables.cells]


def slow_fill(placed: NDArray[np.float32], features: NDArray[np.float64], resolution: int) -> NDArray[np.float64]:
    clouds, channels, points = features.shape
    total = np.zeros((clouds, resolution, resolution, resolution, channels))
    counts = np.zeros((clouds, resolution, resolution, resolution, 1))
    for n in range(clouds):
        for p in range(points):
            x, y, z = (round(min(max(float(v) * resolution, 0), resolution - 1)) for v in placed[n, :, p])
            total[n, x, y, z] += features[n, :, p]
            counts[n, x, y, z] += 1
    return total / np.maximum(counts, 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(1, 60), st.integers(0, 60), st.sampled_from([1, 2, 4, 8]), st.integers(0, 999))
def test_the_tables_give_the_mean_of_every_voxel(
    clouds: int, points: int, crowd: int, resolution: int, seed: int
) -> None:
    placed = cloud(clouds, points, seed, crowd)
    features = np.random.default_rng(seed).normal(size=(clouds, 3, points))
    tables = voxel_tables(placed, resolution)
    np.testing.assert_allclose(fill(tables, features), slow_fill(placed, features, resolution), rtol=0, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 50), st.sampled_from([1, 4, 9]), st.integers(0, 2), st.integers(0, 999))
def test_a_cut_grid_holds_the_same_voxels_and_the_same_corners(
    clouds: int, points: int, resolution: int, margin: int, seed: int
) -> None:
    placed = cloud(clouds, points, seed) * 0.3 + 0.2
    features = np.random.default_rng(seed).normal(size=(clouds, 2, points))
    whole, cut = voxel_tables(placed, resolution), voxel_tables(placed, resolution, margin=margin)
    grid, part = fill(whole, features), fill(cut, features)
    assert part.size <= grid.size
    np.testing.assert_array_equal(np.sort(part[part != 0]), np.sort(grid[grid != 0]))
    np.testing.assert_array_equal(grid.reshape(-1, 2)[whole.corners], part.reshape(-1, 2)[cut.corners])
    np.testing.assert_array_equal(whole.weights, cut.weights)


def test_the_plan_of_the_torch_side_has_the_same_places_corners_and_weights() -> None:
    torch = pytest.importorskip("torch")
    from effvision.ops.voxels import place_points as place
    from effvision.ops.voxels import plan_voxels, voxel_positions

    coords = np.random.default_rng(0).normal(size=(2, 3, 500)).astype(np.float32) * 20 + 300
    for unit_ball in (True, False):
        placed = place_points(coords, unit_ball=unit_ball)
        ours = place(torch.from_numpy(coords), unit_ball=unit_ball)
        np.testing.assert_array_equal(placed, ours.numpy())
    placed = place_points(coords)
    plan, tables = plan_voxels(voxel_positions(torch.from_numpy(placed), 16), 16), voxel_tables(placed, 16)
    np.testing.assert_array_equal(tables.corners, plan.corners.numpy())
    np.testing.assert_array_equal(tables.weights, plan.weights.numpy())


@pytest.mark.parametrize("crowd", [0, 1000, 4096])
def test_a_crowded_voxel_does_not_make_every_list_long(crowd: int) -> None:
    """Lists of one length would take voxels x 4096 entries."""
    tables = voxel_tables(cloud(1, 4096, 0, crowd), 16)
    assert tables.parts.size + tables.crowded.size <= 4 * 4096
    listed = tables.parts[tables.parts < 4096]
    assert sorted(listed.tolist()) == list(range(4096))  # every point once


def test_points_in_one_place_go_to_the_middle_and_there_is_always_a_row_to_gather() -> None:
    placed = place_points(np.full((1, 3, 5), 7.0))
    assert (placed == 0.5).all() and placed.dtype == np.float32
    tables = voxel_tables(placed, 4)
    assert tables.crowded.shape[0] >= 1 and tables.cells.max() == len(tables.shares) - 1
    assert fill(tables, np.ones((1, 1, 5))).sum() == pytest.approx(1)


def test_the_arrays_have_the_names_of_a_graph() -> None:
    names = voxel_tables(cloud(1, 3, 0), 4).arrays(4)
    assert list(names) == ["parts_4", "crowded_4", "shares_4", "cells_4", "corners_4", "weights_4"]


def test_coordinates_that_are_no_places_are_refused() -> None:
    with pytest.raises(RangeError, match="NaN or infinity"):
        place_points(np.array([[[0.0, np.nan]] * 3]))
    for shape in ((1, 3, 0), (3, 4), (1, 2, 4)):
        with pytest.raises(ShapeError, match="at least one point"):
            place_points(np.zeros(shape))
