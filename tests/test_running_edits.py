"""`effvision run`, `sample`, `info` and `bench` of a model that edits pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from effvision.cli import main

pytest.importorskip("torch")
cv2 = pytest.importorskip("cv2")

RUN = ["run", "sige-scenes", "--runtime", "torch"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A label map in colours, as `effvision sample` writes it."""
    path = tmp_path_factory.mktemp("scene") / "scene.png"
    assert main(["sample", "sige-scenes", "--out", str(path), "--seed", "3"]) == 0
    return path


@pytest.fixture(scope="module")
def edits(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three label maps, painted on with a picture editor so to say."""
    folder = tmp_path_factory.mktemp("edits")
    picture = cv2.imread(str(scene))
    for number in (1, 2, 10):
        cv2.imwrite(str(folder / f"{number}.png"), picture)
        picture[200:210, 20 * number : 20 * number + 20] = (178, 112, 52)  # water, as OpenCV orders channels
    return folder


def test_a_label_map_becomes_a_picture(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, str(scene), "--save", str(tmp_path / "picture.png")]) == 0
    told = capsys.readouterr()
    assert "computed 100.0%" in told.out and "wrote" in told.err
    assert cv2.imread(str(tmp_path / "picture.png")).shape == (256, 256, 3)


def test_a_folder_is_a_list_of_edits(edits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, str(edits), "--json", "--mode", "exact", "--save", str(tmp_path)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    shares = [line["computed_fraction"] for line in lines]
    assert (
        [line["index"] for line in lines] == [0, 1, 2]
        and shares[0] == 1
        and all(0 < share < 0.5 for share in shares[1:])
    )
    left, top, right, bottom = lines[2]["changed_box"]
    assert left <= 40 and right >= 60 and top <= 200 and bottom >= 210  # 10.png comes last
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0000.png", "0001.png", "0002.png"]
    words = [str(edits / f"{number}.png") for number in (1, 2, 10)]
    assert main([*RUN, *words, "--json", "--mode", "exact"]) == 0
    again = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["macs"] for line in again] == [line["macs"] for line in lines]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--smooth", "3"], "--smooth"),
        (["--columns", "x,y,z"], "--columns"),
        (["--box", "1", "2", "3", "4"], "--box"),
        (["--save", "picture.mp4"], "picture.mp4"),
    ],
)
def test_options_for_other_models_are_refused(
    scene: Path, more: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RUN, str(scene), *more]) == 2
    assert told in capsys.readouterr().err


def test_mode_is_for_models_that_edit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cloud = tmp_path / "a.npy"
    np.save(cloud, np.zeros((4, 3), np.float32))
    assert main(["run", "pvcnn-lidarhd", str(cloud), "--mode", "exact"]) == 2
    assert "--mode is for models that edit pictures" in capsys.readouterr().err


def test_what_is_read_is_not_written_over(edits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in edits.iterdir()}
    for source, target in ((edits, edits), (edits / "1.png", edits / "1.png"), (edits / "1.png", edits)):
        assert main([*RUN, str(source), "--save", str(target)]) == 1
        assert "which is read" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in edits.iterdir()} == before


def test_a_map_that_cannot_be_used_ends_the_run_with_its_name(
    edits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "small.npy", np.zeros((9, 9), np.uint8))
    assert main([*RUN, str(edits / "1.png"), str(tmp_path / "small.npy")]) == 2
    told = capsys.readouterr()
    assert "small.npy" in told.err and "9 x 9" in told.err and len(told.out.splitlines()) == 1


def test_bench_times_a_full_pass_and_edits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "sige-scenes", "--runtime", "torch", "--runs", "1", "--warmup", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["edits"]) == {"1%", "5%", "15%"} and found["full_ms"] > 0 and found["network_ms"] > 0
    computed = [found["edits"][share]["computed"] for share in ("1%", "5%", "15%")]
    assert 0.01 < computed[0] < computed[2] <= 1
    assert main(["bench", "sige-scenes", "--runtime", "torch", "--streams", "2"]) == 2
    assert "hint: leave --vs and --streams out" in capsys.readouterr().err
    assert main(["bench", "sige-scenes", "--runtime", "torch", "--runs", "1", "--warmup", "1", "--mode", "exact"]) == 0
    assert "mode exact" in capsys.readouterr().out
    assert main(["bench", "patchnet-synthetic", "--mode", "exact"]) == 2
    assert "edits nothing" in capsys.readouterr().err


def test_info_names_the_classes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "sige-scenes", "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["labels"][:2] == ["sky", "cloud"] and about["input"]["size"] == [256, 256]
