"""PLY files, ascii and binary of either byte order: every property of the vertices, whatever their order and type.

Format: Greg Turk, "The PLY Polygon File Format", 1994, with the type names that came later.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.errors import SourceError
from effvision.sources.cloud_columns import Table
from effvision.sources.cloud_text import number_table, text_lines

__all__ = ["read_ply"]

_LONGEST_HEADER = 1 << 20
_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("long", "int64"), "i8"),
    **dict.fromkeys(("ulong", "uint64"), "u8"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_FORMATS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}


@dataclass(frozen=True)
class _Property:
    """One column; a list where `length` (the type that counts its items) is set."""

    name: str
    kind: np.dtype[Any]
    length: np.dtype[Any] | None = None

    @property
    def least(self) -> int:
        """Bytes it takes at least."""
        return self.length.itemsize if self.length is not None else self.kind.itemsize


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    properties: list[_Property] = field(default_factory=list)

    @property
    def least(self) -> int:
        """Bytes a binary row takes at least."""
        return sum(item.least for item in self.properties)

    @property
    def has_lists(self) -> bool:
        return any(item.length is not None for item in self.properties)


def read_ply(path: Path, data: bytes) -> Table:
    """Return the vertex properties of a PLY file as columns; list properties and other elements are skipped.

    Raises:
        SourceError: the header is no PLY header, states more than the file holds, or has no vertices with x, y and z.
    """
    try:
        ascii_form, elements, start = _header(data)
        return _ascii(data, start, elements) if ascii_form else _binary(data, start, elements)
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from error


# --- header -------------------------------------------------------------------------------------------------------------


def _header(data: bytes) -> tuple[bool, list[_Element], int]:
    """Return whether the body is text, the elements, and where the body begins."""
    mark = data.find(b"end_header", 0, _LONGEST_HEADER)
    if mark < 0:
        raise SourceError("its PLY header has no end (`end_header`): it is cut short or damaged")
    head = data[:mark].decode("latin-1").replace("\r\n", "\n").replace("\r", "\n")
    start = mark + len(b"end_header")
    if data[start : start + 2] == b"\r\n":
        start += 2
    elif data[start : start + 1] in (b"\n", b"\r"):
        start += 1
    else:
        raise SourceError("its PLY header does not end in a line break behind `end_header`")
    order: str | None = None
    elements: list[_Element] = []
    for line in head.split("\n")[1:]:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format" and len(words) >= 2 and words[1] in _FORMATS:
            order = _FORMATS[words[1]]
        elif words[0] == "element" and len(words) == 3:
            elements.append(_Element(words[1], _count(words[2])))
        elif words[0] == "property" and elements and order:
            elements[-1].properties.append(_property(words[1:], order))
        else:
            raise SourceError(f"a line of its PLY header makes no sense: {line!r:.80}")
    if order is None:
        raise SourceError("its PLY header states no `format` (ascii, binary_little_endian, binary_big_endian)")
    _check_vertex(elements)
    return order == "=", elements, start


def _count(word: str) -> int:
    if not (word.isascii() and word.isdigit() and len(word) < 19):
        raise SourceError(f"its PLY header counts elements by {word!r:.40}, which is no number")
    return int(word)


def _property(words: list[str], order: str) -> _Property:
    parts = words[1:] if words[:1] == ["list"] else words
    wanted = 3 if words[:1] == ["list"] else 2
    if len(parts) != wanted or any(kind not in _TYPES for kind in parts[:-1]):
        raise SourceError(f"its PLY header has a property of unknown form: {' '.join(words)!r:.80}")
    kinds = [np.dtype(order + _TYPES[kind]) for kind in parts[:-1]]
    if wanted == 3 and kinds[0].kind == "f":
        raise SourceError(f"its PLY header counts the items of a list by {parts[0]}, which is no whole number")
    return _Property(parts[-1], kinds[-1], kinds[0] if wanted == 3 else None)


def _check_vertex(elements: list[_Element]) -> None:
    vertices = [element for element in elements if element.name == "vertex"]
    if len(vertices) != 1:
        there = ", ".join(element.name for element in elements)[:200] or "none"
        raise SourceError(f"a PLY cloud has one element `vertex`; there are {len(vertices)} (elements: {there})")
    names = [item.name for item in vertices[0].properties]
    if len(set(names)) != len(names):
        raise SourceError("its PLY header names a vertex property twice")
    scalars = {item.name.lower() for item in vertices[0].properties if item.length is None}
    if not {"x", "y", "z"} <= scalars:
        raise SourceError(f"its vertices have no x, y and z; their properties: {', '.join(names)[:200] or 'none'}")


# --- text body ----------------------------------------------------------------------------------------------------------


def _ascii(data: bytes, start: int, elements: list[_Element]) -> Table:
    """One row a line; rows of the elements before the vertices are passed over."""
    before = 0
    for element in elements:
        if element.name == "vertex":
            break
        before += element.count if element.properties else 0
    room = len(data) - start
    shortest = 2 * max(1, len(element.properties))  # a digit and what parts it from the next
    if before + element.count * shortest - 1 > room:
        raise SourceError(_too_many(element, room // shortest))
    plain = [item for item in element.properties if item.length is None]
    lists_last = all(item.length is None for item in element.properties[: len(plain)])
    if not lists_last:
        raise SourceError(
            "its vertices have a list in front of other properties, which is read from binary PLY only\n"
            "hint: save it as binary"
        )
    lines = text_lines(data, start, skip=before)
    values = number_table(lines, rows=element.count, columns=range(len(plain)))
    if len(values) < element.count:
        raise SourceError(f"it states {element.count} vertices and holds {len(values)}: it is cut short")
    return {item.name: _cast(values[:, index], item) for index, item in enumerate(plain)}


def _cast(values: NDArray[np.float64], item: _Property) -> NDArray[Any]:
    """Bring parsed numbers to the type the header states; refuse what it cannot hold."""
    if item.kind.kind == "f":
        with np.errstate(over="ignore", under="ignore"):
            return values.astype(item.kind)
    limits = np.iinfo(item.kind)
    if not len(values) or (values.min() >= limits.min and values.max() <= limits.max and (values % 1 == 0).all()):
        return values.astype(item.kind)
    raise SourceError(f"property `{item.name}` is stated as {item.kind.name}, and holds other numbers")


# --- binary body --------------------------------------------------------------------------------------------------------


def _binary(data: bytes, start: int, elements: list[_Element]) -> Table:
    place = start
    for element in elements:
        room = len(data) - place
        if element.least * element.count > room:
            raise SourceError(_too_many(element, room // max(1, element.least)))
        if element.name == "vertex":
            return _vertices(data, place, element)
        place = (
            _walk(data, place, element, keep=False)[1] if element.has_lists else place + element.least * element.count
        )
    raise SourceError("it has no vertices")


def _vertices(data: bytes, place: int, element: _Element) -> Table:
    if not element.has_lists:
        row = np.dtype([(item.name, item.kind) for item in element.properties])
        rows = np.frombuffer(data, row, element.count, place)
        return {item.name: rows[item.name].astype(item.kind.newbyteorder("=")) for item in element.properties}
    starts, _ = _walk(data, place, element)  # where the stretches between lists begin, one column each
    raw = np.frombuffer(data, np.uint8)
    table: Table = {}
    stretch = offset = 0
    for item in element.properties:
        if item.length is not None:
            stretch, offset = stretch + 1, 0
            continue
        at = starts[:, stretch, None] + np.arange(offset, offset + item.kind.itemsize)
        table[item.name] = raw[at].view(item.kind)[:, 0].astype(item.kind.newbyteorder("="))
        offset += item.kind.itemsize
    return table


def _walk(data: bytes, place: int, element: _Element, *, keep: bool = True) -> tuple[NDArray[np.int64], int]:
    """Go through rows that hold lists; return where their stretches of plain properties begin, and where the rows end.

    Without `keep` the first is not filled in: rows that are only passed over take no memory.
    """
    even = _walk_even(data, place, element, keep=keep)
    if even is not None:
        return even
    lists = [index for index, item in enumerate(element.properties) if item.length is not None]
    gaps: list[
        tuple[int, int, str, int]
    ] = []  # bytes in front of a list, size of its counter, its byte order, of an item
    last = 0
    for index in lists:
        item = element.properties[index]
        length = item.length or item.kind
        gaps.append(
            (
                sum(prior.least for prior in element.properties[last:index]),
                length.itemsize,
                length.str,
                item.kind.itemsize,
            )
        )
        last = index + 1
    tail = sum(item.least for item in element.properties[last:])
    starts = np.empty((element.count if keep else 1, len(gaps) + 1), np.int64)
    end = len(data)
    for row in range(element.count):
        for column, (gap, size, kind, each) in enumerate(gaps):
            starts[row * keep, column] = place
            place += gap + size
            count = int.from_bytes(
                data[place - size : place], "big" if kind[0] == ">" else "little", signed=kind[1] == "i"
            )
            place += count * each
            if place > end or count < 0:
                raise SourceError(
                    f"row {row} of its element `{element.name}` runs over the end: it is cut short or damaged"
                )
        starts[row * keep, len(gaps)] = place
        place += tail
    if place > end:
        raise SourceError(f"its element `{element.name}` runs over the end: it is cut short or damaged")
    return starts, place


def _walk_even(data: bytes, place: int, element: _Element, *, keep: bool) -> tuple[NDArray[np.int64], int] | None:
    """The same for lists that are as long in every row as in the first (triangles), at once; None where they are not."""
    parts: list[tuple[str, Any]] = []
    counters: list[tuple[str, int]] = []
    marks = [0]
    size = 0
    for index, item in enumerate(element.properties):
        if item.length is None:
            parts.append((f"p{index}", item.kind))
            size += item.kind.itemsize
            continue
        at = place + size
        if not element.count or at + item.length.itemsize > len(data):
            return None
        count = int(np.frombuffer(data, item.length, 1, at)[0])
        step = item.length.itemsize + count * item.kind.itemsize
        if count < 0 or (size + step) * element.count > len(data) - place:
            return None
        parts += [(f"n{index}", item.length), (f"v{index}", np.dtype((np.void, count * item.kind.itemsize)))]
        counters.append((f"n{index}", count))
        size += step
        marks.append(size)
    if size * element.count > len(data) - place:
        return None
    rows = np.frombuffer(data, np.dtype([part for part in parts if part[1].itemsize]), element.count, place)
    if not all((rows[key] == count).all() for key, count in counters):
        return None
    starts = place + np.arange(element.count if keep else 1, dtype=np.int64)[:, None] * size + np.array(marks, np.int64)
    return starts, place + size * element.count


def _too_many(element: _Element, room: int) -> str:
    return (
        f"it states {element.count} rows of `{element.name}`, and the file has room for {room} at most: "
        "it is cut short or damaged"
    )
