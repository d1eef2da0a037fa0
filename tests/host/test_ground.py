"""Heights above the ground, against scenes whose ground is known and against slow loops."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from effvision.host.ground import heights_above_ground, spacing_of, without_low_outliers

Array = NDArray[np.float64]


def terrain(xy: Array, slope: float) -> Array:
    return np.asarray(slope * xy[:, 0] - 0.5 * slope * xy[:, 1] + 1.5 * np.sin(xy[:, 0] / 25))


def scene(density: float, side: float, slope: float, seed: int = 0) -> tuple[Array, Array, NDArray[np.int64]]:
    """Points, their true heights, and what they are: 0 ground, 1 roof, 2 crown. A house of 12 x 18 m, trees."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(0, side, (int(density * side * side), 2))
    height, kind = np.abs(rng.normal(0, 0.02, len(xy))), np.zeros(len(xy), np.int64)
    roof = (np.abs(xy[:, 0] - side * 0.6) < 6) & (np.abs(xy[:, 1] - side * 0.4) < 9)
    height[roof], kind[roof] = 5.0, 1
    crown = (np.hypot(xy[:, 0] - side * 0.25, xy[:, 1] - side * 0.7) < 5) & (rng.random(len(xy)) < 0.8)
    height[crown], kind[crown] = rng.uniform(2, 12, np.count_nonzero(crown)), 2
    return np.column_stack([xy, terrain(xy, slope) + height]), height, kind


@pytest.mark.parametrize("density", [0.5, 4.0, 20.0])
@pytest.mark.parametrize("slope", [0.0, 0.15, 0.4])
def test_heights_are_right_on_slopes_at_every_density(density: float, slope: float) -> None:
    xyz, height, kind = scene(density, 60.0 if density > 1 else 160.0, slope)
    found, smooth = heights_above_ground(xyz)
    allowed = 0.15 + (0.35 + slope if density < 1 else 0.1 * slope)  # 0.5 points a m2: the cells are 4 m wide
    error = np.abs(found - height)
    assert np.percentile(error[kind == 0], 95) < allowed
    assert np.median(error[kind == 1]) < max(0.6, allowed)
    assert np.median(error[kind == 2]) < max(0.6, allowed)
    assert np.corrcoef(smooth, height)[0, 1] > 0.9


def test_points_far_below_the_ground_do_not_pull_it_down() -> None:
    xyz, _, _ = scene(10.0, 60.0, 0.1)
    lost = np.random.default_rng(1).integers(len(xyz), size=12)
    below = xyz.copy()
    below[lost, 2] -= 15
    assert not without_low_outliers(below, 1.0)[lost].any()
    found, clean = heights_above_ground(below)[0], heights_above_ground(xyz)[0]
    others = np.setdiff1d(np.arange(len(xyz)), lost)
    assert np.percentile(np.abs(found - clean)[others], 99) < 0.3
    assert (found[lost] < -2).all()


def test_low_outliers_are_told_by_the_fourth_lowest_cell_around() -> None:
    rng = np.random.default_rng(3)
    xyz = np.column_stack([rng.uniform(0, 9, (150, 2)), rng.normal(0, 1.2, 150)])
    expected = np.ones(150, bool)
    cells = np.floor((xyz[:, :2] - xyz[:, :2].min(axis=0)) / 1.0).astype(int)
    for _ in range(3):
        low: dict[tuple[int, int], float] = {}
        for cell, z in zip(map(tuple, cells[expected].tolist()), xyz[expected, 2].tolist(), strict=True):
            low[cell] = min(z, low.get(cell, np.inf))
        now = expected.copy()
        for point, (x, y) in enumerate(cells.tolist()):
            near = [(x + i, y + j) for i in range(-2, 3) for j in range(-2, 3) if (i, j) != (0, 0)]
            around = sorted(low[cell] for cell in near if cell in low)
            if len(around) >= 8 and xyz[point, 2] < around[3] - 2.0:
                now[point] = False
        expected = now
    assert 0 < np.count_nonzero(~expected) < 75
    assert without_low_outliers(xyz, 1.0).tolist() == expected.tolist()


def test_heights_do_not_depend_on_place_or_order() -> None:
    xyz, _, _ = scene(6.0, 50.0, 0.2)
    xyz = np.round(xyz * 64) / 64  # exact under the shift
    order = np.random.default_rng(2).permutation(len(xyz))
    for here, there in zip(
        heights_above_ground(xyz), heights_above_ground(xyz[order] + [512.0, -256.0, 96.0]), strict=True
    ):
        np.testing.assert_allclose(there, here[order], atol=1e-9)


def test_spacing_is_that_of_the_density() -> None:
    for density in (0.5, 4.0, 25.0):
        xyz, _, _ = scene(density, 80.0, 0.0)
        assert spacing_of(xyz) == pytest.approx(density**-0.5, rel=0.1)


@pytest.mark.parametrize("points", [1, 2, 3, 30])
def test_few_points_have_finite_heights(points: int) -> None:
    xyz = np.random.default_rng(0).uniform(0, 5, (points, 3))
    for heights in heights_above_ground(xyz):
        assert np.isfinite(heights).all()
    same = np.ones((points, 3))
    assert not np.abs(heights_above_ground(same)[0]).any()


def test_two_points_far_apart_take_no_memory() -> None:
    xyz = np.array([[0.0, 0, 0], [3e5, 3e5, 10]])
    assert np.isfinite(heights_above_ground(xyz)[0]).all()
