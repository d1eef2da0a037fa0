"""The result of an edit: what it says, draws and writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effvision import Edit
from effvision.errors import DTypeError, InputError, ShapeError, SourceError
from effvision.viz import draw_outline

cv2 = pytest.importorskip("cv2")


@pytest.fixture
def edit() -> Edit:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    changed = np.zeros((20, 30), bool)
    changed[5:9, 10:20] = True
    return Edit(
        changed, 25e6, 100e6, {"conv": "1 rectangle"}, image=image, labels=np.zeros((20, 30), np.uint8), index=3
    )


def test_it_says_how_little_was_computed(edit: Edit) -> None:
    assert edit.computed_fraction == 0.25 and edit.changed_fraction == 40 / 600
    assert edit.event == "computed 25.0% of a full pass"
    assert edit.replace(dense_macs=0.0).computed_fraction == 40 / 600


def test_its_data_are_plain(edit: Edit) -> None:
    data = json.loads(edit.to_json())
    assert data["changed_box"] == [10, 5, 20, 9] and data["size"] == [20, 30] and data["index"] == 3
    assert (data["macs"], data["dense_macs"], data["computed_fraction"]) == (25_000_000, 100_000_000, 0.25)
    assert data["how"] == {"conv": "1 rectangle"} and set(data["timing"]) >= {"run_ms", "total_ms"}
    nothing = edit.replace(changed=np.zeros((20, 30), bool))
    assert nothing.to_dict()["changed_box"] is None


def test_the_plot_outlines_what_changed_and_leaves_the_picture_alone(edit: Edit) -> None:
    before = edit.image.copy()
    drawn = edit.plot()
    differs = (drawn != edit.image).any(2)
    assert np.array_equal(edit.image, before)
    assert differs[5, 10:20].sum() >= 8 and differs[8, 10:20].sum() >= 8
    assert not differs[6:8, 11:19].any() and not differs[~edit.changed].any()
    assert np.array_equal(edit.replace(changed=np.ones((20, 30), bool)).plot(), edit.image)
    with pytest.raises(InputError):
        edit.plot(edit.image[1:])


def test_what_is_saved_is_the_picture_itself(edit: Edit, tmp_path: Path) -> None:
    read = cv2.imread(str(edit.save(tmp_path / "a.png")))[:, :, ::-1]
    assert np.array_equal(read, edit.image)
    edit.save(tmp_path / "b.png", edit.plot())
    assert np.array_equal(cv2.imread(str(tmp_path / "b.png"))[:, :, ::-1], edit.plot())
    assert json.loads(edit.save(tmp_path / "a.json").read_text()) == edit.to_dict()
    for wrong, error in ((tmp_path / "a.gif", InputError), (tmp_path / "no" / "a.png", SourceError)):
        with pytest.raises(error):
            edit.save(wrong)


def test_parts_that_do_not_fit_are_refused(edit: Edit) -> None:
    wrong: Any
    for wrong in ({"image": edit.image[1:]}, {"changed": edit.changed[1:]}, {"labels": np.zeros((2, 2), np.uint8)}):
        with pytest.raises(ShapeError):
            edit.replace(**wrong)
    with pytest.raises(DTypeError):
        draw_outline(edit.image, edit.changed.astype(np.uint8))  # type: ignore[arg-type]
    with pytest.raises(ShapeError):
        draw_outline(edit.image, edit.changed[1:])
