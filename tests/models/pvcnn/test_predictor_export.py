"""PVCNN as a file: any number of points, both forms, without PyTorch, and through the zoo's own tests."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cloud_cards import CARDS, LABELS, SCENE, add_cards
from effvision.clouds import Cloud
from effvision.errors import InputError, ModelFileError
from effvision.models.pvcnn.assemble import build
from effvision.models.pvcnn.predictor import PVCNN
from effvision.models.pvcnn.sample import small_sample
from effvision.sample_scenes import sample_scene
from effvision.sources import write_ply

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def cards(monkeypatch: pytest.MonkeyPatch) -> None:
    add_cards(monkeypatch)


@pytest.fixture(scope="module")
def scene() -> Cloud:
    return sample_scene(1, side_m=30.0, points_per_m2=2.0)


@pytest.fixture(scope="module")
def model() -> PVCNN:
    torch.manual_seed(0)
    network = build(4, 5, stages=[[8, 1, 6], [8, 1, 0]], cloud=[8], head=[8]).eval()
    return PVCNN.from_network(network, labels=LABELS, inputs=SCENE)


@pytest.fixture(scope="module")
def exported(model: PVCNN, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("exported")
    return {
        "scatter": model.export(folder / "scatter.onnx"),
        "tables": model.export(folder / "tables.onnx", form="tables", batch="dynamic"),
    }


@pytest.mark.parametrize("form", ["scatter", "tables"])
def test_a_file_of_either_form_labels_like_pytorch(form: str, exported: Any, model: PVCNN, scene: Cloud) -> None:
    file = PVCNN.from_pretrained(exported[form])
    assert file.runtime.name == "onnx" and file.labels == LABELS and file.fields == ("intensity",)
    wanted, got = model.predict(scene), file.predict(scene)
    np.testing.assert_array_equal(got.labels, wanted.labels)
    np.testing.assert_allclose(got.scores, wanted.scores, atol=1e-5)
    inputs = file.metadata.graphs["step"].inputs
    assert [tensor.name for tensor in inputs][:2] == (
        ["points", "placed"] if form == "scatter" else ["points", "parts_6"]
    )
    assert inputs[0].shape[2] == "points"


@pytest.mark.parametrize("form", ["scatter", "tables"])
def test_any_number_of_points_goes_in(form: str, exported: Any, model: PVCNN) -> None:
    file = PVCNN.from_pretrained(exported[form])
    rng = np.random.default_rng(0)
    for count in (2, 3, 40, 999):
        xyz = rng.uniform(0, 5, (count, 3)).astype(np.float32)
        xyz[: count // 2] = xyz[0]  # many in one place
        cloud = {"xyz": xyz, "intensity": rng.uniform(1, 9, count).astype(np.float32)}
        np.testing.assert_allclose(file.predict(cloud).scores, model.predict(cloud).scores, atol=1e-5)


def test_the_check_saw_crowded_and_empty_voxels_and_another_number_of_points(model: PVCNN) -> None:
    made = list(model.example_inputs("step", steps=4, batch=2, seed=0))
    counts = [inputs["points"].shape[2] for inputs in made]
    assert len(set(counts)) == 4
    for inputs in made:
        for placed in inputs["placed"]:
            _, crowd = np.unique(placed.T, axis=0, return_counts=True)
            voxels = np.unique(np.round(np.clip(placed * 6, 0, 5)), axis=1)
            assert crowd.max() > 1 and voxels.shape[1] < 6**3


def test_real_clouds_may_be_given_for_the_check(model: PVCNN, scene: Cloud, tmp_path: Path) -> None:
    path = write_ply(tmp_path / "a.ply", scene.xyz, intensity=scene.fields["intensity"])
    (real,) = model.real_inputs(path)
    chunk = list(model.example_inputs("step", steps=2, batch=1, seed=0, frames=[real]))[1]
    assert chunk["points"].shape[1] == 5 and np.isfinite(chunk["points"]).all()


def test_what_cannot_be_exported_is_refused(model: PVCNN, exported: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`form` must be one of scatter, tables"):
        model.export(tmp_path / "a.onnx", form="other")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no int8 of point networks"):
        model.export(tmp_path / "a.onnx", int8="cpu")
    with pytest.raises(InputError, match="no int8 of point networks"):
        model.export_kit("onnx", tmp_path / "kit", int8="cpu")
    with pytest.raises(InputError, match="copy that file"):
        PVCNN.from_pretrained(exported["scatter"]).export(tmp_path / "a.onnx")
    with pytest.raises(ModelFileError, match="depends on its open axes points"):
        model.runtime.multiply_adds("step", 1)
    with pytest.raises(ModelFileError, match="an open axis of `points`"):
        PVCNN.from_pretrained(exported["scatter"]).runtime.multiply_adds("step", 1)
    assert list(tmp_path.iterdir()) == []


def test_a_file_runs_without_torch_and_open3d(exported: Any, model: PVCNN, scene: Cloud, tmp_path: Path) -> None:
    cloud = write_ply(tmp_path / "a.ply", scene.xyz, intensity=scene.fields["intensity"])
    program = (
        "import sys, json\n"
        "for name in ('torch', 'open3d', 'laspy', 'gradio'): sys.modules[name] = None\n"
        "from effvision import cards\n"
        "from cloud_cards import CARDS\n"
        "cards._read_all = lambda: {card.name: card for card in CARDS}\n"
        "from effvision import PVCNN\n"
        f"result = PVCNN.from_pretrained({str(exported['scatter'].path)!r}).predict({str(cloud)!r})\n"
        "print(json.dumps(result.counts))\n"
    )
    kit = Path(__file__).resolve().parents[2] / "kit"
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path,
        env={"PYTHONPATH": f"{root}:{kit}", "PATH": "/usr/bin", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == model.predict(scene).counts


@pytest.fixture(scope="module")
def zoo() -> Any:
    spec = importlib.util.spec_from_file_location("pvcnn_zoo", Path(__file__).resolve().parents[2] / "test_zoo.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_small_cards_pass_the_zoo(zoo: Any, tmp_path: Path) -> None:
    for card in CARDS:
        cloud = small_sample(str(card.preprocess["kind"]))
        fields = {name: values for name, values in cloud.fields.items() if name != "rgb"}
        small = write_ply(tmp_path / f"{card.name}.ply", cloud.xyz, rgb=cloud.fields.get("rgb"), **fields)
        zoo.test_says_what_it_is(card)
        zoo.test_predicts(card, lambda card, small=small: small)
        zoo.test_streams_or_refuses_with_a_reason(card, lambda card, small=small: small)
        zoo.test_a_reset_forgets_everything(card)
        zoo.test_what_is_no_input_is_refused_with_our_own_error(card)
        (tmp_path / card.name).mkdir()
        zoo.test_a_saved_session_goes_on_as_if_nothing_happened(card, tmp_path / card.name)


def test_the_export_of_a_small_card_passes_the_zoo(zoo: Any, tmp_path: Path) -> None:
    zoo.test_exports_and_the_file_equals_pytorch(CARDS[0], tmp_path)


@pytest.mark.parametrize("form", ["scatter", "tables"])
def test_half_precision_keeps_what_decides_a_voxel(form: Any, model: PVCNN, scene: Cloud, tmp_path: Path) -> None:
    report = model.export(tmp_path / "half.onnx", half=True, form=form)
    assert report.precision is not None and report.precision.relative_rms < 5e-3  # type: ignore[union-attr]
    wanted, got = model.predict(scene), PVCNN.from_pretrained(report).predict(scene)
    assert (got.labels == wanted.labels).mean() > 0.98 and np.abs(got.scores - wanted.scores).max() < 0.05
