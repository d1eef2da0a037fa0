"""Rows of a cloud, against a slow loop and the published preparation, and under what must not change them."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effvision.clouds import Cloud
from effvision.errors import InputError, RangeError
from effvision.host.ground import heights_above_ground
from effvision.host.scene_features import scene_features
from effvision.models.minkunet.inputs import SceneInput, parse_input
from effvision.sources import open_cloud
from scans_made import made

FEATURES = ("height_low", "intensity", "shape")
SCENE = {"kind": "scene", "voxel_m": 0.5, "features": list(FEATURES)}
FINE = {**SCENE, "point_m": 0.125}


def scan(points: int = 400, seed: int = 0) -> Cloud:
    rng = np.random.default_rng(seed)
    xyz = rng.normal(size=(points, 3)).astype(np.float32) * np.float32([2, 2, 0.3])
    return Cloud(xyz, {"remission": rng.random(points).astype(np.float32)})


def test_the_golden_scan_is_prepared_as_published(shared: Path) -> None:
    golden = np.load(shared / "golden" / "sparse" / "minkunet_cr0p5.npz")
    cloud = open_cloud(shared / "data" / "semantickitti" / "000000.bin")
    found = parse_input({"kind": "scan", "voxel_m": 0.05}).arrays(cloud)
    assert len(found["coords"]) == golden["num_voxels"] and len(found["inverse"]) == len(cloud)
    assert zlib.crc32(np.ascontiguousarray(found["coords"][:, :3]).tobytes()) == golden["coords_crc"]
    assert zlib.crc32(np.ascontiguousarray(found["feats"]).tobytes()) == golden["feats_crc"]


def test_a_voxel_of_a_scan_is_its_first_point() -> None:
    cloud = scan()
    found = parse_input({"kind": "scan", "voxel_m": 0.25}).arrays(cloud)
    cells = [tuple(round(float(value)) for value in row / np.float32(0.25)) for row in cloud.xyz]
    low = np.min(cells, axis=0)
    first: dict[tuple[int, ...], int] = {}
    for point, cell in enumerate(cells):
        first.setdefault(tuple(int(value) for value in np.array(cell) - low), point)
    order = sorted(first)
    assert found["coords"].tolist() == [[*cell, 0] for cell in order]
    assert [order[row] for row in found["inverse"]] == [tuple(np.array(cell) - low) for cell in cells]
    rows = [first[cell] for cell in order]
    np.testing.assert_array_equal(found["feats"], np.column_stack([cloud.xyz, cloud.field("remission")])[rows])


@pytest.mark.parametrize("data", [SCENE, FINE])
def test_a_row_of_a_scene_is_the_mean_of_its_points(data: dict[str, Any]) -> None:
    cloud = made(600)
    kind = parse_input(data)
    found = kind.arrays(cloud)
    assert found["coords"].dtype == np.int32 and found["feats"].dtype == np.float32
    assert found["feats"].shape == (len(found["coords"]), kind.channels)
    height = np.clip(heights_above_ground(cloud.xyz)[0], -2, 40)
    features = scene_features(cloud, FEATURES)
    middle = (cloud.xyz.min(axis=0).astype(float) + cloud.xyz.max(axis=0)) / 2
    level = (cloud.xyz[:, :2] - middle[:2]).astype(np.float32).astype(float)
    places = np.column_stack(
        [level - level.min(axis=0), height.astype(np.float32).astype(float) + 8.25]
    )  # 16 voxels and a half
    side = data.get("point_m", 0.5)
    members: dict[tuple[int, ...], list[int]] = {}
    for point, place in enumerate(places):
        members.setdefault(tuple(int(value // side) for value in place), []).append(point)
    assert found["coords"].tolist() == [[*cell, 0] for cell in sorted(members)]
    for row, cell in enumerate(sorted(members)):
        own = members[cell]
        assert (found["inverse"][own] == row).all()
        np.testing.assert_allclose(found["feats"][row, :-3], features[own].astype(float).mean(axis=0), atol=1e-6)
        offset = places[own].mean(axis=0) / 0.5 - np.floor(places[own[0]] / 0.5) - 0.5
        np.testing.assert_allclose(found["feats"][row, -3:], offset, atol=1e-6)


@pytest.mark.parametrize("data", [SCENE, FINE])
def test_rows_of_a_scene_do_not_depend_on_the_order_of_the_points(data: dict[str, Any]) -> None:
    cloud = made()
    order = np.random.default_rng(1).permutation(len(cloud))
    here, there = parse_input(data).arrays(cloud), parse_input(data).arrays(cloud.select(order))
    np.testing.assert_array_equal(there["coords"], here["coords"])
    np.testing.assert_array_equal(there["inverse"], here["inverse"][order])
    np.testing.assert_allclose(there["feats"], here["feats"], atol=1e-5)


def test_a_scene_far_from_the_origin_has_the_same_rows() -> None:
    cloud = made()
    far = open_cloud({"xyz": cloud.xyz + np.array([770_550.0, 6_277_500, 128]), **cloud.fields})
    assert far.origin[0] > 0
    here, there = parse_input(FINE).arrays(cloud), parse_input(FINE).arrays(far)
    np.testing.assert_array_equal(there["coords"], here["coords"])
    np.testing.assert_allclose(there["feats"], here["feats"], atol=2e-3)


def test_ground_lies_in_the_middle_of_a_voxel_at_every_level() -> None:
    flat = np.random.default_rng(0).uniform(0, 30, (900, 3)) * [1, 1, 0]
    for voxel_m in (0.05, 0.125, 0.25, 0.5, 1.0):
        found = SceneInput(voxel_m, ("height",)).arrays(Cloud(flat.astype(np.float32)))
        assert (found["coords"][:, 2] % 16 == 0).all() and found["coords"][:, 2].min() * voxel_m >= 2
        np.testing.assert_allclose(found["feats"][:, -1], 0, atol=1e-6)


def test_one_point_is_a_row() -> None:
    for data in (SCENE, FINE):
        assert parse_input(data).arrays(made(1))["coords"].shape == (1, 4)
    assert parse_input({"kind": "scan", "voxel_m": 0.05}).arrays(scan(1))["coords"].tolist() == [[0, 0, 0, 0]]


def test_what_a_network_takes_is_plain_data_and_comes_back() -> None:
    for data in (SCENE, FINE, {"kind": "scan", "voxel_m": 0.05}):
        kind = parse_input(data)
        assert kind.to_dict() == data and parse_input(kind.to_dict()) == kind
        assert kind.kind == data["kind"] and kind.voxel_m == data["voxel_m"] and kind.point_m == data.get("point_m")
    assert parse_input(SCENE).fields == ("intensity",) and parse_input(SCENE).channels == 6 + 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "`kind` must be one of scan, scene"),
        ({"kind": "room"}, "room"),
        ({"kind": "scan"}, "lacks voxel_m"),
        ({"kind": "scan", "voxel_m": 0.05, "points": 3}, "has no points"),
        ({"kind": "scan", "voxel_m": 0}, "above 0"),
        ({"kind": "scan", "voxel_m": True}, "above 0"),
        ({"kind": "scan", "voxel_m": float("nan")}, "above 0"),
        ({**SCENE, "features": "height"}, "a list"),
        ({**SCENE, "features": ["colour"]}, "height_low"),
        ({**SCENE, "point_m": 0.3}, "binary fraction"),
        ({**SCENE, "voxel_m": 0.4, "point_m": 0.1}, "binary fraction"),
        ({**SCENE, "point_m": 1.0}, "binary fraction"),
    ],
)
def test_settings_that_are_none_are_refused(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_input(data)


def test_clouds_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="`remission`"):
        parse_input({"kind": "scan", "voxel_m": 0.05}).arrays(made())
    with pytest.raises(InputError, match="`intensity`"):
        parse_input(SCENE).arrays(made(intensity=None))
    wide = Cloud(np.float32([[0, 0, 0], [9000, 0, 0]]), {"remission": np.zeros(2, np.float32)})
    with pytest.raises(RangeError, match="reaches 9000 m"):
        parse_input({"kind": "scan", "voxel_m": 0.05}).arrays(wide)
    bad = scan(5)
    broken = Cloud(bad.xyz, {"remission": np.full(5, np.nan, np.float32)})
    with pytest.raises(RangeError, match="NaN"):
        parse_input({"kind": "scan", "voxel_m": 0.05}).arrays(broken)
