"""Training and measuring of the part networks: small, seeded, and the same after a kill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from effvision.errors import CheckpointError, InputError
from effvision.models.pvcnn import recipe_parts_train
from effvision.models.pvcnn.recipe_parts import main
from effvision.models.pvcnn.recipe_parts_data import Batches
from effvision.models.pvcnn.recipe_parts_evaluate import load_parts, measure_parts
from effvision.models.pvcnn.recipe_parts_train import PartSettings, learning_rate, part_network, train_parts
from effvision.models.pvcnn.shapes import CATEGORIES, LABELS, make_cloud
from effvision.models.pvcnn.unit_cloud import unit_cloud


def tiny(out: Path, **changes: int | str) -> PartSettings:
    return PartSettings(out, **{"steps": 3, "clouds": 2, "every": 2, **changes})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Batches, "__init__", _small)


def _small(self: Batches, seed: int, clouds: int = 2, points: tuple[int, ...] = (64, 96)) -> None:
    for name, value in {"seed": seed, "clouds": clouds, "points": points}.items():
        object.__setattr__(self, name, value)


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_file(train_parts(tiny(tmp_path / "whole")))
    rate = learning_rate

    def killed(step: int, settings: PartSettings) -> float:
        if step == 2:
            raise KeyboardInterrupt
        return rate(step, settings)

    with monkeypatch.context() as patch:
        patch.setattr(recipe_parts_train, "learning_rate", killed)
        with pytest.raises(KeyboardInterrupt):
            train_parts(tiny(tmp_path / "parts"))
    resumed = load_file(train_parts(tiny(tmp_path / "parts")))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert {value.dtype for value in whole.values()} == {torch.float16}
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["checkpoint.pt", "weights.safetensors"]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    train_parts(tiny(tmp_path))
    for changes in ({"seed": 1}, {"steps": 4}, {"network": "pointnet"}):
        with pytest.raises((CheckpointError, RuntimeError), match="belongs to a run"):
            train_parts(tiny(tmp_path, **changes))  # type: ignore[arg-type]


def test_a_run_may_become_shorter_before_its_rate_falls() -> None:
    long, short = PartSettings(Path(), steps=2400), PartSettings(Path(), steps=900)
    assert all(learning_rate(step, long) == learning_rate(step, short) for step in range(451))
    assert learning_rate(899, short) < 1e-4 * short.rate
    assert max(learning_rate(step, long) for step in range(2400)) == long.rate


def test_the_two_networks_are_given_the_same_batches_and_pointnet_is_the_larger() -> None:
    first, again = Batches(3).batch(5), Batches(3).batch(5)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], Batches(3).batch(6)[0])
    sizes = {name: sum(p.numel() for p in part_network(name).parameters()) for name in ("pvcnn", "pointnet")}
    assert sizes["pointnet"] > sizes["pvcnn"]
    assert 2 * sizes["pvcnn"] < 2_000_000  # bytes as fp16
    with pytest.raises(InputError):
        part_network("other")


def oracle(points: torch.Tensor) -> torch.Tensor:
    """Right answers, known by looking the cloud up."""
    for index in range(2 * len(CATEGORIES)):
        cloud = make_cloud("held-out", index, points=64, seed=20_000)
        if np.array_equal(unit_cloud(cloud.xyz), points[0].T.numpy()):
            labels = torch.from_numpy(np.maximum(cloud.labels, 0))
            return torch.nn.functional.one_hot(labels, len(LABELS)).T[None].float()
    raise AssertionError


def test_right_answers_are_measured_as_right_and_blind_ones_as_the_baselines_say() -> None:
    count = 2 * len(CATEGORIES)
    right = measure_parts(oracle, clouds=count, points=64)
    assert right.free.mean_iou == right.told.mean_iou == 1
    assert set(right.shapes.values()) == {1.0}
    most = int(right.free.confusion.sum(axis=1).argmax())

    def blind(points: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(1, len(LABELS), points.shape[2])
        logits[:, most] = 1
        return logits

    report = measure_parts(blind, clouds=count, points=64)
    there = len(LABELS) - len(report.free.absent)
    assert report.free.mean_iou * there / len(LABELS) == pytest.approx(report.baselines()["most frequent part"])

    generator = torch.Generator().manual_seed(0)
    report = measure_parts(
        lambda points: torch.rand(1, len(LABELS), points.shape[2], generator=generator), clouds=count, points=512
    )
    assert report.free.mean_iou == pytest.approx(report.baselines()["chance"], rel=0.15)


def test_the_commands_train_and_measure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["train", "--out", str(tmp_path), "--network", "pointnet", "--steps", "1"]) == 0
    weights = tmp_path / "weights.safetensors"
    arguments = ["evaluate", str(weights), "--clouds", "10", "--points", "64", "--json", str(tmp_path / "report.json")]
    assert main(arguments) == 0
    assert "PointNet" in capsys.readouterr().out
    assert (tmp_path / "report.json").exists()
    with pytest.raises(CheckpointError):
        load_parts(weights, "pvcnn")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    assert main(["evaluate", str(tmp_path / "bad.safetensors")]) == 1


def test_turning_the_object_about_z_turns_nothing_else() -> None:
    cloud = make_cloud("held-out", 3, points=200).xyz.astype(np.float64)
    turned = cloud @ np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(
        unit_cloud(turned), unit_cloud(cloud) @ np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), atol=1e-5
    )
