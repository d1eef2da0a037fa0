"""Training of the lidar network on tiny made-up tiles: seeded, resumable, and scored as it is shipped."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from effvision.errors import CheckpointError
from effvision.models.pvcnn import recipe_lidar
from effvision.models.pvcnn.preparation import Spec
from effvision.models.pvcnn.recipe import main
from effvision.models.pvcnn.recipe_lidar import Settings, crossvalidate, train
from effvision.models.pvcnn.recipe_lidar_data import Columns
from effvision.models.pvcnn.recipe_lidar_evaluate import load_lidar, predict_scene
from effvision.models.pvcnn.recipe_lidar_network import SPEC, lidar_network
from effvision.training import save_weights
from effvision.training_lidar import CLASSES, IGNORED, read_tiles, score_scene, targets
from scans_made import TILES, tile

SMALL = Spec(25.0, 64, SPEC.features)


def settings(out: Path, **changes: Any) -> Settings:
    return Settings(out, **{"steps": 4, "columns": 2, "every": 2, "spec": SMALL, **changes})


def test_batches_depend_on_seed_and_step_alone() -> None:
    through = Columns(TILES, SMALL, seed=3, columns=2, pool=2, period=2)
    seen = [through.batch(step) for step in range(6)]
    later = Columns(TILES, SMALL, seed=3, columns=2, pool=2, period=2)
    for step in (5, 3):
        for one, other in zip(seen[step], later.batch(step), strict=True):
            np.testing.assert_array_equal(one, other)
    channels, classes = seen[0]
    assert channels.shape[:2] == (2, SMALL.channels) and classes.shape == (2, channels.shape[2])
    assert np.isfinite(channels).all() and np.abs(channels[:, :2]).max() <= 0.9 + 1e-5
    assert set(np.unique(classes)) <= {IGNORED, *range(len(CLASSES))}


def test_a_run_that_was_killed_ends_where_an_unbroken_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_file(train(TILES, settings(tmp_path / "whole")))
    loss = recipe_lidar._loss

    def killed(*given: Any) -> torch.Tensor:
        if given[2] == 3:
            raise KeyboardInterrupt
        return loss(*given)

    monkeypatch.setattr(recipe_lidar, "_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        train(TILES, settings(tmp_path / "broken"))
    monkeypatch.setattr(recipe_lidar, "_loss", loss)
    again = load_file(train(TILES, settings(tmp_path / "broken")))
    assert whole.keys() == again.keys()
    for name, value in whole.items():
        assert value.dtype == torch.float16
        torch.testing.assert_close(again[name], value, rtol=0, atol=0)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    train(TILES, settings(tmp_path, steps=2))
    with pytest.raises(CheckpointError, match="hint: give the same options"):
        train(TILES, settings(tmp_path, steps=4))
    with pytest.raises(CheckpointError, match="tile-0"):
        train({"tile-0": TILES["tile-0"]}, settings(tmp_path, steps=2))


def test_ignored_points_do_not_count_in_the_loss() -> None:
    network, columns = lidar_network(SMALL), Columns(TILES, SMALL, columns=2, pool=2)
    for cloud in columns.tiles.values():
        assert (targets(cloud)[:20] == IGNORED).all()
    columns._tiles._held = {
        slot: (0, made[0], np.full(len(made[1]), IGNORED))
        for slot, made in ((slot, columns._tiles.tile(slot, 0)) for slot in range(2))
    }
    loss = float(recipe_lidar._loss(network, columns, 0, settings(Path())).detach())
    assert np.isnan(loss) or loss == 0


def test_every_point_of_a_scene_gets_an_answer_and_scores_count_the_labelled(tmp_path: Path) -> None:
    network = load_lidar(train(TILES, settings(tmp_path)), SMALL)
    cloud = tile(7)
    labels, scores = predict_scene(network, cloud, SMALL)
    assert labels.shape == scores.shape == (len(cloud),)
    assert labels.min() >= 0 and labels.max() < len(CLASSES) and (scores > 0.25 - 1e-6).all()
    assert score_scene(partial(predict_scene, network, spec=SMALL), cloud).points == len(cloud) - 20


def test_cross_validation_leaves_out_each_tile_and_goes_on(tmp_path: Path) -> None:
    total = crossvalidate(TILES, settings(tmp_path, steps=2))
    report = json.loads((tmp_path / "crossvalidation.json").read_text())
    assert set(report["folds"]) == set(TILES)
    assert not report["thinned"]  # these have less than one point a square metre
    assert total.points == sum(fold["points"] for fold in report["folds"].values()) == 2 * (1500 - 20)
    before = (tmp_path / "without-tile-0" / "checkpoint.pt").stat().st_mtime_ns
    assert crossvalidate(TILES, settings(tmp_path, steps=2)).confusion.tolist() == total.confusion.tolist()
    assert (tmp_path / "without-tile-0" / "checkpoint.pt").stat().st_mtime_ns == before


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(CheckpointError, match="cannot read"):
        load_lidar(tmp_path / "none.safetensors", SPEC)
    save_file({"other": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="another network"):
        load_lidar(tmp_path / "other.safetensors", SPEC)


def test_the_weights_are_small() -> None:
    assert sum(value.numel() for value in lidar_network().state_dict().values()) * 2 < 2_000_000


def test_the_command_scores_a_folder_of_tiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "val").mkdir()
    cloud = tile(3)
    np.savez(tmp_path / "val" / "a.npz", xyz=cloud.xyz, **cloud.fields)
    assert read_tiles(tmp_path / "val")["a"].field("label").tolist() == cloud.field("label").tolist()
    weights = save_weights(lidar_network().state_dict(), tmp_path / "w.safetensors")
    command = ["lidar", "evaluate", str(weights), "--data", str(tmp_path), "--json", str(tmp_path / "r.json")]
    assert main([*command, "--density", "0.5"]) == 0
    assert 600 < json.loads((tmp_path / "r.json").read_text())["a"]["points"] < 1000
    assert main(command) == 0
    assert json.loads((tmp_path / "r.json").read_text())["a"]["points"] == 1480
    assert "mIoU" in capsys.readouterr().out
    assert main([*command, "--split", "train"]) == 1
    assert "no .npz tiles" in capsys.readouterr().err
