"""A kit for clouds does on a device what the predictor does here: without this package, and on an old Python."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_cards import add_cards
from effvision.errors import ExportError, InputError, SourceError
from effvision.export.vendored import vendored
from effvision.models.pvcnn.predictor import PVCNN
from effvision.models.pvcnn.sample import small_sample
from effvision.sources import open_cloud, write_ply
from kits import call_kit

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of both forms: TensorRT 8 takes tables; and of one object."""
    folder = tmp_path_factory.mktemp("kits")
    with pytest.MonkeyPatch.context() as patch:
        add_cards(patch)
        made = {
            "tables": ("pvcnn-tiny", "jp51"),
            "scatter": ("pvcnn-tiny", "onnx"),
        }
        return {
            name: (PVCNN.untrained(card), PVCNN.untrained(card).export_kit(target, folder / name))
            for name, (card, target) in made.items()
        }


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    cloud = small_sample("scene")
    fields = {name: values for name, values in cloud.fields.items() if name not in ("rgb", "normal")}
    return write_ply(tmp_path / "scan.ply", cloud.xyz + np.array([770_000.0, 6_277_000.0, 0.0]), **fields)


@pytest.mark.parametrize("form", ["tables", "scatter"])
def test_a_kit_verifies_itself_and_answers_what_the_predictor_does(
    kits: dict[str, Any], form: str, scan: Path, tmp_path: Path
) -> None:
    model, report = kits[form]
    done = call_kit(report.folder, "--verify", "golden.npz", "--provider", "cpu")
    assert done.returncode == 0 and "verified on CPUExecutionProvider" in done.stderr, done.stderr
    done = call_kit(report.folder, str(scan), "--save", str(tmp_path / "out.ply"))
    assert done.returncode == 0, done.stderr
    wanted, got = model.predict(scan), open_cloud(tmp_path / "out.ply")
    np.testing.assert_array_equal(got.fields["label"], wanted.labels)
    np.testing.assert_allclose(got.fields["score"], wanted.scores, atol=1e-5)
    np.testing.assert_array_equal(got.fields["rgb"], wanted.rgb)
    np.testing.assert_allclose(got.world(), open_cloud(scan).world(), atol=1e-3)
    (line,) = call_kit(report.folder, str(scan), "--json").stdout.splitlines()
    assert json.loads(line)["counts"] == wanted.counts


def test_the_form_follows_from_the_target(kits: dict[str, Any]) -> None:
    onnx = pytest.importorskip("onnx")
    for form, (_, report) in kits.items():
        operators = {node.op_type for node in onnx.load(report.folder / "model.onnx").graph.node}
        assert ("ScatterElements" in operators) is (form == "scatter")


def test_a_kit_imports_nothing_of_ours_and_no_pytorch(kits: dict[str, Any], scan: Path) -> None:
    program = (
        "import runpy, sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, *more):\n"
        "        if name.partition('.')[0] in ('effvision', 'torch', 'tqdm', 'cv2'):\n"
        "            raise ImportError('not on a board: ' + name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "sys.path.insert(0, '.')\n"
        f"sys.argv = ['runner.py', {str(scan)!r}]\n"
        "runpy.run_path('runner.py', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=kits["tables"][1].folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "points in" in done.stdout, done.stderr


def test_bad_clouds_are_told_and_the_others_go_on(kits: dict[str, Any], scan: Path, tmp_path: Path) -> None:
    folder = kits["scatter"][1].folder
    bad = tmp_path / "bad.ply"
    bad.write_bytes(b"ply\nformat")
    out = tmp_path / "out"
    out.mkdir()
    done = call_kit(folder, str(bad), str(scan), "--save", str(out))
    assert done.returncode == 1 and "bad.ply" in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in out.iterdir()] == ["scan.ply"]
    before = scan.read_bytes()
    done = call_kit(folder, str(scan), "--save", str(scan))
    assert done.returncode == 1 and "would write over" in done.stderr and scan.read_bytes() == before
    assert call_kit(folder, "--verify", "model.json").returncode == 1


def test_wrong_weights_and_wrong_numbers_do_not_verify(kits: dict[str, Any], tmp_path: Path) -> None:
    folder = shutil.copytree(kits["scatter"][1].folder, tmp_path / "kit")
    with np.load(folder / "golden.npz", allow_pickle=False) as file:
        golden = {name: file[name] for name in file.files}
    for name, words in (("logits", "BAD  network"), ("points", "BAD  preparation")):
        np.savez(folder / "golden.npz", **{**golden, name: golden[name] + 1})
        done = call_kit(folder, "--verify", "golden.npz")
        assert done.returncode == 1 and words in done.stderr and "NOT VERIFIED" in done.stderr
    np.savez(folder / "golden.npz", **{**golden, "labels": golden["labels"] + 1})
    assert "BAD  labels" in call_kit(folder, "--verify", "golden.npz").stderr
    np.savez(folder / "golden.npz", **{**golden, "weights": np.array("others")})
    assert "other weights" in call_kit(folder, "--verify", "golden.npz").stderr


def test_python_3_8_runs_it(kits: dict[str, Any], scan: Path) -> None:
    """Its own modules at least; ONNX Runtime for so old a Python may not be at hand."""
    python = shutil.which("python3.8")
    works = python and subprocess.run([python, "-c", "import numpy"], capture_output=True, check=False).returncode == 0
    if not works:
        pytest.skip("there is no Python 3.8 with numpy here: its syntax was checked when the kit was written")
    program = f"from points import open_cloud; print(len(open_cloud({str(scan)!r})))"
    done = subprocess.run(
        [str(python), "-c", program], cwd=kits["tables"][1].folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and int(done.stdout) > 0, done.stderr


def test_the_readme_has_no_gap_and_names_the_fields(kits: dict[str, Any]) -> None:
    model, report = kits["tables"]
    text = (report.folder / "README.md").read_text("utf-8")
    assert "@" not in text and "`intensity`" in text and "JetPack 5.1" in text and report.verified in text
    assert all((report.folder / name.rstrip("/")).exists() for name in ("points", "runner.py", "golden.npz"))
    assert (report.folder / "labels.txt").read_text("utf-8").split("\n")[:-1] == list(model.labels)


def test_what_a_kit_cannot_be_is_refused(kits: dict[str, Any], tmp_path: Path) -> None:
    model, report = kits["scatter"]
    with pytest.raises(InputError, match=r"need Python 3.8, and JetPack 4.6 has 3.6\nhint: "):
        model.export_kit("jetson-nano", tmp_path / "kit")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.txt").write_text("mine")
    with pytest.raises(SourceError, match=r"holds mine\.txt"):
        model.export_kit("onnx", tmp_path / "own")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own"]
    again = shutil.copytree(report.folder, tmp_path / "kit")
    assert model.export_kit("onnx", again).folder == again  # an earlier kit is replaced


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 'a'.removesuffix('b')\n", "removesuffix"),
        ("x = {'a': 1} | {'b': 2}\n", "joined dicts"),
        ("def f(x):\n    x |= {}\n", "may join dicts"),
        ("match 1:\n    case _:\n        pass\n", "cannot be written for Python 3.8"),
    ],
)
def test_what_python_3_8_has_not_is_seen(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "module.py"
    path.write_text(text)
    monkeypatch.setattr("effvision.export.vendored._source", lambda name: path)
    with pytest.raises(ExportError, match=words):
        vendored({"x": "effvision.module"}, "points")


def test_annotations_and_types_are_left_out_and_the_rest_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "from numpy.typing import NDArray\n"
        "Table = dict[str, NDArray] | None\n"
        "LIMIT = 3 * 5\n"
        "def f(a: int | None, *b: str, c: list[int] = ()) -> Table:\n"
        "    return list(zip(b, c, strict=True))\n"
    )
    monkeypatch.setattr("effvision.export.vendored._source", lambda name: path)
    files = vendored({"f": "effvision.some.module"}, "points")
    assert set(files) == {"points/__init__.py", "points/_typing.py", "points/some/__init__.py", "points/some/module.py"}
    text = files["points/some/module.py"]
    assert "from points._typing import NDArray" in text and "Table = None" in text and "LIMIT = 3 * 5" in text
    assert "def f(a, *b, c=()):" in text and "zip(b, c)" in text
    assert "from points.some.module import f" in files["points/__init__.py"]


def test_half_precision_and_the_users_own_large_cloud(kits: dict[str, Any], tmp_path: Path) -> None:
    model, _ = kits["scatter"]
    rng = np.random.default_rng(0)
    xyz = rng.uniform(0, 400, (90_000, 3)).astype(np.float32)
    xyz[:, 2] *= 0.01
    path = write_ply(tmp_path / "survey.ply", xyz, intensity=rng.uniform(1, 900, len(xyz)).astype(np.float32))
    report = model.export_kit("jp62", tmp_path / "kit", frames=path, half=True)
    with np.load(report.folder / "golden.npz", allow_pickle=False) as file:
        kept = file["xyz"]
    assert len(kept) == 30_000 and np.abs(kept[:, :2] - 200).max() < 130  # the middle of it
    done = call_kit(report.folder, "--verify", "golden.npz", "--provider", "cpu")
    assert done.returncode == 0 and "fp16" in done.stderr, done.stderr
    assert "float16" in (report.folder / "README.md").read_text("utf-8")
