"""Imports go one way, heavy libraries stay where they are used, and `import effvision` is quick."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

import effvision
from waiting import best_of_three

REPOSITORY = Path(__file__).resolve().parents[1]

# Left to right. A module may import from its own column and from those to its left, also inside functions. A name stands
# for a module or for a package with all that is in it.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("_optional", "_files"),
    ("clouds", "detections", "edits", "metadata", "results", "state", "tracks"),
    ("host", "ops"),
    (
        "export",
        "incremental",
        "metrics",
        "runtime",
        "sample_scenes",
        "sources",
        "training",
        "training_lidar",
        "training_lidar_run",
        "viz",
    ),
    ("answers", "cards", "checkpoints", "detectors", "loading", "many", "predictor", "scans", "session"),
    ("models", "weights"),
    (
        "__main__",
        "batch",
        "benchmark",
        "benchmark_edits",
        "cli",
        "demos",
        "doctor",
        "options",
        "running",
        "running_clouds",
        "running_edits",
        "running_map",
        "running_tracks",
    ),
)

# What goes against the order all the same: (importing module, imported module or package): reason. Only inside functions.
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("effvision.results", "effvision.viz"): "a result draws and saves itself when it is asked to",
    ("effvision.edits", "effvision.viz"): "likewise",
    ("effvision.tracks", "effvision.viz"): "likewise",
    ("effvision.results", "effvision.sources"): "a segmentation writes its cloud when it is asked to",
}

# Where torch may be imported at the top of a file; everywhere else it is imported where it is used.
TORCH_AT_TOP = (
    "effvision.ops.*",
    "effvision.training",
    "effvision.training_lidar_run",
    "effvision.incremental*",
    "effvision.export*",
    "effvision.runtime.torch",
    "effvision.models.*.network",
    "effvision.models.*.backbones",
    "effvision.models.*.nonlocal_block",
    "effvision.models.*.residuals",
    "effvision.models.*.time",
    "effvision.models.*.graphs",
    "effvision.models.*.assemble",
    "effvision.models.*.frustum",
    "effvision.models.*.fusing",
    "effvision.models.*.layers",
    "effvision.models.*.maps",
    "effvision.models.*.pix2pix",
    "effvision.models.*.scenes_network",
    "effvision.models.*.stages",
    "effvision.models.*.convert",
    "effvision.models.*.recipe*",
)

# Third-party packages and where they may be imported at the top of a file.
AT_TOP: dict[str, tuple[str, ...]] = {
    "numpy": ("*",),
    "safetensors": ("*",),
    "tomli": ("*",),
    "tqdm": ("*",),
    "torch": TORCH_AT_TOP,
    "onnx": ("effvision.export*",),
    "onnxscript": (),
    "onnxruntime": (),
    "cv2": (),
    "gradio": (),
    "laspy": (),
    "open3d": (),
    "PIL": (),
    "pyarrow": (),
    "ray": (),
    "tensorrt": (),
    "torchsparse": (),
    "trackers": (),
    "triton": ("effvision.ops.sparse_triton",),  # which nothing imports but where Triton was found
}
HEAVY = (
    "torch",
    "cv2",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "gradio",
    "open3d",
    "PIL",
    "pyarrow",
    "ray",
    "tensorrt",
    "torchsparse",
    "trackers",
    "triton",
)


@dataclass(frozen=True)
class Import:
    """One imported module, seen from the file that imports it."""

    module: str
    target: str
    names: tuple[str, ...]
    line: int
    inside_function: bool
    for_types_only: bool
    level: int

    def __str__(self) -> str:
        return f"{self.module}, line {self.line}: imports {self.target}"


def files() -> dict[str, Path]:
    """Every module of the package by its dotted name, read where it lies and not through the links."""
    homes = {"effvision": "effvision", "effvision.models": "models"}
    homes |= {"effvision.demos": "demos", "effvision.weights": "weights"}
    found = {}
    for package, folder in homes.items():
        home = REPOSITORY / folder
        links = {entry for entry in home.iterdir() if entry.is_symlink()}
        for path in home.rglob("*.py"):
            if links.isdisjoint(path.parents) and path.parent.name != "kit_files":  # data: programs for a board
                parts = path.relative_to(home).with_suffix("").parts
                found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


def imports_of(module: str, tree: ast.Module) -> Iterator[Import]:
    """Every import statement, with where it stands."""

    def walk(node: ast.AST, inside: bool, types: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            where = (child.lineno, inside, types) if isinstance(child, ast.stmt) else (0, inside, types)
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(module, alias.name, (), *where, 0)
            elif isinstance(child, ast.ImportFrom):
                yield Import(module, child.module or "", tuple(item.name for item in child.names), *where, child.level)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                yield from walk(child, inside, True)
            else:
                function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                yield from walk(child, inside or function, types)

    yield from walk(tree, False, False)


FILES = files()
IMPORTS = [found for module, path in FILES.items() for found in imports_of(module, ast.parse(path.read_text("utf-8")))]
OURS = [found for found in IMPORTS if found.target.partition(".")[0] == "effvision"]


def layer(module: str) -> int:
    """Return the column of a module, or say where to write it down."""
    name = module.split(".")[1]
    for index, names in enumerate(LAYERS):
        if name in names:
            return index
    pytest.fail(
        f"effvision.{name} stands in no column of LAYERS ({Path(__file__).name}): add it to the leftmost one whose modules "
        "import nothing that it needs to the right, and name it in CONTRIBUTING.md"
    )


def targets(found: Import) -> list[str]:
    """The modules an import of ours loads: `from effvision.runtime import onnx` means effvision.runtime.onnx."""
    inner = [f"{found.target}.{name}" for name in found.names if f"{found.target}.{name}" in FILES]
    return inner or [found.target]


def test_every_module_has_its_column() -> None:
    for module in FILES:
        if module != "effvision":
            layer(module)


def test_nothing_imports_to_its_right() -> None:
    wrong = []
    used = set()
    for found in OURS:
        if found.module == "effvision":
            continue
        for target in targets(found):
            if target == "effvision" or layer(target) <= layer(found.module):
                continue
            exception = next(
                (pair for pair in EXCEPTIONS if found.module == pair[0] and target.startswith(pair[1])), None
            )
            used.add(exception)
            if exception is None or not (found.inside_function or found.for_types_only):
                wrong.append(f"{found} (column {layer(found.module)} takes from column {layer(target)})")
    assert not wrong, "\n".join(["imports against the order of LAYERS:", *wrong])
    assert not set(EXCEPTIONS) - used, f"no longer needed, remove from EXCEPTIONS: {set(EXCEPTIONS) - used}"


def test_inside_the_package_only_the_version_comes_from_the_front_door() -> None:
    wrong = [str(found) for found in OURS if targets(found) == ["effvision"] and found.names != ("__version__",)]
    assert not wrong, "\n".join(["import the module a name lives in, not `effvision`:", *wrong])


def test_the_front_door_imports_nothing_of_ours_at_run_time() -> None:
    wrong = [str(found) for found in OURS if found.module == "effvision" and not found.for_types_only]
    assert not wrong, "\n".join(wrong)


def test_families_never_import_each_other() -> None:
    def family(module: str) -> str | None:
        parts = module.split(".")
        return parts[2] if len(parts) > 2 and parts[1] == "models" else None

    wrong = [
        str(found)
        for found in OURS
        for target in targets(found)
        if family(found.module) and family(target) and family(found.module) != family(target)
    ]
    assert not wrong, "\n".join(["what two families share belongs in effvision/ops or effvision/host:", *wrong])


def test_only_models_knows_a_family() -> None:
    free = ("effvision", "effvision.models", "effvision.demos", "effvision.batch")  # demos and batch may
    wrong = [
        str(found)
        for found in OURS
        for target in targets(found)
        if target.startswith("effvision.models.")
        and found.module != "effvision"
        and not found.module.startswith(free[1:])
    ]
    assert not wrong, "\n".join(["the SDK knows no family by name; ask effvision.cards:", *wrong])


def test_imports_are_absolute() -> None:
    wrong = [str(found) for found in IMPORTS if found.level]
    assert not wrong, "\n".join(["a relative import inside models/ can load a module twice:", *wrong])


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    wrong = []
    for found in IMPORTS:
        root = found.target.partition(".")[0]
        if root in sys.stdlib_module_names or root == "effvision" or found.inside_function or found.for_types_only:
            continue
        if root not in AT_TOP:
            wrong.append(f"{found}: an unknown package; add it to AT_TOP ({Path(__file__).name}) and to pyproject.toml")
        elif not any(fnmatch(found.module, pattern) for pattern in AT_TOP[root]):
            places = ", ".join(AT_TOP[root]) or "nowhere"
            wrong.append(f"{found} at the top of the file; allowed there: {places}. Import it inside the function")
    assert not wrong, "\n".join(wrong)


def loaded_by(statement: str, *, times: int = 1) -> tuple[float, set[str]]:
    """Run a statement in fresh interpreters; return its milliseconds, those of the best, and the heavy packages it loaded."""
    program = (
        "import sys, time; start = time.perf_counter()\n"
        f"{statement}\n"
        "spent = (time.perf_counter() - start) * 1e3\n"
        "import json; print(json.dumps([spent, sorted({name.partition('.')[0] for name in sys.modules})]))"
    )
    runs = []
    for _ in range(times):
        command = [sys.executable, "-W", "error", "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        runs.append(json.loads(done.stdout))
    return min(run[0] for run in runs), set(runs[0][1]) & set(HEAVY)


@pytest.mark.alone
def test_importing_the_package_is_quick_and_loads_nothing_heavy() -> None:
    def measure() -> None:
        spent_ms, heavy = loaded_by("import effvision", times=5)
        assert not heavy
        assert spent_ms < 150

    best_of_three(measure)


def test_a_predictor_class_is_there_without_a_heavy_library() -> None:
    _, heavy = loaded_by("from effvision import TSM, Session, list_cards; list_cards()")
    assert not heavy


def test_every_public_name_can_be_had() -> None:
    for name in effvision.__all__:
        assert getattr(effvision, name) is not None
    assert set(effvision.__all__) <= set(dir(effvision))


def test_the_three_lists_of_public_names_agree() -> None:
    for_types = {name: found.target for found in OURS if found.module == "effvision" for name in found.names}
    assert for_types == effvision._EXPORTS
    assert set(effvision.__all__) == {*effvision._EXPORTS, "__version__"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'TMS'"):
        effvision.TMS  # noqa: B018
