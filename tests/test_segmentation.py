"""The result of segmenting points: counts, plain data, and the files and pictures it makes of itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from effvision import Segmentation, Timing, open_cloud
from effvision.errors import InputError, MissingDependencyError, RangeError, ShapeError, SourceError
from effvision.sources import as_frame
from effvision.viz import class_colors

NAMES = ("ground", "trees", "building")
LABELS = np.arange(40) % 2 * 2
SCORES = np.linspace(0.5, 1, 40, dtype=np.float32)
XYZ = np.random.default_rng(0).uniform(0, 50, (40, 3))


def result(*, far: bool = False, **changes: Any) -> Segmentation:
    given = {"labels": LABELS, "scores": SCORES, "names": NAMES, "cloud": open_cloud(XYZ + 770_550.25 * far)}
    return Segmentation(**{**given, **changes})


def test_points_are_counted_by_name_and_classes_without_points_are_there() -> None:
    assert result().counts == {"ground": 20, "trees": 0, "building": 20} and len(result()) == 40
    assert result().rgb.tolist() == class_colors(NAMES)[LABELS].tolist()


def test_plain_data_hold_counts_scores_and_timing() -> None:
    data = json.loads(result(timing=Timing(1, 2, 3)).to_json())
    assert data["points"] == 40 and data["counts"]["building"] == 20 and data["timing"]["total_ms"] == 6
    assert data["classes"][1] == {"name": "trees", "points": 0, "score": None}
    assert data["classes"][0]["score"] == pytest.approx(SCORES[::2].mean(), abs=1e-5)
    assert data["source"] == "array" and "source" not in result(cloud=None).to_dict()


@pytest.mark.parametrize("far", [False, True])
def test_a_saved_ply_is_read_again_with_its_labels(tmp_path: Path, far: bool) -> None:
    path = result(far=far).save(tmp_path / "a.ply")
    cloud = open_cloud(path)
    np.testing.assert_allclose(cloud.world(), XYZ + 770_550.25 * far, atol=1e-5)
    np.testing.assert_array_equal(cloud.fields["label"], LABELS)
    np.testing.assert_array_equal(cloud.fields["score"], SCORES)
    np.testing.assert_array_equal(cloud.fields["rgb"], result().rgb)
    assert b"comment label 2 is building\n" in path.read_bytes()


def test_a_saved_npz_is_read_again(tmp_path: Path) -> None:
    cloud = open_cloud(result(far=True).save(tmp_path / "a.npz"))
    np.testing.assert_allclose(cloud.world(), XYZ + 770_550.25, atol=1e-5)
    np.testing.assert_array_equal(cloud.fields["label"], LABELS)
    assert [item.name for item in tmp_path.iterdir()] == ["a.npz"]


def test_pictures_and_the_summary_are_saved(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        assert as_frame(result().save(tmp_path / name)).shape == (720, 960, 3)
    assert json.loads(result().save(tmp_path / "a.json").read_text())["points"] == 40
    np.testing.assert_array_equal(as_frame(tmp_path / "a.png"), result().plot())


def test_the_view_of_the_picture_can_be_chosen() -> None:
    automatic = result().plot(size=(200, 320))
    assert automatic.shape == (200, 320, 3)
    assert (result().plot(size=(200, 320), elevation_deg=90, perspective=False) != automatic).any()
    with pytest.raises(InputError, match="got zoom"):
        result().plot(zoom=2)
    with pytest.raises(InputError, match=r"not drawn onto a picture\nhint:"):
        result().plot(np.zeros((9, 9, 3), np.uint8))


def test_without_a_cloud_only_the_summary_can_be_saved(tmp_path: Path) -> None:
    bare = result(cloud=None)
    for name in ("a.ply", "a.npz", "a.png"):
        with pytest.raises(InputError, match=r"kept no cloud, only labels\nhint:"):
            bare.save(tmp_path / name)
    assert bare.save(tmp_path / "a.json").is_file() and [item.name for item in tmp_path.iterdir()] == ["a.json"]


def test_other_suffixes_and_missing_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.ply, \.npz, \.png, \.jpg or \.json; got 'a\.las'"):
        result().save(tmp_path / "a.las")
    for name in ("a.ply", "a.npz", "a.png", "a.json"):
        with pytest.raises(SourceError, match="does not exist"):
            result().save(tmp_path / "none" / name)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (ShapeError, {"scores": SCORES[:3]}),
        (ShapeError, {"labels": LABELS.astype(float)}),
        (ShapeError, {"labels": LABELS[:, None]}),
        (ShapeError, {"labels": LABELS[:5], "scores": SCORES[:5]}),
        (RangeError, {"labels": LABELS + 1}),
        (RangeError, {"labels": LABELS - 1}),
        (ShapeError, {"colors": np.zeros((2, 3), np.uint8)}),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(kind: type[InputError], change: dict[str, Any]) -> None:
    with pytest.raises(kind):
        result(**change)


def test_a_card_may_bring_its_own_colours() -> None:
    own = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.uint8)
    assert result(colors=own).rgb.tolist() == own[LABELS].tolist()


def test_an_open3d_cloud_is_made_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("open3d")
    module.geometry = SimpleNamespace(PointCloud=SimpleNamespace)
    module.utility = SimpleNamespace(Vector3dVector=np.asarray)
    monkeypatch.setitem(sys.modules, "open3d", module)
    cloud = result().to_open3d()
    np.testing.assert_allclose(cloud.points, XYZ, rtol=1e-6)
    np.testing.assert_allclose(cloud.colors, result().rgb / 255)


def test_without_open3d_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'effvision\[points\]'"):
        result().to_open3d()
