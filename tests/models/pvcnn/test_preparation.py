"""Channels of a scene, against formulas written out point by point, and under what must not change them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from effvision.clouds import Cloud
from effvision.errors import InputError, RangeError
from effvision.host.ground import heights_above_ground, spacing_of
from effvision.models.pvcnn.preparation import FEATURES, Scene, Spec, prepare

SPEC = Spec(25.0, 2048, ("height_low", "height", "height_smooth", "intensity", "returns", "echoes", "shape", "spacing"))
ALL = Spec(25.0, 2048, tuple(FEATURES))


def made(points: int = 3000, seed: int = 0, **changes: Any) -> Cloud:
    rng = np.random.default_rng(seed)
    xyz = rng.uniform(0, 40, (points, 3)) * [1, 1, 0.02]
    xyz[: points // 4, 2] += rng.uniform(2, 9, points // 4)
    count = rng.integers(0, 5, points)
    fields: dict[str, Any] = {
        "intensity": rng.gamma(2.0, 400.0, points).astype(np.uint16),
        "num_returns": count.astype(np.uint8),
        "return_number": np.minimum(count, rng.integers(0, 5, points)).astype(np.uint8),
        "rgb": rng.integers(0, 256, (points, 3), dtype=np.uint8),
        "normal": rng.normal(size=(points, 3)).astype(np.float32),
    }
    fields.update(changes)
    xyz = np.round(xyz * 64) / 64  # so that moving it is exact
    return Cloud(xyz.astype(np.float32), {name: values for name, values in fields.items() if values is not None})


def columns(spec: Spec) -> dict[str, slice]:
    found, begin = {}, 0
    for name in spec.features:
        found[name] = slice(begin, begin + FEATURES[name].width)
        begin += FEATURES[name].width
    return found


def test_features_equal_their_formulas() -> None:
    cloud, where = made(), columns(ALL)
    scene = prepare(cloud, ALL)
    fine, smooth = heights_above_ground(cloud.xyz)
    raw = cloud.field("intensity").astype(float)
    logs = np.log(raw / np.percentile(raw, 99) + 0.02)
    middle, spread = np.median(logs), np.percentile(logs, 75) - np.percentile(logs, 25)
    low, size = cloud.xyz.min(axis=0), np.ptp(cloud.xyz, axis=0)
    for point in range(0, len(cloud), 97):
        row = scene.features[point]
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
        assert scene.places[point, 2] == pytest.approx(min(max(fine[point], -2), 40), abs=1e-4)


def test_channels_are_centred_in_their_column_and_have_one_scale() -> None:
    cloud = made()
    scene = prepare(cloud, SPEC)
    index = np.flatnonzero((cloud.xyz[:, 0] < 25) & (cloud.xyz[:, 1] < 25))
    channels = scene.channels(index)
    assert channels.shape == (SPEC.channels, len(index)) and channels.dtype == np.float32
    x, y = cloud.xyz[index, 0].astype(float), cloud.xyz[index, 1].astype(float)
    for channel, place in ((0, x), (1, y)):
        np.testing.assert_allclose(channels[channel], (place - (place.min() + place.max()) / 2) / 12.5 * 0.9, atol=1e-5)
    np.testing.assert_allclose(channels[2], scene.places[index, 2] / 12.5 * 0.9, atol=1e-5)
    np.testing.assert_array_equal(channels[3:], scene.features[index].T)


def test_nothing_depends_on_where_the_scene_lies() -> None:
    cloud = made()
    moved = Cloud(cloud.xyz + np.float32([1024, -512, 128]), cloud.fields)
    here, there = prepare(cloud, ALL), prepare(moved, ALL)
    np.testing.assert_allclose(there.features, here.features, atol=2e-4)
    np.testing.assert_allclose(there.places, here.places, atol=1e-4)


def test_nothing_depends_on_the_order_of_the_points() -> None:
    cloud = made()
    order = np.random.default_rng(1).permutation(len(cloud))
    here, there = prepare(cloud, ALL), prepare(cloud.select(order), ALL)
    np.testing.assert_allclose(there.features, here.features[order], atol=1e-5)
    np.testing.assert_allclose(there.places, here.places[order], atol=1e-5)


def test_the_unit_of_the_intensity_does_not_matter() -> None:
    cloud = made()
    part = columns(SPEC)["intensity"]
    other = made(intensity=cloud.field("intensity").astype(np.float32) * np.float32(0.001))
    np.testing.assert_allclose(
        prepare(other, SPEC).features[:, part], prepare(cloud, SPEC).features[:, part], atol=1e-4
    )
    for constant in (0, 700):
        flat = prepare(made(intensity=np.full(3000, constant, np.uint16)), SPEC).features[:, part]
        assert not flat.any()


def test_every_channel_is_finite_and_bounded() -> None:
    for points in (1, 2, 5, 3000):
        scene = prepare(made(points), ALL)
        assert np.isfinite(scene.features).all() and np.abs(scene.features).max() < 4
        assert np.isfinite(scene.channels(np.arange(points))).all()


def test_a_missing_field_is_named() -> None:
    with pytest.raises(InputError, match="`intensity`"):
        prepare(made(intensity=None), SPEC)
    with pytest.raises(InputError, match="`num_returns`, `return_number`"):
        prepare(made(num_returns=None, return_number=None), SPEC)
    assert SPEC.fields == ("intensity", "num_returns", "return_number")
    prepare(made(rgb=None, normal=None), SPEC)


def test_impossible_values_are_refused() -> None:
    with pytest.raises(RangeError, match="`intensity` must not be negative"):
        prepare(made(intensity=np.full(3000, -1.0)), SPEC)
    with pytest.raises(RangeError, match="`num_returns` counts from 1"):
        prepare(made(num_returns=np.full(3000, -1)), SPEC)
    with pytest.raises(RangeError, match="NaN"):
        prepare(made(intensity=np.full(3000, np.nan)), SPEC)


def test_a_spec_is_plain_data_and_comes_back() -> None:
    assert Spec.parse(SPEC.to_dict()) == SPEC
    assert SPEC.channels == 3 + 3 + 1 + 2 + 1 + 4 + 1
    plain = SPEC.to_dict()
    for change, message in (
        ({"block_m": 0}, "above 0"), ({"block_m": True}, "numbers"), ({"points": 1.5}, "whole"),
        ({"features": "height"}, "a list"), ({"features": ["colour"]}, "height_low"),
        ({"features": ["rgb", "rgb"]}, "different"), ({"more": 1}, "a preparation has"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            Spec.parse({**plain, **change})
    with pytest.raises(InputError, match="nothing"):
        Spec.parse({})


def test_a_scene_without_features_has_places_only() -> None:
    scene = prepare(made(), Spec(10.0, 64, ()))
    assert isinstance(scene, Scene) and scene.channels(np.arange(9)).shape == (3, 9)
