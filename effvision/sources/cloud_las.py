"""LAS and LAZ files through laspy (extra `las`), imported when the first one is opened."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np

from effvision._optional import require
from effvision.errors import SourceError
from effvision.sources.cloud_columns import Table

__all__ = ["read_las"]

_CHUNK = 1_000_000  # points decoded at once
_MOST_GROWTH = 1000  # of LAZ: real tiles stay below 30
_RAW = ("X", "Y", "Z")
_NAMES = {"classification": "label", "number_of_returns": "num_returns"}


def read_las(path: Path, data: bytes) -> Table:
    """Return the dimensions of a LAS or LAZ file: coordinates scaled to metres, `label` from the classification (ASPRS codes).

    `red green blue` become `rgb`; `intensity`, `return_number`, `num_returns` and every other dimension keep what they hold.

    Raises:
        MissingDependencyError: laspy, or for LAZ its decoder, is not installed.
        SourceError: the header states more points than the file holds, or the file is damaged.
    """
    _check_header(path, data)
    laspy = require("laspy", extra="las")
    chunks: dict[str, list[Any]] = {}
    try:
        with laspy.open(io.BytesIO(data)) as reader:
            stated = int(reader.header.point_count)
            names = [name for name in reader.header.point_format.dimension_names if name not in _RAW]
            for points in reader.chunk_iterator(_CHUNK):
                for axis in "xyz":
                    chunks.setdefault(axis, []).append(np.asarray(getattr(points, axis), np.float64))
                for name in names:
                    chunks.setdefault(_NAMES.get(name, name), []).append(np.array(points[name]))
    except Exception as error:  # laspy and its decoders raise what they like on damaged files
        if "laz" in str(error).lower() and "backend" in str(error).lower():
            require("lazrs", extra="las")
        raise SourceError(f"{path} could not be read as LAS: {type(error).__name__}: {str(error)[:200]}") from error
    table = {name: np.concatenate(parts) for name, parts in chunks.items()}
    found = len(table.get("x", ()))
    if found < stated:
        raise SourceError(f"{path} states {stated} points and holds {found}: it is cut short")
    return table


def _check_header(path: Path, data: bytes) -> None:
    """Compare what the header counts with the size of the file (LAS 1.4 specification, sections 2.4, 2.5 and 2.7).

    laspy goes through as many variable length records as are stated, be it four thousand million.
    """
    if len(data) < 227:
        raise SourceError(f"{path} is shorter than a LAS header ({len(data)} bytes): it is cut short")
    minor, header_size = data[25], struct.unpack_from("<H", data, 94)[0]
    start, records, form, row, count = struct.unpack_from("<IIBHI", data, 96)
    late_start, late_records = len(data), 0
    if minor >= 4 and header_size >= 375 and len(data) >= 375:
        late_start, late_records, stated = struct.unpack_from("<QIQ", data, 235)
        count = stated or count
    room = len(data) - start
    if form & 0x80:  # compressed
        room *= _MOST_GROWTH
        _check_chunks(path, data, start, count)
    if header_size < 227 or header_size > len(data) or room < 0 or count * max(row, 20) > room:
        raise SourceError(
            f"{path} states {count} points of {row} bytes, and holds {len(data)} bytes in all: it is cut short or damaged"
        )
    if records * 54 > len(data) - header_size or (late_records and late_records * 60 > len(data) - late_start):
        raise SourceError(
            f"{path} states {max(records, late_records)} records beside its points, which it has no room for: it is damaged"
        )


def _check_chunks(path: Path, data: bytes, start: int, count: int) -> None:
    """Compare how many chunks LAZ's table counts with the size of the file: its decoder ends the process where memory does not
    reach for the number it is told.

    The points begin with the place of the table (int64; -1: it stands in the last eight bytes), which begins with its version
    and its length (uint32 each).
    """
    place = -1
    if start + 8 <= len(data):
        place = struct.unpack_from("<q", data, start)[0]
        if place == -1:
            place = struct.unpack_from("<q", data, len(data) - 8)[0]
    if not start + 8 <= place <= len(data) - 8:
        raise SourceError(f"{path} lacks the table of its compressed parts: it is cut short or damaged")
    chunks = struct.unpack_from("<I", data, place + 4)[0]
    if chunks > min(count + 1, len(data)):
        raise SourceError(f"{path} states {chunks} compressed parts for {count} points: it is damaged")
