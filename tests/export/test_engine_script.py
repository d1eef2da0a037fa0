"""`build_engine.sh`: which options each TensorRT gets, and what happens when something is missing or fails."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "effvision" / "export" / "kit_files" / "build_engine.sh"
SHELLS = [shell for shell in ("dash", "bash") if shutil.which(shell)]
pytestmark = pytest.mark.skipif(not SHELLS, reason="no POSIX shell here: build_engine.sh was not run")

FAKE = """#!/bin/sh
echo '&&&& RUNNING TensorRT.trtexec [TensorRT {version}]{build} # trtexec '"$*"
case "$1" in --help) echo '=== Model Options ==='; exit 0 ;; esac
printf '%s\\n' "$@" > "$ARGUMENTS"
for argument in "$@"; do
    case "$argument" in --saveEngine=*) {write} ;; esac
done
exit {code}
"""


class Board:
    """A folder with a kit's script and model, and places for a fake `trtexec` and a fake `dpkg-query`."""

    def __init__(self, folder: Path, made_for: str = "8.2") -> None:
        self.kit, self.bin, self.arguments = folder / "a kit", folder / "bin", folder / "arguments"
        self.kit.mkdir()
        self.bin.mkdir()
        (self.kit / "model.onnx").write_bytes(b"onnx")
        self.script = self.kit / "build_engine.sh"
        text = SCRIPT.read_text("utf-8").replace("@TENSORRT@", made_for).replace("@PRECISION@", "fp32")
        self.script.write_text(text, "utf-8")

    def install(
        self, version: str, *, build: str = "", place: Path | None = None, code: int = 0, write: str = "echo engine"
    ) -> None:
        there = (place or self.bin) / "trtexec"
        there.parent.mkdir(exist_ok=True, parents=True)
        written = f'{write} > "${{argument#--saveEngine=}}"' if write else ":"
        there.write_text(FAKE.format(version=version, build=build, code=code, write=written), "utf-8")
        there.chmod(0o755)

    def run(self, *arguments: str, shell: str = SHELLS[0] if SHELLS else "sh", **variables: str) -> Any:
        env = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "ARGUMENTS": str(self.arguments),
            "TRTEXEC_PLACES": str(self.bin.parent / "nowhere"),
            **variables,
        }
        command = [shutil.which(shell) or shell, str(self.script), *arguments]
        return subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, timeout=240)

    @property
    def asked(self) -> list[str]:
        """What trtexec was asked to build with, but for the temporary name."""
        lines = self.arguments.read_text("utf-8").splitlines()
        return [line for line in lines if not line.startswith("--saveEngine=")]


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


POOL = "--memPoolSize=workspace:512"
CASES = [
    # the version as trtexec prints it, what stands behind it, and what follows
    ("v8001", "", "8.0", ["--workspace=512", "--buildOnly"]),  # JetPack 4.6
    ("v8201", "", "8.2", ["--workspace=512", "--buildOnly"]),  # 4.6.1
    ("v8401", "", "8.4", [POOL, "--buildOnly"]),  # 5.0.2
    ("v8502", "", "8.5", [POOL, "--buildOnly"]),  # 5.1
    ("v8602", "", "8.6", [POOL, "--skipInference"]),  # 6.0
    ("v100300", " [b17]", "10.3", [POOL, "--skipInference"]),  # 6.2
    ("v101301", " [b9]", "10.13", [POOL, "--skipInference"]),
    ("v101600", " [b72]", "10.16", [POOL, "--skipInference"]),  # 7.2
]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("banner", "build", "version", "options"), CASES, ids=[case[0] for case in CASES])
def test_each_release_gets_its_own_options(
    board: Board, banner: str, build: str, version: str, options: list[str], shell: str
) -> None:
    board.install(banner, build=build)
    done = board.run(shell=shell)
    assert done.returncode == 0, done.stderr
    assert f"TensorRT {version} ({board.bin}/trtexec)" in done.stderr
    assert board.asked == ["--onnx=model.onnx", *options, "--timingCacheFile=timing.cache", "--fp16"]
    assert (board.kit / "model.engine").read_text() == "engine\n"
    assert "--verify golden.npz" in done.stderr
    assert (board.kit / "model.engine.from").read_text() == hashlib.sha256(b"onnx").hexdigest() + "\n"
    assert board.run("--fp32", "--workspace", "2048", shell=shell).returncode == 0
    assert "--fp16" not in board.asked and board.asked[1].endswith("2048")


@pytest.mark.parametrize("banner", ["v110400", "v11.1.0.106"])
def test_tensorrt_11_takes_the_precision_from_the_model(board: Board, banner: str) -> None:
    board.install(banner, build=" [b48]")
    done = board.run()
    assert done.returncode == 0, done.stderr
    assert board.asked == [
        "--onnx=model.onnx",
        POOL,
        "--skipInference",
        "--timingCacheFile=timing.cache",
        "--stronglyTyped",
    ]
    assert "takes the precision from the model, which is float32" in done.stderr
    assert board.run("--fp32").returncode == 0 and "--stronglyTyped" in board.asked


def test_a_newer_release_is_tried_with_a_warning(board: Board) -> None:
    board.install("v120000")
    done = board.run()
    assert done.returncode == 0 and "newer than this script" in done.stderr and "--stronglyTyped" in board.asked


@pytest.mark.parametrize(
    ("found", "warns"), [("v8201", True), ("v100200", True), ("v100300", False), ("v101600", False)]
)
def test_a_kit_for_a_newer_release_is_warned_of(tmp_path: Path, found: str, warns: bool) -> None:
    board = Board(tmp_path, made_for="10.3")
    board.install(found)
    done = board.run()
    assert done.returncode == 0
    assert ("this kit is for TensorRT 10.3 or newer" in done.stderr) == warns


def test_trtexec_is_found_outside_the_path_or_where_one_says(board: Board, tmp_path: Path) -> None:
    place = tmp_path / "usr" / "src" / "tensorrt" / "bin"
    board.install("v8602", place=place)
    assert f"({place}/trtexec)" in board.run(TRTEXEC_PLACES=f"/nowhere {place}").stderr
    assert f"({place}/trtexec)" in board.run(TRTEXEC=str(place / "trtexec")).stderr


def test_the_version_comes_from_the_package_where_the_banner_says_nothing(board: Board) -> None:
    board.install("")
    query = board.bin / "dpkg-query"
    query.write_text('#!/bin/sh\n[ "$4" = "" ] && echo 8.5.2-1+cuda11.4 || exit 1\n')
    query.chmod(0o755)
    done = board.run()
    assert done.returncode == 0 and "TensorRT 8.5 (" in done.stderr and "--buildOnly" in board.asked


@pytest.mark.parametrize(
    ("prepare", "arguments", "said"),
    [
        (lambda board: None, [], "there is no trtexec"),
        (lambda board: board.install("v7103"), [], "TensorRT 7.1 is too old"),
        (lambda board: board.install(""), [], "does not say which TensorRT"),
        (lambda board: (board.install("v8201"), (board.kit / "model.onnx").unlink()), [], "no model.onnx beside"),
        (lambda board: board.install("v8201"), ["--int8"], "unknown option --int8"),
        (lambda board: board.install("v8201"), ["--workspace"], "takes a number of MiB"),
        (lambda board: board.install("v8201"), ["--workspace", "1G"], "got '1G'"),
        (lambda board: board.install("v8201", code=1), [], "trtexec could not build"),
        (lambda board: board.install("v8201", write=""), [], "wrote no engine"),
    ],
)
def test_what_goes_wrong_is_said_and_the_engine_that_was_there_stays(
    board: Board, prepare: Any, arguments: list[str], said: str
) -> None:
    prepare(board)
    query = board.bin / "dpkg-query"  # nothing is installed
    query.write_text("#!/bin/sh\nexit 1\n")
    query.chmod(0o755)
    (board.kit / "model.engine").write_text("of yesterday")
    done = board.run(*arguments)
    assert done.returncode == 1 and "error: " in done.stderr and said in done.stderr
    assert (board.kit / "model.engine").read_text() == "of yesterday"
    assert not [path for path in board.kit.iterdir() if path.name.startswith(".")], "a part was left"


def test_a_failed_build_shows_the_end_of_its_log(board: Board) -> None:
    board.install("v8502", code=3)
    done = board.run()
    assert done.returncode == 1 and "&&&& RUNNING TensorRT.trtexec [TensorRT v8502]" in done.stderr
    assert (board.kit / "model.build.log").exists()


def test_print_builds_nothing_and_help_explains(board: Board) -> None:
    board.install("v100300")
    done = board.run("--print")
    assert done.returncode == 0 and "--memPoolSize=workspace:512 --skipInference" in done.stdout
    assert not board.arguments.exists() and not (board.kit / "model.engine").exists()
    assert "--workspace MIB" in board.run("--help").stdout


def test_several_models_get_an_engine_each(board: Board) -> None:
    board.install("v100300")
    for name in ("encoder", "decoder"):
        (board.kit / f"model-{name}.onnx").write_bytes(b"onnx")
    assert board.run().returncode == 0
    assert {path.name for path in board.kit.glob("*.engine")} == {
        "model.engine", "model-encoder.engine", "model-decoder.engine",
    }  # fmt: skip


def test_shellcheck_has_nothing_to_say() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed (apt-get install shellcheck): build_engine.sh was only run")
    done = subprocess.run(["shellcheck", "--severity=style", str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert os.access(SCRIPT, os.X_OK)
