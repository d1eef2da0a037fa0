"""Blocks that run from an exported graph: which crops of its leaves a graph has to be given to compute a part of its target.

The graph of a block holds the network's own operations and takes maps of any size. Given crops, an operation treats the
border of a crop as if it were the picture's: it pads there. So a crop begins and ends either where the picture does, and the
padding is right, or so far outside of what is wanted that nothing wrong gets in. Strides and enlargements have to fall on the
same pixels in a crop as in the picture: crops begin and end on a grid. A cell of it is a whole number of pixels in every map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from math import gcd, lcm
from typing import Any

from effvision.host.edit_axes import Axis, Pad, Span, as_data, from_data
from effvision.host.edit_blocks import REMEMBERED, Block, Walk

__all__ = ["CropBlock", "CropWalk", "MapCell", "block_data", "blocks_from_data"]


@dataclass(frozen=True, eq=False)
class MapCell:
    """One tensor of an exported network; see `effvision.host.edit_blocks.Cell`.

    Attributes:
        index, name, shape, inputs, axes, macs: As there.
        norm: Of a norm whose statistics the graph is given: groups of channels, and what is added to the variance.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    inputs: tuple[int, ...] = ()
    axes: tuple[tuple[Axis, Axis] | None, ...] = ()
    macs: float = 0.0
    norm: tuple[int, float] | None = None
    picture: bool = True

    @cached_property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.shape[2], self.shape[3]

    @cached_property
    def elements(self) -> int:
        """How many numbers it holds."""
        n, c, h, w = self.shape
        return n * c * h * w


@dataclass(frozen=True)
class CropWalk(Walk):
    """How one axis of a block is computed from crops.

    Attributes:
        skip: Pixels of what the graph gives that come before those asked for.
    """

    skip: int = 0


_Way = tuple[int, Callable[[int], int], int]
_Step = tuple[int, int | None, list[_Way]]


@dataclass(eq=False)
class _Grid:
    """One axis of a block.

    Attributes:
        units: Pixels of every value in one cell of the grid; None of a value that is always needed as a whole.
        sizes: Pixels of every value.
        cells: Of the whole grid.
        steps: For every member: its number, its unit, and for each input that is cut with it: its number, the length that the
            operation makes of it, and how many pixels it has to have more than.
    """

    units: dict[int, int | None]
    sizes: dict[int, int]
    cells: int
    steps: list[_Step]


@dataclass(eq=False)
class CropBlock(Block[MapCell]):
    """A block whose parts are computed by its graph.

    Raises:
        ValueError: two ways from one value to the target disagree, so that no crop fits both.
    """

    grids: tuple[_Grid, _Grid] = field(init=False)
    _crops: dict[tuple[int, int, int], CropWalk] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.grids = (self._grid(0), self._grid(1))

    def _grid(self, axis: int) -> _Grid:
        units = self._units(axis)
        sizes = {cell.index: cell.size[axis] for cell in (*self.leaves, *self.members)}
        steps: list[_Step] = []
        for cell in self.members:
            ways: list[_Way] = []
            for source, axes in zip(cell.inputs, cell.axes, strict=True):
                if axes is not None and units[source] is not None:
                    way = axes[axis]
                    mirrored = isinstance(way, Pad) and way.mode == "reflect"
                    least = max(way.before, way.m - way.n - way.before) if isinstance(way, Pad) and mirrored else 0
                    ways.append((source, way.length, least))
            steps.append((cell.index, units[cell.index], ways))
        cells = max(-(-sizes[index] // unit) for index, unit in units.items() if unit is not None)
        return _Grid(units, sizes, cells, steps)

    def _units(self, axis: int) -> dict[int, int | None]:
        paces: dict[int, Fraction | None] = {self.target.index: Fraction(1)}
        for value in reversed(self.members):
            here = paces[value.index]
            for source, axes in zip(value.inputs, value.axes, strict=True):
                pace = axes[axis].pace if axes is not None else None
                found = None if here is None or pace is None else here * pace
                if source in paces and paces[source] != found:
                    raise ValueError(f"`{value.name}` reads value {source} at another scale than the rest of its block")
                paces[source] = found
        known = [pace for pace in paces.values() if pace is not None]
        whole = lcm(*(pace.denominator for pace in known))
        common = gcd(*(int(pace * whole) for pace in known))
        return {index: None if pace is None else int(pace * whole) // common for index, pace in paces.items()}

    def walk(self, axis: int, lo: int, hi: int) -> CropWalk:
        """The crops of the leaves, and what the graph computes of every member, for pixels [lo, hi) of the target."""
        key = (axis, lo, hi)
        found = self._crops.get(key)
        if found is None:
            if len(self._crops) > REMEMBERED:
                self._crops.clear()
            found = self._crops[key] = self._crop(axis, lo, hi)
        return found

    def _crop(self, axis: int, lo: int, hi: int) -> CropWalk:
        need, _ = self.needs(axis, lo, hi)
        grid = self.grids[axis]
        first, last = grid.cells, 0
        for index, (a, b) in need.items():
            unit = grid.units[index]
            if unit is not None:
                first, last = min(first, a // unit), max(last, -(-b // unit))
        while True:
            spans = self._computed(grid, first, last)
            if (first == 0 and last >= grid.cells) or (spans and _enough(spans, need, grid.sizes)):
                break
            first, last = max(first - 1, 0), min(last + 1, grid.cells)
        if spans is None:
            spans = {index: (0, size) for index, size in grid.sizes.items()}
        leaves = tuple(spans[leaf.index] for leaf in self.leaves)
        lengths = tuple(spans[cell.index][1] - spans[cell.index][0] for cell in self.members)
        return CropWalk(leaves, lengths, (), 0, lo - spans[self.target.index][0])

    def _computed(self, grid: _Grid, first: int, last: int) -> dict[int, Span] | None:
        """What the graph makes of leaves cut to cells [first, last): the pixels of every value; None if they do not fit."""
        spans: dict[int, Span] = {}
        for leaf in self.leaves:
            unit, size = grid.units[leaf.index], grid.sizes[leaf.index]
            spans[leaf.index] = (0, size) if unit is None else (min(first * unit, size), min(last * unit, size))
        for index, unit, ways in grid.steps:
            if unit is None:
                spans[index] = (0, grid.sizes[index])
                continue
            length = 0
            for source, made_of, least in ways:
                a, b = spans[source]
                found = made_of(b - a)
                if b - a <= least or found < 1 or (length and found != length):
                    return None
                length = found
            spans[index] = (first * unit, first * unit + length)
        return spans


def _enough(spans: Mapping[int, Span], need: Mapping[int, Span], sizes: Mapping[int, int]) -> bool:
    """Whether all that is needed is computed, up to the picture's own end where that is needed."""
    for index, (lo, hi) in need.items():
        a, b = spans[index]
        if a > lo or b < hi or b > sizes[index] or (hi == sizes[index] and b != hi):
            return False
    return True


def block_data(block: Block[Any], numbers: Mapping[int, int], norms: Mapping[int, tuple[int, float]]) -> dict[str, Any]:
    """Write a block as plain data.

    Args:
        block: One that is not dense.
        numbers: The number in the file of every value it holds.
        norms: Of every value that is a norm whose statistics the graph is given: see `MapCell.norm`.

    Returns:
        `name` of the target; `leaves`, numbers; `members`: number, shape, multiply-adds, inputs, their axes, `MapCell.norm`.

    Raises:
        ValueError: an operation has no exact form.
    """
    members = []
    for value in block.members:
        axes = [None if pair is None else [as_data(pair[0]), as_data(pair[1])] for pair in value.axes]
        inputs = [numbers[source] for source in value.inputs]
        number = numbers[value.index]
        norm = norms.get(value.index)
        members.append([number, list(value.shape), round(value.macs), inputs, axes, norm and list(norm)])
    return {"name": block.target.name, "leaves": [numbers[leaf.index] for leaf in block.leaves], "members": members}


def blocks_from_data(data: Any, cells: dict[int, MapCell]) -> list[CropBlock]:
    """Read blocks; `cells` holds the inputs and is filled with what the blocks compute.

    Raises:
        ValueError, TypeError, KeyError, IndexError: the data are damaged.
    """
    blocks = []
    for one in data:
        members = []
        for number, shape, macs, inputs, axes, norm in one["members"]:
            n, c, h, w = (int(size) for size in shape)
            sources = [cells[source] for source in inputs]
            rules = tuple(
                None if pair is None else (from_data(pair[0], source.size[0], h), from_data(pair[1], source.size[1], w))
                for pair, source in zip(axes, sources, strict=True)
            )
            kept = None if norm is None else (int(norm[0]), float(norm[1]))
            name = one["name"] if number == one["members"][-1][0] else f"v{number}"
            cell = MapCell(int(number), str(name), (n, c, h, w), tuple(inputs), rules, float(macs), kept)
            cells[cell.index] = cell
            members.append(cell)
        leaves = [cells[number] for number in one["leaves"]]
        blocks.append(CropBlock(members[-1], members, leaves, dense=False))
    return blocks
