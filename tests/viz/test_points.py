"""Pictures of clouds: what is near hides what is far, all of it is in the frame, shape is seen, and colours stay apart."""

from __future__ import annotations

import time
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from effvision.errors import DTypeError, EffvisionError, InputError, RangeError, ShapeError
from effvision.viz import View, automatic_view, class_colors, draw_segmentation, render_points
from effvision.viz.points import BACKGROUND_RGB

FUZZ = settings(
    max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
DOWN = View(-90, 90, perspective=False)  # x to the right, y up


def square(points: int = 4000, z: float = 0.0, size: float = 10.0, seed: int = 0) -> np.ndarray:
    xyz = np.random.default_rng(seed).uniform(0, size, (points, 3)).astype(np.float32)
    xyz[:, 2] = z
    return xyz


def painted(image: np.ndarray) -> np.ndarray:
    return (np.abs(image.astype(int) - BACKGROUND_RGB) > 20).any(axis=2)


def of(rgb: tuple[int, int, int], points: int) -> np.ndarray:
    return np.full((points, 3), rgb, np.uint8)


def test_what_is_near_hides_what_is_far_whatever_the_order() -> None:
    low, high = square(60_000, z=0, seed=1), square(60_000, z=5, seed=2)
    for first, second in (("low", "high"), ("high", "low")):
        parts = {"low": (low, of((200, 0, 0), 60_000)), "high": (high, of((0, 0, 200), 60_000))}
        xyz = np.concatenate([parts[first][0], parts[second][0]])
        rgb = np.concatenate([parts[first][1], parts[second][1]])
        seen = render_points(xyz, rgb, size=(120, 160), view=DOWN)[50:70, 70:90].reshape(-1, 3)
        assert (seen[:, 2] > seen[:, 0]).all()


def test_from_above_x_goes_to_the_right_and_y_up() -> None:
    xyz, rgb = square(), of((10, 10, 10), 4000)
    rgb[xyz[:, 0] > 8] = (200, 0, 0)
    rgb[xyz[:, 1] > 8] = (0, 0, 200)
    image = render_points(xyz, rgb, size=(200, 200), view=DOWN).astype(int)
    assert image[100, 180, 0] > 150 and image[20, 100, 2] > 150 and image[100, 100].max() < 40


@pytest.mark.parametrize("azimuth", [-170, -60, 0, 45, 120])
@pytest.mark.parametrize("elevation", [-30, 5, 38, 90])
@pytest.mark.parametrize("perspective", [True, False])
def test_the_whole_cloud_is_in_the_frame_and_fills_it(azimuth: float, elevation: float, perspective: bool) -> None:
    xyz = np.random.default_rng(0).uniform(-1, 1, (5000, 3)).astype(np.float32) * [30, 10, 4]
    view = View(azimuth, elevation, perspective)
    seen = painted(render_points(xyz.astype(np.float32), of((30, 90, 30), 5000), size=(240, 320), view=view))
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    assert rows[0] > 0 and rows[-1] < 239 and columns[0] > 0 and columns[-1] < 319
    assert np.ptp(rows) > 0.85 * 240 or np.ptp(columns) > 0.85 * 320


def test_a_few_points_far_off_do_not_make_the_cloud_a_dot() -> None:
    xyz = np.concatenate([square(20_000), np.array([[9e5, 0, 0], [0, -9e5, 3]], np.float32)])
    seen = painted(render_points(xyz, of((30, 90, 30), len(xyz)), size=(240, 320)))
    assert seen.mean() > 0.2


def test_surfaces_close_and_edges_in_depth_are_dark() -> None:
    floor, box = square(20_000, size=10), square(4000, z=2, size=3, seed=1) + np.float32([3, 3, 0])
    image = render_points(
        np.concatenate([floor, box]), of((200, 200, 200), 24_000), size=(240, 320), view=View(-60, 50)
    )
    grey = image[painted(image)].mean(axis=1)
    assert (grey < 110).mean() > 0.005  # the edge of the box against the floor
    assert (grey > 185).mean() > 0.6  # flat ground keeps its colour
    rows, columns = np.nonzero(painted(image))
    assert painted(image)[rows.min() + 60 : rows.max() - 40, 140:180].mean() > 0.95 and len(columns)


def test_the_longer_side_of_a_cloud_lies_across_the_picture() -> None:
    for turn in (0, 30, 90, 160):
        angle = np.radians(turn)
        flat = np.random.default_rng(0).uniform(-1, 1, (3000, 2)) * [50, 8]
        xy = flat @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        xyz = np.concatenate([xy, np.zeros((3000, 1))], axis=1).astype(np.float32)
        seen = painted(render_points(xyz, of((9, 9, 9), 3000), size=(300, 300)))
        assert np.ptp(np.flatnonzero(seen.any(axis=0))) > 1.5 * np.ptp(np.flatnonzero(seen.any(axis=1)))
        assert automatic_view(xyz) == automatic_view(xyz)


@FUZZ
@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 20), st.just(3)), elements=st.floats(-1e6, 1e6, width=32)),
    st.floats(-400, 400),
    st.floats(-90, 90),
    st.booleans(),
)
def test_any_finite_cloud_gives_a_picture(xyz: np.ndarray, azimuth: float, elevation: float, perspective: bool) -> None:
    image = render_points(xyz, of((0, 0, 0), len(xyz)), size=(40, 60), view=View(azimuth, elevation, perspective))
    assert image.shape == (40, 60, 3) and image.dtype == np.uint8 and painted(image).any()
    assert painted(render_points(xyz, of((0, 0, 0), len(xyz)), size=(40, 60))).any()


def test_equal_points_and_a_single_one_give_a_dot() -> None:
    for xyz in (np.zeros((1, 3), np.float32), np.full((50, 3), 7, np.float32)):
        assert 0 < painted(render_points(xyz, of((0, 0, 0), len(xyz)), size=(80, 80))).mean() < 0.2


def test_a_million_points_are_drawn_in_about_a_second() -> None:
    xyz = square(1_000_000, size=100)
    start = time.process_time()
    render_points(xyz, of((90, 90, 90), 1_000_000))
    assert time.process_time() - start < 3  # 0.5 on a quiet machine


GOOD = square(30)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (ShapeError, {"xyz": GOOD[:, :2]}),
        (ShapeError, {"xyz": GOOD[:0], "rgb": of((0, 0, 0), 0)}),
        (ShapeError, {"rgb": of((0, 0, 0), 29)}),
        (DTypeError, {"rgb": np.zeros((30, 3))}),
        (RangeError, {"xyz": np.full((30, 3), np.nan, np.float32)}),
        (InputError, {"size": (10, 100)}),
        (InputError, {"size": (10**6, 100)}),
        (InputError, {"size": 5}),
    ],
)
def test_what_cannot_be_drawn_is_refused(kind: type[EffvisionError], change: dict[str, Any]) -> None:
    with pytest.raises(kind):
        render_points(**{"xyz": GOOD, "rgb": of((0, 0, 0), 30), **change})
    with pytest.raises(InputError, match="elevation of -90 to 90"):
        View(0, 91)


# --- classes ------------------------------------------------------------------------------------------------------------

FEW = ["ground", "low vegetation", "trees", "building", "other"]
S3DIS = [
    "ceiling",
    "floor",
    "wall",
    "beam",
    "column",
    "door",
    "window",
    "table",
    "chair",
    "sofa",
    "bookcase",
    "board",
    "clutter",
]


def as_seen_by(kind: str, rgb: np.ndarray) -> np.ndarray:
    """Colours in CIE L*a*b* as people with protanopia or deuteranopia see them (Machado, Oliveira, Fernandes 2009)."""
    matrices = {
        "all": np.eye(3),
        "protanopia": [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        "deuteranopia": [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
    }
    share = rgb / 255.0
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(matrices[kind]).T, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    f = np.cbrt(linear @ to_xyz.T / [0.9505, 1, 1.089])
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


@pytest.mark.parametrize("kind", ["all", "protanopia", "deuteranopia"])
@pytest.mark.parametrize(("names", "least"), [(FEW, 20), ([f"part {index}" for index in range(6)], 15)])
def test_few_classes_can_be_told_apart_by_colour_blind_people(kind: str, names: list[str], least: float) -> None:
    lab = as_seen_by(kind, class_colors(names))
    gaps = {(names[i], names[j]): np.linalg.norm(lab[i] - lab[j]) for i, j in combinations(range(len(names)), 2)}
    assert min(gaps.values()) > least, min(gaps, key=lambda pair: gaps[pair])


@pytest.mark.parametrize("names", [FEW, S3DIS, [f"class {index}" for index in range(60)]])
def test_every_class_has_a_colour_of_its_own_that_shows_on_the_ground(names: list[str]) -> None:
    colors = class_colors(names)
    assert len({tuple(color) for color in colors.tolist()}) == len(names)
    assert (np.linalg.norm(colors.astype(int) - BACKGROUND_RGB, axis=1) > 60).all()
    np.testing.assert_array_equal(colors, class_colors(tuple(names)))


def test_well_known_classes_have_the_colour_people_expect() -> None:
    assert class_colors(["Trees", "x"])[0].tolist() == class_colors(["y", "trees"])[1].tolist()
    assert class_colors(["low_vegetation"]).tolist() == class_colors(["low vegetation"]).tolist()
    with pytest.raises(InputError):
        class_colors([])


def test_the_legend_names_the_classes_that_occur_and_leaves_the_cloud_free() -> None:
    xyz, labels = square(3000), np.arange(3000) % 2 * 3
    image = draw_segmentation(xyz, labels, FEW, size=(300, 480), note="12 ms")
    assert image.shape == (300, 480, 3)
    for name, there in zip(FEW[:4], (True, False, False, True), strict=True):  # grey is also that of letters
        color = class_colors(FEW)[FEW.index(name)].astype(int)
        assert ((np.abs(image[:, 320:].astype(int) - color).max(axis=2) < 12).sum() > 40) == there
    alone = draw_segmentation(xyz, labels, FEW, size=(300, 299))
    np.testing.assert_array_equal(alone, render_points(xyz, class_colors(FEW)[labels], size=(300, 299)))


def test_more_classes_than_fit_are_counted() -> None:
    names = [f"a class with a long name {index}" for index in range(60)]
    image = draw_segmentation(square(600), np.arange(600) % 60, names, size=(240, 320))
    assert image.shape == (240, 320, 3)


def test_labels_that_name_no_class_are_refused() -> None:
    for kind, labels in ((ShapeError, np.zeros(3, int)), (ShapeError, np.zeros(30)), (InputError, np.full(30, 5))):
        with pytest.raises(kind):
            draw_segmentation(GOOD, labels, FEW)
    with pytest.raises(ShapeError, match="`colors`"):
        draw_segmentation(GOOD, np.zeros(30, int), FEW, colors=np.zeros((2, 3), np.uint8))
