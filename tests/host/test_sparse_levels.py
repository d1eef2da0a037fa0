"""Levels of a U-Net, and points among voxels, against loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from effvision.errors import InputError, RangeError, ShapeError
from effvision.host.sparse import FARTHEST, coarser, neighbours, pack, sort_keys, unpack
from effvision.host.sparse_levels import PointTable, build_levels, point_table
from sparse_grids import cloud


def keys_of(places: NDArray[np.float64], batch: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.unique(pack(np.column_stack([np.floor(places).astype(np.int64), batch])))


def slow_reading(
    keys: NDArray[np.int64], places: NDArray[np.float64], batch: NDArray[np.int64], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Trilinear reading of one value a voxel, in float64, over the voxels that are there."""
    value = {tuple(voxel): number for voxel, number in zip(unpack(keys).tolist(), values.tolist(), strict=True)}
    found = []
    for place, cloud_number in zip(places.tolist(), batch.tolist(), strict=True):
        total = share = 0.0
        for corner in np.ndindex(2, 2, 2):
            at = [int(np.floor(x)) for x in place]
            weight = np.prod([(x - low) if up else 1 - (x - low) for x, low, up in zip(place, at, corner, strict=True)])
            voxel = (*(low + up for low, up in zip(at, corner, strict=True)), cloud_number)
            if voxel in value:
                total, share = total + weight * value[voxel], share + weight
        found.append(total / share)
    return np.array(found)


def read(table: PointTable, values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((values[table.corners] * table.weights).sum(axis=1))


def test_a_unet_has_the_maps_of_each_level() -> None:
    keys, _ = sort_keys(pack(cloud(2, side=7, batches=2)))
    levels = build_levels(keys, downs=3)
    assert (len(levels.keys), len(levels.near), len(levels.down)) == (4, 4, 3)
    for level in range(4):
        near = neighbours(levels.keys[level])
        assert (levels.near[level].source == near.source).all() and (levels.near[level].target == near.target).all()
    for level in range(3):
        above, down = coarser(levels.keys[level])
        assert (levels.keys[level + 1] == above).all() and (levels.down[level].target == down.target).all()
        floors = unpack(keys).astype(np.int64)
        floors[:, :3] //= 2 ** (level + 1)
        assert (levels.keys[level + 1] == np.unique(pack(floors))).all()


@given(st.integers(0, 1000), st.integers(1, 40), st.integers(1, 3))
@settings(max_examples=25)
def test_points_read_what_a_loop_reads(seed: int, points: int, clouds: int) -> None:
    draw = np.random.default_rng(seed)
    places = draw.uniform(-3, 3, (points, 3))
    places[: points // 3] = np.round(places[: points // 3])  # some exactly on voxels
    batch = draw.integers(0, clouds, points)
    keys = keys_of(places, batch)
    values = draw.standard_normal(len(keys))
    table = point_table(keys, places, batch)
    np.testing.assert_allclose(read(table, values), slow_reading(keys, places, batch, values), atol=1e-5)
    np.testing.assert_allclose(table.weights.sum(axis=1), 1, atol=1e-6)
    own = np.column_stack([np.floor(places).astype(np.int64), batch])
    assert (unpack(keys)[table.voxel] == own).all()
    counts = np.bincount(table.voxel, minlength=len(keys))
    np.testing.assert_array_equal(table.shares[:, 0], (1 / counts).astype(np.float32))


def test_a_point_on_a_voxel_reads_that_voxel_alone_among_others() -> None:
    places = np.array([[1.0, -2.0, 3.0], [1.4, -1.5, 3.5], [2.0, -2.0, 3.0]])
    batch = np.zeros(3, np.int64)
    keys = keys_of(places, batch)
    values = np.arange(1.0, len(keys) + 1)
    table = point_table(keys, places, batch)
    assert table.corners.shape == (3, 8)
    assert read(table, values)[0] == values[table.voxel[0]]
    assert read(table, values)[2] == values[table.voxel[2]]


def test_points_that_all_lie_on_voxels_read_one_row_each() -> None:
    places, batch = np.array([[1, 2, 3], [4, 5, 6], [1, 2, 3]]), np.array([0, 1, 0])
    keys = keys_of(places, batch)
    table = point_table(keys, places, batch)
    assert table.corners.tolist() == [[0], [1], [0]]
    assert table.weights.tolist() == [[1.0], [1.0], [1.0]]
    assert table.shares[:, 0].tolist() == [0.5, 1.0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_point_just_below_the_next_voxel_belongs_to_its_own_and_reads_the_next(dtype: type) -> None:
    just_below = np.nextafter(dtype(1), dtype(0))
    places, batch = np.array([[just_below, 0, 0], [1, 0, 0]], dtype), np.zeros(2, np.int64)
    keys = keys_of(places, batch)
    table = point_table(keys, places, batch)
    assert table.voxel.tolist() == [0, 1]
    assert np.isfinite(table.weights).all()
    np.testing.assert_allclose(read(table, np.array([10.0, 20.0])), [20, 20], atol=1e-5)


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1 - 1e-9])
def test_a_point_alone_reads_its_own_voxel_wherever_it_lies(fraction: float) -> None:
    places, batch = np.full((1, 3), -7 + fraction), np.zeros(1, np.int64)
    keys = keys_of(places, batch)
    assert read(point_table(keys, places, batch), np.array([5.0])).tolist() == [5.0]


def test_points_of_one_cloud_never_read_another() -> None:
    places, batch = np.array([[0.9, 0.9, 0.9], [1.5, 1.5, 1.5]]), np.array([0, 1])
    keys = keys_of(places, batch)
    assert read(point_table(keys, places, batch), np.array([1.0, 2.0])).tolist() == [1.0, 2.0]


def test_a_point_in_no_voxel_is_named() -> None:
    keys = pack(np.array([[0, 0, 0, 0]]))
    with pytest.raises(InputError, match=r"1 of 2 points lie in no voxel, first point 1 at \[3.5, 0.0, 0.0\]"):
        point_table(keys, np.array([[0.5, 0, 0], [3.5, 0, 0]]), np.zeros(2, np.int64))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, float(FARTHEST), 1e30])
def test_a_point_nowhere_is_a_range_error(value: float) -> None:
    keys = pack(np.array([[0, 0, 0, 0]]))
    with pytest.raises(RangeError, match="must lie in"):
        point_table(keys, np.array([[0.5, 0, 0], [0, value, 0]]), np.zeros(2, np.int64))


@pytest.mark.parametrize(("places", "batch"), [((3, 2), (3,)), ((3, 3), (2,)), ((3,), (3,)), ((0, 3), (0,))])
def test_places_and_batches_belong_together(places: tuple[int, ...], batch: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError):
        point_table(pack(np.zeros((1, 4), np.int64)), np.zeros(places), np.zeros(batch, np.int64))
