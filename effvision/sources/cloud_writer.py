"""Write a cloud as binary PLY, which every viewer reads; the file appears whole."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision._files import appearing, as_path
from effvision.errors import DTypeError, InputError, RangeError, ShapeError

__all__ = ["write_ply"]

_TYPES = {
    "i1": "char",
    "u1": "uchar",
    "i2": "short",
    "u2": "ushort",
    "i4": "int",
    "u4": "uint",
    "f4": "float",
    "f8": "double",
}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,60}")
_LONGEST_COMMENT = 200  # some readers give up on longer ones
_PARTS = {"normal": ("nx", "ny", "nz")}


def write_ply(
    path: str | os.PathLike[str],
    xyz: NDArray[Any],
    *,
    rgb: NDArray[np.uint8] | None = None,
    comment: str = "",
    **fields: NDArray[Any],
) -> Path:
    """Write points and their fields as a binary little-endian PLY file.

    Args:
        path: File to write, `.ply`, in a folder that exists.
        xyz: (P, 3) metres. float32 is written as `float`; float64, as for coordinates of a survey, as `double`.
        rgb: (P, 3) uint8.
        comment: Lines for the header, such as what made the file.
        **fields: name -> (P,) or (P, C) numbers. `normal` becomes nx ny nz; other (P, C) become name_0, name_1 and so on.
            Whole numbers of 64 bits are written with 32.

    Returns:
        The path written.

    Raises:
        InputError: another suffix, or arrays that do not fit each other or the format (ShapeError, DTypeError, RangeError).
        SourceError: the folder does not exist or cannot be written to.
    """
    target = as_path(path)
    if target.suffix.lower() != ".ply":
        raise InputError(f"a cloud is written as .ply; got {target.name!r}")
    columns = _columns(xyz, rgb, fields)
    rows = np.empty(len(xyz), np.dtype([(name, values.dtype.newbyteorder("<")) for name, values in columns]))
    for name, values in columns:
        rows[name] = values
    lines = ["ply", "format binary_little_endian 1.0"]
    for line in comment.encode("ascii", "replace").decode().splitlines():
        lines.append(f"comment {' '.join(line.split())[:_LONGEST_COMMENT]}")
    lines.append(f"element vertex {len(rows)}")
    lines += [f"property {_TYPES[values.dtype.str[1:]]} {name}" for name, values in columns]
    with appearing(target) as temporary, open(temporary, "wb") as file:
        file.write("\n".join([*lines, "end_header\n"]).encode("ascii"))
        rows.tofile(file)
    return target


def _columns(
    xyz: NDArray[Any], rgb: NDArray[Any] | None, fields: dict[str, NDArray[Any]]
) -> list[tuple[str, NDArray[Any]]]:
    """Return single columns by their names in the file."""
    if not isinstance(xyz, np.ndarray) or xyz.ndim != 2 or xyz.shape[1] != 3:
        raise ShapeError(f"`xyz` must be an array (P, 3); got {getattr(xyz, 'shape', type(xyz).__name__)}")
    if xyz.dtype.kind not in "fiu":
        raise DTypeError(f"`xyz` must be numbers; got {xyz.dtype}")
    points = len(xyz)
    coordinates = xyz if xyz.dtype == np.float32 else xyz.astype(np.float64)
    columns = [(axis, coordinates[:, index]) for index, axis in enumerate("xyz")]
    if rgb is not None:
        if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.shape != (points, 3):
            given = f"{rgb.dtype} {rgb.shape}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
            raise InputError(f"`rgb` must be uint8 ({points}, 3); got {given}")
        columns += [(name, rgb[:, index]) for index, name in enumerate(("red", "green", "blue"))]
    for name, values in fields.items():
        if not _NAME.fullmatch(name):
            raise InputError(f"a field's name must be letters, digits and `_`; got {name!r:.80}")
        values = np.asarray(values)
        if values.ndim not in (1, 2) or len(values) != points:
            raise ShapeError(f"field `{name}` must be ({points},) or ({points}, C); got {values.shape}")
        values = _writable(name, values)
        if values.ndim == 1:
            columns.append((name, values))
            continue
        width = values.shape[1]
        parts = _PARTS[name] if name in _PARTS and width == 3 else tuple(f"{name}_{index}" for index in range(width))
        columns += [(part, values[:, index]) for index, part in enumerate(parts)]
    names = [name for name, _ in columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"two columns would be called {', '.join(twice)}: rename the fields")
    return columns


def _writable(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Bring numbers to a type PLY has."""
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind == "b":
        return values.astype(np.uint8)
    if kind == "f":
        return values.astype(np.float32 if size <= 4 else np.float64)
    if kind not in "iu":
        raise DTypeError(f"field `{name}` must be numbers; got {values.dtype}")
    if size <= 4:
        return values
    narrow = np.iinfo(np.int32 if kind == "i" else np.uint32)
    if values.size and not (values.min() >= narrow.min and values.max() <= narrow.max):
        raise RangeError(f"field `{name}` does not fit into 32 bits, the most PLY has; it reaches {values.max()}")
    return values.astype(narrow.dtype)
