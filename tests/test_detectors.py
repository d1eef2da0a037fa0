"""Detectors from ONNX files: known layouts read exactly, everything else refused."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detector_files import NAMES, cells, finds_square, save, says
from effvision import Detections, OnnxDetector
from effvision.detectors import Letterbox
from effvision.errors import DetectorError, InputError, ModelFileError, RuntimeFailure, ShapeError
from effvision.host.boxes import nms
from effvision.host.yolo import decode, readings

SIZE = (64, 96)
LAYOUTS = ("v8", "v8 transposed", "v5", "end to end")
COUNT = cells(SIZE)  # 126


def frame_with_square(height: int, width: int, box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Dark, with a white square at `x1 y1 x2 y2`."""
    frame = np.full((height, width, 3), 20, np.uint8)
    frame[box[1] : box[3], box[0] : box[2]] = 255
    return frame


def table(rows: list[list[float]], layout: str = "v8", *, classes: int = 3, dtype: Any = np.float32) -> NDArray[Any]:
    """An answer with these `x y w h` or `x1 y1 x2 y2`, score, class, where the layout expects them; the rest is zero."""
    if layout == "end to end":
        out = np.zeros((1, 300, 6))
        out[0, : len(rows)] = rows
        return out.astype(dtype)
    first = 5 if layout == "v5" else 4
    boxes = np.zeros((COUNT * 3 if layout == "v5" else COUNT, first + classes))
    for place, (x, y, w, h, score, kind) in enumerate(rows):
        boxes[7 * place, :4] = x, y, w, h
        boxes[7 * place, 4:first] = 1
        boxes[7 * place, first + int(kind)] = score
    return (boxes.T if layout == "v8" else boxes)[None].astype(dtype)


def fresh(tmp_path: Path) -> Path:
    return tmp_path / "detector.onnx"


# --- the letterbox ------------------------------------------------------------------------------------------------------


def letterbox_of_the_authors(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """As ultralytics describes it: round to whole pixels, halve the rest, one tenth decides where an odd one goes."""
    ratio = min(size[0] / frame.shape[0], size[1] / frame.shape[1])
    inner = round(frame.shape[1] * ratio), round(frame.shape[0] * ratio)
    across, down = (size[1] - inner[0]) / 2, (size[0] - inner[1]) / 2
    if frame.shape[1::-1] != inner:
        frame = cv2.resize(frame, inner, interpolation=cv2.INTER_LINEAR)
    top, bottom, left, right = round(down - 0.1), round(down + 0.1), round(across - 0.1), round(across + 0.1)
    bordered = cv2.copyMakeBorder(frame, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(114, 114, 114))
    return np.asarray(bordered)


@pytest.mark.parametrize("frame", [(480, 640), (64, 96), (1, 1), (33, 77), (71, 35), (100, 101), (7, 90), (1080, 1920)])
@pytest.mark.parametrize("size", [(64, 96), (96, 64), (640, 640)])
def test_the_input_is_that_of_the_authors(frame: tuple[int, int], size: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*frame, 3), dtype=np.uint8)
    theirs = letterbox_of_the_authors(picture, size)
    for dtype in (np.float32, np.float16):
        ours = Letterbox(frame, size).tensor(picture, dtype)
        assert ours.dtype == dtype
        np.testing.assert_array_equal(ours[0], theirs.transpose(2, 0, 1).astype(dtype) / dtype(255))


sides = st.integers(1, 5000)


@given(
    sides, sides, st.sampled_from([(64, 96), (640, 640), (384, 640)]), st.lists(st.floats(0, 1), min_size=4, max_size=4)
)
def test_boxes_come_back_where_they_were(height: int, width: int, size: tuple[int, int], share: list[float]) -> None:
    letterbox = Letterbox((height, width), size)
    (rows, columns), (top, left) = letterbox.scaled, letterbox.offset
    assert 1 <= rows <= size[0] and 1 <= columns <= size[1]
    assert 0 <= size[0] - rows - 2 * top <= 1 and 0 <= size[1] - columns - 2 * left <= 1  # centred
    x1, y1, x2, y2 = share
    inside = np.array([[left + x1 * columns, top + y1 * rows, left + x2 * columns, top + y2 * rows]])
    expected = [[x1 * width, y1 * height, x2 * width, y2 * height]]
    np.testing.assert_allclose(letterbox.to_frame(inside), expected, rtol=0, atol=1e-6)


def test_a_frame_too_thin_for_a_pixel_keeps_one() -> None:
    letterbox = Letterbox((1, 5000), (64, 96))
    assert letterbox.scaled == (1, 96)
    assert letterbox.tensor(np.full((1, 5000, 3), 255, np.uint8))[0, :, 31].min() == 1.0


# --- from a picture to boxes --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[(layout, dtype) for layout in LAYOUTS for dtype in (np.float32, np.float16)])
def square_detector(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OnnxDetector:
    layout, dtype = request.param
    path = finds_square(tmp_path_factory.mktemp("square") / "square.onnx", layout=layout, size=SIZE, dtype=dtype)
    detector = OnnxDetector(path, threads=1)
    assert detector.layout == layout
    return detector


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [
        (64, 96, (10, 20, 30, 50)),  # the size of the input: no scaling
        (480, 640, (100, 50, 300, 400)),
        (1080, 1920, (1500, 700, 1920, 1080)),  # to the corner
        (641, 359, (0, 0, 101, 77)),  # upright, odd
        (37, 23, (5, 9, 18, 30)),  # enlarged
        (50, 1000, (400, 10, 600, 40)),  # long
    ],
)
def test_the_square_is_found_where_it_is(
    square_detector: OnnxDetector, height: int, width: int, box: tuple[int, int, int, int]
) -> None:
    found = square_detector(frame_with_square(height, width, box))
    assert len(found) == 1  # equal boxes of all cells are one object
    pixel = max(height / SIZE[0], width / SIZE[1], 1.0)  # of the input, in the frame
    np.testing.assert_allclose(found.boxes[0], box, atol=0.55 * pixel if (height, width) != SIZE else 0)
    assert found.labels == ("circle",)
    assert found.scores[0] == pytest.approx(0.9, abs=1e-3)
    assert found.dropped == 0


def test_a_frame_without_anything_gives_nothing_usable(square_detector: OnnxDetector) -> None:
    assert len(square_detector(np.zeros((48, 64, 3), np.uint8))) == 0


def test_a_frame_of_one_pixel_is_a_frame(square_detector: OnnxDetector) -> None:
    found = square_detector(np.full((1, 1, 3), 255, np.uint8))
    assert found.boxes.tolist() == [[0, 0, 1, 1]]


def test_red_comes_first(tmp_path: Path) -> None:
    """The file gives the mean of the first channel as the score: 1 for a red frame, 0 for a blue one."""
    from onnx import helper

    shape = (1, 300, 6)
    nodes = [
        helper.make_node("ReduceMean", ["in0"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Slice", ["mean", "from", "to", "axis"], ["red"]),
        helper.make_node("Concat", ["box", "red", "zero"], ["row"], axis=1),
        helper.make_node("Expand", ["row", "shape"], ["out0"]),
    ]
    constants = {
        "from": np.array([0]),
        "to": np.array([1]),
        "axis": np.array([1]),
        "box": np.array([[5, 5, 50, 50]], np.float32),
        "zero": np.zeros((1, 1), np.float32),
        "shape": np.array(shape),
    }
    path = save(fresh(tmp_path), nodes, inputs=[((1, 3, 64, 64), np.float32)], outputs=[shape], constants=constants)
    detector = OnnxDetector(path)
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 255
    assert detector(red).scores[0] == pytest.approx(1.0)
    assert len(detector(red[..., ::-1])) == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_that_leaves_its_size_open_gets_640(tmp_path: Path, layout: str) -> None:
    detector = OnnxDetector(finds_square(fresh(tmp_path), layout=layout, size=None))
    assert detector.size == (640, 640)
    assert detector.layout == layout
    box = (100, 50, 300, 400)
    found = detector(frame_with_square(480, 640, box))
    assert found.boxes.tolist() == [list(box)]  # not scaled


def test_an_open_size_is_what_it_was_exported_for_or_what_is_asked(tmp_path: Path) -> None:
    told = {"names": NAMES, "imgsz": [320, 416], "stride": 32}
    path = finds_square(fresh(tmp_path), size=None, metadata=told, open_size=(320, 416))
    assert OnnxDetector(path).size == (320, 416)
    path = finds_square(fresh(tmp_path), size=None, metadata=told, open_size=(160, 160))
    assert OnnxDetector(path, size=160).size == (160, 160)
    for size in (100, 0, -32, 1 << 20, "640", True, 64.0):
        with pytest.raises(InputError, match="`size` must be a multiple of 32"):
            OnnxDetector(path, size=size)  # type: ignore[arg-type]
    fixed = finds_square(fresh(tmp_path))
    with pytest.raises(InputError, match="is always 64x96"):
        OnnxDetector(fixed, size=64)


@pytest.mark.parametrize(
    "damaged", ["[640", "640", "[0, 0]", "[641, 641]", "['a', 'b']", "[640.0, 640.0]", "[True, True]"]
)
def test_a_damaged_size_in_the_file_is_no_size(tmp_path: Path, damaged: str) -> None:
    path = finds_square(fresh(tmp_path), size=None, metadata={"names": NAMES, "imgsz": damaged, "stride": "?"})
    assert OnnxDetector(path).size == (640, 640)


def test_any_picture_of_the_package_will_do(square_detector: OnnxDetector) -> None:
    frame = frame_with_square(64, 96, (10, 20, 30, 50))
    expected = square_detector(frame).boxes.tolist()
    assert square_detector((frame / 255).astype(np.float32)).boxes.tolist() == expected
    turned = np.ascontiguousarray(frame[:, ::-1])[:, ::-1]  # a view with a negative stride
    assert square_detector(turned).boxes.tolist() == expected


def test_many_threads_may_ask_one_detector(square_detector: OnnxDetector) -> None:
    frames = [frame_with_square(64, 96, (3 * i, 2 * i, 3 * i + 20, 2 * i + 20)) for i in range(16)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(square_detector, frames))
    assert [found.boxes.tolist() for found in together] == [square_detector(frame).boxes.tolist() for frame in frames]


# --- thresholds, suppression, order -------------------------------------------------------------------------------------

GREY = np.full((*SIZE, 3), 114, np.uint8)


@pytest.mark.parametrize("layout", ["v8", "v8 transposed", "v5"])
def test_overlapping_boxes_of_one_class_become_one(tmp_path: Path, layout: str) -> None:
    rows = [
        [30.0, 30, 20, 20, 0.6, 0],
        [31.0, 30, 20, 20, 0.8, 0],  # the better one of class 0
        [30.0, 30, 20, 20, 0.7, 1],  # another class stays
        [70.0, 30, 10, 10, 0.3, 2],
        [70.0, 50, 10, 10, 0.2, 2],  # below the threshold
    ]
    path = says(fresh(tmp_path), table(rows, layout), metadata={"names": ["a", "b", "c"]})
    found = OnnxDetector(path)(GREY)
    assert found.boxes.tolist() == [[21, 20, 41, 40], [20, 20, 40, 40], [65, 25, 75, 35]]
    np.testing.assert_allclose(found.scores, [0.8, 0.7, 0.3], rtol=1e-6)
    assert found.labels == ("a", "b", "c")
    assert len(OnnxDetector(path, confidence=0.1)(GREY)) == 4
    assert len(OnnxDetector(path, iou=1.0)(GREY)) == 4
    assert len(OnnxDetector(path, confidence=1)(GREY)) == 0


def test_an_end_to_end_file_is_not_suppressed_again(tmp_path: Path) -> None:
    rows = [[20.0, 20, 40, 40, 0.6, 0], [21, 20, 41, 40, 0.8, 0], [0, 0, 50, 50, 0.25, 79]]
    found = OnnxDetector(says(fresh(tmp_path), table(rows, "end to end")))(GREY)
    assert found.boxes.tolist() == [[21, 20, 41, 40], [20, 20, 40, 40]]  # best first; 0.25 is not above 0.25
    assert found.names == () and found.labels == ("0", "0")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_at_most_300_boxes_come_back(tmp_path: Path, layout: str) -> None:
    rng = np.random.default_rng(0)
    size = (640, 640)
    if layout == "end to end":
        answer = np.tile(np.array([10, 10, 20, 20, 0.5, 0], np.float32), (1, 500, 1))
        answer[0, :, 4] = rng.uniform(0.3, 1, 500)
    else:
        first = 5 if layout == "v5" else 4
        answer = np.zeros((1, cells(size) * (3 if layout == "v5" else 1), first + 2), np.float32)
        answer[0, :1000, :4] = np.stack(
            [np.arange(1000) % 32 * 20 + 9, np.arange(1000) // 32 * 20 + 9, *[np.full(1000, 9)] * 2], 1
        )
        answer[0, :1000, 4:] = rng.uniform(0.6, 1, (1000, first - 2))
        answer = answer.transpose(0, 2, 1) if layout == "v8" else answer
    detector = OnnxDetector(says(fresh(tmp_path), answer, shape=(1, 3, *size)), names=["a", "b"])
    assert detector.layout == layout
    found = detector(np.zeros((*size, 3), np.uint8))
    assert len(found) == 300
    assert (np.diff(found.scores) <= 0).all()


def test_a_box_in_the_grey_or_with_nan_is_dropped_and_counted(tmp_path: Path) -> None:
    answer = table(
        [[50.0, 32, 10, 10, 0.9, 0], [5, 32, 6, 6, 0.9, 0], [np.nan, 32, 5, 5, 0.9, 0], [50, 32, 0, 5, 0.9, 0]]
    )
    answer[0, 5, 100] = np.nan
    found = OnnxDetector(says(fresh(tmp_path), answer))(np.zeros((64, 64, 3), np.uint8))  # grey: columns 0-16 and 80-96
    assert found.boxes.tolist() == [[29, 27, 39, 37]]
    assert found.dropped == 4


def test_the_answer_agrees_with_a_plain_reading_of_the_numbers() -> None:
    rng = np.random.default_rng(1)
    answer = np.concatenate(
        [rng.uniform(0, 640, (1, 2, 8400)), rng.uniform(1, 90, (1, 2, 8400)), rng.beta(1, 60, (1, 5, 8400))], 1
    )
    rows = decode(answer.astype(np.float32), "v8", 0.1)
    expected = []
    for x, y, w, h, *scores in answer[0].T.astype(np.float32).tolist():
        if max(scores) > 0.1:
            expected.append(([x - w / 2, y - h / 2, x + w / 2, y + h / 2], max(scores), scores.index(max(scores))))
    assert 20 < len(expected) < 2000
    np.testing.assert_allclose(rows.boxes, [box for box, _, _ in expected], atol=1e-9)
    assert rows.scores.tolist() == [score for _, score, _ in expected]
    assert rows.classes.tolist() == [kind for _, _, kind in expected]
    kept = nms(rows.boxes, rows.scores, rows.classes, 0.45)
    assert rows.take(kept).scores.tolist() == rows.scores[kept].tolist()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_half_precision_is_read_as_the_numbers_it_holds(layout: str) -> None:
    rng = np.random.default_rng(2)
    rows = [
        [*rng.uniform(20, 60, 2), *rng.uniform(61, 90, 2), score, i % 3]
        for i, score in enumerate(rng.uniform(0, 1, 15))
    ]
    answer = table(rows, layout, dtype=np.float16)
    answer[answer == 0] = 6e-8  # as small as the scores of most boxes are
    if layout == "v8":
        answer[0, 5, 120] = np.nan
    half, single = decode(answer, layout, 0.25), decode(answer.astype(np.float32), layout, 0.25)
    assert 5 < len(half.scores) < 15
    for one, other in zip(half, single, strict=True):
        np.testing.assert_array_equal(one, other)


# --- names --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{0: 'person', 1: \"traffic light\", 2: 'Äpfel'}", ("person", "traffic light", "Äpfel")),
        ("['a', 'b', 'c']", ("a", "b", "c")),
        ("", ()),
        ("{0: 'person'", ()),
        ("__import__('os').system('false')", ()),
        ("{'person': 0}", ()),
        ("{-1: 'a', 0: 'b', 1: 'c'}", ()),
        ("{10**9: 'a'}", ()),
        ("{1000000000: 'a'}", ()),
        ("[" * 5000, ()),
        ("7", ()),
    ],
)
def test_names_are_read_as_data_and_damaged_ones_are_none(tmp_path: Path, text: str, names: tuple[str, ...]) -> None:
    path = says(fresh(tmp_path), table([[30.0, 30, 20, 20, 0.6, 2]]), metadata={"names": text})
    detector = OnnxDetector(path)
    assert detector.names == names
    assert detector(GREY).labels == (names[2] if names else "2",)


def test_the_callers_names_come_first(tmp_path: Path) -> None:
    path = says(fresh(tmp_path), table([[30.0, 30, 20, 20, 0.6, 2]]), metadata={"names": NAMES})
    with pytest.raises(ModelFileError, match="2 class names"):
        OnnxDetector(path)
    assert OnnxDetector(path, names=["x", "y", "z"])(GREY).labels == ("z",)


def test_it_says_what_it_is(tmp_path: Path) -> None:
    text = repr(OnnxDetector(finds_square(fresh(tmp_path))))
    assert text == (
        "OnnxDetector('detector.onnx', layout 'v8' (1, 6, 126), input 64x96, 2 classes, confidence 0.25, cpu)"
    )


# --- refusals -----------------------------------------------------------------------------------------------------------


def zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("answers", "options", "says_so"),
    [
        (
            (zeros(1, 116, 126), zeros(1, 32, 16, 24)),
            {},
            r"has 2 outputs, out0 \[1, 116, 126\], out1 .*; a detector has one",
        ),
        ((zeros(2, 84, 126),), {}, r"answers \(2, 84, 126\) for an input of 64x96, which fits no known layout"),
        ((zeros(84, 126),), {}, "fits no known layout"),
        ((zeros(1, 84, 127),), {}, "fits no known layout"),
        ((zeros(1, 300, 84),), {}, "fits no known layout"),  # RT-DETR
        ((zeros(1, 300, 7),), {}, "fits no known layout"),  # rotated boxes, end to end
        ((zeros(1, 4, 126),), {}, "fits no known layout"),  # no class
        ((zeros(1, 84, 126),), {"shape": (1, 3, 100_000, 100_000)}, "8192 rows and columns are the most"),  # 120 GB
        ((zeros(1, 5, 378),), {}, "fits no known layout"),
        (
            (zeros(1, 126, 85),),
            {},
            r"may mean 81 classes \(v8 transposed\) or 80 classes \(one score too many\)(.|\n)*names=",
        ),
        ((zeros(1, 126, 85),), {"metadata": {"names": ["a"] * 80}}, "for 80 classes is the layout of YOLOX and YOLOv6"),
        ((zeros(1, 56, 126),), {"metadata": {"names": ["person"]}}, "and 1 class names, which fits no known layout"),
        ((zeros(1, 56, 126),), {"metadata": {"task": "pose"}}, "is a model for 'pose', not for detection"),
        (
            (zeros(1, 84, 126),),
            {"shape": (2, 3, 64, 96)},
            r"takes in0 \[2, 3, 64, 96\] tensor\(float\); a detector takes one",
        ),
        ((zeros(1, 84, 126),), {"shape": (1, 1, 64, 96)}, "takes one picture"),
        ((zeros(1, 84, 126),), {"shape": (1, 64, 96, 3)}, "takes one picture"),
        ((zeros(1, 84, 126),), {"shape": (1, 3, 8, 64, 96)}, "takes one picture"),
        (
            (zeros(1, 84, 126),),
            {"takes": np.uint8},
            r"tensor\(uint8\); a detector takes one picture .* float32 or float16",
        ),
        ((zeros(1, 84, 126),), {"inputs": 2}, "takes in0 .*, in1 .*; a detector takes one picture"),
    ],
)
def test_other_layouts_are_refused_with_what_was_found(
    tmp_path: Path, answers: tuple[NDArray[Any], ...], options: dict[str, Any], says_so: str
) -> None:
    path = says(fresh(tmp_path), *answers, **options)
    with pytest.raises(ModelFileError, match=says_so) as caught:
        OnnxDetector(path)
    assert str(path) in str(caught.value)
    assert "\nhint: " in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "classes", "layout"),
    [
        ((1, 84, 8400), None, "v8"),
        ((1, 84, 8400), 80, "v8"),
        ((1, 8400, 84), 80, "v8 transposed"),
        ((1, 25200, 85), None, "v5"),
        ((1, 25200, 85), 80, "v5"),
        ((1, 25200, 6), None, "v5"),  # one class; not 25200 rows of an end-to-end file
        ((1, 300, 6), None, "end to end"),
        ((1, 300, 6), 80, "end to end"),
        ((1, 0, 6), None, "end to end"),
        ((1, 6, 8400), None, "v8"),
        ((1, 5, 34000), None, "v8"),  # with stride 4
        ((1, 84, 8500), None, "v8"),  # with stride 64
        ((1, 84, 2000), None, "v8"),  # strides 16 and 32
        ((1, 84, 777), 80, "v8"),  # strides of its own: the names tell
        ((1, 8400, 6), 2, "v8 transposed"),
    ],
)
def test_a_shape_tells_its_layout(shape: tuple[int, ...], classes: int | None, layout: str) -> None:
    assert [found.layout for found in readings(shape, (640, 640), classes)] == [layout]


def test_the_names_tell_an_end_to_end_file_whose_rows_are_as_many_as_places() -> None:
    """Strides 16 and 32 have 300 places in 192x320 pixels."""
    assert [found.layout for found in readings((1, 300, 6), (192, 320), 80)] == ["end to end"]
    assert [found.layout for found in readings((1, 300, 6), (192, 320), 2)] == ["v8 transposed"]
    assert len(readings((1, 300, 6), (192, 320))) > 1


@pytest.mark.parametrize(
    ("shape", "classes"),
    [
        ((1, 84, 777), None),
        ((1, 84, 777), 79),
        ((1, 84, 8400), 79),
        ((1, 25200, 85), 81),
        ((1, 300, 84), 80),
        ((1, 8400, 6), 3),
    ],
)
def test_a_shape_that_does_not_fit_tells_nothing(shape: tuple[int, ...], classes: int | None) -> None:
    assert readings(shape, (640, 640), classes) == []


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("row", "says_so"),
    [
        ([30.0, 30, 40, 40, 7.5, 0], "answered the score 7.5"),
        ([30.0, 30, 40, 40, -3.0, 0], "answered the score -3"),
        ([0.5, 0.5, 0.7, 0.8, 0.9, 0], "within the first pixel"),
    ],
)
def test_numbers_that_are_no_detections_are_refused_when_the_file_is_opened(
    tmp_path: Path, layout: str, row: list[float], says_so: str
) -> None:
    answer = table([row], layout, classes=1)
    with pytest.raises(ModelFileError, match=says_so):
        OnnxDetector(says(fresh(tmp_path), answer, metadata={"names": ["a"]}))


def test_a_class_that_is_no_whole_number_is_refused() -> None:
    with pytest.raises(DetectorError, match=r"the class 0\.7"):
        decode(table([[30.0, 30, 40, 40, 0.9, 0.7]], "end to end"), "end to end", 0.25)
    with pytest.raises(DetectorError, match="the class -1"):
        decode(table([[30.0, 30, 40, 40, 0.9, -1]], "end to end"), "end to end", 0.25)


def test_a_score_above_one_by_half_precision_is_one() -> None:
    rows = decode(table([[30.0, 30, 40, 40, 1.004, 0]], "end to end"), "end to end", 0.25)
    assert rows.scores.tolist() == [1.0]


def test_missing_empty_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="there is no file"):
        OnnxDetector(tmp_path / "none.onnx")
    path = fresh(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(ModelFileError, match="is empty"):
        OnnxDetector(path)
    whole = finds_square(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelFileError, match="no ONNX file that onnxruntime"):
        OnnxDetector(path)


@pytest.mark.parametrize(
    ("options", "says_so"),
    [
        ({"confidence": 1.5}, "`confidence` must be a number within 0..1"),
        ({"confidence": True}, "`confidence`"),
        ({"confidence": float("nan")}, "`confidence`"),
        ({"iou": -0.1}, "`iou` must be a number"),
        ({"iou": "0.5"}, "`iou`"),
        ({"names": "person"}, "`names` must be a list of class names"),
        ({"names": [1, 2]}, "`names`"),
        ({"names": {0: "a"}}, "`names`"),
        ({"threads": 0}, "`threads`"),
        ({"device": 3}, "`device`"),
        ({"device": "abacus"}, "no device 'abacus'"),
    ],
)
def test_arguments_that_cannot_be_are_refused(tmp_path: Path, options: dict[str, Any], says_so: str) -> None:
    path = finds_square(fresh(tmp_path))
    with pytest.raises(InputError, match=re.escape(says_so)):
        OnnxDetector(path, **options)


@pytest.mark.parametrize("frame", [np.zeros((4, 4)), np.zeros((0, 4, 3), np.uint8), np.zeros((1, 4, 4, 3), np.uint8)])
def test_what_is_no_picture_is_refused(square_detector: OnnxDetector, frame: NDArray[Any]) -> None:
    with pytest.raises(ShapeError):
        square_detector(frame)


def test_an_answer_that_changes_its_shape_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = OnnxDetector(finds_square(fresh(tmp_path)))
    monkeypatch.setattr(detector, "_run", lambda tensor: zeros(1, 6, 84))
    with pytest.raises(RuntimeFailure, match=r"answered \(1, 6, 84\); when it was opened it was \(1, 6, 126\)"):
        detector(GREY)


def test_an_end_to_end_file_may_answer_another_number_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = OnnxDetector(finds_square(fresh(tmp_path), layout="end to end"))
    monkeypatch.setattr(detector, "_run", lambda tensor: zeros(1, 0, 6))
    assert len(detector(GREY)) == 0


def test_a_failure_of_the_runtime_is_one_of_ours(tmp_path: Path) -> None:
    """The file answers boxes for 640 only; asked for 320 it has to be refused when it is opened."""
    path = finds_square(fresh(tmp_path), size=None)
    with pytest.raises(ModelFileError, match="fits no known layout"):
        OnnxDetector(path, size=320, names=["a", "b", "c"])


@settings(max_examples=30)
@given(st.integers(1, 200), st.integers(1, 200), st.data())
def test_squares_of_any_frame_are_found(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    if not path.exists():
        finds_square(path)
    x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x2, y2 = data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height))
    found = OnnxDetector(path, threads=1)(frame_with_square(height, width, (x1, y1, x2, y2)))
    pixel = max(height / SIZE[0], width / SIZE[1])
    if min(x2 - x1, y2 - y1) < 2.5 * pixel:  # may vanish between the pixels of the input
        assert len(found) <= 1
        return
    assert isinstance(found, Detections) and len(found) == 1
    np.testing.assert_allclose(found.boxes[0], (x1, y1, x2, y2), atol=0.55 * max(pixel, 1))
