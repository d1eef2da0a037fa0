"""Procedural objects: labels, normals, points on their surfaces, and splits that share nothing that matters."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from effvision.errors import InputError
from effvision.models.pvcnn.shapes import CATEGORIES, IGNORED, LABELS, PARTS, make_cloud, make_shape, parts_of
from effvision.models.pvcnn.shapes_draw import BANDS, SPLITS
from effvision.models.pvcnn.shapes_solids import Convex, Lathe, Tube, box, rod, sample
from effvision.models.pvcnn.shapes_views import Look, visible
from effvision.models.pvcnn.unit_cloud import unit_cloud

EACH = 60  # objects of each split: six of every category


def surface_distance(solid: Convex | Lathe | Tube, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far points lie from a solid's surface, told from its definition point by point and not from `signed`."""
    found = np.empty(len(points))
    for index, point in enumerate(points):
        if isinstance(solid, Convex):
            inside = [plane[3] - plane[:3] @ point for plane in solid.planes]  # metres behind each face
            found[index] = abs(min(inside))
        elif isinstance(solid, Lathe):
            offset = point - solid.origin
            height = offset @ solid.frame[2]
            radius = np.linalg.norm(offset - height * solid.frame[2])
            pairs = zip(solid.profile[:-1], solid.profile[1:], strict=True)
            found[index] = min(to_segment(np.array([radius, height]), a, b) for a, b in pairs)
        else:
            pairs = zip(solid.path[:-1], solid.path[1:], strict=True)
            found[index] = abs(min(to_segment(point, a, b) for a, b in pairs) - solid.radius)
    return found


def to_segment(point: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    side = b - a
    square = float(side @ side)
    share = 0.0 if square == 0 else min(1.0, max(0.0, float((point - a) @ side) / square))
    return float(np.linalg.norm(point - a - share * side))


def test_every_category_has_three_parts_or_more_and_all_of_them_occur() -> None:
    assert len(CATEGORIES) >= 8
    assert min(map(len, PARTS.values())) >= 3
    for split in SPLITS:
        seen = {label for index in range(12 * len(CATEGORIES)) for label in make_shape(split, index).labels}
        assert seen == set(range(len(LABELS)))


@pytest.mark.parametrize("split", SPLITS)
def test_labels_are_those_of_the_category_and_normals_are_unit(split: str) -> None:
    for index in range(EACH):
        cloud = make_cloud(split, index, points=256)
        real = cloud.labels != IGNORED
        assert set(cloud.labels[real]) <= set(parts_of(cloud.category))
        assert cloud.category == CATEGORIES[index % len(CATEGORIES)]
        assert np.isfinite(cloud.xyz).all()
        assert cloud.xyz.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(cloud.normals[real], axis=1), 1, atol=1e-5)
        assert not cloud.normals[~real].any()


@pytest.mark.parametrize("split", SPLITS)
def test_points_lie_on_the_surface_of_their_solid_and_normals_point_out_of_it(split: str) -> None:
    for index in range(EACH):
        shape = make_shape(split, index)
        drawn = shape.sample(150, np.random.default_rng(index))
        size = float(np.ptp(drawn.xyz, axis=0).max())
        for number in np.unique(drawn.solid):
            solid, own = shape.solids[number], drawn.solid == number
            assert isinstance(solid, (Convex, Lathe, Tube))
            points, step = drawn.xyz[own], 1e-5 * size * drawn.normals[own]
            off = surface_distance(solid, points)
            assert off.max() < (1e-3 if isinstance(solid, Tube) else 1e-9) * size, (shape.category, solid.label)
            assert (solid.signed(points + step) > solid.signed(points - step)).mean() > 0.98
            low, high = solid.bounds()
            assert (points >= low - 1e-9).all()
            assert (points <= high + 1e-9).all()


def test_no_point_lies_deep_inside_another_part() -> None:
    for index in range(EACH):
        shape = make_shape("held-out", index)
        drawn = shape.sample(400, np.random.default_rng(index))
        size = float(np.ptp(drawn.xyz, axis=0).max())
        for number, solid in enumerate(shape.solids):
            others = drawn.xyz[drawn.solid != number]
            assert solid.signed(others).min(initial=0) > -1.1e-4 * size


def test_points_are_even_by_area() -> None:
    solids = [box("a", (0, 0, 0), (1, 2, 3)), rod("b", (5, 0, 0), (5, 0, 2), 1.0, 0.5)]
    drawn = sample(solids, 40_000, np.random.default_rng(0))
    cone = np.pi * 1.5 * np.hypot(0.5, 2) + np.pi * (1 + 0.25)
    assert np.mean(drawn.solid == 0) == pytest.approx(22 / (22 + cone), abs=0.003)
    top = (drawn.solid == 1) & (drawn.xyz[:, 2] > 2 - 1e-9)
    assert top.mean() == pytest.approx(np.pi * 0.25 / (22 + cone), abs=0.003)
    face = drawn.xyz[(drawn.solid == 0) & (drawn.normals[:, 2] > 0.5)]
    assert np.histogram2d(face[:, 0], face[:, 1], bins=4)[0].std() < 0.15 * len(face) / 16
    wall = drawn.xyz[(drawn.solid == 1) & (np.abs(drawn.normals[:, 2]) < 0.5)]
    assert np.mean(wall[:, 2] < 1) == pytest.approx(1.75 / 3, abs=0.02)  # more where the cone is wide


def test_signed_distances_agree_with_solids_that_are_known() -> None:
    points = np.random.default_rng(0).uniform(-2, 2, (500, 3))
    inside = (np.abs(points) < [1, 0.5, 0.8]).all(axis=1)
    assert ((box("a", (-1, -0.5, -0.8), (1, 0.5, 0.8)).signed(points) < 0) == inside).all()
    arc = np.linspace(-np.pi / 2, np.pi / 2, 200)
    ball = np.stack([np.cos(arc), np.sin(arc)], axis=1)
    ball[[0, -1], 0] = 0
    np.testing.assert_allclose(
        Lathe("b", ball, axis=(1, 2, 3)).signed(points), np.linalg.norm(points, axis=1) - 1, atol=1e-4
    )
    tube = Tube("c", [(0, 0, -1), (0, 0, 1)], 0.3)
    beyond = np.maximum(np.abs(points[:, 2]) - 1, 0)
    expected = np.sqrt(points[:, 0] ** 2 + points[:, 1] ** 2 + beyond**2) - 0.3
    np.testing.assert_allclose(tube.signed(points), expected, atol=1e-12)


def test_splits_share_no_value_of_a_key_parameter() -> None:
    for split in SPLITS:
        for index in range(6 * len(CATEGORIES)):
            shape = make_shape(split, index)
            assert len(shape.shares) >= 4
            for share in shape.shares.values():
                assert any(low <= share <= high for low, high in BANDS[split])
    ends = sorted(band for bands in BANDS.values() for band in bands)
    assert all(before[1] <= after[0] for before, after in pairwise(ends))


def test_each_split_has_structural_variants_that_training_never_draws() -> None:
    variants: dict[str, set[tuple[str, str, str]]] = {split: set() for split in SPLITS}
    for split in SPLITS:
        for index in range(16 * len(CATEGORIES)):
            shape = make_shape(split, index)
            variants[split] |= {(shape.category, name, chosen) for name, chosen in shape.variants.items()}
    for split in ("development", "held-out"):
        own = variants[split] - variants["train"]
        assert {category for category, _, _ in own} == set(CATEGORIES)
    assert not (variants["held-out"] - variants["train"]) & variants["development"]


def test_a_cloud_follows_from_seed_split_and_index() -> None:
    first, again = (make_cloud("train", 5, points=64) for _ in range(2))
    assert (first.xyz == again.xyz).all()
    assert (first.labels == again.labels).all()
    for other in (
        make_cloud("train", 15, points=64),
        make_cloud("train", 5, points=64, seed=1),
        make_cloud("held-out", 5, points=64),
    ):
        assert not np.array_equal(first.xyz, other.xyz)


def test_a_camera_sees_the_near_side_of_a_box_and_not_what_stands_behind_it() -> None:
    solids = [box("a", (-1, -1, -1), (1, 1, 1))]
    drawn = sample(solids, 6000, np.random.default_rng(0))
    seen = visible(drawn, np.random.default_rng(1))
    faces = {tuple(np.rint(normal).astype(int)) for normal in drawn.normals[seen]}
    assert 1 <= len(faces) <= 3
    assert not any(tuple(-np.array(face)) in faces for face in faces)
    shell = sample([solids[0], box("c", (-0.5, -0.5, -0.5), (0.5, 0.5, 0.5))], 9000, np.random.default_rng(0), hidden=9)
    seen = visible(shell, np.random.default_rng(1))  # the inner box, kept on purpose, is behind the outer one
    assert seen[shell.solid == 0].sum() > 2000
    assert seen[shell.solid == 1].sum() < 60


def test_a_plain_look_is_upright_and_whole() -> None:
    cloud = make_cloud("train", 9, points=1000, look=Look.plain())
    assert not cloud.partial
    assert cloud.xyz[:, 2].min() > -0.01
    assert (cloud.labels >= 0).all()


@pytest.mark.parametrize("wrong", [("test", 0, 64), ("train", -1, 64), ("train", 0, 8)])
def test_what_cannot_be_made_is_refused(wrong: tuple[str, int, int]) -> None:
    with pytest.raises(InputError):
        make_cloud(wrong[0], wrong[1], points=wrong[2])
    with pytest.raises(InputError):
        make_shape("train", 0, category="house")


def test_a_unit_cloud_is_the_same_wherever_the_object_is_and_however_large() -> None:
    cloud = make_cloud("train", 4, points=500).xyz.astype(np.float64)
    placed = unit_cloud(cloud)
    np.testing.assert_allclose(unit_cloud(cloud * 7 + [100, -20, 3]), placed, atol=1e-5)
    assert np.mean(np.linalg.norm(placed, axis=1) <= 1) >= 0.98
    cloud[0] = 1e6  # one stray point must not shrink the rest to nothing
    assert np.abs(unit_cloud(cloud)).max() <= 1.5
    assert not unit_cloud(np.ones((3, 3))).any()
