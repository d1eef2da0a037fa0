"""A network that, given an edited picture, computes again only what changed: the engine in torch."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effvision.errors import InputError, RangeError
from effvision.host.edit_costs import Choice, Machine, Plan, parts_of
from effvision.host.edit_engine import PROMISES, Editing, Update
from effvision.host.edit_journal import Step
from effvision.host.edit_limits import Limit, Local
from effvision.host.regions import Mask, Rect, tidy
from effvision.incremental.blocks import NetworkBlock, choose_kept, make_blocks
from effvision.incremental.compute import compute_parts, compute_whole
from effvision.incremental.costs import measured
from effvision.incremental.inputs import (
    as_mask,
    as_tuple,
    changed_pixels,
    check_finite,
    check_inputs,
    find_change,
    missed,
)
from effvision.incremental.journal import Maps
from effvision.incremental.keeping import apart, kept_maps, own, restored
from effvision.incremental.limits import Published
from effvision.incremental.reference import ReferenceOptions, difference_mask
from effvision.incremental.report import Report, rows_of
from effvision.incremental.rules import Affine
from effvision.incremental.trace import Graph, packed, trace

__all__ = ["IncrementalNetwork", "Mode", "Update", "make_incremental"]

Mode = Literal["local", "exact", "frozen", "reference"]
_HALO = 2  # what the published engine grows its masks by


class IncrementalNetwork(Editing[NetworkBlock]):
    """A network with a memory of one picture; made by `make_incremental`.

    One engine serves one picture at a time and one thread.

    Attributes:
        mode: How far a change is followed.
    """

    mode: Mode
    failures = (RuntimeError,)
    back_end = "PyTorch"

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
        machine: Machine | None = None,
    ) -> None:
        """See `make_incremental`; `machine` is what things cost, if that is not to be measured."""
        self._graph, self._device = graph, device
        self._kept = choose_kept(graph, every_convolution=mode == "reference")
        floating = next((value.dtype for value in graph.values if value.dtype.is_floating_point), torch.float32)
        super().__init__(
            make_blocks(graph, self._kept),
            [graph.values[index] for index in graph.inputs],
            [graph.values[index] for index in graph.outputs],
            mode=mode,
            promise=promise,
            limit=limit,
            plan=plan,
            machine=machine or measured(device, floating),
            journal_bytes=journal_bytes,
        )
        self.dense_macs = sum(value.macs for value in graph.values)

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

    def serves(self, mode: Mode) -> bool:
        """Whether `another` can have this mode: `exact` treats norms with statistics of the picture unlike the others."""
        if mode == self.mode or "exact" not in (mode, self.mode):
            return True
        return self.mode != "exact" and not any(isinstance(value.rule, Affine) for value in self._graph.values)

    def another(self, *, mode: Mode | None = None, journal_bytes: int | None = None) -> IncrementalNetwork:
        """Return an engine of the same network without a picture; weights are shared, nothing is traced again.

        It may run in another thread beside this one.

        Args:
            mode: Default: this one's. Another one has its usual halo or settings.
            journal_bytes: Default: this one's.

        Raises:
            InputError: an unknown mode, or one that this network has to be traced for; see `serves`.
            RangeError: a negative journal.
        """
        same = mode is None or mode == self.mode
        journal = self._journal.limit_bytes if journal_bytes is None else journal_bytes
        wanted = _checked(mode or self.mode, self._plan, _HALO, journal)
        if not self.serves(wanted):
            raise InputError(
                f"an engine of mode {self.mode!r} cannot give one of mode {wanted!r}: this network has norms with statistics "
                "of the picture\nhint: make_incremental(network, example, mode=...)"
            )
        return IncrementalNetwork(
            apart(self._graph),
            self._device,
            mode=wanted,
            limit=copy.copy(self._limit) if same else _limit(wanted, _HALO, None),
            plan=self._plan,
            journal_bytes=journal,
            promise=self.promise if same else PROMISES[wanted].format(halo=_HALO),
            machine=self._machine,
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
        given = self._given(inputs)
        with self._quiet():
            self._maps = restored(self._graph, self._kept, given, kept, self._device)
        self._journal.restart()
        return self.output

    # --- inside -------------------------------------------------------------------------------------------------------

    def _given(self, inputs: Any) -> tuple[Tensor, ...]:
        given = as_tuple(inputs)
        check_inputs(given, [self._graph.values[index] for index in self._graph.inputs], self._device)
        return given

    def _check_finite(self, array: Tensor, name: str) -> None:
        check_finite(array, name)

    def _mask(self, mask: Any) -> NDArray[np.bool_]:
        return as_mask(mask)

    def _find(self, before: Tensor, after: Tensor, mask: Mask | None) -> list[Rect]:
        return find_change(before, after, mask)

    def _missed(self, before: Tensor, after: Tensor, rects: Sequence[Rect]) -> int:
        return missed(before, after, rects)

    def _own(self, array: Tensor) -> Tensor:
        return own(array)

    def _begin(self) -> Maps:
        maps = Maps()
        for index, tensor in self._graph.constants.items():
            maps.replace(index, tensor, None)
        for value in self._graph.values:
            if isinstance(value.rule, Affine):
                value.rule.scale = None
        return maps

    def _whole(self, block: NetworkBlock, maps: Any) -> Tensor:
        return compute_whole(block, maps)

    def _compute(self, block: NetworkBlock, choice: Choice, maps: Any, step: Step) -> None:
        compute_parts(block, choice, maps, step)

    def _packed(self, outputs: list[Tensor]) -> Any:
        return packed(self._graph, outputs)

    def _quiet(self) -> AbstractContextManager[Any]:
        return _without_gradients()

    def _masks(self, given: Sequence[Tensor], changes: Mapping[int, list[Rect]]) -> list[Mask]:
        """Difference masks of the changed pictures, where the mode asks for them."""
        if not isinstance(self._limit, Published):
            return []
        epsilon, found = self._limit.options.epsilon, []
        for value, tensor in zip(self._inputs, given, strict=True):
            if value.picture and changes[value.index]:
                before = self._present()[value.index]
                differs = changed_pixels if not before.dtype.is_floating_point or value.shape[0] > 1 else None
                found.append(differs(before, tensor) if differs else difference_mask(before, tensor, epsilon))
        return found

    def _choose(self, block: NetworkBlock, reached: list[Rect]) -> tuple[Choice, list[Rect]]:
        """How to compute a block, and the rectangles that change by it."""
        if self.mode != "reference" or block.dense:
            return super()._choose(block, reached)
        parts = self._limit.part(block, reached)
        if parts == [block.whole]:
            return Choice("dense", parts, 0.0, block.macs), parts
        active = parts is not reached and block.target.shape[0] == 1
        rects = parts if parts is not reached else tidy(parts, *block.target.size, self._slack[block.target.index])
        return Choice("tiles" if active else "rectangles", rects, 0.0, parts_of(block, rects)[0]), rects


@contextmanager
def _without_gradients() -> Iterator[None]:
    """No gradients, and ordinary tensors: those of a caller's `torch.inference_mode` could not be written to outside of it.

    No autocast either: what is kept would have the dtypes of the call in which it was computed.
    """
    with ExitStack() as inside:
        inside.enter_context(torch.inference_mode(False))
        inside.enter_context(torch.no_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                inside.enter_context(torch.autocast(kind, enabled=False))
        yield


def _checked(mode: Mode, plan: str, halo: int, journal_bytes: int) -> Mode:
    """Refuse settings that cannot be; return the mode."""
    if mode not in get_args(Mode):
        raise InputError(f"mode {mode!r} is unknown\nhint: one of {', '.join(get_args(Mode))}")
    if plan not in get_args(Plan):
        raise InputError(f"plan {plan!r} is unknown\nhint: one of {', '.join(get_args(Plan))}")
    if halo < 0 or journal_bytes < 0:
        raise RangeError(f"halo = {halo}, journal_bytes = {journal_bytes}\nhint: neither can be negative")
    return mode


def _limit(mode: Mode, halo: int, reference: ReferenceOptions | None) -> Limit:
    """How far a mode follows a change."""
    if mode == "reference":
        return Published(reference or ReferenceOptions())
    return Local(halo) if mode == "local" else Limit()


def make_incremental(
    network: torch.nn.Module,
    example_input: Tensor | Sequence[Tensor],
    *,
    mode: Mode = "local",
    halo: int = _HALO,
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
    _checked(mode, plan, halo, journal_bytes)
    example = as_tuple(example_input)
    with torch.no_grad():
        graph = trace(network, example, frozen=mode != "exact")
    return IncrementalNetwork(
        graph,
        example[0].device,
        mode=mode,
        limit=_limit(mode, halo, reference),
        plan=plan,
        journal_bytes=journal_bytes,
        promise=PROMISES[mode].format(halo=halo),
    )
