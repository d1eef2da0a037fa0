"""The vertices of OFF and OBJ files; faces are skipped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effvision.errors import SourceError
from effvision.sources.cloud_columns import Table
from effvision.sources.cloud_text import number_table, text_lines

__all__ = ["OFF_HEAD", "is_obj", "read_obj", "read_off"]

OFF_HEAD = re.compile(rb"\s*(?:#[^\n]*\n\s*)*(ST)?(C)?(N)?(4)?(n)?OFF(?=[\s\d]|$)")
"""How an OFF file begins; ModelNet writes the counts right behind it, without a space."""

_OBJ_WORDS = ("v", "vn", "vt", "vp", "f", "l", "p", "o", "g", "s", "mtllib", "usemtl", "mg")
_DEEPEST = 200  # lines looked at before a file is judged


def read_off(path: Path, data: bytes) -> Table:
    """Return the vertices of an OFF file: x, y, z; `normal` of NOFF, `rgb` of COFF.

    Raises:
        SourceError: a binary or four-dimensional OFF, counts that the file has no room for, or fewer vertices than stated.
    """
    try:
        return _off(data)
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from error


def _off(data: bytes) -> Table:
    head = OFF_HEAD.match(data)
    if head is None:
        raise SourceError("it does not begin as an OFF file")
    has_texture, has_colour, has_normal, four, dimensions = (part is not None for part in head.groups())
    if four or dimensions or has_texture:
        raise SourceError(f"{head[0].decode('latin-1').split()[-1]} is read nowhere here\nhint: save it as plain OFF")
    if data[head.end() : head.end() + 20].split()[:1] == [b"BINARY"]:
        raise SourceError("it is a binary OFF file\nhint: save it as text, or as PLY")
    lines = text_lines(data, head.end())
    count = _off_count(lines)
    least = 6 * count - 1  # three digits, three separators
    if least > len(data) - head.end():
        raise SourceError(
            f"it states {count} vertices, and has room for {len(data) // 6} at most: it is cut short or damaged"
        )
    width = 3 + 3 * has_normal + 3 * has_colour
    if data.find(b"#", head.end()) >= 0:
        lines = (line.partition("#")[0] for line in lines)
    values = number_table(lines, rows=count, columns=range(width))
    if len(values) < count:
        raise SourceError(f"it states {count} vertices and holds {len(values)}: it is cut short")
    table: Table = {"xyz": values[:, :3]}
    if has_normal:
        table["normal"] = values[:, 3:6]
    if has_colour:
        table["rgb"] = values[:, -3:]
    return table


def _off_count(lines: Iterator[str]) -> int:
    """Return the number of vertices; the counts of faces and edges, which follow, may be missing."""
    for line in lines:
        words = line.partition("#")[0].split()
        if not words:
            continue
        if not all(word.isascii() and word.isdigit() and len(word) < 19 for word in words) or len(words) > 3:
            break
        return int(words[0])
    raise SourceError("behind `OFF` there are no counts of vertices, faces and edges")


def is_obj(data: bytes) -> bool:
    """Whether text begins as an OBJ file: comments, then a word of it."""
    for line, _ in zip(text_lines(data[:65536]), range(_DEEPEST), strict=False):
        words = line.split()
        if words and not words[0].startswith("#"):
            return words[0] in _OBJ_WORDS and len(words) > 1
    return False


def read_obj(path: Path, data: bytes) -> Table:
    """Return the vertices (`v` lines) of an OBJ file: x, y, z, and `rgb` where three or four more numbers hold a colour.

    A fourth number is a weight and is left out. Normals belong to faces, not to vertices, and are left out too.

    Raises:
        SourceError: there is no vertex, or a vertex that is none.
    """
    try:
        values = number_table(line[2:] for line in text_lines(data) if line.startswith(("v ", "v\t")))
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from error
    if not len(values):
        raise SourceError(f"{path} has no vertices: no line begins with `v`")
    return _obj_table(path, values)


def _obj_table(path: Path, values: NDArray[np.float64]) -> Table:
    width = values.shape[1]
    if width not in (3, 4, 6, 7):
        raise SourceError(
            f"{path}: a vertex is x y z, with a weight or a colour behind; its vertices have {width} numbers"
        )
    return {"xyz": values[:, :3], **({"rgb": values[:, -3:]} if width >= 6 else {})}
