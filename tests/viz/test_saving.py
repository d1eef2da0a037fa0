"""Pictures into files: the right colours, all or nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from effvision.errors import DTypeError, InputError, SourceError
from effvision.sources import as_frame
from effvision.viz import save_image

PICTURE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".PNG"])
def test_lossless_formats_give_the_same_rgb_back(tmp_path: Path, suffix: str) -> None:
    path = save_image(tmp_path / f"größe 日本{suffix}", PICTURE)
    np.testing.assert_array_equal(as_frame(path), PICTURE)


def test_jpeg_keeps_the_channel_order(tmp_path: Path) -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 250
    save_image(tmp_path / "red.jpg", red)
    assert as_frame(tmp_path / "red.jpg").mean(axis=(0, 1)) == pytest.approx([250, 0, 0], abs=8)


def test_nothing_else_is_left_in_the_folder(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", PICTURE)
    save_image(tmp_path / "a.png", PICTURE[:10])
    assert [item.name for item in tmp_path.iterdir()] == ["a.png"]
    assert as_frame(tmp_path / "a.png").shape == (10, 30, 3)


def test_other_suffixes_and_missing_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.png.*got 'a\.txt'"):
        save_image(tmp_path / "a.txt", PICTURE)
    with pytest.raises(SourceError, match="does not exist"):
        save_image(tmp_path / "none" / "a.png", PICTURE)
    with pytest.raises(DTypeError):
        save_image(tmp_path / "a.png", PICTURE / 255)  # type: ignore[arg-type]


def test_a_picture_too_large_for_the_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="could not be encoded, 1x70000"):
        save_image(tmp_path / "a.jpg", np.zeros((1, 70000, 3), np.uint8))
