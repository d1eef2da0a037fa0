"""Clouds in: every format gives the same points and fields, and what is written is read again."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import cloud_files
from cloud_files import every_format, npy, npz, pcd, ply, some_columns, write
from effvision.errors import InputError, MissingDependencyError, SourceError
from effvision.sources import Cloud, open_cloud, write_ply

FUZZ = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
COLUMNS = some_columns()
XYZ = np.stack([COLUMNS[axis] for axis in "xyz"], axis=1)
RGB = np.stack([COLUMNS[name] for name in ("red", "green", "blue")], axis=1)
FORMATS = every_format()
SURVEY = np.array([770550.25, 6277550.5, 120.0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clouds")


def check(cloud: Cloud, *, exact: bool = True, rgb: bool = True) -> Cloud:
    if exact:
        np.testing.assert_array_equal(cloud.xyz, XYZ)
    np.testing.assert_allclose(cloud.world(), XYZ, rtol=1e-6)
    assert cloud.xyz.dtype == np.float32 and cloud.origin.tolist() == [0, 0, 0] and cloud.rows is None
    if rgb:
        np.testing.assert_array_equal(cloud.fields["rgb"], RGB)
        np.testing.assert_array_equal(cloud.fields["label"], COLUMNS["label"])
        assert cloud.fields["label"].dtype.kind == "i" and cloud.fields["rgb"].dtype == np.uint8
    return cloud


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_cloud(folder: Path, name: str) -> None:
    cloud = check(open_cloud(write(folder, name, FORMATS[name])), rgb=not name.startswith(("mesh", "scan")))
    assert cloud.name == str(folder / name) and name in repr(cloud)


@pytest.mark.parametrize("name", ["little.ply", "ascii.ply", "packed.pcd", "plain.npy", "named.npz", "mesh.off"])
@pytest.mark.parametrize("suffix", [".txt", "", ".bin", ".las", ".PLY"])
def test_a_file_is_recognised_by_how_it_begins_whatever_its_name(folder: Path, name: str, suffix: str) -> None:
    check(open_cloud(str(write(folder, f"misnamed{suffix}", FORMATS[name]))), rgb=not name.startswith("mesh"))


# --- PLY ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_properties_may_stand_in_any_order_and_have_any_type(folder: Path, form: str, newline: str) -> None:
    columns = {
        "label": COLUMNS["label"].astype(np.int16),
        "Z": COLUMNS["z"].astype(np.float64),
        "ring": COLUMNS["ring"],
    }
    columns |= {"y": COLUMNS["y"], "nx": COLUMNS["y"], "x": COLUMNS["x"], "nz": COLUMNS["z"], "ny": COLUMNS["x"]}
    data = (
        ply(columns, form, newline=newline)
        if "Z" not in columns
        else ply({"x": columns["x"], **columns}, form, newline=newline)
    )
    cloud = open_cloud(write(folder, "order.ply", data))
    np.testing.assert_allclose(cloud.xyz, XYZ, rtol=1e-6)
    np.testing.assert_allclose(cloud.fields["normal"], XYZ[:, [1, 0, 2]], rtol=1e-6)
    np.testing.assert_array_equal(cloud.fields["ring"], COLUMNS["ring"])
    assert cloud.fields["ring"].dtype == np.uint16


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("even", [True, False])
def test_lists_in_front_of_and_within_the_vertices_are_passed_over(folder: Path, order: str, even: bool) -> None:
    rng, sign = np.random.default_rng(0), "<" if order == "little" else ">"
    head = ["ply", f"format binary_{order}_endian 1.0", "element face 7", "property uchar flag"]
    head += ["property list uchar int vertex_indices", "property float quality", "element vertex 9", "property float x"]
    head += ["property list ushort short marks", "property float y", "property double z", "property uchar red"]
    body = b""
    for _ in range(7):
        count = 3 if even else int(rng.integers(0, 5))
        body += np.array([1, count], np.uint8).tobytes() + np.arange(count, dtype=f"{sign}i4").tobytes()
        body += np.array([0.5], f"{sign}f4").tobytes()
    for row in range(9):
        count = 2 if even else int(rng.integers(0, 4))
        body += np.array([row], f"{sign}f4").tobytes() + np.array([count], f"{sign}u2").tobytes()
        body += np.arange(count, dtype=f"{sign}i2").tobytes() + np.array([10 * row], f"{sign}f4").tobytes()
        body += np.array([100 * row], f"{sign}f8").tobytes() + bytes([row])
    cloud = open_cloud(write(folder, "lists.ply", ("\n".join([*head, "end_header", ""])).encode() + body))
    np.testing.assert_array_equal(cloud.xyz, np.arange(9)[:, None] * [1, 10, 100])
    assert cloud.fields["red"].tolist() == list(range(9))


def test_elements_in_front_of_the_vertices_are_passed_over_in_text(folder: Path) -> None:
    text = (
        "ply\nformat ascii 1.0\nelement camera 2\nproperty float f\nelement vertex 2\nproperty float x\nproperty float y\n"
        "property float z\nproperty list uchar int marks\nend_header\n7\n8\n1 2 3 2 5 5\n\n4 5 6 0\n"
    )
    assert open_cloud(write(folder, "camera.ply", text.encode())).xyz.tolist() == [[1, 2, 3], [4, 5, 6]]


# --- PCD ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["ascii", "binary", "binary_compressed"])
def test_pcd_fields_may_have_counts_and_padding(folder: Path, form: str) -> None:
    histogram = np.arange(150, dtype=np.float32).reshape(50, 3)
    columns = {"_": np.zeros((50, 2), np.uint8), "normal_x": COLUMNS["x"], **COLUMNS, "fpfh": histogram}
    columns |= {"normal_y": COLUMNS["y"], "normal_z": COLUMNS["z"]}
    cloud = check(open_cloud(write(folder, "fields.pcd", pcd(columns, form))))
    np.testing.assert_array_equal(cloud.fields["fpfh"], histogram)
    np.testing.assert_array_equal(cloud.fields["normal"], XYZ)
    assert "_" not in cloud.fields


def test_colours_packed_as_a_whole_number_in_text_are_read(folder: Path) -> None:
    head = "# .PCD v.5\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F F\nWIDTH 2\nHEIGHT 1\nDATA ascii\n"
    cloud = open_cloud(write(folder, "old.pcd", f"{head}0.9 0.3 0 4.210752e+06\n0.1 0.2 0 16711680\n".encode()))
    assert cloud.fields["rgb"].tolist() == [[64, 64, 64], [255, 0, 0]]


@FUZZ
@given(st.binary(max_size=600) | st.binary(max_size=6).map(lambda part: part * 90))
def test_lzf_gives_back_what_was_packed(data: bytes) -> None:
    from effvision.sources.lzf import lzf_decompress

    assert lzf_decompress(cloud_files.lzf_compress(data), len(data)) == data


@FUZZ
@given(st.binary(max_size=60), st.integers(0, 3000))
def test_damaged_lzf_is_refused_or_gives_the_stated_size(data: bytes, size: int) -> None:
    from effvision.sources.lzf import lzf_decompress

    with contextlib.suppress(SourceError):
        assert len(lzf_decompress(data, size)) == size


# --- text ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "1 2 3 10 20 30\n4 5 6 40 50 60\n",
        "1,2,3,10,20,30\n4,5,6,40,50,60",
        "1; 2; 3; 10; 20; 30;\n4; 5; 6; 40; 50; 60;\n",
        "\ufeff1\t2\t3\t10\t20\t30\r\n4\t5\t6\t40\t50\t60\r\n",
        "# a scan\n// of two points\n\n1 2 3 10 20 30 # first\n\n4 5 6 40 50 60\n",
        "//X Y Z R G B\n1 2 3 10 20 30\n4 5 6 40 50 60\n",
        "red;z;x;y;green;blue\n10;3;1;2;20;30\n40;6;4;5;50;60\n",
        '"x","y","z","r","g","b"\n1,2,3,10,20,30\n4,5,6,40,50,60\n',
        "2\n1 2 3 10 20 30\n4 5 6 40 50 60\n",
    ],
)
def test_text_with_separators_comments_and_headers_is_read(folder: Path, text: str) -> None:
    cloud = open_cloud(write(folder, "t.txt", text.encode()))
    assert cloud.xyz.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert cloud.fields["rgb"].tolist() == [[10, 20, 30], [40, 50, 60]]


def test_a_pts_file_has_intensity_in_front_of_the_colours(folder: Path) -> None:
    cloud = open_cloud(write(folder, "t.pts", b"2\n1 2 3 -700 10 20 30\n4 5 6 12 40 50 60\n"))
    assert cloud.fields["intensity"].tolist() == [-700, 12] and cloud.fields["rgb"].tolist()[1] == [40, 50, 60]


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("OFF\n2 0 0\n1 2 3\n4 5 6\n", 2),
        ("OFF 2 0 0\n1 2 3\n4 5 6\n", 2),
        ("OFF2 0 0\n1 2 3\n4 5 6", 2),  # as ModelNet writes it
        ("# made\nOFF # here\n# counts\n2 0 0\n\n1 2 3\n# one more\n4 5 6\n", 2),
        ("COFF\n2 0 0\n1 2 3 255 0 0 255\n4 5 6 0 255 0 255\n", 2),
        ("NOFF\n2 0 0\n1 2 3 0 0 1\n4 5 6 0 1 0\n", 2),
    ],
)
def test_off_files_are_read_in_their_kinds(folder: Path, text: str, points: int) -> None:
    cloud = open_cloud(write(folder, "t.off", text.encode()))
    assert cloud.xyz.tolist() == [[1, 2, 3], [4, 5, 6]][:points]
    assert ("rgb" in cloud.fields) == text.startswith("C") and ("normal" in cloud.fields) == text.startswith("N")


def test_obj_vertices_may_have_colours_and_stand_among_faces(folder: Path) -> None:
    text = "mtllib a.mtl\no thing\nvt 0 0\nv 1 2 3 1 0 0\nvn 0 0 1\nf 1 1 1\nv\t4 5 6 0 0.2 1\n"
    cloud = open_cloud(write(folder, "t.obj", text.encode()))
    assert cloud.xyz.tolist() == [[1, 2, 3], [4, 5, 6]] and cloud.fields["rgb"].tolist() == [[255, 0, 0], [0, 51, 255]]
    assert open_cloud(write(folder, "t.unknown", text.encode())).xyz.tolist() == cloud.xyz.tolist()


# --- raw and numpy files ------------------------------------------------------------------------------------------------


def raw(width: int, points: int, *, last: Any = None) -> bytes:
    rows = np.random.default_rng(0).uniform(-20, 20, (points, width)).astype(np.float32)
    rows[:, 3] = np.random.default_rng(1).random(points)
    if last is not None:
        rows[:, -1] = last
    return rows.tobytes()


def test_the_number_of_columns_of_a_raw_file_is_told_from_its_size(folder: Path) -> None:
    assert set(open_cloud(write(folder, "k.bin", raw(4, 7))).fields) == {"remission"}
    assert set(open_cloud(write(folder, "n.bin", raw(5, 7, last=3))).fields) == {"intensity", "ring"}


def test_where_both_numbers_of_columns_fit_the_rings_decide(folder: Path) -> None:
    assert len(open_cloud(write(folder, "k.bin", raw(4, 20)))) == 20
    assert len(open_cloud(write(folder, "n.bin", raw(5, 20, last=np.arange(20) % 32)))) == 20


def test_a_raw_file_that_could_be_both_needs_to_be_told(folder: Path) -> None:
    path = write(folder, "z.bin", np.zeros(80, np.float32).tobytes())
    with pytest.raises(SourceError, match=r"fit rows of 4 numbers and of 5\nhint: `columns=4` or `columns=5`"):
        open_cloud(path)
    assert len(open_cloud(path, columns=4)) == 20 and len(open_cloud(path, columns=5)) == 16


def test_columns_can_be_named_and_left_out(folder: Path) -> None:
    path = write(folder, "s.bin", raw(6, 20))
    cloud = open_cloud(path, columns=("x", "y", "z", "intensity", "_", "ring"))
    assert set(cloud.fields) == {"intensity", "ring"} and len(cloud) == 20
    table = np.arange(24.0).reshape(2, 12) + 300
    names = ["z", "y", "x", "_", "_", "_", "_", "_", "_", "_", "_", "height"]
    assert open_cloud(table, columns=names).xyz.tolist() == [[302, 301, 300], [314, 313, 312]]


def test_npz_keeps_what_fits_the_points_and_its_origin(folder: Path) -> None:
    data = npz(
        xyz=XYZ,
        origin=np.array([770000.0, 6277000, 100]),
        nir=COLUMNS["ring"],
        names=np.array(["a", "b"]),
        k=np.ones(7),
    )
    cloud = open_cloud(write(folder, "o.npz", data))
    assert set(cloud.fields) == {"nir"} and cloud.origin.tolist() == [770000, 6277000, 100]
    np.testing.assert_allclose(cloud.world(), XYZ + np.array([770000.0, 6277000, 100]))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8", "<i4", "<f2"])
def test_npy_arrays_of_any_order_and_type_are_read(folder: Path, order: Any, dtype: str) -> None:
    array = np.asarray(np.arange(30).reshape(10, 3), dtype, order=order)
    np.testing.assert_array_equal(open_cloud(write(folder, "a.npy", npy(array))).xyz, np.arange(30).reshape(10, 3))


# --- in memory ----------------------------------------------------------------------------------------------------------


def test_arrays_tensors_dicts_and_structured_arrays_give_the_same(folder: Path) -> None:
    table = np.empty(50, [(name, values.dtype) for name, values in COLUMNS.items()])
    for name, values in COLUMNS.items():
        table[name] = values
    both = np.concatenate([XYZ, RGB, COLUMNS["label"][:, None]], axis=1)
    for source in (table, both, torch.from_numpy(both), {"xyz": XYZ, "rgb": RGB, "label": COLUMNS["label"]}):
        check(open_cloud(source))
    check(open_cloud({"xyz": torch.from_numpy(XYZ), "rgb": RGB / 255, "label": COLUMNS["label"].tolist()}))
    check(open_cloud(write(folder, "s.npy", npy(table))))
    assert open_cloud(open_cloud(table)).name == "array"


def test_a_fourth_column_is_the_remission_of_a_scan() -> None:
    cloud = open_cloud(np.random.default_rng(0).random((9, 4)))
    assert list(cloud.fields) == ["remission"] and cloud.field("remission").dtype == np.float32


def test_three_more_columns_are_normals_where_they_have_length_one() -> None:
    normal = XYZ / np.linalg.norm(XYZ, axis=1, keepdims=True)
    assert list(open_cloud(np.concatenate([XYZ, normal], axis=1)).fields) == ["normal"]
    with pytest.raises(InputError, match="neither normals of length 1 nor colours"):
        open_cloud(np.concatenate([XYZ, 3 * normal], axis=1))


class PointCloud:
    """A stand-in for open3d.geometry.PointCloud."""

    def __init__(self) -> None:
        self._points, self._colors, self._normals = XYZ.astype(float), RGB / 255, XYZ.astype(float)

    points = property(lambda self: self._points)
    colors = property(lambda self: self._colors)
    normals = property(lambda self: self._normals)

    def has_colors(self) -> bool:
        return True

    def has_normals(self) -> bool:
        return True


class OnDevice:
    """A stand-in for open3d.core.Tensor: no `detach`."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = values

    def cpu(self) -> OnDevice:
        return self

    def numpy(self) -> np.ndarray:
        return self._values


def test_open3d_clouds_of_both_kinds_are_read_without_importing_open3d() -> None:
    already = set(sys.modules)
    check(open_cloud(PointCloud()), rgb=False)
    np.testing.assert_array_equal(open_cloud(PointCloud()).fields["rgb"], RGB)
    kind = type(
        "PointCloud", (), {"__module__": "open3d.cpu.pybind.t.geometry", "point": property(lambda self: self._point)}
    )
    tensors = kind()
    tensors._point = {"positions": OnDevice(XYZ), "colors": OnDevice(RGB), "label": OnDevice(COLUMNS["label"][:, None])}
    cloud = open_cloud(tensors)
    check(cloud)
    assert "open3d" not in sys.modules or "open3d" in already


def test_coordinates_of_a_survey_keep_their_centimetres() -> None:
    world = np.random.default_rng(0).uniform(0, 50, (100, 3)) + SURVEY
    cloud = open_cloud(world)
    assert cloud.origin[2] == 0 and cloud.origin[:2].tolist() == np.floor(world.min(axis=0))[:2].tolist()
    np.testing.assert_allclose(cloud.world(), world, atol=1e-5)
    assert np.abs(world.astype(np.float32) - world).max() > 0.1  # what plain float32 would lose


def test_points_without_a_place_are_dropped_only_on_request() -> None:
    bad = XYZ.copy()
    bad[[3, 7], [0, 2]] = np.nan, np.inf
    with pytest.raises(InputError, match=r"array: 2 of 50 points hold NaN or infinity\nhint: .*drop_nonfinite=True"):
        open_cloud(bad)
    cloud = open_cloud({"xyz": bad, "rgb": RGB}, drop_nonfinite=True)
    assert len(cloud) == 48 and cloud.rows is not None and {3, 7}.isdisjoint(cloud.rows)
    np.testing.assert_array_equal(cloud.fields["rgb"], RGB[cloud.rows])


# --- LAS through a stand-in ----------------------------------------------------------------------------------------------


class Chunk:
    """What laspy gives: scaled coordinates as attributes, dimensions by name."""

    def __init__(self, low: int, high: int) -> None:
        number = np.arange(low, high)
        self.x, self.y, self.z = number + 770550.25, number + 6277550.5, number * 0.5
        self._dimensions = {
            "classification": number % 7,
            "number_of_returns": number % 3,
            "intensity": number,
            "red": number,
        }

    def __getitem__(self, name: str) -> np.ndarray:
        return np.asarray(self._dimensions[name]).astype(np.uint16)


class Reader:
    def __init__(self, stated: int) -> None:
        names = ["X", "Y", "Z", "classification", "number_of_returns", "intensity", "red"]
        self.header = SimpleNamespace(point_count=stated, point_format=SimpleNamespace(dimension_names=names))

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None: ...

    def chunk_iterator(self, _: int) -> list[Chunk]:
        return [Chunk(0, 60), Chunk(60, 100)]


def stand_in(monkeypatch: pytest.MonkeyPatch, stated: int) -> None:
    module = ModuleType("laspy")
    module.open = lambda stream: Reader(stated) if isinstance(stream, io.BytesIO) else None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "laspy", module)


def test_las_dimensions_get_their_canonical_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, 100)
    cloud = open_cloud(write(folder, "a.las", cloud_files.las_header(100, length=375 + 2000)))
    assert set(cloud.fields) == {"label", "num_returns", "intensity", "red"} and len(cloud) == 100
    np.testing.assert_allclose(cloud.world()[:, 0], np.arange(100) + 770550.25, atol=1e-6)
    stand_in(monkeypatch, 101)
    with pytest.raises(SourceError, match="states 101 points and holds 100"):
        open_cloud(write(folder, "b.las", cloud_files.las_header(101, length=375 + 2020)))


def test_without_laspy_a_las_file_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "laspy", None)
    path = write(folder, "a.laz", cloud_files.las_header(10, length=800))
    with pytest.raises(MissingDependencyError, match=r"pip install 'effvision\[las\]'"):
        open_cloud(path)


@pytest.mark.parametrize("name", ["a.las", "a.laz"])
def test_files_of_the_real_laspy_are_read(tmp_path: Path, name: str) -> None:
    laspy = pytest.importorskip("laspy", reason="needs the extra `las`")
    header = laspy.LasHeader(point_format=7, version="1.4")
    header.scales, header.offsets = [0.001] * 3, [770_000, 6_277_000, 0]
    file = laspy.LasData(header)
    world = np.random.default_rng(0).uniform(0, 50, (500, 3)) + SURVEY
    file.x, file.y, file.z = world.T
    file.classification, file.red = np.arange(500) % 7, np.arange(500) * 100
    file.write(str(tmp_path / name))
    cloud = open_cloud(tmp_path / name)
    np.testing.assert_allclose(cloud.world(), world, atol=1e-3)
    assert cloud.fields["label"].tolist() == (np.arange(500) % 7).tolist() and cloud.fields["rgb"].shape == (500, 3)
    data = (tmp_path / name).read_bytes()
    for length in range(0, len(data), 997):
        with pytest.raises(SourceError):
            open_cloud(write(tmp_path, f"cut_{name}", data[:length]))


def test_open3d_reads_what_is_written_and_is_read(tmp_path: Path) -> None:
    open3d = pytest.importorskip("open3d", reason="needs the extra `points`", exc_type=ImportError)
    path = write_ply(tmp_path / "a.ply", XYZ, rgb=RGB, label=COLUMNS["label"])
    cloud = open3d.io.read_point_cloud(str(path))
    np.testing.assert_allclose(np.asarray(cloud.points), XYZ)
    check(open_cloud(open3d.t.io.read_point_cloud(str(path))))
    np.testing.assert_array_equal(open_cloud(cloud).fields["rgb"], RGB)


# --- out and in again ---------------------------------------------------------------------------------------------------


@FUZZ
@given(st.data())
def test_what_is_written_as_ply_is_read_again(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    points = data.draw(st.integers(2, 30))
    kind = data.draw(st.sampled_from([np.float32, np.float64]))
    finite = st.floats(-4000, 4000, width=32)
    xyz = data.draw(arrays.arrays(kind, (points, 3), elements=finite))
    types = st.sampled_from([np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.float32, np.float64, bool])
    fields = data.draw(
        st.dictionaries(
            st.sampled_from(["label_of_part", "score", "a", "intensity", "B_2"]),
            types.flatmap(lambda dtype: arrays.arrays(dtype, points)),
            max_size=3,
        )
    )
    rgb = data.draw(st.none() | arrays.arrays(np.uint8, (points, 3)))
    path = write_ply(tmp_path_factory.mktemp("ply") / "a.ply", xyz, rgb=rgb, comment="two\nlines", **fields)
    cloud = open_cloud(path)
    np.testing.assert_array_equal(cloud.xyz, xyz.astype(np.float32))
    if rgb is not None:
        np.testing.assert_array_equal(cloud.fields["rgb"], rgb)
    for name, values in fields.items():
        np.testing.assert_array_equal(cloud.fields[name], values)


@FUZZ
@given(st.integers(2, 40), st.integers(0, 10**6))
def test_every_format_gives_back_any_cloud(tmp_path_factory: pytest.TempPathFactory, points: int, seed: int) -> None:
    columns, folder = some_columns(points, seed), tmp_path_factory.mktemp("any")
    wanted = np.stack([columns[axis] for axis in "xyz"], axis=1)
    for name, data in every_format(points, seed).items():
        if name == "scan.bin" and points % 5 == 0:
            continue  # may need to be told its columns
        np.testing.assert_allclose(open_cloud(write(folder, name, data)).xyz, wanted, rtol=1e-6, err_msg=name)


def test_coordinates_of_a_survey_are_written_as_doubles(tmp_path: Path) -> None:
    world = np.random.default_rng(0).uniform(0, 50, (20, 3)) + SURVEY
    path = write_ply(
        tmp_path / "a.ply", open_cloud(world).world(), normal=XYZ[:20], label=np.arange(20), wide=XYZ[:20, :2]
    )
    cloud = open_cloud(path)
    np.testing.assert_allclose(cloud.world(), world, atol=1e-5)
    assert set(cloud.fields) == {"normal", "label", "wide_0", "wide_1"} and cloud.fields["label"].dtype == np.int32


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rgb": RGB.astype(float)}, "`rgb` must be uint8"),
        ({"rgb": RGB[:5]}, "`rgb` must be uint8"),
        ({"label": np.zeros(3)}, r"`label` must be \(50,\)"),
        ({"label": np.full(50, 2**40)}, "does not fit into 32 bits"),
        ({"label": np.array(["a"] * 50)}, "must be numbers"),
        ({"red": np.zeros(50), "rgb": RGB}, "two columns would be called red"),
        ({"two words": np.zeros(50)}, "letters, digits"),
    ],
)
def test_what_ply_cannot_hold_is_refused_and_leaves_nothing(tmp_path: Path, given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        write_ply(tmp_path / "a.ply", XYZ, **given)
    assert list(tmp_path.iterdir()) == []


def test_a_cloud_is_written_to_ply_in_a_folder_that_exists(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"written as \.ply; got 'a\.pcd'"):
        write_ply(tmp_path / "a.pcd", XYZ)
    with pytest.raises(SourceError, match="does not exist"):
        write_ply(tmp_path / "none" / "a.ply", XYZ)


@pytest.mark.shared
def test_the_shared_clouds_are_read(shared: Path) -> None:
    scan = open_cloud(shared / "data/semantickitti/000000.bin")
    assert len(scan) == 123_389 and scan.field("remission").max() <= 1
    tile = open_cloud(shared / "data/pointclouds/lidarhd/val/village_770550_6277550.npz")
    assert {"label", "intensity", "return_number", "num_returns"} <= set(tile.fields) and tile.origin[1] > 6e6
