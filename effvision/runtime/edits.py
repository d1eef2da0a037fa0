"""An exported file of blocks, seen as the network it was made of: a graph from pictures to pictures, and engines that edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from effvision.host.edits import EDITS, ExportedNetwork
from effvision.metadata import GraphSpec, Metadata, TensorSpec
from effvision.runtime.base import Runtime
from effvision.runtime.onnx import OnnxRuntime
from effvision.state import Array

__all__ = ["EditRuntime", "driven"]


class EditRuntime(Runtime):
    """Drives the blocks of an exported file; see `effvision.host.edits`.

    Attributes:
        blocks: What runs the graph of blocks.
    """

    name = "onnx"

    def __init__(self, blocks: OnnxRuntime, data: Mapping[str, Any]) -> None:
        """Take the file's runtime and the blocks' description.

        Raises:
            ModelFileError: the description is damaged or of a newer format.
        """
        self.blocks, self._data = blocks, data
        self.device = blocks.device
        (self._graph,) = blocks.graphs
        engine = self.editor(mode="local", journal_bytes=0)
        inputs, outputs = engine.cells
        self._macs = engine.dense_macs
        self.graphs = {
            self._graph: GraphSpec(
                self._graph,
                tuple(TensorSpec(cell.name, cell.shape) for cell in inputs),
                tuple(TensorSpec(name, cell.shape) for name, cell in outputs.items()),
            )
        }

    def run(self, graph: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Compute the whole picture; see `Runtime.run`."""
        found = self.editor(mode="local", journal_bytes=0).update(arrays).output
        outputs = found if isinstance(found, tuple) else (found,)
        return {tensor.name: array for tensor, array in zip(self.graphs[graph].outputs, outputs, strict=True)}

    def editor(self, *, mode: str, journal_bytes: int, graph: str = "step") -> ExportedNetwork:
        """Return an engine that computes again only what changed, without a picture yet.

        Args:
            mode: `local`, `exact` or `frozen`.
            journal_bytes: What undo and redo may take.
            graph: The only one.

        Raises:
            InputError: a mode that this network does not have.
        """
        return ExportedNetwork(self._data, self._run, mode=mode, journal_bytes=journal_bytes)

    def multiply_adds(self, graph: str, batch: int) -> int:
        """Return those of the whole picture; see `Runtime.multiply_adds`."""
        return round(self._macs)

    def _run(self, feed: Mapping[str, np.ndarray], wanted: Sequence[str]) -> list[np.ndarray]:
        return list(self.blocks.run(self._graph, feed, wanted).values())


def driven(runtime: OnnxRuntime, metadata: Metadata) -> tuple[Runtime, Metadata]:
    """Return a file's runtime and description as its family knows them: a file of blocks as the network it was made of.

    Raises:
        ModelFileError: the blocks' description is damaged or of a newer format.
    """
    data = metadata.options.get(EDITS)
    if data is None:
        return runtime, metadata
    driver = EditRuntime(runtime, data)
    return driver, metadata.with_graphs(driver.graphs)
