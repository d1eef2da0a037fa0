"""Files and arrays that are no cloud, through `open_cloud`: our error, with advice or the fault, before memory is taken."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cloud_files import every_format, las_header, npy, npy_header, npz, pcd, ply, some_columns, write
from effvision.errors import DTypeError, EffvisionError, InputError, RangeError, ShapeError, SourceError
from effvision.sources import Cloud, open_cloud
from refusals import FUZZ

FORMATS = every_format()
STATED = (
    "ascii.ply",
    "little.ply",
    "big.ply",
    "binary.pcd",
    "packed.pcd",
    "plain.npy",
    "named.npz",
)  # they state their size
MANY = 10**12
XYZ = np.random.default_rng(0).normal(size=(30, 3))


def said(
    path: Any, *words: str, kind: type[EffvisionError] = SourceError, most_bytes: int = 2 << 20, **options: Any
) -> str:
    """Open it; demand our error with these words, and that no more than `most_bytes` were taken; return the message."""
    tracemalloc.start()
    try:
        with pytest.raises(kind) as caught:
            open_cloud(path, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    for word in words:
        assert word in message, message
    assert peak < most_bytes
    return message


# --- points and fields --------------------------------------------------------------------------------------------------

BAD_ARRAYS: list[tuple[Any, type[EffvisionError], list[str]]] = [
    (np.zeros((0, 3)), ShapeError, ["no point"]),
    (np.zeros((1, 3)), ShapeError, ["only one point", "at least 2"]),
    (np.zeros(3), ShapeError, ["(3,)", "hint:"]),
    (np.zeros((5, 2)), ShapeError, ["(5, 2)", "hint:"]),
    (np.zeros((5, 1)), ShapeError, ["labels", "hint:"]),
    (np.zeros((3, 500)), ShapeError, ["points.T"]),
    (np.zeros((5, 9)), ShapeError, ["columns=("]),
    (np.zeros((2, 5, 3)), ShapeError, ["points[0]"]),
    (np.full((5, 3), np.nan), RangeError, ["5 of 5", "drop_nonfinite=True"]),
    (np.array([[0, 0, 0], [0, -np.inf, 0]]), RangeError, ["1 of 2", "drop_nonfinite=True"]),
    (np.full((5, 3), 1e12), RangeError, ["1e+12", "metres"]),
    (np.full((5, 6), 300.0), InputError, ["columns=("]),
    (np.full((5, 7), 0.5), InputError, ["seventh"]),
    (np.zeros((5, 3), complex), DTypeError, ["complex128"]),
    (np.zeros((5, 3), bool), DTypeError, ["bool"]),
    (np.zeros((5, 3), object), DTypeError, ["object"]),
    (np.zeros(5, [("a", "f4"), ("y", "f4")]), InputError, ["`x`, `y` and `z`", "a, y"]),
    (torch.zeros(5), ShapeError, ["(5,)"]),
    ({"points": XYZ}, InputError, ["neither `xyz`", "points", "hint:"]),
    ({"xyz": XYZ, "label": np.zeros(29, int)}, ShapeError, ["`label`", "30 points", "(29,)"]),
    ({"xyz": XYZ, "rgb": np.full((30, 3), 70000)}, RangeError, ["70000"]),
    ({"xyz": XYZ, "rgb": np.full((30, 3), np.nan)}, RangeError, ["colours"]),
    ({"xyz": XYZ, "rgb": np.zeros((30, 4), np.uint8)}, ShapeError, ["`rgb`", "(30, 4)"]),
    ({"xyz": XYZ, "label": np.full(30, 0.5)}, RangeError, ["whole numbers"]),
    ({"xyz": XYZ, "label": np.array(["a"] * 30)}, DTypeError, ["`label`"]),
    ({"xyz": XYZ, "label": [[1], [2, 3]]}, DTypeError, ["`label`"]),
    ({"xyz": XYZ, "origin": [0, 0]}, InputError, ["`origin`"]),
    ({"xyz": XYZ, "origin": [0, 0, np.nan]}, InputError, ["`origin`"]),
    ({"xyz": XYZ, 3: XYZ}, InputError, ["names as keys"]),
    ({"x": XYZ, "y": XYZ, "z": XYZ}, ShapeError, ["single columns"]),
    ({"x": XYZ[:, 0], "y": XYZ[:5, 0], "z": XYZ[:, 0]}, ShapeError, ["one length"]),
    ([[0, 0, 0], [1, 1, 1]], DTypeError, ["list", "hint:"]),
    (None, DTypeError, ["NoneType", "hint:"]),
    (7, DTypeError, ["int", "hint:"]),
    (b"ply", DTypeError, ["bytes"]),
]


@pytest.mark.parametrize(
    ("bad", "kind", "words"), BAD_ARRAYS, ids=lambda x: x[0] if isinstance(x, list) and isinstance(x[0], str) else ""
)
def test_an_array_that_is_no_cloud_is_refused(bad: Any, kind: type[EffvisionError], words: list[str]) -> None:
    said(bad, *words, kind=kind)


def test_dropping_every_point_leaves_no_cloud() -> None:
    said(np.full((5, 3), np.nan), "no point that is finite", kind=ShapeError, drop_nonfinite=True)


@pytest.mark.parametrize(
    "columns", [2, 65, True, 4.0, "xyz", ("x", "y"), ("x", "y", "z", "z"), ("x", "y", "z", 4), {"x": 1}, ()]
)
def test_columns_that_name_no_cloud_are_refused(columns: Any) -> None:
    said(XYZ, "`columns`", kind=InputError, columns=columns)


def test_columns_of_another_number_are_refused(tmp_path: Path) -> None:
    said(XYZ, "names 4 columns; there are 3", kind=ShapeError, columns=("x", "y", "z", "i"))
    said(XYZ, "rows of 4 numbers", kind=ShapeError, columns=4)
    said(write(tmp_path, "a.bin", XYZ.astype("f4").tobytes()), "rows of 7 numbers", columns=7)


def test_columns_for_what_names_its_own_are_refused(tmp_path: Path) -> None:
    named = [
        write(tmp_path, name, FORMATS[name]) for name in FORMATS if not name.endswith((".npy", ".bin", ".txt", ".csv"))
    ]
    table = np.zeros(5, [("x", "f4"), ("y", "f4"), ("z", "f4")])
    for source in (*named, write(tmp_path, "s.npy", npy(table)), table, {"xyz": XYZ}, open_cloud(XYZ)):
        said(source, "names its own", "hint:", kind=InputError, columns=3)


def test_fields_that_are_missing_are_named_with_those_that_are_there() -> None:
    cloud = open_cloud({"xyz": XYZ, "ring": np.zeros(30)})
    with pytest.raises(
        InputError, match=r"lacks `intensity`, `label`; its fields: ring\nhint: .*columns=\('x', 'y', 'z', 'int"
    ):
        cloud.need(["intensity", "ring", "label"])
    with pytest.raises(InputError, match="none besides xyz"):
        open_cloud(XYZ).field("rgb")


def test_a_field_with_nan_is_refused_when_it_is_asked_for() -> None:
    cloud = open_cloud({"xyz": XYZ, "intensity": np.where(np.arange(30) < 4, np.nan, 1.0)})
    with pytest.raises(RangeError, match=r"`intensity` holds NaN or infinity at 4 of 30 points\nhint:"):
        cloud.field("intensity")
    assert len(cloud.select(np.isfinite(cloud.fields["intensity"])).field("intensity")) == 26


def test_a_cloud_is_not_made_of_parts_that_do_not_fit() -> None:
    good = XYZ.astype(np.float32)
    for kind, words, parts in (
        (DTypeError, "open_cloud", {"xyz": XYZ}),
        (ShapeError, "at least one", {"xyz": good[:0]}),
        (RangeError, "NaN", {"xyz": np.full((2, 3), np.nan, np.float32)}),
        (ShapeError, "`a`", {"xyz": good, "fields": {"a": np.zeros(3)}}),
        (DTypeError, "uint8", {"xyz": good, "fields": {"rgb": np.zeros((30, 3))}}),
        (DTypeError, "`label`", {"xyz": good, "fields": {"label": np.zeros(30)}}),
        (InputError, "'xyz'", {"xyz": good, "fields": {"xyz": good}}),
        (InputError, "`origin`", {"xyz": good, "origin": np.zeros(2)}),
    ):
        with pytest.raises(kind, match=words):
            Cloud(**parts)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least one"):
        open_cloud(XYZ).select(np.zeros(30, bool))
    with pytest.raises(InputError, match="mask"):
        open_cloud(XYZ).select(np.zeros(7, bool))


# --- files that are no cloud --------------------------------------------------------------------------------------------


def test_places_without_a_file_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "scan.ply", b"")
    said(tmp_path / "scna.ply", "does not exist", "holds scan.ply")
    said(tmp_path / "scan.ply", "is empty (0 bytes)")
    said(tmp_path, "is a folder", "hint:")
    said("", "no file's name", kind=InputError)
    said("a\0b", "no file's name", kind=InputError)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ply")
    said(tmp_path / "pipe.ply", "neither a file nor a folder")


LABELS = (np.random.default_rng(0).integers(0, 260, 400) | np.random.default_rng(1).integers(0, 300, 400) << 16).astype(
    "<u4"
)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("000000.label", np.arange(400, dtype="<u4").tobytes(), ["labels", "hint:"]),
        ("labels.bin", np.arange(400, dtype="<u4").tobytes(), ["labels", "hint:"]),
        ("labels.npy", npy(np.arange(400)), ["(400,)", "labels"]),
        ("labels.npz", npz(label=np.arange(400)), ["no `xyz`", "label", "hint:"]),
        ("scan.bin", b"1 2 3\n4 5 6\n", ["is text", ".bin", "hint:"]),
        ("scan.ply", b"1 2 3\n4 5 6\n", ["is text", ".ply", "hint:"]),
        ("scan.las", b"1 2 3\n4 5 6\n", ["is text", "hint:"]),
        ("scan.npy", bytes(range(200)), ["does not begin as a .npy"]),
        ("scan.ply", bytes(range(200)), ["does not begin as a .ply"]),
        ("scan.txt", bytes(range(200)), ["no file of points", "hint:"]),
        ("photo.jpg", b"\xff\xd8\xff\xe0\0\0JFIF", ["no file of points", "hint:"]),
        ("model.onnx", b"\x08\x07\x12\x07pytorch", ["no file of points", "hint:"]),
        ("notes.txt", b"to do: buy milk\n", ["no table of numbers", "buy milk", "hint:"]),
        ("notes.txt", b"# only this\n\n", ["without a row"]),
        ("utf16.txt", "1 2 3\n4 5 6\n".encode("utf-16"), ["no file of points"]),
        ("ragged.txt", b"1 2 3\n4 5\n", ["no table of numbers"]),
        ("word.txt", b"1 2 3\n4 five 6\n", ["no table of numbers", "five"]),
        ("matrix.txt", b"1 " * 100 + b"\n", ["100 columns"]),
        ("header.csv", b"lon,lat\n1,2\n", ["x, y and z"]),
        ("seven.bin", b"\0\0\x80\x3f" * 7 * 3 + b"\0", ["no whole number", "hint:"]),
        ("seven.bin", b"\0\0\x80\x3f" * 7, ["neither of 4 numbers nor of 5", "columns=4"]),
        ("ply.ply", b"ply\n", ["no end"]),
        ("ply.ply", b"ply\nend_header\n", ["no `format`"]),
        ("ply.ply", b"ply\nformat ascii 1.0\nend_headerx", ["line break"]),
        ("ply.ply", b"ply\nformat ascii 1.0\nend_header\n", ["one element `vertex`", "none"]),
        ("ply.ply", b"ply\nformat zip 1.0\nend_header\n", ["makes no sense", "format zip"]),
        ("ply.ply", b"ply\nformat ascii 1.0\nelement vertex -3\nend_header\n", ["'-3'"]),
        ("ply.ply", b"ply\nformat ascii 1.0\nelement vertex \xb2\nend_header\n", ["no number"]),
        ("ply.ply", b"ply\nformat ascii 1.0\nelement vertex 1\nproperty half x\nend_header\n", ["half x"]),
        ("ply.ply", b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float a\xff\nend_header\n", ["no x, y and z"]),
        (
            "ply.ply",
            b"ply\nformat ascii 1.0\nelement vertex 1\nproperty list float int x\nend_header\n",
            ["no whole number"],
        ),
        (
            "face.ply",
            b"ply\nformat ascii 1.0\nelement face 1\nproperty list uchar int v\nend_header\n3 0 1 2\n",
            ["`vertex`"],
        ),
        ("pcd.pcd", b"# .PCD v0.7\n", ["no `DATA`"]),
        ("pcd.pcd", b"VERSION 0.7\nDATA ascii\n", ["describes 0 fields"]),
        ("pcd.pcd", b"FIELDS x y z\nSIZE 4 4\nPOINTS 1\nDATA ascii\n", ["3 fields by 2 sizes"]),
        ("pcd.pcd", b"FIELDS x y z\nSIZE 4 4 3\nPOINTS 1\nDATA ascii\n", ["impossible type F3"]),
        ("pcd.pcd", b"FIELDS x y z\nCOUNT 1 1 0\nPOINTS 1\nDATA ascii\n", ["impossible counts"]),
        ("pcd.pcd", b"FIELDS x y z\nWIDTH 2\nHEIGHT 2\nPOINTS 5\nDATA ascii\n", ["5 points", "are 4"]),
        ("pcd.pcd", b"FIELDS x y z\nDATA ascii\n", ["no number of points"]),
        ("pcd.pcd", b"FIELDS x y z\nPOINTS 1\nDATA zip\n", ["'zip'"]),
        ("pcd.pcd", b"FIELDS x y x\nPOINTS 1\nDATA ascii\n1 2 3\n", ["twice"]),
        ("off.off", b"OFF\nvertices\n", ["no counts"]),
        ("off.off", b"OFF BINARY\n\0\0", ["binary OFF", "hint:"]),
        ("off.off", b"4OFF\n1 0 0\n1 2 3 4\n", ["4OFF", "hint:"]),
        ("obj.obj", b"o thing\nvn 0 0 1\n", ["no vertices"]),
        ("obj.obj", b"v 1 2\nv 3 4\n", ["2 numbers"]),
        ("las.las", b"LASF" + bytes(60), ["shorter than a LAS header"]),
        ("zip.npz", b"PK\x03\x04" + bytes(60), ["damaged"]),
        ("text.npz", None, ["`xyz` must be (P, 3)", "(3,)"]),
        ("origin.npz", npz(xyz=XYZ, origin=np.zeros(2)), ["`origin`"]),
        ("object.npz", None, ["not of plain numbers"]),
        ("image.npy", npy(np.zeros((8, 8, 3))), ["(8, 8, 3)", "hint:"]),
    ],
)
def test_a_file_that_is_no_cloud_is_refused(tmp_path: Path, name: str, data: bytes | None, words: list[str]) -> None:
    if data is None and name == "text.npz":
        data = npz(xyz=np.zeros(3))
    elif data is None:
        np.savez(tmp_path / name, xyz=np.array([{}], object), allow_pickle=True)
        data = (tmp_path / name).read_bytes()
    message = said(write(tmp_path, name, data), *words)
    assert name in message


def test_the_labels_of_a_real_scan_are_refused_under_any_name(tmp_path: Path) -> None:
    for name in ("a.label", "a.bin", "a"):
        said(write(tmp_path, name, LABELS.tobytes()), name)


@pytest.mark.parametrize("values", ["road\nsidewalk\n", "3\n4\n4\n", "1 2\n3 4\n"])
def test_labels_in_text_are_refused(tmp_path: Path, values: str) -> None:
    said(write(tmp_path, "labels.txt", values.encode()), "hint:", kind=EffvisionError)


def test_nan_in_a_file_is_counted(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", b"1 2 nan\n4 5 6\n7 8 9\ninf 0 0\n")
    said(path, "a.txt: 2 of 4 points", "drop_nonfinite=True", kind=RangeError)
    assert open_cloud(path, drop_nonfinite=True).rows.tolist() == [1, 2]  # type: ignore[union-attr]


# --- headers that state more than there is ------------------------------------------------------------------------------


def ply_of(count: int, form: str, more: str = "") -> bytes:
    axes = "".join(f"property float {axis}\n" for axis in "xyz")
    return f"ply\nformat {form} 1.0\n{more}element vertex {count}\n{axes}end_header\n".encode() + bytes(40)


HUGE = {
    "ascii.ply": ply_of(MANY, "ascii"),
    "binary.ply": ply_of(MANY, "binary_little_endian"),
    "faces.ply": ply_of(2, "binary_little_endian", f"element face {MANY}\nproperty list uchar int v\n"),
    "rows.ply": ply_of(2, "ascii", f"element face {MANY}\nproperty list uchar int v\n"),
    "list.ply": ply_of(2, "binary_little_endian", "element face 1\nproperty list uint int v\n")[:-40] + b"\xff" * 40,
    "ascii.pcd": b"FIELDS x y z\nPOINTS %d\nDATA ascii\n1 2 3\n" % MANY,
    "binary.pcd": b"FIELDS x y z\nPOINTS %d\nDATA binary\n" % MANY + bytes(40),
    "counts.pcd": b"FIELDS x y z h\nCOUNT 1 1 1 65000\nPOINTS 1000000\nSIZE 4 4 4 4\nTYPE F F F F\nDATA binary\n"
    + bytes(99),
    "packed.pcd": b"FIELDS x y z\nPOINTS %d\nDATA binary_compressed\n" % MANY
    + struct.pack("<II", 40, 2**32 - 1)
    + bytes(40),
    "grown.pcd": b"FIELDS x y z\nPOINTS 300000000\nDATA binary_compressed\n"
    + struct.pack("<II", 40, 3600000000)
    + bytes(40),
    "rows.npy": npy_header("'<f4'", (MANY, 3)) + bytes(99),
    "wide.npy": npy_header("'<f4'", (3, MANY)) + bytes(99),
    "many.npy": npy_header("'<f4'", (1,) * 60 + (MANY,)) + bytes(99),
    "minus.npy": npy_header("'<f4'", (-1, 3)) + bytes(99),
    "void.npy": npy_header("'|V0'", (MANY, 3)) + bytes(99),
    "empty.npy": npy_header("[('x', '<f4', (0,)), ('y', '<f4', (0,)), ('z', '<f4', (0,))]", (MANY,)) + bytes(99),
    "object.npy": npy_header("'|O'", (4, 3)) + bytes(99),
    "code.npy": npy_header("__import__('os').getcwd()", (4, 3)) + bytes(99),
    "letters.npy": npy_header("'\xff'", (4, 3)) + bytes(99),
    "off.off": b"OFF %d 0 0\n1 2 3\n" % MANY,
    "las.las": las_header(MANY, length=400),
    "laz.laz": las_header(MANY, form=0x80, length=400),
    "legacy.las": las_header(2**32 - 1, length=400),
    "records.las": las_header(1, length=400)[:100] + b"\xff" * 4 + las_header(1, length=400)[104:],
    "late.las": las_header(1, length=400)[:235] + struct.pack("<QI", 399, 2**32 - 1) + las_header(1, length=400)[247:],
}


@pytest.mark.parametrize("name", HUGE)
def test_a_header_that_states_too_much_is_refused_before_memory_is_taken(tmp_path: Path, name: str) -> None:
    said(write(tmp_path, name, HUGE[name]), name)


def test_an_archive_that_unpacks_to_far_more_than_it_is_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("xyz.npy", "w", force_zip64=True) as file,
    ):
        file.write(npy_header("'<f4'", (25_000_000, 3)))
        for _ in range(300):
            file.write(bytes(1_000_000))
    assert path.stat().st_size < 400_000
    said(path, "would unpack to", most_bytes=4 << 20)


def test_an_archive_that_states_less_than_it_holds_is_not_believed(tmp_path: Path) -> None:
    data = bytearray(npz(xyz=np.zeros((1000, 3))))
    size = struct.pack("<I", len(npy(np.zeros((1000, 3)))))
    assert size in data
    path = write(tmp_path, "lie.npz", bytes(data).replace(size, struct.pack("<I", 600)))
    said(path, "lie.npz", kind=EffvisionError)


# --- any damage at all --------------------------------------------------------------------------------------------------


def answers(path: Path, size: int) -> bool:
    """Whether a cloud came out; anything else than our own error fails, and so does memory beyond a multiple of the file."""
    tracemalloc.start()
    try:
        cloud = open_cloud(path)
    except EffvisionError:
        return False
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 200_000 + 30 * size  # of tiny files the interpreter's own objects are the most
    assert np.isfinite(cloud.xyz).all() and len(cloud) >= 2
    return True


@pytest.mark.parametrize("name", FORMATS)
@FUZZ
@given(st.data())
def test_a_file_cut_anywhere_gives_our_own_error_or_what_is_there(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    whole = FORMATS[name]
    length = data.draw(st.integers(0, len(whole) - 1))
    tail = 60 if name.endswith(".ply") else 1  # faces lie behind the vertices
    came = answers(write(tmp_path_factory.mktemp("cut"), name, whole[:length]), len(whole))
    if name in STATED and length < len(whole) - tail:
        assert not came


@pytest.mark.parametrize("name", [*FORMATS, *HUGE])
@FUZZ
@given(st.data())
def test_a_file_with_any_bytes_changed_gives_our_own_error_or_a_cloud(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    whole = bytearray((FORMATS | HUGE)[name])
    region = data.draw(st.sampled_from([min(len(whole), 300), len(whole)]))  # the header is the more fragile part
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, region - 1))
        whole[place] = data.draw(st.integers(0, 255) | st.sampled_from(list(b"0123456789 \n-.ex")))
    answers(write(tmp_path_factory.mktemp("bytes"), name, bytes(whole)), len(whole))


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian"])
@FUZZ
@given(st.data())
def test_a_ply_header_of_any_lines_gives_our_own_error_or_a_cloud(
    tmp_path_factory: pytest.TempPathFactory, form: str, data: st.DataObject
) -> None:
    lines = ply(some_columns(8), form).split(b"\n")
    more = [b"element face 3", b"element vertex 9", b"property list uchar int a", b"property double x", b"end_header"]
    more += [
        b"element face 99999999999999",
        b"property list int double b",
        b"format ascii 1.0",
        b"comment",
        b"\xff\xfe",
    ]
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(1, min(14, len(lines) - 1)))
        if data.draw(st.booleans()):
            del lines[place]
        else:
            lines.insert(place, data.draw(st.sampled_from(more)))
    whole = b"\n".join(lines)
    answers(write(tmp_path_factory.mktemp("lines"), "a.ply", whole), len(whole))


@pytest.mark.parametrize("form", ["ascii", "binary", "binary_compressed"])
@FUZZ
@given(st.data())
def test_a_pcd_header_of_any_words_gives_our_own_error_or_a_cloud(
    tmp_path_factory: pytest.TempPathFactory, form: str, data: st.DataObject
) -> None:
    lines = pcd(some_columns(8), form).split(b"\n")
    words = st.sampled_from(
        [b"8", b"0", b"-1", b"99999999999", b"F", b"U", b"x", b"rgb", b"ascii", b"binary", b"nan", b"\xb2"]
    )
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(1, 10))
        parts = lines[place].split(b" ")
        parts[data.draw(st.integers(0, len(parts) - 1))] = data.draw(words)
        lines[place] = b" ".join(parts)
    whole = b"\n".join(lines)
    answers(write(tmp_path_factory.mktemp("words"), "a.pcd", whole), len(whole))


# --- what a cold reading found ------------------------------------------------------------------------------------------


def test_a_laz_file_of_too_many_parts_does_not_end_the_process(tmp_path: Path) -> None:
    laspy = pytest.importorskip("laspy", reason="needs the extra `las`")
    header = laspy.LasHeader(point_format=6, version="1.4")
    header.scales = [0.001] * 3
    file = laspy.LasData(header)
    file.x, file.y, file.z = XYZ.T
    file.write(str(tmp_path / "good.laz"))
    data = bytearray((tmp_path / "good.laz").read_bytes())
    assert len(open_cloud(tmp_path / "good.laz")) == len(XYZ)
    start = struct.unpack_from("<I", data, 96)[0]
    table = struct.unpack_from("<q", data, start)[0]
    for place, number, form in (
        (table + 4, 2**32 - 1, "<I"),
        (start, 2**62, "<q"),
        (start, -5, "<q"),
        (start, 9, "<q"),
    ):
        bad = data.copy()
        struct.pack_into(form, bad, place, number)
        said(write(tmp_path, "bad.laz", bytes(bad)), "damaged")


@pytest.mark.parametrize(
    "text", ["y x z\n1 2 3 7\n2 3 4 7\n", "# x y z label intensity\n1 2 3 7\n", "x y z label\n1 2 3 4 5 6 7\n"]
)
def test_a_header_of_another_width_than_the_rows_is_not_guessed_about(tmp_path: Path, text: str) -> None:
    said(write(tmp_path, "a.txt", text.encode()), "a.txt: its header names", "hint:")


def test_text_that_would_take_long_or_much_is_refused_at_once(tmp_path: Path) -> None:
    said(write(tmp_path, "digits.txt", b"1" * 60_000 + b"x 2 3\n"), "no table of numbers")
    line = write(tmp_path, "line.txt", b"1 " * 3_000_000)
    said(line, "a line of 6,000,000 characters", most_bytes=40 << 20)


def test_an_archive_packed_as_numpy_never_packs_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("xyz.npy", npy(XYZ))
    said(tmp_path / "a.npz", "packed in another way", "hint:")


def test_a_file_of_one_column_is_named(tmp_path: Path) -> None:
    said(write(tmp_path, "a.txt", b"1\n2\n3\n4\n"), "a.txt: ", kind=InputError)


def test_one_point_and_masked_points_are_refused_however_they_come() -> None:
    said(Cloud(np.zeros((1, 3), np.float32)), "has 1 point", kind=InputError)
    said(np.ma.masked_array(XYZ, mask=XYZ > 1), "masked", kind=InputError)
    assert len(open_cloud(np.ma.masked_array(XYZ))) == len(XYZ)
