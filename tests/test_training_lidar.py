"""Airborne lidar tiles: read, altered, held and scored, whatever the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from effvision.clouds import Cloud
from effvision.errors import SourceError
from effvision.training_lidar import (
    CLASSES,
    IGNORED,
    AlteredTiles,
    alter,
    lidar_folder,
    random_turn,
    read_tiles,
    score_scene,
    targets,
    thinned,
)
from scans_made import TILES, tile


def test_an_altered_tile_keeps_points_and_labels_together_and_is_seeded() -> None:
    cloud = tile(0, 4000)
    for seed in range(12):
        first, second = (alter(cloud, np.random.default_rng(seed)) for _ in range(2))
        np.testing.assert_array_equal(first.xyz, second.xyz)
        assert set(first.fields) == set(cloud.fields) and 0 < len(first) <= len(cloud)
        for name, values in first.fields.items():
            np.testing.assert_array_equal(values, second.fields[name])
        assert set(np.unique(first.field("label"))) <= {0, 1, 2, 3, 4}
    assert cloud.xyz.tobytes() == tile(0, 4000).xyz.tobytes()  # the tile itself stays as it is
    assert (cloud.field("label") == tile(0, 4000).field("label")).all()


def test_a_thinned_tile_has_the_density_asked_for() -> None:
    cloud = tile(0, 16000)  # ten a square metre
    assert len(thinned(cloud, 2.0)) == pytest.approx(2.0 * 1600, rel=0.1)
    assert thinned(cloud, 50.0) is cloud


def test_held_tiles_depend_on_seed_slot_and_step_alone() -> None:
    def held() -> AlteredTiles[Cloud]:
        return AlteredTiles(TILES, lambda cloud: cloud, seed=3, pool=2, period=4)

    through = held()
    seen = {(slot, step): through.tile(slot, step) for step in range(8) for slot in range(2)}
    for (slot, step), (cloud, classes) in seen.items():
        again, same = held().tile(slot, step)
        np.testing.assert_array_equal(again.xyz, cloud.xyz)
        np.testing.assert_array_equal(same, classes)
        np.testing.assert_array_equal(classes, targets(cloud))
    assert [seen[0, step + 1][0] is seen[0, step][0] for step in range(7)] == [True] * 3 + [False] + [True] * 3
    assert [seen[1, step + 1][0] is seen[1, step][0] for step in range(7)] == [
        True,
        False,
        True,
        True,
        True,
        False,
        True,
    ]


def test_a_turn_keeps_distances_and_half_of_them_mirror() -> None:
    turns = [random_turn(np.random.default_rng(seed)) for seed in range(200)]
    for turn in turns:
        np.testing.assert_allclose(turn @ turn.T, np.eye(2), atol=1e-12)
    assert 70 < sum(np.linalg.det(turn) < 0 for turn in turns) < 130


def test_a_score_counts_the_labelled_points() -> None:
    cloud = tile(7)
    wanted = targets(cloud)
    assert (wanted[:20] == IGNORED).all()

    def right(given: Cloud) -> tuple[np.ndarray, np.ndarray]:
        return np.maximum(targets(given), 0).astype(np.int32), np.ones(len(given), np.float32)

    def ground(given: Cloud) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(len(given), np.int32), np.ones(len(given), np.float32)

    scores = score_scene(right, cloud)
    assert scores.points == len(cloud) - 20 and scores.mean_iou == 1.0 and scores.confusion.shape == (len(CLASSES),) * 2
    assert score_scene(ground, cloud).accuracy == pytest.approx(np.mean(wanted[20:] == 0))


def test_tiles_are_read_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFVISION_SHARED", str(tmp_path))
    folder = lidar_folder() / "val"
    assert folder.is_relative_to(tmp_path)
    folder.mkdir(parents=True)
    with pytest.raises(SourceError, match=r"no \.npz tiles"):
        read_tiles(folder)
    for name, cloud in TILES.items():
        np.savez(folder / f"{name}.npz", xyz=cloud.xyz, **cloud.fields)
    read = read_tiles(folder)
    assert list(read) == sorted(TILES)
    np.testing.assert_array_equal(read["tile-1"].field("label"), TILES["tile-1"].field("label"))
    monkeypatch.delenv("EFFVISION_SHARED")
    assert lidar_folder().parts[-4:] == ("shared", "data", "pointclouds", "lidarhd")
