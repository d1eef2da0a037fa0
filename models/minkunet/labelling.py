"""A class for each point of a cloud, whatever runs the network. NumPy only: kits hold this file.

A cloud goes through the network as a whole. One of more rows than fit is cut into square columns that overlap by as much as the
network sees, so that the answers are those of the whole but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.errors import RuntimeFailure
from effvision.host.sparse import pack
from effvision.host.sparse_graph import graph_arrays
from effvision.host.sparse_levels import places_of
from effvision.models.minkunet.inputs import Input

__all__ = ["AT_ONCE", "MARGIN", "cells_of", "columns", "fed", "label"]

Feed = Mapping[str, NDArray[Any]]
Index = NDArray[np.int64]

AT_ONCE = 250_000
"""Rows that go through the network together: two turns of a lidar on a car. Measured with the full published width, on one such
turn: 4 to 5 kB a row in PyTorch and 16 kB in ONNX Runtime."""

MARGIN = 224
"""Voxels to each side on which an answer depends, a multiple of the widest voxels' 16.

Convolutions see 2, 8, 16, 32 and 64 on the way down and 32, 16, 8 and 4 on the way up; halving rounds 2 to 2, 10 to 12, 28 to
32; the readings of the points add 16, 4 and 1: 209 in all.
"""

_ALIGNED = 16


def label(
    arrays: Feed,
    run: Callable[[NDArray[Any], NDArray[np.float32]], NDArray[Any]],
    *,
    cells: int = 1,
    at_once: int = AT_ONCE,
    tell: Callable[[int, int], None] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Run a cloud and answer for every point.

    Args:
        arrays: `coords` (R, 4), `feats` (R, C) and `inverse` (P,), as `effvision.models.minkunet.inputs` makes them.
        run: The network: coords and feats of some rows -> logits (rows, K).
        cells: How many steps of `coords` a voxel is wide.
        at_once: Rows that go through together; a part may hold more where the square of two margins does.
        tell: Told before the first part and after each how many rows of how many are done.

    Returns:
        Labels (P,) int32 and scores (P,) float32 in 0..1.

    Raises:
        RuntimeFailure: the network answers with NaN or infinity.
    """
    coords, feats = arrays["coords"], arrays["feats"]
    labels, scores = np.zeros(len(coords), np.int32), np.zeros(len(coords), np.float32)
    done = 0
    if tell is not None:
        tell(done, len(coords))
    for own, seen in columns(coords, cells=cells, at_once=at_once):
        logits = np.asarray(run(coords[seen], feats[seen]), np.float32)
        if not np.isfinite(logits).all():
            raise RuntimeFailure(
                "the network answered with NaN or infinity\nhint: damaged weights, or half precision that overflowed"
            )
        logits = logits[np.searchsorted(seen, own)]
        labels[own] = logits.argmax(axis=1)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores[own] = 1 / powers.sum(axis=1)
        done += len(own)
        if tell is not None:
            tell(done, len(coords))
    inverse = arrays["inverse"]
    return labels[inverse], np.clip(scores, 0.0, 1.0)[inverse]


def cells_of(inputs: Input) -> int:
    """Return how many steps of the rows' coordinates a voxel is wide."""
    return 1 if inputs.point_m is None else round(inputs.voxel_m / inputs.point_m)


def columns(coords: NDArray[Any], *, cells: int = 1, at_once: int = AT_ONCE) -> Iterator[tuple[Index, Index]]:
    """Cut rows into columns along x and y, each with what lies within `MARGIN` around it.

    Args:
        coords: (R, 4) x, y, z, batch.
        cells: How many steps of `coords` a voxel is wide.
        at_once: Rows of a part, its margin included. A column of 16 voxels is not cut further.

    Yields:
        The rows to answer for, every row once, and the rows to run; both rising.
    """
    if len(coords) <= at_once:
        rows = np.arange(len(coords))
        yield rows, rows
        return
    blocks = np.floor_divide(coords[:, :2].astype(np.int64), cells * _ALIGNED)
    reach = MARGIN // _ALIGNED
    low, high = blocks.min(axis=0), blocks.max(axis=0) + 1
    waiting = [(low, high)]
    while waiting:
        low, high = waiting.pop()
        seen = np.flatnonzero(((blocks >= low - reach) & (blocks < high + reach)).all(axis=1))
        inside = ((blocks[seen] >= low) & (blocks[seen] < high)).all(axis=1)
        if not inside.any():
            continue
        axis = int(np.argmax(high - low))
        if len(seen) <= at_once or high[axis] - low[axis] == 1:
            yield seen[inside], seen
            continue
        middle = (low[axis] + high[axis]) // 2
        first, second = high.copy(), low.copy()
        first[axis] = second[axis] = middle
        waiting += [(second, high), (low, first)]


def fed(coords: NDArray[Any], feats: NDArray[np.float32], options: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return what a graph takes for rows of a cloud.

    Args:
        coords: (R, 4) x, y, z, batch, none twice, in the order of their keys.
        feats: (R, C) float32.
        options: Of the model's description: `network`, `voxel_m` and `point_m`.
    """
    if options["network"] != "spvcnn":
        return {"feats": feats, **graph_arrays(pack(coords))}
    places = places_of(coords, options["point_m"], options["voxel_m"])
    voxels = np.unique(pack(np.floor(places).astype(np.int64)))
    return {"feats": feats, **graph_arrays(voxels, places)}
