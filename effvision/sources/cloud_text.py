"""Tables of numbers in text: `.txt .xyz .csv .pts` and their like, and what other text formats share.

Text is read as Latin-1, in which every byte is a character, so that a stray one is a bad number and no crash.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effvision.errors import SourceError
from effvision.sources.cloud_columns import MOST_COLUMNS, SKIP, Columns, Table, named_of

__all__ = ["number_table", "read_text", "text_lines"]

_COMMENTS = ("#", "//", "%")
_BOM = b"\xef\xbb\xbf"
_PTS = {4: ("x", "y", "z", "intensity"), 7: ("x", "y", "z", "intensity", "red", "green", "blue")}
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)(e[-+]?\d+)?|[-+]?(nan|inf|infinity)", re.IGNORECASE)
_LONGEST_LINE = 65_536


def text_lines(data: bytes, start: int = 0, *, skip: int = 0) -> Iterator[str]:
    """Yield the lines of `data` from byte `start` on, the first `skip` that are not blank left out."""
    stream = io.BytesIO(data)
    stream.seek(start)
    lines = io.TextIOWrapper(stream, "latin-1")
    for _ in range(skip):
        if not any(line.strip() for line in iter(lines.readline, "")):
            break
    yield from iter(lines)


def number_table(
    lines: Iterator[str],
    *,
    columns: Sequence[int] | None = None,
    rows: int | None = None,
    delimiter: str | None = None,
    comment: str | None = None,
) -> NDArray[np.float64]:
    """Return the numbers of text as (rows, columns) float64; fewer rows than asked for where the text ends.

    Args:
        lines: The text.
        columns: Which columns to read; the lines may then differ in how many more they have. Default: all.
        rows: How many to read at most.
        delimiter: What parts the columns. Default: any white space.
        comment: The character that begins a comment.

    Raises:
        SourceError: a line holds something else, or another number of columns than the first.
    """
    width = len(columns) if columns is not None else 0
    lines = filter(str.strip, lines)  # blank lines: numpy warns where rows are counted
    first = next((line for line in lines if not (comment and line.lstrip().startswith(comment))), None)
    if first is None or rows == 0:
        return np.empty((0, width))
    try:
        return np.loadtxt(
            itertools.chain([first], lines),
            dtype=np.float64,
            comments=comment,
            delimiter=delimiter,
            usecols=columns,
            max_rows=rows,
            ndmin=2,
        )
    except (ValueError, IndexError) as error:
        raise SourceError(f"it is no table of numbers: {str(error)[:300]}") from error


def read_text(path: Path, data: bytes, columns: Columns = None) -> Table:
    """Return a text table as columns, named by `columns`, its header line, or the rule of `named`.

    Columns are parted by semicolons, commas or white space, told from the first row. Lines that begin with `#`, `//` or `%` are
    comments; the last one in front of the numbers may name the columns, as a plain first line may. A first line with a single
    number is the count of a `.pts` file, in which intensity and colours follow the coordinates.

    Raises:
        SourceError: it is no table of numbers.
        InputError: columns without names that no rule fits.
    """
    if b"\0" in data[:4096]:
        raise SourceError(f"{path} holds bytes that are no text: binary, or text in UTF-16\nhint: save it as UTF-8")
    lines = text_lines(data, len(_BOM) if data.startswith(_BOM) else 0)
    try:
        header, first, is_pts = _head(lines)
        delimiter = next((mark for mark in (";", ",") if mark in first), None)
        width = len(_split(first, delimiter))
        if width > MOST_COLUMNS:
            raise SourceError(f"its rows have {width} columns: no cloud")
        trailing = first.rstrip().endswith(delimiter) if delimiter else False
        values = number_table(
            itertools.chain([first], lines),
            columns=range(width) if trailing else None,
            delimiter=delimiter,
            comment="#",
        )
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from error
    if columns is None and is_pts:
        columns = _PTS.get(width)
    if columns is None and header is not None:
        if len(header) != width:
            raise SourceError(
                f"{path}: its header names {len(header)} columns ({', '.join(header)[:80]}), and its rows have {width}\n"
                "hint: name them all in the header, or with `columns=`"
            )
        return {key: values[:, index] for index, key in enumerate(header) if key != SKIP}
    return named_of(path, values, columns)


def _head(lines: Iterator[str]) -> tuple[list[str] | None, str, bool]:
    """Return the names of the columns if a line gives them, the first row, and whether a count stood in front of it."""
    header: list[str] | None = None
    counted = False
    for line in itertools.islice(lines, 10_000):
        if len(line) > _LONGEST_LINE:
            raise SourceError(f"it is text with a line of {len(line):,} characters: no table of points")
        text = line.strip()
        if not text:
            continue
        is_comment = text.startswith(_COMMENTS)
        text = text.lstrip("#/%") if is_comment else text.partition("#")[0]
        words = _split(text, next((mark for mark in (";", ",") if mark in text), None))
        if is_comment or not all(_NUMBER.fullmatch(word) for word in words):
            names = [word.strip("\"'") for word in words]
            if {"x", "y", "z"} <= {name.lower() for name in names} and len(set(names)) == len(names):
                header = names
            elif not is_comment:
                raise SourceError(
                    f"it is text, but no table of numbers: {text[:60]!r}\n"
                    "hint: one point a line, `x y z ...`; a header line names the columns, x, y and z among them"
                )
            continue
        if len(words) == 1 and words[0].isdigit() and not counted and header is None:
            counted, alone = True, line
            continue
        return header, line, counted
    if counted:
        return header, alone, False  # a file of one number
    raise SourceError("it is text without a row of numbers")


def _split(text: str, delimiter: str | None) -> list[str]:
    words = [word.strip() for word in text.strip().split(delimiter)]
    return words[:-1] if len(words) > 1 and not words[-1] else words
