"""Times the steps of one model on this machine; what `effvision bench` prints."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from effvision.predictor import Predictor

__all__ = ["time_steps"]


def time_steps(model: Predictor, *, runs: int = 100, warmup: int = 10) -> dict[str, Any]:
    """Run one stream for `warmup` + `runs` steps on the model's own example inputs and time each of the latter.

    Returns:
        `p50_ms`, `p90_ms`, `p99_ms` of one step of the network without preparation, `steps_per_s` (1000 / p50), `runs`,
        `runtime`, `device` (the one really used).
    """
    graph = next(iter(model.metadata.graphs))
    axis = model.metadata.graphs[graph].inputs[0].shape[0]
    batch = axis if isinstance(axis, int) else 1
    inputs = list(model.example_inputs(graph, steps=16, batch=batch, seed=0))
    state = model.runtime.initial_state(batch, graph=graph)
    times = []
    for step in range(warmup + runs):
        started = time.perf_counter()
        _, state = model.runtime.step(inputs[step % len(inputs)], state, graph=graph)
        times.append((time.perf_counter() - started) * 1e3)
    p50, p90, p99 = np.percentile(times[warmup:], (50, 90, 99))
    figures = {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "steps_per_s": 1e3 / p50}
    return {
        **{k: round(float(v), 3) for k, v in figures.items()},
        "runs": runs,
        "runtime": model.runtime.name,
        "device": model.runtime.device,
    }
