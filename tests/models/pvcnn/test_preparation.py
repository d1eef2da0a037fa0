"""Channels of a column, against formulas, and under what must not change them."""

from __future__ import annotations

import numpy as np
import pytest

from effvision.clouds import Cloud
from effvision.errors import InputError
from effvision.host.scene_features import FEATURES
from effvision.models.pvcnn.preparation import Scene, Spec, prepare
from scans_made import made

SPEC = Spec(25.0, 2048, ("height_low", "height", "height_smooth", "intensity", "returns", "echoes", "shape", "spacing"))
ALL = Spec(25.0, 2048, tuple(FEATURES))


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
