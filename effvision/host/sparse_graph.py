"""What an exported sparse network takes besides features: its kernel maps as tables of rows to gather and to sum. NumPy only.

A graph of operators cannot go through lists of pairs whose lengths depend on the cloud, so a map becomes two sorts of tables:

- Chunks: the pairs of each offset, cut into stretches of B. One Gather takes the input rows (n, B, C), one the weights of each
  chunk (n, C, O), and one MatMul makes all products (n * B, O), whatever the number of offsets.
- Sums: for every output row the places of its products. Rows with few products stand in narrow tables and others in wide
  ones, so that little is gathered in vain.

Nothing is scattered. Scatters that add are no way: ONNX Runtime 1.32 carries out ScatterND with reduction in several threads
that overwrite each other (wrong sums wherever a row stands twice), and ScatterElements is forty times slower.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.errors import ShapeError
from effvision.host.sparse import Index, Keys, Pairs
from effvision.host.sparse_levels import PointTable, build_levels, point_table

__all__ = ["DOWNS", "POINT_LEVELS", "WIDTHS", "graph_arrays", "owners_of", "pairs_of", "sum_tables", "table_axes"]

Arrays = Mapping[str, NDArray[Any]]

POINT_LEVELS = (0, 2, 4)
"""Levels at which SPVCNN's branch of points meets the voxels: strides 1, 4 and 16."""

DOWNS = 4
"""How often the voxels double their sides."""

WIDTHS = (2, 6, 26)
"""Columns of the tables of sums. A voxel has at most 26 neighbours; points of a voxel may be more, see `sum_tables`.

Of a whole network on a real scan, six widths were no faster than these, and two slower by a seventh.
"""

_CHILDREN = (2, 8)
_LEAST, _MOST = 4, 1024  # rows of a chunk
_FILLED = 10  # chunks an offset fills on average: half of one is padding


def table_axes(*, points: bool) -> dict[str, tuple[int | None, ...]]:
    """Return the names of all tables in order, each with the sizes of its axes; None where they follow from the cloud.

    Args:
        points: Whether the network has a branch of points.
    """
    axes: dict[str, tuple[int | None, ...]] = {}
    for level in range(DOWNS + 1):
        axes.update({f"near{level}_source": (None, None), f"near{level}_offset": (None,)})
        axes.update(_sum_axes(f"near{level}", WIDTHS))
    for level in range(DOWNS):
        axes.update({f"down{level}_source": (None, None), f"down{level}_offset": (None,)})
        axes.update(_sum_axes(f"down{level}", _CHILDREN))
        axes.update({f"up{level}_source": (None, None), f"up{level}_rows": (None,)})
    for level in POINT_LEVELS if points else ():
        axes.update(_sum_axes(f"points{level}", WIDTHS))
        axes.update({f"points{level}_crowd": (None, None), f"points{level}_shares": (None, 1)})
        axes.update({f"points{level}_corners": (None, None), f"points{level}_weights": (None, None)})
    return axes


def graph_arrays(keys: Keys, points: NDArray[Any] | None = None) -> dict[str, NDArray[Any]]:
    """Make all tables of a cloud.

    Args:
        keys: (V,) sorted, of the voxels.
        points: (P, 4) x, y, z, batch in voxels, whole or not, for a network with a branch of points.

    Returns:
        What `table_axes` names: int64, but `shares` and `weights` float32.
    """
    levels = build_levels(keys, DOWNS)
    found: dict[str, NDArray[Any]] = {}
    for level, pairs in enumerate(levels.near):
        source, offset, target = _chunks(pairs)
        found.update({f"near{level}_source": source, f"near{level}_offset": offset})
        found.update(sum_tables(f"near{level}", target, pairs.outputs, WIDTHS))
    for level, pairs in enumerate(levels.down):
        source, offset, target = _chunks(pairs)
        found.update({f"down{level}_source": source, f"down{level}_offset": offset})
        found.update(sum_tables(f"down{level}", target, pairs.outputs, _CHILDREN))
        there = np.flatnonzero(target >= 0)
        rows = np.empty(pairs.inputs, np.int64)
        rows[source.reshape(-1)[there]] = there  # each row of the finer level is in exactly one pair
        found.update({f"up{level}_source": np.maximum(target, 0).reshape(source.shape), f"up{level}_rows": rows})
    if points is not None:
        places, batch = points[:, :3], points[:, 3].astype(np.int64)
        for level in POINT_LEVELS:
            found.update(_point_arrays(f"points{level}", point_table(levels.keys[level], places / 2**level, batch)))
    return found


def _point_arrays(name: str, table: PointTable) -> dict[str, NDArray[Any]]:
    found = sum_tables(name, table.voxel, len(table.shares), WIDTHS, zero=len(table.voxel), crowds=True)
    return {
        **found,
        f"{name}_shares": table.shares,
        f"{name}_corners": table.corners,
        f"{name}_weights": table.weights,
    }


def _sum_axes(name: str, widths: Sequence[int]) -> dict[str, tuple[int | None, ...]]:
    tables: dict[str, tuple[int | None, ...]] = {f"{name}_sum{width}": (None, width) for width in widths}
    return {**tables, f"{name}_rows": (None,)}


# -- products --------------------------------------------------------------------------------------------------------------


def _chunks(pairs: Pairs) -> tuple[Index, Index, Index]:
    """Cut the pairs of each offset into chunks; the last chunk is of an offset that no kernel has, whose weights are zero.

    Returns:
        Input rows (n, B), 0 where a chunk is not full; the offset of each chunk (n,), K for the last; and the output row of
        each product (n * B,), -1 where there is none.
    """
    counts = np.diff(pairs.bounds)
    volume = len(counts)
    wanted = len(pairs.source) // (_FILLED * volume)
    size = min(_MOST, max(_LEAST, 1 << max(0, wanted.bit_length() - 1)))
    chunks = -(-counts // size)
    offset = np.append(np.repeat(np.arange(volume), chunks), volume)
    first = (np.cumsum(chunks) - chunks) * size  # where the products of each offset begin
    place = np.arange(len(pairs.source)) + np.repeat(first - pairs.bounds[:-1], counts)
    source, target = np.zeros(len(offset) * size, np.int64), np.full(len(offset) * size, -1, np.int64)
    source[place], target[place] = pairs.source, pairs.target
    return source.reshape(-1, size), offset, target


def pairs_of(arrays: Arrays, name: str, volume: int, outputs: int) -> tuple[Index, Index, Index]:
    """Return the pairs that tables were made of.

    Args:
        arrays: The tables.
        name: Of the map: `near0`, say.
        volume: K, its offsets.
        outputs: Its output rows.

    Returns:
        Sources (P,), targets (P,) and bounds (K + 1,) as in `effvision.host.sparse.Pairs`.
    """
    source, offset = arrays[f"{name}_source"], arrays[f"{name}_offset"]
    owner = owners_of(arrays, name, source.size, outputs)
    owner[-1] = -1  # what is zero: it fills up rows
    there = owner >= 0
    counts = np.bincount(offset, weights=there.reshape(source.shape).sum(axis=1), minlength=volume + 1)[:volume]
    bounds = np.zeros(volume + 1, np.int64)
    np.cumsum(counts, out=bounds[1:])
    return source.reshape(-1)[there], owner[there], bounds


# -- sums ------------------------------------------------------------------------------------------------------------------


def sum_tables(
    name: str, owner: Index, rows: int, widths: Sequence[int], *, zero: int | None = None, crowds: bool = False
) -> dict[str, Index]:
    """Make the tables that sum N rows into others.

    Put a row of zeros before the sums of all tables, in their order, and with `crowds` the sums of `NAME_crowd` over all those
    after them: `NAME_rows` says where in this stack each sum stands.

    Args:
        name: What the tables are called by.
        owner: (N,) the row that each belongs to; -1: none.
        rows: Number of sums.
        widths: Columns of the tables, rising.
        zero: Number of a summand that is zero, for the places that a row does not fill; default: the last of the N.
        crowds: Whether a sum may have more summands than the widest table has columns: then its parts are summed again.

    Returns:
        `NAME_sumW` (n, W) for each width, with `crowds` also `NAME_crowd` (m, J); `NAME_rows` (rows,); int64.

    Raises:
        ShapeError: a sum of more summands than the widest table, without `crowds`.
    """
    widest = widths[-1]
    zero = len(owner) - 1 if zero is None else zero
    member = np.flatnonzero(owner >= 0)
    order = member[np.argsort(owner[member], kind="stable")]
    counts = np.bincount(owner[member], minlength=rows)
    if not crowds and len(counts) and counts.max() > widest:
        raise ShapeError(f"a row of `{name}` sums {counts.max()} others, more than {widest}")
    parts = np.maximum(1, -(-counts // widest))  # of each sum
    part_row = np.repeat(np.arange(rows), parts)
    nth = np.arange(len(part_row)) - np.repeat(np.cumsum(parts) - parts, parts)
    begin = (np.cumsum(counts) - counts)[part_row] + nth * widest
    held = np.minimum(counts[part_row] - nth * widest, widest)
    place = np.zeros(len(part_row), np.int64)  # of each part among the sums; 0: the row of zeros
    found, done, least = {}, 1, 0
    padded = np.append(order, zero)
    for width in widths:
        own = np.flatnonzero((held > least) & (held <= width))
        columns = np.arange(width)
        at = np.where(columns < held[own, None], begin[own, None] + columns, len(order))
        found[f"{name}_sum{width}"] = padded[at]
        place[own] = done + np.arange(len(own))
        done, least = done + len(own), width
    if not crowds:
        return {**found, f"{name}_rows": place}
    crowded = np.flatnonzero(parts > 1)
    most = int(parts.max()) if len(crowded) else 1
    first, columns = np.cumsum(parts) - parts, np.arange(most)
    at = np.minimum(first[crowded, None] + columns, len(place) - 1)
    crowd = np.where(columns < parts[crowded, None], place[at], 0)
    where = place[first]
    where[crowded] = done + np.arange(len(crowded))
    return {**found, f"{name}_rows": where, f"{name}_crowd": crowd}


def owners_of(arrays: Arrays, name: str, count: int, rows: int) -> Index:
    """Return the row (count,) that each summand of tables belongs to, -1 where to none: what `sum_tables` was given.

    That of the summand that is zero means nothing.
    """
    tables = [arrays[key] for key in arrays if key.startswith(f"{name}_sum")]
    stack = 1 + sum(len(table) for table in tables)
    crowd = arrays.get(f"{name}_crowd", np.zeros((0, 1), np.int64))
    row_of = np.full(stack + len(crowd), -1, np.int64)
    row_of[arrays[f"{name}_rows"]] = np.arange(rows)
    row_of[crowd] = row_of[stack:, None]
    row_of[0] = -1
    owner = np.full(count + 1, -1, np.int64)
    done = 1
    for table in tables:
        owner[table] = row_of[done : done + len(table), None]
        done += len(table)
    return owner[:count]
