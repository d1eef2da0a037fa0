"""Runs an exported graph beside PyTorch, as streams that carry their state, and measures how far apart they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from effvision.errors import EffvisionError, ExportError
from effvision.runtime import Runtime
from effvision.state import State

__all__ = ["MAX_ABS", "RELATIVE_RMS", "SMALLEST", "Examples", "compare"]

MAX_ABS = 1e-4
"""Largest difference of one number, as a share of the largest number of that output."""
SMALLEST = 1e-3
"""Outputs smaller than this are compared as if they were this large: float32 rounding inside the network stays."""
RELATIVE_RMS = 5e-5
"""Root mean square of the differences over that of the numbers; two CPU convolution libraries differ by 2e-6 to 2e-5."""

Examples = Callable[..., Iterator[dict[str, np.ndarray]]]


def compare(
    reference: Runtime, exported: Runtime, examples: Examples, *, graph: str, batches: Sequence[int], steps: int
) -> dict[str, Any]:
    """Run both over the same streams, each carrying its own state; every batch size is one stream from a fresh state.

    After each stream both start again from zero and must repeat their first step: a reset that leaks is caught.

    Returns:
        Plain data: steps, batches, `max_abs`, `relative_rms`, `argmax_equal`.

    Raises:
        ExportError: they differ by more than the limits, or one of them fails.
    """
    worst, squares, reference_squares, agreed, rows = 0.0, 0.0, 0.0, 0, 0
    for seed, batch in enumerate(batches):
        states = [_start(runtime, batch, graph) for runtime in (reference, exported)]
        first: dict[str, np.ndarray] | None = None
        inputs: dict[str, np.ndarray] = {}
        for step, inputs in enumerate(examples(graph, steps=steps, batch=batch, seed=seed)):
            wanted, got = _both(reference, exported, inputs, states, graph)
            for name, value in wanted.items():
                worst = max(worst, _difference(name, value, got[name], step, batch))
                squares += float(((value - got[name]) ** 2).sum())
                reference_squares += float((value**2).sum())
            answer, other = next(iter(wanted.values())), next(iter(got.values()))
            equal = answer.argmax(1) == other.argmax(1)
            agreed, rows = agreed + int(equal.sum()), rows + equal.size
            first = first if first is not None else {name: np.array(value) for name, value in got.items()}
        if not states[0]:
            continue
        states = [_start(runtime, batch, graph) for runtime in (reference, exported)]
        inputs = next(iter(examples(graph, steps=steps, batch=batch, seed=seed)))
        _, again = _both(reference, exported, inputs, states, graph)
        for name, value in (first or {}).items():
            _difference(name, value, again[name], 0, batch, what="the first step after a reset")
    relative = (squares / reference_squares) ** 0.5 if reference_squares else 0.0
    if relative > RELATIVE_RMS:
        raise ExportError(
            f"the exported graph differs from PyTorch: relative rms {relative:.1e}, allowed {RELATIVE_RMS:.0e}"
        )
    return {
        "steps": steps,
        "batches": list(batches),
        "max_abs": float(f"{worst:.1e}"),
        "relative_rms": float(f"{relative:.1e}"),
        "argmax_equal": f"{agreed} of {rows}",
    }


def _start(runtime: Runtime, batch: int, graph: str) -> State:
    return runtime.initial_state(batch, graph=graph)


def _both(
    reference: Runtime, exported: Runtime, inputs: Mapping[str, np.ndarray], states: list[State], graph: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Advance both by one step; return outputs and the arrays of the new states, by name. `states` is updated."""
    found = []
    for index, runtime in enumerate((reference, exported)):
        try:
            outputs, states[index] = runtime.step(inputs, states[index], graph=graph)
        except EffvisionError as error:
            raise ExportError(f"{runtime.name} failed while the export was checked: {error}") from error
        found.append({**outputs, **states[index].numpy()})
    return found[0], found[1]


def _difference(
    name: str, wanted: np.ndarray, got: np.ndarray, step: int, batch: int, *, what: str = "the exported graph"
) -> float:
    if wanted.shape != got.shape:
        raise ExportError(f"`{name}` is {wanted.shape} in PyTorch and {got.shape} in the exported graph")
    difference = float(np.abs(wanted - got).max()) if wanted.size else 0.0
    allowed = MAX_ABS * max(SMALLEST, float(np.abs(wanted).max()) if wanted.size else 0.0)
    if not difference <= allowed:  # NaN fails too
        raise ExportError(
            f"{what} differs from PyTorch: `{name}` by {difference:.1e} at step {step} with batch {batch}, "
            f"allowed {allowed:.1e}\n"
            "hint: PyTorch's exporter wrote an operator wrongly; no file was left"
        )
    return difference
