"""Procedural scenes: seeded, any label map can be drawn, and an edit changes nothing far from it."""

from __future__ import annotations

import subprocess
import sys
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from effvision.errors import DTypeError, InputError, RangeError, ShapeError
from effvision.models.sige import scenes
from effvision.models.sige.scenes import NAMES, PALETTE, PLANES, REACH, SIZE
from effvision.models.sige.scenes_palette import class_index


def flat(name: str, height: int = SIZE, width: int = SIZE) -> Any:
    return np.full((height, width), class_index(name), dtype=np.uint8)


def changed(first: Any, second: Any) -> Any:
    """Mask (H, W) of pixels that differ."""
    return (first != second).any(2)


# --- seeds ------------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_scene_and_another_seed_another() -> None:
    first, again, other = scenes.scene(3, painted=1.0), scenes.scene(3, painted=1.0), scenes.scene(4, painted=1.0)
    assert np.array_equal(first.labels, again.labels) and np.array_equal(first.picture, again.picture)
    assert not np.array_equal(first.labels, other.labels)
    assert first.labels.shape == (256, 256) and first.labels.dtype == np.uint8
    assert first.picture.shape == (256, 256, 3) and first.picture.dtype == np.uint8


def test_another_process_makes_the_same_scene() -> None:
    """Nothing hangs on hash seeds or on what was drawn before."""
    program = (
        "import zlib; from effvision.models.sige import scenes; one = scenes.scene(11, painted=1.0); "
        "print(zlib.crc32(one.labels.tobytes()), zlib.crc32(one.picture.tobytes()))"
    )
    one = scenes.scene(11, painted=1.0)
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert told == [str(zlib.crc32(array.tobytes())) for array in (one.labels, one.picture)]


def test_splits_share_no_scene() -> None:
    own = [{scenes.scene(seed, split=split).labels.tobytes() for seed in range(3)} for split in scenes.SPLITS]
    assert len(own[0] | own[1] | own[2]) == 9


def test_the_scene_is_drawn_with_the_guide_it_names() -> None:
    one = scenes.scene(5, split="test")
    assert np.array_equal(one.picture, scenes.render(one.labels, one.guide_seed))
    assert not np.array_equal(one.picture, scenes.render(one.labels, one.guide_seed + 1))


def test_every_class_occurs_in_many_layouts() -> None:
    many = [set(np.unique(scenes.layout(seed)).tolist()) for seed in range(60)]
    seen = {name: sum(class_index(name) in found for found in many) for name in NAMES}
    assert min(seen.values()) >= 12, seen


# --- drawing ----------------------------------------------------------------------------------------------------------


def test_every_class_alone_has_a_colour_of_its_own() -> None:
    means = np.array([scenes.render(flat(name)).reshape(-1, 3).mean(0) for name in NAMES])
    apart = np.abs(means[:, None] - means[None]).sum(2) + 1000 * np.eye(len(NAMES))
    assert apart.min() > 12, [NAMES[place] for place in np.unravel_index(apart.argmin(), apart.shape)]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 71), (256, 256), (97, 600), (1024, 40)])
def test_any_label_map_is_drawn(height: int, width: int) -> None:
    labels = np.random.default_rng(height).integers(0, len(PALETTE), (height, width)).astype(np.uint8)
    picture = scenes.render(labels, 2)
    assert picture.shape == (height, width, 3) and picture.dtype == np.uint8 and picture.std() > 20


def test_drawing_leaves_the_labels_alone_and_takes_views() -> None:
    labels = scenes.layout(1)
    turned = labels[:, ::-1]
    kept = turned.copy()
    assert np.array_equal(scenes.render(turned), scenes.render(kept))
    assert np.array_equal(turned, kept)


@pytest.mark.parametrize("seed", range(8))
def test_an_edit_leaves_what_is_far_from_it_equal_to_the_last_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = scenes.edit(scenes.layout(seed), seed, strokes=10)
    row, column, side = int(rng.integers(0, 250)), int(rng.integers(0, 250)), int(rng.integers(2, 24))
    other = labels.copy()
    part = other[row : row + side, column : column + side]
    part[...] = rng.integers(0, len(PALETTE), part.shape) if seed % 2 else rng.integers(0, len(PALETTE))
    different = changed(scenes.render(labels), scenes.render(other))
    near = np.zeros_like(different)
    near[max(0, row - REACH) : row + side + REACH, max(0, column - REACH) : column + side + REACH] = True
    assert different[row : row + side, column : column + side].any() == bool((labels != other).any())
    assert not (different & ~near).any()


def test_water_mirrors_what_stands_above_it() -> None:
    plain = flat("water")
    plain[:100] = class_index("grass")
    housed = plain.copy()
    housed[70:100, 100:140] = class_index("roof")
    both = [scenes.render(labels).astype(int) for labels in (plain, housed)]
    change = (both[1] - both[0])[101:112, 105:135].mean(
        (0, 1)
    )  # from mirrored grass to mirrored roof: red instead of green
    assert change[0] > change[1] + 20
    assert not changed(both[0], both[1])[160:].any()


def test_things_cast_a_shadow_to_the_right() -> None:
    meadow = flat("grass")
    treed = meadow.copy()
    treed[150:200, 100:130] = class_index("rock")
    darker = scenes.render(meadow).astype(int).sum(2) - scenes.render(treed).astype(int).sum(2)
    assert darker[196:204, 132:142].mean() > 30
    assert abs(darker[196:204, 80:92].mean()) < 5


def test_a_wall_has_whole_windows_and_a_narrow_one_has_none() -> None:
    broad, narrow = flat("grass"), flat("grass")
    broad[100:148, 96:160] = class_index("wall")
    narrow[100:148, 105:110] = class_index("wall")
    dark = [scenes.render(labels).max(2) < 190 for labels in (broad, narrow)]
    assert dark[0][106:140, 98:158].sum() > 200
    assert dark[1][106:140, 106:109].sum() == 0


def test_what_the_network_sees_is_what_the_picture_is_drawn_from() -> None:
    labels = scenes.layout(2)
    arrays = scenes.network_input(labels, 7)
    assert arrays.shape == (len(PALETTE) + len(PLANES), 256, 256) and arrays.dtype == np.float32
    assert np.array_equal(arrays[: len(PALETTE)].argmax(0), labels)
    assert (arrays[: len(PALETTE)].sum(0) == 1).all()
    assert np.array_equal(arrays[len(PALETTE) :], scenes.guide(256, 256, 7))


@pytest.mark.parametrize(("height", "width"), [(256, 256), (40, 700)])
def test_the_planes_of_a_guide_lie_between_minus_one_and_one(height: int, width: int) -> None:
    planes = scenes.guide(height, width, 3)
    assert planes.shape == (len(PLANES), height, width)
    assert np.abs(planes).max() <= 1
    assert (planes.std((1, 2)) > 0.1).all()


def test_the_guide_given_out_is_not_the_one_drawn_from() -> None:
    labels = scenes.layout(2)
    before = scenes.render(labels)
    scenes.guide(256, 256)[...] = 0
    assert np.array_equal(scenes.render(labels), before)


# --- edits ------------------------------------------------------------------------------------------------------------


def test_an_edit_is_seeded_and_paints_a_copy() -> None:
    labels = scenes.layout(0)
    kept = labels.copy()
    painted = [scenes.edit(labels, seed) for seed in (1, 1, 2)]
    assert np.array_equal(labels, kept)
    assert np.array_equal(painted[0], painted[1]) and not np.array_equal(painted[0], painted[2])


def test_edits_paint_every_class_and_most_stay_small() -> None:
    begun = flat("grass", 128, 96)
    shares, found = [], set()
    for seed in range(150):
        painted = scenes.edit(begun, seed, strokes=1)
        shares.append((painted != begun).mean())
        found |= set(np.unique(painted).tolist())
    assert found == set(range(len(PALETTE)))
    assert 0.005 < float(np.median(shares)) < 0.2 and max(shares) > 0.3


# --- bad input --------------------------------------------------------------------------------------------------------

TAKING_LABELS: list[Callable[[Any], Any]] = [
    scenes.render, scenes.coloured, scenes.network_input, scenes.check_labels, lambda labels: scenes.edit(labels, 0),
]  # fmt: skip


@pytest.mark.parametrize("function", TAKING_LABELS)
@pytest.mark.parametrize(
    ("labels", "kind", "words"),
    [
        (np.zeros((256, 256)), DTypeError, "float64"),
        (np.zeros((256, 256), np.int32), DTypeError, "int32"),
        ([[0] * 64] * 64, DTypeError, "list"),
        (np.zeros((256, 256, 1), np.uint8), ShapeError, r"\(256, 256, 1\)"),
        (np.zeros((31, 256), np.uint8), ShapeError, r"\(31, 256\)"),
        (np.zeros((64, 1025), np.uint8), ShapeError, r"\(64, 1025\)"),
        (np.zeros((0, 0), np.uint8), ShapeError, r"\(0, 0\)"),
        (np.eye(64, k=9, dtype=np.uint8) * 15, RangeError, "got 15 at row 0, column 9"),
        (np.full((64, 64), 255, np.uint8), RangeError, "got 255"),
    ],
)
def test_what_is_no_label_map_is_refused(
    function: Callable[[Any], Any], labels: Any, kind: type[InputError], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        function(labels)
    assert "hint:" in str(caught.value).splitlines()[-1]


@pytest.mark.parametrize(
    ("seed", "kind"), [(-1, RangeError), (1.5, DTypeError), (True, DTypeError), (None, DTypeError)]
)
def test_what_is_no_seed_is_refused(seed: Any, kind: type[InputError]) -> None:
    labels = flat("sky", 64, 64)
    calls: list[Callable[[Any], Any]] = [
        scenes.layout, scenes.scene, lambda one: scenes.render(labels, one), lambda one: scenes.edit(labels, one),
        lambda one: scenes.guide(64, 64, one),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(kind, match="hint:"):
            call(seed)


def test_other_wrong_arguments_are_refused() -> None:
    for strokes in (0, 65):
        with pytest.raises(RangeError, match="strokes"):
            scenes.edit(flat("sky"), 0, strokes=strokes)
    with pytest.raises(InputError, match="validation"):
        scenes.scene(0, split="dev")
    with pytest.raises(ShapeError, match="16 x 256"):
        scenes.guide(16, 256)
    with pytest.raises(InputError, match="mountain"):
        class_index("lava")
