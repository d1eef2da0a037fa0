"""`effvision run` with models that follow objects: boxes on the command line, or a detector's key frames."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector_files import finds_square
from effvision.cli import main
from effvision.host.boxes import box_iou
from effvision.models.patchnet.sample import FIRST_BOXES, SIZE, render
from effvision.sources import VideoWriter, open_source

pytest.importorskip("onnxruntime")
FRAMES = 14
BOX = ("--box", *(str(round(side)) for side in FIRST_BOXES[0]))


@pytest.fixture(scope="module")
def balloons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "balloons.mp4"
    with VideoWriter(path, fps=25, size=SIZE) as video:
        for image, _ in render(FRAMES):
            video.write(image)
    return path


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bright square that moves over a dark ground, and a detector that finds it."""
    folder = tmp_path_factory.mktemp("squares")
    ground = np.random.default_rng(0).integers(0, 60, (96, 144, 3)).astype(np.uint8)
    with VideoWriter(folder / "square.mp4", fps=25, size=(96, 144)) as video:
        for index in range(FRAMES):
            picture = ground.copy()
            picture[30:58, 20 + 2 * index : 48 + 2 * index] = 250
            video.write(picture)
    return folder / "square.mp4", finds_square(folder / "square.onnx")


def run(*words: object) -> int:
    return main(["run", "patchnet", *map(str, words)])


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_box_is_followed_and_every_frame_is_told(balloons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(balloons, *BOX, "--json") == 0
    told = lines(capsys.readouterr().out)
    assert [one["index"] for one in told] == list(range(FRAMES))
    truth = [boxes[0] for _, boxes in islice(render(FRAMES), FRAMES)]
    for one, true in zip(told, truth, strict=True):
        (found,) = one["objects"]
        assert found["id"] == 1 and found["lost"] is False
        assert box_iou([found["box"]], [true])[0, 0] > 0.8


def test_corner_and_size_say_the_same_as_two_corners(balloons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x1, y1, x2, y2 = FIRST_BOXES[0]
    answers = []
    for words in (BOX, ("--box-xywh", x1, y1, x2 - x1, y2 - y1)):
        assert run(balloons, *words, "--json") == 0
        answers.append([one["objects"] for one in lines(capsys.readouterr().out)])
    assert answers[0] == answers[1]


def test_people_are_told_who_is_followed_and_the_video_is_written(
    balloons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = [round(side) for side in FIRST_BOXES[1]]
    assert run(balloons, *BOX, "--box", *other, "--save", tmp_path / "out.mp4") == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[0].split() == ["0.00", "s", "1,", "2"]
    assert f"{FRAMES} frames" in told.err and "wrote" in told.err
    with open_source(tmp_path / "out.mp4") as video, open_source(balloons) as before:
        drawn, plain = next(iter(video)).image, next(iter(before)).image
        assert drawn.shape == plain.shape
        changed = np.abs(drawn.astype(int) - plain).max(axis=2) > 60
    x1, y1, x2, _ = (round(side) for side in FIRST_BOXES[0])
    assert changed[y1 - 2 : y1 + 3, x1:x2].any()  # its upper edge


def test_a_detector_runs_on_key_frames_only(squares: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    film, detector = squares
    assert run(film, "--detector", detector, "--every", 4, "--json") == 0
    told = capsys.readouterr()
    found = lines(told.out)
    assert [one["index"] for one in found if one["key"]] == [0, 4, 8, 12]
    assert {one["objects"][0]["id"] for one in found} == {1}
    for index, one in enumerate(found):
        true = [20 + 2 * index, 30, 48 + 2 * index, 58]
        assert box_iou([one["objects"][0]["box"]], [true])[0, 0] > 0.7
    assert f"detector: 4 of {FRAMES} frames" in told.err and "times as fast" in told.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "say what to follow: --box"),
        (("--every", "4"), "--every say when a detector runs: give --detector"),
        ((*BOX, "--detector", "d.onnx"), "not both"),
        ((*BOX, "--smooth", "3"), "leave them out"),
        (("--box", "30", "30", "20", "50"), "x1 < x2"),
        (("--box", "3000", "30", "3200", "50"), "outside the frame"),
        ((*BOX, "--max-lost", "-1"), "`max_lost_s`"),
        (("--detector", "nothing.onnx"), "nothing.onnx"),
        (("--detector", "d.onnx", "--every", "3", "--budget-ms", "9"), "d.onnx"),
    ],
)
def test_what_cannot_be_is_refused(
    balloons: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert run(balloons, *words) in (1, 2)
    told = capsys.readouterr()
    assert said in told.err and told.out == ""


def test_one_source_at_a_time(balloons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(balloons, balloons, *BOX) == 2
    assert "give one source" in capsys.readouterr().err


def test_a_model_that_follows_nothing_takes_no_box(balloons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "tsm", str(balloons), *BOX]) == 2
    assert "only models that follow objects" in capsys.readouterr().err


def test_the_sample_says_how_to_run_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "patchnet", "--out", str(tmp_path / "sample.mp4")]) == 0
    words = capsys.readouterr().out.partition("try: effvision ")[2].split()
    assert words[:2] == ["run", "patchnet-synthetic"]
    assert main([word for word in words if not word.startswith("labelled") and word != "--save"]) == 0
