"""Training of the lidar networks on tiny made-up tiles: seeded, resumable, and scored as they are shipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from effvision.errors import CheckpointError, InputError
from effvision.models.minkunet import recipe
from effvision.models.minkunet.convert import load_weights
from effvision.models.minkunet.network import CHANNELS, SPVCNN, MinkUNet
from effvision.models.minkunet.recipe import Settings, crossvalidate, load_lidar, main, predict_scene, train
from effvision.models.minkunet.recipe_data import Pieces
from effvision.models.minkunet.recipe_network import INPUTS, lidar_network
from effvision.training import save_weights
from effvision.training_lidar import CLASSES, IGNORED, targets
from scans_made import TILES, tile

NAMES = sorted(INPUTS)


def settings(out: Path, **changes: Any) -> Settings:
    return Settings(out, **{"steps": 4, "pieces": 2, "points": 300, "every": 2, **changes})


def pieces(name: str, **changes: Any) -> Pieces:
    return Pieces(TILES, INPUTS[name], **{"seed": 3, "pieces": 2, "points": 400, "pool": 2, "period": 2, **changes})


@pytest.mark.parametrize("name", NAMES)
def test_batches_depend_on_seed_and_step_alone(name: str) -> None:
    through, later = pieces(name), pieces(name)
    seen = [through.batch(step) for step in range(6)]
    for step in (5, 3):
        again = later.batch(step)
        for part in ("coords", "feats", "inverse", "classes"):
            np.testing.assert_array_equal(getattr(again, part), getattr(seen[step], part))
    assert not np.array_equal(seen[0].classes, seen[1].classes)


@pytest.mark.parametrize("name", NAMES)
def test_the_pieces_of_a_batch_share_no_row(name: str) -> None:
    batch = pieces(name).batch(0)
    assert len(np.unique(batch.coords, axis=0)) == len(batch.coords) == len(batch.feats)
    assert set(batch.coords[:, 3]) == {0, 1}
    assert set(batch.inverse) == set(range(len(batch.coords)))
    assert batch.feats.shape[1] == INPUTS[name].channels and np.isfinite(batch.feats).all()
    assert len(batch.inverse) == len(batch.classes)
    assert set(np.unique(batch.classes)) <= {IGNORED, *range(len(CLASSES))}


def test_a_piece_has_no_more_points_than_asked_for() -> None:
    """As far as a tile is even: so many a square metre are more here and fewer there."""
    counts = [len(pieces("spvcnn", pieces=1, points=200).batch(step).classes) for step in range(12)]
    assert min(counts) >= 24 and max(counts) < 400


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_was_killed_ends_where_an_unbroken_one_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_file(train(TILES, settings(tmp_path / "whole", network=name)))
    loss = recipe._loss

    def killed(*given: Any) -> torch.Tensor:
        if given[2] == 3:
            raise KeyboardInterrupt
        return loss(*given)

    monkeypatch.setattr(recipe, "_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        train(TILES, settings(tmp_path / "broken", network=name))
    monkeypatch.setattr(recipe, "_loss", loss)
    again = load_file(train(TILES, settings(tmp_path / "broken", network=name)))
    assert whole.keys() == again.keys()
    for key, value in whole.items():
        assert value.dtype == torch.float16
        torch.testing.assert_close(again[key], value, rtol=0, atol=0)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    train(TILES, settings(tmp_path, steps=1))
    with pytest.raises(CheckpointError, match="hint: give the same options"):
        train(TILES, settings(tmp_path, steps=1, network="minkunet"))


def test_training_lessens_the_loss(tmp_path: Path) -> None:
    train(TILES, settings(tmp_path, steps=12, points=500))
    losses = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["losses"]
    assert len(losses) == 12 and np.mean(losses[-4:]) < 0.85 * np.mean(losses[:4])


@pytest.mark.parametrize("name", NAMES)
def test_every_point_of_a_scene_gets_an_answer(name: str, tmp_path: Path) -> None:
    weights = save_weights(lidar_network(name).state_dict(), tmp_path / "w.safetensors")
    cloud = tile(7)
    labels, scores = predict_scene(load_lidar(weights, name), cloud, INPUTS[name])
    assert labels.shape == scores.shape == (len(cloud),)
    assert labels.min() >= 0 and labels.max() < len(CLASSES) and (scores > 0.25 - 1e-6).all()


def test_loss_counts_points_and_leaves_out_the_ignored() -> None:
    """Against a loop: points of one row count each, label 0 does not."""
    torch.manual_seed(0)
    given, source = settings(Path(), smoothing=0.0), pieces("minkunet", points=1200)
    network = lidar_network("minkunet").eval()
    found = float(recipe._loss(network, source, 0, given).detach())
    batch = source.batch(0)
    with torch.no_grad():
        rows = network(torch.from_numpy(batch.coords), torch.from_numpy(batch.feats)).log_softmax(1).double().numpy()
    counted = [(row, own) for row, own in zip(batch.inverse, batch.classes, strict=True) if own != IGNORED]
    assert len(counted) < len(batch.classes)
    total = -sum(given.weights[own] * rows[row, own] for row, own in counted)
    assert found == pytest.approx(total / sum(given.weights[own] for _, own in counted), rel=1e-4)


def test_cross_validation_leaves_out_a_tile_and_goes_on(tmp_path: Path) -> None:
    total = crossvalidate(TILES, settings(tmp_path, steps=1), only="tile-0")
    report = json.loads((tmp_path / "crossvalidation.json").read_text())
    assert total.points == report["folds"]["tile-0"]["points"] == int((targets(TILES["tile-0"]) >= 0).sum())
    before = (tmp_path / "without-tile-0" / "checkpoint.pt").stat().st_mtime_ns
    crossvalidate(TILES, settings(tmp_path, steps=1), only="tile-0")
    assert (tmp_path / "without-tile-0" / "checkpoint.pt").stat().st_mtime_ns == before


def test_both_weights_fit_their_share_of_the_package() -> None:
    """5 MB for both, fp16 weights and fp32 in the exported files."""
    weights = [sum(value.numel() for value in lidar_network(name).parameters()) for name in NAMES]
    assert sum(weights) * (2 + 4) < 4_600_000


def test_written_weights_load_as_a_checkpoint_does(tmp_path: Path) -> None:
    """They lack the counters of batch normalisation; nothing else may be missing."""
    network, other = lidar_network("spvcnn"), lidar_network("spvcnn")
    tensors = {
        name: value.float() for name, value in load_file(save_weights(network.state_dict(), tmp_path / "w")).items()
    }
    load_weights(other, tensors)
    for name, value in other.named_parameters():
        torch.testing.assert_close(value, tensors[name], rtol=0, atol=0)
    del tensors["stem.0.kernel"]
    with pytest.raises(CheckpointError, match="1 missing"):
        load_weights(other, tensors)


def test_channels_are_nine() -> None:
    assert MinkUNet(4, 19, channels=CHANNELS, width=0.125).stem[0].kernel.shape == (27, 4, 4)
    with pytest.raises(InputError, match="9 numbers"):
        SPVCNN(4, 19, channels=(8, 8, 16))


def test_the_command_scores_a_folder_of_tiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "val").mkdir()
    cloud = tile(3)
    np.savez(tmp_path / "val" / "a.npz", xyz=cloud.xyz, **cloud.fields)
    weights = save_weights(lidar_network("spvcnn").state_dict(), tmp_path / "w.safetensors")
    command = ["spvcnn", "evaluate", str(weights), "--data", str(tmp_path), "--json", str(tmp_path / "r.json")]
    assert main(command) == 0
    assert json.loads((tmp_path / "r.json").read_text())["a"]["points"] == 1480
    assert "mIoU" in capsys.readouterr().out
    assert main(["spvcnn", "train", "--out", str(tmp_path / "out"), "--data", str(tmp_path)]) == 1
    assert "no .npz tiles" in capsys.readouterr().err
    assert main(["minkunet", "evaluate", str(weights), "--data", str(tmp_path / "none")]) == 1
