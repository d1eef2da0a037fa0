"""PCD files of the Point Cloud Library: ascii, binary and binary_compressed, any fields.

Format: https://pcl.readthedocs.io/projects/tutorials/en/latest/pcd_file_format.html
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.errors import SourceError
from effvision.sources.cloud_columns import SKIP, Table
from effvision.sources.cloud_text import number_table, text_lines
from effvision.sources.lzf import lzf_decompress

__all__ = ["looks_like_pcd", "read_pcd"]

_LONGEST_HEADER = 1 << 16
_MOST_NUMBERS = 1 << 16  # a row may hold: histograms have hundreds
_WORDS = ("VERSION", "FIELDS", "COLUMNS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS", "DATA")
_TYPES = {
    **{f"{kind}{size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)},
    "F4": "<f4",
    "F8": "<f8",
}


@dataclass(frozen=True)
class _Field:
    name: str
    kind: np.dtype[Any]
    count: int

    @property
    def size(self) -> int:
        return self.kind.itemsize * self.count


@dataclass(frozen=True)
class _Header:
    fields: list[_Field]
    points: int
    form: str
    start: int

    @property
    def row(self) -> int:
        """Bytes of a point."""
        return sum(item.size for item in self.fields)


def looks_like_pcd(head: bytes) -> bool:
    """Whether a file begins as a PCD file does: comments, then a word of its header."""
    for line in head[:4096].split(b"\n"):
        words = line.split()
        if words and not words[0].startswith(b"#"):
            return words[0].decode("latin-1").upper() in _WORDS[:4] and len(words) > 1
        if line.startswith(b"# .PCD"):
            return True
    return False


def read_pcd(path: Path, data: bytes) -> Table:
    """Return the fields of a PCD file as columns; packed `rgb` and `rgba` become (P, 3) uint8.

    Raises:
        SourceError: the header makes no sense or states more than the file holds, or the data are damaged.
    """
    try:
        header = _header(data)
        read = {"ascii": _ascii, "binary": _binary, "binary_compressed": _compressed}[header.form]
        return _table(header, read(data, header), is_text=header.form == "ascii")
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from error


def _header(data: bytes) -> _Header:
    words: dict[str, list[str]] = {}
    place = 0
    while "DATA" not in words:
        end = data.find(b"\n", place, place + _LONGEST_HEADER)
        if end < 0 or end > _LONGEST_HEADER:
            raise SourceError("its PCD header has no `DATA` line: it is cut short or damaged")
        parts = data[place:end].decode("latin-1").split()
        place = end + 1
        if not parts or parts[0].startswith("#"):
            continue
        key = parts[0].upper()
        if key not in _WORDS or key in words:
            raise SourceError(f"a line of its PCD header makes no sense: {' '.join(parts)!r:.80}")
        words[key] = parts[1:]
    fields = _fields(words)
    form = " ".join(words["DATA"]).lower()
    if form not in ("ascii", "binary", "binary_compressed"):
        raise SourceError(f"`DATA` must be ascii, binary or binary_compressed; got {form!r:.40}")
    return _Header(fields, _points(words), form, place)


def _fields(words: dict[str, list[str]]) -> list[_Field]:
    names = words.get("FIELDS") or words.get("COLUMNS") or []
    sizes = words.get("SIZE", ["4"] * len(names))
    kinds = words.get("TYPE", ["F"] * len(names))
    counts = [_whole(word, "COUNT") for word in words.get("COUNT", ["1"] * len(names))]
    if not names or not len(names) == len(sizes) == len(kinds) == len(counts):
        raise SourceError(
            f"its PCD header describes {len(names)} fields by {len(sizes)} sizes, {len(kinds)} types, {len(counts)} counts"
        )
    unknown = [kind + size for kind, size in zip(kinds, sizes, strict=True) if kind.upper() + size not in _TYPES]
    if unknown or min(counts) < 1 or sum(counts) > _MOST_NUMBERS:
        what = f"type {unknown[0]:.20}" if unknown else f"counts {' '.join(map(str, counts))[:80]}"
        raise SourceError(f"its PCD header has fields of impossible {what}")
    real = [name for name in names if name != SKIP]
    if len(set(real)) != len(real):
        raise SourceError("its PCD header names a field twice")
    return [
        _Field(name, np.dtype(_TYPES[kind.upper() + size]), count)
        for name, kind, size, count in zip(names, kinds, sizes, counts, strict=True)
    ]


def _points(words: dict[str, list[str]]) -> int:
    stated = {key: _whole(words[key][0], key) for key in ("POINTS", "WIDTH", "HEIGHT") if words.get(key)}
    grid = stated["WIDTH"] * stated.get("HEIGHT", 1) if "WIDTH" in stated else None
    points = stated.get("POINTS", grid)
    if points is None:
        raise SourceError("its PCD header states no number of points (`POINTS`, or `WIDTH` and `HEIGHT`)")
    if grid is not None and grid != points:
        raise SourceError(f"its PCD header states {points} points, and width times height are {grid}")
    return points


def _whole(word: str, key: str) -> int:
    if not (word.isascii() and word.isdigit() and len(word) < 19):
        raise SourceError(f"`{key}` in its PCD header must be a whole number; got {word!r:.40}")
    return int(word)


# --- the three forms ----------------------------------------------------------------------------------------------------


def _ascii(data: bytes, header: _Header) -> list[NDArray[Any]]:
    width = sum(item.count for item in header.fields)
    _check_room(header, len(data) - header.start, 2 * width)
    values = number_table(text_lines(data, header.start), rows=header.points, columns=range(width))
    if len(values) < header.points:
        raise SourceError(f"it states {header.points} points and holds {len(values)}: it is cut short")
    bounds = np.cumsum([0, *(item.count for item in header.fields)])
    return [values[:, low:high] for low, high in itertools.pairwise(bounds)]


def _binary(data: bytes, header: _Header) -> list[NDArray[Any]]:
    _check_room(header, len(data) - header.start, header.row)
    row = np.dtype([(f"f{index}", item.kind, (item.count,)) for index, item in enumerate(header.fields)])
    rows = np.frombuffer(data, row, header.points, header.start)
    return [rows[f"f{index}"] for index in range(len(header.fields))]


def _compressed(data: bytes, header: _Header) -> list[NDArray[Any]]:
    """Field after field, each for all points."""
    if len(data) < header.start + 8:
        raise SourceError("it ends before its compressed data begin: it is cut short")
    packed, size = (int(number) for number in np.frombuffer(data, "<u4", 2, header.start))
    begin = header.start + 8
    if packed > len(data) - begin:
        raise SourceError(f"it states {packed} compressed bytes and holds {len(data) - begin}: it is cut short")
    if size != header.points * header.row:
        raise SourceError(f"it states {header.points} points of {header.row} bytes, but {size} bytes in all")
    raw = lzf_decompress(memoryview(data)[begin : begin + packed], size)
    out, place = [], 0
    for item in header.fields:
        column = np.frombuffer(raw, item.kind, header.points * item.count, place)
        out.append(column.reshape(header.points, item.count))
        place += column.nbytes
    return out


def _check_room(header: _Header, room: int, least: int) -> None:
    if header.points * least - (header.form == "ascii") > room:
        raise SourceError(
            f"it states {header.points} points, and the file has room for {room // least} at most: it is cut short or damaged"
        )


# --- columns ------------------------------------------------------------------------------------------------------------


def _table(header: _Header, columns: list[NDArray[Any]], *, is_text: bool) -> Table:
    table: Table = {}
    for item, values in zip(header.fields, columns, strict=True):
        if item.name == SKIP:
            continue
        if item.name.lower() in ("rgb", "rgba") and item.size == 4 and item.count == 1:
            table["rgb"] = _unpack(values[:, 0], item.kind, is_text=is_text)
            continue
        if is_text:
            values = _cast(values, item)
        table[item.name] = values[:, 0] if item.count == 1 else values
    return table


def _unpack(values: NDArray[Any], kind: np.dtype[Any], *, is_text: bool) -> NDArray[np.uint8]:
    """Colours packed as 0x00RRGGBB. In text they stand as a whole number or as the float of the same bits, a tiny one."""
    if not is_text:
        bits = np.ascontiguousarray(values).view("<u4")
    else:
        with np.errstate(all="ignore"):
            as_number = np.where((values >= 1) & (values < 2**32), values, 0).astype(np.uint32)
            as_bits = values.astype(np.float32).view(np.uint32)
        is_number = (values >= 1) & (values < 2**32) if kind.kind == "f" else np.ones(len(values), bool)
        bits = np.where(is_number, as_number, as_bits)
    out = np.empty((len(bits), 3), np.uint8)
    for column, shift in enumerate((16, 8, 0)):
        out[:, column] = bits >> shift & 255
    return out


def _cast(values: NDArray[np.float64], item: _Field) -> NDArray[Any]:
    """Bring parsed numbers to the stated type; what an integer cannot hold is refused."""
    if item.kind.kind != "f" and values.size:
        limits = np.iinfo(item.kind)
        low, high = float(values.min()), float(values.max())
        if not (low >= limits.min and high <= limits.max) or math.isinf(high):
            raise SourceError(f"field `{item.name}` is stated as {item.kind.name}, and holds {low:g}..{high:g}")
    with np.errstate(all="ignore"):
        return values.astype(item.kind)
