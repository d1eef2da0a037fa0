"""Which operators each TensorRT release imports, and with which types: the table `operators.json`.

The table says nothing about attributes; `effvision.export.device_rules` does. It was made from `docs/operators.md` of one
onnx-tensorrt branch per release (Apache-2.0): every row's "Supported Types" is sorted and given a letter, and an operator
is one character a release, `-` where it is not supported. To add a release: append its name to `releases` and one
character to each operator, a new letter to `types` where no row has the same types, and raise `version`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

__all__ = ["OperatorTable", "operator_table"]


@dataclass(frozen=True)
class OperatorTable:
    """Operators by TensorRT release.

    Attributes:
        version: Of the table, with what it covers.
        source: Where the facts come from, with their licence.
        releases: (major, minor), rising.
        types: A letter to the types it stands for.
        operators: An ONNX operator to one letter per release, `-` where it is not supported.
    """

    version: str
    source: str
    releases: tuple[tuple[int, int], ...]
    types: Mapping[str, frozenset[str]]
    operators: Mapping[str, str]

    def column(self, release: tuple[int, int]) -> int:
        """Return the column to read for a release: the newest that is not newer, or the oldest."""
        return max((i for i, have in enumerate(self.releases) if have <= release), default=0)

    def lookup(self, operator: str, release: tuple[int, int]) -> frozenset[str] | None:
        """Return the types an operator takes, such as "FP32"; None where it is not supported or not known."""
        letters = self.operators.get(operator)
        return None if letters is None else self.types.get(letters[self.column(release)])

    def first(self, operator: str) -> tuple[int, int] | None:
        """Return the first release of the table that has an operator."""
        letters = self.operators.get(operator, "")
        return next((self.releases[i] for i, letter in enumerate(letters) if letter != "-"), None)


@lru_cache(maxsize=1)
def operator_table() -> OperatorTable:
    """Read the table that lies beside this file."""
    data = json.loads(Path(__file__).with_name("operators.json").read_text("utf-8"))
    releases = tuple((int(major), int(minor)) for major, minor in (name.split(".") for name in data["releases"]))
    return OperatorTable(
        version=data["version"],
        source=f"{data['source']} ({data['licence']})",
        releases=releases,
        types={letter: frozenset(names.split()) for letter, names in data["types"].items()},
        operators=data["operators"],
    )
