"""A class for each point of a cloud, chunk by chunk, whatever runs the network. NumPy only: kits hold this file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from effvision.errors import RuntimeFailure
from effvision.host.blocks import Chunk, Votes
from effvision.host.voxels import graph_arrays
from effvision.models.pvcnn.inputs import Chunks, Input

__all__ = ["fed", "label"]

Feed = Mapping[str, np.ndarray]


def label(
    arrays: Feed,
    inputs: Input,
    run: Callable[[np.ndarray], np.ndarray],
    *,
    classes: int,
    seed: int = 0,
    axis: int | str = "batch",
    together: int = 2,
    tell: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Run the chunks of a cloud and join the answers.

    Besides the arrays of the cloud it holds one call's chunks, and the votes: 8 bytes a point, or 4 (K + 1).

    Args:
        arrays: As `inputs.arrays` gives them.
        inputs: How the cloud is cut.
        run: The network: points (n, C, P) -> logits (n, K, P), n as `axis` says.
        classes: K.
        seed: Of the order in which points meet each other.
        axis: Clouds of a call, where the network takes a fixed number.
        together: Most chunks of one size in one call, where it does not.
        tell: Told before the first call and after each how many chunks of how many are done.

    Returns:
        Labels (P,) int32 and scores (P,) float32 in 0..1.

    Raises:
        RuntimeFailure: the network answers with NaN or infinity.
    """
    chunks = inputs.chunks(arrays["xyz"], seed=seed)
    votes, done = Votes(len(arrays["xyz"]), classes, rule=inputs.rule), 0
    if tell is not None:
        tell(0, len(chunks))
    for each in _calls(chunks, axis if isinstance(axis, int) else together):
        points = np.stack([inputs.cut(arrays, chunk) for chunk in each])
        for chunk, answer in zip(each, _logits(run, points, axis), strict=True):
            votes.add(chunk.index, _softmax(answer).T)
        done += len(each)
        if tell is not None:
            tell(done, len(chunks))
    labels, scores = votes.result()
    return labels, np.clip(scores, 0.0, 1.0)


def fed(points: np.ndarray, names: Sequence[str], options: Mapping[str, object]) -> dict[str, np.ndarray]:
    """What a graph takes for points (N, C, P), by the names it declares; `options` of its description."""
    margin = options.get("margin")
    return graph_arrays(
        points, names, unit_ball=bool(options["unit_ball"]), margin=margin if isinstance(margin, int) else None
    )


def _calls(chunks: Chunks, most: int) -> Iterator[list[Chunk]]:
    """Yield chunks that go through the network together: neighbours of one size."""
    waiting: list[Chunk] = []
    for chunk in chunks:
        if waiting and (len(waiting) == most or len(chunk.index) != len(waiting[0].index)):
            yield waiting
            waiting = []
        waiting.append(chunk)
    if waiting:
        yield waiting


def _logits(run: Callable[[np.ndarray], np.ndarray], points: np.ndarray, axis: int | str) -> np.ndarray:
    """Points (n, C, P) -> logits (n, K, P); a network for N chunks gets N, the last one again and again."""
    given = len(points)
    if isinstance(axis, int) and axis > given:
        points = np.concatenate([points, np.repeat(points[-1:], axis - given, axis=0)])
    logits = np.asarray(run(points)[:given], np.float32)
    if not np.isfinite(logits).all():
        raise RuntimeFailure(
            "the network answered with NaN or infinity\nhint: damaged weights, or half precision that overflowed"
        )
    return logits


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Logits (K, P) -> probabilities over K."""
    powers = np.exp(logits - logits.max(axis=0))
    return np.asarray(powers / powers.sum(axis=0))
