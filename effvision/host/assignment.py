"""Who is who: pairs of two lists so that their costs add up to the least. NumPy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["assign", "match_boxes"]

_NEVER = 1e6  # the cost of a pair that must not be


def assign(cost: NDArray[np.floating]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Solve the assignment problem by shortest augmenting paths (the Hungarian method in its form by Jonker and Volgenant).

    Args:
        cost: (M, N), finite.

    Returns:
        rows and columns of the min(M, N) pairs, rows ascending. It takes min(M, N)^2 * max(M, N) steps.
    """
    if cost.shape[0] > cost.shape[1]:
        columns, rows = assign(cost.T)
        order = np.argsort(rows)
        return rows[order], columns[order]
    count, width = cost.shape
    price_row, price_column = np.zeros(count), np.zeros(width)
    row_of, column_of = np.full(width, -1), np.full(count, -1)
    for start in range(count):
        reach, before = np.full(width, np.inf), np.full(width, -1)
        seen = np.zeros(width, bool)
        row, column, spent = start, -1, 0.0
        while row >= 0:  # grow the tree of cheapest paths until it meets a free column
            if column >= 0:
                seen[column] = True
            offer = spent + cost[row] - price_row[row] - price_column
            nearer = (offer < reach) & ~seen
            reach[nearer], before[nearer] = offer[nearer], row
            column = int(np.where(seen, np.inf, reach).argmin())
            spent = reach[column]
            row = row_of[column]
        price_row[start] += spent
        visited = np.flatnonzero(seen)
        price_row[row_of[visited]] += spent - reach[visited]
        price_column[visited] -= spent - reach[visited]
        row = -1
        while row != start:  # turn the path around
            row = before[column]
            row_of[column] = row
            column, column_of[row] = column_of[row], column
    return np.arange(count), column_of


def match_boxes(
    overlap: NDArray[np.floating], *, least: float, allowed: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pair boxes so that as many as possible overlap enough, and the overlaps add up to the most.

    Args:
        overlap: (M, N) intersection over union.
        least: Pairs that overlap less are none.
        allowed: (M, N): pairs that may be, such as those of one class. Default: all.

    Returns:
        rows and columns of the pairs, rows ascending.
    """
    good = overlap >= least
    if allowed is not None:
        good &= allowed
    rows, columns = assign(np.where(good, 1.0 - overlap, _NEVER))
    kept = good[rows, columns]
    return rows[kept], columns[kept]
