"""Turn what a user has into a `Cloud`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from effvision._files import as_path
from effvision.clouds import Cloud
from effvision.errors import EffvisionError, InputError, SourceError
from effvision.sources.cloud_columns import Columns, Table, assemble, check_columns, refuse_columns
from effvision.sources.cloud_las import read_las
from effvision.sources.cloud_memory import from_memory
from effvision.sources.cloud_mesh import OFF_HEAD, is_obj, read_obj, read_off
from effvision.sources.cloud_numpy import read_bin, read_npy, read_npz
from effvision.sources.cloud_pcd import looks_like_pcd, read_pcd
from effvision.sources.cloud_ply import read_ply
from effvision.sources.cloud_text import read_text
from effvision.sources.files import missing

__all__ = ["CLOUD_SUFFIXES", "open_cloud"]

CLOUD_SUFFIXES = (
    ".ply",
    ".pcd",
    ".npy",
    ".npz",
    ".bin",
    ".txt",
    ".xyz",
    ".csv",
    ".pts",
    ".off",
    ".obj",
    ".las",
    ".laz",
)
"""What files of points are called. What a file is, is told from how it begins; only `.bin` has no mark of its own."""

_BINARY = (".ply", ".pcd", ".npy", ".npz", ".bin", ".las", ".laz")
_LABELS = (".label", ".labels", ".seg")
_DAMAGE = (
    ValueError,
    TypeError,
    OverflowError,
    IndexError,
    KeyError,
    MemoryError,
    UnicodeError,
    EOFError,
    RecursionError,
)


def open_cloud(source: object, *, columns: Columns = None, drop_nonfinite: bool = False, at_least: int = 2) -> Cloud:
    """Read a cloud of points from a file or from memory.

    Files: `.ply` (ascii, binary of either byte order), `.pcd` (ascii, binary, binary_compressed), `.npy`, `.npz` with `xyz`
    and named fields, raw float32 `.bin`, tables in text, `.off`, `.obj`, and with the extra `las` `.las` and `.laz`. A file is
    recognised by how it begins; its name matters only for raw `.bin`, which has no mark. In memory: arrays (N, 3) or wider,
    structured arrays, dicts with `xyz`, torch tensors, Open3D clouds of both kinds.

    Args:
        source: A path, or one of the above.
        columns: For files and arrays whose columns have no names: how many numbers make a row of a `.bin` file, or the names
            in order, such as `("x", "y", "z", "intensity")`; "_" leaves a column out. Without it, 3 columns are x y z; 4 end in
            remission (KITTI); 5 in intensity, ring (nuScenes); 6 and 7 have a normal or a colour, then a label.
        drop_nonfinite: Leave out points whose coordinates are NaN or infinite, as depth cameras store where they saw nothing;
            `cloud.rows` then says which points were kept. They are refused otherwise.
        at_least: Fewest points that make a cloud. One point has no shape.

    Returns:
        The cloud: float32 metres relative to an origin, fields by their canonical names (`effvision.clouds.CANONICAL`).

    Raises:
        SourceError: a file that is missing, damaged, cut short, of another kind, or that states more than it holds.
        InputError: points or fields that cannot be used (ShapeError, DTypeError, RangeError), or `columns` for what has names.
        MissingDependencyError: a LAS file, and laspy is not installed.
    """
    check_columns(columns)
    if isinstance(source, Cloud):
        refuse_columns(columns, source.name)
        if len(source) < at_least:
            raise InputError(f"{source.name} has {len(source)} point; a cloud needs {at_least} or more")
        return source
    if isinstance(source, (str, os.PathLike)):
        path = as_path(source, name="source")
        path = Path(os.path.expanduser(path))
        table, origin = _read(path, columns)
        name = str(path)
    else:
        table, origin, name = from_memory(source, columns)
    return assemble(table, name=name, drop_nonfinite=drop_nonfinite, origin=origin, at_least=at_least)


def _read(path: Path, columns: Columns) -> tuple[Table, Any]:
    data = _bytes(path)
    try:
        return _decode(path, data, columns)
    except EffvisionError:
        raise
    except (
        _DAMAGE
    ) as error:  # what no reader foresaw: still a file that cannot be read, not a fault of the caller's program
        raise SourceError(f"{path} is damaged: {type(error).__name__}: {str(error)[:200]}") from error


def _decode(path: Path, data: bytes, columns: Columns) -> tuple[Table, Any]:
    """Recognise the file by how it begins."""
    suffix = path.suffix.lower()
    head = data[:4096]
    if head.startswith(b"PK\x03\x04") or head.startswith(b"PK\x05\x06"):
        refuse_columns(columns, path)
        return read_npz(path, data)
    marks: list[tuple[bool, Callable[[Path, bytes], Table]]] = [
        (head.startswith(b"ply") and head[3:4] in (b"\n", b"\r"), read_ply),
        (head.startswith(b"LASF"), read_las),
        (looks_like_pcd(head), read_pcd),
        (OFF_HEAD.match(head) is not None, read_off),
    ]
    for here, read in marks:
        if here:
            refuse_columns(columns, path)
            return read(path, data), None
    if head.startswith(b"\x93NUMPY"):
        return read_npy(path, data, columns), None
    if suffix in _LABELS:
        raise SourceError(f"{path} is a file of labels, not a cloud\nhint: give the file of the points it belongs to")
    is_text = _is_text(head) and (suffix != ".bin" or head.isascii())
    if suffix == ".bin" and not is_text:
        return read_bin(path, data, columns), None
    if is_text and (suffix == ".obj" or (suffix not in _BINARY and is_obj(head))):
        refuse_columns(columns, path)
        return read_obj(path, data), None
    if is_text and suffix not in _BINARY:
        return read_text(path, data, columns), None
    raise SourceError(_unknown(path, suffix, is_text=is_text))


def _bytes(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise SourceError(
                f"{path} is a folder; a cloud is one file\nhint: give a file in it ({', '.join(CLOUD_SUFFIXES)})"
            )
        if not path.exists():
            raise SourceError(missing(path))
        if not path.is_file():
            raise SourceError(f"{path} is neither a file nor a folder")
        data = path.read_bytes()
    except SourceError:
        raise
    except (OSError, ValueError, MemoryError) as error:
        raise SourceError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not data:
        raise SourceError(f"{path} is empty (0 bytes)")
    return data


def _is_text(head: bytes) -> bool:
    """Whether bytes are text: no control characters besides white space."""
    return not head.translate(None, b"\t\n\r\f" + bytes(range(32, 256))) and bool(head)


def _unknown(path: Path, suffix: str, *, is_text: bool) -> str:
    if is_text and suffix in _BINARY:
        hint = "rename it to .txt if it is a table of numbers"
        return f"{path} is text, and does not begin as a {suffix} file does\nhint: {hint}"
    if suffix in _BINARY:
        return f"{path} does not begin as a {suffix} file does: damaged, or of another kind"
    return (
        f"{path} is no file of points: it begins as none of them does\n"
        f"hint: {', '.join(CLOUD_SUFFIXES)} can be read; a raw file of float32 must be called .bin"
    )
