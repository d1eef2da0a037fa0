"""A model over many files: one row for each, whatever happens to the files and to the workers."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")

from effvision import __version__
from effvision.batch import map_files
from effvision.batch.table import read_identity, read_rows
from effvision.cli import main
from effvision.errors import EffvisionError, InputError, MissingDependencyError, RuntimeFailure, SourceError

CHEAP = "map_models:cheap"
ENGINES = ["local", pytest.param("ray", marks=pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed"))]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make small files by name and content; the working folder is theirs."""
    monkeypatch.chdir(tmp_path)

    def make(**contents: str) -> Path:
        (tmp_path / "in").mkdir(exist_ok=True)
        for name, content in contents.items():
            (tmp_path / "in" / f"{name}.txt").write_text(content)
        return tmp_path / "out.parquet"

    return make


def rows(out: Path) -> dict[str, dict[str, Any]]:
    found = list(read_rows(out))
    assert len({row["path"] for row in found}) == len(found)
    return {Path(row["path"]).stem: row for row in found}


def run(out: Path, **settings: Any) -> Any:
    return map_files(settings.pop("model", CHEAP), "in/*.txt", out, **{"workers": 1, "threads": 1, **settings})


@pytest.mark.parametrize("engine", ENGINES)
def test_every_file_has_one_row_whatever_happened_to_it(files: Any, tmp_path: Path, engine: Any) -> None:
    once = tmp_path / "died"
    contents = {
        "bad": "bad",
        "busy": "busy 1.6",  # longer than the stall, but it gets on
        "die": "die",
        "fine": "ok 3",
        "hang": "hang",
        "misfit": "misfit",
        "odd": "odd",
        "once": f"die once {once}",
    }
    out = files(**contents)
    told: list[str] = []
    report = run(
        out,
        engine=engine,
        workers=2,
        stall_s=1.4 if engine == "local" else 2.5,
        on_row=lambda row: told.append(row["path"]),
    )
    found = rows(out)
    assert sorted(found) == sorted(contents) and sorted(told) == [f"in/{name}.txt" for name in sorted(contents)]
    assert {name for name, row in found.items() if row["status"] == "ok"} == {"busy", "fine", "once"}
    assert report.to_dict() == {"out": str(out), "files": 8, "already": 0, "done": 8, "errors": 5, "rows": 8}
    kinds = {name: row["error_type"] for name, row in found.items()}
    assert kinds["bad"] == "InputError" and kinds["odd"] == "ZeroDivisionError" and kinds["misfit"] == "InputError"
    assert found["bad"]["error"] == "in/bad.txt is bad\nhint: give another"  # by the name the user gave
    assert "does not fit the table's columns" in found["misfit"]["error"]
    assert kinds["hang"] == "TimedOut" and "nothing came of it for" in found["hang"]["error"]
    assert kinds["die"] == "WorkerDied" and found["die"]["attempts"] == found["once"]["attempts"] == 2
    assert engine == "ray" or "signal SIGKILL" in found["die"]["error"]
    fine = found["fine"]
    assert fine["inputs"] == 3 and fine["word"] == "ok" and fine["values"] == [0.5, None]
    assert fine["nested"] == [{"name": "in/fine.txt", "number": 3}] and 0 <= fine["seconds"] < 5
    assert (fine["card"], fine["weights_sha256"], fine["effvision"]) == ("cheap", "0" * 64, __version__)
    assert all(found["die"][name] is None for name in ("word", "values", "nested", "saved", "inputs"))


def test_a_file_that_takes_too_long_is_ended_though_it_gets_on(files: Any) -> None:
    out = files(a="busy 60", b="ok 1")
    run(out, timeout_s=0.5)
    found = rows(out)
    assert found["a"]["error_type"] == "TimedOut" and "longer than 0.5 s" in found["a"]["error"]
    assert found["b"]["status"] == "ok"


def test_a_finished_table_is_added_to_and_errors_are_done_again_when_asked(files: Any, tmp_path: Path) -> None:
    out = files(a="ok 1", b="bad")
    assert run(out).errors == 1
    before = out.read_bytes()
    report = run(out, model="map_models:broken")  # nothing to do: nothing is loaded
    assert (report.already, report.done, report.errors) == (2, 0, 1) and out.read_bytes() == before
    files(b="ok 2", c="ok 3")
    assert (run(out).done, rows(out)["b"]["status"]) == (1, "error")
    report = run(out, retry_errors=True)
    assert (report.already, report.done, report.errors) == (2, 1, 0)
    assert {name: row["inputs"] for name, row in rows(out).items()} == {"a": 1, "b": 2, "c": 3}
    assert os.listdir(tmp_path) == ["in", "out.parquet"] or sorted(os.listdir(tmp_path)) == ["in", "out.parquet"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": "map_models:renewed"}, "another set of weights"),
        ({"model": "map_models:other"}, "another column"),
        ({"options": {"option": 2}}, "another option"),
        ({"model": "tsm-mobilenetv2-motion"}, "another card: cheap, not tsm-mobilenetv2-motion"),
    ],
)
def test_a_table_takes_no_rows_of_another_model_or_other_options(
    files: Any, settings: dict[str, Any], said: str
) -> None:
    out = files(a="ok 1")
    run(out)
    before = out.read_bytes()
    files(b="ok 1")
    with pytest.raises(InputError, match=f"{said}.*\nhint: .* give another --out"):
        run(out, **settings)
    assert out.read_bytes() == before and not out.with_name("out.parquet.parts").exists()


def test_full_answers_are_saved_beside_the_table(files: Any, tmp_path: Path) -> None:
    out = files(a="ok 1", b="bad")
    run(out, save_dir="answers")
    found = rows(out)
    assert (found["a"]["saved"], found["b"]["saved"]) == ("answers/in/a.txt.txt", None)
    assert (tmp_path / found["a"]["saved"]).read_text() == "ok"
    with pytest.raises(InputError, match=r"are not saved as \.npz; it saves as \.txt"):
        run(tmp_path / "second.parquet", save_dir="answers", save_as=".npz")
    report = map_files(CHEAP, "**/*.txt", tmp_path / "third.parquet", save_dir="answers", workers=1)
    assert report.files == 2  # not what was saved


def test_a_folder_for_answers_that_cannot_be_one_is_said_once_and_no_error_of_every_file(
    files: Any, tmp_path: Path
) -> None:
    out = files(a="ok 1", b="ok 1")
    (tmp_path / "answers").write_text("a file")
    with pytest.raises(SourceError, match=r"cannot write to the folder answers: .*\nhint: give another --save-dir"):
        run(out, save_dir="answers")
    assert sorted(os.listdir(tmp_path)) == ["answers", "in"]


def test_a_disk_that_is_full_where_answers_are_saved_is_no_fault_of_the_file(files: Any) -> None:
    out = files(a="ok 1", b="full", c="ok 1")
    with pytest.raises(SourceError, match=r"answers/in/b\.txt\.txt could not be written: cannot be written"):
        run(out, save_dir="answers")
    files(b="ok 1")
    assert run(out, save_dir="answers").already == 1
    assert {row["status"] for row in rows(out).values()} == {"ok"}


@pytest.mark.parametrize(
    ("settings", "kind", "said"),
    [
        ({"model": "map_models:broken"}, RuntimeFailure, "a worker died while it loaded the model .signal SIGKILL"),
        ({"model": "map_models:none"}, InputError, "map_models:none is no function that makes a model"),
        ({"options": {"box": 1}}, InputError, "cheap takes no option box; it takes: option"),
        ({"options": {"option": -1}}, InputError, "`option` must be 0 or more; got -1"),
        ({"model": "no-such-card"}, LookupError, "there is no card and no file named 'no-such-card'"),
        ({"workers": 0}, InputError, "`workers` must be 1 to 1024; got 0"),
        ({"stall_s": 0}, InputError, "`stall_s` must be seconds above 0; got 0"),
        ({"timeout_s": float("nan")}, InputError, "`timeout_s` must be seconds above 0"),
        ({"engine": "spark"}, InputError, "`engine` must be 'local' or 'ray'; got 'spark'"),
        ({"address": "auto"}, InputError, "`address` is that of a Ray cluster"),
        ({"save_as": ".npz"}, InputError, "`save_as` is the suffix of what is written to `save_dir`"),
    ],
)
def test_what_cannot_work_is_said_at_once_and_leaves_nothing(
    files: Any, tmp_path: Path, settings: dict[str, Any], kind: type[EffvisionError], said: str
) -> None:
    out = files(a="ok 1")
    with pytest.raises(kind, match=said) as error:
        run(out, **settings)
    assert isinstance(error.value, EffvisionError)
    assert os.listdir(tmp_path) == ["in"]


def test_without_files_nothing_is_loaded(files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effvision.batch.mapping._crew", lambda *_: pytest.fail("a worker was started"))
    with pytest.raises(InputError, match=r"'in/\*\.mp4' finds no file"):
        map_files(CHEAP, "in/*.mp4", files(a="ok 1"))
    with pytest.raises(InputError, match=r"got 'table\.csv'\nhint: --out .*table\.parquet"):
        map_files(CHEAP, "in/*.txt", tmp_path / "table.csv")
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize(("name", "extra"), [("pyarrow", "batch"), ("ray", "scale")])
def test_what_is_missing_is_named_with_the_line_that_installs_it(
    files: Any, monkeypatch: pytest.MonkeyPatch, name: str, extra: str
) -> None:
    for module in ("pyarrow.parquet", name):
        monkeypatch.setitem(sys.modules, module, None)
    if name == "ray":
        monkeypatch.delitem(sys.modules, "pyarrow.parquet")
    with pytest.raises(MissingDependencyError, match=rf"hint: pip install 'effvision\[{extra}\]'"):
        run(files(a="ok 1"), engine="ray")


def test_the_model_stays_out_of_the_process_that_asks(files: Any) -> None:
    out = files(a="ok 1")
    program = (
        "import sys; from effvision.batch import map_files; "
        f"map_files({CHEAP!r}, 'in/*.txt', {str(out)!r}, workers=1); "
        "print(sorted({'torch', 'onnxruntime', 'cv2', 'map_models'} & set(sys.modules)))"
    )  # no `if __name__` around it either
    paths = os.pathsep.join([str(Path(__file__).parents[1] / "kit"), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    assert read_identity(out)["family"] == "tests"


# --- the command line ---------------------------------------------------------------------------------------------------


def command(*words: object) -> int:
    return main(["map", CHEAP, "--inputs", "in/*.txt", "--out", "out.parquet", "--workers", "1", *map(str, words)])


def test_the_command_counts_errors_and_fails_only_when_strict_or_when_all_failed(
    files: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    files(a="ok 1", b="bad")
    assert command() == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "effvision: in/b.txt is bad" in told.err
    assert "wrote out.parquet: 2 files, 1 with an error, 2 rows" in told.err
    assert command("--strict") == 1
    assert "2 of 2 files have a row already" in capsys.readouterr().err
    files(a="bad")
    Path("out.parquet").unlink()
    assert command() == 1


def test_with_json_every_row_is_a_line_and_the_last_says_what_was_done(
    files: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    files(a="ok 1", b="bad")
    assert command("--json") == 0
    *lines, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["path"]: line["status"] for line in lines} == {"in/a.txt": "ok", "in/b.txt": "error"}
    assert lines[0]["nested"] == [{"name": "in/a.txt", "number": 1}]
    assert (last["files"], last["errors"], last["out"]) == (2, 1, "out.parquet")


def test_a_terminal_without_the_letters_of_a_name_does_not_end_the_run(
    files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    files(ä="ok 1")
    printed = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", printed)
    assert command("--json") == 0
    line = json.loads(printed.buffer.getvalue().splitlines()[0])  # type: ignore[attr-defined]
    assert (line["path"], line["status"]) == ("in/ä.txt", "ok")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(files: Any, number: int) -> None:
    out = files(a="ok 1", b="slow 60")
    words = ["-m", "effvision", "map", CHEAP, "--inputs", "in/*.txt", "--out", str(out), "--workers", "1", "--json"]
    paths = os.pathsep.join([str(Path(__file__).parents[1] / "kit"), *sys.path])
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, *words], env={**os.environ, "PYTHONPATH": paths}, **pipes) as process:
        assert json.loads(process.stdout.readline())["path"] == "in/a.txt"
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in told
    assert "stopped: 1 of 2 files are done and kept in" in told and "hint: the same command goes on from there" in told
    files(b="ok 2")
    assert run(out).already == 1
