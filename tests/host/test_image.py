"""resize_crop against Pillow itself, and against the published preprocessing of TSM."""

from __future__ import annotations

import importlib.util
import os
import zlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from effvision.errors import DTypeError, InputError, ShapeError
from effvision.host.image import resize_crop

GOLDEN = Path(os.environ.get("EFFVISION_SHARED", Path(__file__).parents[2] / ".." / "shared")) / "golden" / "tsm"
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason=f"no golden vectors at {GOLDEN}; set EFFVISION_SHARED to the folder that holds golden/"
)


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pillow(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is the independent oracle")
    rows = image_module.fromarray(image).resize((width, image.shape[0]), image_module.Resampling.BILINEAR)
    return np.asarray(rows.resize((width, height), image_module.Resampling.BILINEAR))  # two calls fix the order


def pillow_center(image: NDArray[np.uint8], short_side: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    h, w = image.shape[:2]
    h, w = (int(short_side * h / w), short_side) if w < h else (short_side, int(short_side * w / h))
    top, left = round((h - size[0]) / 2.0), round((w - size[1]) / 2.0)
    return pillow(image, h, w)[top : top + size[0], left : left + size[1]]


def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tsm_golden_recipe", GOLDEN / "recipe.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.shared
@needs_golden
@pytest.mark.parametrize("name", ["240x320", "480x640", "150x113"])
def test_golden_preprocessing_is_reproduced_to_the_last_bit(name: str) -> None:
    golden = np.load(GOLDEN / "preprocess.npz")
    height, width = map(int, name.split("x"))
    image = recipe().image("a", height, width)
    crop = resize_crop(image, short_side=256, size=(224, 224))
    np.testing.assert_array_equal(crop[::16], golden[f"{name}/u8_rows"])
    assert zlib.crc32(crop.tobytes()) == int(golden[f"{name}/crc32"])
    for mode, expected in zip(("left", "right", "middle"), golden[f"{name}/fullres_crc32"], strict=True):
        part = resize_crop(image, short_side=256, size=(256, 256), mode=mode)
        assert zlib.crc32(part.tobytes()) == int(expected), mode


@settings(max_examples=60, deadline=None)
@given(
    frame=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    out=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    seed=st.integers(0, 2**16),
)
def test_stretch_equals_pillow_for_any_size(frame: tuple[int, int], out: tuple[int, int], seed: int) -> None:
    image = noise(*frame, seed)
    np.testing.assert_array_equal(resize_crop(image, short_side=None, size=out, mode="stretch"), pillow(image, *out))


@settings(max_examples=60, deadline=None)
@given(
    frame=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    short_side=st.integers(1, 120),
    share=st.tuples(st.floats(0.01, 1.0), st.floats(0.01, 1.0)),
)
def test_center_crop_equals_pillow_for_any_size(
    frame: tuple[int, int], short_side: int, share: tuple[float, float]
) -> None:
    image = noise(*frame)
    size = (max(1, int(short_side * share[0])), max(1, int(short_side * share[1])))
    np.testing.assert_array_equal(
        resize_crop(image, short_side=short_side, size=size), pillow_center(image, short_side, size)
    )


@pytest.mark.parametrize(
    ("frame", "out", "allowed"),
    [
        ((480, 640), (256, 341), 0),
        ((640, 480), (341, 256), 0),
        ((300, 20), (20, 20), 1),  # Pillow 13 takes columns first here
    ],
)
def test_one_call_of_pillow_agrees(frame: tuple[int, int], out: tuple[int, int], allowed: int) -> None:
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is the independent oracle")
    image = noise(*frame)
    expected = image_module.fromarray(image).resize(out[::-1], image_module.Resampling.BILINEAR)
    ours = resize_crop(image, short_side=None, size=out, mode="stretch")
    assert np.abs(ours.astype(int) - np.asarray(expected).astype(int)).max() <= allowed


@pytest.mark.parametrize("frame", [(480, 640), (720, 1280), (1080, 1920), (2160, 3840), (341, 256), (1, 1)])
def test_center_crop_of_usual_cameras_equals_pillow(frame: tuple[int, int]) -> None:
    image = noise(*frame)
    np.testing.assert_array_equal(
        resize_crop(image, short_side=256, size=(224, 224)), pillow_center(image, 256, (224, 224))
    )


@pytest.mark.parametrize(("frame", "out"), [((9000, 7), (2, 300)), ((7, 9000), (300, 2)), ((700, 600), (650, 513))])
def test_results_cut_into_tiles_equal_pillow(frame: tuple[int, int], out: tuple[int, int]) -> None:
    image = noise(*frame)
    np.testing.assert_array_equal(resize_crop(image, short_side=None, size=out, mode="stretch"), pillow(image, *out))


def test_a_single_pixel_fills_the_picture() -> None:
    image = np.array([[[3, 200, 77]]], np.uint8)
    assert (resize_crop(image, short_side=256, size=(224, 224)) == image).all()


def test_no_resizing_is_a_plain_crop_and_a_copy() -> None:
    image = noise(20, 30)
    crop = resize_crop(image, short_side=None, size=(10, 10))
    np.testing.assert_array_equal(crop, image[5:15, 10:20])
    assert not np.shares_memory(crop, image) and crop.flags.c_contiguous


def test_views_with_negative_strides_are_read_correctly() -> None:
    bgr = noise(50, 60)
    np.testing.assert_array_equal(
        resize_crop(bgr[::-1, :, ::-1], short_side=32, size=(32, 32)),
        resize_crop(np.ascontiguousarray(bgr[::-1, :, ::-1]), short_side=32, size=(32, 32)),
    )


def test_a_long_thin_frame_is_refused_before_memory_is_taken() -> None:
    with pytest.raises(InputError, match=r"20000 rows and 1 columns would grow to 5120000x256 \(3750 MiB"):
        resize_crop(noise(20000, 1), short_side=256, size=(224, 224))


def test_a_crop_larger_than_the_resized_frame_is_refused() -> None:
    with pytest.raises(InputError, match="cannot cut 224x224 out of a frame of 200x266"):
        resize_crop(noise(30, 40), short_side=200, size=(224, 224))


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (np.zeros((4, 4), np.uint8), ShapeError),  # grey
        (np.zeros((4, 4, 4), np.uint8), ShapeError),  # RGBA
        (np.zeros((0, 4, 3), np.uint8), ShapeError),  # no rows
        (np.zeros((4, 4, 3), np.float32), DTypeError),
        ([[1, 2, 3]], DTypeError),
    ],
)
def test_what_is_no_picture_is_refused(image: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        resize_crop(image, short_side=8, size=(8, 8))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"short_side": 0, "size": (8, 8)},
        {"short_side": 8, "size": (0, 8)},
        {"short_side": 8, "size": (8, 8), "mode": "corner"},
        {"short_side": 8, "size": (8, 8), "mode": "stretch"},  # the aspect is not kept, so a short side says nothing
    ],
)
def test_impossible_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InputError):
        resize_crop(noise(10, 10), **options)  # type: ignore[arg-type]
