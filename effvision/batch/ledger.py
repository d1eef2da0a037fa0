"""What is done, on the disk as soon as it is done: rows of an unfinished run beside the output, the output whole at the end.

    results.parquet.parts/
        lock                held by the run at work
        run.json            what all rows share
        rows-000001.jsonl   a row a line, as they came; a file for each start of the run

A line that was cut off by a crash is no row: its file is done again. An earlier file of rows is never written to. The table is
made from all of them, and from the finished table there was before, at the very end; only then does the folder go.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from effvision._files import appearing
from effvision.batch.table import read_identity, read_rows, read_states, write_rows
from effvision.errors import InputError, SourceError

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows: two runs on one output are not kept apart there
    fcntl = None  # type: ignore[assignment]
_CAN_LOCK: bool = fcntl is not None

__all__ = ["FORMAT", "Ledger"]

FORMAT = 1
_OPEN = 100  # files of rows read at once: a run may have been cut off more often than files can be open
_SYNC_S = 1.0  # a crash of the machine, not of the program, costs the rows of so many seconds
_SAME = ("card", "weights_sha256", "counts", "columns", "options")
_ALREADY = "as this run has it"
_CUT_OFF = re.compile(r"\.run\.[0-9a-f]{8}\.json")  # what a run left that was killed while it wrote `run.json`


class Ledger:
    """The rows of one output; a context that holds its lock.

    Attributes:
        out: The table to be.
        folder: Where rows are kept until then.
        identity: What all rows share; None before the first run has said it.
        states: `ok` or `error` for every path that has a row.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out.with_name(f"{out.name}.parts")
        self.identity: dict[str, Any] | None = None
        self.states: dict[str, str] = {}
        self._places: dict[str, tuple[int, int, int]] = {}  # path: (file of rows, byte it begins at, bytes)
        self._segments: list[Path] = []
        self._lock: int | None = None
        self._file: int | None = None
        self._end = 0
        self._synced_s = 0.0
        self._dirty = self._removed = False

    def __enter__(self) -> Ledger:
        """Take the lock and read what there is.

        Raises:
            SourceError: another run holds it, or the folder cannot be made or read.
            InputError: the output is something else.
        """
        if not self.out.parent.is_dir():
            raise SourceError(
                f"cannot write {self.out}: there is no folder {self.out.parent}\nhint: mkdir -p {self.out.parent}"
            )
        before = (
            read_identity(self.out) if self.out.exists() else None
        )  # before anything is made beside what is not ours
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock = _locked(self.folder)
            _sync_folder(self.out.parent)
        except OSError as error:
            if self._lock is not None:
                os.close(self._lock)
            raise _unwritable(self.folder, error) from error
        try:
            if self.out.exists():  # the run that had the lock may have finished it meanwhile
                before = read_identity(self.out)
            self._read(before)
        except BaseException:
            self._let_go()  # and leave what could not be read as it is
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self.sync()
            os.close(self._file)
            self._file = None
        if not self._places and not self._removed:  # nothing is there that the table has not: leave nothing
            self._remove()
        self._let_go()

    def _let_go(self) -> None:
        if set(os.listdir(self.folder) if self.folder.is_dir() and not self._removed else ()) == {"lock"}:
            self._remove()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def begun(self) -> bool:
        """Whether there are rows that are not in the table yet."""
        return bool(self._places)

    @property
    def _safe(self) -> str:
        return f"; {len(self._places)} rows are safe in {self.folder}"

    def check(self, **known: Any) -> None:
        """Compare what is known so far with what the rows there have.

        Raises:
            InputError: they differ; nothing was changed.
        """
        held = self.identity
        if held is None:
            return
        for name in (name for name in _SAME if name in known):
            if known[name] == held.get(name):
                continue
            where = f"the unfinished run in {self.folder}" if (self.folder / "run.json").exists() else str(self.out)
            what = {"weights_sha256": "weights", "counts": "kind of input"}.get(name, name)
            raise InputError(
                f"{where} has rows of another {what.removesuffix('s') if what != 'weights' else 'set of weights'}: "
                f"{_shown(held.get(name))}, not {_shown(known[name])} {_ALREADY}\n"
                "hint: one table has rows of one model with one set of options: give another --out; nothing was changed"
            )

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Open a new file of rows for a run whose rows share `identity`.

        Raises:
            InputError: rows of another model or other options are there.
            SourceError: the folder cannot be written to.
        """
        given = json.loads(json.dumps(identity))
        self.check(**given)
        self.identity = self.identity or given
        try:
            if not (self.folder / "run.json").exists():
                with appearing(self.folder / "run.json") as temporary, temporary.open("w", encoding="utf-8") as file:
                    file.write(json.dumps(self.identity) + "\n")
                    file.flush()
                    os.fsync(file.fileno())  # rows nobody can say the model of could not be gone on with
            number = 1 + max((_number(path) for path in self._segments), default=0)
            path = self.folder / f"rows-{number:06d}.jsonl"
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
            self._segments.append(path)
            self._end = 0
            _sync_folder(self.folder)
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    def add(self, row: Mapping[str, Any]) -> None:
        """Write a row; after this it outlives the program, and after `sync` the machine.

        Raises:
            SourceError: it cannot be written; the rows before it are safe.
        """
        if self._file is None:
            raise SourceError(f"no run has begun in {self.folder}")
        line = json.dumps(row).encode() + b"\n"
        try:
            _write(self._file, line)
        except OSError as error:
            raise _unwritable(self.folder, error, safe=self._safe) from error
        self._places[row["path"]] = (len(self._segments) - 1, self._end, len(line))
        self.states[row["path"]] = row["status"]
        self._end += len(line)
        self._dirty = True
        self.sync_if_due()

    def sync_if_due(self) -> bool:
        """Call `sync` once a second at most; return whether it was due."""
        due = time.monotonic() - self._synced_s > _SYNC_S
        if due:
            self.sync()
        return due

    def sync(self) -> None:
        """Have what was written on the disk itself.

        Raises:
            SourceError: it could not be; some systems find only now that the disk is full.
        """
        self._synced_s = time.monotonic()
        if self._file is None or not self._dirty:
            return
        try:
            os.fsync(self._file)
        except OSError as error:
            raise _unwritable(self.folder, error, safe=self._safe) from error
        self._dirty = False

    def finish(self) -> int:
        """Write the table, sorted by path, then remove the folder; return how many rows it has.

        Raises:
            SourceError: it cannot be written; every row stays where it is, and the same command goes on from there.
        """
        if self.identity is None:
            raise SourceError(f"no run has begun in {self.folder}")
        self.sync()
        self._remove_cut_off()
        try:
            written = write_rows(self.out, self.identity, self._rows())
            _sync_folder(self.out.parent)
        except OSError as error:
            raise _unwritable(self.out, error, safe=self._safe) from error
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._remove()
        self._places, self._segments = {}, []
        return written

    # -- reading -----------------------------------------------------------------------------------------------------------

    def _read(self, before: dict[str, Any] | None) -> None:
        if before is not None:
            _check_format(before, self.out)
            self.identity, self.states = before, read_states(self.out)
        described = self.folder / "run.json"
        try:
            self._segments = sorted(self.folder.glob("rows-*.jsonl"), key=_number)
            if described.exists():
                found = json.loads(described.read_text("utf-8"))
                _check_format(found, self.folder)
                if before is not None:
                    self.check(**{name: found.get(name) for name in _SAME})
                self.identity = found
            elif self._segments and before is None:
                raise ValueError("run.json is missing")
            for number, path in enumerate(self._segments):
                for place, length, row in _lines(path):
                    self._places[row["path"]] = (number, place, length)
                    self.states[row["path"]] = row["status"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise SourceError(
                f"{self.folder} is damaged or not of `effvision map`: {error}\n"
                "hint: give another --out, or move that folder away; nothing was changed"
            ) from error

    def _rows(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Every row once, sorted by path; what is in the files of rows is newer than what is in the table."""
        return heapq.merge(self._old_rows(), self._new_rows(), key=lambda pair: str(pair[0]["path"]))

    def _old_rows(self) -> Iterator[tuple[dict[str, Any], int]]:
        if self.out.exists():
            for row in read_rows(self.out):
                if row["path"] not in self._places:
                    yield row, len(repr(row))

    def _new_rows(self) -> Iterator[tuple[dict[str, Any], int]]:
        files: dict[int, IO[bytes]] = {}
        with contextlib.ExitStack() as stack:
            for path in sorted(self._places):
                number, place, length = self._places[path]
                if number not in files:
                    if len(files) >= _OPEN:
                        stack.pop_all().close()
                        files.clear()
                    files[number] = stack.enter_context(self._segments[number].open("rb"))
                files[number].seek(place)
                yield json.loads(files[number].read(length)), length

    def _remove_cut_off(self) -> None:
        """Remove what a run left that was killed while it wrote the table, which may be most of what the disk has room for."""
        begun = re.compile(rf"\.{re.escape(self.out.stem[:200])}\.[0-9a-f]{{8}}{re.escape(self.out.suffix)}")
        for name in os.listdir(self.out.parent):
            if begun.fullmatch(name):
                with contextlib.suppress(OSError):
                    (self.out.parent / name).unlink()

    def _remove(self) -> None:
        """Remove the folder, what it says of itself last: whenever this is cut off, what is left can be read.

        Once only: with the folder the lock goes, and the next of that name is another run's.
        """
        self._removed = True
        cut_off = [path for path in self.folder.glob(".run.*.json") if _CUT_OFF.fullmatch(path.name)]
        rows = sorted(self.folder.glob("rows-*.jsonl"))
        for path in (*rows, *cut_off, self.folder / "run.json", self.folder / "lock"):
            with contextlib.suppress(OSError):
                path.unlink()
        with contextlib.suppress(OSError):
            self.folder.rmdir()


def _check_format(found: Mapping[str, Any], where: Path) -> None:
    if found["format"] != FORMAT:
        raise InputError(
            f"{where} has format {found['format']}; this version of effvision reads {FORMAT}\n"
            "hint: use the version that wrote it, or give another --out; nothing was changed"
        )


def _number(path: Path) -> int:
    return int(path.stem.partition("-")[2])


def _lines(path: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield (byte it begins at, bytes, row); what was cut off or damaged is left out."""
    place = 0
    with path.open("rb") as file:
        for line in _whole_lines(file):
            try:
                row = json.loads(line)
                if isinstance(row, dict) and isinstance(row["path"], str) and row["status"] in ("ok", "error"):
                    yield place, len(line), row
            except (ValueError, KeyError):
                pass
            place += len(line)


def _whole_lines(file: IO[bytes]) -> Iterator[bytes]:
    for line in file:
        if line.endswith(b"\n"):
            yield line


def _write(file: int, data: bytes) -> None:
    """Write all of it: a disk that runs full takes a part first."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _locked(folder: Path) -> int:
    """Take the lock or say who has it."""
    path = folder / "lock"
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if _CAN_LOCK:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                os.ftruncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                return handle
        except BlockingIOError:
            holder = os.read(handle, 200).decode("utf-8", "replace").strip()
            os.close(handle)
            raise SourceError(
                f"another run is writing {folder.with_suffix('')} now: {holder or 'a process elsewhere'}\n"
                "hint: wait for it to end, or give another --out"
            ) from None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # the run that held it removed the folder meanwhile
        folder.mkdir(exist_ok=True)


def _unwritable(path: Path, error: OSError, *, safe: str = "") -> SourceError:
    reason = str(error) if isinstance(error, SourceError) else f"cannot write {path}: {error.strerror or error}"
    return SourceError(f"{reason}{safe}\nhint: make room or mend the cause, then the same command goes on from there")


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
