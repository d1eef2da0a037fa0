"""What each family answers for a file: the same as its own `predict` or `stream`, in the columns it states."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("onnxruntime")

from effvision.answers import Answer, Answers, answers_for
from effvision.batch import map_files
from effvision.batch.table import all_columns, fits, read_rows
from effvision.cards import Card, list_cards
from effvision.errors import InputError, SourceError
from effvision.models.patchnet.answers import read_boxes
from effvision.models.patchnet.sample import FIRST_BOXES, render
from effvision.predictor import Predictor
from effvision.results import Columns, Result
from effvision.sources import VideoWriter, write_ply

MOTION, TRACKER, CLOUDS = "tsm-mobilenetv2-motion", "patchnet", "pvcnn-lidarhd"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short videos, and a folder of pictures."""
    import cv2

    folder = tmp_path_factory.mktemp("clips")
    pictures = [image for image, _ in render(12, seed=0)]
    for name, count in (("a", 12), ("b", 8)):
        with VideoWriter(folder / f"{name}.avi", fps=12, size=pictures[0].shape[:2]) as video:
            for picture in pictures[:count]:
                video.write(picture)
    (folder / "shots").mkdir()
    for number, picture in enumerate(pictures[:5]):
        cv2.imwrite(str(folder / "shots" / f"{number}.png"), picture[..., ::-1])
    return folder


def load(card: str) -> Any:
    return Predictor.from_pretrained(card, runtime="onnx", threads=1)


def answer(answers: Answers, path: Path, save: Path | None = None) -> tuple[Answer, list[int]]:
    told: list[int] = []
    found = answers(path, name=path.name, save=save, tell=told.append)
    identity = {"counts": answers.counts, "columns": answers.columns}
    row = {**found.row, answers.counts: found.count}
    assert set(found.row) == set(answers.columns) and set(row) <= set(all_columns(identity))
    assert fits(identity)(row) is None
    return found, told


@pytest.mark.parametrize("card", [card for card in list_cards() if card.default], ids=lambda card: card.name)
def test_every_family_has_answers_whose_columns_pass_for_a_table(card: Card) -> None:
    options = {"boxes": FIRST_BOXES} if card.task == "tracking" else {}
    answers = answers_for(load(card.name), options)
    assert fits({"counts": answers.counts, "columns": answers.columns})({}) is None
    with pytest.raises(InputError, match=f"{card.name} takes no option colour"):
        answers_for(load(card.name), {**options, "colour": 1})


def test_a_clip_is_judged_as_predict_judges_it_and_its_frames_are_counted(clips: Path) -> None:
    model = load(MOTION)
    for path, frames in ((clips / "a.avi", 12), (clips / "shots", 5)):
        found, told = answer(answers_for(model, {}), path)
        wanted = model.predict(path)
        assert (found.row["label"], found.row["score"]) == (wanted.label, wanted.score)
        assert [one["label"] for one in found.row["topk"]] == [label for label, _ in wanted.topk(5)]
        assert found.count == frames and told == list(range(1, frames + 1))


def test_a_cloud_gives_its_counts_and_saves_a_class_for_each_point(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    one = np.ones(600, np.float32)
    xyz = rng.uniform(0, 20, (600, 3)).astype(np.float32)
    cloud = write_ply(tmp_path / "a.ply", xyz, intensity=one, num_returns=one, return_number=one)
    model = load(CLOUDS)
    found, told = answer(answers_for(model, {}), cloud, tmp_path / "a.npz")
    wanted = model.predict(cloud)
    assert {one["name"]: one["points"] for one in found.row["classes"]} == wanted.counts
    assert found.count == 600 and len(told) > 1 and set(told) == {600}
    with np.load(tmp_path / "a.npz") as saved:
        np.testing.assert_array_equal(saved["label"], wanted.labels)
    with pytest.raises(InputError, match="`columns` must be"):
        answers_for(model, {"columns": "xyz"})


def test_a_tracked_video_gives_its_objects_and_saves_every_box(clips: Path, tmp_path: Path) -> None:
    model, path = load(TRACKER), clips / "a.avi"
    found, told = answer(answers_for(model, {"boxes": FIRST_BOXES[:1]}), path, tmp_path / "a.csv")
    wanted = list(model.stream(path, images=False, boxes=FIRST_BOXES[:1]))
    (seen,) = found.row["objects"]
    assert (seen["id"], seen["first_frame"], seen["last_frame"], seen["frames"]) == (1, 0, 11, 12)
    np.testing.assert_allclose(seen["last_box"], wanted[-1].boxes[0], atol=0.006)
    assert seen["lost_frames"] == sum(bool(result.lost[0]) for result in wanted)
    scores = [float(result.scores[0]) for result in wanted if not result.lost[0]]
    assert seen["score"] == pytest.approx(np.mean(scores), abs=1e-4)
    with (tmp_path / "a.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [int(line["frame"]) for line in lines] == list(range(12)) and told == list(range(1, 13))
    np.testing.assert_allclose(
        [float(lines[7][name]) for name in ("x1", "y1", "x2", "y2")], wanted[7].boxes[0], atol=0.006
    )


def test_boxes_come_from_a_table_by_the_path_of_each_file(clips: Path, tmp_path: Path) -> None:
    box = ",".join(map(str, FIRST_BOXES[0]))
    table = clips / "boxes.csv"
    table.write_text(f"path,x1,y1,x2,y2\na.avi,{box}\n./a.avi,10,10,60,60\nelsewhere/c.avi,{box}\n")
    answers = answers_for(load(TRACKER), {"boxes_file": str(table)})
    found, _ = answer(answers, clips / "a.avi")
    assert [one["first_box"] for one in found.row["objects"]] == [[float(x) for x in FIRST_BOXES[0]], [10, 10, 60, 60]]
    with pytest.raises(InputError, match=r"the file of boxes has none for b\.avi"):
        answer(answers, clips / "b.avi")
    for text, said in (
        ("path,x1,y1,x2,y2\na.avi,1,2,3\n", "line 2 is no box: a.avi,1,2,3,None"),
        ("path,left\na.avi,1\n", "line 2 is no box"),
        ("path,x1,y1,x2,y2\na.avi,5,5,5,9\n", "line 2 is no box"),
        ("path,x1,y1,x2,y2\n", "holds no box"),
    ):
        (tmp_path / "boxes.csv").write_text(text)
        with pytest.raises(InputError, match=f"{said}.*"):
            read_boxes(tmp_path / "boxes.csv")
    with pytest.raises(SourceError, match="cannot be read"):
        read_boxes(tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "got nothing\nhint: --box X1 Y1 X2 Y2"),
        ({"boxes": [[1, 2, 30, 40]], "detector": "yolo.onnx"}, "got boxes and detector"),
        ({"boxes": [[1, 2, 30, 40]], "every": 3}, "`every` says when a detector runs"),
        ({"boxes": [[9, 2, 3, 40]]}, "boxes"),
    ],
)
def test_what_to_follow_has_to_be_said_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        answers_for(load(TRACKER), options)


class _Plain(Result):
    """A result without columns of its own."""

    columns: Columns = Result.columns

    def to_dict(self) -> dict[str, Any]:
        return {"changed": 0.25}


def test_a_family_without_columns_of_its_own_gives_its_result_as_json(tmp_path: Path) -> None:
    class Model:
        def predict(self, path: Path) -> Result:
            assert path == tmp_path
            return _Plain()

    found, told = answer(Answers(Model()), tmp_path)
    assert (found.row, found.count, told) == ({"answer": '{"changed": 0.25}'}, 1, [1])


def test_a_card_goes_all_the_way_to_a_table(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "text.avi").write_text("no video")
    out = tmp_path / "out.parquet"
    report = map_files(MOTION, [clips, tmp_path / "text.avi", f"{clips}/*/"], out, workers=1, threads=1)
    assert (report.files, report.errors) == (4, 1)
    found = {Path(row["path"]).name: row for row in read_rows(out)}
    assert {name: row["frames"] for name, row in found.items()} == {
        "a.avi": 12,
        "b.avi": 8,
        "shots": 5,
        "text.avi": None,
    }
    assert found["text.avi"]["error_type"] == "SourceError"
    wanted = load(MOTION)
    assert found["a.avi"]["label"] == wanted.predict(clips / "a.avi").label
    assert {row["weights_sha256"] for row in found.values()} == {wanted.metadata.weights_sha256}
    assert {row["card"] for row in found.values()} == {MOTION}


def test_a_list_of_edits_gives_what_each_took_and_the_last_picture(tmp_path: Path) -> None:
    import cv2

    model = load("sige")
    picture = tmp_path / "saved" / "last.png"
    picture.parent.mkdir()
    maps = [tmp_path / f"{number}.npy" for number in range(3)]
    for path, labels in zip(maps, model.example_updates(3, seed=0), strict=True):
        np.save(path, labels)
    (tmp_path / "edits.txt").write_text("0.npy\n2.npy\n\n1.npy\n")
    answers = answers_for(model, {"mode": "exact"})
    found, told = answer(answers, tmp_path / "edits.txt", picture)
    session = model.session(mode="exact")
    wanted = [session.update(maps[number]) for number in (0, 2, 1)]
    for row, one in zip(found.row["edits"], wanted, strict=True):
        assert row["computed_fraction"] == one.computed_fraction and row["ms"] > 0
    np.testing.assert_array_equal(cv2.imread(str(picture))[..., ::-1], wanted[-1].image)
    assert told == [1, 2, 3] == list(range(1, found.count + 1)) and found.row["size"] == list(model.size)
    assert answer(answers, maps[1])[0].count == 1
    assert answer(answers, tmp_path)[0].count == 3  # a folder: its label maps in order
    with pytest.raises(InputError, match="`mode` must be one of"):
        answers_for(model, {"mode": "quick"})
    (tmp_path / "edits.txt").write_text("\n")
    with pytest.raises(SourceError, match="names no label map"):
        answer(answers, tmp_path / "edits.txt")
