"""For tests of point clouds: files of every format, written by other code than the package's."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

PLY_NAMES = {
    "i1": "char",
    "u1": "uint8",
    "i2": "int16",
    "u2": "ushort",
    "i4": "int",
    "u4": "uint32",
    "f4": "float32",
    "f8": "double",
}
Columns = dict[str, np.ndarray]


def some_columns(points: int = 50, seed: int = 0) -> Columns:
    """Coordinates, colour, a label and a field of its own name, as single columns."""
    rng = np.random.default_rng(seed)
    columns = {axis: rng.normal(0, 20, points).astype(np.float32) for axis in "xyz"}
    columns |= {name: rng.integers(0, 256, points).astype(np.uint8) for name in ("red", "green", "blue")}
    columns["label"] = rng.integers(0, 9, points).astype(np.int32)
    columns["ring"] = rng.integers(0, 64, points).astype(np.uint16)
    return columns


def ply(columns: Columns, form: str = "binary_little_endian", *, newline: str = "\n", faces: bool = True) -> bytes:
    """A PLY file with a comment, and faces behind the vertices."""
    points = len(columns["x"])
    head = ["ply", f"format {form} 1.0", "comment made by a tèst", f"element vertex {points}"]
    head += [f"property {PLY_NAMES[values.dtype.str[1:]]} {name}" for name, values in columns.items()]
    head += ["element face 2", "property list uchar int vertex_indices"] if faces else []
    start = newline.join([*head, "end_header", ""]).encode("latin-1")
    if form == "ascii":
        rows = [" ".join(repr(values[i].item()) for values in columns.values()) for i in range(points)]
        return start + newline.join([*rows, *(["3 0 1 2", "4 0 1 2 3"] if faces else []), ""]).encode()
    order = ">" if "big" in form else "<"
    table = np.empty(points, [(name, values.dtype.newbyteorder(order)) for name, values in columns.items()])
    for name, values in columns.items():
        table[name] = values
    tail = struct.pack(f"{order}B3iB4i", 3, 0, 1, 2, 4, 0, 1, 2, 3) if faces else b""
    return start + table.tobytes() + tail


def pcd(columns: Columns, form: str = "binary") -> bytes:
    """A PCD file; colours become one packed float."""
    columns = dict(columns)
    if "red" in columns:
        red, green, blue = (columns.pop(name).astype(np.uint32) for name in ("red", "green", "blue"))
        columns["rgb"] = (red << 16 | green << 8 | blue).view(np.float32)
    points = len(columns["x"])
    kinds = ["F" if values.dtype.kind == "f" else values.dtype.kind.upper() for values in columns.values()]
    head = [
        "# .PCD v0.7 - Point Cloud Data file format",
        "VERSION 0.7",
        f"FIELDS {' '.join(columns)}",
        f"SIZE {' '.join(str(values.dtype.itemsize) for values in columns.values())}",
        f"TYPE {' '.join(kinds)}",
        f"COUNT {' '.join(str(values[:1].size or 1) for values in columns.values())}",
        f"WIDTH {points}",
        "HEIGHT 1",
        "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {points}",
        f"DATA {form}",
        "",
    ]
    start = "\n".join(head).encode()
    if form == "ascii":
        rows = [
            " ".join(f"{number!r}" for v in columns.values() for number in np.ravel(v[i]).tolist())
            for i in range(points)
        ]
        return start + "\n".join([*rows, ""]).encode()
    if form == "binary":
        table = np.empty(points, [(name, values.dtype, values.shape[1:]) for name, values in columns.items()])
        for name, values in columns.items():
            table[name] = values
        return start + table.tobytes()
    raw = b"".join(values.tobytes() for values in columns.values())
    packed = lzf_compress(raw)
    return start + struct.pack("<II", len(packed), len(raw)) + packed


def lzf_compress(data: bytes) -> bytes:
    """A slow, greedy LZF: literals of up to 32 bytes, references of 3 to 264 bytes up to 8192 back."""
    out, literal, place = bytearray(), bytearray(), 0
    seen: dict[bytes, int] = {}

    def flush() -> None:
        for begin in range(0, len(literal), 32):
            part = literal[begin : begin + 32]
            out.append(len(part) - 1)
            out.extend(part)
        literal.clear()

    while place < len(data):
        key = data[place : place + 3]
        at = seen.get(key, -1) if len(key) == 3 else -1
        seen[key] = place
        if at < 0 or place - at > 8192:
            literal.append(data[place])
            place += 1
            continue
        length = 3
        while length < 264 and place + length < len(data) and data[at + length] == data[place + length]:
            length += 1
        flush()
        back = place - at - 1
        if length - 2 < 7:
            out += bytes([(length - 2) << 5 | back >> 8, back & 255])
        else:
            out += bytes([7 << 5 | back >> 8, length - 9, back & 255])
        place += length
    flush()
    return bytes(out)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def npy_header(descr: str, shape: Sequence[int]) -> bytes:
    """Only the header of an array, whatever it states."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {tuple(shape)}, }}".encode("latin-1")
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def las_header(points: int, *, length: int = 375, form: int = 0, row: int = 20, start: int = 375) -> bytes:
    """A LAS 1.4 header that states `points`, padded to `length` bytes."""
    head = bytearray(max(length, 375))
    head[:4] = b"LASF"
    head[24:26] = bytes([1, 4])
    struct.pack_into("<HI", head, 94, 375, start)
    struct.pack_into("<BHI", head, 104, form, row, min(points, 2**32 - 1))
    struct.pack_into("<Q", head, 247, points)
    return bytes(head[:length])


def every_format(points: int = 50, seed: int = 0) -> dict[str, bytes]:
    """The same cloud as a good file of each format that needs no other package: name -> bytes."""
    columns = some_columns(points, seed)
    table = np.stack([columns[name] for name in ("x", "y", "z", "red", "green", "blue", "label")], axis=1)
    lines = [" ".join(f"{number:.9g}" for number in row) for row in table.tolist()]
    xyz = table[:, :3].astype(np.float32)
    return {
        "ascii.ply": ply(columns, "ascii"),
        "little.ply": ply(columns, "binary_little_endian"),
        "big.ply": ply(columns, "binary_big_endian"),
        "ascii.pcd": pcd(columns, "ascii"),
        "binary.pcd": pcd(columns, "binary"),
        "packed.pcd": pcd(columns, "binary_compressed"),
        "plain.npy": npy(table),
        "named.npz": npz(xyz=xyz, rgb=table[:, 3:6].astype(np.uint8), label=columns["label"]),
        "scan.bin": np.concatenate(
            [xyz, np.random.default_rng(seed).random((points, 1), np.float32)], axis=1
        ).tobytes(),
        "table.txt": "\n".join([*lines, ""]).encode(),
        "table.csv": "\n".join(
            ["x,y,z,red,green,blue,label", *(line.replace(" ", ",") for line in lines), ""]
        ).encode(),
        "mesh.off": "\n".join(
            [f"OFF\n{points} 1 0", *(" ".join(line.split()[:3]) for line in lines), "3 0 1 2", ""]
        ).encode(),
        "mesh.obj": "\n".join(
            ["# a mesh", *("v " + " ".join(line.split()[:3]) for line in lines), "f 1 2 3", ""]
        ).encode(),
    }


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path
