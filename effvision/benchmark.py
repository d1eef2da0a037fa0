"""Times the steps of models on this machine, side by side; what `effvision bench` prints."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from effvision.errors import EffvisionError, InputError
from effvision.metadata import main_graph
from effvision.predictor import Predictor

__all__ = ["StepTimes", "time_steps"]

_BLOCK = 10
_MATRIX = 1024


@dataclass(frozen=True)
class StepTimes:
    """How long one call of a model's network takes here, without preparing the input.

    Attributes:
        model: What was timed.
        runtime: `onnx` or `torch`.
        device: The one really used.
        streams: Streams per call.
        runs: Timed calls.
        p50_ms: Median milliseconds of a call.
        p90_ms: Nine calls of ten are quicker.
        p99_ms: Ninety-nine of a hundred are quicker.
        frames_per_s: Frames of all streams in a second at the median.
        multiply_adds: Of one call; None where they cannot be counted (no `onnx` package, shapes not known).
        limit_share: Share of this machine's own matrix rate (NumPy, fp32, 1024x1024) that the call reaches; None without
            `multiply_adds`, and on other devices than the processor.
    """

    model: str
    runtime: str
    device: str
    streams: int
    runs: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    frames_per_s: float
    multiply_adds: int | None
    limit_share: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def time_steps(models: Sequence[Predictor], *, runs: int = 100, warmup: int = 10, streams: int = 1) -> list[StepTimes]:
    """Run each model on its own example inputs and time its calls; several models take turns, ten calls each.

    Args:
        models: One or more.
        runs: Timed calls of each.
        warmup: Calls of each before that.
        streams: Per call; a file exported for a fixed number takes that number only.

    Raises:
        InputError: a file was exported for another number of streams.
    """
    calls = [_caller(model, streams) for model in models]
    for call in calls:
        for _ in range(warmup):
            call()
    multiply = np.random.default_rng(0).standard_normal((2, _MATRIX, _MATRIX)).astype(np.float32)
    times: list[list[float]] = [[] for _ in models]
    limit: list[float] = []
    for start in range(0, runs, _BLOCK):
        limit.append(_seconds(lambda: multiply[0] @ multiply[1]))
        turn = (start // _BLOCK) % len(calls)
        for place in [*range(turn, len(calls)), *range(turn)]:
            calls[place]()  # takes the caches back
            times[place].extend(_seconds(calls[place]) for _ in range(min(_BLOCK, runs - start)))
    rate = _MATRIX**3 / statistics.median(limit)
    return [_figures(model, spent, streams, rate) for model, spent in zip(models, times, strict=True)]


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _caller(model: Predictor, streams: int) -> Callable[[], None]:
    graph = main_graph(model.metadata.graphs)
    axis = model.metadata.graphs[graph].inputs[0].shape[0]
    if isinstance(axis, int) and axis != streams:
        raise InputError(
            f"{model!r} was exported for {axis} streams a call, not {streams}\nhint: --streams {axis}, or export it with "
            "--batch dynamic"
        )
    inputs = list(model.example_inputs(graph, steps=16, batch=streams, seed=0))
    state = model.runtime.initial_state(streams, graph=graph)
    step = 0

    def call() -> None:
        nonlocal state, step
        _, state = model.runtime.step(inputs[step % len(inputs)], state, graph=graph)
        step += 1

    return call


def _figures(model: Predictor, spent: Sequence[float], streams: int, rate: float) -> StepTimes:
    p50, p90, p99 = (float(value) * 1e3 for value in np.percentile(spent, (50, 90, 99)))
    try:
        work = model.runtime.multiply_adds(main_graph(model.metadata.graphs), streams)
    except EffvisionError:
        work = None
    share = None
    if work and model.runtime.device == "cpu":
        share = round(work / (p50 / 1e3) / rate, 3)
    return StepTimes(
        model=repr(model),
        runtime=model.runtime.name,
        device=model.runtime.device,
        streams=streams,
        runs=len(spent),
        p50_ms=round(p50, 3),
        p90_ms=round(p90, 3),
        p99_ms=round(p99, 3),
        frames_per_s=round(streams * 1e3 / p50, 1),
        multiply_adds=work,
        limit_share=share,
    )
