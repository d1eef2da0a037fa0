"""`effvision run` and `effvision sample` with models that label clouds of points."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_cards import CARDS, add_cards
from effvision.cli import main
from effvision.sources import open_cloud, write_ply

torch = pytest.importorskip("torch")
CARD = CARDS[0].name
MOTION = "tsm-mobilenetv2-motion"


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A small network with random weights stands for the card's."""
    from effvision.models.pvcnn.predictor import PVCNN

    add_cards(monkeypatch)
    made = PVCNN.untrained(CARD)

    def load(options: argparse.Namespace) -> Any:
        return made if options.model == CARD else pytest.fail("another model was loaded")

    monkeypatch.setattr("effvision.cli._load", load)
    return made


@pytest.fixture
def scans(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "in"
    folder.mkdir()
    return [write(folder / name, points) for name, points in (("a.ply", 300), ("b.ply", 200))]


def write(path: Path, points: int) -> Path:
    rng = np.random.default_rng(points)
    xyz = rng.uniform(0, 20, (points, 3)).astype(np.float32)
    return write_ply(path, xyz, intensity=rng.uniform(1, 900, points).astype(np.float32))


def run(*words: object) -> int:
    return main(["run", CARD, *map(str, words)])


def test_one_cloud_gives_a_table_of_its_classes(
    scans: list[Path], model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(scans[0]) == 0
    told = capsys.readouterr()
    counts = model.predict(scans[0]).counts
    lines = told.out.splitlines()
    assert lines[0] == f"{scans[0]}: 300 points"
    for line, (name, count) in zip(lines[1:], counts.items(), strict=True):
        found = re.match(r"  (.+?)  +([0-9,]+)  +([0-9.]+) %", line)
        assert found is not None and found[1] == name and int(found[2]) == count
        assert float(found[3]) == pytest.approx(count / 3, abs=0.06)
    assert "300 points in" in told.err and "network and votes" in told.err


def test_save_writes_the_cloud_in_the_colours_of_its_classes(
    scans: list[Path], model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "coloured.ply"
    assert run(scans[0], "--save", out) == 0
    assert f"wrote {out}" in capsys.readouterr().err
    labelled, wanted = open_cloud(out), model.predict(scans[0])
    np.testing.assert_array_equal(labelled.field("label"), wanted.labels)
    np.testing.assert_array_equal(labelled.field("rgb"), wanted.rgb)
    np.testing.assert_allclose(labelled.xyz, wanted.cloud.xyz)
    for name in ("x.png", "x.npz", "x.json"):
        assert run(scans[0], "--save", tmp_path / name) == 0
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "x.json").read_text())["counts"] == wanted.counts
    with np.load(tmp_path / "x.npz", allow_pickle=False) as saved:
        np.testing.assert_array_equal(saved["label"], wanted.labels)


def test_json_gives_one_object_a_file(scans: list[Path], model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*scans, "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["source"] for line in lines] == list(map(str, scans))
    assert [line["points"] for line in lines] == [300, 200]
    assert lines[1]["counts"] == model.predict(scans[1]).counts and lines[0]["timing"]["total_ms"] > 0


def test_several_files_go_into_a_folder(scans: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert run(scans[0].parent, "--save", out) == 0
    assert sorted(path.name for path in out.iterdir()) == ["a.ply", "b.ply"]
    assert "2 of 2 clouds, 500 points" in capsys.readouterr().err
    assert run(scans[0].parent, "--save", tmp_path / "one.ply") == 2
    assert "takes a folder that exists" in capsys.readouterr().err
    assert run(scans[0].parent, "--save", scans[0].parent) == 1
    assert "would write over" in capsys.readouterr().err
    assert len(open_cloud(scans[0]).fields) == 1
    other = write(tmp_path / "a.ply", 50)
    assert run(scans[0], other, "--save", out) == 0
    assert {"1-a.ply", "2-a.ply"} <= {path.name for path in out.iterdir()}


def test_one_bad_file_of_several_is_told_and_the_others_go_on(
    scans: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.ply"
    bad.write_bytes(b"ply\nformat")
    assert run(scans[0], bad, tmp_path / "absent.ply", scans[1]) == 1
    told = capsys.readouterr()
    assert "300 points" in told.out and "200 points" in told.out
    assert "bad.ply" in told.err and "absent.ply does not exist" in told.err and "2 of 4 clouds" in told.err


def test_a_bad_file_alone_fails_and_writes_nothing(
    scans: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = write_ply(tmp_path / "plain.ply", np.zeros((9, 3), np.float32))
    assert run(plain, "--save", tmp_path / "out.ply") == 2
    told = capsys.readouterr()
    assert told.out == "" and "lacks `intensity`" in told.err and "hint: " in told.err
    assert not (tmp_path / "out.ply").exists()
    assert run(tmp_path / "absent.las") == 1
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["clip.mp4", "picture.jpg", "0", "rtsp://camera/1", "csi://0"])
def test_frames_are_refused(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(source) == 2
    told = capsys.readouterr().err
    assert "labels clouds of points" in told and "hint: give files of points" in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--smooth", "3"], "--smooth is for streams of frames"),
        (["--every-frame"], "--every-frame is for streams of frames"),
        (["--save", "out.mp4"], "--save writes a labelled cloud as .ply"),
        (["--save", "out.xyz"], "--save writes"),
    ],
    ids=["smooth", "every", "video", "suffix"],
)
def test_options_of_frames_are_refused(
    options: list[str], message: str, scans: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(scans[0], *options) == 2
    assert message in capsys.readouterr().err


def test_show_points_at_pictures_and_viewers(scans: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("effvision.running.check_screen", lambda: None)
    assert run(scans[0], "--show") == 2
    assert "--save picture.png" in capsys.readouterr().err


def test_a_model_of_frames_refuses_clouds(
    scans: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Frames:
        takes = "frames"
        streams = True

    monkeypatch.setattr("effvision.cli._load", lambda options: Frames())
    assert main(["run", MOTION, str(scans[0])]) == 2
    told = capsys.readouterr().err
    assert f"{MOTION} judges pictures" in told and "hint: `effvision list`" in told
    assert main(["run", MOTION, "clip.mp4", "--save", "coloured.ply"]) == 2
    assert "of frames; got 'coloured.ply'" in capsys.readouterr().err
    assert main(["run", MOTION, "clip.mp4", "--save", str(scans[0].parent)]) == 2


def test_sample_writes_a_cloud_that_the_card_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sample.ply"
    assert main(["sample", CARD, "--out", str(out)]) == 0
    assert f"try: effvision run {CARD} {out} --save labelled.ply" in capsys.readouterr().out
    assert run(out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["points"] == len(open_cloud(out))
    assert main(["sample", CARD, "--out", str(tmp_path / "sample.mp4")]) == 2


def test_nothing_that_is_read_or_written_is_written_over(
    scans: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = scans[0].read_bytes()
    assert run(scans[0], "--save", scans[0]) == 1
    assert "would write over" in capsys.readouterr().err and scans[0].read_bytes() == before
    out, other = tmp_path / "out", tmp_path / "other"
    out.mkdir(), other.mkdir()
    assert run(scans[0], write(other / "a.ply", 50), write(other / "1-a.ply", 60), "--save", out) == 0
    assert sorted(len(open_cloud(path)) for path in out.iterdir()) == [50, 60, 300]


def test_columns_without_names_and_points_without_a_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.random.default_rng(0).uniform(0, 20, (100, 5))
    rows[3, 1] = np.nan
    path = tmp_path / "table.txt"
    np.savetxt(path, rows)
    assert run(path, "--columns", "x,y,z,_,intensity") == 2
    assert "--drop-nonfinite" in capsys.readouterr().err
    assert run(path, "--columns", "x,y,z,_,intensity", "--drop-nonfinite") == 0
    assert "99 points" in capsys.readouterr().out


def test_with_json_a_file_that_failed_has_its_line(scans: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    bad = scans[0].parent / "c.ply"
    bad.write_bytes(b"ply\nformat")
    assert run(scans[0].parent, "--json") == 1
    told = capsys.readouterr()
    lines = [json.loads(line) for line in told.out.splitlines()]
    assert [line["source"] for line in lines] == [*map(str, scans), str(bad)] and str(bad) in lines[2]["error"]
    assert told.err.count(str(bad)) == 1


def test_a_readme_beside_the_scans_is_no_scan(scans: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    (scans[0].parent / "readme.txt").write_text("Scans of 2024.\nTwo files, 500 points.\n")
    (scans[0].parent / "c.txt").write_text("x y z intensity\n" + "1.5 2 -3e1 7\n4 5 6 8\n" * 3)
    assert run(scans[0].parent) == 0
    assert "3 of 3 clouds, 506 points" in capsys.readouterr().err
