"""The table: its columns, and Parquet files in and out. pyarrow is imported at first use.

Every table has these columns, then those of the answer (`effvision.answers.Answers.columns`), then three more:

    path            string    the file as it was given, relative or absolute; each is there once
    status          string    `ok` or `error`
    error_type      string    its kind: a class of `effvision.errors` or of Python, `TimedOut`, `WorkerDied`; else null
    error           string    what it says; else null
    seconds         float64   reading and answering, wall clock
    attempts        int64     1, or 2 where the first worker died
    frames | points int64     how many were read, in a file with an error before it; null where that is not known
    saved           string    the file written for it with --save-dir; else null
    ...
    card            string    the card, or the file that was used as a model
    weights_sha256  string    of the weights; null where they have none
    effvision       string    the version

Columns of the answer are null in a row with an error. What all rows share, the options of the run among it, is JSON in the
file's metadata under `effvision`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from effvision._files import appearing
from effvision._optional import require
from effvision.errors import InputError
from effvision.results import Columns

__all__ = [
    "COMMON",
    "TAIL",
    "all_columns",
    "fits",
    "read_identity",
    "read_rows",
    "read_states",
    "require_arrow",
    "write_rows",
]

COMMON: Columns = {
    "path": "string",
    "status": "string",
    "error_type": "string",
    "error": "string",
    "seconds": "float64",
    "attempts": "int64",
}
TAIL: Columns = {"card": "string", "weights_sha256": "string", "effvision": "string"}
_KEY = b"effvision"
_ROWS = 1000  # of a row group, or as many as make so many bytes of JSON
_BYTES = 8_000_000


def require_arrow() -> None:
    """Say now what would be missing at the end.

    Raises:
        MissingDependencyError: pyarrow is not installed.
    """
    require("pyarrow.parquet", extra="batch")


def all_columns(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return every column of a table by name, in order."""
    counted = {str(identity["counts"]): "int64", "saved": "string"}
    return {**COMMON, **counted, **identity["columns"], **TAIL}


def _schema(identity: Mapping[str, Any]) -> Any:
    arrow = require("pyarrow", extra="batch")
    made = arrow.schema([(name, _kind(arrow, kind)) for name, kind in all_columns(identity).items()])
    return made.with_metadata({_KEY: json.dumps(identity).encode()})


def _kind(arrow: Any, kind: Any) -> Any:
    if isinstance(kind, str):
        kinds = {name: getattr(arrow, name) for name in ("string", "int64", "float32", "float64")}
        return {**kinds, "bool": arrow.bool_}[kind]()
    if isinstance(kind, (list, tuple)):
        return arrow.list_(_kind(arrow, kind[0]))
    return arrow.struct([(name, _kind(arrow, inner)) for name, inner in kind.items()])


def fits(identity: Mapping[str, Any]) -> Any:
    """Return a function that says why a row does not fit the table, or None."""
    arrow = require("pyarrow", extra="batch")
    schema = _schema(identity)

    def why_not(row: Mapping[str, Any]) -> str | None:
        if unknown := sorted(set(row) - set(schema.names)):
            return f"it has {', '.join(unknown)}, which is no column"
        try:
            arrow.RecordBatch.from_pylist([dict(row)], schema=schema)
        except (arrow.ArrowException, TypeError, ValueError, OverflowError) as error:
            return str(error)
        return None

    return why_not


def read_identity(path: Path) -> dict[str, Any]:
    """Return what a finished table says all its rows share.

    Raises:
        InputError: it is no table of `effvision map`.
    """
    arrow = require("pyarrow", extra="batch")
    parquet = require("pyarrow.parquet", extra="batch")
    try:
        text = (parquet.read_schema(path).metadata or {}).get(_KEY)
        found = json.loads(text or "null")
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path} is there and is no Parquet file that can be read ({error})\n{_OTHER}") from error
    if not isinstance(found, dict) or "columns" not in found:
        raise InputError(f"{path} is there and was not written by `effvision map`\n{_OTHER}")
    return found


_OTHER = "hint: give another --out; nothing was changed"


def read_states(path: Path) -> dict[str, str]:
    """Return the status of every path in a finished table."""
    parquet = require("pyarrow.parquet", extra="batch")
    states: dict[str, str] = {}
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_ROWS, columns=["path", "status"]):
            states.update(zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True))
    return states


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a finished table, few in memory at once."""
    parquet = require("pyarrow.parquet", extra="batch")
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_ROWS):
            yield from batch.to_pylist()


def write_rows(path: Path, identity: Mapping[str, Any], rows: Iterable[tuple[dict[str, Any], int]]) -> int:
    """Write rows, each with its bytes as JSON or so; the file appears whole and on the disk. Return how many they were.

    Raises:
        SourceError: it cannot be written, for example because the disk is full; what was there before is unchanged.
    """
    arrow = require("pyarrow", extra="batch")
    parquet = require("pyarrow.parquet", extra="batch")
    schema = _schema(identity)
    written = 0
    with appearing(path) as temporary:
        with parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for group in _groups(rows):
                writer.write_table(arrow.Table.from_pylist(group, schema=schema))
                written += len(group)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
    return written


def _groups(rows: Iterable[tuple[dict[str, Any], int]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    size = 0
    for row, length in rows:
        group.append(row)
        size += length
        if len(group) >= _ROWS or size >= _BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
