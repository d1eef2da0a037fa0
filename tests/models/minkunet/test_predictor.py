"""MinkUNet and SPVCNN from clouds to labels: what the network answers by hand, for every point, however large the cloud is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import effvision
from effvision.cli import main
from effvision.clouds import Cloud
from effvision.errors import (
    CardError,
    CheckpointError,
    DTypeError,
    EffvisionError,
    InputError,
    ModelFileError,
    RangeError,
    RuntimeFailure,
    ShapeError,
)
from effvision.models.minkunet import labelling
from effvision.models.minkunet.assemble import build, card_network
from effvision.models.minkunet.inputs import parse_input
from effvision.models.minkunet.labelling import MARGIN, columns
from effvision.models.minkunet.predictor import SPVCNN, MinkUNet, SparsePredictor
from effvision.models.minkunet.sample import sample_scan, write_sample
from effvision.sample_scenes import sample_scene
from effvision.sources import open_cloud
from sparse_cards import CARDS, LABELS, NARROW, POINTS, SCAN, SCENE, add_cards


@pytest.fixture(autouse=True)
def cards(monkeypatch: pytest.MonkeyPatch) -> None:
    add_cards(monkeypatch)


def network(name: str, inputs: dict[str, Any], seed: int = 0) -> Any:
    torch.manual_seed(seed)
    made = build(4, parse_input(inputs), network=name, channels=NARROW).eval()
    with torch.no_grad():  # answers that differ from point to point
        for parameter in made.parameters():
            parameter.mul_(1.5)
    return made


CASES = {
    "voxels": (MinkUNet, "minkunet", SCENE),
    "points": (SPVCNN, "spvcnn", POINTS),
    "scan": (SPVCNN, "spvcnn", SCAN),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Any:
    """A predictor, its network, and a cloud for it."""
    kind, name, inputs = CASES[request.param]
    made = network(name, inputs)
    cloud = sample_scan(1, beams=20) if inputs is SCAN else sample_scene(1, side_m=30.0, points_per_m2=2.0)
    return kind.from_network(made, labels=LABELS, inputs=inputs), made, cloud


# -- the answer ----------------------------------------------------------------------------------------------------------


def test_every_point_gets_what_the_network_says_of_its_row(case: Any) -> None:
    model, made, cloud = case
    arrays = model.inputs.arrays(cloud)
    with torch.inference_mode():
        logits = made(torch.from_numpy(arrays["coords"]), torch.from_numpy(arrays["feats"]))
    shares = logits.softmax(1).numpy()[arrays["inverse"]]
    result = model.predict(cloud)
    assert len(result) == len(cloud) and result.cloud is cloud and result.names == LABELS
    assert len(set(result.labels.tolist())) > 1
    np.testing.assert_array_equal(result.labels, shares.argmax(axis=1))
    np.testing.assert_allclose(result.scores, shares.max(axis=1), atol=1e-5)


def test_labels_come_in_the_order_of_the_points() -> None:
    model = MinkUNet.from_network(network("minkunet", SCENE), labels=LABELS, inputs=SCENE)
    cloud = sample_scene(1, side_m=30.0, points_per_m2=2.0)
    order = np.random.default_rng(0).permutation(len(cloud))
    turned = model.predict(cloud.select(order))
    assert (turned.labels == model.predict(cloud).labels[order]).mean() > 0.999  # sums of other orders may decide a tie


def test_a_session_takes_one_scan_after_the_other_and_remembers_nothing(case: Any) -> None:
    model, _, cloud = case
    other = cloud.select(np.arange(0, len(cloud), 3))
    session = model.session()
    results = [session.update(one) for one in (cloud, other, cloud)]
    assert [result.index for result in results] == [0, 1, 2] and not session.state
    np.testing.assert_array_equal(results[0].scores, results[2].scores)
    np.testing.assert_array_equal(results[1].scores, model.predict(other).scores)


def test_a_cloud_may_be_two_points_or_many_in_one_place(case: Any) -> None:
    model, _, cloud = case
    two = model.predict(cloud.select(np.array([5, 9])))
    assert len(two) == 2 and (two.scores >= 0.25).all() and (two.scores <= 1).all()
    many = model.predict(cloud.select(np.full(500, 5)))
    assert len(many) == 500 and len(set(many.labels.tolist())) == 1


# -- large clouds --------------------------------------------------------------------------------------------------------


def long_cloud(step: int, rows: int = 6000) -> np.ndarray:
    """A winding strip of rows, 2400 voxels long: `step` cells a voxel."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 2400, rows)
    places = np.stack([x, 60 * np.sin(x / 150) + rng.normal(0, 6, rows), rng.uniform(0, 8, rows)], axis=1)
    cells = np.floor(places * step).astype(np.int64) + np.array([0, 90 * step, 0])
    coords = np.unique(np.column_stack([cells, np.zeros(rows, np.int64)]), axis=0)
    return coords.astype(np.int32)


@pytest.mark.parametrize(("name", "inputs", "cells"), [("minkunet", SCENE, 1), ("spvcnn", POINTS, 4)])
def test_a_cloud_cut_into_columns_gets_the_answers_of_the_whole(name: str, inputs: Any, cells: int) -> None:
    kind = MinkUNet if name == "minkunet" else SPVCNN
    model = kind.from_network(network(name, inputs), labels=LABELS, inputs=inputs)
    coords = long_cloud(cells)
    feats = np.random.default_rng(1).normal(size=(len(coords), model.inputs.channels)).astype(np.float32)
    arrays = {"coords": coords, "feats": feats, "inverse": np.arange(len(coords))}
    seen: list[int] = []

    def run(part: np.ndarray, values: np.ndarray) -> np.ndarray:
        seen.append(len(part))
        outputs, _ = model.runtime.step(labelling.fed(part, values, model.metadata.options), model.initial_state())
        return np.asarray(outputs["logits"])

    told: list[tuple[int, int]] = []
    whole = labelling.label(arrays, run, cells=cells)
    assert seen == [len(coords)]
    parts = labelling.label(arrays, run, cells=cells, at_once=2200, tell=lambda done, total: told.append((done, total)))
    assert len(seen) > 3 and max(seen[1:]) <= 2200
    np.testing.assert_allclose(parts[1], whole[1], atol=2e-5)
    assert (parts[0] == whole[0]).mean() > 0.999
    assert [done for done, _ in told] == sorted({done for done, _ in told}) and told[-1] == (len(coords),) * 2


def test_every_row_is_answered_once_and_sees_its_whole_surroundings() -> None:
    coords = long_cloud(1, 3000)
    answered = np.zeros(len(coords), np.int64)
    for own, seen in columns(coords, at_once=900):
        answered[own] += 1
        assert np.isin(own, seen).all() and (np.diff(seen) > 0).all()
        low, high = coords[own, :2].min(axis=0), coords[own, :2].max(axis=0)
        near = ((coords[:, :2] >= low - MARGIN + 15) & (coords[:, :2] <= high + MARGIN - 15)).all(axis=1)
        assert np.isin(np.flatnonzero(near), seen).all()
    assert (answered == 1).all()


def test_a_predictor_cuts_what_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MinkUNet.from_network(network("minkunet", SCENE), labels=LABELS, inputs=SCENE)
    cloud = sample_scene(2, side_m=30.0, points_per_m2=1.0)
    far = Cloud(
        np.concatenate([cloud.xyz + np.float32([step, 0, 0]) for step in (0, 400, 800)]),
        {name: np.concatenate([values] * 3) for name, values in cloud.fields.items()},
    )
    whole = model.predict(far)
    calls: list[int] = []
    step = model.runtime.step
    monkeypatch.setattr(
        model.runtime, "step", lambda arrays, state: (calls.append(len(arrays["feats"])), step(arrays, state))[1]
    )
    monkeypatch.setattr(labelling, "AT_ONCE", 1000)
    parts = model.predict(far, progress=True)
    assert len(calls) > 1
    np.testing.assert_allclose(parts.scores, whole.scores, atol=2e-5)


# -- which network -------------------------------------------------------------------------------------------------------


def test_a_card_makes_its_own_class_and_each_class_has_a_card_of_its_own() -> None:
    assert type(SparsePredictor.untrained("minkunet-tiny")) is MinkUNet
    assert type(SparsePredictor.untrained("spvcnn-tiny")) is SPVCNN
    assert effvision.SPVCNN is SPVCNN and effvision.MinkUNet is MinkUNet
    with pytest.raises(
        CardError, match=r"'spvcnn-tiny' is of SPVCNN, not of MinkUNet\nhint: from effvision import SPVCNN"
    ):
        MinkUNet.untrained("spvcnn-tiny")


def test_without_a_name_each_class_takes_its_first_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFVISION_CACHE", str(tmp_path))
    for card in CARDS[:2]:
        save_file(card_network(card, None, parse_input(card.preprocess)).state_dict(), tmp_path / card.weights)
    for kind, name in ((SPVCNN, "spvcnn-tiny"), (MinkUNet, "minkunet-tiny"), (SparsePredictor, "spvcnn-tiny")):
        model = kind.from_pretrained()
        assert model.metadata.card == name and len(model.metadata.weights_sha256) == 64


def test_a_checkpoint_that_does_not_fit_names_itself(tmp_path: Path) -> None:
    path = tmp_path / "init"
    torch.save({"model": network("minkunet", SCENE).state_dict()}, path)
    assert MinkUNet.from_pretrained(path, card="minkunet-tiny").metadata.weights_sha256
    with pytest.raises(CheckpointError, match=r"init: the checkpoint does not fit: .*of another shape"):
        MinkUNet.from_pretrained(path, card="minkunet-tiny-scan")


def test_a_network_of_another_kind_or_size_is_refused() -> None:
    made = network("minkunet", SCENE)
    with pytest.raises(DTypeError, match=r"`network` must be a SPVCNN"):
        SPVCNN.from_network(made, labels=LABELS, inputs=SCENE)
    with pytest.raises(InputError, match="the network has 4 outputs, but 2 labels"):
        MinkUNet.from_network(made, labels=["a", "b"], inputs=SCENE)
    with pytest.raises(InputError, match=r"takes 5 channels, but `inputs` gives 4"):
        MinkUNet.from_network(made, labels=LABELS, inputs=SCAN)
    with pytest.raises(InputError, match=r"voxels of 0\.5 m, and `inputs` says 0\.25"):
        MinkUNet.from_network(made, labels=LABELS, inputs={**SCENE, "voxel_m": 0.25})
    with pytest.raises(InputError, match=r"has no branch of points\nhint"):
        MinkUNet.from_network(made, labels=LABELS, inputs=POINTS)
    with pytest.raises(InputError, match=r"takes points of 0.125 m, and `inputs` gives None"):
        SPVCNN.from_network(network("spvcnn", POINTS), labels=LABELS, inputs=SCENE)


def test_a_damaged_description_is_refused() -> None:
    model = MinkUNet.from_network(network("minkunet", SCENE), labels=LABELS, inputs=SCENE)
    for changes in ({"options": {}}, {"preprocess": {"kind": "scene"}}, {"labels": ("one",)}):
        with pytest.raises(ModelFileError, match="description of this sparse network"):
            MinkUNet(model.runtime, replace(model.metadata, **changes))
    with pytest.raises(ModelFileError, match="is a MinkUNet, not a SPVCNN"):
        SPVCNN(model.runtime, model.metadata)


# -- bad input -----------------------------------------------------------------------------------------------------------


def test_bad_clouds_are_refused_with_what_is_wrong() -> None:
    scan = MinkUNet.from_network(network("minkunet", SCAN), labels=LABELS, inputs=SCAN)
    xyz = np.random.default_rng(0).uniform(-20, 20, (50, 3)).astype(np.float32)
    with pytest.raises(InputError, match="remission"):
        scan.predict({"xyz": xyz})
    with pytest.raises(ShapeError):
        scan.predict({"xyz": xyz[:0], "remission": np.zeros(0, np.float32)})
    wide = np.concatenate([xyz, [[30_000, 0, 0]]]).astype(np.float32)
    with pytest.raises(RangeError, match="metres"):
        scan.predict({"xyz": wide, "remission": np.zeros(51, np.float32)})
    scene = MinkUNet.from_network(network("minkunet", SCENE), labels=LABELS, inputs=SCENE)
    with pytest.raises(InputError, match="intensity"):
        scene.predict({"xyz": xyz})


def test_a_scene_far_from_the_origin_gets_the_labels_it_has_near_it() -> None:
    model = MinkUNet.from_network(network("minkunet", SCENE), labels=LABELS, inputs=SCENE)
    cloud = sample_scene(1, side_m=24.0, points_per_m2=2.0)
    near = open_cloud({"xyz": np.round(cloud.xyz * 64) / 64, **cloud.fields})
    moved = near.xyz.astype(np.float64) + np.array([770_048.0, 6_277_120.0, 128.0])
    far = open_cloud({"xyz": moved, **cloud.fields})
    assert (model.predict(far).labels == model.predict(near).labels).mean() > 0.99


def test_an_answer_that_is_no_number_is_an_error(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, cloud = case

    def step(arrays: Any, state: Any) -> Any:
        return {"logits": np.full((len(arrays["feats"]), 4), np.nan, np.float32)}, state

    monkeypatch.setattr(model.runtime, "step", step)
    with pytest.raises(RuntimeFailure, match=r"NaN or infinity\nhint: "):
        model.predict(cloud)


# -- the command line ----------------------------------------------------------------------------------------------------


def test_a_sample_of_either_kind_is_labelled_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "init"
    torch.save({"model": network("spvcnn", SCAN).state_dict()}, path)
    sample = write_sample(tmp_path / "scan.ply", kind="scan", seed=2)
    coloured = tmp_path / "coloured.ply"
    assert main(["run", str(path), "--card", "spvcnn-tiny-scan", str(sample), "--json", "--save", str(coloured)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert sum(said["counts"].values()) == len(open_cloud(sample)) == len(open_cloud(coloured))


def published(name: str, shared: Path, folder: Path) -> Path:
    """A checkpoint as the authors publish it, with the weights of the golden vectors."""
    import importlib.util

    golden = shared / "golden" / "sparse"
    spec = importlib.util.spec_from_file_location("sparse_recipe", golden / "recipe.py")
    assert spec is not None and spec.loader is not None
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    state = recipe.make_state(json.loads((golden / f"{name}_cr0p5.keys.json").read_text("utf-8")))
    path = folder / "init"
    torch.save({"model": {key: torch.from_numpy(value) for key, value in state.items()}}, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["minkunet", "spvcnn"])
def test_golden_the_command_labels_the_real_scan_as_the_authors_code_does(
    name: str, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the real cards
    scan = shared / "data" / "semantickitti" / "000000.bin"
    path, out = published(name, shared, tmp_path), tmp_path / "out.npz"
    assert main(["run", str(path), "--card", f"{name}-semantickitti-cr0.5", str(scan), "--save", str(out)]) == 0
    assert "123,389 points" in capsys.readouterr().out
    with np.load(shared / "golden" / "sparse" / f"{name}_cr0p5.npz") as file:
        wanted = file["argmax"]
    arrays = parse_input({"kind": "scan", "voxel_m": 0.05}).arrays(open_cloud(scan))
    labels = open_cloud(out).fields["label"]
    assert len(labels) == 123_389
    assert (labels == wanted[arrays["inverse"]]).mean() >= 0.999


def test_what_is_no_cloud_is_refused(case: Any) -> None:
    model, _, _ = case
    for bad in (None, b"bytes", np.zeros((4, 4, 3), np.uint8), "no such file.ply"):
        with pytest.raises(EffvisionError):
            model.predict(bad)
