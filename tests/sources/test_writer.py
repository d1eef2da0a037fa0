"""Video files out: whole or not there, the right colours, odd sizes, clear refusals."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from effvision.errors import InputError, ShapeError, SourceError
from effvision.sources import VideoWriter, open_source, writer


def coloured(height: int, width: int, rgb: tuple[int, int, int]) -> NDArray[np.uint8]:
    return np.full((height, width, 3), rgb, np.uint8)


def write_until(path: Path, error: BaseException, *, frames: int) -> None:
    with VideoWriter(path, fps=25, size=(32, 32)) as video:
        for _ in range(frames):
            video.write(coloured(32, 32, (9, 9, 9)))
        raise error


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".MP4"])
def test_what_is_written_can_be_read_again(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"größe 日本 clip{suffix}"
    colours = [(250, 10, 10), (10, 250, 10), (10, 10, 250)]
    with VideoWriter(path, fps=12.5, size=(48, 64)) as video:
        for rgb in colours:
            for _ in range(4):
                video.write(coloured(48, 64, rgb))
    frames = list(open_source(path))
    assert len(frames) == video.count == 12
    assert [frame.timestamp for frame in frames] == pytest.approx([index / 12.5 for index in range(12)], abs=1e-3)
    for index, rgb in enumerate(colours):
        assert frames[4 * index + 2].image.mean(axis=(0, 1)) == pytest.approx(rgb, abs=25)


def test_the_file_appears_only_when_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    path.write_bytes(b"the old one")
    video = VideoWriter(path, fps=25, size=(32, 32))
    video.write(coloured(32, 32, (9, 9, 9)))
    assert path.read_bytes() == b"the old one"
    video.close()
    video.close()
    assert [item.name for item in tmp_path.iterdir()] == ["clip.avi"] and path.stat().st_size > 1000


def test_an_error_in_the_block_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write_until(tmp_path / "clip.mp4", ZeroDivisionError(), frames=5)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_keeps_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with pytest.raises(KeyboardInterrupt):
        write_until(path, KeyboardInterrupt(), frames=5)
    assert len(list(open_source(path))) == 5


def test_an_interrupt_before_the_first_frame_is_not_covered_up(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_until(tmp_path / "clip.mp4", KeyboardInterrupt(), frames=0)
    assert list(tmp_path.iterdir()) == []


def test_a_video_without_frames_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="no frame was written"),
        VideoWriter(tmp_path / "a.mp4", fps=25, size=(32, 32)),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_odd_sizes_grow_to_even_ones(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"odd{suffix}"
    with VideoWriter(path, fps=25, size=(33, 47)) as video:
        video.write(coloured(33, 47, (200, 40, 90)))
    (frame,) = open_source(path)
    assert frame.image.shape == (34, 48, 3)
    assert frame.image[33, 47].tolist() == pytest.approx([200, 40, 90], abs=12)


def test_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    video = VideoWriter(tmp_path / "a.avi", fps=25, size=(32, 48))
    with pytest.raises(ShapeError, match=r"must be 32x48 \(height x width\); frame 0 is 48x32"):
        video.write(coloured(48, 32, (0, 0, 0)))
    video.discard()
    with pytest.raises(InputError, match="closed"):
        video.write(coloured(32, 48, (0, 0, 0)))


def test_what_cannot_be_written_is_refused_before_work_starts(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    for name, error, message in (
        ("a.mov", InputError, r"\.mp4 or \.avi; got 'a\.mov'"),
        ("a", InputError, r"\.mp4 or \.avi"),
        ("none/a.mp4", SourceError, "there is no folder"),
        ("folder.mp4", SourceError, "it is a folder"),
    ):
        with pytest.raises(error, match=message):
            VideoWriter(tmp_path / name, fps=25, size=(32, 32))


@pytest.mark.parametrize(
    "options", [{"fps": 0}, {"fps": "fast"}, {"size": (0, 32)}, {"size": (32,)}, {"size": (10**6, 32)}, {"size": None}]
)
def test_impossible_options_are_refused(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(InputError):
        VideoWriter(tmp_path / "a.mp4", **{"fps": 25, "size": (32, 32), **options})  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_a_folder_one_may_not_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(SourceError, match="no permission"):
        VideoWriter(tmp_path / "a.mp4", fps=25, size=(32, 32))


def test_an_opencv_that_cannot_encode_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    class Shut:
        def __init__(self, *_: object) -> None: ...
        def isOpened(self) -> bool:
            return False

        def release(self) -> None: ...

    monkeypatch.setattr(cv2, "VideoWriter", Shut)
    monkeypatch.setattr(writer, "_encodes_h264", lambda: False)
    with pytest.raises(SourceError, match="opens no avc1 or mp4v encoder for 32x32 at 25"):
        VideoWriter(tmp_path / "a.mp4", fps=25, size=(32, 32))


def test_looking_for_an_encoder_keeps_the_terminal_clean(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    writer._encodes_h264.cache_clear()
    with VideoWriter(tmp_path / "a.mp4", fps=25, size=(32, 32)) as video:
        video.write(coloured(32, 32, (0, 0, 0)))
    assert capfd.readouterr().err == ""
