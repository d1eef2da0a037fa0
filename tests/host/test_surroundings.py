"""Shapes of what lies around a point, against a slow search and shapes that are known."""

from __future__ import annotations

import numpy as np
import pytest

from effvision.host.surroundings import mean_around, shapes_around


def test_shapes_equal_a_search_of_every_cell() -> None:
    rng = np.random.default_rng(4)
    xyz = rng.uniform(0, 6, (300, 3)) * np.array([1, 1, 0.3])
    cells = np.floor(xyz - xyz.min(axis=0)).astype(int)
    expected = np.zeros((len(xyz), 4))
    for point, cell in enumerate(cells):
        around = xyz[(np.abs(cells - cell) <= 1).all(axis=1)]
        if len(around) >= 4:
            values, vectors = np.linalg.eigh(np.cov(around.T, bias=True))
            c, b, a = np.maximum(values, 0)
            expected[point] = [(a - b) / a, (b - c) / a, c / a, 1 - abs(vectors[2, 0])]
    np.testing.assert_allclose(shapes_around(xyz, 1.0), expected, atol=1e-6)
    means = [xyz[(np.abs(cells - cell) <= 1).all(axis=1), 0].mean() for cell in cells]
    np.testing.assert_allclose(mean_around(xyz, 1.0, xyz[:, 0]), means, atol=1e-9)


def test_a_floor_is_level_and_a_wall_upright() -> None:
    rng = np.random.default_rng(5)
    flat = np.column_stack([rng.uniform(0, 8, (4000, 2)), np.full(4000, 0.1)])
    for xyz, upright in ((flat, 0.0), (flat[:, [0, 2, 1]], 1.0)):
        linearity, planarity, scatter, angle = np.median(shapes_around(xyz, 0.5), axis=0)
        assert planarity > 0.7 and scatter < 0.01 and linearity < 0.3
        assert angle == pytest.approx(upright, abs=0.01)


@pytest.mark.parametrize("points", [1, 2, 3, 30])
def test_few_points_have_finite_shapes(points: int) -> None:
    xyz = np.random.default_rng(0).uniform(0, 5, (points, 3))
    assert np.isfinite(shapes_around(xyz, 0.5)).all()
    assert np.isfinite(shapes_around(np.ones((points, 3)), 0.5)).all()


def test_two_points_far_apart_take_no_memory() -> None:
    xyz = np.array([[0.0, 0, 0], [3e5, 3e5, 10]])
    assert np.isfinite(shapes_around(xyz, 0.5)).all()
