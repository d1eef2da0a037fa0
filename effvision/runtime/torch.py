"""PyTorch: the network itself, in inference mode."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from effvision.errors import InputError, ModelFileError, RuntimeFailure
from effvision.metadata import GraphSpec
from effvision.runtime.base import Runtime
from effvision.runtime.work import torch_multiply_adds
from effvision.state import Array

if TYPE_CHECKING:
    from effvision.host.editing import Editor
    from effvision.incremental import IncrementalNetwork, Mode

__all__ = ["TorchRuntime"]


class TorchRuntime(Runtime):
    """Runs modules whose arguments and results are tensors in the order of their graph specification.

    State arrays stay tensors on the device; other outputs come back as numpy arrays.

    Attributes:
        modules: What runs, by graph name.
        traced: What an export traces in its place, where what runs fastest cannot be traced: the same function.
    """

    name = "torch"

    def __init__(
        self,
        modules: Mapping[str, torch.nn.Module],
        graphs: Mapping[str, GraphSpec],
        *,
        device: str = "cpu",
        traced: Mapping[str, torch.nn.Module] | None = None,
    ) -> None:
        """Move the modules to `device` (`cpu`, `cuda`, `cuda:1`, `mps`).

        Raises:
            InputError: this machine or build of PyTorch has no such device.
        """
        try:
            self._device = torch.device(device)
            torch.empty(1, device=self._device)
        except Exception as error:  # PyTorch raises RuntimeError, AssertionError or NotImplementedError here
            raise InputError(f"PyTorch cannot use device {device!r} here: {error}") from error
        self.device = device
        self.graphs = dict(graphs)
        self.modules = {name: module.eval().to(self._device) for name, module in modules.items()}
        self._engines: dict[tuple[str, str], IncrementalNetwork] = {}
        self._tracing = threading.Lock()
        self.traced = {**self.modules, **{name: module.eval() for name, module in (traced or {}).items()}}

    def run(self, graph: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Run one module; see `Runtime.run`."""
        spec = self.graphs[graph]
        kept = {state.output for state in spec.states}
        names = [tensor.name for tensor in spec.inputs] + [state.input for state in spec.states]
        results = [tensor.name for tensor in spec.outputs] + [state.output for state in spec.states]
        with torch.inference_mode():
            tensors = [self._tensor(arrays[name]) for name in names]
            try:
                outputs: Any = self.modules[graph](*tensors)
            except RuntimeError as error:
                raise RuntimeFailure(f"PyTorch failed in graph `{graph}`: {error}") from error
        if isinstance(outputs, torch.Tensor):
            outputs = (outputs,)
        return {
            name: value if name in kept else value.cpu().numpy() for name, value in zip(results, outputs, strict=True)
        }

    def editor(self, *, mode: str, journal_bytes: int, graph: str = "step") -> Editor:
        """Return an engine that computes again only what changed; see `Runtime.editor`.

        The network is followed once, which takes seconds (twice if it has norms with statistics of the picture and mode `exact`
        is used too); editors share its weights.
        """
        from effvision.incremental.arrays import ArrayEditor

        inputs = self.graphs[graph].inputs
        with self._tracing:
            engine = self._engine(graph, "frozen")
            if mode == "exact" and not engine.serves("exact"):
                engine = self._engine(graph, "exact")
        own = engine.another(mode=mode, journal_bytes=journal_bytes)  # type: ignore[arg-type]
        return ArrayEditor(own, [tensor.name for tensor in inputs], self._device)

    def _engine(self, graph: str, mode: Mode) -> IncrementalNetwork:
        """An engine that others are made of; it never has a picture."""
        from effvision.incremental import make_incremental

        if (graph, mode) not in self._engines:
            shapes = [(1, *map(int, tensor.shape[1:])) for tensor in self.graphs[graph].inputs]
            example = [torch.zeros(shape, device=self._device) for shape in shapes]
            self._engines[graph, mode] = make_incremental(self.modules[graph], example, mode=mode)
        return self._engines[graph, mode]

    def multiply_adds(self, graph: str, batch: int) -> int:
        """Count them in one call on zeros; see `Runtime.multiply_adds`."""
        spec = self.graphs[graph]
        if open_axes := sorted({axis for t in spec.inputs for axis in t.shape[1:] if isinstance(axis, str)}):
            raise ModelFileError(f"the work of graph `{graph}` depends on its open axes {', '.join(open_axes)}")
        shapes = [(batch, *tensor.shape[1:]) for tensor in spec.inputs]
        shapes += [(batch, *state.shape) for state in spec.states]
        zeros = tuple(self._tensor(np.zeros(shape, np.float32)) for shape in shapes)
        return torch_multiply_adds(self.modules[graph], zeros)

    def _tensor(self, array: Array) -> torch.Tensor:
        tensor = array if isinstance(array, torch.Tensor) else torch.from_numpy(array)
        return tensor.to(self._device)
