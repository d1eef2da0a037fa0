"""Sparse networks as files: clouds of any size, in ONNX Runtime, without PyTorch, as kits, and through the zoo's own tests."""

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

from effvision.clouds import Cloud
from effvision.errors import InputError, ModelFileError
from effvision.models.minkunet.assemble import build
from effvision.models.minkunet.convert import from_reference
from effvision.models.minkunet.inputs import parse_input
from effvision.models.minkunet.labelling import fed
from effvision.models.minkunet.predictor import SPVCNN, MinkUNet, SparsePredictor
from effvision.models.minkunet.sample import small_sample
from effvision.sample_scenes import sample_scene
from effvision.sources import open_cloud, write_ply
from kits import call_kit
from sparse_cards import CARDS, LABELS, NARROW, POINTS, SCENE, add_cards

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def cards(monkeypatch: pytest.MonkeyPatch) -> None:
    add_cards(monkeypatch)


@pytest.fixture(scope="module")
def scene() -> Cloud:
    return sample_scene(1, side_m=30.0, points_per_m2=2.0)


def made(kind: type[SparsePredictor], inputs: dict[str, Any]) -> SparsePredictor:
    torch.manual_seed(0)
    network = build(4, parse_input(inputs), network=kind.network, channels=NARROW).eval()
    with torch.no_grad():  # answers that differ from point to point
        for parameter in network.parameters():
            parameter.mul_(1.5)
    return kind.from_network(network, labels=LABELS, inputs=inputs)


@pytest.fixture(scope="module")
def models() -> dict[str, SparsePredictor]:
    return {"minkunet": made(MinkUNet, SCENE), "spvcnn": made(SPVCNN, POINTS)}


@pytest.fixture(scope="module")
def exported(models: dict[str, SparsePredictor], tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("exported")
    return {
        "minkunet": models["minkunet"].export(folder / "minkunet.onnx"),
        "spvcnn": models["spvcnn"].export(folder / "spvcnn.onnx", batch="dynamic"),
    }


NAMES = pytest.mark.parametrize("name", ["minkunet", "spvcnn"])


@NAMES
def test_a_file_labels_like_pytorch(name: str, exported: Any, models: Any, scene: Cloud) -> None:
    file = SparsePredictor.from_pretrained(exported[name])
    assert type(file) is type(models[name]) and file.runtime.name == "onnx"
    assert file.labels == LABELS and file.fields == ("intensity",)
    wanted, got = models[name].predict(scene), file.predict(scene)
    assert len(set(wanted.labels.tolist())) > 1
    np.testing.assert_array_equal(got.labels, wanted.labels)
    np.testing.assert_allclose(got.scores, wanted.scores, atol=1e-5)


@NAMES
def test_clouds_of_any_size_and_shape_go_in(name: str, exported: Any, models: Any) -> None:
    file, model = type(models[name]).from_pretrained(exported[name]), models[name]
    rng = np.random.default_rng(0)
    far = np.array([[0, 0, 0], [300, 0, 0]])
    clouds = [far, rng.uniform(0, 3, (3, 3)), rng.uniform(0, 4, (900, 3)), rng.uniform(0, 90, (400, 3))]
    clouds += [np.argwhere(np.ones((9, 9, 9))) * 0.5, np.repeat(far, 60, axis=0)]
    for xyz in clouds:
        cloud = {"xyz": xyz.astype(np.float32), "intensity": rng.uniform(1, 9, len(xyz)).astype(np.float32)}
        np.testing.assert_allclose(file.predict(cloud).scores, model.predict(cloud).scores, atol=1e-5)


@NAMES
def test_several_threads_give_the_same_sums(name: str, exported: Any, models: Any) -> None:
    one, four = (SparsePredictor.from_pretrained(exported[name], threads=count) for count in (1, 4))
    inputs = list(models[name].example_inputs("step", steps=2, batch=2, seed=3))
    for _ in range(3):
        for arrays in inputs:
            wanted, _ = one.runtime.step(arrays, one.initial_state())
            got, _ = four.runtime.step(arrays, four.initial_state())
            scale = float(np.abs(wanted["logits"]).max())
            np.testing.assert_allclose(got["logits"], wanted["logits"], atol=1e-5 * max(1.0, scale))


@NAMES
def test_a_file_holds_plain_operators_and_little_besides_its_weights(name: str, exported: Any, models: Any) -> None:
    graph = onnx.load(exported[name]).graph
    kinds = {node.op_type for node in graph.node}
    assert kinds <= {
        "Add",
        "Concat",
        "Gather",
        "Gemm",
        "MatMul",
        "Mul",
        "Pad",
        "ReduceSum",
        "Relu",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
    }
    assert exported[name].warnings == () and exported[name].opset == 17
    weights = sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)
    network = models[name].runtime.modules["step"].network
    assert weights < sum(value.numel() for value in network.parameters()) + 200


@NAMES
def test_the_check_saw_every_kind_of_table_filled_and_no_size_twice(name: str, models: Any) -> None:
    noise, real = models[name].example_inputs("step", steps=2, batch=1, seed=0)
    for key, array in noise.items():
        assert len(array) > 1, key
    assert len(noise["feats"]) != len(real["feats"])
    both = next(iter(models[name].example_inputs("step", steps=2, batch=2, seed=0)))
    assert len(both["feats"]) > 1.5 * len(noise["feats"])


def test_real_clouds_may_be_given_for_the_check(models: Any, scene: Cloud, tmp_path: Path) -> None:
    path = write_ply(tmp_path / "a.ply", scene.xyz, intensity=scene.fields["intensity"])
    (real,) = models["minkunet"].real_inputs(path)
    _, given = models["minkunet"].example_inputs("step", steps=2, batch=1, seed=0, frames=[real])
    np.testing.assert_array_equal(given["feats"], models["minkunet"].inputs.arrays(real)["feats"])


def test_what_cannot_be_exported_is_refused(models: Any, exported: Any, tmp_path: Path) -> None:
    model = models["minkunet"]
    with pytest.raises(InputError, match=r"one form, `tables`; got 'scatter'\nhint: "):
        model.export(tmp_path / "a.onnx", form="scatter")
    for refused in (
        lambda: model.export(tmp_path / "a.onnx", int8="cpu"),
        lambda: model.export_kit("onnx", tmp_path / "k", int8="cpu"),
    ):
        with pytest.raises(InputError, match="no int8 of point networks"):
            refused()
    with pytest.raises(InputError, match="copy that file"):
        SparsePredictor.from_pretrained(exported["minkunet"]).export(tmp_path / "a.onnx")
    with pytest.raises(ModelFileError, match="depends on its open axes"):
        model.runtime.multiply_adds("step", 1)
    for target in ("jp51", "jp62", "jp72"):
        with pytest.raises(
            InputError, match=r"(?s)no kit of sparse networks for JetPack.*TensorRT.*hint: --target onnx"
        ):
            model.export_kit(target, tmp_path / "kit")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ModelFileError, match="is a SPVCNN, not a MinkUNet"):
        MinkUNet.from_pretrained(exported["spvcnn"])


def test_a_file_runs_without_torch_and_open3d(exported: Any, models: Any, scene: Cloud, tmp_path: Path) -> None:
    cloud = write_ply(tmp_path / "a.ply", scene.xyz, intensity=scene.fields["intensity"])
    program = (
        "import sys\n"
        "for name in ('torch', 'open3d', 'laspy', 'gradio'): sys.modules[name] = None\n"
        "from effvision.cli import main\n"
        f"sys.exit(main(['run', {str(exported['spvcnn'].path)!r}, {str(cloud)!r}, '--json']))\n"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"] == models["spvcnn"].predict(scene).counts


def test_a_kit_verifies_itself_and_answers_what_the_predictor_does(models: Any, scene: Cloud, tmp_path: Path) -> None:
    model = models["spvcnn"]
    report = model.export_kit("onnx", tmp_path / "kit")
    assert "verified" not in report.verified and "labels" in report.verified
    scan = write_ply(tmp_path / "scan.ply", scene.xyz, intensity=scene.fields["intensity"])
    done = call_kit(report.folder, str(scan), "--save", str(tmp_path / "out.ply"))
    assert done.returncode == 0, done.stderr
    wanted, got = model.predict(scan), open_cloud(tmp_path / "out.ply")
    np.testing.assert_array_equal(got.fields["label"], wanted.labels)
    np.testing.assert_allclose(got.fields["score"], wanted.scores, atol=1e-5)
    text = (report.folder / "README.md").read_text("utf-8")
    assert "@" not in text and "`intensity`" in text
    sources = "".join(path.read_text("utf-8") for path in (report.folder / "points").rglob("*.py"))
    assert "import torch" not in sources and "from effvision" not in sources
    with np.load(report.folder / "golden.npz", allow_pickle=False) as file:
        golden = {name: file[name] for name in file.files}
    np.savez(report.folder / "golden.npz", **{**golden, "logits": golden["logits"] + 1})
    done = call_kit(report.folder, "--verify", "golden.npz")
    assert done.returncode == 1 and "BAD  network" in done.stderr


# -- the zoo -------------------------------------------------------------------------------------------------------------


def test_small_cards_pass_the_zoo(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("sparse_zoo", Path(__file__).resolve().parents[2] / "test_zoo.py")
    assert spec is not None and spec.loader is not None
    zoo: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(zoo)
    for card in CARDS:
        cloud = small_sample(str(card.preprocess["kind"]))
        fields = {name: values for name, values in cloud.fields.items() if name != "rgb"}
        small = write_ply(tmp_path / f"{card.name}.ply", cloud.xyz, **fields)
        zoo.test_says_what_it_is(card)
        zoo.test_predicts(card, lambda card, small=small: small)
        zoo.test_streams_or_refuses_with_a_reason(card, lambda card, small=small: small)
        zoo.test_a_reset_forgets_everything(card)
        zoo.test_what_is_no_input_is_refused_with_our_own_error(card)
        (tmp_path / card.name).mkdir()
        zoo.test_a_saved_session_goes_on_as_if_nothing_happened(card, tmp_path / card.name)


# -- the authors' network ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_golden_onnx_runtime_answers_on_the_real_scan_as_the_authors_code_does(shared: Path, tmp_path: Path) -> None:
    golden = shared / "golden" / "sparse"
    spec = importlib.util.spec_from_file_location("sparse_recipe", golden / "recipe.py")
    assert spec is not None and spec.loader is not None
    recipe: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    state = recipe.make_state(json.loads((golden / "minkunet_cr0p5.keys.json").read_text("utf-8")))
    network = from_reference({key: torch.from_numpy(value) for key, value in state.items()}, width=0.5)
    inputs = {"kind": "scan", "voxel_m": 0.05}
    model = MinkUNet.from_network(network, labels=[f"class {index}" for index in range(19)], inputs=inputs)
    file = MinkUNet.from_pretrained(model.export(tmp_path / "real.onnx"), threads=1)
    arrays = file.inputs.arrays(open_cloud(shared / "data" / "semantickitti" / "000000.bin"))
    outputs, _ = file.runtime.step(fed(arrays["coords"], arrays["feats"], file.metadata.options), file.initial_state())
    with np.load(golden / "minkunet_cr0p5.npz") as stored:
        wanted = {name: stored[name] for name in stored.files}
    got = np.asarray(outputs["logits"])
    assert got.shape == (94_625, 19)
    assert (got.argmax(axis=1) == wanted["argmax"]).mean() >= 0.999
    assert (np.abs(got[wanted["rows"]] - wanted["row_values"]) <= 1e-4 * wanted["std"]).all()
