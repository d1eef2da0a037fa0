"""What a scan tells of each point, against formulas written out point by point, and under what must not change it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from effvision.clouds import Cloud
from effvision.errors import InputError, RangeError
from effvision.host.ground import heights_above_ground, spacing_of
from effvision.host.scene_features import (
    FEATURES,
    feature_fields,
    feature_width,
    parse_features,
    scene_features,
    scene_places,
)
from scans_made import made

AIRBORNE = ("height_low", "height", "height_smooth", "intensity", "returns", "echoes", "shape", "spacing")


def columns(names: tuple[str, ...]) -> dict[str, slice]:
    found, begin = {}, 0
    for name in names:
        found[name] = slice(begin, begin + feature_width([name]))
        begin += feature_width([name])
    return found


def test_features_equal_their_formulas() -> None:
    cloud, where = made(), columns(tuple(FEATURES))
    features = scene_features(cloud, tuple(FEATURES))
    fine, smooth = heights_above_ground(cloud.xyz)
    raw = cloud.field("intensity").astype(float)
    logs = np.log(raw / np.percentile(raw, 99) + 0.02)
    middle, spread = np.median(logs), np.percentile(logs, 75) - np.percentile(logs, 25)
    places = scene_places(cloud.xyz, fine)
    low, size = cloud.xyz.min(axis=0), np.ptp(cloud.xyz, axis=0)
    for point in range(0, len(cloud), 97):
        row = features[point]
        for name, height in (("height", fine[point]), ("height_smooth", smooth[point])):
            cut = min(max(height, -5.0), 30.0)
            assert row[where[name]] == pytest.approx(math.copysign(math.log(1 + abs(cut)), cut) / math.log(6), abs=1e-5)
        assert row[where["height_low"]] == pytest.approx(math.asinh(min(max(fine[point], -1), 30) / 0.1) / 2, abs=1e-5)
        assert row[where["intensity"]] == pytest.approx(min(max((logs[point] - middle) / spread, -2), 2), abs=1e-4)
        count, number = (max(1, int(cloud.field(name)[point])) for name in ("num_returns", "return_number"))
        count = max(count, number)
        share = 1.0 if count == 1 else (number - 1) / (count - 1)
        assert row[where["returns"]] == pytest.approx([share, min(count - 1, 3) / 3], abs=1e-6)
        assert row[where["spacing"]] == pytest.approx(0.5 * math.log2(spacing_of(cloud.xyz)), abs=1e-6)
        assert row[where["rgb"]] == pytest.approx(cloud.field("rgb")[point] / 255, abs=1e-6)
        x, y, z = (float(value) for value in cloud.field("normal")[point])
        length = math.sqrt(x * x + y * y + z * z)
        assert row[where["normal"]] == pytest.approx([abs(z) / length, math.hypot(x, y) / length], abs=1e-5)
        assert row[where["relative"]] == pytest.approx((cloud.xyz[point] - low) / size, abs=1e-5)
        assert places[point, 2] == pytest.approx(min(max(fine[point], -2), 40), abs=1e-4)
        assert places[point, :2] == pytest.approx((cloud.xyz[point] - low - size / 2)[:2], abs=1e-4)


def test_heights_may_be_given() -> None:
    cloud = made()
    given = scene_features(cloud, AIRBORNE, heights=heights_above_ground(cloud.xyz))
    np.testing.assert_array_equal(given, scene_features(cloud, AIRBORNE))
    assert not scene_features(cloud, ("height",), heights=[np.zeros(len(cloud))] * 2).any()


def test_nothing_depends_on_where_the_scene_lies() -> None:
    cloud = made()
    moved = Cloud(cloud.xyz + np.float32([1024, -512, 128]), cloud.fields)
    here, there = (scene_features(each, tuple(FEATURES)) for each in (cloud, moved))
    np.testing.assert_allclose(there, here, atol=2e-4)


def test_nothing_depends_on_the_order_of_the_points() -> None:
    cloud = made()
    order = np.random.default_rng(1).permutation(len(cloud))
    here, there = (scene_features(each, tuple(FEATURES)) for each in (cloud, cloud.select(order)))
    np.testing.assert_allclose(there, here[order], atol=1e-5)


def test_every_channel_is_finite_and_bounded() -> None:
    for points in (1, 2, 5, 3000):
        features = scene_features(made(points), tuple(FEATURES))
        assert features.shape == (points, feature_width(tuple(FEATURES))) and features.dtype == np.float32
        assert np.isfinite(features).all() and np.abs(features).max() < 4


def test_without_names_there_are_no_channels() -> None:
    assert scene_features(made(), ()).shape == (3000, 0) and feature_fields(()) == () and feature_width(()) == 0


def test_names_of_features_are_checked() -> None:
    assert parse_features(list(AIRBORNE)) == AIRBORNE
    for wrong, message in (
        ("height", "a list"),
        (None, "a list"),
        (["colour"], "height_low"),
        (["rgb", "rgb"], "different"),
    ):
        with pytest.raises(InputError, match=message):
            parse_features(wrong)


def test_the_unit_of_the_intensity_does_not_matter() -> None:
    cloud = made()
    part = columns(AIRBORNE)["intensity"]
    other = made(intensity=cloud.field("intensity").astype(np.float32) * np.float32(0.001))
    np.testing.assert_allclose(
        scene_features(other, AIRBORNE)[:, part], scene_features(cloud, AIRBORNE)[:, part], atol=1e-4
    )
    for constant in (0, 700):
        flat = scene_features(made(intensity=np.full(3000, constant, np.uint16)), AIRBORNE)[:, part]
        assert not flat.any()


def test_a_missing_field_is_named() -> None:
    with pytest.raises(InputError, match="`intensity`"):
        scene_features(made(intensity=None), AIRBORNE)
    with pytest.raises(InputError, match="`num_returns`, `return_number`"):
        scene_features(made(num_returns=None, return_number=None), AIRBORNE)
    assert feature_fields(AIRBORNE) == ("intensity", "num_returns", "return_number")
    scene_features(made(rgb=None, normal=None), AIRBORNE)


def test_impossible_values_are_refused() -> None:
    with pytest.raises(RangeError, match="`intensity` must not be negative"):
        scene_features(made(intensity=np.full(3000, -1.0)), AIRBORNE)
    with pytest.raises(RangeError, match="`num_returns` counts from 1"):
        scene_features(made(num_returns=np.full(3000, -1)), AIRBORNE)
    with pytest.raises(RangeError, match="NaN"):
        scene_features(made(intensity=np.full(3000, np.nan)), AIRBORNE)
