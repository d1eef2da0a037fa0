"""Files, folders and patterns: every frame with its time, and a reason for whatever cannot be read."""

from __future__ import annotations

import re
import struct
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from effvision.errors import EffvisionError, InputError, SourceError
from effvision.sources import Source, VideoWriter, as_frame, open_source
from effvision.sources.files import ContainerClock


def shade(level: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    image = np.full((height, width, 3), level, np.uint8)
    image[: height // 2, : width // 2] = (250, 20, 20)  # red in the upper left: shows channel order and rotation
    return image


def make_video(path: Path, frames: int = 20, fps: float = 25.0) -> Path:
    with VideoWriter(path, fps=fps, size=(48, 64)) as video:
        for index in range(frames):
            video.write(shade(10 * index % 250))
    return path


def make_image(path: Path, level: int = 90) -> Path:
    data = cv2.imencode(path.suffix, cv2.cvtColor(shade(level), cv2.COLOR_RGB2BGR))[1]
    path.write_bytes(data.tobytes())
    return path


def read_until_error(source: Source) -> tuple[int, str]:
    count = 0
    try:
        for _ in source:
            count += 1
    except SourceError as error:
        return count, str(error)
    return count, ""


# -- video files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi", "größe 日本.mp4"])
def test_a_video_gives_every_frame_with_its_time(tmp_path: Path, name: str) -> None:
    source = open_source(make_video(tmp_path / name))
    assert (source.fps, source.count) == (25.0, 20)
    frames = list(source)
    assert [frame.index for frame in frames] == list(range(20))
    assert [frame.timestamp for frame in frames] == pytest.approx([index / 25 for index in range(20)], abs=1e-3)
    assert {frame.source for frame in frames} == {str(tmp_path / name)}
    assert frames[5].image[5, 5] == pytest.approx([250, 20, 20], abs=30)
    assert frames[5].image[40, 50] == pytest.approx([50, 50, 50], abs=15)


def test_a_video_can_be_read_again_and_from_two_loops_at_once(tmp_path: Path) -> None:
    with open_source(str(make_video(tmp_path / "clip.mp4"))) as source:
        pairs = list(zip(source, source, strict=True))
    assert len(pairs) == 20
    assert all((first.image == second.image).all() for first, second in pairs)


def test_a_rate_given_replaces_the_times_in_the_file(tmp_path: Path) -> None:
    source = open_source(make_video(tmp_path / "clip.mp4"), fps=10)
    assert source.fps == 10
    assert [frame.timestamp for frame in source][:3] == pytest.approx([0, 0.1, 0.2])


def test_frames_are_the_readers_own(tmp_path: Path) -> None:
    frames = list(open_source(make_video(tmp_path / "clip.mp4", frames=3)))
    frames[0].image[:] = 7
    assert not (frames[1].image == 7).all()


def test_closing_ends_a_running_loop(tmp_path: Path) -> None:
    source = open_source(make_video(tmp_path / "clip.mp4"))
    seen = 0
    for _ in source:
        seen += 1
        if seen == 3:
            source.close()
    assert seen == 3
    with pytest.raises(SourceError, match="closed"):
        iter(source)


def test_a_rotated_video_comes_upright(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4")
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    quarter = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 48 << 16, 0, 0x40000000)  # a phone held upright
    data[matrix : matrix + 36] = quarter
    path.write_bytes(data)
    frame = next(iter(open_source(path)))
    assert frame.image.shape == (64, 48, 3)
    assert frame.image[5, 40] == pytest.approx([250, 20, 20], abs=30)  # what was upper left is upper right


def cut_before(path: Path, frame: int) -> Path:
    """Cut a motion JPEG file just before one of its frames, index and all that follows."""
    data = path.read_bytes()
    path.write_bytes(data[: [match.start() for match in re.finditer(b"00dc", data)][frame]])
    return path


def test_a_cut_video_gives_what_decodes_and_then_says_so(tmp_path: Path) -> None:
    path = cut_before(make_video(tmp_path / "clip.avi", frames=100), 50)
    count, message = read_until_error(open_source(path))
    assert 48 <= count <= 50
    assert f"states 100 frames, but only {count} could be decoded" in message


def test_a_video_that_lost_a_few_frames_at_the_end_is_accepted(tmp_path: Path) -> None:
    path = cut_before(make_video(tmp_path / "clip.avi", frames=100), 95)
    count, message = read_until_error(open_source(path))
    assert 93 <= count <= 95 and message == ""


def test_an_mp4_without_its_index_is_explained(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = make_video(tmp_path / "clip.mp4")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])
    with pytest.raises(SourceError, match=r"has no index \(`moov`\)"):
        open_source(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv", "a.jpg", "a.bin", "a.txt", "a.nfo", "noname"])
@pytest.mark.parametrize("data", [b"", b"hello world " * 50, bytes(range(256)) * 20])
def test_a_file_that_holds_no_pictures_is_refused(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=rf"{name} (is|could)"):
        list(open_source(tmp_path / name))


@pytest.mark.parametrize("data", [b"", b"hello world " * 50])
def test_a_file_that_is_plainly_no_video_keeps_the_terminal_clean(
    tmp_path: Path, data: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.mp4").write_bytes(data)
    with pytest.raises(SourceError):
        open_source(tmp_path / "a.mp4")
    assert capfd.readouterr().err == ""


# -- the clock of a video --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        ([0.0, 0.1, 0.3, 0.35], [0.0, 0.1, 0.3, 0.35]),  # irregular, as cameras are
        ([5.0, 5.1, 5.2], [0.0, 0.1, 0.2]),  # does not begin at zero
        ([0.0, 0.0, 0.0], [0.0, 0.25, 0.5]),  # no times at all: 1 / fps
        ([0.0, 0.1, 0.05, 9.0], [0.0, 0.1, 0.35, 0.6]),  # falls: never trusted again
        ([0.0, float("nan"), 0.2], [0.0, 0.25, 0.5]),
        ([float("nan"), 0.1, 0.2], [0.0, 0.25, 0.5]),
    ],
)
def test_container_times_are_used_while_they_rise(container: list[float], expected: list[float]) -> None:
    clock = ContainerClock(4.0)
    assert [clock.tick(time) for time in container] == pytest.approx(expected)


# -- image files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "größe 日本.png", "UPPER.PNG"])
def test_an_image_file_is_one_frame(tmp_path: Path, name: str) -> None:
    source = open_source(make_image(tmp_path / name))
    assert (source.count, source.fps) == (1, None)
    (frame,) = source
    assert frame.timestamp == 0 and frame.source == str(tmp_path / name)
    assert frame.image[5, 5] == pytest.approx([250, 20, 20], abs=12)


def test_an_image_is_known_by_its_bytes_when_its_name_says_nothing(tmp_path: Path) -> None:
    path = make_image(tmp_path / "a.png").rename(tmp_path / "upload")
    assert len(list(open_source(path))) == 1


def test_photographs_are_turned_upright_as_exif_says(tmp_path: Path) -> None:
    pil = pytest.importorskip("PIL.Image")
    exif = pil.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to show
    pil.fromarray(shade(90)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = as_frame(tmp_path / "a.jpg")
    assert image.shape == (64, 48, 3)
    assert image[5, 40] == pytest.approx([250, 20, 20], abs=30)


def test_alpha_grey_and_sixteen_bits_become_rgb(tmp_path: Path) -> None:
    for name, array in (
        ("alpha.png", np.dstack([shade(90), np.full((48, 64), 128, np.uint8)])),
        ("grey.png", shade(90)[..., 0]),
        ("deep.png", shade(90).astype(np.uint16) * 257),
    ):
        (tmp_path / name).write_bytes(cv2.imencode(".png", array)[1].tobytes())
        assert as_frame(tmp_path / name)[40, 50].tolist() == [90, 90, 90]


def test_a_cut_photograph_is_refused_not_half_shown(tmp_path: Path) -> None:
    path = make_image(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(SourceError, match="cut short"):
        open_source(path)


# -- folders, patterns, lists ----------------------------------------------------------------------------------------


def test_a_folder_of_images_is_one_sequence_in_natural_order(tmp_path: Path) -> None:
    for number in (1, 2, 10, 9):
        make_image(tmp_path / f"frame{number}.png", level=number * 10)
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden.png").write_bytes(b"")
    source = open_source(tmp_path)
    assert source.count == 4
    frames = list(source)
    assert [int(frame.image[40, 50, 0]) // 10 for frame in frames] == [1, 2, 9, 10]
    assert [frame.timestamp for frame in frames] == pytest.approx([0, 1 / 30, 2 / 30, 0.1])
    assert {frame.source for frame in frames} == {str(tmp_path)}
    assert [frame.timestamp for frame in open_source(str(tmp_path), fps=2)] == [0, 0.5, 1.0, 1.5]


@pytest.mark.parametrize("way", ["folder", "pattern", "list"])
def test_each_video_of_several_is_a_stream_of_its_own(tmp_path: Path, way: str) -> None:
    paths = [make_video(tmp_path / f"clip{number}.avi", frames=3) for number in (10, 2)]
    ordered = [str(paths[1]), str(paths[0])]
    x: object = {"folder": tmp_path, "pattern": str(tmp_path / "*.avi"), "list": ordered}[way]
    frames = list(open_source(x))
    assert [frame.source for frame in frames] == [ordered[0]] * 3 + [ordered[1]] * 3
    assert [frame.index for frame in frames] == [0, 1, 2, 0, 1, 2]
    assert frames[3].timestamp == 0.0


def test_a_pattern_looks_into_folders(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    make_image(tmp_path / "a" / "b" / "x.png")
    make_image(tmp_path / "a" / "y.png")
    assert len(list(open_source(f"{tmp_path}/**/*.png"))) == 2


def test_a_file_whose_name_looks_like_a_pattern_is_the_file(tmp_path: Path) -> None:
    assert len(list(open_source(str(make_image(tmp_path / "a[1].png"))))) == 1


def test_folders_and_patterns_without_use_say_what_they_hold(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no file\nhint: a pattern"):
        open_source(tmp_path)
    (tmp_path / "a.txt").write_text("BM, but no bitmap")
    with pytest.raises(SourceError, match="1 files, none of a known image or video type"):
        open_source(tmp_path)
    with pytest.raises(SourceError, match=r"the pattern .*\.mp4 holds no file"):
        open_source(f"{tmp_path}/*.mp4")
    make_image(tmp_path / "a.png")
    make_video(tmp_path / "b.avi", frames=1)
    with pytest.raises(SourceError, match=r"1 images and 1 videos; .*\nhint: a pattern such as '\*\.avi'"):
        open_source(tmp_path)


def test_a_missing_file_suggests_its_neighbours(tmp_path: Path) -> None:
    make_image(tmp_path / "gesture.png")
    with pytest.raises(SourceError, match=r"gestures\.png does not exist\nhint: .* holds gesture\.png"):
        open_source(tmp_path / "gestures.png")
    with pytest.raises(SourceError, match="there is no folder"):
        open_source(tmp_path / "none" / "gestures.png")
    with pytest.raises(SourceError, match="does not exist"):
        open_source([str(tmp_path / "gesture.png"), str(tmp_path / "other.png")])


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 5000, "~nobody/at/all.mp4", "/dev/null"])
def test_odd_paths_are_refused_in_our_words(path: str) -> None:
    for read in (open_source, as_frame):
        with pytest.raises(SourceError) as caught:
            read(path)
        assert len(str(caught.value)) < 12000


def test_a_color_for_a_file_is_refused(tmp_path: Path) -> None:
    path = make_image(tmp_path / "a.png")
    for read in (open_source, as_frame):
        with pytest.raises(InputError, match="a file is decoded to RGB"):
            read(path, color="bgr")  # type: ignore[operator]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    head=st.sampled_from(
        [
            b"",
            b"\xff\xd8\xff\xe0",
            b"\x89PNG\r\n\x1a\n",
            b"RIFF\x00\x01\x00\x00AVI ",
            b"\x00\x00\x00\x18ftypmp42",
            b"BM",
            b"GIF89a",
        ]
    ),
    body=st.binary(max_size=400),
    suffix=st.sampled_from([".mp4", ".avi", ".jpg", ".png", ".gif", ".bmp", ""]),
)
def test_garbage_files_raise_our_errors_only(tmp_path: Path, head: bytes, body: bytes, suffix: str) -> None:
    path = tmp_path / f"garbage{suffix}"
    path.write_bytes(head + body)
    with suppress(EffvisionError):
        list(open_source(path))
