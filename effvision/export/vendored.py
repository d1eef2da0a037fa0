"""Modules of ours as a package of their own, for a folder that runs without this one: one source instead of a second program.

What a kit does to a cloud before and after the network is what `effvision.sources`, `effvision.host` and the family's NumPy
modules do. They go along with their imports, written for Python 3.8: without annotations, type aliases, types that a class is
made for, and `zip(strict=)`.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from effvision.errors import ExportError

__all__ = ["vendored"]

_OURS = "effvision"
_HEADER = (
    "# Part of a kit: written by effvision (Apache-2.0) from its module {name}, without annotations. Do not edit.\n"
)
_TYPING = '''"""What annotations of ours name, for a NumPy without `numpy.typing`."""


class NDArray:
    def __class_getitem__(cls, item):
        return cls


ArrayLike = object
'''


def vendored(names: Mapping[str, str], package: str) -> dict[str, str]:
    """Return the files of a package that holds modules of ours and all of ours that they import.

    Args:
        names: What the package offers, and the module of ours that has it: `open_cloud`, `effvision.sources.clouds`. None
            of them may need PyTorch.
        package: What to call the package; `effvision.sources.clouds` becomes `PACKAGE.sources.clouds`.

    Returns:
        Relative path -> text.

    Raises:
        ExportError: a module that Python 3.8 could not read.
    """
    lines = [f"from {package}{module[len(_OURS) :]} import {name}" for name, module in sorted(names.items())]
    offered = "".join(f"{line}\n" for line in [*lines, "", f"__all__ = {sorted(names)}"])
    found: dict[str, str] = {f"{package}/__init__.py": offered, f"{package}/_typing.py": _TYPING}
    waiting, done = list(names.values()), set()
    while waiting:
        name = waiting.pop()
        if name in done:
            continue
        done.add(name)
        change = _Change(package)
        tree = change.visit(ast.parse(_source(name).read_text("utf-8")))
        text = _HEADER.format(name=name) + ast.unparse(ast.fix_missing_locations(tree)) + "\n"
        _check(name, tree, text)
        parts = [package, *name.split(".")[1:]]
        found["/".join(parts) + ".py"] = text
        for end in range(2, len(parts)):
            found.setdefault("/".join([*parts[:end], "__init__.py"]), "")
        waiting += sorted(change.needs)
    return found


class _Change(ast.NodeTransformer):
    def __init__(self, package: str) -> None:
        self.package, self.needs = package, set[str]()

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if node.module is not None and node.module.partition(".")[0] == _OURS:
            self.needs.add(node.module)
            node.module = self.package + node.module[len(_OURS) :]
        elif node.module == "numpy.typing":
            node.module = f"{self.package}._typing"
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.returns = None
        arguments = node.args
        for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg):
            if each is not None:
                each.annotation = None
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.generic_visit(node)
        node.bases = [base.value if isinstance(base, ast.Subscript) else base for base in node.bases]
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        self.generic_visit(node)
        if _is_alias(node):
            node.value = ast.Constant(None)  # it stood in annotations only
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "zip":
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "strict"]
        return node


def _is_alias(node: ast.Assign) -> bool:
    """Whether a name stands for a type: it is written as one, and what it stands for is made of types alone."""
    target = node.targets[0]
    if not isinstance(target, ast.Name) or not target.id.lstrip("_")[:1].isupper() or target.id.isupper():
        return False
    allowed = (
        ast.Name,
        ast.Attribute,
        ast.Subscript,
        ast.BinOp,
        ast.BitOr,
        ast.Tuple,
        ast.List,
        ast.Constant,
        ast.Load,
    )
    return isinstance(node.value, (ast.Subscript, ast.BinOp)) and all(
        isinstance(part, allowed) for part in ast.walk(node.value)
    )


def _source(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ExportError(f"the module {name} is not part of this installation of effvision")
    return Path(spec.origin)


def _check(name: str, tree: ast.AST, text: str) -> None:
    """Refuse what Python 3.8 has not, as far as it can be seen: syntax, `removeprefix` and its like, joined dicts."""
    reason: object = None
    try:
        ast.parse(text, feature_version=(3, 8))
    except SyntaxError as error:
        reason = error
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("removeprefix", "removesuffix"):
            reason = f"`{node.attr}`"
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            sides = (node.left, node.right)
            reason = "joined dicts" if any(isinstance(side, (ast.Dict, ast.DictComp)) for side in sides) else reason
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.BitOr):
            reason = "`|=`, which may join dicts"
    if reason is not None:
        raise ExportError(f"{name} cannot be written for Python 3.8: {reason}")
