"""A network that, given an edited picture, computes again only what changed."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effvision.errors import InputError, RangeError, RuntimeFailure, StateError
from effvision.incremental.blocks import Block, choose_kept, make_blocks
from effvision.incremental.compute import Choice, Plan, choose, compute_parts, compute_whole, parts_of, slack
from effvision.incremental.costs import measured
from effvision.incremental.inputs import (
    as_tuple,
    changed_pixels,
    check_finite,
    check_inputs,
    check_mask,
    find_change,
    missed,
    share,
)
from effvision.incremental.journal import Journal, Maps, Step, patch
from effvision.incremental.keeping import apart, kept_maps, own, restored
from effvision.incremental.limits import Limit, Local, Published
from effvision.incremental.reference import ReferenceOptions, difference_mask
from effvision.incremental.regions import Mask, Rect, covered, paint, tidy
from effvision.incremental.report import PROMISES, Report, rows_of
from effvision.incremental.rules import Affine
from effvision.incremental.trace import Graph, packed, trace

__all__ = ["IncrementalNetwork", "Mode", "Update", "make_incremental"]

Mode = Literal["local", "exact", "frozen", "reference"]
GivenMask = Tensor | NDArray[np.bool_]


@dataclass(frozen=True)
class Update:
    """What one update gave.

    Attributes:
        output: What the network returns. Its tensors are the engine's own maps: the next update writes into them, so `clone()`
            what has to stay.
        changed: For every output picture, the rectangles (top, bottom, left, right) that were written; the whole for the first.
        macs: Multiply-adds computed.
        dense_macs: Those of a full pass.
        seconds: Time spent.
        how: For every block computed, by the name of its result: `dense` and perhaps why, or the number of rectangles or tiles.
        note: What there is to know about this update, such as an edit that reaches the whole picture.
    """

    output: Any
    changed: tuple[tuple[Rect, ...], ...]
    macs: float
    dense_macs: float
    seconds: float
    how: Mapping[str, str]
    note: str = ""

    @property
    def computed_fraction(self) -> float:
        """Multiply-adds computed, as a share of a full pass."""
        return self.macs / self.dense_macs if self.dense_macs else float(bool(self.how))


class IncrementalNetwork:
    """A network with a memory of one picture; made by `make_incremental`.

    One engine serves one picture at a time and one thread.

    Attributes:
        mode: How far a change is followed.
        promise: What that means for the picture, in a sentence.
        dense_macs: Multiply-adds of a full pass.
    """

    def __init__(
        self,
        graph: Graph,
        device: torch.device,
        *,
        mode: Mode,
        limit: Limit,
        plan: Plan,
        journal_bytes: int,
        promise: str,
    ) -> None:
        """See `make_incremental`."""
        self.mode, self.promise = mode, promise
        self._graph, self._device, self._limit, self._plan = graph, device, limit, plan
        self._kept = choose_kept(graph, every_convolution=mode == "reference")
        self._blocks = make_blocks(graph, self._kept)
        self._inputs = [graph.values[index] for index in graph.inputs]
        self._outputs = [graph.values[index] for index in graph.outputs]
        self.dense_macs = sum(value.macs for value in graph.values)
        floating = next((value.dtype for value in graph.values if value.dtype.is_floating_point), torch.float32)
        self._machine = measured(device, floating)
        self._slack = {block.target.index: slack(block, self._machine) for block in self._blocks}
        self._journal = Journal(journal_bytes)
        self._maps: Maps | None = None

    # --- pictures -----------------------------------------------------------------------------------------------------

    def __call__(self, *inputs: Tensor) -> Any:
        """`update(inputs).output`: the network's own signature."""
        return self.update(inputs).output

    def update(
        self, inputs: Tensor | Sequence[Tensor], mask: GivenMask | None = None, *, check: bool = False
    ) -> Update:
        """Take a picture: all of it the first time, then what differs from the last one.

        Args:
            inputs: What the network is called with: a tensor, or a tuple of tensors, of the example's shapes and dtypes.
            mask: (H, W) bool, True where the pictures of this size changed; what changed elsewhere is not seen. Without it the
                change is looked for.
            check: Look whether something changed that the mask misses.

        Raises:
            InputError: another number, shape or dtype of inputs, NaN, another shape of mask; or, with `check`, a change outside
                of the mask. Nothing was changed.
            RuntimeFailure: PyTorch failed, out of memory say. Everything is as it was before.
        """
        start = time.perf_counter()
        given = as_tuple(inputs)
        check_inputs(given, self._inputs, self._device)
        with torch.no_grad():
            if self._maps is None:
                return self._first(given, start)
            changes = self._changes(given, mask, check=check)
            if not any(changes.values()):
                return Update(self.output, ((),) * len(self._outputs), 0.0, self.dense_macs, _since(start), {})
            return self._edit(given, changes, start)

    @property
    def output(self) -> Any:
        """What the network returns for the picture as it is now.

        Raises:
            StateError: there is no picture yet.
        """
        maps = self._present()
        return packed(self._graph, [maps[value.index] for value in self._outputs])

    def reset(self) -> None:
        """Forget the picture; the next one is computed in full, and gives the statistics that norms keep."""
        self._maps = None
        self._journal = Journal(self._journal.limit_bytes)

    # --- steps --------------------------------------------------------------------------------------------------------

    @property
    def can_undo(self) -> int:
        """How many updates can be undone."""
        return self._journal.can_undo

    @property
    def can_redo(self) -> int:
        """How many undone updates can be done again."""
        return self._journal.can_redo

    def checkpoint(self) -> int:
        """Return a mark of the picture as it is now, for `undo(to=mark)`."""
        self._present()
        return self._journal.position

    def undo(self, to: int | None = None) -> Any:
        """Go back one update, or to a mark; return the output, bit for bit what it was.

        Raises:
            StateError: there is no picture, or that update is no longer known.
        """
        maps = self._present()
        with torch.no_grad():
            self._journal.back(self._journal.position - 1 if to is None else to, maps.swap)
        return self.output

    def redo(self) -> Any:
        """Do the update undone last again; return the output.

        Raises:
            StateError: there is none.
        """
        maps = self._present()
        with torch.no_grad():
            self._journal.forward(maps.swap)
        return self.output

    def commit(self) -> None:
        """Forget what could be undone and redone, and its memory; the picture stays."""
        self._present()
        self._journal.forget()

    @property
    def cache_bytes(self) -> int:
        """What the kept maps take now; 0 before the first picture."""
        return 0 if self._maps is None else self._maps.bytes

    @property
    def journal_bytes(self) -> int:
        """What undo and redo take now."""
        return self._journal.bytes

    # --- what it does -------------------------------------------------------------------------------------------------

    @property
    def report(self) -> Report:
        """What is computed how, what is kept, and what it takes."""
        kept = sum(value.bytes for value in self._graph.values if value.index in self._kept)
        made = sum(value.bytes for value in self._graph.values)
        held, limit = self._journal.bytes, self._journal.limit_bytes
        return Report(
            self.mode, self.promise, rows_of(self._graph, self._kept), kept, made, held, limit, self.dense_macs
        )

    # --- more of them -------------------------------------------------------------------------------------------------

    def another(self, *, journal_bytes: int | None = None) -> IncrementalNetwork:
        """Return an engine of the same network and mode without a picture; weights are shared, nothing is traced again.

        It may run in another thread beside this one.
        """
        return IncrementalNetwork(
            apart(self._graph),
            self._device,
            mode=self.mode,
            limit=copy.copy(self._limit),
            plan=self._plan,
            journal_bytes=self._journal.limit_bytes if journal_bytes is None else journal_bytes,
            promise=self.promise,
        )

    def kept(self) -> dict[str, Tensor]:
        """The maps kept besides the inputs, by name: what `restore` takes. They are the engine's own, not copies."""
        return {} if self._maps is None else kept_maps(self._graph, self._kept, self._maps)

    def restore(self, inputs: Tensor | Sequence[Tensor], kept: Mapping[str, Tensor]) -> Any:
        """Take up a picture again from its inputs and what `kept` gave; nothing is computed. Return the output.

        Raises:
            InputError: inputs that do not fit.
            StateError: maps of another network or mode. Nothing was changed.
        """
        given = as_tuple(inputs)
        check_inputs(given, self._inputs, self._device)
        self._maps = restored(self._graph, self._kept, given, kept, self._device)
        self._journal = Journal(self._journal.limit_bytes)
        return self.output

    # --- inside -------------------------------------------------------------------------------------------------------

    def _present(self) -> Maps:
        if self._maps is None:
            raise StateError("there is no picture yet\nhint: call update(inputs) first")
        return self._maps

    def _first(self, given: Sequence[Tensor], start: float) -> Update:
        """The full pass."""
        maps = Maps()
        for value, tensor in zip(self._inputs, given, strict=True):
            check_finite(tensor, value.name)
            maps.replace(value.index, own(tensor), None)
        for index, tensor in self._graph.constants.items():
            maps.replace(index, tensor, None)
        for value in self._graph.values:
            if isinstance(value.rule, Affine):
                value.rule.scale = None
        for block in self._blocks:
            maps.replace(block.target.index, compute_whole(block, maps), None)
        self._maps = maps
        changed = tuple(((0, value.size[0], 0, value.size[1]),) for value in self._outputs)
        how = {block.target.name: "dense" for block in self._blocks}
        return Update(self.output, changed, self.dense_macs, self.dense_macs, _since(start), how)

    def _changes(self, given: Sequence[Tensor], mask: GivenMask | None, *, check: bool) -> dict[int, list[Rect]]:
        """The rectangles of every input that changed."""
        maps = self._present()
        sizes = {value.size for value in self._inputs if value.picture}
        known: Mask | None = None
        if mask is not None:
            size = tuple(mask.shape) if tuple(mask.shape) in sizes else max(sizes, default=(1, 1))
            known = check_mask(mask, size[0], size[1])
        changes = {}
        for value, tensor in zip(self._inputs, given, strict=True):
            before = maps[value.index]
            fits = known is not None and value.picture and known.shape == value.size
            rects = find_change(before, tensor, known if fits else None)
            changes[value.index] = rects
            if fits and check and (left := missed(before, tensor, rects)):
                raise InputError(
                    f"{left} pixels of input `{value.name}` changed outside of the mask\n"
                    "hint: give a mask that covers every change, or none: then it is found"
                )
            for rect in rects:
                check_finite(patch(tensor, rect) if value.picture else tensor, value.name)
        return changes

    def _edit(self, given: Sequence[Tensor], changes: dict[int, list[Rect]], start: float) -> Update:
        """Patch the inputs and what follows from them; all of it or, after an exception, nothing."""
        maps = self._present()
        step = Step()
        try:
            masks = self._masks(given, changes)
            for value, tensor in zip(self._inputs, given, strict=True):
                for rect in changes[value.index]:
                    if rect == (0, value.size[0], 0, value.size[1]):
                        maps.replace(value.index, own(tensor), step)
                    else:
                        maps.write(value.index, rect, patch(tensor, rect), step)
            self._limit.begin(changes, share(changes, self._inputs), masks)
            how, macs = self._follow(changes, maps, step)
        except BaseException as error:
            maps.take_back(step)
            if isinstance(error, RuntimeError) and not isinstance(error, RuntimeFailure):
                raise RuntimeFailure(f"PyTorch failed during an update, which was taken back: {error}") from error
            raise
        self._journal.note(step)
        written = tuple(tuple(changes.get(value.index, ())) for value in self._outputs)
        return Update(self.output, written, macs, self.dense_macs, _since(start), how, self._note(how, written))

    def _masks(self, given: Sequence[Tensor], changes: dict[int, list[Rect]]) -> list[Mask]:
        """Difference masks of the changed pictures, where the mode asks for them."""
        if not isinstance(self._limit, Published):
            return []
        epsilon, found = self._limit.options.epsilon, []
        for value, tensor in zip(self._inputs, given, strict=True):
            if value.picture and changes[value.index]:
                before = self._present()[value.index]
                differs = changed_pixels if not value.dtype.is_floating_point or value.shape[0] > 1 else None
                found.append(differs(before, tensor) if differs else difference_mask(before, tensor, epsilon))
        return found

    def _follow(self, changes: dict[int, list[Rect]], maps: Maps, step: Step) -> tuple[dict[str, str], float]:
        """Compute every block that the changes reach; `changes` grows by what they changed."""
        how: dict[str, str] = {}
        macs = 0.0
        for block in self._blocks:
            reached = [
                found
                for leaf in block.leaves
                for rect in changes.get(leaf.index, ())
                if (found := block.reaches(leaf, rect))
            ]
            if not reached:
                continue
            choice, rects = self._choose(block, reached)
            if not rects:
                continue
            name, index = block.target.name, block.target.index
            if choice.how == "dense":
                maps.replace(index, compute_whole(block, maps), step)
                macs += block.macs
                how[name] = f"dense: {block.reason}" if block.dense else "dense"
            else:
                compute_parts(block, choice, maps, step)
                macs += parts_of(block, choice.parts)[0]
                how[name] = (
                    f"{len(choice.parts)} {choice.how if len(choice.parts) > 1 else choice.how.removesuffix('s')}"
                )
            changes[index] = rects
        return how, macs

    def _choose(self, block: Block, reached: list[Rect]) -> tuple[Choice, list[Rect]]:
        """How to compute a block, and the rectangles that change by it."""
        h, w = block.target.size
        if self.mode == "reference" and not block.dense:
            parts = self._limit.part(block, reached)
            if parts == [block.whole]:
                return Choice("dense", parts, 0.0), parts
            active = parts is not reached and block.target.shape[0] == 1
            rects = parts if parts is not reached else tidy(parts, h, w, self._slack[block.target.index])
            return Choice("tiles" if active else "rectangles", rects, 0.0), rects
        rects = tidy(self._limit.part(block, reached), h, w, self._slack[block.target.index])
        if block.dense or not rects:
            return Choice("dense", [block.whole], 0.0), [block.whole] if rects else []
        tiled = all(not leaf.picture or leaf.shape[0] == 1 for leaf in block.leaves)
        return choose(block, rects, self._machine, self._plan, tiled=tiled), rects

    def _note(self, how: Mapping[str, str], written: tuple[tuple[Rect, ...], ...]) -> str:
        """Say where an edit did not stay small."""
        for value, rects in zip(self._outputs, written, strict=True):
            h, w = value.size
            if value.picture and covered(rects, h, w) >= 0.9 * h * w:
                lost = [f"`{name}` is computed {text}" for name, text in how.items() if text.startswith("dense: ")]
                return "the edit reaches (nearly) all of the output" + (f"; {lost[0]}" if lost else "")
        return ""

    def changed_mask(self, update: Update, output: int = 0) -> Mask:
        """The pixels of an output picture that an update wrote, (H, W) bool."""
        return paint(update.changed[output], *self._outputs[output].size)


def _since(start: float) -> float:
    return time.perf_counter() - start


def make_incremental(
    network: torch.nn.Module,
    example_input: Tensor | Sequence[Tensor],
    *,
    mode: Mode = "local",
    halo: int = 2,
    plan: Plan = "auto",
    journal_bytes: int = 256 << 20,
    reference: ReferenceOptions | None = None,
) -> IncrementalNetwork:
    """Make an ordinary network incremental: give it a picture, edit the picture, and only what changed is computed again.

    Args:
        network: Any module in eval mode whose operations `torch.export` can follow. It is not changed; its weights are shared,
            so an engine has to be made anew after training.
        example_input: A tensor, or a tuple of those the network takes: sizes, batch and dtypes are those of all later inputs.
        mode: `exact`: equal to the full pass. `frozen`: equal to the full pass whose instance and group norms keep the
            statistics of the first picture. `local`: each block computes only the edit, carried to its resolution and grown
            by `halo`; approximate. `reference`: the published engine's masks and blocks; approximate.
        halo: Pixels of each block's own map, for mode `local`; 2 is what the published engine grows its masks by.
        plan: `auto` chooses for every block what is cheapest here; `dense`, `rectangles` and `tiles` force it.
        journal_bytes: What undo and redo may take; beyond it the oldest steps are forgotten.
        reference: Settings of mode `reference`.

    Raises:
        InputError: the network is in training mode, draws random numbers, branches on values or cannot be followed; an unknown
            mode or plan.
        RangeError: a negative halo or journal.
    """
    if mode not in get_args(Mode):
        raise InputError(f"mode {mode!r} is unknown\nhint: one of {', '.join(get_args(Mode))}")
    if plan not in get_args(Plan):
        raise InputError(f"plan {plan!r} is unknown\nhint: one of {', '.join(get_args(Plan))}")
    if halo < 0 or journal_bytes < 0:
        raise RangeError(f"halo = {halo}, journal_bytes = {journal_bytes}\nhint: neither can be negative")
    example = as_tuple(example_input)
    with torch.no_grad():
        graph = trace(network, example, frozen=mode != "exact")
    limit = Local(halo) if mode == "local" else Limit()
    if mode == "reference":
        limit = Published(reference or ReferenceOptions())
    return IncrementalNetwork(
        graph,
        example[0].device,
        mode=mode,
        limit=limit,
        plan=plan,
        journal_bytes=journal_bytes,
        promise=PROMISES[mode].format(halo=halo),
    )
