"""Pictures in memory: what is taken, what is refused, and what the refusal says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from effvision.errors import DTypeError, EffvisionError, InputError, RangeError, ShapeError, SourceError
from effvision.sources import Frame, as_frame, open_source

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
CLIP = np.random.default_rng(1).integers(0, 256, (4, 6, 8, 3), dtype=np.uint8)


class FakeTensor:
    """What this package knows of a torch tensor."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array
        self.dtype = f"torch.{array.dtype}"

    def detach(self) -> FakeTensor:
        return self

    def cpu(self) -> FakeTensor:
        return self

    def numpy(self) -> NDArray[Any]:
        return self._array


def images(x: object, **options: Any) -> list[NDArray[np.uint8]]:
    return [frame.image for frame in open_source(x, **options)]


def test_a_picture_that_fits_is_not_copied() -> None:
    assert as_frame(RGB) is RGB


@pytest.mark.parametrize(
    "view",
    [
        RGB[::-1],
        RGB[:, ::2],
        np.asfortranarray(RGB),
        RGB.astype(np.float32) / 255,
        RGB.astype(np.float64) / 255,
        FakeTensor(RGB),
        FakeTensor(RGB.transpose(2, 0, 1)),
    ],
)
def test_the_result_is_always_contiguous_rgb_uint8(view: Any) -> None:
    out = as_frame(view)
    assert out.dtype == np.uint8 and out.flags.c_contiguous and out.shape[2] == 3


def test_floats_in_0_to_1_come_back_as_the_levels_they_were() -> None:
    np.testing.assert_array_equal(as_frame(RGB / 255), RGB)
    np.testing.assert_array_equal(as_frame((RGB / 255).astype(np.float16)), RGB)


def test_bgr_is_turned_round() -> None:
    np.testing.assert_array_equal(as_frame(RGB, color="bgr"), RGB[..., ::-1])


def test_grey_is_repeated_when_it_is_said() -> None:
    for grey in (RGB[..., 0], RGB[..., :1], FakeTensor(RGB[None, ..., 0])):
        np.testing.assert_array_equal(as_frame(grey, color="grey"), RGB[..., [0, 0, 0]])


def test_torch_and_pil_are_taken() -> None:
    torch = pytest.importorskip("torch")
    pil = pytest.importorskip("PIL.Image")
    first = torch.from_numpy(RGB).permute(2, 0, 1)
    for given_as in (first, first.float() / 255, torch.from_numpy(RGB), pil.fromarray(RGB)):
        np.testing.assert_array_equal(as_frame(given_as), RGB)
    assert as_frame((first.float() / 255).bfloat16()).shape == RGB.shape
    np.testing.assert_array_equal(images(torch.from_numpy(CLIP).permute(0, 3, 1, 2)), CLIP)
    np.testing.assert_array_equal(images(torch.from_numpy(CLIP)), CLIP)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_pil_images_of_other_modes_are_refused_with_the_conversion(mode: str) -> None:
    pil = pytest.importorskip("PIL.Image")
    with pytest.raises(ShapeError, match=rf"got mode {mode}\nhint: pass `image.convert\('RGB'\)`"):
        as_frame(pil.new(mode, (8, 6)))


@pytest.mark.parametrize(
    ("picture", "error", "message"),
    [
        (RGB[..., 0], ShapeError, r"got \(6, 8\)\nhint: say `color='grey'`"),
        (RGB[..., :1], ShapeError, r"got \(6, 8, 1\)\nhint: say `color='grey'`"),
        (np.dstack([RGB, RGB[..., 0]]), ShapeError, r"got \(6, 8, 4\)\nhint: drop the alpha channel"),
        (RGB.transpose(2, 0, 1), ShapeError, r"got \(3, 6, 8\)\nhint: `image.transpose\(1, 2, 0\)`"),
        (CLIP, ShapeError, r"got \(4, 6, 8, 3\), 4 pictures"),
        (RGB[:0], ShapeError, "no pixels"),
        (np.uint8(3), ShapeError, r"got \(\)"),
        (RGB.astype(np.int64), DTypeError, "got int64\nhint: `image.astype"),
        (RGB.astype(np.uint16), DTypeError, "got uint16\nhint: .*257"),
        (RGB > 5, DTypeError, "got bool"),
        (RGB.astype(object), DTypeError, "got object"),
        (RGB.astype(complex), DTypeError, "got complex128"),
        (RGB.astype(np.float32), RangeError, r"within 0\.\.1; got [0-9]+\.\.2[0-9]+\n"),
        (np.where(RGB > 99, 0.5, -0.5), RangeError, r"got -0\.5\.\.0\.5"),
        (np.where(RGB > 5, np.nan, 0.5), RangeError, r"got nan\.\.nan"),
        (np.full((2, 2, 3), np.inf), RangeError, "got inf"),
        (None, DTypeError, "got NoneType"),
        (b"abc", DTypeError, "got bytes\nhint: decode the bytes first"),
        ([[[1, 2, 3]]], DTypeError, "got list\nhint: `np.asarray"),
        ({"image": RGB}, DTypeError, "got dict\nhint: pass the picture held in the dict"),
        ("no/such/file.png", SourceError, "there is no folder"),
        (FakeTensor(np.zeros((3, 5, 3), np.uint8)), ShapeError, "first or last"),
    ],
)
def test_a_refusal_says_what_was_given_and_what_to_do(picture: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        as_frame(picture)


def test_an_unknown_color_is_refused() -> None:
    with pytest.raises(InputError, match="got 'gbr'"):
        as_frame(RGB, color="gbr")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="with `color='grey'`"):
        as_frame(RGB, color="grey")


def test_a_clip_has_a_clock_of_30_frames_a_second_unless_told() -> None:
    source = open_source(CLIP)
    assert (source.count, source.fps) == (4, 30.0)
    frames = list(source)
    np.testing.assert_array_equal([frame.image for frame in frames], CLIP)
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert [frame.timestamp for frame in frames] == pytest.approx([0, 1 / 30, 2 / 30, 0.1])
    assert [frame.timestamp for frame in open_source(CLIP, fps=10)] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert len({frame.source for frame in frames}) == 1


def test_an_array_source_can_be_read_twice() -> None:
    source = open_source(CLIP)
    assert len(list(source)) == len(list(source)) == 4


def test_one_picture_is_one_frame_without_a_rate() -> None:
    source = open_source(RGB)
    assert (source.count, source.fps) == (1, None)
    assert [(frame.index, frame.timestamp) for frame in source] == [(0, 0.0)]


def test_grey_clips_are_taken_when_it_is_said() -> None:
    for clip in (CLIP[..., 0], CLIP[..., :1]):
        np.testing.assert_array_equal(images(clip, color="grey"), CLIP[..., [0, 0, 0]])
    assert len(images(CLIP[0, ..., :1], color="grey")) == 1


def test_bgr_reaches_every_picture_of_clips_and_iterables() -> None:
    np.testing.assert_array_equal(images(CLIP, color="bgr"), CLIP[..., ::-1])
    np.testing.assert_array_equal(images(iter(CLIP), color="bgr"), CLIP[..., ::-1])


def test_a_clip_without_frames_is_refused_at_once() -> None:
    with pytest.raises(ShapeError, match="at least one frame"):
        open_source(CLIP[:0])


def test_a_clip_of_the_wrong_shape_is_refused_at_once() -> None:
    with pytest.raises(ShapeError, match=r"got \(3, 6, 8\)\nhint"):
        open_source(CLIP.transpose(0, 3, 1, 2))
    with pytest.raises(ShapeError, match=r"got \(2, 4, 6, 8, 3\)"):
        open_source(np.stack([CLIP, CLIP]))


def test_iterators_give_frames_lazily() -> None:
    taken = 0

    def pictures() -> Iterator[NDArray[np.uint8]]:
        nonlocal taken
        while True:
            taken += 1
            yield RGB

    frames = iter(open_source(pictures(), fps=50))
    assert taken == 0
    assert [next(frames).timestamp for _ in range(3)] == pytest.approx([0, 0.02, 0.04])
    assert taken == 3


def test_pairs_bring_their_own_time() -> None:
    frames = list(open_source([(RGB, 0.0), (RGB, 0.5), (RGB, np.float32(2.5))]))
    assert [frame.timestamp for frame in frames] == [0.0, 0.5, 2.5]
    with pytest.raises(InputError, match="item 0 of the iterable: it brings its own timestamp"):
        list(open_source([(RGB, 0.0)], fps=5))


@pytest.mark.parametrize("item", [(RGB, "1.0"), (RGB, float("nan")), (RGB, None), (RGB,), (RGB, 1.0, 2.0)])
def test_pairs_that_are_none_are_refused(item: object) -> None:
    with pytest.raises(InputError, match="item 0 of the iterable"):
        list(open_source([item]))


def test_frames_pass_unchanged() -> None:
    given_frames = [Frame(RGB, 7, 3.25, "camera 2"), Frame(RGB, 9, 3.5, "camera 2")]
    out = list(open_source(given_frames))
    assert [(frame.index, frame.timestamp, frame.source) for frame in out] == [
        (7, 3.25, "camera 2"),
        (9, 3.5, "camera 2"),
    ]


def test_the_item_that_cannot_be_used_is_named() -> None:
    with pytest.raises(ShapeError, match=r"item 2 of the iterable: .*got \(6, 8\)"):
        list(open_source([RGB, RGB, RGB[..., 0]]))


def test_an_empty_iterable_is_refused_when_read() -> None:
    source = open_source(iter(()))
    with pytest.raises(InputError, match="gave no frame"):
        list(source)
    used = open_source(iter(CLIP))
    assert len(list(used)) == 4
    with pytest.raises(InputError, match="used up"):
        list(used)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), "30", None.__class__, True])
def test_rates_that_make_no_sense_are_refused(fps: Any) -> None:
    with pytest.raises(InputError, match="`fps` must be"):
        open_source(CLIP, fps=fps)


@pytest.mark.parametrize("x", [None, True, 1.5, b"abc", {"a": 1}, {1, 2}, object(), print, int])
def test_what_is_no_source_is_refused(x: object) -> None:
    with pytest.raises(EffvisionError):
        list(open_source(x))


def test_a_source_is_closed_by_its_block() -> None:
    with open_source(CLIP) as source:
        frames = iter(source)
        next(frames)
    assert list(frames) == []
    with pytest.raises(SourceError, match="closed"):
        iter(source)
    assert open_source(source) is source


class Hostile:
    """An object that answers to every name."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


class BrokenTensor(FakeTensor):
    def numpy(self) -> NDArray[Any]:
        raise RuntimeError("not on this device")


def test_foreign_objects_that_fail_are_refused_in_our_words() -> None:
    for x in (Hostile(), BrokenTensor(RGB)):
        with pytest.raises(DTypeError):
            as_frame(x)
        with pytest.raises(DTypeError):
            open_source(x)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=6,
)
any_array = arrays.arrays(
    dtype=st.sampled_from([np.uint8, np.int32, np.float32, np.float64, np.bool_, np.uint16, np.complex64]),
    shape=arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5),
)


@settings(max_examples=200, deadline=None)
@given(x=anything | any_array, color=st.sampled_from(["rgb", "bgr", "grey"]))
def test_garbage_raises_our_errors_only(x: object, color: Any) -> None:
    for read in (as_frame, images):
        with suppress(EffvisionError):
            read(x, color=color)
