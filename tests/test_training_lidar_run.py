"""A training on lidar tiles with a network that takes no time: it goes on after a kill and refuses what is not its own."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from effvision.clouds import Cloud
from effvision.errors import CheckpointError, InputError
from effvision.training import load_weights
from effvision.training_lidar import CLASSES, Label
from effvision.training_lidar_run import (
    LidarSettings,
    add_commands,
    crossvalidate_tiles,
    evaluate_tiles,
    learning_rate,
    train_network,
)
from scans_made import TILES


def settings(out: Path, steps: int = 6) -> LidarSettings:
    return LidarSettings(out, steps=steps, every=2)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, len(CLASSES)))


def loss(given: nn.Module, step: int) -> Tensor:
    rng = np.random.default_rng(step)
    return given(torch.from_numpy(rng.normal(size=(16, 3)).astype(np.float32))).square().mean()


def killed_at(step: int) -> Callable[[nn.Module, int], Tensor]:
    def lose(given: nn.Module, now: int) -> Tensor:
        if now == step:
            raise KeyboardInterrupt
        return loss(given, now)

    return lose


def always(number: int) -> Label:
    return lambda cloud: (np.full(len(cloud), number, np.int32), np.ones(len(cloud), np.float32))


def test_the_rate_rises_for_a_tenth_and_falls_to_zero() -> None:
    long = LidarSettings(Path(), steps=200, rate=0.5)
    rates = [learning_rate(step, long) for step in range(200)]
    assert rates[0] == pytest.approx(0.5 / 20) and max(rates) == rates[19] == rates[20] == 0.5
    assert rates[110] == pytest.approx(0.25) and 0 < rates[-1] < 1e-4
    assert all(math.isfinite(learning_rate(0, LidarSettings(Path(), steps=steps))) for steps in (1, 2, 5))


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_run_that_was_killed_ends_where_an_unbroken_one_does(step: int, tmp_path: Path) -> None:
    whole = load_file(train_network(network, loss, settings(tmp_path / "whole"), tiles=TILES))
    with pytest.raises(KeyboardInterrupt):
        train_network(network, killed_at(step), settings(tmp_path / "broken"), tiles=TILES)
    again = load_file(train_network(network, loss, settings(tmp_path / "broken"), tiles=TILES))
    assert whole.keys() == again.keys()
    for name, value in whole.items():
        assert value.dtype == torch.float16
        torch.testing.assert_close(again[name], value, rtol=0, atol=0)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    train_network(network, loss, settings(tmp_path, 2), tiles=TILES)
    with pytest.raises(CheckpointError, match="hint: give the same options"):
        train_network(network, loss, settings(tmp_path, 4), tiles=TILES)
    with pytest.raises(CheckpointError, match="tile-0"):
        train_network(network, loss, settings(tmp_path, 2), tiles=["tile-0"])


def test_weights_come_back_in_eval_mode_and_others_are_refused(tmp_path: Path) -> None:
    weights = train_network(network, loss, settings(tmp_path), tiles=TILES)
    read = load_weights(weights, network())
    assert not read.training
    for name, value in load_file(weights).items():
        torch.testing.assert_close(read.state_dict()[name], value.float(), rtol=0, atol=0)
    with pytest.raises(CheckpointError, match="cannot read"):
        load_weights(tmp_path / "none.safetensors", network())
    save_file({"other": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="another network"):
        load_weights(tmp_path / "other.safetensors", network())


def test_cross_validation_leaves_out_each_tile(tmp_path: Path) -> None:
    asked: dict[str, tuple[set[str], Path]] = {}

    def train(others: Mapping[str, Cloud], out: Path, title: str) -> Label:
        asked[title] = (set(others), out)
        return always(0)

    total = crossvalidate_tiles(TILES, settings(tmp_path), train)
    assert asked == {
        "without tile-1": ({"tile-0"}, tmp_path / "without-tile-1"),
        "without tile-0": ({"tile-1"}, tmp_path / "without-tile-0"),
    }
    report = json.loads((tmp_path / "crossvalidation.json").read_text())
    assert set(report["folds"]) == set(TILES) and report["settings"]["steps"] == 6
    assert total.points == sum(fold["points"] for fold in report["folds"].values())
    one = crossvalidate_tiles(TILES, settings(tmp_path), train, only="tile-0")
    assert one.points == report["folds"]["tile-0"]["points"]
    with pytest.raises(InputError, match="no tile 'tile-9'"):
        crossvalidate_tiles(TILES, settings(tmp_path), train, only="tile-9")


def test_whole_tiles_are_scored_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = evaluate_tiles(TILES, always(0), json_file=tmp_path / "a.json")
    assert {name: scores.to_dict() for name, scores in whole.items()} == json.loads((tmp_path / "a.json").read_text())
    few = evaluate_tiles(TILES, always(0), density=0.5)
    assert all(few[name].points < 0.7 * whole[name].points for name in TILES)
    assert "mIoU" in capsys.readouterr().out


def test_the_commands_have_their_defaults() -> None:
    parser = argparse.ArgumentParser()
    add_commands(parser, steps=77)
    assert parser.parse_args(["train", "--out", "a"]).steps == 77
    assert parser.parse_args(["crossvalidate", "--out", "a", "--only", "b"]).steps == 500
    options = parser.parse_args(["evaluate", "w.safetensors", "--density", "2"])
    assert options.split == "val" and options.density == 2 and options.data is None and options.threads == 1
