"""kill -9 at random moments: the same command ends in exactly one row a file, and nothing that had a row is done again."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")

from effvision.batch.table import read_rows
from waiting import wait_until

KIT = Path(__file__).parents[1] / "kit"
FILES = 100


def begin(folder: Path, engine: str) -> subprocess.Popen[bytes]:
    """Start the command in a process group of its own."""
    words = ["map", "map_models:cheap", "--inputs", "in/*.txt", "--out", "out.parquet", "--engine", engine, "--json"]
    with (folder / "told").open("ab") as told:
        return subprocess.Popen(
            [sys.executable, "-m", "effvision", *words, "--workers", "2", "--threads", "1"],
            cwd=folder,
            stdout=told,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(KIT), *sys.path])},
        )


def done(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (folder / "out.parquet.parts").glob("rows-*.jsonl"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine",
    ["local", pytest.param("ray", marks=pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed"))],
)
def test_a_run_that_is_killed_again_and_again_ends_in_one_row_a_file(tmp_path: Path, engine: str) -> None:
    kills = int(os.environ.get("EFFVISION_KILLS", "4"))
    rng = random.Random(kills)
    (tmp_path / "in").mkdir()
    for number in range(FILES):
        content = {17: "bad", 39: "die"}.get(number, f"slow {rng.uniform(0, 0.04):.3f}")
        (tmp_path / "in" / f"{number:03}.txt").write_text(content)
    for kill in range(kills):
        before, process = done(tmp_path), begin(tmp_path, engine)
        wanted = min(FILES - 2, before + rng.randint(1, max(1, (FILES - before) // (kills - kill))))
        wait_until(lambda wanted=wanted, process=process: done(tmp_path) >= wanted or process.poll() is not None)
        time.sleep(rng.uniform(0, 0.05))
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"
    assert begin(tmp_path, engine).wait() == 0
    found = list(read_rows(tmp_path / "out.parquet"))
    assert [row["path"] for row in found] == [f"in/{number:03}.txt" for number in range(FILES)]
    assert {row["path"]: row["error_type"] for row in found if row["status"] == "error"} == {
        "in/017.txt": "InputError",
        "in/039.txt": "WorkerDied",
    }
    told = Counter(re.findall(rb'^\{"path": "([^"]+)"', (tmp_path / "told").read_bytes(), re.MULTILINE))
    assert len(told) > FILES // 2 and max(told.values()) == 1  # a row that was told was never made again
    assert sorted(os.listdir(tmp_path)) == ["in", "out.parquet", "told"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_workers_do_not_outlive_the_process_that_started_them(tmp_path: Path) -> None:
    """Only the parent is killed, and one worker hangs."""
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        (tmp_path / "in" / f"{name}.txt").write_text("hang")
    process = begin(tmp_path, "local")
    wait_until(lambda: len(members(process.pid)) == 3)
    wait_until(lambda: (tmp_path / "out.parquet.parts" / "rows-000001.jsonl").exists())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: not members(process.pid))


def members(group: int) -> list[int]:
    """The living processes of a group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found
