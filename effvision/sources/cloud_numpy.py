"""Clouds in `.npy`, `.npz` and raw float32 files. What a header states is checked against the file before memory is taken."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from effvision.clouds import CANONICAL
from effvision.errors import InputError, SourceError
from effvision.sources.cloud_columns import Columns, Table, named, named_of, refuse_columns

__all__ = ["read_bin", "read_npy", "read_npz", "structured"]

_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,  # differs in the letters of field names only
}
_NUMBERS = "fiub"
_FREE = 64 << 20
_MOST_GROWTH = 200
"""An archive may unpack to `_FREE` bytes, or to so many times its own size: scans stay below 20."""
_TINY_BITS = 0x0DA24260  # of 1e-30 as float32
_FORM_OF_BIN = "rows of float32: x, y, z, remission (KITTI) or x, y, z, intensity, ring (nuScenes)"


def read_npy(path: Path, data: bytes, columns: Columns = None) -> Table:
    """Return an array (P, C), or one with named fields, as columns.

    Raises:
        SourceError: the header is damaged, states more than the file holds, or the array is not of plain numbers.
        InputError: columns that no rule fits.
    """
    try:
        array = _array(io.BytesIO(data), len(data))
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from error
    if array.dtype.names:
        refuse_columns(columns, path)
        return structured(array)
    if array.ndim != 2:
        what = "labels, not a cloud?" if array.ndim == 1 else "an image or a batch, not a cloud?"
        raise SourceError(f"{path} holds an array of shape {array.shape} ({what})\nhint: a cloud is (N, 3) or wider")
    return named(array, columns)


def structured(array: NDArray[Any]) -> Table:
    """Return the fields of a structured array as columns."""
    if array.ndim != 1:
        raise InputError(f"a structured array must have one axis, one entry a point; got {array.shape}")
    return {name: array[name] for name in array.dtype.names or ()}


def read_npz(path: Path, data: bytes) -> tuple[Table, NDArray[np.float64] | None]:
    """Return the arrays of an archive that have one row for each point of its `xyz`, and its `origin` if it has one.

    Arrays of other lengths or kinds, such as the names of classes, are left out, unless they are called like a field that
    has one meaning (`effvision.clouds.CANONICAL`).

    Raises:
        SourceError: it is damaged, unpacks to far more than its own size, has no `xyz`, or a field that does not fit it.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _from_archive(archive, len(data))
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise SourceError(f"{path} is a damaged or encrypted .npz archive: {error}") from error


def read_bin(path: Path, data: bytes, columns: Columns = None) -> Table:
    """Return a raw file of float32 rows (little endian) as columns.

    How many numbers make a row is told by `columns`; else by the size of the file, and where 4 and 5 both divide it, by the
    fifth numbers, which are whole and below 256 where they are rings.

    Raises:
        SourceError: the size fits no such rows, both kinds would fit, or the numbers are no float32 coordinates.
    """
    numbers, rest = divmod(len(data), 4)
    width = columns if isinstance(columns, (int, np.integer)) else len(columns) if columns is not None else None
    if rest or (width is not None and numbers % width):
        rows = f" of {width} numbers" if width else ""
        raise SourceError(
            f"{path} has {len(data)} bytes, which are no whole number of float32 rows{rows}: cut short, or of another layout\n"
            f"hint: a raw cloud is {_FORM_OF_BIN}"
        )
    flat = np.frombuffer(data, "<f4")
    _refuse_whole_numbers(path, flat)
    width = int(width) if width is not None else _bin_width(path, flat)
    return named_of(path, flat.reshape(-1, width), columns)


# --- .npy ---------------------------------------------------------------------------------------------------------------


def _array(file: BinaryIO, size: int) -> NDArray[Any]:
    """Read one array from `file`, which holds `size` bytes of it, header included."""
    shape, fortran, dtype, start = _npy_header(file)
    count = math.prod(shape)
    if dtype.hasobject or dtype.itemsize == 0 or not _is_plain(dtype):
        raise SourceError(f"its array is of {str(dtype)[:80]}, not of plain numbers")
    if count * dtype.itemsize > size - start:
        raise SourceError(
            f"its array is stated as {shape} {str(dtype)[:80]}, {count * dtype.itemsize} bytes, and the file holds "
            f"{size - start}: it is cut short or damaged"
        )
    raw = file.read(count * dtype.itemsize)
    if len(raw) < count * dtype.itemsize:
        raise SourceError(f"its array ends after {len(raw)} of {count * dtype.itemsize} bytes")
    flat = np.frombuffer(raw, dtype, count)
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _npy_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    try:
        version = np.lib.format.read_magic(file)
        shape, fortran, dtype = _NPY_HEADERS[version](file)
        if len(shape) > 8 or any(side < 0 for side in shape):
            raise ValueError(f"an impossible shape {str(shape)[:80]}")
    except Exception as error:  # numpy parses the header as Python: a damaged one raises almost anything
        raise SourceError(f"its array header is damaged: {type(error).__name__}: {str(error)[:120]}") from error
    return shape, fortran, dtype, file.tell()


def _is_plain(dtype: np.dtype[Any]) -> bool:
    """Whether it is a type of numbers, or has one named field or more of such."""
    if dtype.names is None:
        return dtype.kind in _NUMBERS
    parts = [dtype[name] for name in dtype.names]
    return all(part.base.kind in _NUMBERS and part.base.names is None and part.itemsize for part in parts)


# --- .npz ---------------------------------------------------------------------------------------------------------------


def _from_archive(archive: zipfile.ZipFile, size: int) -> tuple[Table, NDArray[np.float64] | None]:
    if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in archive.infolist()):
        raise SourceError(
            "it is packed in another way than NumPy packs\nhint: `np.savez_compressed` writes what can be read"
        )
    members = {_stem(info.filename): info for info in archive.infolist()}
    if "xyz" not in members:
        raise SourceError(
            f"it has no `xyz`; its arrays: {', '.join(members)[:200] or 'none'}\n"
            "hint: `np.savez(path, xyz=points, intensity=...)` writes a cloud"
        )
    allowed = max(_FREE, _MOST_GROWTH * size)
    unpacked = sum(info.file_size for info in members.values())
    if unpacked > allowed:
        raise SourceError(f"its {size} bytes would unpack to {unpacked}: refused, because no cloud shrinks so much")
    xyz = _member(archive, members.pop("xyz"))
    if xyz.ndim != 2:
        raise SourceError(f"its `xyz` must be (P, 3); it is {xyz.shape}")
    origin = None
    if "origin" in members:
        origin = np.asarray(_member(archive, members.pop("origin")), np.float64)
        if origin.shape != (3,) or not np.isfinite(origin).all():
            raise SourceError(f"its `origin` must be three finite numbers; it has shape {origin.shape}")
    table: Table = {"xyz": xyz}
    for name, info in members.items():
        if name in CANONICAL or _fits(archive, info, len(xyz)):
            table[name] = _member(archive, info)
    return table, origin


def _stem(name: str) -> str:
    """A member's name as `np.load` gives it; kits run this on Python 3.8, which has no `removesuffix`."""
    return name[:-4] if name.endswith(".npy") else name


def _fits(archive: zipfile.ZipFile, info: zipfile.ZipInfo, points: int) -> bool:
    """Whether a member is an array of plain numbers with a row for each point, told from its header."""
    with archive.open(info) as file:
        try:
            shape, _, dtype, _ = _npy_header(file)  # type: ignore[arg-type]
        except SourceError:
            return False
        return len(shape) in (1, 2) and shape[0] == points and dtype.kind in _NUMBERS


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    try:
        with archive.open(info) as file:
            return _array(file, info.file_size)  # type: ignore[arg-type]
    except SourceError as error:
        raise SourceError(f"{info.filename[:60]}: {error}") from error


# --- .bin ---------------------------------------------------------------------------------------------------------------


def _bin_width(path: Path, flat: NDArray[np.float32]) -> int:
    numbers = len(flat)
    four, five = numbers % 4 == 0, numbers % 5 == 0
    if four and five:
        rings = flat[4::5]
        with np.errstate(invalid="ignore"):
            five = bool(((rings == np.rint(rings)) & (rings >= 0) & (rings < 256)).all())
            remission = flat[3::4]
            four = not five or bool(((remission >= 0) & (remission <= 1)).all())
    if four == five:
        why = "fit rows of 4 numbers and of 5" if four else "fit rows neither of 4 numbers nor of 5"
        raise SourceError(
            f"{path}: its {len(flat) * 4} bytes {why}\n"
            f"hint: `columns=4` or `columns=5` says it, or names in order; a raw cloud is {_FORM_OF_BIN}"
        )
    return 4 if four else 5


def _refuse_whole_numbers(path: Path, flat: NDArray[np.float32]) -> None:
    """Small whole numbers, as of a `.label` file, are read as the tiniest of floats, which no scan holds."""
    bits = flat.view(np.uint32)
    if 10 * np.count_nonzero((bits > 0) & (bits < _TINY_BITS)) > 9 * np.count_nonzero(bits):
        raise SourceError(
            f"{path} holds small whole numbers, not float32 coordinates: labels?\n"
            "hint: give the scan itself; a KITTI scan is the `.bin` file in the folder `velodyne`"
        )
