"""The wheel: what is in it, what it puts at the top of site-packages, and that it works away from the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import effvision
from environments import clean_environment

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))
SETUPTOOLS: dict[str, Any] = PROJECT["tool"]["setuptools"]
MAPPED = ("demos", "models", "weights")
PROGRAMS = "effvision/export/kit_files"  # Python that is data: what an exported kit is made of


def folders() -> dict[str, str]:
    """Every package by its dotted name, with its folder in the repository; the links are not followed."""
    found = {}
    for home, package in {"effvision": "effvision", **{name: f"effvision.{name}" for name in MAPPED}}.items():
        for marker in (REPOSITORY / home).rglob("__init__.py"):
            inner = marker.parent.relative_to(REPOSITORY / home).parts
            if not any(parent.is_symlink() for parent in marker.parents):
                found[".".join((package, *inner))] = "/".join((home, *inner))
    return found


def copy_of_the_tree(target: Path, *, links: bool) -> Path:
    """Copy what a build needs, with or without the links inside effvision/."""
    target.mkdir()
    for name in ("effvision", "tests", *MAPPED):
        hidden = shutil.ignore_patterns("__pycache__", *([] if links or name != "effvision" else MAPPED))
        shutil.copytree(REPOSITORY / name, target / name, symlinks=True, ignore=hidden)
    for path in REPOSITORY.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, target)
    return target


def build(tree: Path, target: Path, *, sdist: bool = False) -> Path:
    """Build with the tools of this environment, without a network; return the file."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), str(tree)]
    run([*command, "--sdist" if sdist else "--wheel"])
    (built,) = target.glob("*.tar.gz" if sdist else "*.whl")
    return built


def run(command: list[str], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a command that has to succeed; return what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=env)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a tree without the links."""
    folder = tmp_path_factory.mktemp("wheel")
    return build(copy_of_the_tree(folder / "tree", links=False), folder / "dist")


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as file:
        return [name for name in file.namelist() if not name.endswith("/")]


# --- the lists written by hand ----------------------------------------------------------------------------------------


def test_the_packages_listed_are_the_folders_there_are() -> None:
    assert sorted(SETUPTOOLS["packages"]) == sorted(folders()), "mend [tool.setuptools] packages in pyproject.toml"


def test_the_folders_listed_are_where_the_packages_lie() -> None:
    mapped = {
        name: folder for name, folder in folders().items() if name.split(".")[1:2] and folder.split("/")[0] in MAPPED
    }
    assert SETUPTOOLS["package-dir"] == {"effvision": "effvision", **mapped}


def test_every_family_takes_its_cards_and_its_readme_along() -> None:
    for name in folders():
        if name.count(".") == 2 and name.startswith("effvision.models."):
            assert {"*.toml", "README.md"} <= set(SETUPTOOLS["package-data"][name]), name


def test_the_links_lead_to_the_folders() -> None:
    for name in MAPPED:
        link = REPOSITORY / "effvision" / name
        if link.is_symlink():  # a source distribution has none
            assert os.readlink(link) == f"../{name}"


def test_what_the_makefile_installs_is_pinned() -> None:
    pinned = {
        Requirement(line).name.lower()
        for line in (REPOSITORY / "constraints.txt").read_text("utf-8").splitlines()
        if line and not line.startswith("#")
    }
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *extras["torch"], *extras["onnx"], *extras["demo"], *extras["dev"]]
    assert {Requirement(line).name.lower() for line in wanted} <= pinned


def test_a_pin_satisfies_the_range_it_pins() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    ranges = [Requirement(line) for group in (PROJECT["project"]["dependencies"], *extras.values()) for line in group]
    for line in (REPOSITORY / "constraints.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            (version,) = (item.version for item in pin.specifier)
            for wanted in ranges:
                if wanted.name.lower() == pin.name.lower():
                    assert wanted.specifier.contains(version), f"{wanted} does not admit {pin}"


def test_all_holds_every_extra_a_user_may_want() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    assert Requirement(extras["all"][0]).extras == set(extras) - {"all", "dev"}


# --- the wheel --------------------------------------------------------------------------------------------------------


def test_the_wheel_holds_every_file_once_and_nothing_beside_effvision(wheel: Path) -> None:
    names = names_in(wheel)
    assert {name.split("/")[0] for name in names} == {"effvision", f"effvision-{effvision.__version__}.dist-info"}
    assert [name for name, count in Counter(names).items() if count > 1] == []
    modules = {
        f"{name.replace('.', '/')}/{path.name}"
        for name, folder in folders().items()
        for path in (REPOSITORY / folder).glob("*.py")
    }
    modules |= {f"{PROGRAMS}/{path.name}" for path in (REPOSITORY / PROGRAMS).glob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules


def test_the_wheel_takes_cards_weights_licence_and_types_along(wheel: Path) -> None:
    names = set(names_in(wheel))
    wanted = {"effvision/py.typed", f"effvision-{effvision.__version__}.dist-info/licenses/LICENSE"}
    for folder, patterns in {
        "demos": ["page/*"],
        "effvision": ["export/kit_files/*", "export/*.json"],
        "models": ["*/cards.toml", "*/README.md"],
        "weights": ["*.safetensors", "*.onnx", "index.toml", "README.md"],
    }.items():
        for pattern in patterns:
            paths = (REPOSITORY / folder).glob(pattern)
            below = (path.relative_to(REPOSITORY).as_posix().removeprefix("effvision/") for path in paths)
            wanted |= {f"effvision/{name}" for name in below if "__pycache__" not in name}
    assert wanted <= names


def test_the_links_change_nothing_in_the_wheel(wheel: Path, tmp_path: Path) -> None:
    linked = build(copy_of_the_tree(tmp_path / "tree", links=True), tmp_path / "dist")
    assert sorted(names_in(linked)) == sorted(names_in(wheel))


def test_the_source_distribution_holds_every_module_once(tmp_path: Path) -> None:
    built = build(copy_of_the_tree(tmp_path / "tree", links=True), tmp_path / "dist", sdist=True)
    with tarfile.open(built) as file:
        names = [member.name.partition("/")[2] for member in file.getmembers() if not member.isdir()]
    modules = [
        name for name in names if name.endswith(".py") and not name.startswith(("tests/", "benchmarks/", "setup"))
    ]
    homes = [*folders().values(), PROGRAMS]
    expected = [f"{folder}/{path.name}" for folder in homes for path in (REPOSITORY / folder).glob("*.py")]
    assert sorted(modules) == sorted(expected)
    assert {"LICENSE", "Makefile", "constraints.txt", "pyproject.toml", "tests/conftest.py"} <= set(names)


# --- installed --------------------------------------------------------------------------------------------------------


def environment(folder: Path, wheel: Path, needs: list[str]) -> Path:
    """Make a clean environment with the wheel installed by pip; return its Python."""
    python = clean_environment(folder, needs)
    packages = Path(run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
    before = set(packages.iterdir())
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "install", "--quiet"]
    run([*pip, "--no-deps", "--no-index", str(wheel)])
    added = {path.name for path in set(packages.iterdir()) - before}
    assert added == {"effvision", f"effvision-{effvision.__version__}.dist-info"}
    return python


def clean_variables(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "VIRTUAL"))}
    return {**kept, "EFFVISION_CACHE": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}


BASE = PROJECT["project"]["dependencies"]
CARD = "tsm-mobilenetv2-motion"


@pytest.fixture(scope="module")
def without_torch(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with what `make demo` installs, and pytest."""
    needs = [*BASE, "onnxruntime", "pytest", "pytest-timeout", "hypothesis", "pillow"]
    return environment(tmp_path_factory.mktemp("bare") / "venv", wheel, needs)


def test_nothing_but_effvision_can_be_imported(without_torch: Path, tmp_path: Path) -> None:
    program = (
        "import importlib.util as u, effvision, effvision.models, effvision.weights\n"
        "print([name for name in ('torch', 'onnx', 'models', 'weights', 'demos', 'tests') if u.find_spec(name)])\n"
        "print(effvision.__file__, effvision.models.__file__, effvision.weights.__file__, sep='\\n')"
    )
    said = run([str(without_torch), "-c", program], cwd=tmp_path, env=clean_variables(tmp_path)).splitlines()
    assert said[0] == "[]"
    assert all(Path(path).is_relative_to(without_torch.parents[1]) for path in said[1:])


def test_the_installed_command_labels_a_clip_without_torch(without_torch: Path, tmp_path: Path) -> None:
    env = clean_variables(tmp_path)
    command = str(without_torch.with_name("effvision"))
    assert CARD in run([command, "list"], cwd=tmp_path, env=env)
    run([command, "sample", CARD, "--out", "sample.mp4"], cwd=tmp_path, env=env)
    run([command, "run", CARD, "sample.mp4", "--save", "labelled.mp4"], cwd=tmp_path, env=env)
    assert (tmp_path / "labelled.mp4").stat().st_size > 0


@pytest.mark.slow
def test_the_zoo_passes_on_the_installed_wheel(without_torch: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tests"
    folder.mkdir()
    for name in ("conftest.py", "test_zoo.py"):
        shutil.copy(REPOSITORY / "tests" / name, folder)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)  # the settings of pytest
    command = [str(without_torch), "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    said = run(command, cwd=tmp_path, env=clean_variables(tmp_path))
    assert re.search(r"\d+ passed", said), said


@pytest.mark.slow
def test_the_installed_command_exports_and_runs_what_it_exported(wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", wheel, [*BASE, "torch", "onnxruntime", "onnx", "onnxscript"])
    env = clean_variables(tmp_path)
    command = str(python.with_name("effvision"))
    run([command, "export", CARD, "--out", "exported.onnx"], cwd=tmp_path, env=env)
    run([command, "sample", CARD, "--out", "sample.mp4"], cwd=tmp_path, env=env)
    assert run([command, "run", "exported.onnx", "sample.mp4", "--json"], cwd=tmp_path, env=env)
