"""Rows on the disk: what outlives a crash, a full disk and a second run, and what is refused."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")

from effvision.batch import ledger as module
from effvision.batch.ledger import Ledger
from effvision.batch.table import read_identity, read_rows
from effvision.errors import InputError, SourceError

IDENTITY = {
    "format": 1,
    "card": "cheap",
    "weights_sha256": "0",
    "family": "tests",
    "counts": "inputs",
    "columns": {"word": "string"},
    "options": {},
}


def row(path: str, word: str = "one", status: str = "ok") -> dict[str, Any]:
    return {"path": path, "status": status, "seconds": 0.5, "attempts": 1, "word": word, "card": "cheap"}


def write(out: Path, *rows: dict[str, Any], finish: bool = True) -> None:
    with Ledger(out) as ledger:
        ledger.begin(IDENTITY)
        for one in rows:
            ledger.add(one)
        if finish:
            assert ledger.finish() == len(ledger.states)


def paths(out: Path) -> list[str]:
    return [found["path"] for found in read_rows(out)]


def test_the_table_is_sorted_and_the_folder_beside_it_is_gone(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    write(out, row("c"), row("a"), row("b"))
    assert paths(out) == ["a", "b", "c"]
    assert os.listdir(tmp_path) == ["out.parquet"]
    assert read_identity(out) == IDENTITY


def test_rows_of_an_unfinished_run_are_there_for_the_next(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    write(out, row("b"), row("a", status="error"), finish=False)
    assert not out.exists()
    with Ledger(out) as ledger:
        assert ledger.states == {"a": "error", "b": "ok"} and ledger.begun
        ledger.begin(IDENTITY)
        ledger.add(row("a", "again"))
        ledger.finish()
    assert [(found["path"], found["status"], found["word"]) for found in read_rows(out)] == [
        ("a", "ok", "again"),
        ("b", "ok", "one"),
    ]


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_row_that_was_cut_off_is_no_row_and_costs_no_other(tmp_path: Path, cut: int) -> None:
    out = tmp_path / "out.parquet"
    write(out, row("a"), row("b"), finish=False)
    file = tmp_path / "out.parquet.parts" / "rows-000001.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    write(out, row("c"), finish=False)  # the next run writes to a file of its own
    with Ledger(out) as ledger:
        assert sorted(ledger.states) == ["a", "c"]


def test_a_table_is_added_to_and_its_rows_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    write(out, row("b"), row("d"))
    write(out, row("a"), row("d", "new"), row("c"))
    assert [(found["path"], found["word"]) for found in read_rows(out)] == [
        ("a", "one"),
        ("b", "one"),
        ("c", "one"),
        ("d", "new"),
    ]


def test_a_crash_between_the_table_and_the_folder_costs_and_doubles_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "_remove", lambda self: None)
        write(out, row("a"), row("b"))
    assert (tmp_path / "out.parquet.parts" / "run.json").exists()
    with Ledger(out) as ledger:
        assert sorted(ledger.states) == ["a", "b"]
        assert ledger.finish() == 2
    assert paths(out) == ["a", "b"] and os.listdir(tmp_path) == ["out.parquet"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"card": "dear"}, "another card: cheap, not dear"),
        ({"weights_sha256": "1"}, "another set of weights: 0, not 1"),
        ({"columns": {"word": "int64"}}, "another column"),
        ({"options": {"every": 3}}, r"another option: \{\}, not \{\"every\": 3\}"),
    ],
)
@pytest.mark.parametrize("finish", [True, False])
def test_rows_of_another_run_are_refused_and_stay(tmp_path: Path, changed: Any, said: str, finish: bool) -> None:
    out = tmp_path / "out.parquet"
    write(out, row("a"), finish=finish)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock"}
    with pytest.raises(InputError, match=f"(?s){said}.*hint: .*nothing was changed"), Ledger(out) as ledger:
        ledger.begin({**IDENTITY, **changed})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock"} == before


def test_an_output_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    text, table = tmp_path / "text.parquet", tmp_path / "table.parquet"
    text.write_text("mine")
    pyarrow.parquet.write_table(pyarrow.table({"path": ["a"]}), table)
    for path, said in ((text, "no Parquet file that can be read"), (table, "was not written by `effvision map`")):
        before = path.read_bytes()
        with pytest.raises(InputError, match=f"{said}.*\nhint: give another --out"), Ledger(path):
            pass
        assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["table.parquet", "text.parquet"]


def test_two_runs_on_one_output_are_kept_apart(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    with Ledger(out) as ledger:
        ledger.begin(IDENTITY)
        ledger.add(row("a"))
        with pytest.raises(SourceError, match=rf"another run is writing .*out\.parquet now: process {os.getpid()} on "):
            Ledger(out).__enter__()
        ledger.add(row("b"))
        ledger.finish()
    assert paths(out) == ["a", "b"]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": 2}'])
def test_what_cannot_be_read_stays_as_it_is(tmp_path: Path, text: str) -> None:
    out = tmp_path / "out.parquet"
    write(out, row("a"), finish=False)
    folder = tmp_path / "out.parquet.parts"
    (folder / "run.json").write_text(text)
    before = (folder / "rows-000001.jsonl").read_bytes()
    with pytest.raises((InputError, SourceError), match=r"hint: .*nothing was changed"):
        Ledger(out).__enter__()
    assert (folder / "rows-000001.jsonl").read_bytes() == before and (folder / "run.json").read_text() == text
    (folder / "run.json").unlink()
    with pytest.raises(SourceError, match=r"run\.json is missing"):
        Ledger(out).__enter__()
    assert (folder / "rows-000001.jsonl").read_bytes() == before


def test_a_run_that_ends_leaves_the_next_one_alone(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    with Ledger(out) as first:
        first.begin(IDENTITY)
        first.add(row("a"))
        first.finish()
        second = Ledger(out).__enter__()  # before the first has let go of everything
    with pytest.raises(SourceError, match="another run is writing"):
        Ledger(out).__enter__()
    second.begin(IDENTITY)
    second.add(row("b"))
    second.finish()
    second.__exit__()
    assert paths(out) == ["a", "b"] and os.listdir(tmp_path) == ["out.parquet"]


def test_a_run_that_was_cut_off_before_its_first_row_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    write(out, finish=False)
    assert os.listdir(tmp_path) == []


def test_a_disk_that_runs_full_in_the_middle_of_a_row_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, written = tmp_path / "out.parquet", os.write
    room = [250]

    def write_some(file: int, data: Any) -> int:
        """As a full disk does: a part of it, then nothing."""
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = written(file, bytes(data)[: room[0]])
        room[0] -= done
        return done

    with Ledger(out) as ledger:
        ledger.begin(IDENTITY)
        monkeypatch.setattr(module.os, "write", write_some)
        with pytest.raises(SourceError, match=r"No space left on device; 2 rows are safe in .*parts\nhint: make room"):
            any(ledger.add(row(name)) for name in "abcd")  # type: ignore[func-returns-value]
        monkeypatch.undo()
    write(out, row("c"), row("d"))
    assert paths(out) == ["a", "b", "c", "d"]


def test_a_disk_that_is_full_when_the_table_is_written_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet

    out = tmp_path / "out.parquet"
    write(out, row("a"))
    before = out.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(pyarrow.parquet.ParquetWriter, "write_table", full)
        with pytest.raises(SourceError, match=r"out\.parquet: No space left on device; 1 rows are safe in .*parts"):
            write(out, row("b"))
    assert out.read_bytes() == before and sorted(os.listdir(tmp_path)) == ["out.parquet", "out.parquet.parts"]
    with Ledger(out) as ledger:
        assert ledger.begun and ledger.finish() == 2
    assert paths(out) == ["a", "b"]


def test_a_folder_that_is_missing_is_named_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"there is no folder .*none\nhint: mkdir -p"):
        Ledger(tmp_path / "none" / "out.parquet").__enter__()
    assert os.listdir(tmp_path) == []


def test_many_rows_are_written_in_groups_and_none_is_held(tmp_path: Path) -> None:
    import pyarrow.parquet

    out = tmp_path / "out.parquet"
    write(out, *(row(f"{number:05}") for number in range(2500)))
    write(out, *(row(f"{number:05}x") for number in range(50)))
    assert pyarrow.parquet.ParquetFile(out).num_row_groups == 3
    found = paths(out)
    assert found == sorted(found) and len(set(found)) == 2550


def test_a_run_that_ended_while_this_one_came_in_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table appears, and the lock is free, after it was looked for."""
    out, locked = tmp_path / "out.parquet", module._locked

    def late(folder: Path) -> int:
        monkeypatch.setattr(module, "_locked", locked)
        write(out, row("a"))
        folder.mkdir(exist_ok=True)
        return locked(folder)

    monkeypatch.setattr(module, "_locked", late)
    with Ledger(out) as ledger:
        assert ledger.states == {"a": "ok"} and ledger.identity == IDENTITY
        with pytest.raises(InputError, match="another card"):
            ledger.begin({**IDENTITY, "card": "dear"})
    assert paths(out) == ["a"] and os.listdir(tmp_path) == ["out.parquet"]


def test_what_a_kill_left_half_written_goes_with_the_next_run(tmp_path: Path) -> None:
    out, others = tmp_path / "out.parquet", tmp_path / ".out.mine.parquet"
    write(out, row("a"), finish=False)
    half = tmp_path / ".out.0123abcd.parquet", tmp_path / "out.parquet.parts" / ".run.0123abcd.json"
    for path in (*half, others):
        path.write_text("{")
    write(out, row("b"))
    assert paths(out) == ["a", "b"] and sorted(os.listdir(tmp_path)) == [others.name, "out.parquet"]


def test_a_folder_of_somebody_else_is_left_as_it_is(tmp_path: Path) -> None:
    out, folder = tmp_path / "out.parquet", tmp_path / "out.parquet.parts"
    folder.mkdir()
    for name in ("rows-mine.jsonl", "notes.txt"):
        (folder / name).write_text("mine")
    with pytest.raises(SourceError, match=r"not of `effvision map`: .*\nhint: .*nothing was changed"):
        Ledger(out).__enter__()
    assert sorted(path.name for path in folder.iterdir() if path.name != "lock") == ["notes.txt", "rows-mine.jsonl"]
