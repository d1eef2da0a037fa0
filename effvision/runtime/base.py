"""The one interface of every back end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from effvision.errors import DTypeError, EffvisionError, ShapeError, StateError
from effvision.host.editing import Editor, WholeEditor
from effvision.metadata import GraphSpec, TensorSpec
from effvision.state import Array, State

__all__ = ["Runtime"]


class Runtime(ABC):
    """Runs the graphs of one model.

    Attributes:
        name: `torch` or `onnx`.
        device: Where it computes, as the back end names it.
        graphs: What each graph takes and gives.
    """

    name: str
    device: str
    graphs: Mapping[str, GraphSpec]

    @abstractmethod
    def run(self, graph: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Run one graph on all its inputs, state included, by name; return all its outputs by name.

        Raises:
            RuntimeFailure: the back end failed; its own message is inside.
        """

    @abstractmethod
    def multiply_adds(self, graph: str, batch: int) -> int:
        """Count the multiply-adds of convolutions and matrix products in one call for `batch` streams.

        Raises:
            ModelFileError: the file does not say the shapes, or is not there any more.
            MissingDependencyError: the package onnx, which reads the graph, is not installed.
        """

    def editor(self, *, mode: str, journal_bytes: int, graph: str = "step") -> Editor:
        """Return what edits one picture of a graph without a state that takes and gives pictures (N, C, H, W).

        Args:
            mode: How far a change is followed: `local`, `exact`, `frozen` or `reference`, see `effvision.incremental`. A back
                end without such an engine computes the whole picture for every edit, whatever the mode, and says so.
            journal_bytes: What undo and redo may take.
            graph: Which graph.

        Raises:
            InputError: an unknown mode, or a journal that cannot be.
        """
        output = self.graphs[graph].outputs[0]
        shape = (1, *map(int, output.shape[1:]))
        try:
            macs = float(self.multiply_adds(graph, 1))
        except EffvisionError:  # it takes the package onnx to count them
            macs = 0.0
        return WholeEditor(
            lambda arrays: self.run(graph, arrays)[output.name], shape=shape, macs=macs, journal_bytes=journal_bytes
        )

    def step(
        self, arrays: Mapping[str, np.ndarray], state: State, *, graph: str = "step"
    ) -> tuple[dict[str, Array], State]:
        """Advance by one step: `step(inputs, state) -> (outputs, state)`.

        Args:
            arrays: The graph's inputs by name, without the state.
            state: From `initial_state` or the step before; consumed.
            graph: Which graph.

        Returns:
            Outputs by name without the state, and the next state.

        Raises:
            ShapeError, DTypeError: an input does not fit the graph.
            StateError: the state does not fit the graph or the inputs' batch.
            RuntimeFailure: the back end failed.
        """
        wanted = [tensor.name for tensor in self.graphs[graph].inputs]
        if set(arrays) != set(wanted) or not isinstance(state, State):
            raise ShapeError(
                f"graph `{graph}` takes {wanted} and a State; got {sorted(arrays)} and {type(state).__name__}"
            )
        for tensor in self.graphs[graph].inputs:
            self._fits(tensor, tuple(arrays[tensor.name].shape))
            if (kind := str(arrays[tensor.name].dtype).removeprefix("torch.")) != tensor.dtype:
                raise DTypeError(f"`{tensor.name}` must be {tensor.dtype}; got {kind}")
        states = self.graphs[graph].states
        batch = next(iter(arrays.values())).shape[0]
        for spec in states:
            given = tuple(state[spec.name].shape) if spec.name in state else None
            if given != (batch, *spec.shape):
                raise StateError(
                    f"state `{spec.name}` must be {(batch, *spec.shape)} here; got {given}\n"
                    "hint: use the state returned by the step before, or `initial_state`"
                )
        outputs = self.run(graph, {**arrays, **{spec.input: state[spec.name] for spec in states}})
        following = State({spec.name: outputs.pop(spec.output) for spec in states})
        return outputs, following

    def _fits(self, tensor: TensorSpec, given: tuple[int, ...]) -> None:
        if len(given) == len(tensor.shape) and all(
            isinstance(w, str) or w == g for w, g in zip(tensor.shape, given, strict=True)
        ):
            return
        fixed = tensor.shape and isinstance(tensor.shape[0], int) and given[1:] == tensor.shape[1:]
        hint = (
            f"\nhint: exported for exactly {tensor.shape[0]} streams a call; batch='dynamic' takes any number"
            if fixed
            else ""
        )
        raise ShapeError(f"`{tensor.name}` must be {list(tensor.shape)}; got {list(given)}{hint}")

    def initial_state(self, batch: int = 1, *, graph: str = "step") -> State:
        """Return the state of `batch` streams that have seen nothing: zeros, as numpy arrays."""
        return State({spec.name: np.zeros((batch, *spec.shape), np.float32) for spec in self.graphs[graph].states})
