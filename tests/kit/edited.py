"""Networks exported for editing, both engines of one, and edits to make with them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from effvision.export.edits import make_edits
from effvision.host.edit_costs import Machine
from effvision.host.edits import ExportedNetwork
from effvision.incremental import IncrementalNetwork, make_incremental
from effvision.runtime.onnx import OnnxRuntime, open_session

__all__ = ["Exported", "edits_of", "far", "numbers"]

SAME = Machine(mac_s=1e-11, element_s=1e-10, kept_s=1e-10, call_s=1e-7, tile_factor=2.0)
"""What things cost, the same for both engines, so that both choose the same rectangles."""
Arrays = tuple[np.ndarray, ...]


class Exported:
    """A network and its graph in ONNX Runtime with two threads."""

    def __init__(self, network: nn.Module, inputs: Arrays) -> None:
        self.network = network.eval()
        self.example = tuple(torch.from_numpy(array) for array in inputs)
        self.model, spec, self.data, self.graph = make_edits(network, self.example)
        session = open_session(self.model.SerializeToString(), threads=2)
        self.runtime = OnnxRuntime({"step": session}, {"step": spec})
        self.runs: list[tuple[str, int]] = []

    def run(self, feed: Any, wanted: Any) -> list[np.ndarray]:
        """Run the graph, and note what was asked for and how many numbers went in."""
        self.runs.append((wanted[0], sum(array.size for name, array in feed.items() if name.startswith("x_"))))
        return list(self.runtime.run("step", feed, wanted).values())

    def engine(self, mode: str = "local", **options: Any) -> ExportedNetwork:
        return ExportedNetwork(self.data, self.run, mode=mode, **{"machine": SAME, **options})

    def wanted(self, mode: str = "local", **options: Any) -> IncrementalNetwork:
        """The engine in torch that chooses the same."""
        made = make_incremental(self.network, self.example, mode=mode, **options)  # type: ignore[arg-type]
        return IncrementalNetwork(
            made._graph, made._device, mode=made.mode, limit=made._limit, plan=made._plan, journal_bytes=1 << 28,
            promise=made.promise, machine=SAME,
        )  # fmt: skip

    def dense(self, inputs: Arrays) -> np.ndarray:
        """The full pass in torch."""
        with torch.no_grad():
            return self.network(*(torch.from_numpy(array) for array in inputs)).numpy()  # type: ignore[no-any-return]


def edits_of(inputs: Arrays, seed: int) -> Iterator[Arrays]:
    """A picture and edits of it without end: points, lines, boxes, at borders and in corners, now and then several at once."""
    chance = random.Random(seed)
    while True:
        yield inputs
        inputs = tuple(array.copy() for array in inputs)
        for _ in range(chance.choice([1, 1, 2, 3])):
            array = chance.choice(inputs)
            n, _, h, w = array.shape
            high, wide = chance.choice([(1, 1), (2, 3), (h // 3, w // 4), (h, 1)])
            corners = [(0, 0), (h - high, w - wide), (chance.randint(0, h - high), chance.randint(0, w - wide))]
            top, left = chance.choice(corners)
            here = (chance.choice([slice(None), n - 1]), slice(None), slice(top, top + high), slice(left, left + wide))
            array[here] = chance.gauss(0, 1)


def far(output: np.ndarray, wanted: Any) -> float:
    """The largest difference, relative to the largest value."""
    wanted = np.asarray(wanted)
    return float(np.abs(output - wanted).max() / np.abs(wanted).max())


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """Random numbers, float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
