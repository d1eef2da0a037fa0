"""Edits a picture with an exported network: computes again only what changed, with NumPy and whatever runs the graph.

The file's description says how its blocks hang together (`edit_data`), and its graph computes any block from any crops. The
graph is one, with an `If` for every block: a call computes those whose switch is on and skips the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from effvision.errors import InputError, ModelFileError, RangeError, StateError
from effvision.host.edit_axes import Span
from effvision.host.edit_blocks import Block
from effvision.host.edit_costs import Choice, Machine, Plan
from effvision.host.edit_crops import CropBlock, MapCell, block_data, blocks_from_data
from effvision.host.edit_engine import PROMISES, Editing
from effvision.host.edit_inputs import check_arrays, check_finite, find_change, missed
from effvision.host.edit_journal import Journal, Maps, Step, patch
from effvision.host.edit_limits import Limit, Local
from effvision.host.regions import Mask, Rect

__all__ = [
    "EDITS",
    "ExportedNetwork",
    "Run",
    "edit_data",
    "leaf_name",
    "norm_names",
    "numbering",
    "shown_name",
    "switch_name",
    "target_name",
]

Run = Callable[[Mapping[str, NDArray[Any]], Sequence[str]], Sequence[NDArray[Any]]]
"""Runs the graph on all its inputs, by name; returns the outputs asked for."""
EDITS = "edits"
"""Key of the blocks' description among the options of a file's description."""
_FORMAT = 1
_MODES = Literal["local", "exact", "frozen"]
# What things cost ONNX Runtime relative to each other, on one thread of a processor with AVX2. Only ratios matter.
_MACHINE = Machine(mac_s=1.2e-11, element_s=2.5e-10, kept_s=2.5e-10, call_s=5e-6, tile_factor=2.0)


def switch_name(target: int) -> str:
    """The graph's input that says whether a block is computed: a bool without axes."""
    return f"do_{target}"


def leaf_name(target: int, leaf: int) -> str:
    """The graph's input that takes a crop of a block's leaf."""
    return f"x_{target}_{leaf}"


def target_name(target: int) -> str:
    """The graph's output that gives a block's target, all of it that its crops allow."""
    return f"y_{target}"


def norm_names(norm: int) -> tuple[str, str]:
    """The graph's inputs that take scale and shift of a norm, (N, C, 1, 1)."""
    return f"scale_{norm}", f"shift_{norm}"


def shown_name(value: int) -> str:
    """The graph's output that gives what a norm normalises, a value inside of a block."""
    return f"in_{value}"


def numbering(blocks: Sequence[Block[Any]], inputs: Sequence[Any]) -> dict[int, int]:
    """The number in the file of every value, by its own."""
    numbers: dict[int, int] = {}
    for value in (*inputs, *(value for block in blocks for value in block.members)):
        numbers.setdefault(value.index, len(numbers))
    return numbers


def edit_data(
    blocks: Sequence[Block[Any]],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    names: tuple[Sequence[str], Sequence[str]],
    norms: Mapping[int, tuple[int, float]],
) -> dict[str, Any]:
    """Write a network's blocks as plain data for the file's description.

    Args:
        blocks: In an order in which they can be computed; none dense.
        inputs: Values of the network.
        outputs: Likewise.
        names: Those by which inputs and outputs are known outside.
        norms: Of every value that is a norm whose statistics the graph is given: groups of channels, and what is added to the
            variance.

    Raises:
        ValueError: an operation has no exact form.
    """
    numbers = numbering(blocks, inputs)
    return {
        "format": _FORMAT,
        "inputs": [
            [numbers[value.index], name, list(value.shape)] for value, name in zip(inputs, names[0], strict=True)
        ],
        "outputs": [[numbers[value.index], name] for value, name in zip(outputs, names[1], strict=True)],
        "blocks": [block_data(block, numbers, norms) for block in blocks],
    }


class ExportedNetwork(Editing[CropBlock]):
    """The engine for exported files: methods and meaning as `effvision.incremental.IncrementalNetwork`, arrays for tensors.

    One engine serves one picture at a time and one thread.

    Attributes:
        mode: How far a change is followed.
        cells: The inputs, and the outputs by name.
    """

    failures = (RuntimeError, MemoryError)
    back_end = "the graph's runtime"

    def __init__(
        self,
        data: Mapping[str, Any],
        run: Run,
        *,
        mode: str = "local",
        halo: int = 2,
        plan: Plan = "auto",
        journal_bytes: int = 256 << 20,
        machine: Machine = _MACHINE,
    ) -> None:
        """Make an engine without a picture.

        Args:
            data: By `edit_data`.
            run: Runs the graph.
            mode: `exact`: equal to the full pass. `frozen`: equal to the full pass whose instance and group norms keep the
                statistics of the first picture. `local`: each block computes only the edit, carried to its resolution and
                grown by `halo`; approximate.
            halo: Pixels of each block's own map, for mode `local`.
            plan: `auto` chooses for every block what is cheapest; `dense`, `rectangles` and `tiles` force it.
            journal_bytes: What undo and redo may take; beyond it the oldest steps are forgotten.
            machine: What things cost.

        Raises:
            InputError: a mode or plan that this network or engine does not have.
            RangeError: a negative halo or journal.
            ModelFileError: the data are damaged or of a newer format.
        """
        inputs, outputs, blocks = _read(data)
        self.cells: tuple[tuple[MapCell, ...], dict[str, MapCell]] = (tuple(inputs), outputs)
        normed = [cell for block in blocks for cell in block.members if cell.norm]
        _check_choice(mode, plan, halo, journal_bytes, normed=bool(normed))
        limit = Local(halo) if mode == "local" else Limit()
        super().__init__(
            blocks,
            inputs,
            list(outputs.values()),
            mode=mode,
            promise=PROMISES[mode].format(halo=halo),
            limit=limit,
            plan=plan,
            machine=machine,
            journal_bytes=journal_bytes,
        )
        self._run = run
        self._statistics: dict[str, NDArray[Any]] = {}
        self._idle: dict[str, NDArray[Any]] = {}
        for block in blocks:
            self._idle[switch_name(block.target.index)] = np.array(False)
            for leaf in block.leaves:
                name = leaf_name(block.target.index, leaf.index)
                self._idle[name] = np.zeros((*leaf.shape[:2], 1, 1), np.float32)
        for cell in normed:
            scale, shift = norm_names(cell.index)
            self._statistics[scale] = np.ones((*cell.shape[:2], 1, 1), np.float32)
            self._statistics[shift] = np.zeros((*cell.shape[:2], 1, 1), np.float32)

    # --- a picture taken out and put in again -------------------------------------------------------------------------

    def kept(self) -> dict[str, NDArray[Any]]:
        """The maps kept besides the inputs, and the statistics that norms keep, by name; the engine's own, not copies."""
        if self._maps is None:
            return {}
        maps = {block.target.name: self._maps[block.target.index] for block in self._blocks}
        return {**maps, **self._statistics}

    def restore(self, inputs: Any, kept: Mapping[str, NDArray[Any]]) -> Any:
        """Take up a picture again from its inputs and what `kept` gave; nothing is computed. Return the output.

        Raises:
            InputError: inputs that do not fit.
            StateError: maps of another network or engine. Nothing was changed.
        """
        given = self._given(inputs)
        wanted = {block.target.name: block.target.shape for block in self._blocks}
        wanted |= {name: array.shape for name, array in self._statistics.items()}
        if set(kept) != set(wanted):
            odd = sorted(set(kept) ^ set(wanted))
            raise StateError(f"these are the maps of another network or engine: they differ in {', '.join(odd[:4])}")
        for name, shape in wanted.items():
            if kept[name].shape != shape or kept[name].dtype != np.float32:
                raise StateError(
                    f"`{name}` is {kept[name].shape} {kept[name].dtype}; this network's is {shape} float32"
                )
        maps = Maps()
        for cell, array in zip(self._inputs, given, strict=True):
            maps.replace(cell.index, self._own(array), None)
        for block in self._blocks:
            maps.replace(block.target.index, self._own(kept[block.target.name]), None)
        self._statistics = {name: self._own(kept[name]) for name in self._statistics}
        self._maps, self._journal = maps, Journal(self._journal.limit_bytes)
        return self.output

    # --- inside -------------------------------------------------------------------------------------------------------

    def _given(self, inputs: Any) -> tuple[NDArray[np.float32], ...]:
        return check_arrays(inputs, self._inputs)

    def _check_finite(self, array: NDArray[Any], name: str) -> None:
        check_finite(array, name)

    def _mask(self, mask: Any) -> NDArray[Any]:
        return np.asarray(mask)

    def _find(self, before: NDArray[Any], after: NDArray[Any], mask: Mask | None) -> list[Rect]:
        return find_change(before, after, mask)

    def _missed(self, before: NDArray[Any], after: NDArray[Any], rects: Sequence[Rect]) -> int:
        return missed(before, after, rects)

    def _own(self, array: NDArray[Any]) -> NDArray[Any]:
        return np.array(array, order="C")

    def _begin(self) -> Maps:
        return Maps()

    def _packed(self, outputs: list[NDArray[Any]]) -> Any:
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _tiled(self, block: CropBlock) -> bool:
        """Tiles are a call each here, and worth it only where they are asked for."""
        return self._plan == "tiles"

    def _whole(self, block: CropBlock, maps: Maps) -> NDArray[Any]:
        leaves = [maps[leaf.index] for leaf in block.leaves]
        if self._maps is None:  # the first picture gives the statistics, one norm after the other
            for cell in block.members:
                if cell.norm:
                    scale, shift = norm_names(cell.index)
                    source = cell.inputs[0]
                    inside = all(source != leaf.index for leaf in block.leaves)
                    found = self._call(block, leaves, shown_name(source)) if inside else maps[source]
                    self._statistics[scale], self._statistics[shift] = _statistics(found, *cell.norm)
        target = self._call(block, leaves, target_name(block.target.index))
        shared = any(np.may_share_memory(target, leaf) for leaf in leaves)
        return np.array(target) if shared or not target.flags.writeable else target

    def _compute(self, block: CropBlock, choice: Choice, maps: Maps, step: Step) -> None:
        name = target_name(block.target.index)
        for part in choice.parts:
            rows, columns = block.walk(0, part[0], part[1]), block.walk(1, part[2], part[3])
            spans = zip(block.leaves, rows.leaves, columns.leaves, strict=True)
            found = self._call(block, [_cut(maps[leaf.index], down, across) for leaf, down, across in spans], name)
            top, left = rows.skip, columns.skip
            wanted = (top, top + part[1] - part[0], left, left + part[3] - part[2])
            maps.write(block.target.index, part, patch(found, wanted), step)

    def _call(self, block: CropBlock, leaves: Sequence[NDArray[Any]], wanted: str) -> NDArray[Any]:
        target = block.target.index
        feed = {**self._idle, **self._statistics, switch_name(target): np.array(True)}
        for leaf, array in zip(block.leaves, leaves, strict=True):
            feed[leaf_name(target, leaf.index)] = array
        return np.asarray(self._run(feed, [wanted])[0])


def _cut(array: NDArray[Any], rows: Span, columns: Span) -> NDArray[Any]:
    """A crop of a map, in one piece of memory as graphs take it."""
    return np.ascontiguousarray(patch(array, (*rows, *columns)))


def _statistics(x: NDArray[Any], groups: int, epsilon: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale and shift (N, C, 1, 1) that normalise x (N, C, H, W) over groups of its channels."""
    n, c = x.shape[:2]
    rows = x.reshape(n, groups, -1).astype(np.float64)
    scale = 1.0 / np.sqrt(rows.var(axis=2) + epsilon)
    shift = -rows.mean(axis=2) * scale
    scale, shift = (np.repeat(value, c // groups, axis=1).reshape(n, c, 1, 1) for value in (scale, shift))
    return scale.astype(np.float32), shift.astype(np.float32)


def _check_choice(mode: str, plan: str, halo: int, journal_bytes: int, *, normed: bool) -> None:
    if mode == "reference":
        raise InputError(
            "mode 'reference' (the published masks and blocks) needs the network itself, not an exported file\n"
            "hint: load the card with runtime='torch' (--runtime torch), or use mode 'local'"
        )
    if mode not in get_args(_MODES):
        raise InputError(f"mode {mode!r} is unknown\nhint: one of {', '.join(get_args(_MODES))}")
    if mode == "exact" and normed:
        raise InputError(
            "mode 'exact' would compute everything for every edit: this network has instance or group norms, whose "
            "statistics hang on the whole picture\nhint: mode 'frozen' keeps the statistics of the first picture"
        )
    if plan not in get_args(Plan):
        raise InputError(f"plan {plan!r} is unknown\nhint: one of {', '.join(get_args(Plan))}")
    if halo < 0 or journal_bytes < 0:
        raise RangeError(f"halo = {halo}, journal_bytes = {journal_bytes}\nhint: neither can be negative")


def _read(data: Mapping[str, Any]) -> tuple[list[MapCell], dict[str, MapCell], list[CropBlock]]:
    """Read what `edit_data` wrote: inputs, outputs and blocks."""
    try:
        if int(data["format"]) > _FORMAT:
            raise ModelFileError(
                f"the file's blocks are of format {data['format']}, this effvision reads up to {_FORMAT}\n"
                "hint: pip install --upgrade effvision"
            )
        cells: dict[int, MapCell] = {}
        inputs = []
        for number, name, (n, c, h, w) in data["inputs"]:
            cells[number] = MapCell(int(number), str(name), (int(n), int(c), int(h), int(w)))
            inputs.append(cells[number])
        blocks = blocks_from_data(data["blocks"], cells)
        return inputs, {str(name): cells[number] for number, name in data["outputs"]}, blocks
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise ModelFileError(
            f"the description of the network's blocks is damaged ({type(error).__name__}: {error})\n"
            "hint: export the model again"
        ) from error
