"""Label maps as people have them, and what is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from effvision.errors import DTypeError, EffvisionError, InputError, RangeError, ShapeError, SourceError
from effvision.models.sige.label_maps import open_label_maps, read_label_map, to_colours

Image = pytest.importorskip("PIL.Image")
cv2 = pytest.importorskip("cv2")

NAMES = ("sky", "water", "sand", "tree")
COLOURS = np.array([[120, 180, 230], [20, 90, 160], [240, 220, 150], [30, 100, 40]], np.uint8)
SIZE = (40, 56)


def read(x: Any) -> NDArray[np.uint8]:
    return read_label_map(x, NAMES, COLOURS, SIZE)


@pytest.fixture
def labels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 4, SIZE).astype(np.uint8)


def indexed(labels: NDArray[np.uint8], colours: list[list[int]]) -> Any:
    image = Image.fromarray(labels).convert("P")
    image.putdata(labels.ravel().tolist())
    image.putpalette([part for colour in colours for part in colour])
    return image


def test_every_form_of_one_map_is_the_same_map(labels: NDArray[np.uint8], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    np.save(tmp_path / "map.npy", labels.astype(np.int64))
    cv2.imwrite(str(tmp_path / "grey.png"), labels)
    cv2.imwrite(str(tmp_path / "colours.png"), to_colours(labels, COLOURS)[:, :, ::-1])
    indexed(labels, COLOURS.tolist()).save(tmp_path / "own-palette.png")
    other = [[1, 2, 3], [9, 9, 9], [200, 0, 0], [0, 0, 200]]
    indexed(labels, other).save(tmp_path / "other-palette.png")
    indexed(3 - labels, COLOURS.tolist()[::-1]).save(tmp_path / "sorted-otherwise.png")
    forms = [
        labels, labels.astype(np.int64), labels.astype(">u2"), np.asfortranarray(labels), torch.from_numpy(labels).long(),
        Image.fromarray(labels), Image.fromarray(to_colours(labels, COLOURS)),
        Image.fromarray(to_colours(labels, COLOURS)).convert("RGBA"), indexed(labels, COLOURS.tolist()),
        indexed(labels, other), indexed(3 - labels, COLOURS.tolist()[::-1]),
        *sorted(tmp_path.iterdir()), str(tmp_path / "grey.png"),
    ]  # fmt: skip
    for form in forms:
        found = read(form)
        assert found.dtype == np.uint8 and found.flags.c_contiguous and np.array_equal(found, labels), form


def test_what_was_read_is_not_the_callers_memory(labels: NDArray[np.uint8]) -> None:
    found = read(labels)
    labels[0, 0] ^= 1
    assert found[0, 0] != labels[0, 0]


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (lambda x: x.astype(float), DTypeError, "float64.*\nhint: labels.astype"),
        (lambda x: np.where(x == 0, np.nan, 1.0), RangeError, "NaN"),
        (lambda x: x > 0, DTypeError, "bool"),
        (lambda x: x[None], ShapeError, r"\(1, 40, 56\)"),
        (lambda x: np.stack([x] * 3, 2), ShapeError, r"\(40, 56, 3\)"),
        (lambda x: x[:-1], ShapeError, "39 x 56.*40 x 56.*\nhint: .*nearest"),
        (lambda x: x.T, ShapeError, "56 x 40"),
        (lambda x: x.astype(str), DTypeError, "hint: "),
        (lambda x: None, DTypeError, "NoneType"),
        (lambda x: x.tolist(), DTypeError, "list"),
    ],
)
def test_what_is_no_label_map_is_refused(labels: NDArray[np.uint8], change: Any, error: type, told: str) -> None:
    with pytest.raises(error, match=told):
        read(change(labels))


def test_a_label_of_no_class_is_named_with_its_place(labels: NDArray[np.uint8]) -> None:
    wrong = labels.astype(np.int16)
    wrong[7, 9], wrong[30, 2] = 4, -3
    with pytest.raises(RangeError, match=r"2 pixels .* first is 4 at row 7, column 9\nhint: .*sky, water, sand, tree"):
        read(wrong)


def test_a_colour_of_no_class_is_named_with_its_place_and_the_nearest(
    labels: NDArray[np.uint8], tmp_path: Path
) -> None:
    picture = to_colours(labels, COLOURS).copy()
    picture[5, 6] = (21, 90, 160)
    for given in (Image.fromarray(picture), tmp_path / "map.png"):
        Image.fromarray(picture).save(tmp_path / "map.png")
        with pytest.raises(RangeError, match=r"1 pixels .*\(21, 90, 160\) at row 5, column 6\nhint: .*water"):
            read(given)


def test_transparent_pixels_have_no_class(labels: NDArray[np.uint8], tmp_path: Path) -> None:
    image = Image.fromarray(to_colours(labels, COLOURS)).convert("RGBA")
    image.putpixel((3, 2), (20, 90, 160, 0))
    image.save(tmp_path / "map.png")
    for given in (image, tmp_path / "map.png"):
        with pytest.raises(RangeError, match="transparent, the first at row 2, column 3"):
            read(given)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.png", b""), ("a.png", b"no picture"), ("a.npy", b"\x93NUMPY"), ("a.jpg", b"\xff\xd8\xff"), ("a.txt", b"0 1")],
)
def test_damaged_and_other_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=name):
        read(tmp_path / name)


def test_a_truncated_png_is_refused(labels: NDArray[np.uint8], tmp_path: Path) -> None:
    Image.fromarray(labels).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(EffvisionError):
        read(tmp_path / "cut.png")


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    np.save(tmp_path / "map.npy", np.array([{}, None]), allow_pickle=True)
    with pytest.raises(SourceError, match=r"map\.npy"):
        read(tmp_path / "map.npy")


def test_a_folder_is_read_in_natural_order(labels: NDArray[np.uint8], tmp_path: Path) -> None:
    for number in (10, 2, 1):
        np.save(tmp_path / f"edit{number}.npy", np.full(SIZE, number % 4, np.uint8))
    (tmp_path / "notes.txt").write_text("no map")
    for source in (tmp_path, str(tmp_path / "edit*.npy"), [tmp_path], [str(tmp_path / "*.npy")]):
        assert [int(read(item)[0, 0]) for item in open_label_maps(source)] == [1, 2, 2]
    clip = np.stack([labels, labels ^ 1])
    for source in (clip, list(clip), iter(clip)):
        assert [read(item).tolist() for item in open_label_maps(source)] == clip.tolist()
    assert len(list(open_label_maps(Image.fromarray(labels)))) == len(list(open_label_maps(labels))) == 1


def test_a_source_without_label_maps_is_refused(tmp_path: Path) -> None:
    for source in (tmp_path, tmp_path / "none.png", str(tmp_path / "*.png")):
        with pytest.raises(SourceError):
            open_label_maps(source)
    for odd in (None, 3, b"bytes", {"a": 1}):
        with pytest.raises(InputError):
            open_label_maps(odd)
