"""Habits of the code that no linter holds."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
LONGEST_FILE = 400  # lines that are not blank
LONGEST_FUNCTION = 60

# What is longer all the same, with the reason: "file" or "file:function".
LONGER: dict[str, str] = {}


def sources() -> list[Path]:
    """Every file of the package, read where it lies and not through the links."""
    roots = [REPOSITORY / name for name in ("effvision", "models", "demos", "weights")]
    links = {entry for root in roots for entry in root.iterdir() if entry.is_symlink()}
    return sorted(path for root in roots for path in root.rglob("*.py") if links.isdisjoint(path.parents))


SOURCES = {path.relative_to(REPOSITORY).as_posix(): path for path in sources()}
TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in SOURCES.items()}


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def top_level_names(tree: ast.Module) -> set[str]:
    """Names a module binds at its top, imports included."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {(item.asname or item.name).partition(".")[0] for item in node.names}
    return found


def public_names(tree: ast.Module) -> list[str] | None:
    """The value of `__all__`, or None."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            names = ast.literal_eval(node.value)
            assert isinstance(names, list)
            return names
    return None


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_module_says_what_is_public(name: str) -> None:
    if name.endswith(("__init__.py", "__main__.py")) and public_names(TREES[name]) is None:
        return
    names = public_names(TREES[name])
    assert names is not None, "give the module an `__all__`"
    if name != "effvision/__init__.py":  # its names are loaded when they are first used
        assert set(names) <= top_level_names(TREES[name])


def test_files_and_functions_are_short_enough_to_hold_in_mind() -> None:
    lines = {
        name: [line for line in path.read_text("utf-8").splitlines() if line.strip()] for name, path in SOURCES.items()
    }
    long = {name for name, written in lines.items() if len(written) > LONGEST_FILE}
    for name, tree in TREES.items():
        for function in functions(tree):
            if (function.end_lineno or 0) - function.lineno >= LONGEST_FUNCTION:
                long.add(f"{name}:{function.name}")
    assert long <= set(LONGER), "split it, or give the reason in LONGER"


def narrows(test: ast.expr) -> bool:
    """Whether an assertion only tells the type checker what is known: `isinstance(...)`, `x is not None`, `x is None`."""
    if isinstance(test, ast.BoolOp):
        return all(narrows(value) for value in test.values)
    if isinstance(test, ast.Compare):
        return isinstance(test.ops[0], (ast.Is, ast.IsNot)) and ast.unparse(test.comparators[0]) == "None"
    return isinstance(test, ast.Call) and ast.unparse(test.func) == "isinstance"


def test_nothing_is_checked_by_assert() -> None:
    """`python -O` removes assertions, and a user's mistake deserves one of our errors; telling mypy a type is fine."""
    wrong = [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert) and not narrows(node.test)
    ]
    assert wrong == []


def test_no_pickle_is_loaded() -> None:
    """`torch.load` names `weights_only=True`, `numpy.load` names `allow_pickle=False`, and nothing imports pickle."""
    wrong = []
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                modules = [item.name for item in node.names] + [getattr(node, "module", "") or ""]
                if {"pickle", "dill", "joblib", "cloudpickle"} & set(modules):
                    wrong.append(f"{name}:{node.lineno}")
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load"):
                given = {item.arg: ast.unparse(item.value) for item in node.keywords}
                needed = ("weights_only", "True") if "torch" in ast.unparse(node.func) else ("allow_pickle", "False")
                if given.get(needed[0]) != needed[1]:
                    wrong.append(f"{name}:{node.lineno}: needs {needed[0]}={needed[1]}")
    assert wrong == []


def test_what_is_raised_has_a_kind() -> None:
    """`raise Exception` and its like cannot be caught on purpose."""
    bare = ("Exception", "BaseException", "RuntimeError")
    wrong = [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and ast.unparse(node.exc.func) in bare
    ]
    assert wrong == []
