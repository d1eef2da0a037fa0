"""What an exported file says about itself: one JSON block under the key `effvision` in the ONNX metadata.

The same description is built from a card when the network runs in PyTorch, so a predictor reads one thing whatever its
runtime is. Nothing here needs numpy, torch or onnx: exported kits parse the same block.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from effvision.errors import ModelFileError

__all__ = [
    "EXPORT_KEY",
    "GRAPH_KEY",
    "KEY",
    "ROWS",
    "SCHEMA",
    "GraphSpec",
    "Metadata",
    "StateSpec",
    "TensorSpec",
    "main_graph",
    "part_path",
]

KEY = "effvision"
GRAPH_KEY = "effvision.graph"
"""Names which of the graphs a file holds, where the model has several: each is a file of its own with the same description."""
EXPORT_KEY = "effvision.export"
"""The same in all files of one export and in no other's: a digest over all its graphs."""
SCHEMA = 1
ROWS = "rows of "
"""Begins the name of an open axis whose size follows from others, such as those of tables made on the host."""
_GRAPH_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # part of a file's name


@dataclass(frozen=True)
class TensorSpec:
    """A graph input or output. A text axis such as `batch` may take any size."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class StateSpec:
    """One array of the state: the graph input that takes it, the output that gives it back, its shape without batch."""

    name: str
    input: str
    output: str
    shape: tuple[int, ...]
    init: str = "zeros"


@dataclass(frozen=True)
class GraphSpec:
    """One graph: its inputs and outputs without the state, and the state."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[StateSpec, ...] = ()


@dataclass(frozen=True)
class Metadata:
    """Everything a predictor needs besides the runtime.

    Attributes:
        family: Model family, such as `tsm`.
        card: Card the weights belong to; empty for a network of the user's own.
        task: Such as `classification`.
        labels: Class names in the order of the outputs.
        graphs: Graphs the family drives, by name.
        preprocess: Host-side preparation: sizes in pixels, colour order, value range.
        options: Family facts: trained frame rate, direction of the shift, default smoothing.
        licence: Of the weights.
        weights_sha256: Of the weights file the network was filled from, or of its tensors if there was none.
        version: Of the package that wrote it.
        check: What the export check measured; empty before it ran.
        precision: What the file computes with and how that was measured: `int8` or `half` with its figures; empty for float32.
    """

    family: str
    card: str
    task: str
    labels: tuple[str, ...]
    graphs: Mapping[str, GraphSpec]
    preprocess: Mapping[str, Any]
    options: Mapping[str, Any]
    licence: str = ""
    weights_sha256: str = ""
    version: str = ""
    check: Mapping[str, Any] = field(default_factory=dict)
    precision: Mapping[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def number_kind(self) -> str:
        """What the layers compute with: `fp32`, `fp16` or `int8`."""
        return "int8" if "int8" in self.precision else "fp16" if "half" in self.precision else "fp32"

    def to_json(self) -> str:
        """Return the block as stored: sorted keys, so that the same model gives the same bytes."""
        data = asdict(self)
        if not self.precision:
            del data["precision"]
        return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def with_check(self, check: Mapping[str, Any]) -> Metadata:
        """Return a copy that carries the result of the export check."""
        return replace(self, check=dict(check))

    def with_graphs(self, graphs: Mapping[str, GraphSpec]) -> Metadata:
        """Return a copy that describes other graphs."""
        return replace(self, graphs=dict(graphs))

    @staticmethod
    def from_json(text: str, *, where: str) -> Metadata:
        """Read a stored block.

        Args:
            text: JSON of `to_json`.
            where: The file, for messages.

        Raises:
            ModelFileError: it is not such a block, or of a newer schema.
        """
        try:
            data = json.loads(text)
            schema = int(data["schema"])
            if schema > SCHEMA:
                raise ModelFileError(
                    f"{where} was written by a newer effvision ({data.get('version', '?')}, metadata schema {schema}; this "
                    f"one reads up to {SCHEMA})\nhint: pip install --upgrade effvision"
                )
            data["labels"] = tuple(_text(label) for label in _list(data["labels"]))
            data["graphs"] = {name: _graph(graph) for name, graph in data["graphs"].items()}
            if not data["graphs"]:
                raise ValueError("no graph")
            if strange := [name for name in data["graphs"] if not _GRAPH_NAME.fullmatch(name)]:
                raise ValueError(f"{strange[0]!r:.40} is no graph's name")
            for name in ("family", "card", "task", "licence", "weights_sha256", "version"):
                _text(data.get(name, ""))
            for name in ("preprocess", "options", "check", "precision"):
                if not isinstance(data.get(name, {}), dict):
                    raise TypeError(f"`{name}` is no table")
            if not all(isinstance(figures, dict) for figures in data.get("precision", {}).values()):
                raise TypeError("`precision` holds tables")
            known = {name: data[name] for name in Metadata.__dataclass_fields__ if name in data}
            return Metadata(**known)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            if isinstance(error, ModelFileError):
                raise
            raise ModelFileError(
                f"the `{KEY}` metadata of {where} is damaged ({type(error).__name__}: {error})"
            ) from error


def main_graph(graphs: Mapping[str, Any]) -> str:
    """Return the graph that a model's file is named after: `step` if there is one, else the first in the alphabet."""
    return "step" if "step" in graphs else min(graphs)


def part_path(path: Path, graph: str, graphs: Mapping[str, Any]) -> Path:
    """Return the file of one graph of a model: the main one is in `path` itself, others in `STEM-NAME.onnx` beside it."""
    return path if graph == main_graph(graphs) else path.with_name(f"{path.stem}-{graph}{path.suffix}")


def _graph(data: Mapping[str, Any]) -> GraphSpec:
    def tensors(name: str) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(_text(t["name"]), _shape(t["shape"]), _text(t["dtype"])) for t in data[name])

    states = tuple(
        StateSpec(_text(s["name"]), _text(s["input"]), _text(s["output"]), _shape(s["shape"]), _text(s["init"]))  # type: ignore[arg-type]
        for s in data["states"]
    )
    return GraphSpec(_text(data["name"]), tensors("inputs"), tensors("outputs"), states)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text is needed where {value!r:.40} stands")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"a list is needed where {value!r:.40} stands")
    return value


def _shape(value: Any) -> tuple[int | str, ...]:
    axes = tuple(_list(value))
    if any(isinstance(axis, bool) or not isinstance(axis, (int, str)) or axis in (0, "") for axis in axes):
        raise TypeError(f"{value!r:.40} is no shape")
    return axes
